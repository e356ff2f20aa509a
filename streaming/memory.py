"""`InMemoryStream`: handlers called during publish, and the newest events kept."""

from __future__ import annotations

from collections import deque

from codomyrmex.streaming.buffers import newest, ring
from codomyrmex.streaming.dispatch import ErrorHandler, LocalStream
from codomyrmex.streaming.events import Event


class InMemoryStream(LocalStream):
    """A stream inside the process.

    Plain handlers run during publish, in the order of subscription. Async handlers are awaited in the same
    order, one after another; those that were subscribed on another event loop run there and are not waited
    for. An exception of a handler or filter never reaches the publisher or another handler: it is counted,
    logged, and passed to `on_error`.

    Publish, subscribe and cancel from any thread and any event loop, and from handlers.

    Args:
        buffer_size: the number of newest events kept for `get_recent_events`.
        on_error: a plain function called with the exception, the event and the subscription.

    Raises:
        ValueError: the buffer size is negative.
    """

    def __init__(self, buffer_size: int = 1_000, *, on_error: ErrorHandler | None = None) -> None:
        self._buffer: deque[Event] = ring(buffer_size)
        super().__init__(self._buffer.append, on_error)

    def get_recent_events(self, count: int = 10) -> list[Event]:
        """Return the newest `count` events, oldest first; an empty list if `count` is 0 or less."""
        return newest(self._buffer, count)

    def _buffered(self) -> int:
        return len(self._buffer)
