"""Charts of reports: whatever they are given, they are elements with numbers in them."""

import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from ernie_core.report.charts import Chart, Line, figure, svg, thinned, ticks

points = st.lists(st.tuples(st.integers(0, 10**6), st.floats(allow_nan=True, allow_infinity=True, width=32)), max_size=40)


@given(points, st.booleans())
def test_any_points_give_a_chart_with_nothing_but_numbers_in_it(found, log):
    drawn = svg(Chart([Line("a", sorted(found))], marks=[(1.0, "one")], log=log), "t")
    ET.fromstring(drawn)
    assert "nan" not in drawn
    assert "inf" not in drawn


@given(points, st.integers(1, 10))
def test_thinning_keeps_the_mean_of_whole_chunks_and_the_last_step(found, most):
    kept = thinned(found, most)
    assert len(kept) <= most
    finite = [x for x, y in found if abs(y) < float("inf")]
    assert not finite or kept[-1][0] == finite[-1]


def test_ticks_are_round_numbers():
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_names_of_lines_are_escaped():
    assert "&lt;b&gt;" in figure("t", "n", [Chart([Line("<b>", [(1, 1)])])])
