"""Where a chat server is, how it is asked, and what that may cost."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from msgspec import Meta

from ernie_core.config.base import Config, Count, NonNegative, Positive, PositiveInt
from ernie_core.redact import holds_secret

ENDPOINT = "/chat/completions"


class ChatServer(Config):
    """An OpenAI-compatible server and one of its models. Holds no secret: the key is read from the environment variable that is named here."""

    url: str
    """The API's address, such as ``https://host/v1``; ``/chat/completions`` is appended. Plain http is for this machine only, see ``allow_http``."""
    model: str
    api_key_env: str = ""
    """Name of the environment variable that holds the key; empty: no key is sent."""
    allow_http: bool = False
    """Accept plain http to another machine: key, texts and pictures then travel readable."""
    timeout_s: Positive = 120.0
    """Of one try, from connecting to the last byte."""
    deadline_s: Positive = 600.0
    """Of one request with all its tries and the waiting between them. Waiting for the rate limit before the first try does not count."""
    max_retries: Count = 5
    retry_wait_s: Positive = 1.0
    """Wait before the first retry; it doubles with each, up to ``retry_wait_max_s``, less a deterministic jitter of up to a half."""
    retry_wait_max_s: Positive = 60.0
    """Longest wait, also where the server asks for more in Retry-After."""
    concurrency: Annotated[int, Meta(ge=1, le=1024)] = 8
    """Requests under way at once."""
    requests_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    """Input and output; a request counts with its upper bound until the server has said what it used."""
    max_tokens: PositiveInt = 1024
    """Longest answer; a longer one is an error, since its end is missing."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls it: some hosted models know the second name only."""
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = 0.0
    """None leaves it out, for models that refuse it."""
    seed: int | None = 0
    """Sent with every request, and decides the jitter of waits; None leaves it out."""
    response_format: Literal["json_schema", "json_object", "none"] = "json_schema"
    """How a request with a schema is put: "none" for servers that know neither of the others; then only the prompt asks for JSON."""
    input_price: NonNegative = 0.0
    """Price of a million input tokens, in any currency."""
    output_price: NonNegative = 0.0
    max_cost: Positive | None = None
    """Stop before this is passed, counted over the life of one client; needs the prices. Answers whose use is unknown count with their upper bound."""
    picture_tokens: PositiveInt = 4096
    """Upper bound on what one picture takes of the input, for the limits above: it depends on the model."""
    max_response_bytes: PositiveInt = 4 << 20

    def __post_init__(self) -> None:
        checked_url(self.url, allow_http=self.allow_http)
        if not self.model.strip():
            raise ValueError("`model` is empty: expected the name under which the server knows it")
        if self.api_key_env and (not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env) or holds_secret(self.api_key_env)):
            raise ValueError(
                "`api_key_env` must be the name of an environment variable, not the key itself; found neither shown nor stored"
            )
        if self.max_cost is not None and self.input_price == self.output_price == 0:
            raise ValueError("`max_cost` needs `input_price` and `output_price`, both are 0")


def checked_url(url: str, *, allow_http: bool) -> SplitResult:
    """The address of the endpoint.

    Raises:
        ValueError: another scheme, credentials or a query in it, no host, or plain http to another machine. The message holds no part of the query
            nor of the credentials.
    """
    if re.search(r"[\x00-\x20\x7f-\U0010ffff]", url):
        raise ValueError("`url` holds spaces, control characters or letters beyond ASCII")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError("`url` is not an address: the host or the port is malformed") from error
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"`url` must begin with https:// or http://, found the scheme {parts.scheme[:20]!r}")
    if "@" in parts.netloc:
        raise ValueError("`url` holds credentials; name an environment variable in `api_key_env` instead")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise ValueError(
            "`url` must end with its path: expected neither `?` nor `#`; a key belongs into the variable named in `api_key_env`"
        )
    if not host:
        raise ValueError("`url` names no host")
    if parts.scheme == "http" and not allow_http and not is_loopback(host):
        raise ValueError(f"`url` is plain http to {host}: use https, or set allow_http = true if you trust the network in between")
    path = parts.path.rstrip("/")
    if not path.endswith(ENDPOINT):
        path = (path or "/v1") + ENDPOINT
    return parts._replace(path=path)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
