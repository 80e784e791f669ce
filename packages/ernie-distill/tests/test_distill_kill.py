"""K1 at CI size: ``kill -9`` leaves no trace, in either turn, in the fake score's warm-up, and with a trajectory that is made anew. R2: two ranks see what one sees."""

from typing import ClassVar

import pytest

from ernie_core.testing.mishaps import at_step, in_call
from ernie_core.testing.resume import KillContract, train_command
from ernie_core.testing.runs import logged, write_config

from .distill_makers import ADAPTER, DATA, SHORT, from_teacher, options

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


@pytest.mark.parametrize("reuse", [False, True])
def test_two_ranks_see_what_one_sees(made, nursery, tmp_path, reuse):
    """R2: micro-batches of one, so that a domain is on one rank only; steps of the rollout, levels, turns and looks are the same."""
    teachers = [{"name": "generalist"}, {"name": "adapter", "path": str(made["adapter"]), "domains": ["warm"]}]
    whole = {"run": {"steps": 12, "micro_batch_size": 1}, "validation": {"samples": 3}}
    config = write_config(
        tmp_path / "run.toml", from_teacher(made["base"], whole, {"method": options(teachers=teachers, reuse_trajectory=reuse)})
    )
    one = nursery.start(train_command(config, tmp_path / "one"), log=tmp_path / "log")
    ranks = nursery.start_ranks(2, train_command(config, tmp_path / "two"), log=tmp_path / "logs")
    for process in (one, *ranks):
        assert process.wait() == 0, process.output()
    looks = [f"validation/distill/{name}" for name in ("saturation", "diversity", "match_norm")]
    for name in ("distill/fake_loss", "distill/match_norm", "distill/guidance_norm", "gate/dm/adapter/warm", "grad_norm/student", *looks):
        rows = [logged(tmp_path / run, name) for run in ("one", "two")]
        assert rows[0], name
        assert rows[0] == pytest.approx(rows[1], rel=1e-4), name
