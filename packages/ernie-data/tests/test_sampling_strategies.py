"""The comparators with two axes and with staged filters, against their formulas picture by picture."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_core.api import App, ConfigError, DataError, recheck
from ernie_data.cli import main as data
from ernie_data.sampling.build import Chunk, build_index
from ernie_data.sampling.config import SamplingConfig, read_sampling
from ernie_data.sampling.hierarchy import class_table
from ernie_data.sampling.strategies import KNOBS_OF, STRATEGIES, build_law

INF = float("inf")
NAMES = ("nature/trees", "nature/birds", "design/posters", "people", "synthetic")
MIX = {"nature/*": 55.0, "design/*": 27.0, "people": 13.0, "synthetic": 5.0}


def distinct(seed=0, *, classes=5, count=200):
    """Pictures whose scores are few and far apart, so that a bin holds one score and binning changes nothing."""
    rng = np.random.default_rng(seed)
    category_N = np.concatenate([np.arange(classes), rng.integers(classes, size=count - classes) ** 2 % classes])
    score_N = rng.integers(0, 8, count) / 2.0
    table, bin_N = class_table(category_N, score_N, classes=classes, bins=64)
    return category_N, score_N, bin_N, table


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 1.0, 1.5]), st.sampled_from([0.1, 1.0, 3.0, INF]))
def test_dual_axis_is_its_formula_for_every_picture(seed, alpha, tau):
    category_N, score_N, bin_N, table = distinct(seed)
    law = build_law(table, SamplingConfig(strategy="dual-axis", alpha=alpha, tau_i=tau))
    size_N = np.bincount(category_N)[category_N]
    weight_N = size_N ** (alpha - 1.0) * np.exp((score_N - score_N.max()) / tau)
    assert np.allclose(law.row_KJ[category_N, bin_N], weight_N / weight_N.sum(), rtol=1e-9, atol=0)
    assert abs(law.row_KJ[category_N, bin_N].sum() - 1) < 1e-12


def test_dual_axis_has_the_other_comparators_as_limits():
    table = distinct()[-1]
    for alpha, other in ((0.0, "class-balanced"), (1.0, "uniform-image")):
        law = build_law(table, SamplingConfig(strategy="dual-axis", alpha=alpha, tau_i=INF))
        assert np.allclose(law.row_KJ, build_law(table, SamplingConfig(strategy=other)).row_KJ, rtol=1e-12, atol=0)


def test_dual_axis_prefers_rare_captions_by_a_factor_that_no_cluster_changes():
    category_N, score_N, bin_N, table = distinct()
    law = build_law(table, SamplingConfig(strategy="dual-axis", alpha=0.3))
    row_N = law.row_KJ[category_N, bin_N]
    for category in range(5):
        mine = category_N == category
        low, high = score_N[mine].argmin(), score_N[mine].argmax()
        assert row_N[mine][high] / row_N[mine][low] == pytest.approx(np.exp(np.ptp(score_N[mine])))


def test_a_cluster_cut_in_two_weighs_more_by_the_power_that_two_levels_have():
    score_N = np.zeros(60)
    whole = class_table(np.repeat([0, 1], [40, 20]), score_N, classes=2)[0]
    halves = class_table(np.repeat([0, 1, 2], [20, 20, 20]), score_N, classes=3)[0]
    for alpha in (0.0, 0.5, 1.0):
        config = SamplingConfig(strategy="dual-axis", alpha=alpha)
        a, b = build_law(whole, config).class_K, build_law(halves, config).class_K
        assert (b[0] + b[1]) / b[2] == pytest.approx(2 ** (1 - alpha) * a[0] / a[1], rel=1e-12)


def test_every_domain_gets_its_share_and_its_pictures_are_alike():
    category_N, score_N, bin_N, table = distinct()
    config = SamplingConfig(strategy="staged-filters", domains=MIX, filters=((256, 0.5), (1024, 2.0)), size_px=512)
    law = build_law(table, config, NAMES)
    row_N = law.row_KJ[category_N, bin_N]
    domain_N = np.array([0, 0, 1, 2, 3])[category_N]
    for domain, share in enumerate((0.55, 0.27, 0.13, 0.05)):
        kept = (domain_N == domain) & (score_N >= 0.5)
        assert np.allclose(row_N[kept], share / kept.sum(), rtol=1e-12, atol=0)
    assert not row_N[score_N < 0.5].any()


def test_filters_tighten_with_the_resolution():
    category_N, score_N, bin_N, table = distinct()
    kept = []
    for size in (0, 256, 640, 4000):
        config = SamplingConfig(strategy="staged-filters", filters=((256, 1.0), (640, 2.5), (1328, 3.0)), size_px=size)
        row_N = build_law(table, config).row_KJ[category_N, bin_N]
        least = {0: -INF, 256: 1.0, 640: 2.5, 4000: 3.0}[size]
        assert np.array_equal(row_N > 0, score_N >= least)
        kept.append(row_N > 0)
    assert all((fine <= coarse).all() and fine.sum() < coarse.sum() for coarse, fine in pairwise(kept))


def test_one_filter_without_domains_is_the_hard_threshold():
    table = distinct()[-1]
    staged = build_law(table, SamplingConfig(strategy="staged-filters", filters=((1, 2.0),), size_px=1))
    hard = build_law(table, SamplingConfig(strategy="hard-threshold", min_score=2.0))
    assert np.allclose(staged.row_KJ, hard.row_KJ, rtol=1e-15, atol=0)


def test_domains_are_told_apart_by_the_first_pattern_that_fits_and_must_hold_all():
    table = distinct()[-1]
    first = SamplingConfig(strategy="staged-filters", domains={"nature/birds": 1, "*": 3})
    assert build_law(table, first, NAMES).class_K[1] == pytest.approx(0.25, rel=1e-12)
    with pytest.raises(ConfigError, match="'people', 'synthetic' fit none of 'nature/\\*', 'design/\\*'; add a pattern"):
        build_law(table, SamplingConfig(strategy="staged-filters", domains={"nature/*": 1, "design/*": 1}), NAMES)
    with pytest.raises(
        ConfigError, match="`domains`: 'birds\\*' fit no category that an earlier pattern leaves; categories are 'nature/trees', "
    ):
        build_law(table, SamplingConfig(strategy="staged-filters", domains={"*": 1, "birds*": 1}), NAMES)
    with pytest.raises(ConfigError, match="their names are not known here"):
        build_law(table, SamplingConfig(strategy="staged-filters", domains=MIX))
    with pytest.raises(DataError, match="the filter of 512 px \\(raw score 9\\) leaves no picture of the domain 'nature/\\*'"):
        build_law(table, SamplingConfig(strategy="staged-filters", domains=MIX, filters=((512, 9.0),), size_px=512), NAMES)


@pytest.mark.parametrize("filters", [((512, 1.0), (256, 2.0)), ((256, 2.0), (512, 1.0)), ((256, 1.0), (256, 1.0)), ((256, INF),)])
def test_filters_that_do_not_tighten_are_refused(filters):
    with pytest.raises(ValueError, match="`filters` must be pairs"):
        SamplingConfig(filters=filters)


def test_shares_of_domains_are_checked():
    with pytest.raises(ValueError, match="must be finite"):
        SamplingConfig(domains={"*": INF})
    with pytest.raises(ConfigError, match="domains"):
        recheck(SamplingConfig(domains={"*": 0.0}))


def test_a_config_file_and_the_command_line_say_the_same(tmp_path, capsys):
    category_N, score_N, _, _ = distinct()
    n = len(category_N)
    chunk = Chunk(
        np.zeros(n, int), category_N, score_N, *(np.zeros(n, int) for _ in range(3)), np.ones(n, int), np.zeros((n, 32), np.uint8)
    )
    build_index(tmp_path / "index", lambda: [chunk], buckets=((512, 512),), categories=NAMES, shards=("a.tar",))
    path = tmp_path / "sampling.toml"
    path.write_text(
        'index = "index"\nstrategy = "staged-filters"\ndraws = 100\nsize_px = 512\nfilters = [[256, 0.5], [1024, 2.0]]\n'
        '[domains]\n"nature/*" = 55\n"design/*" = 27\npeople = 13\nsynthetic = 5\n'
    )
    assert read_sampling(path).filters == ((256, 0.5), (1024, 2.0))
    assert data(["sampling", "plan", str(path), "--json"], App()) == 0
    by_file = json.loads(capsys.readouterr().out)
    flags = ["--strategy", "staged-filters", "--draws", "100", "--size-px", "512", "--filters", "256:0.5,1024:2"]
    flags += ["--domains", "nature/*=55,design/*=27,people=13,synthetic=5"]
    assert data(["sampling", "plan", str(tmp_path / "index"), *flags, "--json"], App()) == 0
    by_flags = json.loads(capsys.readouterr().out)
    assert {**by_file, "index": ""} == {**by_flags, "index": ""}
    shown = "  max_repeats 4, filters 256:0.5 1024:2, size_px 512, domains nature/*=55 design/*=27 people=13 synthetic=5"
    for arguments in ([str(path)], [str(tmp_path / "index"), *flags]):
        assert data(["sampling", "plan", *arguments], App()) == 0
        assert shown in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"--filters .*must be pairs"):
        data(["sampling", "plan", str(tmp_path / "index"), "--filters", "512:1,256:2"], App())
    path.write_text('index = "index"\nfilters = [[512, 1.0], [256, 2.0]]\n')
    with pytest.raises(ConfigError, match=r"sampling.toml:2: `filters`: .*must be pairs"):
        read_sampling(path)
    with pytest.raises(SystemExit):
        data(["sampling", "plan", str(tmp_path / "index"), "--filters", "256"], App())


def test_every_strategy_says_which_knobs_matter():
    assert KNOBS_OF.keys() == STRATEGIES.keys()
    assert {knob for knobs in KNOBS_OF.values() for knob in knobs} < set(SamplingConfig.__struct_fields__)
