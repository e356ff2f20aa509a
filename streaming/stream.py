"""`Stream`: the interface of every stream, and `Listener`: a subscription as an async iterator."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Self

from codomyrmex.streaming.buffers import BoundedQueue, Overflow, PublishWait
from codomyrmex.streaming.events import Event
from codomyrmex.streaming.provenance import cause, origin_of
from codomyrmex.streaming.subscriptions import FilterFunction, Handler, Subscription
from codomyrmex.streaming.topics import EVERYTHING

Interceptor = Callable[[Event], Event | None]
"""A plain function of one event; it returns the event to continue with, or None to drop it."""


class StreamStatistics(NamedTuple):
    """The counters of a stream.

    Attributes:
        published: events accepted, after the interceptors.
        dropped: events that an interceptor dropped, and events that a subscription lost to a full queue.
        handler_errors: exceptions of handlers, filters and interceptors.
        subscribers: current subscriptions.
        buffered: events held for `get_recent_events` or for replay.
    """

    published: int
    dropped: int
    handler_errors: int
    subscribers: int
    buffered: int


class Stream(ABC):
    """Where events are published and subscribed to. As an async context manager it closes itself."""

    @abstractmethod
    async def publish(self, event: Event) -> None:
        """Publish an event to the subscribers of its topic, and wait for the handlers of this event loop.

        Raises:
            StreamClosedError: the stream is closed.
        """

    @abstractmethod
    def publish_nowait(self, event: Event) -> None:
        """Publish from code that cannot await, in any thread; errors as for `publish`.

        Plain handlers run now, and async handlers run later, on the event loop that they were subscribed on.
        A subscription whose queue is full loses the event even with `Overflow.BLOCK`; that is counted.
        """

    async def subscribe(
        self, handler: Handler, topic: str = EVERYTHING, filter_fn: FilterFunction | None = None
    ) -> Subscription:
        """Call `handler` with each event published from now on.

        Args:
            handler: a plain or an async function of one event.
            topic: a topic or a pattern: tokens separated by `.`, `*` for one token, `>` at the end for one
                or more; `"*"` alone matches everything.
            filter_fn: a plain function; only the events that it returns true for are delivered.

        Raises:
            TopicError: the topic pattern is malformed.
            StreamClosedError: the stream is closed.
        """
        return self.subscribe_nowait(handler, topic, filter_fn)

    @abstractmethod
    def subscribe_nowait(
        self, handler: Handler, topic: str = EVERYTHING, filter_fn: FilterFunction | None = None
    ) -> Subscription:
        """Subscribe from code that cannot await; an async handler needs a running event loop all the same."""

    @abstractmethod
    async def unsubscribe(self, subscription_id: str) -> bool:
        """End a subscription; return False if there is none with that id."""

    @abstractmethod
    def add_interceptor(self, fn: Interceptor) -> None:
        """Call `fn`, a plain function, with each event before it is buffered and delivered.

        It returns the event to continue with, or None to drop it. Interceptors run in the order of adding and
        in the publisher's context. If one raises, that is counted and logged, and the event passes unchanged.
        """

    @abstractmethod
    def remove_interceptor(self, fn: Interceptor) -> bool:
        """Remove an interceptor; return False if it was not added."""

    @abstractmethod
    def statistics(self) -> StreamStatistics:
        """Return the current counters."""

    @abstractmethod
    async def aclose(self) -> None:
        """End every subscription and accept no more events; listeners still read what they have queued."""

    def start_publish(self, event: Event) -> Awaitable[None] | None:
        """Publish without waiting where possible; return what remains to be awaited, if anything."""
        return self.publish(event)

    def listen(
        self,
        topic: str = EVERYTHING,
        filter_fn: FilterFunction | None = None,
        queue_size: int = 1_000,
        overflow: Overflow = Overflow.DROP_OLDEST,
        block_timeout: float | None = None,
    ) -> Listener:
        """Return an async context manager whose value is an async iterator of events.

        Args:
            topic: a topic or a pattern, as for `subscribe`; a malformed one raises on entering the context.
            filter_fn: only the events that it returns true for are queued.
            queue_size: the number of events that can wait for the reader.
            overflow: what happens to an event when the queue is full.
            block_timeout: seconds that a publisher waits for room with `Overflow.BLOCK`; None for no limit.

        Raises:
            ValueError: a parameter is out of range.
        """
        subscribe = partial(self.subscribe_nowait, topic=topic, filter_fn=filter_fn)
        return Listener(subscribe, queue_size, overflow, block_timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


class Listener:
    """The result of `Stream.listen`: `async with stream.listen() as events: async for event in events`.

    The iteration ends when the stream closes, when `Overflow.DISCONNECT` ends it, or with its context.

    Attributes:
        subscription: its subscription, once the context has been entered.
    """

    def __init__(
        self,
        subscribe: Callable[[Callable[[Event], object]], Subscription],
        queue_size: int,
        overflow: Overflow,
        block_timeout: float | None,
    ) -> None:
        self._subscribe = subscribe
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
        self.subscription = self._subscribe(self.put)
        self.subscription.on_end(lambda _: self._queue.close())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._set_cause(None)
        self._disconnected()
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
                with suppress(IndexError):  # a publisher that needed the room may have dropped it
                    event, origin = queue.get()
                    self._set_cause(origin_of(event) or origin)
                    return event
            elif queue.closed:
                self._set_cause(None)
                raise StopAsyncIteration
            elif (waiter := queue.wait(asyncio.get_running_loop())) is not None:
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


async def broadcast(streams: Iterable[Stream], event: Event) -> None:
    """Publish an event to several streams concurrently; every one is tried.

    Raises:
        ExceptionGroup: the exceptions of the streams that failed.
    """
    results = await asyncio.gather(*(_publish(stream, event) for stream in streams), return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in errors:
        if not isinstance(error, Exception):
            raise error
    if errors:
        raise BaseExceptionGroup(f"{len(errors)} of {len(results)} streams failed", errors)


async def _publish(stream: Stream, event: Event) -> None:
    await stream.publish(event)  # an exception of the call itself is one of this stream too
