"""`SSEStream`: a bounded queue for each client, frames encoded once, replay after a reconnect."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from inspect import isawaitable, iscoroutinefunction
from typing import Any, Generic, NamedTuple, Self, TypeVar
from weakref import ReferenceType, ref

from codomyrmex.streaming.buffers import BoundedQueue, Overflow, PutLater, ring
from codomyrmex.streaming.clock import SYSTEM_CLOCK, Clock, Timer
from codomyrmex.streaming.dispatch import ErrorHandler, LocalStream, wants
from codomyrmex.streaming.errors import StreamClosedError
from codomyrmex.streaming.events import Event, EventType, new_id
from codomyrmex.streaming.instrument import within
from codomyrmex.streaming.provenance import ORIGIN, cause, origin_of
from codomyrmex.streaming.sse_format import encode_frame, wire_id
from codomyrmex.streaming.subscriptions import FilterFunction, Handler, Subscription
from codomyrmex.streaming.topics import EVERYTHING, Audience, Recipient, matches

T = TypeVar("T")

_MAX_ENDED = 100


class Frame:
    """An event as all its subscribers share it: encoded at most once.

    Attributes:
        event: the event.
        wire: a place for its bytes, for whoever reads with `batches` and has a form of its own.
        notice: it is no published event, but what the stream itself tells this one subscriber.
    """

    __slots__ = ("event", "text", "wire")

    notice = False

    def __init__(self, event: Event) -> None:
        self.event = event
        self.text: str | None = None
        self.wire: bytes | None = None

    def encode(self) -> str:
        """Encode it, and keep the text."""
        self.text = self.event.to_sse()
        return self.text


class _Notice(Frame):
    """What the stream itself tells one subscriber.

    It is in no buffer and cannot be replayed, so its frame has no id: the client's Last-Event-ID stays
    at the last event.
    """

    __slots__ = ()

    notice = True

    def encode(self) -> str:
        return encode_frame(None, self.event.type.value, self.event.data)


class _Feed:
    """One subscription: its queue, and what has to be read before it."""

    __slots__ = ("_stream", "handler", "meanwhile", "owner", "queue", "replay", "subscription")

    def __init__(self, stream: SSEStream, subscription: Subscription, size: int, overflow: Overflow) -> None:
        self._stream = stream
        self.subscription = subscription
        self.handler = subscription.handler
        self.queue: BoundedQueue[Frame] = BoundedQueue(size, overflow, self._dropped, self._disconnected)
        self.replay: deque[Frame] | None = None
        self.meanwhile: deque[Event] | None = None  # for the handler, while it gets the replay
        self.owner: ReferenceType[Reader[Any]] | None = None

    def offer(self, frame: Frame) -> tuple[Handler | None, PutLater[Frame] | None, bool]:
        """Queue a frame for a subscription that has a handler too; the caller holds the lock."""
        handler = self.handler
        if self.meanwhile is not None:
            handler = None
            if len(self.meanwhile) >= self._stream.queue_size:
                lost = self.meanwhile.popleft()
                self._stream._count_drop(
                    self.subscription,
                    lost,
                    "its handler is still at the replay",
                    self._stream._counters.other_drops,
                )
            self.meanwhile.append(frame.event)
        return handler, self.queue.put_alone(frame), True

    def _dropped(self, frame: Frame, reason: str | None) -> None:
        self._stream._count_drop(self.subscription, frame.event, reason)

    def _disconnected(self) -> None:
        self._stream.disconnected(self)


class _Left(NamedTuple):
    """What is left to do for one subscriber after the event is in its queue."""

    recipient: Recipient
    handler: Handler | None
    room: PutLater[Frame] | None
    queued: bool  # the queue counts what becomes of the event


class SSEStream(LocalStream):
    """A stream whose subscribers read at their own pace, such as browsers over server-sent events.

    An event goes into the buffer and into every queue in one step, so that a client which reconnects
    with the id of its last event gets exactly what came after it.

    Args:
        buffer_size: how many of the newest events can be replayed.
        queue_size: how many events may wait for each subscriber.
        overflow: what happens to one more.
        heartbeat_interval: seconds of silence after which a subscriber gets a HEARTBEAT. Proxies and
            gateways close silent connections, many after 30 seconds; behind one, choose 15.
        on_error: a plain function called with the exception, the event and the subscription.
        clock: where the time comes from.

    Raises:
        ValueError: a size is out of range, the interval is not above 0, or the policy is unknown.
    """

    def __init__(
        self,
        buffer_size: int = 100,
        queue_size: int = 1_000,
        overflow: Overflow = Overflow.DROP_OLDEST,
        heartbeat_interval: float = 30.0,
        *,
        on_error: ErrorHandler | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not heartbeat_interval > 0:
            raise ValueError(f"heartbeat_interval is a time above 0, not {heartbeat_interval}")
        if queue_size < 1:
            raise ValueError(f"queue_size must be at least 1, not {queue_size}")
        self._buffer: deque[Frame] = ring(buffer_size)
        super().__init__(lambda event: self._buffer.append(Frame(event)), on_error)
        self.queue_size = queue_size
        self._overflow = Overflow(overflow)
        self.heartbeat_interval = heartbeat_interval
        self.clock = clock
        self._feeds: dict[str, _Feed] = {}
        self._ended: deque[str] = deque()  # those that overflow has ended

    async def subscribe(
        self,
        handler: Handler | None = None,
        topic: str = EVERYTHING,
        filter_fn: FilterFunction | None = None,
        *,
        last_event_id: str | None = None,
    ) -> Subscription:
        """Queue each event published from now on, to be read by `events` or `sse_generator`.

        Args:
            handler: called with each event too, if given. The queue is there all the same; for a handler
                alone take `subscribe_nowait`.
            topic: a topic or a pattern; `"*"` is everything.
            filter_fn: a plain function; only the events it is true for are queued.
            last_event_id: the id of the last event that the client has seen. The events after it are
                replayed first, behind a CONNECT event whose data is
                `{"resumed": true, "replayed": n}`. Where it is not in the buffer any more, the data is
                `{"resumed": false, "requested": ..., "first_available": ...}`, and all that the buffer
                still holds is replayed. An empty one is none.

        Raises:
            TopicError: the topic pattern is malformed; a `ValueError`.
            StreamClosedError: the stream is closed.
        """
        subscription = Subscription(new_id(), topic, handler, filter_fn)
        feed = _Feed(self, subscription, self.queue_size, self._overflow)
        if handler is not None and self._instruments:
            feed.handler = handler = within(self, handler)
        with self._lock:
            if last_event_id and handler is not None:
                feed.meanwhile = deque()
            # `publish` finds what to do with a frame where other streams have the handler.
            entry = feed.queue.put_alone if handler is None else feed.offer
            self._enter(subscription, entry, queued=True)
            self._feeds[subscription.id] = feed
            buffered = list(self._buffer) if last_event_id else []
        if last_event_id:
            try:
                feed.replay = self._replay(subscription, buffered, last_event_id)
                if handler is not None:
                    await self._catch_up(feed, handler)
            except BaseException:
                subscription.cancel()
                raise
        return subscription

    def subscribe_nowait(
        self,
        handler: Handler,
        topic: str = EVERYTHING,
        filter_fn: FilterFunction | None = None,
    ) -> Subscription:
        """Call `handler` with each event; as it has no queue, this subscription cannot be read."""
        return super().subscribe_nowait(handler, topic, filter_fn)

    def _entry(self, subscription: Subscription, call: Handler) -> Callable[[Any], object]:  # noqa: ARG002 - its filter is asked before
        return lambda _: (call, None, False)

    def _wrap_handlers(self) -> None:
        super()._wrap_handlers()
        with self._lock:
            for feed in self._feeds.values():
                if feed.subscription.handler is not None:
                    feed.handler = within(self, feed.subscription.handler)

    async def unsubscribe(self, subscription_id: str) -> bool:
        feed = self._feeds.get(subscription_id)
        if feed is None:
            return await super().unsubscribe(subscription_id)
        feed.subscription.cancel()  # it may have left the tables already, and not yet been read to its end
        return True

    def events(self, subscription_id: str) -> Reader[Event]:
        """Read a subscription's events, and a HEARTBEAT after each interval of silence.

        It ends when the subscription does; when the stream closes, after what is queued and a
        DISCONNECT event. For an id that is unknown it ends at once.

        Raises:
            RuntimeError: on reading, when the subscription is being read elsewhere at the same time.
        """
        return _EventReader(self, self._feeds.get(subscription_id))

    def sse_generator(self, subscription_id: str) -> Reader[str]:
        """Read the same as from `events`, as frames of an event stream.

        Frames that the stream makes for one subscriber (HEARTBEAT, CONNECT, DISCONNECT) have no id
        line, so that they never move the client's Last-Event-ID.

        Raises:
            RuntimeError: on reading, when the subscription is being read elsewhere at the same time.
        """
        return _FrameReader(self, self._feeds.get(subscription_id))

    def batches(self, subscription_id: str, limit: int = 100) -> Reader[list[Frame]]:
        """Read the same as from `events`, all that is there at once, so that it can go in one write.

        Args:
            subscription_id: the subscription.
            limit: how many at most.

        Raises:
            ValueError: the limit is below 1.
            RuntimeError: on reading, when the subscription is being read elsewhere at the same time.
        """
        if limit < 1:
            raise ValueError(f"a batch has at least 1 frame, not {limit}")
        return _BatchReader(self, self._feeds.get(subscription_id), limit)

    def _start_publish(self, event: Event) -> Awaitable[None] | None:
        event, left = self._enqueue(event)
        return self._finish(event, left) if left else None

    async def _finish(self, event: Event, left: list[_Left]) -> None:
        """Call the handlers and wait for room, one subscriber after the other."""
        for place, rest in enumerate(left):
            try:
                if rest.handler is not None:
                    await self._call(rest, event)
            except BaseException:
                self._give_up(left[place:])
                raise
            try:
                if rest.room is not None:
                    await rest.room
            except BaseException:
                self._give_up(left[place + 1 :])
                raise

    async def _call(self, rest: _Left, event: Event) -> None:
        if rest.handler is None or not rest.recipient.subscription.active:
            self._give_up([rest._replace(room=None)])
            return
        try:
            result = rest.handler(event)
            if isawaitable(result) and rest.queued:
                await self._at_home(result, rest.recipient, event)
            elif isawaitable(result):
                await self._await_handler(result, rest.recipient, event)
        except Exception as error:  # noqa: BLE001 - a handler's failure is its own
            self._failed_left(error, event, rest)

    def publish_nowait(self, event: Event) -> None:
        event, left = self._enqueue(event)
        for rest in left:
            if rest.room is not None:
                rest.room.give_up()
        left = [rest._replace(room=None) for rest in left if rest.handler is not None]
        for place, rest in enumerate(left):
            try:
                if rest.handler is None or not rest.recipient.subscription.active:
                    self._give_up([rest])
                    continue
                result = rest.handler(event)
                if isawaitable(result):
                    self._defer(result, rest.recipient, event)
            except Exception as error:  # noqa: BLE001 - a handler's failure is its own
                self._failed_left(error, event, rest)
            except BaseException:
                self._give_up(left[place:])
                raise

    def _give_up(self, left: Iterable[_Left]) -> None:
        """Let go of the room that nobody will wait for, and count the handlers that nobody will call."""
        for rest in left:
            if rest.room is not None:
                rest.room.give_up()
            if not rest.queued:
                self._counters.skipped.tick()

    def _failed_left(self, error: Exception, event: Event, rest: _Left) -> None:
        counters = self._counters
        counter = counters.other_errors if rest.queued else counters.handler_errors
        self._failed(error, event, rest.recipient.subscription, counter)

    async def aclose(self) -> None:
        with self._lock:
            first, self._closed = not self._closed, True
            feeds = list(self._feeds.values()) if first else []
        for feed in feeds:
            if not feed.queue.closed:
                feed.queue.force(_Notice(Event(type=EventType.DISCONNECT)))
                feed.queue.close()
        await super().aclose()

    def newest_id(self) -> str | None:
        """Give the id of the newest event that can be replayed from; None if there is none."""
        try:
            return self._buffer[-1].event.id
        except IndexError:
            return None

    def _buffered(self) -> int:
        return len(self._buffer)

    def _leave(self, subscription: Subscription) -> None:
        super()._leave(subscription)
        feed = self._feeds.pop(subscription.id, None)
        if feed is not None:
            feed.replay = None
            feed.queue.close(discard=True)

    def _enqueue(self, event: Event) -> tuple[Event, list[_Left]]:
        """Put an event into the buffer and all queues at once, and give what is left to do."""
        checked = self._check(event)
        if checked is None:
            return event, []
        frame = Frame(checked)
        wanted: dict[Recipient, bool] = {}
        while True:
            with self._lock:
                if self._closed:
                    raise StreamClosedError(f"{type(self).__name__} is closed")
                audience = self._index.audience(checked.topic)
                unasked = [recipient for recipient in audience.filtered if recipient not in wanted]
                if not unasked:
                    self._buffer.append(frame)
                    next(audience.published)
                    return checked, self._queue_frame(frame, audience, wanted)
            for recipient in unasked:  # filters are user code: never under the lock
                wanted[recipient] = self._wants(recipient.subscription, checked)

    def _queue_frame(self, frame: Frame, audience: Audience, wanted: dict[Recipient, bool]) -> list[_Left]:
        """Put a frame into the queues of an audience; the caller holds the lock."""
        left = []
        offers: list[Callable[[Frame], Any]] = audience.calls
        for place, offer in enumerate(offers):
            if wanted and not wanted.get(audience.recipients[place], True):
                self._counters.skipped.tick()
                continue
            rest = offer(frame)
            if isinstance(rest, PutLater):
                left.append(_Left(audience.recipients[place], None, rest, queued=True))
            elif rest is not None:  # it has a handler, and gives the other three fields
                left.append(_Left(audience.recipients[place], *rest))
        return left

    def _wants(self, subscription: Subscription, event: Event) -> bool:
        try:
            return subscription.filter_fn is None or wants(subscription.filter_fn, event)
        except Exception as error:  # noqa: BLE001 - a filter's failure is its own
            self._failed(error, event, subscription, self._counters.other_errors)
            return False

    def _replay(self, subscription: Subscription, buffered: list[Frame], last_event_id: str) -> deque[Frame]:
        """Give the CONNECT event and what came after an id, as far as it is for this subscription."""
        ids = [wire_id(frame.event.id) for frame in buffered]
        last = wire_id(last_event_id)
        known = last in ids
        if known:
            buffered = buffered[len(ids) - ids[::-1].index(last) :]
        missed = deque(
            frame
            for frame in buffered
            if matches(subscription.topic, frame.event.topic) and self._wants(subscription, frame.event)
        )
        data: dict[str, Any]
        if known:
            data = {"resumed": True, "replayed": len(missed)}
        else:
            first = ids[0] if ids else None
            data = {"resumed": False, "requested": last_event_id, "first_available": first}
        missed.appendleft(_Notice(Event(type=EventType.CONNECT, data=data)))
        return missed

    async def _catch_up(self, feed: _Feed, handler: Handler) -> None:
        """Give a handler the replay and then, in order, what was published meanwhile."""
        recipient = self._recipients.get(feed.subscription.id)
        waiting = deque(frame.event for frame in feed.replay or ())
        while recipient is not None:
            while waiting and feed.subscription.active:
                event = waiting.popleft()
                token = cause.set(origin_of(event))
                try:
                    await self._call(_Left(recipient, handler, None, queued=True), event)
                finally:
                    cause.reset(token)
            if not feed.subscription.active:  # the handler itself may have ended it
                return
            with self._lock:
                waiting.extend(feed.meanwhile or ())
                if not waiting or iscoroutinefunction(handler):
                    # An async function does not run when it is called, so its calls can be left to the
                    # mailbox here, and publishers that are faster than it do not keep us for ever.
                    feed.meanwhile = None
                    for event in waiting:
                        self._defer(handler(event), recipient, event)
                    return
                feed.meanwhile = deque()

    def disconnected(self, feed: _Feed) -> None:
        """End a subscription that was too slow; what it has queued can still be read, for a while."""
        self._log.warning("disconnected", "%r is disconnected: its queue is full", feed.subscription)
        self._retire(feed.subscription)
        self._ended.append(feed.subscription.id)
        if len(self._ended) > _MAX_ENDED:
            self._feeds.pop(self._ended.popleft(), None)

    def finished(self, feed: _Feed) -> None:
        """Forget a subscription that was ended by the stream and is now read to its end."""
        self._feeds.pop(feed.subscription.id, None)


class Reader(ABC, Generic[T]):
    """An iteration over one subscription: an async iterator with `aclose`.

    Waiting costs one future, and no task; one timer for each reader, set again only after it has run,
    watches for silence.
    """

    __slots__ = ("__weakref__", "_caused", "_feed", "_last", "_now", "_owns", "_stream", "_timer")

    def __init__(self, stream: SSEStream, feed: _Feed | None) -> None:
        self._stream = stream
        self._feed = feed
        self._timer: Timer | None = None
        self._owns = False
        self._caused = False
        self._now = stream.clock.monotonic
        self._last = self._now()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:  # noqa: C901, PLR0912 - the loop behind every frame that is sent
        feed = self._feed
        if feed is None:
            raise StopAsyncIteration
        if not self._owns:
            self._claim(feed)
        queue = feed.queue
        if queue.blocks:
            queue.read_here()
        while True:
            if feed.replay:
                frame = feed.replay.popleft()
                break
            if queue.items:
                try:
                    frame = queue.take()
                except IndexError:  # it was dropped by a thread that needed the room
                    continue
                break
            if queue.closed:
                self._stream.finished(feed)
                await self.aclose()
                raise StopAsyncIteration
            if self._timer is None:  # before the first wait, and when it has just run
                silence_left = self._last + self._stream.heartbeat_interval - self._now()
                if silence_left <= 0:
                    frame = _Notice(Event(type=EventType.HEARTBEAT))
                    break
                self._watch(silence_left)
            news = queue.waiting(asyncio.get_running_loop())
            if news is not None:
                await news
                if self._feed is None:  # closed meanwhile
                    raise StopAsyncIteration
        self._last = self._now()
        if self._caused or ORIGIN in frame.event.metadata:
            self._say_cause(origin_of(frame.event))
        return self._show(frame)

    def _say_cause(self, origin: str | None) -> None:
        """Let the code that reads, up to the next frame, be known as caused by this one."""
        if self._caused or origin is not None:
            self._caused = origin is not None
            cause.set(origin)

    async def aclose(self) -> None:
        """End the iteration; the subscription stays and may be read again."""
        self._say_cause(None)
        feed, self._feed = self._feed, None
        if self._owns and feed is not None:
            feed.owner = None
            feed.queue.read_no_more()
            feed.queue.wake()
        self._owns = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _claim(self, feed: _Feed) -> None:
        owner = feed.owner() if feed.owner is not None else None
        if owner is not None:
            raise RuntimeError(
                f"subscription {feed.subscription.id} is already being read; one reader at a time"
            )
        # A reader that is dropped without a word must not keep publishers waiting.
        gone = feed.queue.let_go
        feed.owner = ref(self, lambda _: gone()) if feed.queue.blocks else ref(self)
        self._owns = True

    def _watch(self, silence_left: float) -> None:
        this = ref(self)  # the timer must not keep alive a reader that nobody reads any more
        self._timer = self._stream.clock.call_later(silence_left, lambda: _look_again(this))

    @abstractmethod
    def _show(self, frame: Frame) -> T:
        """Give what the reader wants to see of a frame."""


class _EventReader(Reader[Event]):
    __slots__ = ()

    def _show(self, frame: Frame) -> Event:
        return frame.event


class _FrameReader(Reader[str]):
    __slots__ = ()

    def _show(self, frame: Frame) -> str:
        return frame.text or frame.encode()


class _BatchReader(Reader[list[Frame]]):
    __slots__ = ("_limit",)

    def __init__(self, stream: SSEStream, feed: _Feed | None, limit: int) -> None:
        super().__init__(stream, feed)
        self._limit = limit

    def _show(self, frame: Frame) -> list[Frame]:
        frames = [frame]
        feed = self._feed
        if feed is None or not (feed.queue.items or feed.replay):  # mostly it is one
            return frames
        replay = feed.replay  # a thread that cancels takes it away
        while replay and len(frames) < self._limit:
            frames.append(replay.popleft())
        room = self._limit - len(frames)
        if room and feed.queue.items and not replay:
            with suppress(IndexError):  # dropped by a thread that needed the room
                frames += feed.queue.take_many(room)
        return frames


def _look_again(reader: ReferenceType[Reader[Any]]) -> None:
    this = reader()
    if this is not None:
        this._timer = None
        if this._feed is not None:
            this._feed.queue.wake()
