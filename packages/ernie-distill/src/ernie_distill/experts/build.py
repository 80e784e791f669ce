"""``ernie distill teachers build``: trains each expert as an ordinary run, and writes the table of teachers.

A finished expert is passed over, an unfinished one goes on, so after a kill the same command ends in the same weights.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ernie_core import io
from ernie_core.api import App, RunFolderError, WeightsError, from_plain, to_toml
from ernie_core.train.checkpoint import has_checkpoints, open_checkpoint
from ernie_distill.experts.plan import CONFIGS, Planned, check_data, plan_experts
from ernie_distill.method_config import GENERALIST

TEACHERS = "teachers.toml"
DECIDING = ("codec", "encoder", "data", "model", "stages", "method", "flow", "optimizer", "optimizers", "schedule", "ema", "precision")
"""Tables that decide what a finished expert is; others may change."""


def build_teachers(path: Path, overrides: Sequence[str], out: Path, app: App, *, ranks: int | None = None) -> int:
    """Exit code 0: all experts are trained and ``out/teachers.toml`` names them; else that of ``ernie train`` where it stopped (75: by a signal).

    Raises:
        MissingComponent: no method ``sft``.
        ConfigError, DataError: before anything is trained; or as ``ernie train``.
        RunFolderError: another build is at work in ``out``, or holds experts of another config.
        WeightsError: the experts are not of one base.
    """
    with io.FolderLock(out):
        planned = plan_experts(path, overrides, io.make_folder(out / CONFIGS).parent, app)
        left = [one for one in planned if not is_finished(one)]
        if left:
            check_data(left)
        for one in left:
            app.err(f"expert `{one.expert.name}` ({planned.index(one) + 1} of {len(planned)}): {', '.join(one.expert.domains)}")
            code = _train(one, app, ranks)
            if code:
                app.err(f"expert `{one.expert.name}` is not finished; run the same command again to go on")
                return code
        check_one_base(planned)
        io.write_text(out / TEACHERS, teachers_toml(planned))
    app.out(f"{out / TEACHERS}: {len(planned)} experts over {planned[0].config.model.init}")
    return 0


def is_finished(one: Planned) -> bool:
    """
    Raises:
        RunFolderError: the run is finished, but by another config, or has gone further.
    """
    if not has_checkpoints(one.run):
        return False
    checkpoint = open_checkpoint(one.run)
    if checkpoint.step < one.config.total_steps:
        return False
    before = from_plain(checkpoint.state["config"], one.host, where=str(one.run))
    changed = [f"[{name}]" for name in DECIDING if getattr(before, name) != getattr(one.config, name)]
    changed += ["run.seed"] if before.run.seed != one.config.run.seed else []
    changed += [f"steps ({checkpoint.step}, now {one.config.total_steps})"] if checkpoint.step != one.config.total_steps else []
    if changed:
        raise RunFolderError(
            f"{one.run}: this expert was trained by another config; what differs is {', '.join(changed)}. Restore it, remove the folder to train the "
            "expert anew, or use another --out."
        )
    return True


def check_one_base(planned: Sequence[Planned]) -> None:
    """All experts are of one architecture, and all adapters were trained on the same frozen weights.

    Raises:
        WeightsError: naming two that differ.
    """
    seen: dict[str, tuple[Planned, Any]] = {}
    for one in planned:
        state = open_checkpoint(one.run).state
        network = state["networks"][state["deployed"]["transformer"]]
        facts = {"architecture": network["config"], **({} if network["trained"] else {"weights": network["sha256"]})}
        for what, fact in facts.items():
            other, before = seen.setdefault(what, (one, fact))
            if before != fact:
                raise WeightsError(
                    f"{one.run}: expert `{one.expert.name}` was trained over a base of other {what} than `{other.expert.name}`, although both name "
                    f"{one.config.model.init}: it has changed in between. Remove the folders of the experts trained over the older one and run the command again."
                )


def teachers_toml(planned: Sequence[Planned]) -> str:
    """The second config file of a distillation: the generalist and all experts, by absolute paths, since a training config's are seen from where the
    command is given."""
    teachers: list[dict[str, Any]] = [{"name": GENERALIST}]
    teachers += [{"name": one.expert.name, "path": str(one.run.resolve()), "domains": list(one.expert.domains)} for one in planned]
    head = (
        "# Written by `ernie distill teachers build`. Give it after the distillation's own config: ernie train turbo.toml teachers.toml --out DIR\n"
        f"# The experts were trained over {planned[0].config.model.init}, which must be that config's model.init. Paths are absolute: change them if the "
        "folder moves.\n\n"
    )
    return head + to_toml({"method": {"teachers": teachers}})


def _train(one: Planned, app: App, ranks: int | None) -> int:
    """``ernie train`` in this process, or with its ranks."""
    arguments = [*map(str, one.files), "--out", str(one.run), *(["--nproc", str(ranks)] if ranks is not None else [])]
    code = int(app.host.load("commands", "train")(arguments, app))
    gc.collect()  # the model of one expert must be gone before the next one's comes
    return code
