"""`SSEStream`: a replay buffer and a queue for each subscriber, with frames that are encoded once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from codomyrmex.streaming.buffers import BoundedQueue, Overflow, ring
from codomyrmex.streaming.clock import SYSTEM_CLOCK, Clock, Timer
from codomyrmex.streaming.dispatch import ErrorHandler, LocalStream
from codomyrmex.streaming.errors import StreamClosedError
from codomyrmex.streaming.events import Event, EventType
from codomyrmex.streaming.provenance import cause, origin_of
from codomyrmex.streaming.routes import RouteEntry, TopicIndex
from codomyrmex.streaming.sse_format import encode_frame, wire_id
from codomyrmex.streaming.stream import StreamStatistics
from codomyrmex.streaming.subscriptions import FilterFunction, Handler, Subscription
from codomyrmex.streaming.topics import EVERYTHING, matches

T = TypeVar("T")

_MAX_DISCONNECTED = 100


class Frame:
    """An event shared by all its subscribers, encoded at most once.

    Args:
        event: the event.
        id: what a client sends as `Last-Event-ID` to continue after it; by default the event's own id.
        notice: whether the stream made it for one subscriber, such as a heartbeat.

    Attributes:
        text: its frame, once it has been encoded.
        wire: a slot for the bytes that a reader of `batches` sends.
    """

    __slots__ = ("event", "id", "notice", "text", "wire")

    def __init__(self, event: Event, id: str | None = None, *, notice: bool = False) -> None:
        self.event = event
        self.id = event.id if id is None else id
        self.notice = notice
        self.text: str | None = None
        self.wire: bytes | None = None

    def encode(self) -> str:
        """Return the frame of an event stream; that of a notice has no id, as it cannot be replayed."""
        if self.text is None:
            event = self.event
            has_id = not self.notice and event.type is not EventType.HEARTBEAT
            self.text = encode_frame(self.id if has_id else None, event.type.value, event.data)
        return self.text


class _Feed(BoundedQueue[Frame]):
    """The queue of one subscription, and the replay that is read before it."""

    def __init__(self, stream: SSEStream, subscription: Subscription) -> None:
        size, overflow, timeout = stream.queue_size, stream.overflow, stream.block_timeout
        super().__init__(size, overflow, self._drop, self._disconnect, timeout, stream.clock)
        self.subscription = subscription
        self.entry = RouteEntry(subscription, self.put)
        self.slow = stream.slow
        self.replay: deque[Frame] | None = None
        self.ended = False
        self.waiting = False  # the reader waits for events
        self.iteration: object = None  # stands for the generator that reads
        self.timer: Timer | None = None

    def next_batch(self, limit: int) -> list[Frame]:
        """Return what can be read now, at most `limit` frames."""
        if self.replay:
            return [self.replay.popleft() for _ in range(min(limit, len(self.replay)))]
        try:
            return [self.get()] if limit == 1 else self.get_many(limit)
        except IndexError:
            return []

    def _drop(self, frame: Frame, reason: str | None) -> None:
        self.subscription.drop(frame.event, reason)

    def _disconnect(self) -> None:
        self.slow.append(self)

    def silence_is_over(self) -> None:
        """Make the reader check the time."""
        self.timer = None
        self.wake()


class SSEStream(LocalStream):
    """A stream whose subscribers read at their own pace, such as browsers over server-sent events.

    Args:
        buffer_size: the number of newest events that can be replayed.
        queue_size: the number of events that can wait for each subscriber.
        overflow: what happens to an event when a queue is full.
        heartbeat_interval: seconds of silence after which a subscriber reads a HEARTBEAT. Proxies close
            silent connections, many after 30 seconds; behind one, choose 15.
        block_timeout: seconds that a publisher waits for room with `Overflow.BLOCK`; None for no limit.
        on_error: a plain function called with the exception, the event and the subscription.
        clock: measures heartbeats and timeouts.

    Raises:
        ValueError: a size or time is out of range, or the overflow policy is unknown.
    """

    def __init__(
        self,
        buffer_size: int = 100,
        queue_size: int = 1_000,
        overflow: Overflow = Overflow.DROP_OLDEST,
        heartbeat_interval: float = 30.0,
        *,
        block_timeout: float | None = None,
        on_error: ErrorHandler | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not heartbeat_interval > 0:
            raise ValueError(f"heartbeat_interval: must be greater than 0, got {heartbeat_interval}")
        BoundedQueue(queue_size, overflow, lambda *_: None, None, block_timeout)  # checks the values
        self._buffer: deque[Frame] = ring(buffer_size)
        super().__init__(lambda event: self._buffer.append(Frame(event)), self._buffer.__len__, on_error)
        self._update_routes()
        self.queue_size = queue_size
        self.overflow = Overflow(overflow)
        self.heartbeat_interval = heartbeat_interval
        self.block_timeout = block_timeout
        self.clock = clock
        self._queues = TopicIndex()
        self._feeds: dict[str, _Feed] = {}
        self.slow: deque[_Feed] = deque()  # to be disconnected when the lock is free
        self._disconnected: deque[str] = deque()

    async def subscribe(
        self,
        handler: Handler | None = None,
        topic: str = EVERYTHING,
        filter_fn: FilterFunction | None = None,
        *,
        last_event_id: str | None = None,
    ) -> Subscription:
        """Queue each event published from now on, to be read by `events`, `sse_generator` or `batches`.

        Errors are those of `Stream.subscribe`. `subscribe_nowait` subscribes a handler without a queue.

        Args:
            handler: called with each event too.
            topic: a topic or a pattern; `"*"` matches everything.
            filter_fn: a plain function; only the events that it returns true for are queued.
            last_event_id: the id of the last event that the client has received. The events after it are
                read first, following a CONNECT event with the data `{"resumed": true, "replayed": n}`.
                If it is no longer in the buffer, all buffered events are read, and the data is
                `{"resumed": false, "requested": ..., "first_available": ...}`.
        """
        subscription = Subscription(None, topic, handler, filter_fn)
        feed = _Feed(self, subscription)
        with self._lock:
            self._add(subscription, handler)
            self._feeds[subscription.id] = feed
            self._queues.add(feed.entry)
            buffered = list(self._buffer) if last_event_id else []
        if last_event_id:
            feed.replay = self._replay(subscription, buffered, last_event_id)
        return subscription

    async def unsubscribe(self, subscription_id: str) -> bool:
        feed = self._feeds.get(subscription_id)
        if feed is None:
            return await super().unsubscribe(subscription_id)
        feed.subscription.cancel()
        self._feeds.pop(subscription_id, None)
        return True

    def publish_frame(self, frame: Frame) -> None:
        """Publish an event as a frame that was made before, such as one with another id.

        It does not go through the interceptors; in other respects this is `publish_nowait`.
        """
        self._go_on(*self._put(frame))

    def events(self, subscription_id: str) -> AsyncGenerator[Event, None]:
        """Yield the events of a subscription, and a HEARTBEAT after each interval of silence.

        The iteration ends with the subscription, and when the stream closes, after the queued events and a
        DISCONNECT event. For an unknown id it is empty. A second reader gets a `RuntimeError`.
        """
        return self._read(subscription_id, 1, lambda batch: batch[0].event)

    def sse_generator(self, subscription_id: str) -> AsyncGenerator[str, None]:
        """Yield the same as `events`, as frames of an event stream (WHATWG HTML, section 9.2).

        Frames made by the stream have no id line, so that they do not change the client's Last-Event-ID.
        """
        return self._read(subscription_id, 1, lambda batch: batch[0].text or batch[0].encode())

    def batches(self, subscription_id: str, limit: int = 100) -> AsyncGenerator[list[Frame], None]:
        """Yield the same as `events`, as many frames at once as are ready, at most `limit`.

        Raises:
            ValueError: the limit is below 1.
        """
        if limit < 1:
            raise ValueError(f"limit: must be at least 1, got {limit}")
        return self._read(subscription_id, limit, lambda batch: batch)

    async def _read(  # noqa: C901, PLR0912 - the one loop behind every frame that is sent
        self, subscription_id: str, limit: int, show: Callable[[list[Frame]], T]
    ) -> AsyncGenerator[T, None]:
        feed = self._feeds.get(subscription_id)
        if feed is None:
            return
        if feed.waiting:
            raise RuntimeError(f"subscription {subscription_id} is already being read; use one reader")
        feed.iteration = iteration = object()  # one that was abandoned is replaced
        now = self.clock.monotonic
        last_sent = now()
        origin = None
        try:
            while True:
                if feed.iteration is not iteration:
                    raise RuntimeError(f"subscription {subscription_id} is being read by another reader")
                feed.reader = asyncio.current_task()
                batch = feed.next_batch(limit)
                if not batch:
                    if feed.closed:
                        self._feeds.pop(subscription_id, None)
                        return
                    silence_left = last_sent + self.heartbeat_interval - now()
                    if feed.timer is None and silence_left <= 0:
                        batch = [Frame(Event(type=EventType.HEARTBEAT), notice=True)]
                    else:
                        if feed.timer is None:  # one for many events, set again when it has fired
                            feed.timer = self.clock.call_later(silence_left, feed.silence_is_over)
                        waiter = feed.wait(asyncio.get_running_loop())
                        if waiter is not None:
                            feed.waiting = True
                            await waiter
                            feed.waiting = False
                        continue
                if origin_of(batch[0].event) != origin:  # what the reader does until the next batch
                    origin = origin_of(batch[0].event)
                    cause.set(origin)
                last_sent = now()
                yield show(batch)
        finally:
            if origin is not None:
                cause.set(None)
            if feed.iteration is iteration:
                feed.waiting = False
                feed.reader = None
                if feed.timer is not None:
                    feed.timer.cancel()
                    feed.timer = None

    def newest_id(self, filter_fn: FilterFunction | None = None) -> str | None:
        """Return the id of the newest event that can be replayed from, or None if there is none.

        Args:
            filter_fn: only events that it returns true for are considered.
        """
        if filter_fn is None:
            try:
                return self._buffer[-1].id
            except IndexError:
                return None
        buffered = reversed(list(self._buffer))
        return next((frame.id for frame in buffered if filter_fn(frame.event)), None)

    def statistics(self) -> StreamStatistics:
        feeds = list(self._feeds.values())
        ids = {feed.subscription.id for feed in feeds if feed.subscription.active}
        return super().statistics()._replace(subscribers=len(ids | self._entries.keys()))

    async def aclose(self) -> None:
        with self._lock:
            feeds = [] if self._closed else list(self._feeds.values())
            self._closed = True
        for feed in feeds:
            if not feed.closed:
                feed.close(final=Frame(Event(type=EventType.DISCONNECT), notice=True))
        await super().aclose()
        for feed in feeds:
            feed.subscription.cancel()

    def _leave(self, subscription: Subscription) -> None:
        super()._leave(subscription)
        with self._lock:
            feed = self._feeds.get(subscription.id)
            if feed is None:
                return
            self._queues.remove(feed.entry)
            ended, feed.ended = feed.ended, True
            if feed.closed and not ended:  # by the stream: what is queued can still be read
                return
            del self._feeds[subscription.id]
        feed.replay = None
        feed.close(discard=True)

    def _disconnect_slow(self) -> None:
        """End the subscriptions whose queues were full; the latest ones can still read what is queued."""
        while self.slow:
            feed = self.slow.popleft()
            self._log.warning("disconnected", "%r was disconnected: its queue is full", feed.subscription)
            feed.subscription.cancel()
            self._disconnected.append(feed.subscription.id)
            if len(self._disconnected) > _MAX_DISCONNECTED:
                self._feeds.pop(self._disconnected.popleft(), None)

    def _update_routes(self) -> None:
        self._routes = {}  # every event goes through `_admit`

    def _admit(self, event: Event) -> tuple[Event, Iterator[RouteEntry]]:
        """Put an event into the buffer and all queues in one step, so that a replay has no gaps."""
        checked = self._intercept(event)
        return (event, iter(())) if checked is None else self._put(Frame(checked))

    def _put(self, frame: Frame) -> tuple[Event, Iterator[RouteEntry]]:
        event = frame.event
        topic = event.topic
        while True:
            with self._lock:
                queues = self._queues.route(topic)
            # Filters are user code and run without the lock.
            filtered = [one.subscription for one in queues if one.subscription.filter_fn is not None]
            excluded = {one for one in filtered if not self._passes(one, event)}
            with self._lock:
                if self._closed:
                    raise StreamClosedError(f"{type(self).__name__} is closed")
                if self._queues.route(topic) is not queues:
                    continue
                self._buffer.append(frame)
                self._count_published()
                entries: list[RouteEntry] = []
                for entry in queues:
                    if not excluded or entry.subscription not in excluded:
                        wait: Any = entry.call(frame)
                        if wait is not None:  # the dispatch waits for it as for an async handler
                            entries.append(RouteEntry(entry.subscription, partial(_return, wait)))
                handlers = [one for one in self._index.route(topic) if one.subscription not in excluded]
            if self.slow:
                self._disconnect_slow()
            return event, iter((*entries, *handlers))

    def _passes(self, subscription: Subscription, event: Event) -> bool:
        try:
            return subscription.passes(event)
        except Exception as error:  # noqa: BLE001 - a failing filter must not affect other subscriptions
            self._failed(error, event, subscription)
            return False

    def _replay(self, subscription: Subscription, buffered: list[Frame], last_event_id: str) -> deque[Frame]:
        """Return a CONNECT event and the buffered events after an id that this subscription receives."""
        ids = [wire_id(frame.id) for frame in buffered]
        last_id = wire_id(last_event_id)
        resumed = last_id in ids
        if resumed:
            buffered = buffered[len(ids) - ids[::-1].index(last_id) :]
        accepted = [frame for frame in buffered if self._passes(subscription, frame.event)]
        frames = [frame for frame in accepted if matches(subscription.topic, frame.event.topic)]
        data: dict[str, Any] = {"resumed": True, "replayed": len(frames)}
        if not resumed:
            # The filter may stand for a permission, so an event that it does not accept is not named.
            first_available = wire_id(accepted[0].id) if accepted else None
            data = {"resumed": False, "requested": last_event_id, "first_available": first_available}
        return deque([Frame(Event(type=EventType.CONNECT, data=data), notice=True), *frames])


def _return(wait: object, _: Event) -> object:
    return wait
