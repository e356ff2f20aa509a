"""`EventPages`: the events of a stream page by page, for clients that poll."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from codomyrmex.integrations.durable import DurableStream
from codomyrmex.integrations.durable.entries import CursorError, format_cursor, parse_cursor
from codomyrmex.integrations.durable.tail import Bell, Item
from codomyrmex.integrations.web import signals as process_signals
from codomyrmex.streaming import Clock, Event, InMemoryStream, SSEStream, Stream, TopicStream
from codomyrmex.streaming.buffers import newest, ring
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from codomyrmex.streaming.forks import renew_in_children
from codomyrmex.streaming.topics import EVERYTHING, check_pattern, matches

MAX_LIMIT = 500
"""The maximum number of events of a page."""

_MAX_READ = 10_000  # entries that are read for a page
_READ = 500  # entries that are read at once
_READ_BYTES = 1 << 20

_TYPES = {DurableStream: "durable", SSEStream: "sse", TopicStream: "topic"}

_Entries = Sequence[tuple[int, Event | None]]
_Wanted = Callable[[Event], bool]


class EventPage(NamedTuple):
    """Events of a stream, oldest first.

    Attributes:
        events: each event with the cursor after it.
        cursor: where the next page starts.
        has_more: whether there are more events: later ones, or earlier ones if no cursor was given.
        missed: whether events after the given cursor are no longer kept.
    """

    events: list[tuple[str, Event]]
    cursor: str
    has_more: bool
    missed: bool


class EventPages:
    """The events of a stream page by page.

    To continue, a client needs only the cursor of its last page. A cursor of a durable stream is valid in
    every process; a cursor of another stream is only valid for this object.

    Args:
        stream: the stream.
        buffer_size: how many of the newest events are kept if the stream is not durable.
        clock: measures how long a client waits.
        signals: whether SIGTERM and SIGINT end the waits. Otherwise a server that finishes open requests
            before it stops would wait for them. As for `event_stream`, this works in the main thread only.
    """

    def __init__(
        self,
        stream: Stream,
        buffer_size: int = 1_000,
        clock: Clock = SYSTEM_CLOCK,
        *,
        signals: bool = False,
    ) -> None:
        self._log: _Log = (
            _DurableLog(stream) if isinstance(stream, DurableStream) else _MemoryLog(stream, buffer_size)
        )
        self._stream = stream
        self._signals = signals
        self._clock = clock
        self._waiting: set[asyncio.Future[None]] = set()
        self._closed = False

    async def page(
        self,
        topic: str = EVERYTHING,
        after: str | None = None,
        limit: int = 50,
        wait: float = 0.0,
        accepts: Callable[[Event], bool] | None = None,
    ) -> EventPage:
        """Return the newest events, or those after a cursor.

        Args:
            topic: a topic or a pattern.
            after: the cursor of an earlier page; None for the newest events.
            limit: the maximum number of events.
            wait: seconds to wait for an event if there is none after the cursor.
            accepts: a plain function; events for which it returns false are left out.

        Raises:
            StoreUnavailableError: the store of a durable stream is not available.
            TopicError: the topic is malformed; a `ValueError`.
            ValueError: the limit is out of range.
        """
        check_pattern(topic)
        if not 1 <= limit <= MAX_LIMIT:
            raise ValueError(f"limit: must be from 1 to {MAX_LIMIT}, got {limit}")
        await self._log.open()

        def wanted(event: Event) -> bool:
            return matches(topic, event.topic) and (accepts is None or accepts(event))

        if after is None:
            return self._newest(limit, wanted)
        deadline = self._clock.monotonic() + wait
        missed = False
        while True:
            news = self._log.bell.future()  # before reading, so that no event is missed in between
            try:
                page = await self._after(after, limit, wanted)
                missed, after = missed or page.missed, page.cursor
                left = deadline - self._clock.monotonic()
                if page.events or page.has_more or left <= 0 or self._closed:
                    return page._replace(missed=missed)
                if not await self._wait(news, left):
                    return page._replace(missed=missed)
            finally:
                self._log.bell.forget(news)

    def describe(self) -> dict[str, Any]:
        """Return the type of the stream, and the numbers of its subscribers and of kept events."""
        return {
            "type": next(
                (name for kind, name in _TYPES.items() if isinstance(self._stream, kind)), "in_memory"
            ),
            "subscribers": self._stream.statistics().subscribers,
            "kept": self._log.kept(),
            "capacity": self._log.capacity,
        }

    async def aclose(self) -> None:
        """End the waits, and stop keeping events."""
        self._closed = True
        self._log.close()
        self._end_waits()

    def _end_waits(self) -> None:
        for future in tuple(self._waiting):
            _complete(future)

    def _newest(self, limit: int, wanted: _Wanted, *, missed: bool = False) -> EventPage:
        log = self._log
        epoch, end = log.epoch, log.last
        found: list[tuple[str, Event]] = []
        has_more = False
        for position, event in reversed(log.newest(_MAX_READ)):
            if position > end or event is None or not wanted(event):
                continue
            has_more = len(found) == limit
            if has_more:
                break
            found.append((format_cursor(epoch, position), event))
        return EventPage(found[::-1], format_cursor(epoch, end), has_more, missed)

    async def _after(self, after: str, limit: int, wanted: _Wanted) -> EventPage:
        log = self._log
        epoch, position = _parse(after)
        if epoch != log.epoch or position > log.last:
            return self._newest(limit, wanted, missed=True)
        first = await log.seek(position)
        missed, position = first > position, first
        found: list[tuple[str, Event]] = []
        end = min(position + _MAX_READ, log.last)
        while position < end and (entries := await log.read(position)):
            missed = missed or entries[0][0] > position + 1  # removed by the retention meanwhile
            for position, event in entries:
                if event is not None and wanted(event):
                    found.append((format_cursor(epoch, position), event))
                    if len(found) == limit:
                        return EventPage(found, found[-1][0], position < log.last, missed)
        return EventPage(found, format_cursor(epoch, position), position < log.last, missed)

    async def _wait(self, news: asyncio.Future[None], seconds: float) -> bool:
        """Wait for new entries; return False after the timeout, or if the wait was ended."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(seconds, partial(_complete, ended))
        self._waiting.add(ended)
        if self._signals and len(self._waiting) == 1:
            process_signals.watch(self, self._end_waits)
        try:
            await asyncio.wait({news, ended}, return_when=asyncio.FIRST_COMPLETED)
            return news.done()
        finally:
            timer.cancel()
            self._waiting.discard(ended)
            if not self._waiting:
                process_signals.unwatch(self)
            ended.cancel()


class _Log(Protocol):
    """The events of a stream by their position."""

    @property
    def epoch(self) -> str:
        """The part of the cursors that identifies this log."""

    @property
    def last(self) -> int:
        """The position of the newest entry."""

    @property
    def capacity(self) -> int | None:
        """The maximum number of kept entries; None if it depends on a store."""

    @property
    def bell(self) -> Bell:
        """Rings when there are new entries."""

    async def open(self) -> None: ...

    def kept(self) -> int: ...

    def close(self) -> None: ...

    async def seek(self, position: int) -> int:
        """Return the given position, or the first later one after which all entries are still kept."""

    def newest(self, count: int) -> _Entries: ...

    async def read(self, after: int) -> _Entries: ...


class _MemoryLog:
    """Keeps the newest events of a stream, whose publishers may be in any thread."""

    def __init__(self, stream: Stream, size: int) -> None:
        self.epoch = secrets.token_hex(6)
        self.last = 0
        self.capacity = size
        self._kept: deque[tuple[int, Event]] = ring(size)
        self.after_fork()
        renew_in_children(self)
        if isinstance(stream, InMemoryStream):
            for event in stream.get_recent_events(size):
                self._put(event)
        self._subscription = stream.subscribe_nowait(self._put)

    def after_fork(self) -> None:
        """Renew the locks in a child process, as a thread of the parent may have held them."""
        self._lock = threading.RLock()
        self.bell = Bell()

    def _put(self, event: Event) -> None:
        with self._lock:
            self._kept.append((self.last + 1, event))
            self.last += 1
        self.bell.ring()

    async def open(self) -> None:
        pass

    def kept(self) -> int:
        return len(self._kept)

    def close(self) -> None:
        self._subscription.cancel()

    async def seek(self, position: int) -> int:
        with self._lock:
            return max(position, self.last - len(self._kept))

    def newest(self, count: int) -> _Entries:
        with self._lock:
            return newest(self._kept, count)

    async def read(self, after: int) -> _Entries:
        with self._lock:
            return newest(self._kept, self.last - after)


class _DurableLog:
    """The log of a durable stream: its newest entries in memory, and the others in the store."""

    capacity = None

    def __init__(self, stream: DurableStream) -> None:
        self._stream = stream

    @property
    def epoch(self) -> str:
        return self._stream.tail.epoch

    @property
    def last(self) -> int:
        return self._stream.tail.last or 0

    @property
    def bell(self) -> Bell:
        return self._stream.tail.bell

    async def open(self) -> None:
        await self._stream.open()

    def kept(self) -> int:
        return len(self._stream.tail)

    def close(self) -> None:
        pass

    async def seek(self, position: int) -> int:
        if self._stream.tail.get(position, 1) is not None:
            return position
        return max(position, await self._stream.resolve("earliest"))

    def newest(self, count: int) -> _Entries:
        return _for_everyone(self._stream.tail.newest(count))

    async def read(self, after: int) -> _Entries:
        items = self._stream.tail.get(after, _READ)
        if items is None:
            entries = await self._stream.read_entries(after, _READ, _READ_BYTES)
            items = [Item(*stored) for stored in entries]
        return _for_everyone(items)


def _for_everyone(items: Iterable[Item]) -> _Entries:
    return [(item.position, item.event() if item.group is None else None) for item in items]


def _parse(cursor: str) -> tuple[str, int]:
    try:
        return parse_cursor(cursor)
    except CursorError:
        return "", 0


def _complete(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
