"""`Listener`: a subscription as an async iterator with a bounded queue."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from codomyrmex.streaming.buffers import BoundedQueue, Overflow, PutLater
from codomyrmex.streaming.provenance import ORIGIN, cause, origin_of
from codomyrmex.streaming.subscriptions import FilterFunction, Subscription, when_ended

if TYPE_CHECKING:
    from codomyrmex.streaming.events import Event
    from codomyrmex.streaming.stream import Stream


class _Caused(NamedTuple):
    """An event in the queue that was published because of something."""

    event: Event
    cause: str


class Listener:
    """What `Stream.listen` gives: `async with stream.listen() as events: async for event in events`.

    It ends when the stream closes, when `Overflow.DISCONNECT` ended it, or with its context.

    Attributes:
        subscription: its place on the stream, from the entering of the context on.
    """

    def __init__(
        self,
        stream: Stream,
        topic: str,
        filter_fn: FilterFunction | None,
        queue_size: int,
        overflow: Overflow,
    ) -> None:
        self._stream = stream
        self._topic = topic
        self._filter_fn = filter_fn
        self._queue: BoundedQueue[Event | _Caused] = BoundedQueue(
            queue_size, overflow, self._dropped, self._disconnected
        )
        self._caused = False
        self.subscription: Subscription | None = None

    def put(self, event: Event) -> PutLater[Event | _Caused] | None:
        """Take an event from the stream; it is the handler of the subscription."""
        led_here = cause.get()
        return self._queue.put(event if led_here is None else _Caused(event, led_here))

    def close(self) -> None:
        """End the iteration after what is queued; from any thread."""
        self._queue.close()

    async def __aenter__(self) -> Self:
        if self.subscription is not None:
            raise RuntimeError("a listener is entered once; call `listen` again for another one")
        stream = self._stream
        if self._queue.blocks:
            self._queue.read_here()
            self._queue.owner = asyncio.current_task()
        with stream._listeners_lock:
            stream._listeners.add(self)
        self.subscription = await stream._subscribe_listener(self.put, self._topic, self._filter_fn)
        when_ended(self.subscription, self.close)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._stream._listeners_lock:
            self._stream._listeners.discard(self)
        self._say_cause(None)
        self._queue.close(discard=True)
        if self._queue.blocks:
            self._queue.read_no_more()
        if self.subscription is not None:
            self.subscription.cancel()
            await self._stream.unsubscribe(self.subscription.id)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        queue = self._queue
        if queue.blocks:
            queue.read_here()
        while True:
            if queue.items:
                try:
                    item = queue.take()
                except IndexError:  # it was dropped by a thread that needed the room
                    continue
                event, origin = item if isinstance(item, _Caused) else (item, None)
                if self._caused or origin is not None or ORIGIN in event.metadata:
                    self._say_cause(origin_of(event) or origin)
                return event
            if queue.closed:
                self._say_cause(None)
                raise StopAsyncIteration
            news = queue.waiting(asyncio.get_running_loop())
            if news is not None:
                await news

    def _say_cause(self, origin: str | None) -> None:
        """Let the code that reads, up to the next event, be known as caused by this one."""
        if self._caused or origin is not None:
            self._caused = origin is not None
            cause.set(origin)

    def _dropped(self, item: Event | _Caused, reason: str | None) -> None:
        event = item.event if isinstance(item, _Caused) else item
        if self.subscription is not None:
            self._stream._count_drop(self.subscription, event, reason)

    def _disconnected(self) -> None:
        if self.subscription is not None:
            self.subscription.cancel()
