"""`Subscriber`: calls one handler with the events of a log, at the handler's own pace."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from inspect import isawaitable
from typing import Any, NamedTuple

from codomyrmex.integrations.durable.entries import LogEntry, decode_events
from codomyrmex.integrations.durable.store import Stored
from codomyrmex.integrations.durable.tail import READ_LIMIT, Tail
from codomyrmex.streaming import Event, Subscription
from codomyrmex.streaming.errors import MUST_PASS
from codomyrmex.streaming.provenance import ORIGIN, cause, origin_of
from codomyrmex.streaming.subscriptions import close_awaitable, refuse_generator
from codomyrmex.streaming.topics import EVERYTHING, matches

Failed = Callable[[BaseException, Event, Subscription], None]
ReadLog = Callable[[int, int], Awaitable[list[Stored]]]


class Page(NamedTuple):
    """Entries that follow each other.

    Attributes:
        first: the position of the first one.
        last: the position of the last one.
        events: yields the positions, times and events of those that are for everyone; None for what is not an
            event.
    """

    first: int
    last: int
    events: Iterator[tuple[int, float, Event | None]]


_PLAIN = re.compile(r"[A-Za-z0-9_.-]+")  # what JSON never escapes
_REPLAY_LIMIT = 1_000  # entries read from the store at once, as each time takes two changes of threads
_RETRY = 0.5  # seconds until the store is read again after an error


class Subscriber:
    """Calls a handler with the events after a position. A slow handler falls behind and loses nothing.

    Args:
        subscription: the subscription, which ends it when it is cancelled.
        call: called with an event, or with a `LogEntry` if `records` is set.
        tail: the newest entries.
        read: reads older ones from the store.
        failed: called with each exception.
        position: the position after which to begin; None for the end of the log when it is opened.
        newest: begin with so many of the newest entries instead.
        records: whether `call` takes a `LogEntry`.
    """

    def __init__(
        self,
        subscription: Subscription,
        call: Callable[[Any], object],
        tail: Tail,
        read: ReadLog,
        failed: Failed,
        position: int | None,
        *,
        newest: int = 0,
        records: bool = False,
    ) -> None:
        self.subscription = subscription
        self.position = position
        self.undecodable = 0
        self.missed = 0  # entries that were removed before they were read
        self._call = call
        self._tail = tail
        self._read = read
        self._failed = failed
        self._newest = newest
        self._begins = newest > 0  # with what is kept of the newest entries
        self._records = records
        self._generation = tail.generation
        self._end: int | None = None
        self._has_cause = False

    def for_child(self, tail: Tail) -> Subscriber:
        """Return a subscriber for the same handler in a child process, from the end of the log."""
        return Subscriber(
            self.subscription,
            self._call,
            tail,
            self._read,
            self._failed,
            None,
            newest=self._newest,
            records=self._records,
        )

    def end_at(self, position: int) -> None:
        """End after a position, once the handler has been called with the events up to it."""
        self._end = position
        self._tail.bell.ring()

    async def run(self) -> None:
        """Call the handler until the subscription ends."""
        tail, subscription = self._tail, self.subscription
        while subscription.active:
            ringing = tail.bell.future()
            try:
                page = await self._next()
                if page is not None:
                    await self._deliver(page)
                elif self._end is not None and (self.position or 0) >= self._end:
                    return
                else:
                    await ringing
            finally:
                tail.bell.forget(ringing)

    async def _next(self) -> Page | None:
        """Return the next entries, or None if there are none now."""
        tail, last = self._tail, self._tail.last
        if last is None:
            return None
        if self.position is None:
            self.position = max(last - self._newest, 0) if self._begins else tail.opened_at
        if tail.generation != self._generation:
            self._generation = tail.generation
            self.position = min(self.position, tail.restart)
        items = tail.get(self.position, READ_LIMIT)
        if items is not None:  # decoded once for all subscribers
            events = ((item.position, item.time, item.event()) for item in items if item.group is None)
            return Page(items[0].position, items[-1].position, events) if items else None
        while self.subscription.active:
            try:
                entries = await self._read(self.position, _REPLAY_LIMIT)
            except Exception:  # noqa: BLE001 - the stream reports that the store is not available
                await asyncio.sleep(_RETRY)
            else:
                if not entries:  # all were removed
                    return Page(last + 1, last, iter(()))
                # Those of other topics are a great many, if only a few of the newest are of this one.
                topic = literal_part(self.subscription.topic) if self._newest else b""
                return Page(entries[0].position, entries[-1].position, decode_events(entries, topic))
        return None

    async def _deliver(self, page: Page) -> None:
        """Call the handler with the events of a page: the loop behind every event that is received."""
        subscription, call, records = self.subscription, self._call, self._records
        matches_topic = None if subscription.topic == EVERYTHING else subscription.topic
        filtered = subscription.filter_fn is not None
        self._count_missed(page)
        for position, time, event in page.events:
            if not subscription.active:
                return
            self.position = position
            if event is None:
                self.undecodable += 1
                continue
            if matches_topic is not None and not matches(matches_topic, event.topic):
                continue
            if ORIGIN in event.metadata or self._has_cause:
                self._set_cause(event)
            try:
                if filtered and not subscription.passes(event):
                    continue
                result = call(LogEntry(position, time, event) if records else event)
                if result is not None:
                    await self._wait(result)
            except MUST_PASS:
                raise
            except BaseException as error:  # noqa: BLE001 - a failing handler must not affect later events
                self._failed(error, event, subscription)
        self.position = page.last
        await asyncio.sleep(0)

    def _count_missed(self, page: Page) -> None:
        """Count what was removed before it was read; what was removed before the beginning is not missed."""
        if not self._begins:
            self.missed += page.first - (self.position or 0) - 1
        self._begins = False

    def _set_cause(self, event: Event) -> None:
        """Mark what the handler does as caused by an event."""
        origin = origin_of(event)
        self._has_cause = origin is not None
        cause.set(origin)

    async def _wait(self, result: object) -> None:
        """Await what a handler has returned, if it can be awaited."""
        if not isawaitable(result):
            refuse_generator(result)
            return
        task = asyncio.current_task()
        cancelling = task.cancelling() if task is not None else 0
        try:
            await result
        except asyncio.CancelledError:
            # A cancellation of the call alone must not end the subscription.
            if task is not None and task.cancelling() > cancelling:
                close_awaitable(result)
                raise


def literal_part(pattern: str) -> bytes:
    """Return what is in the entry of each event whose topic matches a pattern."""
    literal = pattern.partition("*")[0].partition(">")[0]
    return literal.encode() if _PLAIN.fullmatch(literal) else b""
