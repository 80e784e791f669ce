"""The files of a run folder beside its checkpoints: the resolved config, ``run.json``, the ledger, and the rules of resuming."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ernie_core import io
from ernie_core.errors import RunFolderError
from ernie_core.redact import redact
from ernie_core.train.observers import keep_until

LEDGER = "ledger.jsonl"

# What a resumed run may change: nothing here enters the mathematics of a step. `run.steps` and the last stage's steps only move the end; a method's
# `alarms`, if it has any, only say when to stop, and who was stopped for nothing must be able to go on.
CHANGEABLE = ("run.steps", "data_workers", "engine", "cache", "logging", "plugins", "samples", "validation", "checkpoint", "method.alarms")


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted paths at which two plain configs differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from differences(a, b, f"{path}[{i}]")
    elif old != new:
        yield path, old, new


def check_resumable(run: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to go on under a config that would have trained something else.

    Raises:
        RunFolderError: listing old and new values.
    """
    last = len(old.get("stages", ())) - 1
    allowed = (*CHANGEABLE, f"stages[{last}].steps")
    changed = [(p, a, b) for p, a, b in differences(old, new) if not any(p == c or p.startswith((c + ".", c + "[")) for c in allowed)]
    if changed:
        rows = "\n".join(f"  {p}: was {json.dumps(a)}, now {json.dumps(b)}" for p, a, b in changed)
        raise RunFolderError(
            f"{run}: its checkpoints were made by another config:\n{rows}\nRestore these values, or use another --out. "
            f"A resumed run may change only {', '.join(CHANGEABLE)} and the last stage's steps."
        )


def check_plugins(run: Path, old: Mapping[str, str], new: Mapping[str, str], *, accept: bool) -> None:
    """Another plugin set is another experiment, unless the user accepts it.

    Raises:
        RunFolderError: listing what changed.
    """
    changed = [f"  {n}: was {old.get(n, 'absent')}, now {new.get(n, 'absent')}" for n in sorted({*old, *new}) if old.get(n) != new.get(n)]
    if changed and not accept:
        raise RunFolderError(
            f"{run}: its checkpoints were made with another plugin set:\n"
            + "\n".join(changed)
            + "\nRestore it, or pass --accept-plugins to go on."
        )


def check_data(run: Path, old: str, new: str) -> None:
    """Another data set under the same config is another experiment. ``""``: the source is known by its config alone.

    Raises:
        RunFolderError: naming both.
    """
    if old != new:
        raise RunFolderError(
            f"{run}: its checkpoints were made from other data: was {old or 'known by the config alone'}, now "
            f"{new or 'known by the config alone'}. Restore the data, or use another --out."
        )


def record(run: Path, event: str, *, step: int, **facts: Any) -> None:
    """One durable line in the ledger: what was refused, rolled back or passed over."""
    io.append_line(run / LEDGER, redact(json.dumps({"event": event, "step": step, **facts}, sort_keys=True)), durable=True)


def forget_after(run: Path, step: int) -> None:
    """Drop ledger lines of steps that are about to be computed again."""
    io.rewrite_lines(run / LEDGER, lambda line: keep_until(step, line))


def read_run(run: Path) -> dict[str, Any]:
    """``run.json``, empty if there is none yet or it cannot be read."""
    try:
        found = json.loads((run / "run.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
