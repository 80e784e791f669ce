"""Choosing pairs: laws over random scores, and cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_align.pairs.choose import Rules, agreement, choose, combined, difference, thumbnail
from ernie_align.pairs.pair import Reason

from .pair_makers import picture

FREE = Rules(0.0, 0.0, 0.0, 0.0, 100, True)


def rules(**changes):
    return Rules(**{**FREE.__dict__, **changes})


def thumbnails(prompts, count):
    return [np.stack([thumbnail(picture(100 * p + n)) for n in range(count)]) for p in range(prompts)]


def chosen(scores, *, weights=None, views=None, **changes):
    scores_PNK = np.atleast_3d(np.array(scores, np.float64))
    views = views if views is not None else thumbnails(*scores_PNK.shape[:2])
    return choose(scores_PNK, views, weights_K=weights or [1.0] * scores_PNK.shape[2], rules=rules(**changes))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    prompts=st.integers(1, 4),
    count=st.integers(2, 5),
    scorers=st.integers(1, 3),
    min_margin=st.sampled_from([0.0, 0.5, 2.0]),
    quantile=st.sampled_from([0.0, 0.3, 0.9]),
    min_agreement=st.sampled_from([0.0, 0.5, 1.0]),
    most=st.integers(1, 4),
    reuse=st.booleans(),
)
def test_every_candidate_is_chosen_or_counted_and_keeps_the_rules(
    seed, prompts, count, scorers, min_margin, quantile, min_agreement, most, reuse
):
    scores_PNK = np.random.default_rng(seed).integers(0, 6, (prompts, count, scorers)).astype(np.float64)
    found = chosen(
        scores_PNK, min_margin=min_margin, quantile=quantile, min_agreement=min_agreement, pairs_per_prompt=most, reuse_pictures=reuse
    )
    assert len(found.pairs) + found.left_out.total() == prompts * count * (count - 1) // 2
    score_PN, _ = combined(scores_PNK, [1.0] * scorers)
    for pair in found.pairs:
        assert pair.margin == score_PN[pair.prompt, pair.winner] - score_PN[pair.prompt, pair.loser]
        assert pair.margin > 0
        assert pair.margin >= min_margin
        assert pair.agreement >= min_agreement - 1e-9
    for prompt in range(prompts):
        used = [number for pair in found.pairs if pair.prompt == prompt for number in (pair.winner, pair.loser)]
        assert len(used) <= 2 * most
        assert reuse or len(used) == len(set(used))


def test_the_widest_margin_of_a_prompt_comes_first():
    (pair,) = chosen([[3.0, 9.0, 1.0, 4.0]], pairs_per_prompt=1).pairs
    assert (pair.winner, pair.loser, pair.margin) == (1, 2, 8.0)
    both = chosen([[3.0, 9.0, 1.0, 4.0]], pairs_per_prompt=2, reuse_pictures=False)
    assert [(p.winner, p.loser) for p in both.pairs] == [(1, 2), (3, 0)]
    assert both.left_out == {Reason.PROMPT_FULL: 4}
    again = chosen([[3.0, 9.0, 1.0, 4.0]], pairs_per_prompt=2, reuse_pictures=True)
    assert [(p.winner, p.loser) for p in again.pairs] == [(1, 2), (1, 0)]


def test_the_quantile_drops_the_smallest_of_the_chosen():
    found = chosen([[0.0, float(margin)] for margin in (1, 2, 3, 4, 5)], quantile=0.5)
    assert [pair.margin for pair in found.pairs] == [3.0, 4.0, 5.0]
    assert found.left_out == {Reason.SMALL_QUANTILE: 2}


def test_ties_small_margins_and_disagreement_are_told_apart():
    scores = [[[1, 1], [1, 1]], [[1, 0], [0, 10]], [[5, 5], [0, 0]]]
    found = chosen(scores, min_agreement=1.0)
    assert found.left_out == {Reason.TIE: 1, Reason.DISAGREEMENT: 1}
    assert [pair.prompt for pair in found.pairs] == [2]
    assert chosen([[0.0, 1.0]], min_margin=1.5).left_out == {Reason.SMALL_MARGIN: 1}


def test_pictures_that_look_alike_are_no_pair():
    near = picture(0).astype(int)
    near[0, 0] = 255 - near[0, 0]
    views = [np.stack([thumbnail(picture(0)), thumbnail(near.astype(np.uint8)), thumbnail(picture(1))])]
    found = chosen([[0.0, 9.0, 1.0]], views=views, min_difference=0.02)
    assert found.left_out == {Reason.NEAR_IDENTICAL: 1}
    assert [(pair.winner, pair.loser) for pair in found.pairs] == [(1, 2), (2, 0)]


def test_differences_lie_between_equal_and_opposite():
    black, white = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    assert difference(black, black) == 0
    assert difference(black, white) == 1


def test_scorers_in_other_units_have_the_same_say():
    scores = np.random.default_rng(0).normal(size=(20, 4, 2))
    plain, _ = combined(scores, [1.0, 1.0])
    scaled, units = combined(scores * [1.0, 1000.0], [1.0, 1.0])
    assert np.allclose(plain, scaled)
    assert units[1] / units[0] == pytest.approx(1000, rel=0.5)


def test_a_scorer_that_tells_nothing_apart_has_no_say():
    scores = np.stack([np.random.default_rng(0).normal(size=(5, 3)), np.full((5, 3), 7.0)], axis=2)
    score_PN, units = combined(scores, [1.0, 3.0])
    assert units[1] == 0
    assert np.isfinite(score_PN).all()
    assert (np.argsort(score_PN, axis=1) == np.argsort(scores[:, :, 0], axis=1)).all()


def test_one_scorer_keeps_its_unit():
    score_PN, units = combined(np.array([[[1.0], [41.0]]]), [5.0])
    assert score_PN.tolist() == [[1.0, 41.0]]
    assert units.tolist() == [1.0]


def test_agreement_counts_weights_and_halves():
    assert agreement(np.array([1.0, 0.0]), np.array([0.0, 1.0]), [3.0, 1.0]) == 0.75
    assert agreement(np.array([1.0, 0.0]), np.array([0.0, 0.0]), [1.0, 1.0]) == 0.75
