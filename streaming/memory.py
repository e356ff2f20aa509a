"""`InMemoryStream`: handlers called during publish, and the newest events kept."""

from __future__ import annotations

from collections import deque

from codomyrmex.streaming.buffers import newest, ring
from codomyrmex.streaming.dispatch import ErrorHandler, LocalStream
from codomyrmex.streaming.events import Event
from codomyrmex.streaming.subscriptions import FilterFunction, Handler, Subscription
from codomyrmex.streaming.topics import EVERYTHING


class InMemoryStream(LocalStream):
    """A stream inside the process.

    Plain handlers run during publish, in the order of subscription; async handlers are awaited in the
    same order, one after another, on the loop that they were subscribed on. When `await publish()`
    returns, all of them are done. What a handler or filter raises never reaches the publisher or
    another handler: it is counted, logged, and given to `on_error`.

    Publish, subscribe and cancel from any thread and any event loop, from handlers too.

    Args:
        buffer_size: how many of the newest events `get_recent_events` can give.
        on_error: a plain function called with the exception, the event and the subscription.

    Raises:
        ValueError: the buffer size is negative.
    """

    def __init__(self, buffer_size: int = 1_000, *, on_error: ErrorHandler | None = None) -> None:
        self._buffer: deque[Event] = ring(buffer_size)
        super().__init__(self._buffer.append, on_error)

    async def subscribe(
        self,
        handler: Handler,
        topic: str = EVERYTHING,
        filter_fn: FilterFunction | None = None,
    ) -> Subscription:
        return self.subscribe_nowait(handler, topic, filter_fn)

    def get_recent_events(self, count: int = 10) -> list[Event]:
        """Give the newest `count` events, oldest first; none if `count` is 0 or less."""
        return newest(self._buffer, count)

    def _buffered(self) -> int:
        return len(self._buffer)
