"""`Subscriber`: calls one handler with the events of a log, at the handler's own pace."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any

from codomyrmex.integrations.durable.tail import READ_LIMIT, Item, Tail
from codomyrmex.streaming import Event, Subscription
from codomyrmex.streaming.errors import MUST_PASS
from codomyrmex.streaming.provenance import cause, origin_of
from codomyrmex.streaming.subscriptions import close_awaitable, refuse_generator
from codomyrmex.streaming.topics import EVERYTHING, matches

Failed = Callable[[BaseException, Event, Subscription], None]
ReadLog = Callable[[int, int], Awaitable[list[Item]]]

_RETRY = 0.5  # seconds until the store is read again after an error


class Subscriber:
    """Calls a handler with the events after a position. A slow handler falls behind and loses nothing.

    Args:
        subscription: the subscription, which ends it when it is cancelled.
        call: called with an event, or with an item if `records` is set.
        tail: the newest entries.
        read: reads older ones from the store.
        failed: called with each exception.
        position: the position after which to begin; None for the end of the log when it is opened.
        records: whether `call` takes the item.
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
        self._records = records
        self._generation = tail.generation
        self._end: int | None = None

    def for_child(self, tail: Tail) -> Subscriber:
        """Return a subscriber for the same handler in a child process, from the end of the log."""
        return Subscriber(
            self.subscription, self._call, tail, self._read, self._failed, None, records=self._records
        )

    def end_at(self, position: int) -> None:
        """End behind a position, once the handler has been called with the events up to it."""
        self._end = position
        self._tail.bell.ring()

    async def run(self) -> None:
        """Call the handler until the subscription ends."""
        tail, subscription = self._tail, self.subscription
        while subscription.active:
            ringing = tail.bell.future()
            try:
                items = await self._next(ringing)
            except BaseException:
                tail.bell.forget(ringing)
                raise
            if items is None:
                continue
            if not items:
                if self._end is not None and (self.position or 0) >= self._end:
                    tail.bell.forget(ringing)
                    return
                await ringing
                continue
            tail.bell.forget(ringing)
            for item in items:
                if not subscription.active:
                    return
                self.position = item.position
                if item.group is None:
                    await self._handle(item)
            await asyncio.sleep(0)

    async def _next(self, ringing: asyncio.Future[None]) -> list[Item] | None:
        """Return the next entries, none if there are none, or None to look again."""
        tail = self._tail
        if tail.generation != self._generation:
            self._generation = tail.generation
            if self.position is not None:
                self.position = min(self.position, tail.restart)
        if self.position is None:
            self.position = tail.last
        if self.position is None:
            return []
        items = tail.get(self.position, READ_LIMIT)
        if items is None:
            tail.bell.forget(ringing)
            try:
                items = await self._read(self.position, READ_LIMIT)
            except Exception:  # noqa: BLE001 - the stream reports that the store is not available
                await asyncio.sleep(_RETRY)
                return None
            if not items:
                return None
        if items and items[0].position > self.position + 1:
            self.missed += items[0].position - self.position - 1
        return items

    async def _handle(self, item: Item) -> None:
        subscription = self.subscription
        try:
            event = item.event()
        except ValueError:
            self.undecodable += 1
            return
        if subscription.topic != EVERYTHING and not matches(subscription.topic, event.topic):
            return
        origin = origin_of(event)
        if cause.get() != origin:
            cause.set(origin)
        try:
            if subscription.filter_fn is not None and not subscription.passes(event):
                return
            result = self._call(item if self._records else event)
            if result is None:
                return
            if isawaitable(result):
                await self._wait(result)
            else:
                refuse_generator(result)
        except MUST_PASS:
            raise
        except BaseException as error:  # noqa: BLE001 - a failing handler must not affect later events
            self._failed(error, event, subscription)

    async def _wait(self, result: Awaitable[Any]) -> None:
        task = asyncio.current_task()
        cancelling = task.cancelling() if task is not None else 0
        try:
            await result
        except asyncio.CancelledError:
            # A cancellation of the call alone must not end the subscription.
            if task is not None and task.cancelling() > cancelling:
                close_awaitable(result)
                raise
