"""`Group`: a group of consumers of a log: who reads which shard, and up to where it was delivered."""

from __future__ import annotations

import asyncio
import itertools
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import NamedTuple

import msgspec
from codomyrmex.integrations.durable.entries import Place
from codomyrmex.integrations.durable.names import Names
from codomyrmex.integrations.durable.saved_groups import Created, Definition, encode_definition
from codomyrmex.integrations.durable.store import (
    Batch,
    Lease,
    LeaseLostError,
    Store,
    StoreConfigError,
    StoreError,
    StoreUnavailableError,
)
from codomyrmex.streaming.clock import Clock
from codomyrmex.streaming.diagnostics import Diagnostics

_LONGEST_PAUSE = 1.0  # seconds between two looks at the leases

_NOTHING: Mapping[str, bytes | None] = MappingProxyType({})

_log = Diagnostics(__name__)


class GroupError(StoreError, ValueError):
    """A group exists with another topic, number of shards or key, does not exist, or is in use."""


class Held(NamedTuple):
    """A shard that this process reads.

    Attributes:
        lease: the lease.
        until: when it ends unless it is renewed, in seconds of the clock.
        place: up to where its events had been delivered when it was acquired.
    """

    lease: Lease
    until: float
    place: Place


class Group:
    """This process's part of a group. It is used on the stream's own loop; `held` may be read anywhere.

    It is created on the event loop of those who read, and holds nothing while that does not run.

    Args:
        store: the store.
        stream: the name of the stream.
        name: the name of the group.
        definition: what it reads.
        owner: who reads; unique to this process and sink.
        seconds: when a lease expires that is not renewed.
        clock: the source of time.
        on_change: called when a shard was acquired or lost, and when its place was changed by `seek`.
        restart: returns the place to continue from if the store has lost the group.

    Attributes:
        held: the shards that this process reads.
        leaving: the shards to be released once their places are saved.
        seeks: the positions to continue from, by shard.
        seen_at: when the leases were last read and renewed, in seconds of the clock.
    """

    def __init__(
        self,
        store: Store,
        stream: str,
        name: str,
        definition: Definition,
        owner: str,
        seconds: float,
        clock: Clock,
        on_change: Callable[[], None],
        restart: Callable[[], Place],
    ) -> None:
        self.name = name
        self.definition = definition
        self.held: dict[int, Held] = {}
        self.leaving: set[int] = set()
        self.seeks: dict[int, int] = {}
        self._store = store
        self._names = Names(stream, name)
        self._owner = owner
        self._seconds = seconds
        self._clock = clock
        self._on_change = on_change
        self._restart = restart
        self._loop = asyncio.get_running_loop()  # of those who read
        self._member: tuple[Lease, float] | None = None
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self.seen_at = clock.monotonic()

    def look(self) -> None:
        """Look now whether shards can be acquired, as another process has released some."""
        self._hurry.set()

    def is_held(self, shard: int, token: int) -> bool:
        """Return whether a lease of a shard has not expired, as far as this process knows."""
        held = self.held.get(shard)
        return held is not None and held.lease.token == token and self._clock.monotonic() < held.until

    async def open(self, place: Place) -> None:
        """Create the group at a place if it does not exist, and acquire the shards that nobody reads.

        Raises:
            GroupError: it exists with another definition.
            StoreUnavailableError: the store is not available.
        """
        await self._define(place)
        await self._step()
        self._task = asyncio.create_task(self._run(), name=f"group {self.name}")

    async def close(self) -> None:
        """Release the shards, so that other processes can read them at once."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        with suppress(StoreError):
            await self._release()

    async def _release(self) -> None:
        leases = [held.lease for held in self.held.values()]
        if self._member is not None:
            leases.append(self._member[0])
        self.held = {}
        self._member = None
        for lease in leases:
            await self._store.release(lease)

    async def save(
        self, shard: int, token: int, place: Place, values: Mapping[str, bytes | None] = _NOTHING
    ) -> bool:
        """Save up to where the events of a shard were delivered under a lease; False if it was lost.

        Args:
            shard: the number of the shard.
            token: that of the lease under which the events were delivered.
            place: up to where they were.
            values: what else is saved in the same step.
        """
        held = self.held.get(shard)
        if held is None or held.lease.token != token:
            return False
        place_of_shard = {f"{self._names.places}{shard}": msgspec.json.encode(place)}
        try:
            await self._store.save(held.lease, {**values, **place_of_shard})
        except LeaseLostError:
            self._lose(shard)
            return False
        return True

    async def release(self, shard: int) -> None:
        """Release a shard that is leaving, once its place is saved."""
        self.leaving.discard(shard)
        held = self.held.get(shard)
        if held is not None:
            self._lose(shard)
            await self._store.release(held.lease)

    async def append_letters(self, log: str, batch: Batch) -> None:
        """Append dead letters to a log."""
        await self._store.create_log(log)
        await self._store.append(log, batch)

    # Leases

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(self._seconds / 3, _LONGEST_PAUSE)):
                    await self._hurry.wait()
            self._hurry.clear()
            try:
                await self._step()
            except (StoreUnavailableError, StoreConfigError):
                self._expire()
            except Exception as error:  # noqa: BLE001 - such as a bug in a store; the leases expire
                _log.warning(self.name, "group %s: its leases could not be read", self.name, error=error)

    async def _join(self) -> None:
        """Acquire or renew one of the leases that stand for the members, the first one that is free.

        Their names are numbers, and so few even after many processes that were killed.
        """
        now = self._clock.monotonic()
        if self._member is not None and self._member[1] - now >= self._seconds * 2 / 3:
            return
        names = itertools.count() if self._member is None else [self._member[0].name.rpartition("/")[2]]
        self._member = None
        for name in names:
            lease = await self._store.acquire(f"{self._names.members}{name}", self._owner, self._seconds)
            if lease is not None:
                self._member = lease, now + self._seconds
                return

    async def _step(self) -> None:
        store, names = self._store, self._names
        self._expire()
        if not self._loop.is_running():  # it was closed or stopped: others can deliver meanwhile
            await self._release()
            return
        await self._join()
        for shard, held in tuple(self.held.items()):
            if held.until - self._clock.monotonic() < self._seconds * 2 / 3:
                await self._renew(shard, held)
        await self._apply_seek()
        members = len(await store.leases(names.members)) or 1
        share = -(-self.definition.shards // members)
        surplus = len(self.held) - len(self.leaving) - share
        if surplus > 0:
            self.leaving.update([shard for shard in self.held if shard not in self.leaving][-surplus:])
            self._on_change()
        # Processes begin with different shards, so that they seldom want the same one.
        start = zlib.crc32(self._owner.encode()) % self.definition.shards
        for number in range(self.definition.shards):
            shard = (start + number) % self.definition.shards
            if len(self.held) < share and shard not in self.held:
                await self._acquire(shard)
        self.seen_at = self._clock.monotonic()

    async def _renew(self, shard: int, held: Held) -> None:
        now = self._clock.monotonic()
        try:
            await self._store.renew(held.lease, self._seconds)
        except LeaseLostError:
            self._lose(shard)
        else:
            if self.is_held(shard, held.lease.token):
                self.held[shard] = held._replace(until=now + self._seconds)
            else:  # it had expired before; it is acquired again with its place as it is now
                self._lose(shard)

    async def _acquire(self, shard: int) -> None:
        now = self._clock.monotonic()
        lease = await self._store.acquire(f"{self._names.shards}{shard}", self._owner, self._seconds)
        if lease is None:
            return
        values = await self._store.load(self._names.prefix + "/")
        saved = values.get(f"{self._names.places}{shard}")
        if saved is not None:
            place = msgspec.json.decode(saved, type=Place)
        elif self._names.definition in values:
            created = msgspec.json.decode(values[self._names.definition], type=Created)
            place = Place(created.epoch, created.position)
        else:  # the store has lost it
            place = self._restart()
            await self._define(place)
        self.held[shard] = Held(lease, now + self._seconds, place)
        self._on_change()

    def _expire(self) -> None:
        """Drop the shards whose leases could not be renewed in time."""
        for shard, held in tuple(self.held.items()):
            if not self.is_held(shard, held.lease.token):
                self._lose(shard)

    def _lose(self, shard: int) -> None:
        self.leaving.discard(shard)
        if self.held.pop(shard, None) is not None:
            self._on_change()

    async def _apply_seek(self) -> None:
        """Continue from another position if somebody has asked for that."""
        values = await self._store.load(self._names.seek + "/")
        for shard, held in tuple(self.held.items()):
            name = f"{self._names.seek}/{shard}"
            if name not in values:
                continue
            place = msgspec.json.decode(values[name], type=Place)
            changes = {name: None, f"{self._names.places}{shard}": msgspec.json.encode(place)}
            try:
                await self._store.save(held.lease, changes)
            except LeaseLostError:
                self._lose(shard)
                continue
            self.seeks[shard] = place.position
            self._on_change()

    # The definition

    async def _define(self, place: Place) -> None:
        names = self._names
        value = encode_definition(self.definition, place.epoch, place.position)
        while True:
            saved = (await self._store.load(names.definition)).get(names.definition)
            if saved is not None:
                existing = msgspec.json.decode(saved, type=Created).definition
                if existing != self.definition:
                    raise GroupError(
                        f"group {self.name}: it exists with {_describe(existing)}, not with "
                        f"{_describe(self.definition)}; use another name, or delete the group"
                    )
                return
            lease = await self._store.acquire(names.admin, self._owner, self._seconds)
            if lease is None:
                await asyncio.sleep(0.05)
                continue
            try:
                if not await self._store.load(names.definition):
                    await self._store.save(lease, {names.definition: value})
            finally:
                await self._store.release(lease)


async def open_group(
    group: Group,
    place: Place,
    call: Callable[[Coroutine[None, None, None]], Awaitable[None]],
    call_soon: Callable[[Coroutine[None, None, None]], None],
) -> None:
    """Open a group where the store is used, and close it again if the caller is cancelled."""
    try:
        await call(group.open(place))
    except BaseException:
        call_soon(group.close())  # it may have been opened just now
        raise


def _describe(definition: Definition) -> str:
    return f"topic={definition.topic!r}, shards={definition.shards}, shard_by={definition.shard_by!r}"
