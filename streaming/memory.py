"""`InMemoryStream` and `TopicStream`: handlers called during publish, and the newest events kept."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any, overload

from codomyrmex.streaming.buffers import newest, ring
from codomyrmex.streaming.dispatch import ErrorHandler, LocalStream
from codomyrmex.streaming.errors import TopicError, shorten
from codomyrmex.streaming.events import Event
from codomyrmex.streaming.subscriptions import FilterFunction, Handler, Subscription
from codomyrmex.streaming.topics import EVERYTHING, check_topic, is_pattern


class InMemoryStream(LocalStream):
    """A stream inside the process, for publishers and handlers in any thread and on any event loop.

    Plain handlers run during publish, in the order of subscription. Async handlers are awaited in the same
    order, one after another; those that were subscribed on another event loop run there and are not waited
    for. An exception of a handler or filter never reaches the publisher or another handler: it is counted,
    logged, and passed to `on_error`.

    Args:
        buffer_size: the number of newest events kept for `get_recent_events`.
        on_error: a plain function called with the exception, the event and the subscription.

    Raises:
        ValueError: the buffer size is negative.
    """

    def __init__(self, buffer_size: int = 1_000, *, on_error: ErrorHandler | None = None) -> None:
        self._buffer: deque[Event] = ring(buffer_size)
        super().__init__(self._buffer.append, self._buffer.__len__, on_error)

    def get_recent_events(self, count: int = 10) -> list[Event]:
        """Return the newest `count` events, oldest first; an empty list if `count` is 0 or less."""
        return newest(self._buffer, count)


class TopicStream(LocalStream):
    """A stream with a buffer for each topic. Handlers are called as by `InMemoryStream`.

    Args:
        buffer_size: the number of newest events kept for each topic.
        max_topics: the number of topics kept. When there is one more, the topic that has been idle longest
            is dropped with its buffer; topics with exact subscriptions are dropped last.
        on_error: a plain function called with the exception, the event and the subscription.

    Raises:
        ValueError: the buffer size is negative, or `max_topics` is below 1.
    """

    def __init__(
        self, buffer_size: int = 1_000, max_topics: int = 10_000, *, on_error: ErrorHandler | None = None
    ) -> None:
        if max_topics < 1:
            raise ValueError(f"max_topics: must be at least 1, got {max_topics}")
        ring(buffer_size)  # checks the size
        super().__init__(self._keep, self._count_buffered, on_error)
        self._buffer_size = buffer_size
        self._max_topics = max_topics
        self._buffers: dict[str, deque[Event]] = {}  # in the order of first use
        # Each topic is in one of these, in the order of last use.
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._subscribed: OrderedDict[str, None] = OrderedDict()

    @overload
    async def publish(self, event: Event) -> None: ...
    @overload
    async def publish(self, topic: str, event: Event) -> None: ...
    async def publish(self, *args: Any, **named: Any) -> None:
        """Publish an event to its own topic, or a copy of it to the topic passed first.

        Raises:
            TopicError: there is no topic, or it is malformed or a pattern; a `ValueError`.
            StreamClosedError: the stream is closed.
        """
        await super().publish(_with_topic(*args, **named))

    start_publish = LocalStream.start_publish

    @overload
    def publish_nowait(self, event: Event) -> None: ...
    @overload
    def publish_nowait(self, topic: str, event: Event) -> None: ...
    def publish_nowait(self, *args: Any, **named: Any) -> None:
        """Publish from code that cannot await; arguments and errors as for `publish`."""
        super().publish_nowait(_with_topic(*args, **named))

    @overload
    async def subscribe(
        self, handler: Handler, topic: str = ..., filter_fn: FilterFunction | None = ...
    ) -> Subscription: ...
    @overload
    async def subscribe(
        self, topic: str, handler: Handler, filter_fn: FilterFunction | None = ...
    ) -> Subscription: ...
    async def subscribe(
        self, *args: Any, filter_fn: FilterFunction | None = None, **named: Any
    ) -> Subscription:
        """Call `handler` with each event of a topic; either of the two can come first.

        Arguments and errors are those of `Stream.subscribe`.

        Raises:
            TypeError: there is no handler, or an argument is passed twice.
        """
        if len(args) > 2:  # noqa: PLR2004 - the third one is the filter
            *args, filter_fn = args  # type: ignore[assignment] # a list of the first two
        values = [*args, *(named.pop(name) for name in ("handler", "topic") if name in named)]
        handlers = [value for value in values if callable(value)]
        topics = [value for value in values if not callable(value)] or [EVERYTHING]
        if named or len(handlers) != 1 or len(topics) != 1:
            raise TypeError(f"subscribe() takes one handler and at most one topic, got {shorten(values)}")
        return self.subscribe_nowait(handlers[0], topics[0], filter_fn)

    def list_topics(self) -> list[str]:
        """Return the topics, in the order of their first event or subscription."""
        with self._lock:
            return list(self._buffers)

    def get_recent_events(self, topic: str, count: int = 10) -> list[Event]:
        """Return the newest `count` events of a topic, oldest first; none if `count` is 0 or less."""
        with self._lock:
            return newest(self._buffers.get(topic, deque()), count)

    def _count_buffered(self) -> int:
        with self._lock:
            return sum(len(buffer) for buffer in self._buffers.values())

    def _intercept(self, event: Event) -> Event | None:
        checked = super()._intercept(event)
        return checked and _with_topic(checked)

    def _keep(self, event: Event) -> None:
        with self._lock:
            self._use(event.metadata["topic"]).append(event)

    def _use(self, topic: str) -> deque[Event]:
        """Return the buffer of a topic that is in use now; the caller holds the lock."""
        buffer = self._buffers.get(topic)
        if buffer is None:
            if len(self._buffers) >= self._max_topics:
                oldest, _ = (self._idle or self._subscribed).popitem(last=False)
                del self._buffers[oldest]
            buffer = self._buffers[topic] = ring(self._buffer_size)
        self._idle.pop(topic, None)
        self._subscribed.pop(topic, None)
        (self._subscribed if self._index.has_exact(topic) else self._idle)[topic] = None
        return buffer

    def _add(self, subscription: Subscription, call: Handler | None) -> None:
        with self._lock:
            super()._add(subscription, call)
            if not is_pattern(subscription.topic):
                self._use(subscription.topic)

    def _leave(self, subscription: Subscription) -> None:
        super()._leave(subscription)
        topic = subscription.topic
        with self._lock:
            if topic in self._subscribed and not self._index.has_exact(topic):
                del self._subscribed[topic]
                self._idle[topic] = None


def _with_topic(*args: Any, **named: Any) -> Event:
    """Read the arguments of `publish`, and return the event with its topic."""
    values = [*args, *(named.pop(name) for name in ("topic", "event") if name in named)]
    events = [value for value in values if isinstance(value, Event)]
    topics = [check_topic(value) for value in values if not isinstance(value, Event)]
    if named or len(events) != 1 or len(topics) > 1:
        raise TypeError(f"publish() takes one Event and at most one topic, got {shorten(values)}")
    event = events[0]
    if not topics and "topic" not in event.metadata:
        raise TopicError(f"topic: event {event.id} has none; pass one to publish()")
    topic = topics[0] if topics else check_topic(event.metadata["topic"])
    if event.metadata.get("topic") == topic:
        return event
    return event.replace(metadata={**event.metadata, "topic": topic})
