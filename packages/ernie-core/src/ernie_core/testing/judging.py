"""Contracts of scorers and evaluation suites: a verdict is a pure function of one picture and its prompt. Light: no torch, no pytest."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ernie_core.evaluation.asks import plan_asks
from ernie_core.plugins.hookspecs import EvaluationContext, ScorerContext
from ernie_core.rng import Rng
from ernie_core.scoring import EvalPrompt, Evaluation, Scorer
from ernie_core.testing.component import ComponentContract

SIZES_PX = ((64, 64), (96, 48), (33, 65), (64, 64), (1, 1))  # width, height
PROMPTS = ("a red circle", "two blue squares", "", "the text “ÄÖ 雪”", "a very long prompt " * 40)


def varied_pictures(sizes_px: Sequence[tuple[int, int]] = SIZES_PX) -> list[NDArray[np.uint8]]:
    """One picture per size, by turns: a ramp, noise, black, white, a coloured half."""
    draws = Rng(0).at("testing/pictures", 0)
    found = []
    for i, (width, height) in enumerate(sizes_px):
        x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
        ramp = np.stack([x, y, 255 - x], axis=-1)
        noise = 255 * draws.uniform(i, (height, width, 3))
        half = np.where((x < 128)[..., None], np.array([200.0, 30.0, 40.0]), 240.0)
        found.append((ramp, noise, np.zeros_like(ramp), np.full_like(ramp, 255), half)[i % 5].astype(np.uint8))
    return found


class ScorerContract(ComponentContract):
    """``score(images, prompts) -> scores_B``: each picture by itself.

    Attributes:
        tolerance: relative and absolute, between a picture's scores in different batches; 0 is equality. Models in batches need some.
        sizes_px: width and height of the pictures; leave out what the scorer refuses.
    """

    registry: ClassVar[str] = "scorers"
    tolerance: ClassVar[float] = 0.0
    sizes_px: ClassVar[Sequence[tuple[int, int]]] = SIZES_PX
    device: ClassVar[str] = "cpu"

    def scorer(self) -> Scorer:
        return self.build(ScorerContext(self.device))

    def pictures(self) -> list[NDArray[np.uint8]]:
        return varied_pictures(self.sizes_px)

    def prompts(self) -> list[str]:
        return [PROMPTS[i % len(PROMPTS)] for i in range(len(self.sizes_px))]

    def test_code_names_what_shapes_a_score(self):
        code = self.scorer().code
        assert isinstance(code, str)
        assert code.strip()
        assert code == self.scorer().code, "two scorers of one config have different codes: nothing could be cached"

    def test_one_finite_number_per_picture(self):
        scores_B = self.scorer().score(self.pictures(), self.prompts())
        assert isinstance(scores_B, np.ndarray)
        assert scores_B.shape == (len(self.pictures()),)
        assert scores_B.dtype == np.float64
        assert np.isfinite(scores_B).all()

    def test_no_pictures_give_no_scores(self):
        assert self.scorer().score([], []).shape == (0,)

    def test_scores_are_repeatable(self):
        scorer = self.scorer()
        first = scorer.score(self.pictures(), self.prompts())
        assert np.array_equal(first, scorer.score(self.pictures(), self.prompts())), "a second call gives other scores"
        assert np.array_equal(first, self.scorer().score(self.pictures(), self.prompts())), "a second scorer gives other scores"

    def test_a_score_does_not_depend_on_its_batch(self):
        scorer, pictures, prompts = self.scorer(), self.pictures(), self.prompts()
        together_B = scorer.score(pictures, prompts)
        for i, score in enumerate(together_B):
            alone = scorer.score(pictures[i : i + 1], prompts[i : i + 1])
            np.testing.assert_allclose(
                alone, [score], rtol=self.tolerance, atol=self.tolerance, err_msg=f"picture {i}, alone and with others"
            )

    def test_a_score_does_not_depend_on_the_order(self):
        scorer, pictures, prompts = self.scorer(), self.pictures(), self.prompts()
        backwards = scorer.score(pictures[::-1], prompts[::-1])
        np.testing.assert_allclose(backwards[::-1], scorer.score(pictures, prompts), rtol=self.tolerance, atol=self.tolerance)

    def test_pictures_stay_as_they_were(self):
        pictures = self.pictures()
        for picture in pictures:
            picture.flags.writeable = False
        self.scorer().score(pictures, self.prompts())
        assert all(np.array_equal(a, b) for a, b in zip(pictures, self.pictures(), strict=True))


class EvaluationContract(ComponentContract):
    """Prompts in a fixed order, and a judge of each picture by itself.

    Attributes:
        tolerance: as of ``ScorerContract``.
        judged: so many prompts, spread over the suite, are judged.
    """

    registry: ClassVar[str] = "evaluations"
    tolerance: ClassVar[float] = 0.0
    judged: ClassVar[int] = 10
    device: ClassVar[str] = "cpu"

    def evaluation(self) -> Evaluation:
        return self.build(EvaluationContext(self.builder(), self.device))

    def builder(self) -> Callable[..., Any]:
        """What builds the scorers that the suite's config selects."""
        return self.host().build

    def perfect(self, prompts: Sequence[EvalPrompt]) -> Sequence[NDArray[np.uint8]] | None:
        """Pictures that show what the prompts ask for, where a suite can make them: each must have 1 in its first metric."""
        return None

    def cases(self, evaluation: Evaluation) -> tuple[list[EvalPrompt], list[NDArray[np.uint8]]]:
        prompts = list(evaluation.prompts())
        count = min(self.judged, len(prompts))
        chosen = [prompts[i * len(prompts) // count] for i in range(count)]
        return chosen, varied_pictures([SIZES_PX[i % len(SIZES_PX)] for i in range(count)])

    def test_code_names_what_shapes_a_verdict(self):
        code = self.evaluation().code
        assert isinstance(code, str)
        assert code.strip()
        assert code == self.evaluation().code

    def test_prompts_are_well_formed_and_the_same_for_everybody(self):
        prompts = list(self.evaluation().prompts())
        plan_asks(prompts, suite=self.entry)
        assert prompts == list(self.evaluation().prompts())
        for prompt in prompts:
            assert all(isinstance(name, str) and re.fullmatch(r"\S(.*\S)?", name) for name in (*prompt.metrics, *prompt.tags)), prompt.id

    def test_every_picture_has_a_finite_value_for_each_promised_metric(self):
        evaluation = self.evaluation()
        prompts, pictures = self.cases(evaluation)
        verdicts = evaluation.judge(prompts, pictures)
        assert len(verdicts) == len(prompts)
        for prompt, verdict in zip(prompts, verdicts):
            assert set(verdict) == set(prompt.metrics), f"{prompt.id}: {sorted(verdict)} in place of {sorted(prompt.metrics)}"
            assert all(np.isfinite(float(value)) for value in verdict.values()), prompt.id

    def test_verdicts_are_repeatable(self):
        evaluation = self.evaluation()
        prompts, pictures = self.cases(evaluation)
        first = _plain(evaluation.judge(prompts, pictures))
        assert first == _plain(evaluation.judge(prompts, pictures)), "a second call judges otherwise"
        assert first == _plain(self.evaluation().judge(prompts, pictures)), "a second suite judges otherwise"

    def test_a_verdict_depends_neither_on_its_batch_nor_on_the_order(self):
        evaluation = self.evaluation()
        prompts, pictures = self.cases(evaluation)
        together = evaluation.judge(prompts, pictures)
        backwards = evaluation.judge(prompts[::-1], pictures[::-1])[::-1]
        for i, prompt in enumerate(prompts):
            (alone,) = evaluation.judge([prompt], [pictures[i]])
            for other in (alone, backwards[i]):
                for name, value in together[i].items():
                    np.testing.assert_allclose(other[name], value, rtol=self.tolerance, atol=self.tolerance, err_msg=f"{prompt.id}: {name}")

    def test_pictures_stay_as_they_were(self):
        evaluation = self.evaluation()
        prompts, pictures = self.cases(evaluation)
        for picture in pictures:
            picture.flags.writeable = False
        evaluation.judge(prompts, pictures)
        assert all(np.array_equal(a, b) for a, b in zip(pictures, self.cases(evaluation)[1], strict=True))

    def test_perfect_pictures_are_right(self):
        evaluation = self.evaluation()
        prompts, _ = self.cases(evaluation)
        pictures = self.perfect(prompts)
        if pictures is not None:
            for prompt, verdict in zip(prompts, evaluation.judge(prompts, pictures), strict=True):
                assert verdict[prompt.metrics[0]] == 1, f"{prompt.id} ({prompt.prompt}): {dict(verdict)}"


def _plain(verdicts: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    return [{name: float(value) for name, value in verdict.items()} for verdict in verdicts]
