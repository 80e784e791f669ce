"""Top-down sets: domains, what is the best and most coherent of them, and a set built from ShapeBench with `ernie data sft build`."""

import json
from pathlib import Path

import numpy as np
import pytest

from ernie_core.api import App, ConfigError, DataError, DataStageContext, Selection, recheck
from ernie_core.cli.main import main
from ernie_data.embed.entries import EmbedConfig
from ernie_data.engine.build import build_dataset
from ernie_data.engine.stage import Item, Refuse
from ernie_data.reading.dataset import open_dataset
from ernie_data.recipe import BuildInput, FolderInput, Recipe, RunOptions
from ernie_data.rewriting.contract import lost, required
from ernie_data.rewriting.rules import STYLES
from ernie_data.scoring.entries import ScoreConfig
from ernie_data.shapes.profile import profile
from ernie_data.shapes.writer import write_set
from ernie_data.stages.entries import DecodeConfig, SizeConfig
from ernie_data.topdown.coherent import Member, judge
from ernie_data.topdown.config import SftConfig, recipe_of
from ernie_data.topdown.domain import Domain
from ernie_data.topdown.entries import CoherentConfig, DomainConfig, DomainRule

COLUMNS = {"score": "float", "category": "string", "embedding": "floats", "ocr_text": "strings"}


def members(count: int = 20, strays: int = 0) -> list[Member]:
    """``count`` records near one direction with scores 1, 2, ...; ``strays`` with the highest scores point elsewhere."""
    rng = np.random.default_rng(0)
    found = []
    for n in range(count + strays):
        x_D = np.array([1.0, 0, 0, 0]) if n < count else np.array([-0.2, 1.0, 0, 0])
        x_D = x_D + 0.05 * rng.standard_normal(4)
        found.append(Member(f"k{n:02d}", float(n + 1), "ab"[n % 2], x_D / np.linalg.norm(x_D)))
    return found


def reasons(verdicts) -> dict[str, str]:
    return {verdict.key: verdict.reason for verdict in verdicts}


ALL = CoherentConfig(best=1, coherence=1)


class TestJudge:
    def test_everything_passes_when_nothing_is_asked(self):
        verdicts = judge(members(), ALL)
        assert [v.rank for v in verdicts] == list(range(1, 21))
        assert [v.key for v in verdicts] == [f"k{n:02d}" for n in range(19, -1, -1)], "the best first"

    def test_the_best_share_by_score_and_ties_stay_together(self):
        found = reasons(judge(members(), CoherentConfig(best=0.25, coherence=1)))
        assert [key for key, reason in found.items() if not reason] == ["k19", "k18", "k17", "k16", "k15"]
        same = [Member(m.key, 5.0, m.category, m.x_D) for m in members()]
        assert set(reasons(judge(same, CoherentConfig(best=0.25, coherence=1))).values()) == {""}

    def test_strays_are_not_coherent_however_well_they_score(self):
        verdicts = judge(members(20, strays=4), CoherentConfig(best=1, coherence=20 / 24))
        assert {v.key for v in verdicts if v.reason == "not_coherent"} == {"k20", "k21", "k22", "k23"}
        assert min(v.coherence for v in verdicts if not v.reason) > 0.95
        assert all("with the core of its domain, at least" in v.detail for v in verdicts if v.reason)

    def test_a_cap_per_category_and_a_full_domain(self):
        found = reasons(judge(members(), CoherentConfig(best=1, coherence=1, per_category=3, take=5)))
        assert [key for key, reason in found.items() if not reason] == ["k19", "k18", "k17", "k16", "k15"]
        assert sorted(set(found.values())) == ["", "domain_full"]
        capped = reasons(judge(members(), CoherentConfig(best=1, coherence=1, per_category=3, take=20)))
        assert sum(not reason for reason in capped.values()) == 6
        assert sum(reason == "not_diverse" for reason in capped.values()) == 14

    def test_twins_are_refused_and_the_better_one_is_named(self):
        some = members(6)
        twin = Member("twin", 0.5, "a", some[3].x_D)
        verdicts = {v.key: v for v in judge([*some, twin], CoherentConfig(best=1, coherence=1, apart=1e-5))}
        assert (verdicts["twin"].reason, verdicts["twin"].detail) == ("not_diverse", "close to k03, which is better")
        assert [key for key, v in verdicts.items() if v.reason] == ["twin"]

    def test_what_lacks_a_column_has_a_reason(self):
        some = [*members(4), Member("a", None, "a", members(1)[0].x_D), Member("b", 9.0, "a", None)]
        found = {v.key: (v.reason, v.detail) for v in judge(some, CoherentConfig(best=0.9, coherence=0.99))}
        assert found["a"] == ("low_score", "no score")
        assert found["b"] == ("not_coherent", "no embedding")

    def test_the_order_of_records_does_not_matter_and_each_has_one_verdict(self):
        config = CoherentConfig(best=0.7, coherence=0.8, per_category=4, take=6, apart=0.001)
        some = members(30, strays=5)
        one, other = judge(some, config), judge(some[::-1], config)
        assert {v.key: (v.rank, v.reason) for v in one} == {v.key: (v.rank, v.reason) for v in other}
        assert sorted(v.key for v in one) == sorted(m.key for m in some)

    def test_nothing_and_one(self):
        assert judge([], CoherentConfig()) == []
        assert [v.rank for v in judge(members(1), CoherentConfig())] == [1]


class TestDomain:
    def stage(self, *rules: DomainRule) -> Domain:
        return Domain(DomainConfig(domains=rules), DataStageContext(lambda *a: None, None, COLUMNS))

    def test_the_first_rule_that_holds_wins(self):
        stage = self.stage(DomainRule(name="text", where="len(ocr_text) > 0"), DomainRule(name="good", where="score > 5"))
        rows = [{"ocr_text": ["x"], "score": 9.0}, {"score": 9.0}, {"ocr_text": [], "score": 1.0}, {}]
        outcomes = stage.many([Item(str(n), row, lambda: b"") for n, row in enumerate(rows)])
        assert [None if isinstance(o, Refuse) else o.columns["domain"] for o in outcomes] == ["text", "good", None, None]
        assert (str(outcomes[2].reason), outcomes[2].detail) == ("no_domain", "none of text, good")
        assert set(stage.needs) == {"ocr_text", "score"}
        assert not stage.surveys

    def test_a_wrong_condition_names_its_domain(self):
        with pytest.raises(ConfigError, match="domain `good`"):
            self.stage(DomainRule(name="good", where="scor > 5"))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (lambda: DomainRule(name="x"), "the domain `x` needs `where`, `label` or both"),
            (lambda: DomainConfig(domains=(DomainRule(name="x", where="true"),) * 2), "two domains are named 'x'"),
            (lambda: DomainConfig(domains=(DomainRule(name="x", label="y"),)), "need each other"),
            (lambda: DomainConfig(domains=(DomainRule(name="x", where="true"),), labels="a.jsonl"), "need each other"),
            (lambda: DomainConfig(domains=(DomainRule(name="x", label="y"),), labels="a.txt"), "must end in .jsonl or .parquet"),
        ],
    )
    def test_wrong_options_are_refused(self, options, message):
        with pytest.raises((ConfigError, ValueError), match=message):
            recheck(options())


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    """A finished build of 160 ShapeBench pictures with embeddings and scores; categories are those of the scenes."""
    base = tmp_path_factory.mktemp("topdown")
    write_set(base / "raw", profile("bench"), count=160, size_px=48, seed=3, split="train")
    scorer = Selection("score", ScoreConfig(scorer=Selection("shapes-quality")))
    stages = (Selection("decode", DecodeConfig()), Selection("size", SizeConfig()), Selection("embed", EmbedConfig()), scorer)
    source = Selection("folder", FolderInput(path=str(base / "raw")))
    build_dataset(Recipe(sources=(source,), stages=stages, unit_rows=64, run=RunOptions(workers=1)), base / "curated")
    return base


CONFIG = """
from = "curated"
where = "score >= (SELECT quantile_cont(score, 0.1) FROM items)"
unit_rows = 64

[[domains]]
name = "signs"
where = "contains(captions['composition'], '\\"')"

[[domains]]
name = "rings"
where = "contains(captions['keywords'], 'ring')"

[coherent]
take = 25
best = 0.7
coherence = 0.9
apart = 0.0001

[run]
workers = 1
"""


def test_a_set_of_two_domains_from_shapebench(curated, capsys):
    config = curated / "sft.toml"
    config.write_text(CONFIG)
    assert main(["data", "sft", "build", str(config), "--out", str(curated / "sft"), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    origin, made = open_dataset(curated / "curated"), open_dataset(curated / "sft")
    rows = list(made.rows())
    assert about["records"] == about["accepted"] + about["rejected"]
    assert {stage["stage"] for stage in about["stages"]} == {"scan", "decode", "size", "domain", "coherent", "rewrite"}
    by_domain = {name: [row for row in rows if row["domain"] == name] for name in ("signs", "rings")}
    assert all(5 <= len(found) <= 25 for found in by_domain.values())
    before = {f"sft/{row['key']}": row for row in origin.rows()}
    assert np.mean([row["score"] for row in rows]) > np.mean([row["score"] for row in before.values()])
    for found in by_domain.values():
        assert sorted(row["domain_rank"] for row in found) == list(range(1, len(found) + 1))
        best = sorted(found, key=lambda row: row["domain_rank"])
        assert [row["score"] for row in best] == sorted((row["score"] for row in found), reverse=True)
    for row in rows:
        source = before[row["key"]]["captions"]
        assert set(row["captions"]) == set(STYLES)
        assert row["original_captions"] == source
        assert row["sha256"] == before[row["key"]]["sha256"]
        contents = required(source["composition"])
        assert bool(contents) == (row["domain"] == "signs")
        assert all(not lost(text, contents) for text in row["captions"].values())
        assert "rewrite_fallback" not in row
    survey = curated / "sft" / "coherent" / about["surveys"]["coherent"] / "domains.json"
    facts = json.loads(survey.read_text())
    assert {name: found["taken"] for name, found in facts.items()} == {name: len(found) for name, found in by_domain.items()}


def test_the_same_command_does_nothing_twice_and_a_larger_share_reuses_what_it_can(curated, capsys):
    config = curated / "sft.toml"
    config.write_text(CONFIG)
    command = ["data", "sft", "build", str(config), "--out", str(curated / "sft"), "--json"]
    assert main(command) == 0
    stamps = {path: path.stat().st_mtime_ns for path in (curated / "sft").rglob("*.parquet")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in (curated / "sft").rglob("*.parquet")} == stamps
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main([*command, "--set", "coherent.take=5"]) == 0
    second = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert second["accepted"] == 10 < first["accepted"]
    kept = {path: stamp for path, stamp in stamps.items() if path.exists() and path.parts[-3] in ("scan", "decode", "size", "domain")}
    assert kept
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items()), "what stands before the change is reused"


def test_a_classifier_decides_from_labels(curated):
    rows = {f"build/{row['key']}": '"' in row["captions"]["composition"] for row in open_dataset(curated / "curated").rows()}
    labels = curated / "labels.jsonl"
    labels.write_text(
        "".join(json.dumps({"key": key, "label": "sign" if sign else "none"}) + "\n" for key, sign in list(rows.items())[:120])
    )
    rule = DomainRule(name="signs", label="sign", threshold=0.5)
    recipe = Recipe(
        sources=(Selection("build", BuildInput(path=str(curated / "curated"))),),
        stages=(Selection("decode", DecodeConfig()), Selection("domain", DomainConfig(domains=(rule,), labels=str(labels)))),
        unit_rows=64,
        run=RunOptions(workers=1),
    )
    build_dataset(recipe, curated / "classified")
    found = {row["key"]: row["domain_probability"] for row in open_dataset(curated / "classified").rows()}
    assert min(found.values()) >= 0.5
    right = sum((key in found) == sign for key, sign in rows.items()) / len(rows)
    assert right >= 0.85
    wrong = DomainConfig(domains=(DomainRule(name="signs", label="sgin"),), labels=str(labels))
    with pytest.raises(DataError, match=r"domain `signs`: .*labels.jsonl has no label 'sgin'; it has none, sign"):
        Domain(wrong, DataStageContext(lambda *a: None, None, COLUMNS)).survey(None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('name = "rings"', 'name = "signs"'), "two domains are named 'signs'"),
        (("take = 25", "tke = 25"), "unknown key `coherent.tke`; did you mean `take`"),
        (('from = "curated"', 'from = "missing"'), "no build output"),
        (('from = "curated"', 'from = "sft"'), "that is the build it is made from"),
        (('from = "curated"', ""), "from"),
    ],
)
def test_wrong_configs_are_explained_without_a_traceback(curated, capsys, change, message):
    config = curated / "wrong.toml"
    config.write_text(CONFIG.replace(*change))
    assert main(["data", "sft", "build", str(config), "--out", str(curated / "sft")]) == 2
    assert message in capsys.readouterr().err


def test_the_recipe_of_the_repository_is_read():
    app = App()
    config = app.read_config(Path(__file__).parents[3] / "recipes" / "sft-data.toml", SftConfig).config
    assert [stage.use for stage in recipe_of(config).stages] == ["decode", "size", "domain", "coherent", "rewrite"]
