"""Finished evaluations, read by those who compare them. Light: Pillow is imported when a picture is opened."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_core import io
from ernie_core.errors import DataError, RunFolderError
from ernie_core.evaluation.folder import (
    METRICS,
    PICTURES,
    SETTINGS,
    VERDICTS,
    Verdict,
    differences,
    find_pictures,
    parse_verdict,
    read_picture,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class FinishedEval:
    """One folder of ``ernie eval``.

    Attributes:
        asked: the settings that it was begun with; ``suite`` among them.
        used: what they came to when pictures were sampled, such as the checkpoint's own number of steps. Empty where pictures were given.
        verdicts: sample 0 of every prompt, then sample 1 of every prompt, and so on.
    """

    folder: Path
    asked: Mapping[str, Any]
    used: Mapping[str, Any]
    verdicts: Sequence[Verdict]

    @property
    def samples_per_prompt(self) -> int:
        return int(self.asked["samples_per_prompt"])

    @property
    def prompts(self) -> int:
        return len(self.verdicts) // self.samples_per_prompt

    def samples(self, prompt: int) -> Sequence[Verdict]:
        """The verdicts of a prompt by its place in the suite."""
        return self.verdicts[prompt :: self.prompts]

    def prompt_id(self, prompt: int) -> str:
        """As the suite calls it."""
        name = self.verdicts[prompt].id
        return name if self.samples_per_prompt == 1 else name.removesuffix("-0")

    def picture(self, verdict: Verdict) -> NDArray[np.uint8] | None:
        """Pixels [H, W, 3] of the picture that was judged; None for one that was missing or unreadable.

        Raises:
            DataError: the file is gone, or another one than was judged.
        """
        if verdict.state != "judged":
            return None
        file = self._files[verdict.id]
        pixels_HW3, sha256 = read_picture(file) if file is not None else (None, "")
        if sha256 != verdict.sha256:
            found = "gone" if file is None else "another one than was judged"
            raise DataError(f"{self.folder}: the picture of {verdict.id} is {found}; run the same `ernie eval` again")
        return pixels_HW3

    @cached_property
    def _files(self) -> Mapping[str, Path | None]:
        given = self.asked.get("pictures")
        return find_pictures(Path(given) if given is not None else self.folder / PICTURES, self.verdicts)


def read_finished(folder: Path) -> FinishedEval:
    """
    Raises:
        RunFolderError: no evaluation, one that is not finished, or one whose files are damaged.
    """
    settings, report = (_read_json(folder, name) for name in (SETTINGS, METRICS))
    try:
        asked, used, pictures = dict(settings["asked"]), dict(settings["used"]), int(report["pictures"])
        per_prompt = int(asked["samples_per_prompt"])
        if per_prompt < 1:
            raise ValueError(f"samples_per_prompt is {per_prompt}")
        lines = io.read_lines(folder / VERDICTS)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise RunFolderError(f"{folder}: the files of this evaluation are damaged ({type(error).__name__}: {error}); {_AGAIN}") from error
    verdicts = [verdict for line in lines if (verdict := parse_verdict(line)) is not None and _is_whole(verdict)]
    if len(verdicts) != len(lines) or len(verdicts) != pictures or not pictures or pictures % per_prompt:
        raise RunFolderError(
            f"{folder}: {METRICS} is of {pictures} pictures, {VERDICTS} holds {len(verdicts)} verdicts in {len(lines)} lines; {_AGAIN}"
        )
    return FinishedEval(folder, asked, used, verdicts)


def mismatch(first: FinishedEval, other: FinishedEval) -> list[str]:
    """What keeps two evaluations from being compared picture by picture: suite, prompts, noise or size. Each as "seed: 0 there, 1 here"; empty: nothing.

    Noise and size of pictures that were given are not known and not compared.
    """
    found = _told(first.asked.get("suite"), other.asked.get("suite"), "suite")
    for name in ("samples_per_prompt", "limit", "seed"):
        if name in first.asked and name in other.asked:
            found += _told(first.asked[name], other.asked[name], name)
    if "size_px" in first.used and "size_px" in other.used:
        found += _told(first.used["size_px"], other.used["size_px"], "size_px")
    if found:
        return found
    if len(first.verdicts) != len(other.verdicts):
        return [f"pictures: {len(first.verdicts)} and {len(other.verdicts)}"]
    for a, b in zip(first.verdicts, other.verdicts, strict=True):
        for name in ("id", "prompt", "tags", "cluster"):
            if getattr(a, name) != getattr(b, name):
                return [f"{name} of picture {a.id}: {getattr(a, name)!r:.80} and {getattr(b, name)!r:.80}"]
        if set(a.metrics) != set(b.metrics):
            return [f"metrics of picture {a.id}: {', '.join(sorted(a.metrics))} and {', '.join(sorted(b.metrics))}"]
    return []


_AGAIN = "run the same `ernie eval` again, which goes on with what is there"


def _is_whole(verdict: Verdict) -> bool:
    return (
        isinstance(verdict.metrics, dict)
        and bool(verdict.metrics)
        and all(isinstance(value, int | float) for value in verdict.metrics.values())
    )


def _told(first: Any, other: Any, name: str) -> list[str]:
    lines = differences({name: first}, {name: other})
    return [line.replace(": was ", ": ", 1).replace(", now ", " and ", 1) for line in lines]


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        what = "no evaluation" if name == SETTINGS else "an evaluation that is not finished"
        raise RunFolderError(
            f"{folder}: {what}, as its {name} cannot be read ({error.strerror}); give the --out of an `ernie eval`"
        ) from error
    except ValueError as error:
        raise RunFolderError(f"{path}: damaged ({error}); {_AGAIN}") from error
    if not isinstance(found, dict):
        raise RunFolderError(f"{path}: holds a {type(found).__name__}, expected an object; {_AGAIN}")
    return found
