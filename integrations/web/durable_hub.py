"""`DurableHub`: serves the log of a durable stream to the clients of an event stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from codomyrmex.integrations.durable import CursorError, DurableStream, StoreError
from codomyrmex.integrations.durable.entries import format_cursor, parse_cursor
from codomyrmex.integrations.durable.tail import Item
from codomyrmex.integrations.web.clients import HEARTBEAT, Client, frame_bytes
from codomyrmex.streaming import Clock, Event, EventType, Frame, SSEStream, StreamClosedError, Subscription
from codomyrmex.streaming.provenance import cause, origin_of
from codomyrmex.streaming.topics import matches

_NO_TOPIC = "codomyrmex.web.end"
_PAUSE = 2.0  # the pause after the clients were sent something, relative to the time that it took
_MAX_PAUSE = 0.02  # seconds
_PAGE = 200  # entries read at once for a client
_PAGE_BYTES = 256 * 1024
_READS = 4  # pages read from the store at a time
_MAX_COUNTED = 10_000  # missed entries
_RETRY = 1.0  # seconds until the store is asked again


class DurableHub:
    """Follows the log of a durable stream for all clients of an application.

    A client reads what it has missed at its own pace, from memory or from the store. At the end of the log it
    joins the others, which share the frames and have queues.

    Args:
        stream: the stream.
        make_queues: returns the stream of the clients that have joined.
        buffer_size: the number of newest entries that a client reads if it cannot be resumed.
        max_replay: the number of entries that a client may have missed; None for any.
        heartbeat_interval: seconds after which a client that waits is sent a comment.
        clock: the clock.

    Attributes:
        queues: the stream of the clients that have joined.

    Raises:
        ValueError: `max_replay` is negative.
    """

    def __init__(
        self,
        stream: DurableStream,
        make_queues: Callable[[], SSEStream],
        buffer_size: int,
        max_replay: int | None,
        heartbeat_interval: float,
        clock: Clock,
    ) -> None:
        if max_replay is not None and (isinstance(max_replay, bool) or max_replay < 0):
            raise ValueError(f"max_replay: must be an integer of at least 0, or None, got {max_replay!r}")
        self.queues = make_queues()
        self._stream = stream
        self._make_queues = make_queues
        self._buffer_size = buffer_size
        self._max_replay = max_replay
        self._heartbeat_interval = heartbeat_interval
        self._clock = clock
        self._epoch = ""
        self._generation = 0
        self._position: int | None = None  # up to which entries are in the queues
        self._frames: dict[int, Frame] = {}  # the newest ones, which clients share, by position
        self._task: asyncio.Task[None] | None = None
        self._waiting: set[asyncio.Future[bool]] = set()
        self._reading = asyncio.Semaphore(_READS)
        self._closed = False

    def subscribe_end(self) -> Subscription:
        """Return a subscription that receives nothing, and ends when the stream is closed."""
        return self._stream.subscribe_inline(_ignore, _NO_TOPIC)

    def start(self) -> None:
        """Follow the log on this event loop, unless that is done already."""
        if self._task is None or self._task.done():
            self._position = None
            self._task = asyncio.create_task(self._follow())

    async def aclose(self) -> None:
        """Send what this process has of the log, and end."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        while self._position is not None and self._put():
            pass
        self._wake()
        await self.queues.aclose()

    # Following the log

    async def _follow(self) -> None:
        with suppress(StreamClosedError):
            while self._position is None:
                try:
                    await self._stream.open()
                    self._begin()
                except StoreError:  # the stream reports it
                    await asyncio.sleep(_RETRY)
            while True:
                await self._advance()

    def _begin(self) -> None:
        tail = self._stream.tail
        self._generation = tail.generation  # first: it changes last
        self._epoch, self._position = tail.epoch, tail.last
        self._frames.clear()
        self._wake()

    async def _advance(self) -> None:
        """Put new entries into the queues, or wait for some."""
        tail = self._stream.tail
        now = self._clock.monotonic
        began = now()
        if self._put():
            self._wake()
            await asyncio.sleep(0)  # the clients write
            if tail.last == self._position:  # under load, more events share the next write
                await asyncio.sleep(min(_PAUSE * (now() - began), _MAX_PAUSE))
        elif self._has_lost_its_place():
            # The clients come back and say what they have, and read the rest at their own pace.
            queues, self.queues = self.queues, self._make_queues()
            self._begin()
            await queues.aclose()
        else:
            ringing = tail.bell.future()
            try:
                if tail.last == self._position and tail.generation == self._generation:
                    await ringing
            finally:
                tail.bell.forget(ringing)

    def _has_lost_its_place(self) -> bool:
        """Return whether the log was replaced, or this event loop is far behind."""
        tail, position = self._stream.tail, self._position or 0
        return tail.generation != self._generation or tail.get(position, 1) is None

    def _put(self) -> bool:
        """Put the next entries into the queues, and return whether there are any."""
        position = self._position or 0
        items = None if self._has_lost_its_place() else self._stream.tail.get(position, _PAGE)
        if not items:
            return False
        for item in items:
            frame = self._make_frame(item)
            if frame is not None:
                self._frames[item.position] = frame
                self.queues.publish_frame(frame)
        self._position = items[-1].position
        while len(self._frames) > self._buffer_size:
            del self._frames[next(iter(self._frames))]
        return True

    def _make_frame(self, item: Item) -> Frame | None:
        """Return a frame for an entry, None if it is not an event for everyone."""
        event = item.event() if item.group is None else None
        return None if event is None else Frame(event, format_cursor(self._epoch, item.position))

    def _wake(self, _: object = None) -> None:
        for future in tuple(self._waiting):
            _complete(future, news=True)

    async def _wait(self, seconds: float) -> bool:
        """Wait until there is something new; return False if there was nothing for some seconds."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(seconds, partial(_complete, future))
        self._waiting.add(future)
        try:
            return await future
        finally:
            timer.cancel()
            self._waiting.discard(future)

    # Clients

    def heartbeat(self, client: Client) -> bytes:
        """Return a sign of life for a client whose queue is empty.

        It has the cursor if the log went on without an event for this client, because the client's own cursor
        would not be kept for ever. Some clients would take an id alone for an empty event, so it has a type.
        """
        cursor = format_cursor(self._epoch, self._position or 0)
        if cursor == client.last_id:
            return HEARTBEAT
        client.last_id = cursor
        return frame_bytes(cursor, "heartbeat", None)

    async def catch_up(self, client: Client) -> AsyncGenerator[list[Frame], None]:
        """Yield a CONNECT event and what a client has missed, and let the client join the others.

        Its queue begins with the entry after those of the last batch, so that batch has to be sent first.
        """
        reader = _Reader(client, self.queues)
        client.subscription.on_end(self._wake)
        while client.subscription.active and not reader.joined:
            if self._closed or self.queues is not reader.queues:
                yield [Frame(Event(type=EventType.DISCONNECT), notice=True)]
                return
            if self._position is None or (reader.position or 0) > self._position:  # another process is ahead
                batch = [] if await self._wait(self._heartbeat_interval) else [_sign_of_life()]
            else:
                try:
                    batch = await self._next_batch(reader)
                except (StoreError, StreamClosedError):  # the stream reports it
                    if client.subscription.active and not self._closed:  # else nothing would wake it
                        await self._wait(_RETRY)
                    batch = [_sign_of_life()]
            if batch:
                cause.set(origin_of(batch[-1].event))  # of what the reader does until the next batch
                yield batch
                cause.set(None)
            else:
                await asyncio.sleep(0)

    async def _next_batch(self, reader: _Reader) -> list[Frame]:
        """Return the next frames that a client has missed, if any; it joins the others if these are all."""
        connect = None
        if reader.position is None:
            reader.position, connect = await self._start(reader)
        position, end = reader.position, self._position or 0
        batch: list[Frame] = []
        if position < end:
            items = await self._page(position, end - position)
            if (not items or items[0].position > position + 1) and reader.lost is None:
                reader.lost = format_cursor(self._epoch, position)
            batch = self._visible(reader.client.subscription, items)
            position = items[-1].position if items else end
        if self._closed or self.queues is not reader.queues:
            return []
        reader.position = position
        if position == self._position:
            await self._join(reader)
        if reader.lost is not None and (batch or reader.joined):
            connect = self._lost(reader, batch[0].id if batch else None)
        return batch if connect is None else [connect, *batch]

    async def _start(self, reader: _Reader) -> tuple[int, Frame | None]:
        """Return the position after which a client begins, and a CONNECT event if nothing is lost."""
        requested, end, tail = reader.client.requested_id, self._position or 0, self._stream.tail
        if not requested:
            cursor = reader.client.last_id = format_cursor(self._epoch, end)
            return end, _connect({"resumed": False, "replayed": 0}, cursor)
        position = await self._resolve(requested)
        if position is None or (self._max_replay is not None and end - position > self._max_replay):
            reader.lost = requested
            newest = tail.newest(self._buffer_size)
            return min(newest[0].position - 1, end) if newest else end, None
        replayed = await self._count(reader.client.subscription, position, end)
        return position, _connect({"resumed": True, "replayed": replayed}, requested)

    async def _resolve(self, cursor: str) -> int | None:
        """Return the position of a cursor, or None if the log cannot be read on from there."""
        try:
            epoch, position = parse_cursor(cursor)
            if epoch != self._epoch:
                return None
            if position <= (self._position or 0) and self._stream.tail.get(position, 1) is not None:
                return position
            return await self._stream.resolve(cursor)
        except CursorError:
            return None

    async def _count(self, subscription: Subscription, position: int, end: int) -> int | None:
        """Return how many events a client has missed, None if that would take long."""
        count = 0
        while position < end:
            if end - position > _MAX_COUNTED:
                return None
            items = await self._page(position, end - position)
            count += len(self._visible(subscription, items))
            position = items[-1].position if items else end
            await asyncio.sleep(0)
        return count

    async def _page(self, position: int, limit: int) -> list[Item]:
        """Return the entries after a position, at most `limit`, from memory or from the store."""
        items = self._stream.tail.get(position, min(limit, _PAGE))
        if items is None:
            async with self._reading:
                entries = await self._stream.read_entries(position, min(limit, _PAGE), _PAGE_BYTES)
                return [Item(*stored) for stored in entries]
        size = 0
        for index, item in enumerate(items):
            size += len(item.entry)
            if size > _PAGE_BYTES and index:
                return items[:index]
        return items

    def _visible(self, subscription: Subscription, items: list[Item]) -> list[Frame]:
        """Return the frames of the entries that a subscription receives."""
        frames: list[Frame] = []
        for item in items:
            frame = self._frames.get(item.position) or self._make_frame(item)
            if frame is not None:
                event = frame.event
                if matches(subscription.topic, event.topic) and subscription.passes(event):
                    frames.append(frame)
        return frames

    async def _join(self, reader: _Reader) -> None:
        """Add a queue for a client, which begins after its position; this does not suspend."""
        before = reader.client.subscription
        reader.client.subscription = await self.queues.subscribe(
            topic=before.topic, filter_fn=before.filter_fn
        )
        reader.joined = True
        if not before.active:
            reader.client.subscription.cancel()

    def _lost(self, reader: _Reader, first_available: str | None) -> Frame:
        """Return the CONNECT event that reports lost events."""
        data = {"resumed": False, "requested": reader.lost, "first_available": first_available}
        reader.lost = None
        cursor = ""
        if first_available is None:  # so that the client has an id from which it can be resumed
            cursor = reader.client.last_id = format_cursor(self._epoch, reader.position or 0)
        return _connect(data, cursor)


class _Reader:
    """A client that has not joined yet.

    Attributes:
        client: the client.
        queues: what it is to join.
        position: up to which it has read; None before the start.
        lost: the id from which it could not go on, until it is told.
        joined: whether it has a queue.
    """

    def __init__(self, client: Client, queues: SSEStream) -> None:
        self.client = client
        self.queues = queues
        self.position: int | None = None
        self.lost: str | None = None
        self.joined = False


def _connect(data: Mapping[str, Any], cursor: str) -> Frame:
    frame = Frame(Event(type=EventType.CONNECT, data=data), notice=True)
    frame.wire = frame_bytes(cursor, "connect", data)
    return frame


def _sign_of_life() -> Frame:
    """Return a heartbeat without a cursor, because the client has not everything before it."""
    frame = Frame(Event(type=EventType.HEARTBEAT), notice=True)
    frame.wire = HEARTBEAT
    return frame


def _ignore(_: Event) -> None: ...


def _complete(future: asyncio.Future[bool], *, news: bool = False) -> None:
    if not future.done():
        future.set_result(news)
