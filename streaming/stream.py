"""`Stream`: the interface of every stream."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple, Self

from codomyrmex.streaming.buffers import Overflow
from codomyrmex.streaming.events import Event
from codomyrmex.streaming.listener import Listener
from codomyrmex.streaming.subscriptions import FilterFunction, Handler, Subscription
from codomyrmex.streaming.topics import EVERYTHING

Interceptor = Callable[[Event], Event | None]


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
        """Publish from code that cannot await, in any thread.

        Plain handlers run now, and async handlers run later, on the event loop that they were subscribed on.
        A subscription whose queue is full loses the event even with `Overflow.BLOCK`; that is counted.

        Raises:
            StreamClosedError: the stream is closed.
        """

    @abstractmethod
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
        """Let `fn` inspect, replace or drop each event before it is buffered and delivered.

        Interceptors run in the order of adding and in the publisher's context. If one raises, that is
        counted and logged, and the event goes on unchanged.

        Args:
            fn: a plain function that returns the event to go on with, or None to drop it.
        """

    @abstractmethod
    def remove_interceptor(self, fn: Interceptor) -> bool:
        """Remove an interceptor; return False if it was not there."""

    @abstractmethod
    def statistics(self) -> StreamStatistics:
        """Return the current counters."""

    @abstractmethod
    async def aclose(self) -> None:
        """End every subscription and accept nothing more; listeners still read what they have queued."""

    def start_publish(self, event: Event) -> Awaitable[None] | None:
        """Publish without waiting as far as possible; return what to await for the rest, if anything."""
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
        return Listener(self.subscribe_nowait, topic, filter_fn, queue_size, overflow, block_timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


async def broadcast(streams: Iterable[Stream], event: Event) -> None:
    """Publish an event to several streams concurrently; every one is tried.

    Raises:
        ExceptionGroup: the exceptions of the streams that failed.
    """

    async def publish(stream: Stream) -> None:
        await stream.publish(event)

    results = await asyncio.gather(*map(publish, streams), return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in errors:
        if not isinstance(error, Exception):
            raise error
    if errors:
        raise BaseExceptionGroup(f"{len(errors)} of {len(results)} streams failed", errors)
