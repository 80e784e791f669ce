"""The client: many requests at once, answers in order; retries, limits, and errors that hold no secret."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import msgspec

from ernie_core.chat.config import ChatServer, checked_url
from ernie_core.chat.limits import Bucket, Ledger, Usage
from ernie_core.chat.messages import ChatAnswer, ChatRequest, Failure, FailureReason, encode_request, input_tokens_at_most
from ernie_core.chat.transport import Reply, Stop, Trouble, post
from ernie_core.config.base import recheck
from ernie_core.errors import ChatError, ConfigError
from ernie_core.redact import HIDDEN, redact

RETRIED = {408, 409, 425, 429}  # and 500 to 599
EVERYBODYS = {  # what any other request would meet too, and what to do about it
    401: "check the key in the variable that `api_key_env` names",
    402: "check the account's balance",
    403: "check what the key is allowed to do",
    404: "check `url` and `model`: the server knows one of them not",
    405: "check `url`: it is not that of an OpenAI-compatible API",
}
SECRET_CHARACTERS = 8
QUOTED_BYTES, QUOTED_CHARACTERS = 4096, 300  # of a body, in messages: read, and shown after redaction


class ChatClient:
    """Asks one server. Safe to share between threads; limits and cost are counted over all of its requests, not over other processes'.

    Args:
        environ: where the key is looked up; this process's environment by default.

    Raises:
        ConfigError: a wrong config, or the key's variable is not set.
    """

    def __init__(self, server: ChatServer, *, environ: Mapping[str, str] | None = None) -> None:
        self.server = recheck(server)
        self._url = checked_url(server.url, allow_http=server.allow_http)
        self._key = _key(server.api_key_env, os.environ if environ is None else environ)
        self._ledger = Ledger(server)
        self._requests = Bucket(server.requests_per_minute) if server.requests_per_minute else None
        self._tokens = Bucket(server.tokens_per_minute) if server.tokens_per_minute else None

    @property
    def usage(self) -> Usage:
        return self._ledger.usage

    def ask(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        """One answer per request, in their order, up to ``concurrency`` under way at once.

        Raises:
            ChatError: what every request would meet: no connection after all retries, TLS, 401 to 405, a redirect to another host, the cost
                limit. Its ``answers`` hold what had come before.
        """
        if not requests:
            return []
        stop = Stop()
        with ThreadPoolExecutor(min(self.server.concurrency, len(requests)), thread_name_prefix="chat") as pool:
            futures = [pool.submit(self._answer, request, stop) for request in requests]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:  # after a fault, or an interrupt of this thread
                if not all(future.done() for future in futures) or any(_fault(future) for future in futures):
                    for future in futures:
                        future.cancel()
                    stop.end()
        faults = [fault for future in futures if (fault := _fault(future)) is not None]
        for fault in sorted(faults, key=lambda fault: isinstance(fault, _Stopped)):
            if isinstance(fault, ChatError):
                fault.answers = tuple(None if future.cancelled() or _fault(future) else future.result() for future in futures)
            raise fault
        return [future.result() for future in futures]

    def _answer(self, request: ChatRequest, stop: Stop) -> ChatAnswer:
        server = self.server
        body = encode_request(request, server)
        tokens_at_most = input_tokens_at_most(request, server) + server.max_tokens
        cost_at_most = self._ledger.price(tokens_at_most - server.max_tokens, server.max_tokens)
        end = None
        for number in range(1, server.max_retries + 2):
            self._pace(tokens_at_most, stop)
            end = time.monotonic() + server.deadline_s if end is None else end
            if not self._ledger.reserve(cost_at_most, stopped=stop.ended):
                raise _Stopped
            outcome = self._try(body, cost_at_most, tokens_at_most, min(server.timeout_s, end - time.monotonic()), stop)
            if isinstance(outcome, ChatAnswer):
                return replace(outcome, tries=number)
            pause = max(outcome.after_s, self._backoff(body, number))
            pause = min(pause, server.retry_wait_max_s)
            if number > server.max_retries or time.monotonic() + pause >= end:
                break
            if stop.wait(pause):
                raise _Stopped
        gave_up = f"{outcome.detail} (gave up after {number} tries)"
        if outcome.shared:
            raise self._error(f"{gave_up}; check that the server runs, and `url`")
        return ChatAnswer("", Failure(outcome.reason, gave_up), tries=number)

    def _try(self, body: bytes, cost_at_most: float, tokens_at_most: int, timeout_s: float, stop: Stop) -> ChatAnswer | _Retry:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "ernie-core"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        tokens, charged = None, True
        try:
            reply = post(
                self._url,
                headers,
                body,
                timeout_s=max(0.001, timeout_s),
                max_bytes=self.server.max_response_bytes,
                stop=stop,
            )
            charged = reply.status == 200
            outcome, tokens = self._judged(reply)
            return outcome
        except Trouble as trouble:
            charged = trouble.kind not in ("unreachable", "insecure", "redirected")
            return self._retry_after(trouble)
        finally:
            self._ledger.settle(cost_at_most, tokens=tokens, charged=charged)
            if self._tokens is not None and (tokens is not None or not charged):
                self._tokens.give_back(tokens_at_most - sum(tokens or ()))

    def _judged(self, reply: Reply) -> tuple[ChatAnswer | _Retry, tuple[int, int] | None]:
        """What a reply means, and the tokens it reports."""
        if reply.status in RETRIED or reply.status >= 500:
            detail = f"status {reply.status}: {self._quoted(reply.body)}"
            return _Retry(FailureReason.SERVER, detail, after_s=_seconds_of(reply.headers.get("retry-after", ""))), None
        if reply.status in EVERYBODYS:
            raise self._error(f"status {reply.status}: {self._quoted(reply.body)}; {EVERYBODYS[reply.status]}", status=reply.status)
        if reply.status != 200:
            return _failed(FailureReason.REFUSED, f"status {reply.status}: {self._quoted(reply.body)}"), None
        if reply.over:
            return _failed(FailureReason.TOO_LONG, f"the body has more than max_response_bytes = {self.server.max_response_bytes}"), None
        try:
            completion = msgspec.json.decode(reply.body, type=_Completion)
        except msgspec.ValidationError as error:
            return _failed(FailureReason.GARBAGE, f"not a chat completion: {error}; it began {self._quoted(reply.body)}"), None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if reply.body and "truncated" in str(error):
                return _Retry(FailureReason.HALF_JSON, f"the body breaks off after {len(reply.body)} bytes"), None
            return _failed(FailureReason.GARBAGE, f"the body is not JSON; it began {self._quoted(reply.body)}"), None
        tokens = _tokens_of(completion.usage)
        return self._chosen(completion, tokens), tokens

    def _chosen(self, completion: _Completion, tokens: tuple[int, int] | None) -> ChatAnswer:
        if not completion.choices:
            return _failed(FailureReason.GARBAGE, "the completion has no choices")
        choice = completion.choices[0]
        text = choice.message.content or ""
        if len(self._key) >= SECRET_CHARACTERS:  # a shorter one, such as the placeholder "EMPTY", is a word that pictures may hold
            text = self._without_key(text)
        count = {"input_tokens": tokens[0], "output_tokens": tokens[1]} if tokens else {}
        if choice.finish_reason == "length":
            return ChatAnswer(
                text, Failure(FailureReason.TOO_LONG, f"the answer was cut at max_tokens = {self.server.max_tokens}"), **count
            )
        if choice.finish_reason == "content_filter" or (choice.message.refusal and not text):
            why = self._quoted((choice.message.refusal or "content filter").encode("utf-8", "replace"))
            return ChatAnswer("", Failure(FailureReason.REFUSED, f"the model refuses: {why}"), **count)
        if not text.strip():
            return ChatAnswer("", Failure(FailureReason.GARBAGE, "the answer is empty"), **count)
        return ChatAnswer(text, **count)

    def _retry_after(self, trouble: Trouble) -> ChatAnswer | _Retry:
        detail = str(trouble)
        match trouble.kind:
            case "stopped":
                raise _Stopped
            case "insecure":
                raise self._error(f"{detail}; check `url`, or have the system trust the certificate (SSL_CERT_FILE)")
            case "redirected":
                raise self._error(f"{detail}; set `url` to the server's own address")
            case "garbled":
                return _failed(FailureReason.GARBAGE, detail)
            case "timeout":
                return _Retry(FailureReason.TIMEOUT, detail)
            case "cut":
                return _Retry(FailureReason.HALF_JSON, detail)
            case _:
                return _Retry(FailureReason.SERVER, detail, shared=trouble.kind == "unreachable")

    def _pace(self, tokens: int, stop: Stop) -> None:
        pauses = [bucket.take(amount) for bucket, amount in ((self._requests, 1), (self._tokens, tokens)) if bucket is not None]
        if stop.wait(max(pauses, default=0.0)) or stop.ended():
            raise _Stopped

    def _backoff(self, body: bytes, number: int) -> float:
        """1, 2, 4 ... times ``retry_wait_s``, less up to a half: drawn from the request itself, so that requests spread and runs repeat."""
        digest = hashlib.blake2b(body, digest_size=8, key=f"{self.server.seed}:{number}".encode()[:64]).digest()
        jitter = int.from_bytes(digest, "little") / 2**64
        return min(self.server.retry_wait_max_s, self.server.retry_wait_s * 2.0 ** min(number - 1, 60)) * (1 - jitter / 2)

    def _error(self, message: str, *, status: int | None = None) -> ChatError:
        return ChatError(f"chat server {self._url.geturl()}, model {self.server.model!r}: {message}", status=status)

    def _quoted(self, body: bytes) -> str:
        """The beginning of a body for a message, without secrets: cut only after they are hidden, so that no half of one remains."""
        text = redact(self._without_key(body[:QUOTED_BYTES].decode("utf-8", "replace")))
        return repr(" ".join(text.split())[:QUOTED_CHARACTERS])

    def _without_key(self, text: str) -> str:
        """A server may send back what it was sent, as it is or encoded."""
        key = self._key
        if key:
            for form in (key, json.dumps(key)[1:-1], quote(key, safe=""), quote(key), base64.b64encode(key.encode()).decode()):
                text = text.replace(form, HIDDEN)
        return text


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: Any = None


class _Choice(msgspec.Struct):
    message: _Answer
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Retry(msgspec.Struct):
    """A try that may be repeated. ``shared``: if it goes on, no request will be answered."""

    reason: FailureReason
    detail: str
    after_s: float = 0.0
    shared: bool = False


class _Stopped(Exception):
    """Another thread met a fault."""


def _fault(future: Future[ChatAnswer]) -> BaseException | None:
    return future.exception() if future.done() and not future.cancelled() else None


def _failed(reason: FailureReason, detail: str) -> ChatAnswer:
    return ChatAnswer("", Failure(reason, detail))


def _tokens_of(usage: Any) -> tuple[int, int] | None:
    """Input and output as the server reports them; None if it does not, or reports nonsense."""
    if not isinstance(usage, dict):
        return None
    counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if all(isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 2**40 for count in counts):
        return counts
    return None


def _seconds_of(retry_after: str) -> float:
    """Retry-After: seconds or a date; 0 for anything else (RFC 9110, section 10.2.3)."""
    text = retry_after.strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return float(text[:20])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _key(variable: str, environ: Mapping[str, str]) -> str:
    if not variable:
        return ""
    key = environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"the environment variable `{variable}`, named in `api_key_env`, is not set: export the server's key in it")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"the environment variable `{variable}` holds spaces or characters that no key has: check how it was set")
    return key
