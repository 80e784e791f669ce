"""The evaluation itself: sample what is missing, judge what is not judged, sum up. Every part is kept once it is whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ernie_core import io
from ernie_core.errors import PluginError
from ernie_core.evaluation.asks import Ask
from ernie_core.evaluation.folder import METRICS, SHEET, EvalFolder, Verdict, find_pictures, png, read_picture
from ernie_core.evaluation.sheet import contact_sheet
from ernie_core.evaluation.summary import Scores, as_json, summarise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ernie_core.scoring import Evaluation

Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)`` after each batch."""


class Painter(Protocol):
    """A model that was opened. ``used``: what the settings came to, such as the checkpoint's own number of steps."""

    @property
    def used(self) -> Mapping[str, Any]: ...

    def paint(self, prompts: Sequence[str], *, seed: int) -> NDArray[np.uint8]:
        """One picture per prompt [B, H, W, 3]; picture i from the noise of seed + i."""
        ...


@dataclass(frozen=True)
class Job:
    """What to evaluate.

    Args:
        suite: its name, for messages.
        asked: the settings that shape pictures and verdicts, as JSON: a folder that was begun with others is refused.
        about: what else ``metrics.json`` tells.
        pictures: judge the pictures of this folder; None: sample them.
        open_painter: opens the model; only called if there is something to sample.
        batch: pictures sampled and judged at a time.
    """

    suite: str
    evaluation: Evaluation
    asks: Sequence[Ask]
    asked: Mapping[str, Any]
    about: Mapping[str, Any]
    seed: int
    batch: int
    pictures: Path | None = None
    open_painter: Callable[[], Painter] | None = None


@dataclass(frozen=True)
class Evaluated:
    """``report`` is what ``metrics.json`` holds."""

    overall: Scores
    tags: Mapping[str, Scores]
    verdicts: Sequence[Verdict]
    report: Mapping[str, Any]


def evaluate(job: Job, out: Path, *, progress: Progress) -> Evaluated:
    """Do what is not done yet, and write ``metrics.json`` and the contact sheet.

    Raises:
        RunFolderError: ``out`` is in use, was begun with other settings or holds something else.
        PluginError: the suite's verdicts are not what it promised.
        StorageError: the disk refused; the same command goes on.
    """
    with io.FolderLock(out):
        folder = EvalFolder(out)
        used = folder.begin(job.asked)
        if job.pictures is not None:
            files = find_pictures(job.pictures, job.asks)
            if used is None:
                folder.note_settings(job.asked, {})
        else:
            used = _sample(job, folder, used, progress)
            files = find_pictures(folder.pictures, job.asks)
        verdicts = _judge(job, folder, files, progress)
        overall, tags = summarise(verdicts)
        states = {state: [v.id for v in verdicts if v.state == state] for state in ("missing", "unreadable")}
        report = {
            **job.about,
            "settings": {**job.asked, "used": dict(used or {})},
            "pictures": len(verdicts),
            **{state: {"count": len(ids), "first": ids[:20]} for state, ids in states.items()},
            "metrics": as_json(overall),
            "tags": {tag: as_json(scores) for tag, scores in tags.items()},
        }
        io.write_bytes(out / SHEET, png(contact_sheet(verdicts, files)))
        io.write_json(out / METRICS, report)
    return Evaluated(overall, tags, verdicts, report)


def _sample(job: Job, folder: EvalFolder, used: dict[str, Any] | None, progress: Progress) -> dict[str, Any]:
    """Batches are the same in every call, so that a picture's rounding does not depend on where an earlier call was stopped."""
    painter: Painter | None = None
    for first in range(0, len(job.asks), job.batch):
        part = job.asks[first : first + job.batch]
        missing = [i for i, ask in enumerate(part) if not (folder.pictures / f"{ask.id}.png").is_file()]
        if missing:
            if painter is None:
                painter = _opened(job)
                used = dict(painter.used)
                folder.note_settings(job.asked, used)
            pictures = painter.paint([ask.prompt.prompt for ask in part], seed=job.seed + part[0].number)
            for i in missing:
                folder.write_picture(part[i].id, pictures[i])
        progress("sampling", first + len(part), len(job.asks))
    return used or {}


def _opened(job: Job) -> Painter:
    if job.open_painter is None:
        raise ValueError("a job without a folder of pictures needs open_painter")
    return job.open_painter()


def _judge(job: Job, folder: EvalFolder, files: Mapping[str, Path | None], progress: Progress) -> list[Verdict]:
    verdicts = folder.verdicts(job.asks, files, batch=job.batch)
    for first in range(len(verdicts), len(job.asks), job.batch):
        part = job.asks[first : first + job.batch]
        found = [read_picture(file) if (file := files[ask.id]) is not None else (None, "") for ask in part]
        there = [i for i, (pixels, _) in enumerate(found) if pixels is not None]
        values = job.evaluation.judge([part[i].prompt for i in there], [found[i][0] for i in there]) if there else []
        if len(values) != len(there):
            raise PluginError(f'suite "{job.suite}" gave {len(values)} verdicts for {len(there)} pictures')
        judged = dict(zip(there, values))
        new = []
        for i, ask in enumerate(part):
            state = "judged" if i in judged else "missing" if files[ask.id] is None else "unreadable"
            metrics = _checked(judged[i], ask, job.suite) if i in judged else dict.fromkeys(ask.prompt.metrics, 0.0)
            new.append(Verdict(ask.id, ask.prompt.prompt, ask.prompt.tags, ask.cluster, metrics, state, found[i][1]))
        folder.add_verdicts(new)
        verdicts += new
        progress("judging", len(verdicts), len(job.asks))
    return verdicts


def _checked(values: Mapping[str, float], ask: Ask, suite: str) -> dict[str, float]:
    if set(values) != set(ask.prompt.metrics):
        raise PluginError(
            f'suite "{suite}" judged {ask.id} by {", ".join(sorted(values)) or "nothing"}; its prompt promises {", ".join(ask.prompt.metrics)}'
        )
    checked = {name: float(values[name]) for name in ask.prompt.metrics}
    for name, value in checked.items():
        if not math.isfinite(value):
            raise PluginError(f'suite "{suite}" gave {ask.id} the {name} {value}; expected a finite number, 0 for what cannot be judged')
    return checked
