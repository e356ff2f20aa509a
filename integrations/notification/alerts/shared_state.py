"""`SharedState`: the state of an alert engine in a store, and the log from which its alerts come."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
from codomyrmex.integrations.durable.entries import Place
from codomyrmex.integrations.durable.group import Group
from codomyrmex.integrations.durable.saved_groups import Definition
from codomyrmex.integrations.durable.shard import ShardReader, join_group
from codomyrmex.integrations.durable.store import Batch, Retention, Store, StoreError
from codomyrmex.integrations.durable.stream import DurableStream
from codomyrmex.integrations.notification.alerts.control import ControlSelection
from codomyrmex.integrations.notification.alerts.old_state import OldState
from codomyrmex.integrations.notification.alerts.state_records import (
    Change,
    Encoded,
    Head,
    StateNames,
    decode_entry,
    decode_head,
    decode_state,
    encode_entries,
)
from codomyrmex.streaming import Clock, Event, FilterFunction

_BATCH = 500  # events read at once
_KEPT = Retention(max_events=10_000, max_bytes=64 * 1024 * 1024)  # of the log of changes
_TRIM_EVERY = 500  # saves


class Input(NamedTuple):
    """What the log has for the engine.

    Attributes:
        events: the events that may be alerts.
        controls: the data of the events of `control.py`.
        place: up to where the log was read.
        unreadable: how many entries are not events, or made the filter fail.
        missed: how many the retention removed before they were read.
    """

    events: list[Event]
    controls: list[Mapping[str, Any]]
    place: Place
    unreadable: int
    missed: int


class GapError(Exception):
    """The log of changes does not continue where this process stopped reading; load the state again."""


class SharedState:
    """The state of the alert engines of all processes, and the log from which their alerts come.

    One process at a time holds the lease: it reads the log and saves the state. The others read its changes
    from a second log.

    Args:
        stream: the stream whose log has the alerts.
        name: the name of the sink and of its group.
        topic: the topic or pattern of the events that may be alerts.
        filter_fn: a plain function; only events for which it returns true may be alerts.
        clock: the source of time of the engine.
    """

    def __init__(
        self, stream: DurableStream, name: str, topic: str, filter_fn: FilterFunction | None, clock: Clock
    ) -> None:
        self.stream = stream
        self._name = name
        self._definition = Definition(topic)
        self._selection = ControlSelection(name, topic, filter_fn)
        self._clock = clock
        self._store: Store = stream.store
        self._names = StateNames(stream.name, name)
        self._changes = self._names.changes
        self._producer = uuid4().hex
        self._batches = 0
        self._group: Group | None = None
        self._since = math.inf  # the end of the log when it was opened, if the group could not be opened then
        self._opened_at = stream.clock.monotonic()
        self._after = 0  # up to where the log of changes was read
        self._partial: list[Change] = []
        self._reader: ShardReader | None = None
        self._generation = 0

    # Opening, closing, and the lease

    async def open(self) -> None:
        """Open the store, and the group if it is there.

        Raises:
            StoreError: the store is not available, or cannot be used as it is.
        """
        stream = self.stream
        try:
            await stream.open()
        except StoreError:
            self._since = min(self._since, stream.tail.last or 0)
            raise
        await stream.call(self._create_changes())
        self._group = await join_group(stream, self._name, self._definition, None, self._since)
        self._generation = stream.tail.generation

    async def _create_changes(self) -> None:
        bounds = await self._store.create_log(self._changes)
        self._after = bounds.last

    async def close(self, head: Head | None) -> None:
        """Release the lease, and let another process acquire it at once.

        Args:
            head: what this process saved last, if it holds the lease.
        """
        group, self._group = self._group, None
        self._reader = None
        if group is not None:
            await asyncio.shield(self.stream.call(self._leave(group, head)))

    async def _leave(self, group: Group, head: Head | None) -> None:
        await group.close()
        if head is not None:
            with suppress(StoreError):  # the others look for the lease now and then
                await self._append(encode_entries(msgspec.structs.replace(head, process=""), ()))

    @property
    def is_open(self) -> bool:
        """Whether the store was available once."""
        return self._group is not None

    def token(self) -> int | None:
        """Return the token of the lease, None if this process does not hold it."""
        held = None if self._group is None else self._group.held.get(0)
        return held.lease.token if held is not None and self.is_held(held.lease.token) else None

    def is_held(self, token: int) -> bool:
        """Return whether this process still holds the lease with a token."""
        return self._group is not None and self._group.is_held(0, token)

    def unseen_for(self) -> float:
        """Return for how many seconds the store has not been available."""
        seen_at = self._opened_at if self._group is None else self._group.seen_at
        return max(0.0, self.stream.clock.monotonic() - seen_at)

    async def look(self) -> None:
        """Acquire the lease now if nobody holds it."""

        async def look() -> None:
            if self._group is not None:
                self._group.look()

        await self.stream.call(look())

    # The holder

    def begin(self, token: int) -> bool:
        """Read the log from where the state ends; return False if the lease was lost meanwhile."""
        held = None if self._group is None else self._group.held.get(0)
        if held is None or held.lease.token != token:
            return False
        self._reader = ShardReader(0, held, self.stream, self._selection)
        return True

    async def read(self) -> Input:
        """Return what follows in the log, at most 500 events.

        Raises:
            StoreError: it cannot be read.
        """
        reader, group, tail = self._reader, self._group, self.stream.tail
        assert reader is not None  # noqa: S101 - `begin` was called
        assert group is not None  # noqa: S101 - as above
        if tail.generation != self._generation:
            self._generation = tail.generation
            reader.restart(min(reader.delivered, tail.restart))
        if 0 in group.seeks:
            reader.restart(group.seeks.pop(0))
        await reader.collect(_BATCH, self.stream.clock.monotonic)
        events, reader.batch = [event for event, _ in reader.batch], []
        refused, reader.refused = reader.refused, []
        missed, reader.removed = reader.removed, 0
        reader.delivered = reader.scanned
        place = Place(tail.epoch, reader.scanned)
        return Input(events, self._selection.pop(), place, len(refused), missed)

    def has_more(self) -> bool:
        """Return whether the holder has not read the end of the log."""
        return self._reader is not None and not self.has_read(self.stream.tail.last or 0)

    def has_read(self, position: int) -> bool:
        """Return whether the holder has read the log up to a position."""
        return self._reader is not None and self._reader.scanned >= position

    async def save(self, token: int, head: Head, encoded: Encoded) -> bool:
        """Save changes, and then let the other processes know; return False if the lease was lost.

        Raises:
            StoreError: they could not be saved.
        """
        return await self.stream.call(self._save(token, head, encoded))

    async def _save(self, token: int, head: Head, encoded: Encoded) -> bool:
        group = self._group
        if group is None:
            return False
        values = self._names.values_of(head, encoded)
        if not await group.save(0, token, Place(head.epoch, head.position), values):
            return False
        with suppress(StoreError):  # then the others load the whole state
            await self._append(encode_entries(head, encoded.parts))
            if self._batches % _TRIM_EVERY == 0:
                await self._store.trim(self._changes, _KEPT, self._after)
        return True

    async def _append(self, entries: Sequence[bytes]) -> None:
        self._batches += 1
        first = await self._store.append(self._changes, Batch(self._producer, self._batches, entries))
        self._after = first + len(entries) - 1

    async def measure_offset(self, head: Head) -> float:
        """Announce this process, and return by how many seconds the clock of the store is ahead.

        Raises:
            StoreError: the store is not available.
        """

        async def measure() -> float:
            before = self._clock.time()
            await self._append(encode_entries(head, ()))
            [stored] = await self._store.read(self._changes, self._after - 1, 1)
            after = self._clock.time()
            if self._store.on_this_host:
                return 0.0
            return stored.time - min(max(stored.time, before), after)

        return await self.stream.call(measure())

    # The others

    async def load_head(self) -> Head:
        """Return what was saved last."""
        head = self._names.head
        return decode_head((await self.stream.call(self._store.load(head))).get(head))

    async def load(self) -> tuple[Head, dict[tuple[str, str], Any]]:
        """Return the whole state, by kinds and keys.

        Raises:
            StoreError: it cannot be read.
        """

        async def load() -> Mapping[str, bytes]:
            bounds = await self._store.create_log(self._changes)
            self._after, self._partial = bounds.last, []
            return await self._store.load(self._names.prefix)

        return decode_state(await self.stream.call(load()), self._names)

    async def wait(self, seconds: float) -> None:
        """Wait until there are changes, for at most some seconds."""
        await self.stream.call(self._store.wait(self._changes, self._after, seconds))

    async def read_changes(self) -> list[tuple[Head, list[Change]]]:
        """Return the changes since the last call.

        Raises:
            GapError: some are missing.
            StoreError: they cannot be read.
        """
        saves: list[tuple[Head, list[Change]]] = []
        while entries := await self.stream.call(self._store.read(self._changes, self._after, _BATCH)):
            if entries[0].position != self._after + 1:
                raise GapError
            for position, _, value in entries:
                self._after = position
                try:
                    head, last, changes = decode_entry(value)
                except ValueError:
                    raise GapError from None
                self._partial += changes
                if last:
                    saves.append((head, self._partial))
                    self._partial = []
        return saves


class Sharing(NamedTuple):
    """How the alerts are shared.

    Attributes:
        state: the state and the log.
        reads_stream: whether the log is the stream itself; otherwise this process appends its alerts to it.
        lease: seconds after which another process takes over from one that was killed.
        sends_away: whether this process notifies about its own alerts while the store is not available.
        old_state: the state file of an earlier version, to continue from.
    """

    state: SharedState
    reads_stream: bool
    lease: float
    sends_away: bool
    old_state: OldState | None
