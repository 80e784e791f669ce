"""Every error a user can cause or meet. Messages say what was found, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class ErnieError(Exception):
    """Base of all errors the command line prints without a traceback. ``exit_code`` 1: the run failed, 2: wrong input."""

    exit_code = 1


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a config, and where it stands."""

    where: str  # "run.toml:14", "--set model.width=x" or "config" for one built in code
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class ConfigError(ErnieError):
    """A config was refused. Holds every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem] | str) -> None:
        self.problems = (Problem("config", problems),) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class PluginError(ErnieError):
    """A plugin could not be used, or two plugins contradict each other."""

    exit_code = 2


class MissingComponent(ErnieError):
    """A name that no installed plugin offers, or an optional package that is not installed."""

    exit_code = 2


class WeightsError(ErnieError):
    """Weight files are missing, damaged, or do not fit the model they are loaded into or exported to."""

    exit_code = 2


class DataError(ErnieError):
    """Training data is missing or unreadable."""

    exit_code = 2


class RunFolderError(ErnieError):
    """A run folder is in use, belongs to another config, or holds no usable checkpoint."""

    exit_code = 2


class StorageError(ErnieError):
    """A durable write failed: disk full, quota, read-only, or an input/output error. Nothing that was valid before is lost."""


class RankLost(ErnieError):
    """Another rank of a distributed run ended or fell silent. The last checkpoint stands."""


class OutOfMemory(ErnieError):
    """The device's memory is too small for a step. The last checkpoint stands."""


class TrainingStopped(ErnieError):
    """Training gave up, with a report: too many refused steps in a row, or no rollback left."""


class ChatError(ErnieError):
    """A chat server cannot be used, or would cost more than allowed: what every further request would meet too.

    ``status``: the HTTP status, if there was one. ``answers``: where a batch was stopped, its answers so far in order, None for those without.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        self.status = status
        self.answers: tuple[object, ...] = ()
        super().__init__(message)


class AnswerError(ErnieError):
    """A model's answer is not what was asked for. ``reason``: "garbage" or "half_json"."""

    def __init__(self, message: str, reason: str) -> None:
        self.reason = reason
        super().__init__(message)
