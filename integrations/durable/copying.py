"""`copy_stream`: copies a stream from a store to another, with its groups and its dead letters."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec
from codomyrmex.integrations.durable.admin import StreamAdmin
from codomyrmex.integrations.durable.entries import Place
from codomyrmex.integrations.durable.names import Names
from codomyrmex.integrations.durable.saved_groups import encode_definition
from codomyrmex.integrations.durable.store import Batch, Bounds, Lease, Store, StoreError
from uuid_utils import uuid7

_LIMIT, _BYTES = 500, 4 * 1024 * 1024  # of the entries that are appended at once
_LEASE = 30.0  # seconds

Progress = Callable[[str, int, int], None]


class Copied(NamedTuple):
    """What a copy of a stream holds.

    Attributes:
        events: the number of events.
        dead: the number of dead letters, those that were replayed or dropped included.
        groups: the names of the groups.
    """

    events: int
    dead: int
    groups: tuple[str, ...]


class _State(msgspec.Struct):
    """How far a copy is, in the target.

    Attributes:
        offsets: by log, the epoch of the source, and by how much its positions are greater.
        complete: whether everything was copied.
    """

    offsets: dict[str, tuple[str, int]] = {}
    complete: bool = False


async def copy_stream(
    source: StreamAdmin, target: Store, owner: str, progress: Progress = lambda *_: None
) -> Copied:
    """Copy a stream, with its groups, their positions and state, and its dead letters, to a store without it.

    A copy that was interrupted continues where it was. The age of the copied entries, for the retention,
    begins now; the times of the events themselves are kept.

    Args:
        source: the stream in its store; no process should publish to it meanwhile.
        target: where to; it is open.
        owner: who copies; unique to a process.
        progress: called with the log, how many entries were copied, and how many there are.

    Raises:
        StoreError: the target has the stream already.
    """
    return await _Copy(source, StreamAdmin(target, source.name), owner, progress).run()


class _Copy:
    def __init__(self, source: StreamAdmin, target: StreamAdmin, owner: str, progress: Progress) -> None:
        self._source = source
        self._target = target
        self._owner = owner
        self._progress = progress
        self._name = f"{source.name}/copy"  # of the lease and of the state
        self._state = _State()

    async def run(self) -> Copied:
        store = self._target.store
        await self._source.bounds()  # raises an error if there is no such stream
        lease = await store.acquire(self._name, self._owner, _LEASE)
        if lease is None:
            raise StoreError(f"{store.url}: another process is copying to {self._source.name}")
        try:
            await self._load()
            counts = [await self._copy_log(log, lease) for log in (self._source.name, self._source.dead_log)]
            groups = await self._copy_groups(lease)
            self._state.complete = True
            await self._save(lease)
        finally:
            await store.release(lease)
        return Copied(counts[0], counts[1], groups)

    async def _load(self) -> None:
        """Load the state of a copy that was interrupted.

        Raises:
            StoreError: the target has a stream that is not such a copy.
        """
        target, store = self._target, self._target.store
        saved = (await store.load(self._name)).get(self._name)
        if saved is not None:
            self._state = msgspec.json.decode(saved, type=_State)
        if saved is not None and not self._state.complete:
            return
        bounds = await store.bounds(target.name)
        if (bounds is not None and bounds.last) or await target.saved_groups():
            count = 0 if bounds is None else bounds.last - bounds.first + 1
            raise StoreError(
                f"{store.url}: it already has a stream {target.name!r}, with {count} events; "
                "copy to a store without it"
            )
        self._state = _State()

    async def _save(self, lease: Lease) -> None:
        await self._target.store.save(lease, {self._name: msgspec.json.encode(self._state)})

    async def _copy_log(self, log: str, lease: Lease) -> int:
        """Copy a log, and return the number of its entries."""
        source, target = self._source.store, self._target.store
        bounds = await source.bounds(log)
        if bounds is None:
            return 0
        known = self._state.offsets.get(log)
        if known is None:
            known = self._state.offsets[log] = (bounds.epoch, bounds.first - 1)
            await self._save(lease)
        offset = known[1]
        copied = (await target.create_log(log)).last
        await self._check(log, known, bounds, copied)
        producer, number = uuid7().hex, 0
        total = bounds.last - offset
        while offset + copied < bounds.last:
            entries = await source.read(log, offset + copied, _LIMIT, _BYTES)
            if not entries:
                break
            if entries[0].position != offset + copied + 1:
                raise StoreError(
                    f"{source.url}: entries of {log} were removed while it was copied; copy to an empty store"
                )
            number += 1
            await target.renew(lease, _LEASE)
            await target.append(log, Batch(producer, number, [stored.value for stored in entries]))
            copied += len(entries)
            self._progress(log, copied, total)
        return copied

    async def _check(self, log: str, known: tuple[str, int], bounds: Bounds, copied: int) -> None:
        """Raise an error unless the target has the first entries of the source."""
        source, target = self._source.store, self._target.store
        epoch, offset = known
        newest = await target.read(log, copied - 1, 1) if copied else []
        original = await source.read(log, offset + copied - 1, 1) if copied else []
        same = [stored.value for stored in newest] == [stored.value for stored in original]
        if epoch != bounds.epoch or offset + copied > bounds.last or not same:
            raise StoreError(
                f"{target.url}: what it has of {log} is not a part of {source.url}; copy to an empty store"
            )

    async def _copy_groups(self, lease: Lease) -> tuple[str, ...]:
        source, target = self._source, self._target
        epoch, offset = self._state.offsets[source.name]
        dead_offset = self._state.offsets.get(source.dead_log, ("", 0))[1]
        bounds = await target.store.bounds(target.name)
        new_epoch = "" if bounds is None else bounds.epoch
        groups = await source.saved_groups()
        for group in groups:
            names = Names(source.name, group.name)
            seeks = await source.store.load(f"{names.seek}/")
            values: dict[str, bytes | None] = {names.dead: str(max(0, group.dead - dead_offset)).encode()}
            values[names.definition] = encode_definition(group.definition, new_epoch, 0)
            values |= await source.store.load(names.state)
            for shard, place in enumerate(group.places):
                wanted = seeks.get(f"{names.seek}/{shard}")
                at = place if wanted is None else msgspec.json.decode(wanted, type=Place)
                position = max(0, at.position - offset) if at.epoch == epoch else 0
                values[f"{names.places}{shard}"] = msgspec.json.encode(Place(new_epoch, position))
            await target.store.save(lease, values)
        return tuple(group.name for group in groups)
