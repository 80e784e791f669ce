"""Reading, merging, locating and decoding configs: every problem at once, each with its place, its key and what was expected."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_core.cli.main import main
from ernie_core.config.base import Config, From, Selection, recheck
from ernie_core.config.load import from_plain, load_config, to_plain, to_table
from ernie_core.config.locate import locate
from ernie_core.config.run import ModelTable, SamplesTable, TrainConfig
from ernie_core.config.toml import to_toml
from ernie_core.errors import ConfigError
from ernie_core.plugins.host import PluginHost
from ernie_core.testing.plugin_folder import PluginFolder, plugins_in

SOURCE = """
class Deep(Config):
    width: int = 3
    rate: float = 0.5
class Options(Config):
    path: str
    loss: Annotated[Selection, From("losses")] = Selection("mse")
    extra: tuple[Annotated[Selection, From("losses")], ...] = ()
    maybe: Annotated[Selection, From("losses")] | None = None
    limit: int | None = 5
    deep: Deep = Deep()
    by_name: dict[str, Deep] = {}
    def __post_init__(self):
        if self.path == "refused":
            raise ValueError("this path is refused")
        if self.path == "odd":
            raise KeyError("odd")
@hookimpl
def ernie_register_data_sources():
    yield Entry("toy-data", "for tests", Options, "json:dumps")
"""
GOOD = """\
[codec]
use = "pixel"

[encoder]
use = "bytes"
width = 32

[data]
use = "toy-data"
path = "somewhere"

[model]
hidden_size = 64
num_attention_heads = 4
num_layers = 2
ffn_hidden_size = 128

[[stages]]
size_px = 64
steps = 10
batch_size = 4
"""


@pytest.fixture
def plugin_folder(tmp_path: Path) -> Iterator[PluginFolder]:
    with plugins_in(tmp_path / "plugins") as folder:
        yield folder


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "run.toml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def host(plugin_folder) -> PluginHost:
    plugin_folder.add("toy", SOURCE)
    return PluginHost.discover(disable=["data"])


def problems(paths, overrides, host) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(paths, overrides, host)
    return [str(p) for p in caught.value.problems]


def test_defaults_and_selections_are_filled_in(host, write_config):
    config = load_config([write_config(GOOD)], [], host).config
    assert config.codec.options.patch == 4
    assert config.encoder.options.width == 32
    assert config.method.use == "pretrain"
    assert config.method.options.density.options is not None
    assert config.samples.sampler is None  # the method's own, else euler
    assert config.ops.options is not None
    assert config.data.options.loss == Selection("mse", config.method.options.loss.options)
    assert config.total_steps == 10


def test_plain_form_and_toml_form_read_back_to_the_same_config(host, write_config):
    text = GOOD.replace(
        'path = "somewhere"', 'path = "a \\"b\\" # c"\nextra = [{ use = "mse" }, { use = "mse" }]\nmaybe = { use = "mse" }\nlimit = false'
    )
    config = load_config([write_config(text)], ["ema=false"], host).config
    assert config.ema is None
    assert config.data.options.limit is None
    assert [s.use for s in config.data.options.extra] == ["mse", "mse"]
    stored = json.loads(json.dumps(to_plain(config)))
    assert from_plain(stored, host) == config
    again = load_config([write_config(to_toml(to_table(config)), "again.toml")], [], host).config
    assert again == config


def test_files_count_left_to_right_then_set(host, write_config):
    first = write_config(GOOD, "first.toml")
    second = write_config(
        "[encoder]\nword_bytes = 8\n[run]\nseed = 1\n[[stages]]\nsize_px = 32\nsteps = 3\nbatch_size = 2\n", "second.toml"
    )
    loaded = load_config(
        [first, second], ["run.seed=7", "stages.0.steps=4", "data.path=bare/words here", "logging.tensorboard=false"], host
    )
    config = loaded.config
    assert (config.encoder.options.width, config.encoder.options.word_bytes) == (32, 8)  # tables merge
    assert [(s.size_px, s.steps) for s in config.stages] == [(32, 4)]  # arrays are replaced
    assert config.run.seed == 7
    assert config.data.options.path == "bare/words here"
    assert config.logging.tensorboard is False
    assert loaded.origin(("encoder", "width")) == f"{first}:6"
    assert loaded.origin(("encoder", "word_bytes")) == f"{second}:2"
    assert loaded.origin(("run", "seed")) == "--set run.seed=7"
    assert loaded.origin(("stages", 0, "steps")) == "--set stages.0.steps=4"
    assert loaded.origin(("stages", 0, "size_px")) == f"{second}:6"
    assert loaded.origin(("run", "micro_batch_size")) == "default"


def test_another_component_replaces_the_options_of_the_first(host, write_config):
    config = load_config([write_config(GOOD)], ["codec.patch=8", 'encoder={use="ministral3", path="p"}'], host).config
    assert config.codec.options.patch == 8
    assert config.encoder.options.path == "p"
    short = load_config([write_config(GOOD)], ["encoder.use=ministral3", "encoder.path=p"], host)
    assert short.config == load_config([write_config(GOOD)], ['encoder={use="ministral3", path="p"}'], host).config
    assert short.origin(("encoder", "use")) == "--set encoder.use=ministral3"
    assert load_config([write_config(GOOD)], ["encoder.use=bytes"], host).config == load_config([write_config(GOOD)], [], host).config


def test_every_problem_is_reported_with_its_place_and_what_was_expected(host, write_config):
    path = write_config(
        """\
codec = "pixel"
encoder = { use = "byte" }
[data]
uses = "toy-data"
[model]
hidden_siz = 64
num_attention_heads = "4"
rope_axes_dim = [1, 2]
rope_layout = "standart"
[[stages]]
size_px = 64
steps = 0
[[model.blocks]]
first = 0
block = { use = "ernie-shared-adaln" }
[run]
seed = true
[optimizer]
eps = nan
learning_rat = 1
betas = [0.9, 1]
[checkpoint]
keep = 1
[validation]
samples = 1.5
[samples]
prompts = ["a", 3]
[plugins]
quite_unlike_anything = 1
"""
    )
    found = problems([path], ["flow.shift=-1"], host)
    wanted = [
        '1: `codec`: expected a table { use = "name", ... } that names a codec, found "pixel"; write codec = { use = "pixel" }',
        '2: `encoder.use`: no prompt encoder is called "byte"; did you mean "bytes"? Installed: bytes (ernie-core ',
        "3: missing key `data.use`: expected the name of a data source; did you mean `use` instead of `uses`?",
        "6: unknown key `model.hidden_siz`; did you mean `hidden_size`?",
        '7: `model.num_attention_heads`: expected an integer >= 1, or false for none, found "4"',
        "8: `model.rope_axes_dim`: expected a list of 3 values (an integer; an integer; an integer), found a list of 2",
        '9: `model.rope_layout`: expected "ernie" or "standard", found "standart"; did you mean "standard"?',
        "10: missing key `stages[0].batch_size`: expected an integer >= 1",
        "12: `stages[0].steps`: expected an integer >= 1, found 0",
        "13: missing key `model.blocks[0].last`: expected an integer >= 0",
        "17: `run.seed`: expected an integer, found true",
        "19: `optimizer.eps`: expected a number > 0, found nan, which is not finite",
        "20: unknown key `optimizer.learning_rat`; did you mean `learning_rate`?",
        "21: `optimizer.betas[1]`: expected a number >= 0 and < 1, found 1",
        "22: `checkpoint`: keep = 1: at least 2, so that a damaged checkpoint leaves a valid one",
        "25: `validation.samples`: expected an integer >= 1, found 1.5",
        "27: `samples.prompts[1]`: expected text, found 3",
        "29: unknown key `plugins.quite_unlike_anything`; known here: `allow_failed`, `disable`, `require`",
    ]
    for text in wanted:
        assert any(line.startswith(f"{path}:{text}") for line in found), (text, found)
    assert "--set flow.shift=-1: `flow.shift`: expected a number > 0, or false for none, found -1" in found
    assert len(found) == len(wanted) + 1


def test_problems_inside_components_are_located_too(host, write_config):
    path = write_config(
        GOOD.replace(
            'path = "somewhere"',
            'path = 3\nextra = [\n  { use = "mse" },\n  { use = "mze" },\n]\ndeep.width = "w"\n[data.by_name.x]\nrat = 1',
        )
    )
    found = problems([path], [], host)
    assert f"{path}:10: `data.path`: expected text, found 3" in found
    assert any(line.startswith(f'{path}:13: `data.extra[1].use`: no loss is called "mze"; did you mean "mse"?') for line in found)
    assert f'{path}:15: `data.deep.width`: expected an integer, found "w"' in found
    assert f"{path}:17: unknown key `data.by_name.x.rat`; did you mean `rate`?" in found


@pytest.mark.parametrize(("value", "reason"), [("refused", "this path is refused"), ("odd", "KeyError: 'odd'")])
def test_a_refusal_by_a_struct_itself_is_located_at_its_table(host, write_config, value, reason):
    path = write_config(GOOD.replace("somewhere", value))
    assert problems([path], [], host) == [f"{path}:8: `data`: {reason}"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\nb = null\n", ":2: not valid TOML: invalid value"),
        ("a = 1\na = 2\n", ":2: not valid TOML: cannot overwrite a value"),
        ("[run\n", ":1: not valid TOML: "),
        ('a = "unfinished\n', ":1: not valid TOML: "),
        ("a = " + "[" * 5000 + "\n", ":1: not valid TOML: "),
        ("b = 1\na = " + "9" * 5000 + "\n", ":2: not valid TOML: "),
        ("a = 1979-13-40\n", ":1: not valid TOML: "),
    ],
)
def test_broken_toml_is_located(host, write_config, text, message):
    path = write_config(text)
    found = problems([path], [], host)
    assert len(found) == 1
    assert found[0].startswith(f"{path}{message}")


def test_files_that_cannot_be_read_are_named(host, tmp_path, write_config):
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'a = 1\nb = "\xe9"\n')
    assert problems([latin], [], host) == [f"{latin}:2: not UTF-8 text: byte 0xe9. Save the file as UTF-8."]
    assert problems([tmp_path / "absent.toml"], [], host) == [f"{tmp_path / 'absent.toml'}: cannot be read: No such file or directory"]
    assert problems([tmp_path], [], host) == [f"{tmp_path}: cannot be read: Is a directory"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.seed", "expected `key.name=value`"),
        ("=3", "expected `key.name=value`"),
        ("run..seed=3", "expected `key.name=value`"),
        ("model.blocks=[1,", "the value is not valid TOML"),
        ("stages.3.steps=1", "`stages` has 1 elements, found no table '3' in it"),
        ("stages.x=1", "`stages` has 1 elements, found no element 'x'"),
        ("run.sed=3", "unknown key `run.sed`; did you mean `seed`?"),
        ("run.seed=three", '`run.seed`: expected an integer, found "three"'),
        ("run.seed.deep=3", "`run.seed`: expected an integer, found a table"),
        ("run.seed=1\nrun.steps=2", '`run.seed`: expected an integer, found "1'),
    ],
)
def test_overrides_that_do_not_fit_name_themselves(host, write_config, override, message):
    found = problems([write_config(GOOD)], [override], host)
    assert any(line.startswith(f"--set {override[:9]}") and message in line for line in found), found


def test_a_config_that_holds_a_secret_is_refused_without_repeating_it(host, write_config):
    token = "hf_" + "Q" * 34
    path = write_config(GOOD + f'[run]\napi_key = "short"\n[samples]\nprompts = ["a cat", "{token}"]\n')
    found = problems([path], [], host)
    assert any(line.startswith(f"{path}:23: `run.api_key`: a config must not hold secrets") for line in found)
    assert any(line.startswith(f"{path}:25: `samples.prompts[1]`: a config must not hold secrets") for line in found)
    assert not any(token in line or "short" in line for line in found)


def test_names_that_merely_resemble_secrets_are_accepted(host, write_config):
    config = load_config(
        [write_config(GOOD + '[samples]\nprompts = ["my password is a secret token", "sk-8 skateboard"]\n')], [], host
    ).config
    assert len(config.samples.prompts) == 2


def test_a_component_of_a_failed_plugin_says_so_and_why(plugin_folder, write_config):
    plugin_folder.add("toy", SOURCE + "    raise RuntimeError('midway')")
    host = PluginHost.discover(disable=["data"])
    path = write_config(GOOD)
    (found,) = problems([path], [], host)
    assert found.startswith(f'{path}:9: `data.use`: no data source is called "toy-data".')
    assert "plugin `toy` (toy-dist 1.0) was skipped: `ernie_register_data_sources` failed with RuntimeError: midway" in found


def test_a_config_can_disable_and_require_plugins(host, write_config):
    (missing, required) = problems([write_config(GOOD + '[plugins]\ndisable = ["toy"]\nrequire = ["toy"]\n')], [], host)
    assert 'no data source is called "toy-data"' in missing
    assert "Switched off: data" in missing or "Switched off: toy (toy-dist 1.0)" in missing
    assert "`plugins.require`: no usable plugin `toy`" in required


def test_plugins_may_refuse_a_config_and_their_own_errors_are_reported(plugin_folder, write_config):
    hook = "\n@hookimpl\ndef ernie_check_config(config):\n    "
    plugin_folder.add("toy", SOURCE)
    plugin_folder.add("strict", "from ernie_core.api import Problem" + hook + "yield Problem('strict', 'seed 0 is bad luck')")
    plugin_folder.add("raises", hook + "raise RuntimeError('lost')")
    plugin_folder.add("wrong", hook + "return ['text']")
    found = problems([write_config(GOOD)], [], PluginHost.discover(disable=["data"]))
    assert "strict: seed 0 is bad luck" in found
    assert any(line.startswith("plugin `raises`: its ernie_check_config failed with RuntimeError: lost") for line in found)
    assert "plugin `wrong`: its ernie_check_config returned 'text', expected ernie_core.api.Problem" in found


KEYS = st.sampled_from(["a", "b", "c-d", "e f", 'g"h', "é", "1", "use"])
SCALARS = st.one_of(
    st.integers(-9, 9), st.booleans(), st.sampled_from(["x", "a # b", "['", '"""', "\\", "\n", "'''", "]", "}"]), st.floats(-1, 1)
)
TREES = st.recursive(SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)), max_leaves=12)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, TREES, min_size=1, max_size=4))
def test_every_key_of_a_valid_file_is_located_on_a_line_that_holds_it(tree):
    text = to_toml(tree)
    lines = locate(text)

    def walk(value, key):
        if isinstance(value, dict):
            for name, item in value.items():
                assert (*key, name) in lines
                assert (
                    name in tomllib.loads(text) or json.dumps(name, ensure_ascii=False)[1:-1] in text.split("\n")[lines[(*key, name)] - 1]
                )
                walk(item, (*key, name))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                assert (*key, index) in lines
                walk(item, (*key, index))

    walk(tomllib.loads(text), ())
    assert max(lines.values()) <= text.count("\n") + 1


def test_locator_knows_all_forms_of_toml():
    text = (
        "# comment with [table] and key = 1\n"
        'top = """\nmulti = [\n""" # end\n'
        "a.b.'c d' = [ # first\n  1,\n  { x = 1, y = { z = [2,\n 3] } }, # ]\n]\n"
        "[t.\"q.r\"]\r\nk = '''\n[[no]]\n'''\n"
        "[[list]]\nn = 1\n[list.sub]\nm = 2\n[[list]]\nn = 2\n[[list.inner]]\nv = 2024-01-01T00:00:00Z\n"
    )
    tomllib.loads(text)
    lines = locate(text)
    assert lines[("top",)] == 2
    assert lines[("a", "b", "c d")] == 5
    assert lines[("a", "b", "c d", 0)] == 6
    assert lines[("a", "b", "c d", 1, "y", "z", 1)] == 8
    assert lines[("t", "q.r", "k")] == 11
    assert lines[("list", 0, "sub", "m")] == 17
    assert lines[("list", 1, "n")] == 19
    assert lines[("list", 1, "inner", 0, "v")] == 21
    assert ("no",) not in lines


def test_recheck_finds_every_problem_of_a_config_built_in_code():
    good = ModelTable(init="x")
    assert recheck(good) is good
    recheck(SamplesTable(sampler=Selection("euler")))
    with pytest.raises(ConfigError) as caught:
        recheck(ModelTable(hidden_size=0, num_attention_heads="4", num_layers=1, ffn_hidden_size=1))
    assert [p.where for p in caught.value.problems] == ["ModelTable.hidden_size", "ModelTable.num_attention_heads"]
    with pytest.raises(ConfigError, match=r"SamplesTable.sampler: Expected `object \| null`, got `str`"):
        recheck(SamplesTable(sampler="euler"))

    class Nested(Config):
        inner: ModelTable

    with pytest.raises(ConfigError, match=r"Nested.inner.eps: Expected `float` > 0.0"):
        recheck(Nested(inner=ModelTable(init="x", eps=0.0)))


def test_the_schema_accepts_what_decodes_and_lists_every_component(host):
    from ernie_core.config.schema import config_schema

    schema = config_schema(TrainConfig, host)
    codecs = {choice["properties"]["use"]["const"] for choice in schema["$defs"]["codecs"]["oneOf"]}
    assert codecs == set(host.entries("codecs"))
    sources = {choice["title"]: choice for choice in schema["$defs"]["data_sources"]["oneOf"]}
    assert sources["toy-data"]["required"] == ["use", "path"]
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"codec", "encoder", "data", "model", "stages"}
    json.dumps(schema)


def test_the_marker_of_a_selection_says_its_registry():
    assert repr(From("codecs")) == "From('codecs')"


class TestCommand:
    def test_show_prints_toml_that_reads_back_with_the_origin_of_each_value(self, host, write_config, capsys):
        path = write_config(GOOD)
        assert main(["--disable-plugins", "data", "config", "show", str(path), "--set", "run.seed=5", "--set", "ema=false"]) == 0
        out = capsys.readouterr().out
        assert 'use = "pixel"  # ' + f"{path}:2" in out
        assert "seed = 5  # --set run.seed=5" in out
        assert "every_steps = 1000  # default" in out
        again = load_config([write_config(out, "again.toml")], [], host).config
        assert again == load_config([path], ["run.seed=5", "ema=false"], host).config

    def test_show_stays_one_line_per_value_whatever_is_set(self, host, write_config, capsys):
        path = write_config(GOOD)
        assert (
            main(["--disable-plugins", "data", "config", "show", str(path), "--set", 'data.path="a\\nb"', "--set", "codec.patch= 8\n"]) == 0
        )
        again = load_config([write_config(capsys.readouterr().out, "again.toml")], [], host).config
        assert again.data.options.path == "a\nb"
        assert again.codec.options.patch == 8

    def test_show_for_programs(self, host, write_config, capsys):
        path = write_config(GOOD)
        assert main(["--disable-plugins", "data", "config", "show", "--json", str(path)]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["origins"]["stages[0].steps"] == f"{path}:20"
        assert from_plain(shown["config"], host) == load_config([path], [], host).config

    def test_check_says_ok_or_prints_all_problems_and_exits_2(self, host, write_config, capsys):
        path = write_config(GOOD)
        assert main(["--disable-plugins", "data", "config", "check", str(path)]) == 0
        assert capsys.readouterr().out.startswith("ok: 10 steps, with ernie-core ")
        assert main(["--disable-plugins", "data", "config", "check", str(path), "--set", "run.sed=1", "--set", "run.steps=no"]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.strip().split("\n")) == 2
