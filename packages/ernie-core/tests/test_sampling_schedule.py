"""The list of noise levels."""

import pytest
import torch

from ernie_core.errors import ConfigError
from ernie_core.sampling.schedule import inference_sigmas


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        (3.0, (1, 0.9545, 0.9, 0.8333, 0.75, 0.6429, 0.5, 0.3, 0)),
        (4.0, (1, 0.9655, 0.9231, 0.8696, 0.8, 0.7059, 0.5714, 0.3636, 0)),
    ],
)
def test_eight_steps_visit_the_released_levels(shift, expected):
    assert inference_sigmas(8, shift) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("steps", [1, 4, 8, 27, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0, 4.0])
def test_levels_are_bit_for_bit_the_schedulers(steps, shift):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is the reference")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    scheduler.set_timesteps(sigmas=torch.linspace(1.0, 0.0, steps + 1)[:-1])
    assert torch.equal(torch.tensor(inference_sigmas(steps, shift)), scheduler.sigmas)


def test_impossible_schedules_are_refused():
    with pytest.raises(ConfigError, match="steps = 0: expected at least 1"):
        inference_sigmas(0, 3.0)
    with pytest.raises(ConfigError, match=r"shift = 0\.0: expected more than 0"):
        inference_sigmas(4, 0.0)
