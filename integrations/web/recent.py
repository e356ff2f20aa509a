"""`RecentEvents`: what the newest events of a durable stream say, the same in every process that reads it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from codomyrmex.integrations.durable import DurableStream
from codomyrmex.integrations.durable.entries import LogEntry
from codomyrmex.integrations.durable.tail import Bell
from codomyrmex.integrations.web.breaker_history import BreakerHistory
from codomyrmex.integrations.web.topic_rates import TopicRates
from codomyrmex.streaming import Clock
from codomyrmex.streaming.forks import renew_in_children
from codomyrmex.streaming.topics import matches

TOPIC_WINDOW = 20_000  # entries whose topics are counted
BREAKER_WINDOW = 200_000  # entries among which the changes of circuit breakers are found
_BREAKERS = "circuit_breaker.>"
_READY_WITHIN = 1.0  # seconds
_LEAST_SKEW = 1.0  # seconds


class RecentEvents:
    """Counts the topics of the newest events, and collects the changes of circuit breakers.

    It goes back to the same entry in each process, and all times are those of the store, so that all
    processes show the same.

    Args:
        stream: the stream.
        rates: counts the topics.
        history: collects the changes.
        clock: the clock of this process.

    Attributes:
        subscriptions: the subscriptions to the stream.
    """

    def __init__(
        self, stream: DurableStream, rates: TopicRates, history: BreakerHistory, clock: Clock
    ) -> None:
        self._stream = stream
        self._rates = rates
        self._history = history
        self._clock = clock
        self._position = 0
        self._skew = 0.0
        self.after_fork()
        renew_in_children(self)
        self.subscriptions = [
            stream.subscribe_newest(self._count, count=TOPIC_WINDOW, records=True),
            stream.subscribe_newest(self._change, _BREAKERS, BREAKER_WINDOW, records=True),
        ]

    def after_fork(self) -> None:
        """Renew in a child process what wakes event loops."""
        self._bell = Bell()

    def now(self) -> float:
        """Return the time as the store has it, in seconds since 1970."""
        return self._clock.time() + self._skew

    def oldest_change(self) -> int:
        """Return the position after which changes of circuit breakers are shown."""
        return (self._stream.tail.last or 0) - BREAKER_WINDOW

    async def ready(self) -> None:
        """Wait until what is in the log now was counted, for a moment at most."""
        for_all = [item.position for item in self._stream.tail.newest(100) if item.group is None]
        end = max(for_all, default=0)
        with suppress(TimeoutError):
            async with asyncio.timeout(_READY_WITHIN):
                while True:
                    counted = self._bell.future()
                    try:
                        if self._position >= end:
                            return
                        await counted
                    finally:
                        self._bell.forget(counted)

    def _count(self, entry: LogEntry) -> None:
        position, time, event = entry
        if position <= self._position:  # it is read again, as in a child process
            self._rates.clear()
        self._rates.count(event.topic, time)
        if not matches(_BREAKERS, event.topic):
            self._history.add(event, position)
        if position > self._stream.tail.opened_at:  # it is new, so the store had this time just now
            skew = time - self._clock.time()
            self._skew = skew if abs(skew) > _LEAST_SKEW else 0.0
        self._position = position
        self._bell.ring()

    def _change(self, entry: LogEntry) -> None:
        self._history.add(entry.event, entry.position)
