"""K1 at CI size: ``kill -9`` leaves no trace: in either turn, during the fake score's warm-up, and with a trajectory that is made anew."""

from typing import ClassVar

import pytest

from ernie_core.testing.mishaps import at_step, in_call
from ernie_core.testing.resume import KillContract

from .distill_makers import ADAPTER, DATA, SHORT

pytestmark = pytest.mark.battery


class OnPrompts(KillContract):
    """Steps 0 to 2 are the warm-up, 5, 8 and 11 the student's; a checkpoint every 4."""

    entry = "mt-dmd"
    tables: ClassVar = DATA
    options: ClassVar = {"adapter": ADAPTER, **SHORT, "fake_warmup_steps": 3}
    kills = (
        (at_step(2, "SIGKILL"),),
        (in_call("ernie_distill.method:MtDmd._student_loss", "SIGKILL", call=2),),
        (in_call("ernie_distill.method:MtDmd._fake_loss", "SIGKILL", call=6),),
        (at_step(6, "SIGKILL"), at_step(9, "SIGKILL")),
    )


class TestAdapterKills(OnPrompts):
    pass


class TestReusedTrajectoryKills(OnPrompts):
    options: ClassVar = {**OnPrompts.options, "reuse_trajectory": True}
    kills = ((at_step(5, "SIGKILL"), at_step(7, "SIGKILL")),)
    test_two_ranks_of_which_one_is_killed_end_and_resume_bitwise = None


class TestAllWeightsKills(OnPrompts):
    options: ClassVar = {**OnPrompts.options, "adapter": False, "rollout": "renoise"}
    kills = ((at_step(7, "SIGKILL"), in_call("ernie_distill.method:MtDmd.validate", "SIGKILL", call=1)),)
    test_two_ranks_of_which_one_is_killed_end_and_resume_bitwise = None
