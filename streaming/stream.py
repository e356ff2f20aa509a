"""`Stream`: what every backend offers, whatever stands behind it."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import NamedTuple, Self
from weakref import WeakSet

from codomyrmex.streaming.buffers import Overflow
from codomyrmex.streaming.events import Event
from codomyrmex.streaming.listener import Listener
from codomyrmex.streaming.subscriptions import FilterFunction, Handler, Subscription, count_drop
from codomyrmex.streaming.topics import EVERYTHING

Interceptor = Callable[[Event], Event | None]


class StreamStatistics(NamedTuple):
    """What became of a stream's events.

    Each published event is offered to every subscription whose topic takes it; each offer that its
    filter lets through ends as exactly one of delivered, dropped, or handler error.

    Attributes:
        published: events that were taken, after the interceptors.
        delivered: handed to a handler that took it, or put into the queue of a subscription.
        dropped: discarded by an interceptor or at a full queue.
        handler_errors: what handlers, filters and interceptors raised.
        subscribers: subscriptions there are now.
        buffered: events held for `get_recent_events` or for a replay.
    """

    published: int
    delivered: int
    dropped: int
    handler_errors: int
    subscribers: int
    buffered: int


class Stream(ABC):
    """Where events are published and subscribed to.

    As an async context manager a stream closes itself on the way out.
    """

    def __init__(self) -> None:
        self._listeners: WeakSet[Listener] = WeakSet()
        self._listeners_lock = threading.RLock()

    @abstractmethod
    async def publish(self, event: Event) -> None:
        """Publish an event to all subscribers of its topic.

        Args:
            event: what happened; not to be changed afterwards.

        Raises:
            StreamClosedError: the stream is closed.
        """

    @abstractmethod
    def publish_nowait(self, event: Event) -> None:
        """Publish from code that cannot await, in any thread.

        Plain handlers are called now, async handlers run on their own event loop later. Where a queue
        with `Overflow.BLOCK` is full, the event is dropped for that subscription, and counted.

        Args:
            event: what happened; not to be changed afterwards.

        Raises:
            StreamClosedError: the stream is closed.
        """

    @abstractmethod
    async def subscribe(
        self,
        handler: Handler,
        topic: str = EVERYTHING,
        filter_fn: FilterFunction | None = None,
    ) -> Subscription:
        """Call `handler` with each event published from now on.

        Args:
            handler: a plain or an async function of one event.
            topic: a topic or a pattern: tokens split by `.`, `*` for one token, `>` at the end for one
                or more; the single `"*"` for everything.
            filter_fn: a plain function; only the events it is true for are delivered.

        Raises:
            TopicError: the topic pattern is malformed; a `ValueError`.
            StreamClosedError: the stream is closed.
        """

    @abstractmethod
    async def unsubscribe(self, subscription_id: str) -> bool:
        """End a subscription; False if there is none with that id."""

    @abstractmethod
    def add_interceptor(self, fn: Interceptor) -> None:
        """Let `fn` see, replace or drop each event before anything else does.

        Interceptors run in the order of adding and in the publisher's own context. One that raises is
        counted and logged, and the event goes on as it was.

        Args:
            fn: gives the event to go on with, or None to drop it.
        """

    @abstractmethod
    def remove_interceptor(self, fn: Interceptor) -> bool:
        """Take an interceptor out again; False if it was not in."""

    @abstractmethod
    def statistics(self) -> StreamStatistics:
        """Give the counts up to now."""

    def listen(
        self,
        topic: str = EVERYTHING,
        filter_fn: FilterFunction | None = None,
        queue_size: int = 1_000,
        overflow: Overflow = Overflow.DROP_OLDEST,
    ) -> Listener:
        """Give an async context manager whose value is an async iterator of events.

        Args:
            topic: a topic or a pattern, as for `subscribe`.
            filter_fn: only the events it is true for are queued.
            queue_size: how many events may wait for the reader.
            overflow: what happens to one more.

        Raises:
            TopicError: the topic pattern is malformed; a `ValueError`. On entering the context.
        """
        return Listener(self, topic, filter_fn, queue_size, overflow)

    async def aclose(self) -> None:
        """End every listener after what it has queued, and take nothing more. May be called twice."""
        with self._listeners_lock:
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener.close()

    def _starter(self) -> Callable[[Event], Awaitable[None] | None]:
        """Give what publishes as far as nothing has to wait, and gives what to await for the rest."""
        return self.publish

    async def _let_finish(self, subscription: Subscription) -> None:
        """End a subscription after what is still to be handled."""
        subscription.cancel()

    async def _subscribe_listener(
        self, handler: Handler, topic: str, filter_fn: FilterFunction | None
    ) -> Subscription:
        """Subscribe a listener, which has a queue of its own."""
        return await self.subscribe(handler, topic, filter_fn)

    def _count_drop(self, subscription: Subscription, event: Event, reason: str | None) -> None:  # noqa: ARG002
        """Count an event that a full queue has cost a subscription; backends count their own too."""
        count_drop(subscription)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


async def broadcast(streams: Iterable[Stream], event: Event) -> None:
    """Publish an event to several streams at the same time.

    Args:
        streams: where to; every one is tried.
        event: what happened.

    Raises:
        ExceptionGroup: what the streams that failed have raised.
    """
    results = await asyncio.gather(*(_publish(stream, event) for stream in streams), return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in errors:
        if not isinstance(error, Exception):
            raise error
    failed = [error for error in errors if isinstance(error, Exception)]
    if failed:
        raise ExceptionGroup(f"{len(failed)} of {len(results)} streams failed", failed)


async def _publish(stream: Stream, event: Event) -> None:
    """Publish; what raises before there is anything to await becomes a failure like the others."""
    await stream.publish(event)
