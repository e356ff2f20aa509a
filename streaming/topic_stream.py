"""`TopicStream`: a stream that keeps the newest events of each topic."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Any, overload

from codomyrmex.streaming.buffers import newest, ring
from codomyrmex.streaming.dispatch import ErrorHandler, LocalStream
from codomyrmex.streaming.errors import TopicError, shorten
from codomyrmex.streaming.events import Event
from codomyrmex.streaming.subscriptions import FilterFunction, Handler, Subscription
from codomyrmex.streaming.topics import EVERYTHING, check_pattern, check_topic, is_pattern

_NOT_GIVEN: Any = object()


class TopicStream(LocalStream):
    """A stream with a buffer for each topic. Handlers are called as by `InMemoryStream`.

    Args:
        buffer_size: how many of the newest events are kept for each topic.
        max_topics: how many topics are kept. For one more, the topic goes whose last event is longest
            ago, with its buffer; topics that somebody has subscribed to by name go last.
        on_error: a plain function called with the exception, the event and the subscription.

    Raises:
        ValueError: the buffer size is negative or there is no room for a topic.
    """

    def __init__(
        self,
        buffer_size: int = 1_000,
        max_topics: int = 10_000,
        *,
        on_error: ErrorHandler | None = None,
    ) -> None:
        if max_topics < 1:
            raise ValueError(f"max_topics must be at least 1, not {max_topics}")
        ring(buffer_size)  # says at once what is wrong with the size
        super().__init__(self._keep, on_error)
        self._buffer_size = buffer_size
        self._max_topics = max_topics
        self._buffers: dict[str, deque[Event]] = {}  # in the order of first use
        # Both in the order of last use; a topic is in one of them.
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._subscribed: OrderedDict[str, None] = OrderedDict()

    @overload
    async def publish(self, event: Event) -> None: ...
    @overload
    async def publish(self, topic: str, event: Event) -> None: ...
    async def publish(self, *args: Any, **named: Any) -> None:  # noqa: D417 - those of the two overloads
        """Publish an event to its own topic, or to the topic given first.

        Args:
            topic: where to; left out, the event's own topic. An event with another topic is copied, the
                caller's stays as it was.
            event: what happened.

        Raises:
            TopicError: there is no topic, or it is malformed or a pattern; a `ValueError`.
            StreamClosedError: the stream is closed.
        """
        rest = super()._start_publish(_with_topic(*args, **named))
        if rest is not None:
            await rest

    _known_publish = publish

    def _start_publish(self, event: Event) -> Awaitable[None] | None:
        return super()._start_publish(_with_topic(event))

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
    async def subscribe(self, *args: Any, **named: Any) -> Subscription:  # noqa: D417 - as above
        """Call `handler` with each event of a topic; either of the two may be given first.

        Args:
            handler: a plain or an async function of one event.
            topic: a topic or a pattern; left out, it is `"*"`.
            filter_fn: a plain function; only the events it is true for are delivered.

        Raises:
            TopicError: the topic pattern is malformed; a `ValueError`.
            TypeError: there is no handler, or something is given twice.
            StreamClosedError: the stream is closed.
        """
        return self._subscribe(*args, **named)

    def _subscribe(
        self,
        first: Handler | str = _NOT_GIVEN,
        second: Handler | str = _NOT_GIVEN,
        filter_fn: FilterFunction | None = None,
        *,
        handler: Handler | None = None,
        topic: str = _NOT_GIVEN,
    ) -> Subscription:
        for value in (first, second):
            if value is _NOT_GIVEN:
                continue
            if callable(value) and handler is None:
                handler = value
            elif not callable(value) and topic is _NOT_GIVEN:
                topic = check_pattern(value)
            else:
                raise TypeError(f"subscribe takes one topic and one handler, not also {shorten(value)}")
        if handler is None:
            raise TypeError("subscribe needs a handler, a function of one event")
        return self.subscribe_nowait(handler, EVERYTHING if topic is _NOT_GIVEN else topic, filter_fn)

    def list_topics(self) -> list[str]:
        """Give the topics, in the order of their first event or subscription."""
        with self._lock:
            return list(self._buffers)

    def get_recent_events(self, topic: str, count: int = 10) -> list[Event]:
        """Give the newest `count` events of a topic, oldest first; none if `count` is 0 or less."""
        with self._lock:
            return newest(self._buffers.get(topic, deque()), count)

    def _buffered(self) -> int:
        with self._lock:
            return sum(len(buffer) for buffer in self._buffers.values())

    def _keep(self, event: Event) -> None:
        with self._lock:
            self._use(event.metadata["topic"]).append(event)

    def _check(self, event: Event) -> Event | None:
        checked = super()._check(event)
        if checked is not None:  # an interceptor may have taken its topic away
            check_topic(checked.metadata.get("topic"))
        return checked

    def _use(self, topic: str) -> deque[Event]:
        """Give the buffer of a topic that is used now; the caller holds the lock."""
        buffer = self._buffers.get(topic)
        if buffer is None:
            if len(self._buffers) >= self._max_topics:
                oldest, _ = (self._idle or self._subscribed).popitem(last=False)
                del self._buffers[oldest]
            buffer = self._buffers[topic] = ring(self._buffer_size)
        subscribed = self._index.has_exact(topic)
        (self._idle if subscribed else self._subscribed).pop(topic, None)
        in_use = self._subscribed if subscribed else self._idle
        in_use[topic] = None
        in_use.move_to_end(topic)
        return buffer

    def _enter(
        self, subscription: Subscription, entry: Callable[[Any], object], *, queued: bool = False
    ) -> None:
        super()._enter(subscription, entry, queued=queued)
        if not is_pattern(subscription.topic):
            self._use(subscription.topic)

    def _leave(self, subscription: Subscription) -> None:
        with self._lock:
            super()._leave(subscription)
            topic = subscription.topic
            if topic in self._subscribed and not self._index.has_exact(topic):
                del self._subscribed[topic]
                self._idle[topic] = None


def _with_topic(first: Event | str = _NOT_GIVEN, second: Event | None = None, **named: Any) -> Event:
    """Read the arguments of `publish`, and give the event with its topic."""
    event, topic = named.pop("event", second), named.pop("topic", _NOT_GIVEN)
    if isinstance(first, Event) and event is None:
        event = first
    elif first is not _NOT_GIVEN and not isinstance(first, Event) and topic is _NOT_GIVEN:
        topic = check_topic(first)
    elif first is not _NOT_GIVEN:
        raise TypeError(f"publish takes one topic and one event, not also {shorten(first)}")
    if named or not isinstance(event, Event):
        raise TypeError("publish takes a topic and an Event, or an Event that has a topic")
    if topic is _NOT_GIVEN:
        if "topic" not in event.metadata:
            raise TopicError(f"event {event.id} has no topic; give it one or name it in publish")
        check_topic(event.metadata["topic"])
        return event
    if event.metadata.get("topic") == check_topic(topic):
        return event
    return event.replace(metadata={**event.metadata, "topic": topic})
