"""`StreamAdmin`: reads and manages what a store has of a stream, without running it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec
from codomyrmex.integrations.delivery.sink import check_type
from codomyrmex.integrations.durable.entries import (
    CursorError,
    Place,
    Record,
    StoredLetter,
    address_entry,
    decode_event,
    decode_stored_letter,
    format_cursor,
    is_json,
    parse_cursor,
)
from codomyrmex.integrations.durable.group import GroupError
from codomyrmex.integrations.durable.names import NAME, Names
from codomyrmex.integrations.durable.saved_groups import GroupInfo, SavedGroup, load_groups
from codomyrmex.integrations.durable.store import (
    Batch,
    Bounds,
    Lease,
    Retention,
    Store,
    Stored,
    StoreError,
    StoreUnavailableError,
)
from codomyrmex.integrations.durable.tail import READ_LIMIT, Item
from codomyrmex.streaming.errors import shorten
from uuid_utils import uuid7

_LEASE = 5.0  # seconds
_PAUSE = 0.05  # seconds between two attempts to acquire a lease


class StreamBounds(NamedTuple):
    """What a durable stream holds.

    Attributes:
        first: the cursor before the oldest event that is kept.
        last: the cursor of the newest event.
        events: the number of events that are kept.
        size: their approximate size in bytes.
    """

    first: str
    last: str
    events: int
    size: int


class StreamAdmin:
    """The administration of a stream in a store.

    Args:
        store: the store, which is open.
        name: the name of the stream.

    Raises:
        TypeError: the store is not one.
        ValueError: the name is not valid.
    """

    def __init__(self, store: Store, name: str) -> None:
        if not isinstance(store, Store):
            raise TypeError(f"store: must be a Store, got {shorten(store)}; open_store(url) returns one")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(
                f"name: must be 1 to 64 characters of A-Z, a-z, 0-9, - and _, got {shorten(name)}"
            )
        self.store = store
        self.name = name
        self.dead_log = f"{name}.dead"

    async def _bounds(self) -> Bounds:
        bounds = await self.store.bounds(self.name)
        if bounds is None:
            raise StoreError(f"{self.store.url}: there is no stream {self.name!r}")
        return bounds

    async def bounds(self) -> StreamBounds:
        """Return what the stream holds.

        Raises:
            StoreError: there is no such stream.
        """
        bounds = await self._bounds()
        cursors = (format_cursor(bounds.epoch, bounds.first - 1), format_cursor(bounds.epoch, bounds.last))
        return StreamBounds(*cursors, bounds.last - bounds.first + 1, bounds.size)

    async def resolve(self, after: str | None) -> int:
        """Return the position that a cursor, `"earliest"` or None for the end stands for.

        Raises:
            CursorError: it is malformed, of another log, or no longer kept.
        """
        bounds = await self._bounds()
        if after is None:
            return bounds.last
        if after == "earliest":
            return bounds.first - 1
        epoch, position = parse_cursor(after)
        if epoch != bounds.epoch or position > bounds.last:
            raise CursorError(
                f"after: {after} is not a position of this log; it was replaced or has lost its end"
            )
        if position < bounds.first - 1:
            raise CursorError(f"after: the events after {after} are no longer kept; use 'earliest'")
        return position

    async def read(self, after: str | None, limit: int) -> list[Record]:
        """Return the events after a position, oldest first, at most `limit`; errors as for `resolve`."""
        check_type("limit", limit, int)
        bounds = await self._bounds()
        position = await self.resolve(after)
        records: list[Record] = []
        while len(records) < limit:
            entries = await self.store.read(self.name, position, min(READ_LIMIT, limit - len(records)))
            if not entries:
                break
            for stored in entries:
                item = Item(*stored)
                position = item.position
                if item.group is None and (event := item.event()) is not None:
                    records.append(Record(format_cursor(bounds.epoch, position), event))
        return records

    # Groups

    async def saved_groups(self) -> list[SavedGroup]:
        """Return the groups as they are saved."""
        return await load_groups(self.store, self.name)

    async def groups(self) -> list[GroupInfo]:
        """Return the groups, with their holders and their lag."""
        bounds = await self._bounds()
        groups = await self.saved_groups()
        dead = dict.fromkeys([group.name for group in groups], 0)
        async for letter in self._iterate_letters(groups):
            if letter.group in dead:
                dead[letter.group] += 1
        infos = []
        for group in groups:
            names = Names(self.name, group.name)
            position = min(group.position(bounds.epoch), bounds.last)
            oldest = await self.store.read(self.name, position, 1)
            holders = {lease.owner.partition("#")[0] for lease in await self.store.leases(names.shards)}
            infos.append(
                GroupInfo(
                    group.name,
                    group.definition.topic,
                    group.definition.shards,
                    tuple(sorted(holders)),
                    format_cursor(bounds.epoch, position),
                    bounds.last - position,
                    max(0.0, time.time() - oldest[0].time) if oldest else 0.0,
                    max(0, bounds.first - 1 - position),
                    dead[group.name],
                )
            )
        return infos

    async def saved_group(self, name: str) -> SavedGroup:
        groups = await self.saved_groups()
        for group in groups:
            if group.name == name:
                return group
        known = ", ".join(group.name for group in groups) or "none"
        raise GroupError(
            f"group {name!r}: there is no such group of stream {self.name!r}; there are: {known}"
        )

    async def seek(self, name: str, after: str | None, owner: str) -> None:
        """Let a group continue after a cursor, `"earliest"`, or None for the end.

        A process that reads the group does so within a third of its lease.

        Raises:
            GroupError: there is no such group.
            CursorError: as for `resolve`.
        """
        group = await self.saved_group(name)
        position = await self.resolve(after)
        place = msgspec.json.encode(Place((await self._bounds()).epoch, position))
        names = Names(self.name, name)
        for shard in range(group.definition.shards):
            lease = await self.store.acquire(f"{names.shards}{shard}", owner, _LEASE)
            if lease is not None:
                changes = {f"{names.places}{shard}": place, f"{names.seek}/{shard}": None}
                await self.store.save(lease, changes)
                await self.store.release(lease)
            else:
                await self.save(names.admin, owner, {f"{names.seek}/{shard}": place})

    async def delete_group(self, name: str, owner: str) -> None:
        """Delete a group and everything that its reader has saved.

        Raises:
            GroupError: there is no such group, or a process reads it.
        """
        await self.saved_group(name)
        names = Names(self.name, name)
        holders = [lease.owner.partition("#")[0] for lease in await self.store.leases(names.members)]
        if holders:
            raise GroupError(f"group {name!r}: it is in use by {', '.join(holders)}; stop that process first")
        saved = {**await self.store.load(f"{names.prefix}/"), **await self.store.load(names.state)}
        await self.save(names.admin, owner, dict.fromkeys(saved))

    async def save(self, lease_name: str, owner: str, values: dict[str, bytes | None]) -> None:
        """Save values under a lease that is held for no longer than that.

        Raises:
            StoreUnavailableError: another process has held the lease for longer than it takes.
        """
        lease = await self._acquire(lease_name, owner)
        try:
            await self.store.save(lease, values)
        finally:
            await self.store.release(lease)

    async def _acquire(self, name: str, owner: str) -> Lease:
        deadline = time.monotonic() + _LEASE
        while (lease := await self.store.acquire(name, owner, _LEASE)) is None:
            if time.monotonic() > deadline:
                problem = f"another process is changing {name}; try again in a moment"
                raise StoreUnavailableError(f"{self.store.url}: {problem}")
            await asyncio.sleep(_PAUSE)
        return lease

    # Dead letters

    async def letters(self, group: str | None = None) -> list[StoredLetter]:
        """Return the dead letters that were neither replayed nor dropped, oldest first.

        Args:
            group: only those of one group.

        Raises:
            GroupError: there is no such group.
        """
        groups = await self.saved_groups()
        if group is not None:
            await self.saved_group(group)
        return [letter async for letter in self._iterate_letters(groups) if group in {None, letter.group}]

    async def _iterate_letters(self, groups: list[SavedGroup]) -> AsyncIterator[StoredLetter]:
        handled = {group.name: group.dead for group in groups}
        async for stored in self.entries(self.dead_log):
            letter = decode_stored_letter(*stored)
            if letter.position > handled.get(letter.group, 0):
                yield letter

    async def replay(self, group: str, owner: str) -> int:
        """Append the dead letters of a group to the log again, for this group only; return their number.

        Raises:
            GroupError: there is no such group.
        """
        letters = await self._unhandled(group)
        entries = [address_entry(letter.entry, group) for letter in letters if is_json(letter.entry)]
        producer = uuid7().hex
        for number, start in enumerate(range(0, len(entries), READ_LIMIT), 1):
            await self.store.append(self.name, Batch(producer, number, entries[start : start + READ_LIMIT]))
        await self._handled(group, letters, owner)
        return len(entries)

    async def drop(self, group: str, owner: str) -> int:
        """Forget the dead letters of a group, and return their number.

        Raises:
            GroupError: there is no such group.
        """
        letters = await self._unhandled(group)
        await self._handled(group, letters, owner)
        return len(letters)

    async def _unhandled(self, group: str) -> list[StoredLetter]:
        await self.saved_group(group)
        return await self.letters(group)

    async def _handled(self, group: str, letters: list[StoredLetter], owner: str) -> None:
        if letters:
            names = Names(self.name, group)
            await self.save(names.admin, owner, {names.dead: str(letters[-1].position).encode()})

    # Everything

    async def entries(self, log: str, after: int = 0) -> AsyncIterator[Stored]:
        """Yield the entries of a log after a position up to its end at this moment."""
        bounds = await self.store.bounds(log)
        while bounds is not None and after < bounds.last:
            entries = await self.store.read(log, after, READ_LIMIT)
            if not entries:
                return
            for stored in entries:
                yield stored
            after = entries[-1].position

    async def trim(self, retention: Retention, *, unread: bool) -> int:
        """Remove events beyond a retention, and return their number.

        Args:
            retention: what is kept.
            unread: whether events that a group has not read may be removed as well.
        """
        bounds = await self._bounds()
        positions = [] if unread else [group.position(bounds.epoch) for group in await self.saved_groups()]
        return await self.store.trim(self.name, retention, min([*positions, bounds.last]))

    async def verify(self) -> list[str]:
        """Read the whole stream, and return a sentence for each problem."""
        problems: list[str] = []
        for log in (self.name, self.dead_log):
            expected = None
            async for position, _, value in self.entries(log):
                if expected is not None and position != expected:
                    problems.append(f"{log}: the entries {expected} to {position - 1} are missing")
                expected = position + 1
                try:
                    if log == self.name:
                        decode_event(value)
                    elif decode_stored_letter(position, 0.0, value).attempts < 0:
                        problems.append(f"{log}: entry {position} is not a dead letter")
                except ValueError as error:
                    problems.append(f"{log}: entry {position} is {error}")
        bounds = await self._bounds()
        for group in await self.saved_groups():
            problems += [
                f"group {group.name}: its position {place.position} is beyond the end, {bounds.last}"
                for place in group.places
                if place.epoch == bounds.epoch and place.position > bounds.last
            ]
        return problems

    async def note_rewind(self, epoch: str, position: int, owner: str) -> None:
        """Let the groups continue at the new end of a log whose end went back, in its new epoch."""
        for group in await self.saved_groups():
            names = Names(self.name, group.name)
            for shard, place in enumerate(group.places):
                if place.epoch != epoch:
                    moved = msgspec.json.encode(Place(epoch, min(place.position, position)))
                    await self.save(names.admin, owner, {f"{names.places}{shard}": moved})
