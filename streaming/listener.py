"""`Listener`: a subscription as an async iterator with a bounded queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

from codomyrmex.streaming.buffers import BoundedQueue, Overflow, PublishWait
from codomyrmex.streaming.events import Event
from codomyrmex.streaming.provenance import ORIGIN, cause, origin_of
from codomyrmex.streaming.subscriptions import FilterFunction, Subscription


class Listener:
    """The result of `Stream.listen`: `async with stream.listen() as events: async for event in events`.

    The iteration ends when the stream closes, when `Overflow.DISCONNECT` ends it, or with its context.

    Attributes:
        subscription: its subscription, once the context has been entered.
    """

    def __init__(
        self,
        subscribe: Callable[[Callable[[Event], object], str, FilterFunction | None], Subscription],
        topic: str,
        filter_fn: FilterFunction | None,
        queue_size: int,
        overflow: Overflow,
        block_timeout: float | None,
    ) -> None:
        self._subscribe = subscribe
        self._topic = topic
        self._filter_fn = filter_fn
        # Each event with the cause of its publishing.
        self._queue: BoundedQueue[tuple[Event, str | None]] = BoundedQueue(
            queue_size, overflow, self._dropped, self._disconnected, block_timeout
        )
        self._has_cause = False
        self.subscription: Subscription | None = None

    def put(self, event: Event) -> PublishWait | None:
        """Queue an event; this is the handler of the subscription."""
        return self._queue.put((event, cause.get()))

    async def __aenter__(self) -> Self:
        if self.subscription is not None:
            raise RuntimeError("a listener can be entered once; call `listen` again for another one")
        self._queue.reader = asyncio.current_task()
        self.subscription = self._subscribe(self.put, self._topic, self._filter_fn)
        self.subscription.on_end(lambda _: self._queue.close())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._set_cause(None)
        if self.subscription is not None:
            self.subscription.cancel()
        self._queue.close(discard=True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self.subscription is None:
            raise RuntimeError("a listener has to be entered first: async with stream.listen() as events")
        queue = self._queue
        queue.reader = asyncio.current_task()
        while True:
            if queue.items:
                try:
                    event, origin = queue.get()
                except IndexError:  # dropped by a publisher that needed the room
                    continue
                self._set_cause(origin_of(event) or origin if ORIGIN in event.metadata else origin)
                return event
            if queue.closed:
                self._set_cause(None)
                raise StopAsyncIteration
            waiter = queue.wait(asyncio.get_running_loop())
            if waiter is not None:
                await waiter

    def _set_cause(self, origin: str | None) -> None:
        """Mark what the reader does until the next event as caused by this one."""
        if self._has_cause or origin is not None:
            self._has_cause = origin is not None
            cause.set(origin)

    def _dropped(self, item: tuple[Event, str | None], reason: str | None) -> None:
        if self.subscription is not None:
            self.subscription.drop(item[0], reason)

    def _disconnected(self) -> None:
        if self.subscription is not None:
            self.subscription.cancel()
