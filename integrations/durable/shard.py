"""`ShardReader`: reads the events of one shard of a group, and knows up to where they were delivered."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from codomyrmex.integrations.delivery.policy import Item
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.delivery.sink import Binding
from codomyrmex.integrations.durable.entries import Place, decode_event, parse_cursor
from codomyrmex.integrations.durable.group import Group, Held, open_group
from codomyrmex.integrations.durable.names import encode_name
from codomyrmex.integrations.durable.runtime import Runtime
from codomyrmex.integrations.durable.saved_groups import Definition
from codomyrmex.integrations.durable.store import Stored
from codomyrmex.integrations.durable.tail import READ_LIMIT, Tail
from codomyrmex.integrations.durable.tail import Item as LogItem
from codomyrmex.streaming import Event, FilterFunction, Subscription
from codomyrmex.streaming.errors import shorten
from codomyrmex.streaming.provenance import ORIGIN, origin_of
from codomyrmex.streaming.topics import EVERYTHING, matches

MAX_SHARDS = 1_000
"""Each shard has a lease, which is renewed all the time."""

T = TypeVar("T")


class GroupSource(Protocol):
    """The stream that a group reads."""

    dead_log: str
    runtime: Runtime

    @property
    def tail(self) -> Tail:
        """The newest entries."""

    async def open(self) -> None:
        """Connect to the store."""

    async def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine where the store is used."""

    async def publish_to_group(self, event: Event, group: str) -> None:
        """Append an event for one group only."""

    async def flush(self) -> None:
        """Wait until everything that was published is in the store."""

    async def resolve(self, after: str | None) -> int:
        """Return the position that a cursor stands for."""

    async def read_entries(self, after: int, limit: int) -> list[Stored]:
        """Return entries from the store."""

    def make_group(self, name: str, definition: Definition, on_change: Callable[[], None]) -> Group:
        """Return this process's part of a group."""


def define_group(binding: Binding, topic: str) -> tuple[str, Definition]:
    """Return the name and the definition of the group that reads for a sink.

    Raises:
        TypeError: an option of the binding has the wrong type.
        ValueError: one is out of range.
    """
    name = binding.sink.name if binding.group is None else binding.group
    encode_name(name)  # checks it
    shards, shard_by = binding.shards, binding.shard_by
    if isinstance(shards, bool) or not isinstance(shards, int):
        raise TypeError(f"shards: must be an int, got {shorten(shards)}")
    if not 1 <= shards <= MAX_SHARDS:
        raise ValueError(f"shards: must be from 1 to {MAX_SHARDS}, got {shards}")
    if not isinstance(shard_by, str) or not shard_by:
        raise TypeError(f"shard_by: must be 'topic' or a key of the metadata, got {shorten(shard_by)}")
    if binding.after is not None and binding.after != "earliest":
        parse_cursor(binding.after)
    return name, Definition(str(topic), shards, shard_by)


async def join_group(
    stream: GroupSource, name: str, definition: Definition, after: str | None, since: float
) -> Group:
    """Open this process's part of a group of a stream that is open.

    Args:
        stream: the stream.
        name: the name of the group.
        definition: what it reads.
        after: where a new group begins; None for the end of the log.
        since: the end of the log when it was first to be opened: one that is opened late gets what was
            published meanwhile.

    Raises:
        CursorError: `after` is not a position of the log.
        GroupError: the group exists with another definition.
        StoreUnavailableError: the store is not available.
    """
    tail = stream.tail
    position = await stream.resolve(after)
    if after is None:
        position = int(min(position, max(since, tail.opened_at)))
    group = stream.make_group(name, definition, tail.bell.ring)
    await open_group(group, Place(tail.epoch, position), stream.call, stream.runtime.call_soon)
    return group


class Selection:
    """Which entries of a log are for a group.

    Args:
        group: the name of the group.
        sink: the name of its sink, which does not receive reports on itself.
        definition: what the group reads.
        filter_fn: a plain function; only events for which it returns true are delivered.
    """

    def __init__(
        self, group: str, sink: str, definition: Definition, filter_fn: FilterFunction | None
    ) -> None:
        self._group = group
        self._sink = sink
        self._definition = definition
        self._filter = None if filter_fn is None else Subscription(filter_fn=filter_fn)

    def event_for(self, shard: int, item: LogItem) -> Event | None:
        """Return the event of an entry if it is for this group and shard.

        Raises:
            ValueError: the entry is not an event.
            Exception: raised by the filter.
        """
        group = item.group
        if group is not None and group != self._group:
            return None
        event = item.event()
        if event is None:
            decode_event(item.entry)  # raises the error
            return None
        topic = self._definition.topic
        if (
            (topic != EVERYTHING and not matches(topic, event.topic))
            or (self._definition.shards > 1 and self._definition.shard_of(event) != shard)
            or (ORIGIN in event.metadata and self._is_about_itself(event))
        ):
            return None
        return event if self._filter is None or self._filter.passes(event) else None

    def _is_about_itself(self, event: Event) -> bool:
        """Return whether an event reports on the sink, here or in another process."""
        origin = origin_of(event)
        return origin is not None and "sink:" in origin and event.metadata.get("sink") == self._sink


class ShardReader:
    """Reads a shard that this process holds.

    Attributes:
        number: the number of the shard.
        token: that of the lease under which it is read.
        delivered: the position up to which its events were delivered, given up or skipped.
        scanned: the position up to which its events are in `batch`, or were skipped.
        batch: the events that wait for others to fill a batch.
        saved: the position that was saved last, at the time `saved_at`.
        removed: how many entries were removed before they were read.
        refused: entries that cannot be delivered, with the reason.
        retry_at: when the log is read again after an error, in seconds of the clock.
    """

    def __init__(self, number: int, held: Held, stream: GroupSource, selection: Selection) -> None:
        self.number = number
        self.token = held.lease.token
        position = held.place.position if held.place.epoch == stream.tail.epoch else 0
        self.delivered = self.scanned = self.saved = position
        self.saved_at = -math.inf
        self.retry_at = math.inf
        self.batch: list[Item] = []
        self.removed = 0
        self.refused: list[tuple[bytes, str]] = []
        self._rest: list[LogItem] = []  # of what was read last
        self._stream = stream
        self._selection = selection

    def restart(self, position: int) -> None:
        """Continue from a position."""
        self.delivered = self.scanned = position
        self.saved = -1
        self.batch, self._rest = [], []

    async def collect(self, size: int, now: Callable[[], float]) -> None:
        """Read entries until the batch has a size, or there are no more.

        Raises:
            StoreError: they could not be read.
        """
        while len(self.batch) < size and (items := await self._next()):
            self.removed += items[0].position - self.scanned - 1
            moment = now()
            for number, item in enumerate(items, 1):
                self.scanned = item.position
                try:
                    event = self._selection.event_for(self.number, item)
                except Exception as error:  # noqa: BLE001 - a bad entry or filter must not end the delivery
                    self.refused.append((item.entry, describe(error)))
                    continue
                if event is not None:
                    self.batch.append((event, moment))
                    if len(self.batch) >= size:
                        self._rest = items[number:]
                        return

    async def _next(self) -> list[LogItem]:
        """Return the entries that follow, none if there are no more."""
        tail = self._stream.tail
        last = tail.last or 0
        items, self._rest = self._rest or tail.get(self.scanned, READ_LIMIT), []
        if items is None:
            entries = await self._stream.read_entries(self.scanned, READ_LIMIT)
            items = [LogItem(*stored) for stored in entries]
            if not items and self.scanned < last:
                self.removed += last - self.scanned
                self.scanned = last
        if not items and tail.last is not None and self.scanned > tail.last:
            # Either the tail has not been read up to here yet, or the log has lost its end.
            end = await self._stream.resolve(None)
            if self.scanned > end:
                self.restart(end)
        return items
