"""What a client may do: requests and tokens per minute, and money. Shared by its threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from ernie_core.chat.config import ChatServer
from ernie_core.errors import ChatError


class Bucket:
    """A token bucket that holds one second's worth, at least 1: over any stretch of t seconds no more than that plus the rate times t goes out.

    Whoever takes more than there is leaves a debt and is told how long to wait; those after him wait for the debt too, so the order is kept.
    """

    def __init__(self, per_minute: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_minute / 60
        self._capacity = max(1.0, self._rate)
        self._level = self._capacity
        self._clock = clock
        self._at = clock()
        self._lock = threading.Lock()

    def take(self, amount: float) -> float:
        """Seconds to wait before going on."""
        with self._lock:
            now = self._clock()
            self._level = min(self._capacity, self._level + (now - self._at) * self._rate) - amount
            self._at = now
            return max(0.0, -self._level / self._rate)

    def give_back(self, amount: float) -> None:
        """What was taken beforehand and not used; negative if more was used."""
        with self._lock:
            self._level += amount


@dataclass(frozen=True)
class Usage:
    """What a client has used so far.

    Args:
        requests: HTTP requests sent, retries included.
        unknown: requests that may have been charged and whose use the server did not say; in no other number here but ``cost_at_most``.
        cost: of what the server has counted, at the config's prices.
        cost_at_most: with the upper bound of the unknown.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    unknown: int = 0
    cost: float = 0.0
    cost_at_most: float = 0.0


class Ledger:
    """Counts what was used, and lets nothing begin that could pass ``max_cost``."""

    def __init__(self, server: ChatServer) -> None:
        self._server = server
        self._usage = Usage()
        self._reserved: list[float] = []
        self._changed = threading.Condition()

    @property
    def usage(self) -> Usage:
        with self._changed:
            return self._usage

    def price(self, input_tokens: int, output_tokens: int) -> float:
        return (input_tokens * self._server.input_price + output_tokens * self._server.output_price) / 1e6

    def reserve(self, cost: float, *, stopped: Callable[[], bool]) -> bool:
        """Set ``cost`` aside; waits for requests under way where only their upper bound is in the way. False if stopped meanwhile.

        Raises:
            ChatError: it could pass the limit; names what is spent, and the limit.
        """
        limit = self._server.max_cost
        with self._changed:
            while limit is not None and self._usage.cost_at_most + sum(self._reserved) + cost > limit:
                if not self._reserved:
                    raise ChatError(
                        f"cost limit: {self._usage.cost_at_most:.6g} is spent of max_cost = {limit:g}, and the next request may cost up to {cost:.6g}"
                        f" ({self._usage.requests} requests so far, {self._usage.unknown} of unknown cost counted with their upper bound)."
                        " Raise `max_cost`, or lower `max_tokens` or `picture_tokens`."
                    )
                self._changed.wait(0.1)
                if stopped():
                    return False
            self._reserved.append(cost)
            self._usage = replace(self._usage, requests=self._usage.requests + 1)
            return True

    def settle(self, reserved: float, *, tokens: tuple[int, int] | None, charged: bool) -> None:
        """A request is over. ``tokens``: input and output as the server says. ``charged``: whether it may cost something where it says nothing."""
        with self._changed:
            self._reserved.remove(reserved)
            used = self._usage
            if tokens is not None:
                cost = self.price(*tokens)
                used = replace(
                    used,
                    input_tokens=used.input_tokens + tokens[0],
                    output_tokens=used.output_tokens + tokens[1],
                    cost=used.cost + cost,
                    cost_at_most=used.cost_at_most + cost,
                )
            elif charged:
                used = replace(used, unknown=used.unknown + 1, cost_at_most=used.cost_at_most + reserved)
            self._usage = used
            self._changed.notify_all()
