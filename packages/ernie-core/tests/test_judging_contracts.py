"""The contracts of judges pass for a sound suite and a sound scorer, and fail on those that break the law they name."""

import itertools

import numpy as np
import pytest

from ernie_core.api import EvalPrompt, PluginError
from ernie_core.testing.judging import EvaluationContract, ScorerContract, varied_pictures


class TestToySuite(EvaluationContract):
    entry = "toy-colours"

    @pytest.fixture(autouse=True)
    def _toy(self, toy_host):
        self.toy = toy_host

    def host(self):
        return self.toy

    def perfect(self, prompts):
        return [np.full((4, 4, 3), np.eye(3)[("red", "green", "blue").index(p.tags[0])] * 200, np.uint8) for p in prompts]


class Brightness:
    code = "brightness"

    def score(self, images, prompts=None):
        return np.array([image.mean() for image in images], np.float64)


class TestBrightness(ScorerContract):
    entry = "brightness"

    def build(self, context):
        return Brightness()


class BatchMean(Brightness):
    def score(self, images, prompts=None):
        scores = super().score(images)
        return scores - scores.mean() if len(scores) else scores


class Ranks(Brightness):
    def score(self, images, prompts=None):
        return np.arange(len(images), dtype=np.float64)


class Forgetful(Brightness):
    calls = itertools.count()

    def score(self, images, prompts=None):
        return super().score(images) + next(self.calls)


class Single(Brightness):
    def score(self, images, prompts=None):
        return super().score(images).astype(np.float32)


class Dividing(Brightness):
    def score(self, images, prompts=None):
        with np.errstate(all="ignore"):
            return np.array([np.float64(image.mean()) / image.std() for image in images], np.float64)


class Painting(Brightness):
    def score(self, images, prompts=None):
        for image in images:
            image[:] = 0
        return super().score(images)


class Nameless(Brightness):
    code = " "


@pytest.mark.parametrize(
    ("scorer", "test"),
    [
        (BatchMean, "a_score_does_not_depend_on_its_batch"),
        (Ranks, "a_score_does_not_depend_on_the_order"),
        (Forgetful, "scores_are_repeatable"),
        (Single, "one_finite_number_per_picture"),
        (Dividing, "one_finite_number_per_picture"),
        (Painting, "pictures_stay_as_they_were"),
        (Nameless, "code_names_what_shapes_a_score"),
    ],
)
def test_a_wrong_scorer_is_caught(scorer, test):
    case = type("Case", (ScorerContract,), {"entry": "broken", "build": lambda self, context: scorer()})()
    with pytest.raises((AssertionError, ValueError)):
        getattr(case, f"test_{test}")()


class Suite:
    code = "suite"
    ids = ("a", "b", "c")

    def prompts(self):
        return [EvalPrompt(name, f"prompt {name}", ("right",)) for name in self.ids]

    def judge(self, prompts, images):
        return [{"right": 1.0} for _ in images]


class Shuffled(Suite):
    calls = itertools.count()

    def prompts(self):
        return super().prompts()[:: 1 - 2 * (next(self.calls) % 2)]


class Promising(Suite):
    def judge(self, prompts, images):
        return [{"wrong": 1.0} for _ in images]


class Infinite(Suite):
    def judge(self, prompts, images):
        return [{"right": float("inf")} for _ in images]


class Relative(Suite):
    def judge(self, prompts, images):
        means = [image.mean() for image in images]
        return [{"right": float(mean == max(means))} for mean in means]


class Same(Suite):
    ids = ("a", "a")


class Impossible(Suite):
    def judge(self, prompts, images):
        return [{"right": 0.0} for _ in images]


@pytest.mark.parametrize(
    ("suite", "test"),
    [
        (Shuffled, "prompts_are_well_formed_and_the_same_for_everybody"),
        (Same, "prompts_are_well_formed_and_the_same_for_everybody"),
        (Promising, "every_picture_has_a_finite_value_for_each_promised_metric"),
        (Infinite, "every_picture_has_a_finite_value_for_each_promised_metric"),
        (Relative, "a_verdict_depends_neither_on_its_batch_nor_on_the_order"),
        (Impossible, "perfect_pictures_are_right"),
    ],
)
def test_a_wrong_suite_is_caught(suite, test):
    attributes = {
        "entry": "broken",
        "build": lambda self, context: suite(),
        "builder": lambda self: None,
        "perfect": lambda self, prompts: varied_pictures([(8, 8)] * len(prompts)),
    }
    case = type("Case", (EvaluationContract,), attributes)()
    with pytest.raises((AssertionError, PluginError)):
        getattr(case, f"test_{test}")()
