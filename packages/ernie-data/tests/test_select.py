"""The stage `select`: an expression over one record's columns, checked before any work."""

import numpy as np
import pytest
from PIL import Image

from ernie_core.api import ConfigError, DataStageContext, PluginHost, Selection
from ernie_data.engine.build import build_dataset
from ernie_data.engine.stage import Item, Kept, Refuse
from ernie_data.reasons import ReasonCode
from ernie_data.recipe import FolderInput, Recipe, RunOptions
from ernie_data.scoring.condition import Condition
from ernie_data.scoring.entries import SelectConfig
from ernie_data.scoring.select import build
from ernie_data.tables import read_rows

COLUMNS = {
    "score": "float",
    "width": "int",
    "enlarged": "bool",
    "captions": "map",
    "ocr_text": "strings",
    "caption": "json",
    "embedding": "floats",
    "Bucket": "string",
}
ROWS = [
    {
        "key": "a",
        "score": 6.0,
        "width": 64,
        "enlarged": True,
        "captions": {"request": "a cat"},
        "ocr_text": ["STOP", "x"],
        "caption": {"subject": "cat"},
        "embedding": np.array([1, 0], np.float32),
        "Bucket": "64x64",
    },
    {"key": "b", "score": 2.0, "width": 32},
    {"key": "c"},
]


def stage(where: str, columns=COLUMNS):
    return build(SelectConfig(where=where, name="good ones"), DataStageContext(PluginHost.discover().build, columns=columns))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("score > 1", "ab"),
        ("score > 1 -- a comment", "ab"),
        ("SCORE > 1 and width >= 64", "a"),
        ("score is null", "c"),
        ("not score > 3", "b"),
        ("true", "abc"),
        ("key in ('a', 'c')", "ac"),
        ("enlarged", "a"),
        ("captions['request'] like '%cat%'", "a"),
        ("list_contains(ocr_text, 'STOP')", "a"),
        ("len([t for t in ocr_text if len(t) > 1]) = 1", "a"),
        ("caption->>'$.subject' = 'cat'", "a"),
        ("array_cosine_similarity(embedding::float[2], [1, 0]::float[2]) > .9", "a"),
        ("bucket = '64x64'", "a"),
        ("case when score > 3 then false else true end", "bc"),
    ],
)
def test_records_for_which_it_holds_are_kept_and_null_is_not(where, expected):
    outcomes = list(stage(where).process(Item(row["key"], row, bytes) for row in ROWS))
    assert "".join(row["key"] for row, outcome in zip(ROWS, outcomes) if isinstance(outcome, Kept)) == expected
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refuse)]
    assert all((r.reason, r.detail) == (ReasonCode.NOT_SELECTED, "good ones") for r in refused)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("scor > 1", "there is no column scor"),
        ("score >", "syntax error"),
        ("score > 'high'", "Could not convert string 'high'"),
        ("score", "expected a truth value, found DOUBLE"),
        ("null", "expected a truth value, found .?NULL"),
        ("nothing(score)", "nothing does not exist"),
        ("score > avg(score)", "`avg` looks at several records"),
        ("row_number() over () > 2", "a window function is not a record's own"),
        ("score in (select 1)", "a subquery"),
        ("score > (select avg(score) from rows)", "a subquery"),
        ("*", "`\\*`"),
        ("columns('score') > 1", "`\\*`"),
        ("score > $1", "a parameter"),
        ("random() < 0.5", "`random` depends on chance"),
        ("uuid() = key", "`uuid` depends on"),
        ("today() > date '2020-01-01'", "`today` depends on"),
        ("current_date > date '2020-01-01'", "there is no column current_date"),
        ("current_setting('threads') = '1'", "`current_setting` depends on"),
        ("rows.score > 1", "there is no column rows"),
        ("true), (false", "a single expression"),
        ("true) from rows; drop table rows; select (true", "SELECT"),
        ("true) from rows where (true", "syntax error"),
        ("exists(select * from read_csv('/etc/passwd'))", "a subquery"),
        ("error('x')", "x"),
    ],
)
def test_a_bad_expression_is_refused_before_any_work_with_the_columns_there_are(where, message):
    with pytest.raises(ConfigError, match=message) as error:
        stage(where)
    assert "Columns: Bucket, caption, captions, embedding, enlarged, key, ocr_text, score, width" in str(error.value)
    assert "the stage `select`" in str(error.value)
    assert error.value.exit_code == 2


def test_a_value_that_the_expression_fails_for_is_named():
    condition = Condition("cast(key as int) > 1", {})
    assert condition.evaluate([{"key": "2"}]) == [True]
    with pytest.raises(ConfigError, match="Could not convert string 'b' to INT32"):
        condition.evaluate([{"key": "b"}])


def test_neighbours_and_batches_do_not_show():
    rows = [{"key": f"{n}", "score": float(n % 7)} for n in range(3000)]
    condition = Condition("score > 3 and hash(key) % 2 = 0", {"score": "float"})
    assert condition.evaluate(rows) == [condition.evaluate([row])[0] for row in rows[:40]] + condition.evaluate(rows[40:])


def test_the_columns_and_their_types_name_the_work():
    assert stage("score > 1").needs == ("score",)
    assert stage("score > 1").code != stage("score > 1", {"score": "int"}).code
    assert stage("score > 1").code == stage("score > 1", {"score": "float"}).code


def test_a_selection_in_a_build_and_a_bad_one_that_leaves_nothing_behind(tmp_path):
    (tmp_path / "raw").mkdir()
    for n in range(10):
        Image.fromarray(np.full((8, 8 + n, 3), 10 * n, np.uint8)).save(tmp_path / "raw" / f"{n}.png")

    def recipe(where):
        stages = (Selection("decode"), Selection("size"), Selection("select", SelectConfig(where=where, name="narrow")))
        return Recipe(
            sources=(Selection("folder", FolderInput(path=str(tmp_path / "raw"))),), stages=stages, unit_rows=4, run=RunOptions(workers=1)
        )

    with pytest.raises(ConfigError, match="there is no column wide"):
        build_dataset(recipe("wide < 12"), tmp_path / "bad")
    assert not (tmp_path / "bad" / "scan").exists()
    about = build_dataset(recipe("width < 12 and aspect > 1"), tmp_path / "out")
    assert about["accepted"] == 3
    assert about["stages"][-1]["rejected"] == {"not_selected": 7}
    rejected = read_rows(tmp_path / "out" / "rejected.parquet")
    assert {row["detail"] for row in rejected} == {"narrow"}
