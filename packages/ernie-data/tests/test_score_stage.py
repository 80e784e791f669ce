"""The stage `score`: any scorer's number becomes a column, and another scorer is other work."""

import io

import numpy as np
import pytest
from PIL import Image

from ernie_core.api import ConfigError, DataError, DataStageContext, ErnieError, PluginHost, ScorerContext, Selection
from ernie_data.engine.build import build_dataset
from ernie_data.engine.stage import Item, Refuse
from ernie_data.reasons import ReasonCode
from ernie_data.recipe import FolderInput, Recipe, RunOptions
from ernie_data.scoring.entries import ScoreConfig
from ernie_data.scoring.score import build
from ernie_data.tables import read_rows

SHAPES = Selection("shapes-quality")


class Scorer:
    """Mean level, or what the test says; keeps what it was asked."""

    def __init__(self, code="7", answer=None):
        self.code, self.answer, self.asked = code, answer, []

    def score(self, images, prompts=None):
        self.asked.append(prompts)
        return np.array([image.mean() for image in images]) if self.answer is None else self.answer


def stage_of(scorer, **options):
    seen = []

    def component(registry, selection, context):
        seen.append((registry, selection.use, context))
        return scorer

    stage = build(ScoreConfig(scorer=SHAPES, **options), DataStageContext(component))
    assert seen == [("scorers", "shapes-quality", ScorerContext(device=options.get("device", "cpu")))]
    return stage


def item(level: int, **columns) -> Item:
    data = io.BytesIO()
    Image.fromarray(np.full((20, 30, 3), level, np.uint8)).save(data, format="PNG")
    return Item(f"k{level}", columns, data.getvalue)


def test_every_picture_gets_its_score_in_the_column_that_was_named():
    stage = stage_of(Scorer(), column="brightness", batch_size=2)
    assert stage.columns == {"brightness": "float"}
    assert stage.actor
    assert [kept.columns for kept in stage.process(item(n) for n in (3, 5, 7))] == [{"brightness": n} for n in (3, 5, 7)]


def test_the_code_holds_the_scorers():
    assert stage_of(Scorer("7")).code != stage_of(Scorer("8")).code


def test_a_picture_that_is_no_longer_whole_is_refused_and_the_others_keep_their_scores():
    broken = Item("broken", {}, lambda: b"no picture")
    outcomes = list(stage_of(Scorer()).process([item(3), broken, item(9)]))
    assert [outcome.columns for outcome in (outcomes[0], outcomes[2])] == [{"score": 3}, {"score": 9}]
    assert isinstance(outcomes[1], Refuse)
    assert outcomes[1].reason == ReasonCode.PICTURE_DAMAGED


def test_a_batch_of_refused_pictures_asks_nothing():
    scorer = Scorer()
    assert [type(o) for o in stage_of(scorer).process([Item("broken", {}, lambda: b"")])] == [Refuse]
    assert scorer.asked == []


def test_captions_of_a_style_are_prompts_and_a_record_without_one_is_refused():
    scorer = Scorer()
    stage = stage_of(scorer, prompt_style="request")
    assert stage.needs == ("captions",)
    list(stage.process([item(3, captions={"request": "a cat", "keywords": "cat"})]))
    assert scorer.asked == [["a cat"]]
    kept, refused = stage.process([item(5, captions={"request": "a dog"}), item(4, captions={"keywords": "cat"})])
    assert kept.columns == {"score": 5}
    assert (refused.reason, refused.detail) == (
        ReasonCode.NOT_SCORED,
        "no caption in the style 'request' that is to be its prompt; it has keywords",
    )


class Choosy(Scorer):
    """Refuses a batch that holds a dark picture, as a scorer may."""

    def score(self, images, prompts=None):
        if any(image.mean() < 4 for image in images):
            raise DataError("too dark to judge")
        return super().score(images, prompts)


def test_a_picture_that_the_scorer_refuses_costs_itself_and_not_its_batch():
    first, dark, last = stage_of(Choosy()).process(item(n) for n in (9, 3, 6))
    assert (first.columns, last.columns) == ({"score": 9}, {"score": 6})
    assert (dark.reason, dark.detail) == (ReasonCode.NOT_SCORED, "too dark to judge")


@pytest.mark.parametrize("answer", [np.zeros(2), np.zeros((1, 1))])
def test_a_scorer_that_answers_otherwise_is_an_error(answer):
    with pytest.raises(ErnieError, match="the scorer 'shapes-quality' gave"):
        list(stage_of(Scorer(answer=answer)).process([item(3)]))


def test_a_score_that_is_not_finite_costs_its_picture_alone():
    first, lost, last = stage_of(Scorer(answer=np.array([1.0, np.nan, np.inf]))).process(item(n) for n in (9, 3, 6))
    assert first.columns == {"score": 1}
    assert [(o.reason, o.detail) for o in (lost, last)] == [
        (ReasonCode.NOT_SCORED, "the score is nan"),
        (ReasonCode.NOT_SCORED, "the score is inf"),
    ]


def test_a_column_of_the_engine_is_refused():
    with pytest.raises(ConfigError, match="'stage' belongs to the engine"):
        build(ScoreConfig(scorer=SHAPES, column="stage"), DataStageContext(PluginHost.discover().build))


def test_the_scorer_of_shapebench_scores_a_build(tmp_path):
    (tmp_path / "raw").mkdir()
    for level in (40, 200):
        Image.fromarray(np.full((32, 32, 3), level, np.uint8)).save(tmp_path / "raw" / f"{level}.png")
    stages = (Selection("decode"), Selection("score", ScoreConfig(scorer=SHAPES)))
    source = Selection("folder", FolderInput(path=str(tmp_path / "raw")))
    build_dataset(Recipe(sources=(source,), stages=stages, run=RunOptions(workers=1)), tmp_path / "out")
    rows = [row for path in (tmp_path / "out" / "score").glob("*/rows.parquet") for row in read_rows(path)]
    assert len(rows) == 2
    assert all(1 <= row["score"] <= 10 for row in rows)
