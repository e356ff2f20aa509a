"""`Subscriptions`: a subscription is an id for a cursor, which `stream_read` advances."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from codomyrmex.integrations.mcp.backend import BackendError
from codomyrmex.streaming import Clock
from codomyrmex.streaming.clock import SYSTEM_CLOCK

MAX_SUBSCRIPTIONS = 1_000
IDLE = 600.0  # seconds after which a subscription that is not read expires


@dataclass(slots=True)
class Subscription:
    """A position in the events of a stream.

    Attributes:
        stream_name: the name of the stream.
        topic: a topic or a pattern.
        cursor: the position.
        used_at: when it was last read.
        reading: whether a call is reading it.
    """

    stream_name: str
    topic: str
    cursor: str
    used_at: float
    reading: bool = False


class Subscriptions:
    """The subscriptions of a server. They hold no events, and expire when they are idle.

    Args:
        clock: measures how long they are idle.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._subscriptions: dict[str, Subscription] = {}

    def add(self, stream_name: str, topic: str, cursor: str) -> str:
        """Add a subscription, and return its id.

        Raises:
            BackendError: there are too many.
        """
        self._expire()
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            problem = f"there are already {MAX_SUBSCRIPTIONS} subscriptions"
            raise BackendError(f"{problem}; idle ones expire after {IDLE:g} seconds")
        id_ = secrets.token_hex(8)  # a client must not guess those of others
        self._subscriptions[id_] = Subscription(stream_name, topic, cursor, self._clock.monotonic())
        return id_

    def get(self, id_: str) -> Subscription:
        """Return a subscription.

        Raises:
            BackendError: it does not exist, has expired, or is being read.
        """
        self._expire()
        subscription = self._subscriptions.get(id_)
        if subscription is None:
            problem = f"{id_!r} does not exist, or expired after {IDLE:g} idle seconds"
            raise BackendError(f"subscription_id: {problem}; call stream_subscribe again")
        if subscription.reading:
            raise BackendError(f"subscription_id: another call is reading {id_!r}; wait until it returns")
        subscription.used_at = self._clock.monotonic()
        return subscription

    def count(self, stream_name: str) -> int:
        """Return the number of subscriptions of a stream."""
        self._expire()
        return sum(each.stream_name == stream_name for each in self._subscriptions.values())

    def _expire(self) -> None:
        oldest = self._clock.monotonic() - IDLE
        for id_, each in tuple(self._subscriptions.items()):
            if each.used_at < oldest and not each.reading:
                del self._subscriptions[id_]
