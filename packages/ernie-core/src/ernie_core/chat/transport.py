"""One HTTP POST with bounds on its time and on the bytes that come back. Follows no redirect to another place and uses no proxy."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, urljoin, urlsplit

REDIRECTS = 3  # followed, within one origin
PIECE_BYTES = 1 << 16


@dataclass(frozen=True)
class Reply:
    """``over``: the body was longer than allowed, ``body`` is its beginning."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes = field(repr=False)
    over: bool = False


class Trouble(Exception):
    """No reply. ``kind`` "insecure" concerns TLS; "unreachable" happened before anything was sent."""

    def __init__(
        self, kind: Literal["unreachable", "insecure", "timeout", "dropped", "cut", "garbled", "redirected", "stopped"], detail: str
    ) -> None:
        self.kind = kind
        super().__init__(detail)


class Stop:
    """Ends what runs in other threads: their waits and their connections."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()

    def end(self) -> None:
        with self._lock:
            self._event.set()
            for open_socket in self._sockets:
                hang_up(open_socket)

    def ended(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep; True if ended meanwhile."""
        return self._event.wait(seconds)

    @contextmanager
    def watching(self, open_socket: socket.socket) -> Iterator[None]:
        with self._lock:
            self._sockets.add(open_socket)
            if self._event.is_set():
                hang_up(open_socket)
        try:
            yield
        finally:
            with self._lock:
                self._sockets.discard(open_socket)


def hang_up(open_socket: socket.socket) -> None:
    """Wakes a thread that reads from the socket. Past any TLS layer, which is not to be touched from another thread."""
    with suppress(OSError):
        socket.socket.shutdown(open_socket, socket.SHUT_RDWR)


def post(url: SplitResult, headers: Mapping[str, str], body: bytes, *, timeout_s: float, max_bytes: int, stop: Stop) -> Reply:
    """
    Args:
        url: checked by ``checked_url``.
        timeout_s: from connecting to the last byte; the name's look-up is the system's and not bounded.

    Raises:
        Trouble: no whole reply, and why.
    """
    end = time.monotonic() + timeout_s
    origin = (url.scheme, url.hostname, url.port)
    for _ in range(1 + REDIRECTS):
        reply = _post_once(url, headers, body, end, max_bytes, stop)
        if not 300 <= reply.status < 400:
            return reply
        target = reply.headers.get("location", "")
        try:
            there = urlsplit(urljoin(url.geturl(), target))
            same = (there.scheme, there.hostname, there.port) == origin and "@" not in there.netloc
        except ValueError:
            same = False
        if not same:
            raise Trouble("redirected", f"status {reply.status} to another host, which is not followed")
        if reply.status not in (307, 308):
            raise Trouble("redirected", f"status {reply.status}, after which a request would be sent without its content")
        url = there
    raise Trouble("redirected", f"more than {REDIRECTS} redirects")


def _post_once(url: SplitResult, headers: Mapping[str, str], body: bytes, end: float, max_bytes: int, stop: Stop) -> Reply:
    host = url.hostname or ""
    plain = _connect(host, url.port or (443 if url.scheme == "https" else 80), end)
    wire: socket.socket = plain
    late = threading.Event()

    def give_up() -> None:  # reads time out one by one; a server that drips bytes would never end
        late.set()
        hang_up(wire)

    timer = threading.Timer(max(0.0, end - time.monotonic()), give_up)
    timer.daemon = True
    try:
        with _explained(late, stop):
            if url.scheme == "https":
                wire = secured = ssl.create_default_context().wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
                timer.start()
                with stop.watching(secured):
                    secured.do_handshake()
                    return _exchange(secured, url, headers, body, max_bytes)
            timer.start()
            with stop.watching(plain):
                return _exchange(plain, url, headers, body, max_bytes)
    finally:
        timer.cancel()
        wire.close()
        plain.close()


def _connect(host: str, port: int, end: float) -> socket.socket:
    try:
        return socket.create_connection((host, port), timeout=max(0.001, end - time.monotonic()))
    except TimeoutError:
        raise Trouble("unreachable", "no connection within the time limit") from None
    except (OSError, UnicodeError) as error:
        raise Trouble("unreachable", f"no connection: {error}") from None


@contextmanager
def _explained(late: threading.Event, stop: Stop) -> Iterator[None]:
    """Turn what sockets, TLS and http.client raise into ``Trouble``."""
    try:
        yield
        if late.is_set() or stop.ended():  # hanging up looks like the end of a reply
            raise Trouble("dropped", "hung up")
    except (OSError, http.client.HTTPException, ValueError, Trouble) as error:
        if stop.ended():
            raise Trouble("stopped", "stopped") from None
        if late.is_set() or isinstance(error, TimeoutError):
            raise Trouble("timeout", "no whole answer within the time limit") from None
        if isinstance(error, Trouble):
            raise
        raise _trouble_of(error) from None


def _trouble_of(error: Exception) -> Trouble:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Trouble("insecure", f"its certificate is not trusted: {error.verify_message}")
    if isinstance(error, ssl.SSLError) and not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return Trouble("insecure", f"no TLS connection: {error.reason or 'unknown reason'}")
    if isinstance(error, http.client.IncompleteRead):
        return Trouble("cut", f"the body ended early, after {len(error.partial)} bytes of its last piece")
    if isinstance(error, (OSError, http.client.RemoteDisconnected)):
        return Trouble("dropped", f"the connection was lost: {error}")
    return Trouble("garbled", f"not HTTP: {type(error).__name__}")


def _exchange(wire: socket.socket, url: SplitResult, headers: Mapping[str, str], body: bytes, max_bytes: int) -> Reply:
    connection = http.client.HTTPConnection(url.hostname or "")
    connection.sock = wire
    with suppress(BrokenPipeError, ConnectionResetError):  # a server that refuses early has often answered before it hangs up
        connection.request("POST", url.path, body, {**headers, "Host": url.netloc, "Connection": "close", "Accept-Encoding": "identity"})
    response = connection.getresponse()
    with response:
        fields = {name.lower(): value for name, value in response.getheaders()}
        declared = response.length
        if declared is not None and declared > max_bytes:
            return Reply(response.status, fields, b"", over=True)
        # readinto never takes more than the buffer, whatever sizes the server announces
        data, piece = bytearray(), memoryview(bytearray(PIECE_BYTES))
        while len(data) <= max_bytes and (count := response.readinto(piece)):
            data += piece[:count]
        if len(data) > max_bytes:
            return Reply(response.status, fields, bytes(data[:max_bytes]), over=True)
    if declared is not None and len(data) < declared:
        raise Trouble("cut", f"the body ended after {len(data)} of {declared} bytes")
    return Reply(response.status, fields, bytes(data))
