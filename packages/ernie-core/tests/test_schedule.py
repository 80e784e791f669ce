"""Learning-rate factors as functions of the step."""

import pytest

from ernie_core.config.run import ScheduleTable
from ernie_core.train.schedule import learning_rate_factor


def factors(table, steps, decay_steps):
    return [learning_rate_factor(table, step, decay_steps=decay_steps) for step in steps]


def test_warm_up_rises_linearly_and_already_learns_at_the_first_step():
    assert factors(ScheduleTable(warmup_steps=4), range(6), 100) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_decay_starts_at_one_falls_monotonically_and_stays_at_the_final_factor(kind):
    table = ScheduleTable(kind=kind, warmup_steps=10, final_factor=0.1)
    values = factors(table, range(10, 130), 110)
    assert values[0] == 1.0
    assert values == sorted(values, reverse=True)
    assert values[50] == pytest.approx(0.55)  # halfway, both shapes are halfway
    assert values[100] == values[119] == pytest.approx(0.1)


def test_a_schedule_shorter_than_its_warm_up_does_not_divide_by_zero():
    assert learning_rate_factor(ScheduleTable(kind="cosine", warmup_steps=5), 5, decay_steps=3) == 1.0
