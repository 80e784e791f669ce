"""The seam between stages and vision-language models, and how a config becomes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from ernie_core.api import MissingComponent
from ernie_data.vision.entries import VisionConfig, VisionServerConfig

DETAIL_CHARACTERS = 300


class VisionReason(StrEnum):
    """Why a picture has no description. A code once published keeps its meaning; those in both are ``ernie_core.chat.FailureReason``'s."""

    PICTURE = "picture"  # not decodable, or of a shape that the model does not take
    TIMEOUT = "timeout"
    REFUSED = "refused"
    GARBAGE = "garbage"
    HALF_JSON = "half_json"
    TOO_LONG = "too_long"
    SERVER = "server"
    OUT_OF_MEMORY = "out_of_memory"  # of the device, with this picture alone


@dataclass(frozen=True)
class VisionError:
    """What came instead of a picture's description; a value, since the other pictures have theirs."""

    reason: VisionReason
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class VisionModel(Protocol):
    def describe(self, images: Sequence[bytes], instruction: str, *, schema: Mapping[str, Any] | None = None) -> list[str | VisionError]:
        """The model's answer to each picture, in order.

        Args:
            images: encoded pictures of any format that ernie-data reads.
            schema: JSON schema of the answer, for models that can be held to one; the instruction says the same in words.

        Raises:
            ErnieError: what every other picture would meet too, such as a server that cannot be reached.
        """
        ...


def build_vision(config: VisionConfig) -> VisionModel:
    """
    Raises:
        ConfigError: a wrong config, or an API key that is not set.
        MissingComponent: torch or transformers is not installed.
        WeightsError: the model cannot be loaded.
    """
    if isinstance(config, VisionServerConfig):
        from ernie_data.vision.server import build_server

        return build_server(config)
    try:
        from ernie_data.vision.transformers_model import build_transformers
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "ernie_data":
            raise
        raise MissingComponent(
            f"the vision backend `transformers` needs the package `{package}`, which is not installed: pip install 'ernie-data[train]'"
        ) from None
    return build_transformers(config)


def vision_code(config: VisionConfig) -> str:
    """All that shapes the answers, for the name of a unit of work: nothing about waiting, counting or where the work is done. Loads nothing.

    A server's model is known by its name alone, so that a server that moves costs nothing: give another model another name.
    """
    if isinstance(config, VisionServerConfig):
        parts = [
            "server",
            config.model,
            config.max_tokens,
            config.temperature,
            config.seed,
            config.response_format,
            config.side_px,
        ]
    else:
        parts = ["transformers", config.path, config.revision, config.dtype, config.batch_size, config.max_new_tokens, config.side_px]
    return " ".join(map(str, parts))
