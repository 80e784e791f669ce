"""The vision backend ``server``: a model behind an OpenAI-compatible API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ernie_core.chat import ChatAnswer, ChatClient, Usage, user_request
from ernie_data.vision.entries import VisionServerConfig
from ernie_data.vision.model import DETAIL_CHARACTERS, VisionError, VisionReason
from ernie_data.vision.pictures import encode_picture, open_picture


class ServerVision:
    """``VisionModel`` over a ``ChatClient``."""

    def __init__(self, client: ChatClient, *, side_px: int) -> None:
        self._client = client
        self._side_px = side_px

    @property
    def usage(self) -> Usage:
        return self._client.usage

    def describe(self, images: Sequence[bytes], instruction: str, *, schema: Mapping[str, Any] | None = None) -> list[str | VisionError]:
        outcomes: list[str | VisionError | None] = [None] * len(images)
        requests, places = [], []
        for place, data in enumerate(images):
            picture = open_picture(data, side_px=self._side_px)
            if isinstance(picture, VisionError):
                outcomes[place] = picture
            else:
                requests.append(user_request(instruction, [encode_picture(picture)], schema=schema))
                places.append(place)
        for place, answer in zip(places, self._client.ask(requests), strict=True):
            outcomes[place] = _outcome(answer)
        return [outcome for outcome in outcomes if outcome is not None]


def _outcome(answer: ChatAnswer) -> str | VisionError:
    if answer.error is None:
        return answer.text
    return VisionError(VisionReason(answer.error.reason.value), answer.error.detail[:DETAIL_CHARACTERS])


def build_server(config: VisionServerConfig) -> ServerVision:
    """
    Raises:
        ConfigError: a wrong config, or the key's variable is not set.
    """
    return ServerVision(ChatClient(config), side_px=config.side_px)
