"""`ernie distill teachers build` with the method `sft` of ernie-align: experts of ShapeBench's categories, and the table of teachers that a distillation reads."""

import json
import signal
import tomllib

import pytest

pytest.importorskip("torch", reason="experts are trained")

from ernie_core.api import App
from ernie_core.testing.mishaps import at_step
from ernie_core.testing.nursery import Nursery
from ernie_core.testing.runs import TINY_RUN, digest, leftovers, logged, merged, write_config
from ernie_core.train.checkpoint import open_checkpoint
from ernie_distill.experts.plan import plan_experts

SHAPES = {"use": "shapes", "profile": "bench", "count": 200}
QUIET = {"validation": {"every_steps": 0}, "samples": {"every_steps": 0, "prompts": []}, "data_workers": 0}
SIZES = ("hidden_size", "num_attention_heads", "num_layers", "ffn_hidden_size")
ADAPTER = {"rank": 2, "targets": ["all"]}


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as started:
        yield started


@pytest.fixture(scope="module")
def shop(tmp_path_factory, nursery):
    """(folder with base.toml and teachers.toml, a function that runs a command): four steps of pre-training, and a config for two experts over it."""
    folder = tmp_path_factory.mktemp("teachers")
    tables = merged(TINY_RUN, QUIET, {"data": SHAPES, "run": {"steps": 4}})
    counter = iter(range(1000))

    def ernie(*arguments, plan=None):
        log = folder / f"log-{next(counter)}"
        code = nursery.start([str(a) for a in arguments], log=log, plan=plan).wait()
        return code, log.read_text()

    code, said = ernie("train", write_config(folder / "pretrain.toml", tables), "--out", folder / "pretrained")
    assert code == 0, said
    over = {**tables, "model": {"init": str(folder / "pretrained")}}
    assert not set(SIZES) & set(over["model"])
    write_config(folder / "base.toml", over)
    write_config(
        folder / "experts.toml",
        {
            "train": "base.toml",
            "steps": 5,
            "adapter": ADAPTER,
            "experts": [
                {"name": "lettering", "domains": ["text"]},
                {"name": "layout", "domains": ["counting", "position"], "steps": 3, "adapter": {**ADAPTER, "rank": 3}},
            ],
        },
    )
    return folder, ernie


@pytest.fixture(scope="module")
def built(shop):
    folder, ernie = shop
    code, said = ernie("distill", "teachers", "build", folder / "experts.toml", "--out", folder / "built")
    assert code == 0, said
    return folder / "built", said


def other(folder, name, **changes):
    """experts.toml with other keys."""
    return write_config(folder / f"{name}.toml", {**tomllib.loads((folder / "experts.toml").read_text()), **changes})


def test_each_expert_is_an_ordinary_run_of_sft_over_the_shared_base(built):
    out, _ = built
    states = {name: open_checkpoint(out / name).state for name in ("lettering", "layout")}
    for name, domains, steps, rank in (("lettering", ["text"], 5, 2), ("layout", ["counting", "position"], 3, 3)):
        state = states[name]
        assert state["config"]["method"]["use"] == "sft"
        assert state["config"]["method"]["adapter"]["rank"] == state["networks"]["adapter"]["config"]["rank"] == rank
        assert state["config"]["data"]["categories"] == domains
        assert state["config"]["data"]["count"] == 200
        assert state["train"]["step"] == steps
        assert not state["networks"]["transformer"]["trained"]
        assert not leftovers(out / name)
    assert len({s["networks"]["transformer"]["sha256"] for s in states.values()}) == 1
    assert logged(out / "lettering") != logged(out / "layout")


def test_the_table_of_teachers_is_the_second_file_of_a_distillation(built, shop):
    out, _ = built
    folder, _ = shop
    prompts = folder / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "three red circles", "domain": "counting"}) + "\n")
    turbo = write_config(
        folder / "turbo.toml",
        {
            **tomllib.loads((folder / "base.toml").read_text()),
            "samples": {},
            "data": {"use": "prompts", "path": str(prompts)},
            "method": {"use": "mt-dmd", "steps": 4, "teachers": [{"name": "generalist"}, {"name": "former", "path": "nowhere"}]},
        },
    )
    config = App().load_config([turbo, out / "teachers.toml"]).config
    assert config.method.use == "mt-dmd"
    assert config.method.options.steps == 4
    found = [(t.name, t.path, t.domains) for t in config.method.options.teachers]
    assert found == [
        ("generalist", None, ()),
        ("lettering", str(out / "lettering"), ("text",)),
        ("layout", str(out / "layout"), ("counting", "position")),
    ]
    assert f"over {folder / 'pretrained'}, which must be" in (out / "teachers.toml").read_text()


def test_finished_experts_are_passed_over_and_another_config_of_them_is_refused(built, shop):
    out, _ = built
    folder, ernie = shop
    before = {name: digest(out / name) for name in ("lettering", "layout")}
    runs = {name: (out / name / "run.json").read_text() for name in before}
    code, said = ernie("distill", "teachers", "build", folder / "experts.toml", "--out", out)
    assert code == 0, said
    assert "expert `" not in said
    assert {name: (out / name / "run.json").read_text() for name in before} == runs
    code, said = ernie("distill", "teachers", "build", other(folder, "wider", adapter={**ADAPTER, "rank": 4}), "--out", out)
    assert code == 2
    assert f"{out / 'lettering'}: this expert was trained by another config; what differs is [method]" in said
    code, said = ernie("distill", "teachers", "build", other(folder, "shorter", steps=4), "--out", out)
    assert code == 2
    assert "what differs is steps (5, now 4)" in said
    assert {name: digest(out / name) for name in before} == before


@pytest.mark.battery
@pytest.mark.parametrize("killed", ["the first", "the second"])
def test_a_kill_in_either_expert_costs_nothing(built, shop, tmp_path, killed):
    out, _ = built
    folder, ernie = shop
    command = ("distill", "teachers", "build", folder / "experts.toml", "--out", tmp_path / "built")
    if killed == "the second":
        first = other(folder, "first", experts=[{"name": "lettering", "domains": ["text"]}])
        code, said = ernie(*command[:3], first, *command[4:])
        assert code == 0, said
    code, said = ernie(*command, plan=at_step(2, "SIGKILL"))
    assert code == -signal.SIGKILL, said
    code, said = ernie(*command)
    assert code == 0, said
    for name in ("lettering", "layout"):
        assert digest(tmp_path / "built" / name) == digest(out / name)
    assert (tmp_path / "built" / "teachers.toml").read_text().replace(str(tmp_path / "built"), str(out)) == (
        out / "teachers.toml"
    ).read_text()


def test_a_base_that_changed_between_two_experts_is_noticed(shop, tmp_path):
    folder, ernie = shop
    tables = tomllib.loads((folder / "pretrain.toml").read_text())
    pretrain = (write_config(tmp_path / "pretrain.toml", tables), "--out", tmp_path / "pretrained")
    assert ernie("train", *pretrain)[0] == 0
    base = write_config(tmp_path / "base.toml", {**tables, "model": {"init": str(tmp_path / "pretrained")}})
    both = tomllib.loads((folder / "experts.toml").read_text()) | {"train": str(base)}
    for count in (1, 2):
        config = write_config(tmp_path / "experts.toml", {**both, "experts": both["experts"][:count]})
        code, said = ernie("distill", "teachers", "build", config, "--out", tmp_path / "built")
        if count == 1:
            assert code == 0, said
            assert ernie("train", *pretrain, "--set", "run.steps=6")[0] == 0
    assert code == 2
    assert "expert `layout` was trained over a base of other weights than `lettering`" in said


def test_all_weights_can_be_trained_and_tables_can_stand_in_the_file(shop, tmp_path):
    folder, ernie = shop
    shared = tomllib.loads((folder / "base.toml").read_text())
    config = write_config(
        tmp_path / "experts.toml", {"train": shared, "steps": 2, "adapter": False, "experts": [{"name": "whole", "domains": ["two"]}]}
    )
    code, said = ernie("distill", "teachers", "build", config, "--out", tmp_path / "built")
    assert code == 0, said
    assert open_checkpoint(tmp_path / "built" / "whole").state["networks"]["transformer"]["trained"]


def test_an_adapter_is_the_experts_own_else_the_files_else_the_shared_configs(shop, tmp_path):
    """Whole: nothing of another's options is left in it."""
    folder, _ = shop
    shared = tomllib.loads((folder / "base.toml").read_text())
    shared["method"] = {"use": "sft", "adapter": {"rank": 16, "alpha": 32}}
    experts = [
        {"name": "theirs", "domains": ["two"]},
        {"name": "whole", "domains": ["two"], "adapter": False},
        {"name": "own", "domains": ["two"], "adapter": {"rank": 4}},
    ]

    def planned(**tables):
        config = write_config(tmp_path / "experts.toml", {"train": shared, "experts": experts, **tables})
        found = plan_experts(config, [], tmp_path / "out", App())
        return [None if (one := plan.config.method.options.adapter) is None else (one.rank, one.scale) for plan in found]

    assert planned() == [(16, 2.0), None, (4, 1.0)]
    assert planned(adapter={"rank": 8}) == [(8, 1.0), None, (4, 1.0)]
    assert planned(adapter=False) == [None, None, (4, 1.0)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"experts": [{"name": "a", "domains": ["photo"]}]}, "expert `a`: data.categories: scenes of profile bench are never of 'photo'"),
        ({"experts": [{"name": "a", "domains": ["text"], "data": {"use": "folder", "path": "nowhere"}}]}, "expert `a`: nowhere"),
        ({"experts": [{"name": "generalist", "domains": ["text"]}]}, "`generalist` is the model that training starts from"),
        ({"experts": [{"name": "a", "domains": ["text"]}] * 2}, "several are called `a`"),
        ({"experts": [{"name": "a", "domains": ["text", "text"]}]}, "names the domain `text` more than once"),
        ({"experts": [{"name": "a", "domains": []}]}, "experts[0].domains"),
        ({"experts": []}, "experts"),
        ({"train": "nowhere.toml"}, "nowhere.toml: cannot be read"),
        ({"train": "pretrain.toml"}, "`model.init` is missing"),
        ({"steps": 0}, "`steps`"),
        ({"stepps": 3}, "unknown key `stepps`; did you mean `steps`?"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(shop, tmp_path, changes, said):
    folder, ernie = shop
    code, heard = ernie("distill", "teachers", "build", other(folder, "wrong", **changes), "--out", tmp_path / "built")
    assert code == 2
    assert said in heard
    assert "Traceback" not in heard
    assert not list((tmp_path / "built").glob("*/checkpoints"))


def test_a_source_that_cannot_be_narrowed_asks_for_the_experts_own_data(shop, tmp_path):
    folder, ernie = shop
    shared = tomllib.loads((folder / "base.toml").read_text()) | {"data": {"use": "folder", "path": "pictures"}}
    config = write_config(tmp_path / "experts.toml", {"train": shared, "experts": [{"name": "a", "domains": ["text"]}]})
    code, said = ernie("distill", "teachers", "build", config, "--out", tmp_path / "built")
    assert code == 2
    assert "the data source `folder` has no option `categories`, so that it cannot be narrowed to text" in said


@pytest.mark.parametrize("table", ["codec", "encoder"])
def test_another_codec_or_encoder_than_the_bases_is_refused(shop, tmp_path, table):
    folder, ernie = shop
    shared = tomllib.loads((folder / "base.toml").read_text())
    shared[table] = {**shared[table], **({"patch": 2} if table == "codec" else {"width": 48})}
    config = write_config(tmp_path / "experts.toml", {"train": shared, "experts": [{"name": "a", "domains": ["text"]}]})
    code, said = ernie("distill", "teachers", "build", config, "--out", tmp_path / "built")
    assert code == 2
    assert "was trained with" in said
    assert f"copy its [{table}]" in said


def test_without_the_method_sft_the_error_says_what_to_install(shop, tmp_path):
    folder, ernie = shop
    code, said = ernie("--disable-plugins", "align", "distill", "teachers", "build", folder / "experts.toml", "--out", tmp_path / "built")
    assert code == 2
    assert "pip install ernie-align" in said
    assert "Switched off: align" in said
