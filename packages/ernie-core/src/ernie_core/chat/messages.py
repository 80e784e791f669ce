"""What is asked and what comes back: messages of text and pictures, and one answer per request."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from ernie_core.chat.config import ChatServer

MESSAGE_TOKENS = 32  # upper bound on what a chat template adds to one message


@dataclass(frozen=True)
class Picture:
    """An encoded picture, sent as it is.

    Raises:
        ValueError: neither PNG nor JPEG, by its first bytes.
    """

    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        self.media_type()

    def media_type(self) -> str:
        if self.data.startswith(b"\x89PNG\r\n\x1a\n"):
            return "image/png"
        if self.data.startswith(b"\xff\xd8\xff"):
            return "image/jpeg"
        raise ValueError(f"a picture must be PNG or JPEG, found {len(self.data)} bytes that begin with {self.data[:8]!r}; encode it anew")

    def url(self) -> str:
        return f"data:{self.media_type()};base64,{base64.b64encode(self.data).decode('ascii')}"


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    parts: tuple[str | Picture, ...]


@dataclass(frozen=True)
class ChatRequest:
    """
    Args:
        schema: JSON schema that the answer must follow, if the server can be told so. Servers check less than a schema says: parse the answer with
            ``parse_json_answer``. Strict servers want every property required and ``additionalProperties`` false.
    """

    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None = None


def user_request(text: str, pictures: Sequence[bytes] = (), *, system: str = "", schema: Mapping[str, Any] | None = None) -> ChatRequest:
    """One turn: pictures first, then the text, since models are trained on that order."""
    first = (Message("system", (system,)),) if system else ()
    return ChatRequest((*first, Message("user", (*map(Picture, pictures), text))), schema)


class FailureReason(StrEnum):
    """Why a request has no answer. A code once published keeps its meaning."""

    TIMEOUT = "timeout"  # a try, or all of them, took too long
    REFUSED = "refused"  # the server or the model refuses this request
    GARBAGE = "garbage"  # what came is not an answer
    HALF_JSON = "half_json"  # what came breaks off
    TOO_LONG = "too_long"  # the answer reached `max_tokens`, or the body `max_response_bytes`
    SERVER = "server"  # the server fails, is overloaded or drops the connection, again and again


@dataclass(frozen=True)
class Failure:
    reason: FailureReason
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True)
class ChatAnswer:
    """
    Args:
        text: the answer; with the error ``too_long`` its beginning, with any other "".
        input_tokens: as the server says; None where it does not.
        tries: how often the request was sent.
    """

    text: str
    error: Failure | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    tries: int = 1


def encode_request(request: ChatRequest, server: ChatServer) -> bytes:
    """The body. Equal requests give equal bytes. Escaped to ASCII, so that no text, however broken, cannot be encoded."""
    body: dict[str, Any] = {
        "model": server.model,
        "messages": [{"role": message.role, "content": _content(message)} for message in request.messages],
        server.max_tokens_field: server.max_tokens,
        "stream": False,
    }
    if server.temperature is not None:
        body["temperature"] = server.temperature
    if server.seed is not None:
        body["seed"] = server.seed
    if request.schema is not None and server.response_format == "json_schema":
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": request.schema},
        }
    elif request.schema is not None and server.response_format == "json_object":
        body["response_format"] = {"type": "json_object"}
    return json.dumps(body, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def input_tokens_at_most(request: ChatRequest, server: ChatServer) -> int:
    """Upper bound on the input: tokenizers of today end in bytes, so no text has more tokens than bytes."""
    texts = [part for message in request.messages for part in message.parts if isinstance(part, str)]
    pictures = sum(isinstance(part, Picture) for message in request.messages for part in message.parts)
    schema_bytes = len(json.dumps(request.schema)) if request.schema is not None else 0  # some servers put it into the prompt
    text_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return text_bytes + schema_bytes + pictures * server.picture_tokens + len(request.messages) * MESSAGE_TOKENS


def _content(message: Message) -> str | list[dict[str, Any]]:
    """Plain text where there is no picture: some servers know no list of parts for the system's message."""
    if len(message.parts) == 1 and isinstance(message.parts[0], str):
        return message.parts[0]
    return [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image_url", "image_url": {"url": part.url()}}
        for part in message.parts
    ]
