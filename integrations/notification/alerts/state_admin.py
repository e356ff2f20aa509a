"""`StateAdmin`: reads the shared state of an alert sink, and changes its silences, without running a sink."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.durable.admin import StreamAdmin
from codomyrmex.integrations.durable.entries import address_entry, encode_event
from codomyrmex.integrations.durable.names import Names
from codomyrmex.integrations.durable.store import (
    Batch,
    Lease,
    LeaseLostError,
    Store,
    StoreError,
    StoreUnavailableError,
)
from codomyrmex.integrations.durable.tail import Item
from codomyrmex.integrations.notification.alerts.control import (
    ControlSelection,
    silence_event,
    silences_in,
)
from codomyrmex.integrations.notification.alerts.old_state import OldState
from codomyrmex.integrations.notification.alerts.silences import Silence, SilenceState
from codomyrmex.integrations.notification.alerts.state_records import (
    Head,
    StateNames,
    decode_state,
    encode_changes,
    encode_entries,
    parse_changes_name,
)

State = dict[tuple[str, str], Any]
"""The state of an engine by kinds and keys, for `AlertEngine(config, state)`."""

_LEASE = 5.0  # seconds
_PAUSE = 0.05  # seconds between two attempts

_log = Diagnostics(__name__)


class StateName(NamedTuple):
    """Which of the states in a store it is.

    Attributes:
        stream: the name of the log from which the alerts come.
        sink: the name of the alert sink.
    """

    stream: str
    sink: str

    def __str__(self) -> str:
        return self.stream if self.sink == "alerts" else f"{self.stream} (sink {self.sink})"


async def find_states(store: Store) -> list[StateName]:
    """Return the states of alert sinks that a store has."""
    found = [parse_changes_name(log) for log in await store.logs()]
    return [StateName(*name) for name in found if name is not None]


def silences_of(state: Mapping[tuple[str, str], Any]) -> list[Silence]:
    """Return the silences of a state, the last to end first; one that is damaged is skipped and logged."""
    found = []
    for (kind, key), record in state.items():
        if kind == "silence" and record is not None:
            try:
                found.append(Silence.from_dict(record))
            except ValueError as error:
                _log.warning("silence", "the silence %s is skipped: %s", key, error)
    return sorted(found, key=lambda silence: -silence.ends_at)


class StateAdmin:
    """The administration of a shared state; all methods may raise a `StoreError`.

    What is changed here is in force in the process that notifies within a second, and in one that starts
    later from its first moment.

    Args:
        store: the store, which is open.
        name: which of its states it is.
        owner: who changes it; unique to this process.
        old: the state of an earlier version, from which it continues if nothing was saved yet.
    """

    def __init__(self, store: Store, name: StateName, owner: str, old: OldState | None = None) -> None:
        self._store = store
        self._stream = StreamAdmin(store, name.stream)
        self._sink = name.sink
        self._names = StateNames(name.stream, name.sink)
        self._group = Names(name.stream, name.sink)
        self._owner = owner
        self._old = old

    async def load(self) -> State:
        """Return the state, with the silences that the process which notifies has not read yet."""
        head, state = await self._load()
        for silence in await self._waiting(head):
            state["silence", silence.id] = silence.to_dict()
        return state

    async def _load(self) -> tuple[Head, State]:
        head, state = decode_state(await self._store.load(self._names.prefix), self._names)
        if head == Head() and self._old is not None:
            state = self._old.load()
        return head, state

    async def silences(self) -> list[Silence]:
        """Return the silences, the last to end first."""
        return silences_of(await self.load())

    async def _waiting(self, head: Head) -> list[Silence]:
        """Return the silences in the log that are not in the state which has this head, in their order."""
        group = next((each for each in await self._stream.saved_groups() if each.name == self._sink), None)
        bounds = await self._store.bounds(self._stream.name)
        if group is None or bounds is None:
            return []
        after = head.position if head.epoch == bounds.epoch else group.position(bounds.epoch)
        selection = ControlSelection(self._sink, "*", None)
        async for stored in self._stream.entries(self._stream.name, after):
            item = Item(*stored)
            if item.group == self._sink:
                with suppress(ValueError):  # it is not an event
                    selection.event_for(0, item)
        return silences_in(selection.pop())

    async def add_silence(self, silence: Silence) -> None:
        """Add a silence, or replace the one with its id."""
        await self._store.create_log(self._names.changes)
        deadline = time.monotonic() + _LEASE
        while not await self._put(silence):
            if time.monotonic() > deadline:
                problem = f"another process is changing the state of {self._stream.name}"
                raise StoreUnavailableError(f"{self._store.url}: {problem}; try again in a moment")
            await asyncio.sleep(_PAUSE)

    async def expire_silence(self, silence_id: str, now: float) -> Silence:
        """Expire a silence now, and return it.

        Raises:
            KeyError: no silence has this id.
            ValueError: the silence has expired already.
        """
        silence = next((each for each in await self.silences() if each.id == silence_id), None)
        if silence is None:
            raise KeyError(silence_id)
        if silence.state(now) is SilenceState.EXPIRED:
            raise ValueError(f"silence {silence_id} has expired already")
        expired = silence.ended(now)
        await self.add_silence(expired)
        return expired

    async def _put(self, silence: Silence) -> bool:
        """Save a silence if no process notifies, and otherwise pass it to that process.

        Returns:
            Whether that was possible: a process may be just beginning, and not be able to find it in the log.
        """
        lease = await self._store.acquire(f"{self._group.shards}0", self._owner, _LEASE)
        if lease is None:
            if not await self._store.load(self._group.definition):
                return False
            await self._append(silence)
            return True
        try:
            return await self._save(lease, silence)
        finally:
            await self._store.release(lease)

    async def _save(self, lease: Lease, silence: Silence) -> bool:
        head, state = await self._load()
        if any(each.id == silence.id for each in await self._waiting(head)):
            await self._append(silence)  # behind them, or they would replace it
            return True
        changes = {**(state if head == Head() else {}), ("silence", silence.id): silence.to_dict()}
        encoded = encode_changes(changes)
        new = msgspec.structs.replace(head, number=head.number + 1, token=lease.token, process="")
        try:
            await self._store.save(lease, self._names.values_of(new, encoded))
        except LeaseLostError:
            return False
        if self._old is not None:
            self._old.finish()
        with suppress(StoreError):  # then the processes on standby load the whole state
            entries = encode_entries(new, encoded.parts)
            await self._store.append(self._names.changes, Batch(uuid4().hex, 1, entries))
        return True

    async def _append(self, silence: Silence) -> None:
        entry = address_entry(encode_event(silence_event(silence)), self._sink)
        await self._store.append(self._stream.name, Batch(uuid4().hex, 1, [entry]))
