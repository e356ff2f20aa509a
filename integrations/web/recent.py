"""`RecentEvents`: the newest events of a durable stream and then all new ones, each exactly once."""

from __future__ import annotations

import threading
from collections.abc import Callable

from codomyrmex.integrations.durable import DurableStream, Record
from codomyrmex.integrations.durable.entries import parse_cursor
from codomyrmex.streaming import Event
from codomyrmex.streaming.topics import EVERYTHING, matches


class RecentEvents:
    """Calls a function with the newest events of a durable stream, and with each new one.

    Args:
        stream: the stream.
        count: the number of newest events.
        call: called on any thread, with an event, and when it was stored unless it is a new one.
        topic: a topic or a pattern.

    Attributes:
        subscription: the subscription to the stream.
    """

    def __init__(
        self,
        stream: DurableStream,
        count: int,
        call: Callable[[Event, float | None], object],
        topic: str = EVERYTHING,
    ) -> None:
        self._stream = stream
        self._count = count
        self._call = call
        self._topic = topic
        self._lock = threading.Lock()
        self._newest: tuple[str, int] | None = None  # the epoch and the position up to which it was called
        self.subscription = stream.subscribe_records(self._add, topic)

    def update(self) -> None:
        """Call the function with the newest events, unless it has been, or the stream is not open yet."""
        tail = self._stream.tail
        with self._lock:
            if self._newest is None and tail.last is not None:
                self._read(tail.epoch, tail.last)

    def _add(self, record: Record) -> None:
        epoch, position = parse_cursor(record.cursor)
        with self._lock:
            called_epoch, called_position = self._newest or self._read(epoch, position - 1)
            if epoch != called_epoch or position > called_position:
                self._newest = (epoch, position)
                self._call(record.event, None)

    def _read(self, epoch: str, last: int) -> tuple[str, int]:
        """Call the function with the newest events up to a position, and return that place."""
        for item in self._stream.tail.newest(self._count):
            event = item.event() if item.position <= last and item.group is None else None
            if event is not None and matches(self._topic, event.topic):
                self._call(event, item.time)
        self._newest = (epoch, last)
        return self._newest
