"""The data source `prompts`: files with their errors, exact shares, and the laws of data sources."""

import json
from collections import Counter

import msgspec
import numpy as np
import pytest

from ernie_core.api import (
    ConfigError,
    DataError,
    DataSourceContext,
    Identified,
    PluginHost,
    RecordRef,
    Selection,
    Stage,
    from_plain,
    recheck,
)
from ernie_core.testing.data import DataSourceContract
from ernie_core.testing.runs import TINY_RUN, merged
from ernie_distill.prompts.config import PromptsConfig
from ernie_distill.prompts.order import PromptOrder
from ernie_distill.prompts.source import build, size_of

STAGE = Stage(size_px=64, steps=10, batch_size=8)


def write(folder, rows, name="prompts.jsonl"):
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder / name)


def source(*paths, seed=0, stages=(), **options):
    return build(recheck(PromptsConfig(path=paths, **options)), DataSourceContext(seed=seed, size_multiple_px=16, stages=stages))


def mixture(folder):
    rows = [{"prompt": f"text {i}", "domain": "text"} for i in range(7)] + [{"prompt": f"photo {i}", "domain": "photo"} for i in range(30)]
    return write(folder, [*rows, {"prompt": "a stray"}])


class TestIsADataSource(DataSourceContract):
    entry = "prompts"
    stage = STAGE

    @pytest.fixture(autouse=True)
    def _files(self, tmp_path):
        self.path = mixture(tmp_path)

    def make(self, *, seed: int = 0):
        return source(self.path, seed=seed, domains={"text": 1, "photo": 2}, aspects=("1:1", "3:4", "16:9"))


def test_pictures_are_black_read_only_and_take_no_memory(tmp_path):
    some = source(mixture(tmp_path), aspects=("3:4",))
    (ref, *_) = some.batch(0, global_batch=4, stage=Stage(size_px=1024, steps=1, batch_size=4))
    (record,) = some.fetch([ref])
    assert record.pixels.shape == (ref.size_px[1], ref.size_px[0], 3) == (1184, 880, 3)
    assert not record.pixels.any()
    assert not record.pixels.flags.writeable
    assert record.pixels.strides == (0, 0, 0)


def test_a_record_has_its_captions_and_its_domain(tmp_path):
    rows = [
        {"prompt": " a cat ", "domain": "photo"},
        {"captions": {"short": "cat", "long": "a sitting cat"}, "domain": "art"},
        {"prompt": "a dog", "style": "keywords"},
    ]
    some = source(write(tmp_path, rows))
    records = some.fetch([RecordRef(p.where, row, (64, 64)) for row, p in enumerate(some.prompts)])
    assert [(dict(r.captions), r.category) for r in records] == [
        ({"prompt": "a cat"}, "photo"),
        ({"short": "cat", "long": "a sitting cat"}, "art"),
        ({"keywords": "a dog"}, ""),
    ]
    assert records[1].key == "prompts.jsonl:2"


def test_plain_text_and_several_files(tmp_path):
    first, second = write(tmp_path, ["ein Hund", "猫"], "a.txt"), write(tmp_path, [{"prompt": "a bird"}], "b.jsonl")
    some = source(first, second)
    assert [dict(p.captions) for p in some.prompts] == [{"prompt": "ein Hund"}, {"prompt": "猫"}, {"prompt": "a bird"}]


def test_repetitions_count_as_often_as_they_are_there(tmp_path):
    some = source(write(tmp_path, ["a cat", "a cat", "a cat", "a dog"], "a.txt"))
    assert len(some) == 4
    seen = Counter(some.fetch([ref])[0].captions["prompt"] for step in range(10) for ref in some.batch(step, global_batch=4, stage=STAGE))
    assert seen == {"a cat": 30, "a dog": 10}


def test_splits_are_kept_apart_and_prompts_without_one_are_for_training(tmp_path):
    path = write(tmp_path, [{"prompt": "a"}, {"prompt": "b", "split": "train"}, {"prompt": "c", "split": "validation"}])
    assert [p.captions["prompt"] for p in source(path).prompts] == ["a", "b"]
    assert [p.captions["prompt"] for p in source(path, split="validation").prompts] == ["c"]
    with pytest.raises(DataError, match="none of the 3 prompts is of the split `test`; there are train, validation"):
        source(path, split="test")


def test_identity_is_the_content_and_not_the_place(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    first, copy = write(tmp_path, ["a", "b"], "a.txt"), write(tmp_path / "elsewhere", ["a", "b"], "other.txt")
    other = write(tmp_path, ["a", "c"], "c.txt")
    assert isinstance(source(first), Identified)
    assert source(first).identity() == source(copy).identity()
    assert len({source(first).identity(), source(other).identity(), source(first, other).identity(), source(other, first).identity()}) == 4


# ---- shares ----


@pytest.mark.parametrize("batch", [1, 4, 7, 24])
def test_every_batch_has_each_share_to_one_prompt_and_all_steps_together_to_a_few(batch):
    shares = {"a": 1.0, "b": 2.0, "c": 0.05, "d": 3.7}
    order = PromptOrder({name: range(5) for name in shares}, shares, batch=batch, seed=3)
    wanted = batch * np.array([shares[name] for name in order.domains]) / sum(shares.values())
    total = np.zeros(4)
    for step in range(6000):
        counts = order.counts(step)
        assert counts.sum() == batch
        assert (abs(counts - wanted) < 1).all()
        total += counts
        assert (abs(total - (step + 1) * wanted) < 5).all()


def test_a_domain_is_gone_through_once_an_epoch_across_steps_and_blocks():
    order = PromptOrder({"a": range(10), "b": range(10, 25)}, {"a": 1, "b": 1}, batch=6, seed=0)
    for first in range(
        4060, 4140, 10
    ):  # over the end of a block; three of each domain a step, so ten steps are three epochs of "a" and two of "b"
        seen = Counter(np.concatenate([order.batch(step) for step in range(first, first + 10)]).tolist())
        assert seen == {**dict.fromkeys(range(10), 3), **dict.fromkeys(range(10, 25), 2)}


def test_far_steps_are_found_directly_and_equal_those_of_a_fresh_order():
    def make():
        return PromptOrder({"a": range(7), "b": range(7, 30)}, {"a": 1, "b": 3}, batch=5, seed=1)

    one, two = make(), make()
    for step in (0, 1, 4095, 4096, 9000):
        one.batch(step)
    assert np.array_equal(one.batch(50_000), two.batch(50_000))


def test_domains_are_mixed_within_a_batch():
    order = PromptOrder({"a": [0], "b": [1]}, {"a": 1, "b": 1}, batch=8, seed=0)
    first_half = np.mean([(order.batch(step)[:4] == 0).mean() for step in range(400)])
    assert first_half == pytest.approx(0.5, abs=0.05)


def test_shares_select_and_without_them_all_prompts_are_alike(tmp_path):
    path = mixture(tmp_path)
    selected = source(path, domains={"text": 1})
    assert len(selected) == 7
    assert {r.category for r in selected.fetch(selected.batch(0, global_batch=8, stage=STAGE))} == {"text"}
    everything = source(path)
    seen = Counter(ref.row for step in range(38) for ref in everything.batch(step, global_batch=10, stage=STAGE))
    assert set(seen) == set(range(38))
    assert max(seen.values()) - min(seen.values()) <= 6


def test_aspects_take_turns_and_all_come_equally_often(tmp_path):
    some = source(mixture(tmp_path), aspects=("1:1", "3:4", "4:3"))
    sizes = [some.batch(step, global_batch=2, stage=STAGE)[0].size_px for step in range(30)]
    assert Counter(sizes) == {size_of(aspect, size_px=64, multiple_px=16): 10 for aspect in ("1:1", "3:4", "4:3")}
    assert all(len(set(sizes[at : at + 3])) == 3 for at in range(0, 30, 3))


@pytest.mark.parametrize(
    ("aspect", "size_px", "expected"),
    [("1:1", 1024, (1024, 1024)), ("1:1", 48, (48, 48)), ("16:9", 1024, (1360, 768)), ("9:16", 1024, (768, 1360))],
)
def test_sizes(aspect, size_px, expected):
    assert size_of(aspect, size_px=size_px, multiple_px=16) == expected


# ---- what is wrong with files ----


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (['{"prompt": "a"}', '{"prompt": '], "prompts.jsonl:2: not valid JSON"),
        (["[1]"], "prompts.jsonl:1: expected an object"),
        ([{"prompt": "a"}, {"prompt": "  "}], "prompts.jsonl:2: `prompt` is empty"),
        ([{"captions": {"short": ""}}], "prompts.jsonl:1: the caption of style `short` is empty"),
        ([{"captions": {}}], "`captions` must be an object from style to text"),
        ([{"prompt": 3}], "`prompt` must be text, found int"),
        ([{"promt": "a", "domian": "b"}], "unknown keys domian, promt; known are prompt, style, captions, domain, split"),
        ([{"domain": "b"}], "expected either `prompt` or `captions`, found neither"),
        ([{"prompt": "a", "captions": {"b": "c"}}], "found both"),
        (['{"prompt": "\\ud800"}'], "half a surrogate pair"),
        ([{"prompt": "a", "domain": 0}], "`domain` must be text, found int"),
        ([""], "holds no prompt"),
    ],
)
def test_the_first_line_that_is_no_prompt_is_named(tmp_path, rows, said):
    with pytest.raises(DataError, match=said):
        source(write(tmp_path, rows))


def test_an_empty_line_of_a_text_file_is_an_empty_prompt(tmp_path):
    with pytest.raises(DataError, match=r"a\.txt:2: an empty prompt"):
        source(write(tmp_path, ["a", "", "b"], "a.txt"))
    (tmp_path / "b.txt").write_bytes(b"fine\n\xff\n")
    with pytest.raises(DataError, match=r"b\.txt:2: not UTF-8"):
        source(str(tmp_path / "b.txt"))
    with pytest.raises(DataError, match=r"nowhere.txt: cannot be read: No such file"):
        source(str(tmp_path / "nowhere.txt"))


def test_a_domain_without_prompts_is_refused_with_those_that_have(tmp_path):
    with pytest.raises(DataError, match="a domain without prompts, `art`, in the split `train`; there are photo, text"):
        source(mixture(tmp_path), domains={"text": 1, "art": 1})


@pytest.mark.parametrize(
    "options", [{"aspects": ("1:1", "1:1")}, {"aspects": ("square",)}, {"aspects": ("20:1",)}, {"aspects": ()}, {"domains": {"a": 0}}]
)
def test_options_that_mean_nothing_are_refused(options):
    plain = {"path": "a", **{name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}}
    with pytest.raises(ConfigError, match=r"aspects|domains"):
        from_plain(plain, PluginHost.discover(plugins=False), struct=PromptsConfig)


def test_a_stage_that_no_aspect_fits_is_known_at_once_and_a_file_named_twice_is_refused(tmp_path):
    path = mixture(tmp_path)
    with pytest.raises(ConfigError, match='no picture of "8:1" has sides'):
        source(path, aspects=("8:1",), stages=(Stage(size_px=16, steps=1, batch_size=1),))
    with pytest.raises(ConfigError, match="more than once"):
        source(path, path)


def test_a_file_that_changed_under_a_run_is_noticed(tmp_path):
    with pytest.raises(DataError, match="the files have changed"):
        source(mixture(tmp_path)).fetch([RecordRef("prompts.jsonl:99", 3, (64, 64))])


def test_a_domain_that_is_empty_or_null_is_none(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a", "domain": ""}\n{"prompt": "b", "domain": null, "split": "  "}\n{"prompt": "c"}\n')
    assert {(prompt.domain, prompt.split) for prompt in source(str(path)).prompts} == {("", "train")}


@pytest.mark.parametrize(
    ("expert", "gate", "told"),
    [
        ("text", {}, False),
        ("txt", {}, True),
        ("txt", {"gate": {"use": "product", "domain": {"keywords": {"txt": ["word"]}}}}, False),
        ("txt", {"gate": {"use": "constant"}}, False),
        ("letters", {"gate": {"use": "spatial", "domain": "letters"}}, False),
        ("quotes", {"gate": {"use": "domain", "quoted": "quotes"}}, False),
    ],
)
def test_an_expert_of_nothing_that_is_asked_is_told(tmp_path, expert, gate, told):
    teachers = [{"name": "generalist"}, {"name": "lettering", "path": "runs/lettering", "domains": [expert]}]
    tables = {
        "data": {"use": "prompts", "path": mixture(tmp_path), "domains": {"text": 1}},
        "method": {"use": "mt-dmd", "teachers": teachers, **gate},
    }
    host = PluginHost.discover()
    config = from_plain(merged(TINY_RUN, tables), host)
    problems = [str(problem) for problem in host.check_config(config) if "lettering` is an expert" in str(problem)]
    expected = ["method.teachers: `lettering` is an expert of txt, and no prompt is of that: data.domains has text"]
    assert problems == (expected if told else [])


def test_methods_that_learn_from_pictures_are_refused(tmp_path):
    host = PluginHost.discover()
    tables = merged(TINY_RUN, {"data": {"use": "prompts", "path": mixture(tmp_path)}})
    config = from_plain(tables, host)
    problems = [str(p) for p in host.check_config(config)]
    assert problems == ['data: use = "prompts" has no pictures, and method = "pretrain" learns from them: choose another source']
    tables = merged(
        TINY_RUN, {"data": {"use": "shapes"}, "validation": {"every_steps": 1, "data": {"use": "prompts", "path": mixture(tmp_path)}}}
    )
    problems = [str(p) for p in host.check_config(from_plain(tables, host))]
    assert problems == ['validation.data: use = "prompts" has no pictures, and method = "pretrain" learns from them: choose another source']
    assert not host.check_config(msgspec.structs.replace(config, method=Selection("mt-dmd")))
