"""`Tail`: the newest entries of a log in memory, which one task reads for the whole process."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count as counting
from itertools import repeat

import msgspec
from codomyrmex.integrations.durable.entries import FOR, Place, addressee, decode_or_none
from codomyrmex.integrations.durable.store import READ_BYTES, Bounds, Store
from codomyrmex.streaming import Clock, Event
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from codomyrmex.streaming.diagnostics import Diagnostics

READ_LIMIT = 500  # entries read at once

_MAX_ITEMS, _MAX_BYTES = 10_000, 2 * READ_BYTES
_FEWER = 9  # tenths of these that are kept when there are too many
_AT_OPEN = 1_000  # entries read when the tail is opened
_PAUSE = 0.002  # seconds between reads of entries of other processes while this one appends
_PATIENCE = 0.05  # seconds between reads while all waiters are patient
_BUSY = 1.0  # seconds that a waiter that is not patient may spend on entries before it waits again
_WAIT = 30.0  # seconds; a wait that was missed costs at most this

_log = Diagnostics(__name__)


class Item(msgspec.Struct, eq=False, gc=False):
    """An entry of the log, decoded at most once.

    Attributes:
        position: its position in the log.
        time: when it was appended, in seconds since 1970.
        entry: the entry.
    """

    position: int
    time: float
    entry: bytes
    _event: Event | None = None

    @property
    def group(self) -> str | None:
        """The only group that it is for, or None."""
        return addressee(self.entry) if self.entry.startswith(FOR) else None

    def event(self) -> Event | None:
        """Return the event, or None if the entry is not one."""
        if self._event is None:
            self._event = decode_or_none(self.entry)
        return self._event


class Bell:
    """Wakes tasks of any event loop when there is something new."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._waiting: dict[asyncio.AbstractEventLoop, set[asyncio.Future[None]]] = {}
        self._patient: set[asyncio.Future[None]] = set()
        self._wanted_at = -math.inf

    def future(self, *, patient: bool = False) -> asyncio.Future[None]:
        """Return a future that the next ring completes. Check for new entries before awaiting it.

        Args:
            patient: whether new entries may be delayed by some milliseconds, so that fewer reads return more
                of them.
        """
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        with self._lock:
            self._waiting.setdefault(loop, set()).add(future)
            if patient:
                self._patient.add(future)
            else:
                self._wanted_at = self._clock.monotonic()
        return future

    def is_patient(self) -> bool:
        """Return whether all waiters are patient, including those that have just been woken."""
        with self._lock:
            others = sum(map(len, self._waiting.values())) - len(self._patient)
            return bool(self._patient) and not others and self._clock.monotonic() >= self._wanted_at + _BUSY

    def forget(self, future: asyncio.Future[None]) -> None:
        """Remove a future that is not awaited."""
        with suppress(RuntimeError):  # its loop is closed
            future.cancel()
        with self._lock:
            self._patient.discard(future)
            futures = self._waiting.get(future.get_loop())
            if futures is not None:
                futures.discard(future)
                if not futures:
                    del self._waiting[future.get_loop()]

    def ring(self) -> None:
        """Complete all futures, from any thread."""
        if not self._waiting:
            return
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            self._patient.clear()
        for loop, futures in waiting.items():
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_complete, futures)


def _complete(futures: set[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


class Tail:
    """The newest entries of a log, from its end when the tail was opened.

    Everything that changes it runs on the stream's own loop; `get` may be called from any thread.

    Attributes:
        epoch: the epoch of the log.
        last: the position up to which the log has been read; None until the tail is open.
        opened_at: the end of the log when the tail was opened.
        generation: grows when the end of the log went back, to `restart` at that time.
        restart: the position up to which all readers have read what is in the log now.
        bell: rings when there are new entries, and when the generation changes.
    """

    def __init__(self, store: Store, log: str) -> None:
        self.epoch = ""
        self.last: int | None = None
        self.opened_at = 0
        self.generation = 0
        self.restart = 0
        self.bell = Bell()
        self._store = store
        self._log = log
        # The items, and the position of the first one. Other threads read them: a list is extended, and items
        # are removed by replacing the tuple.
        self._kept: tuple[int, list[Item]] = 1, []
        self._size = 0
        self._appended = 0

    async def open(self) -> None:
        """Create the log if it is missing, and read its newest entries.

        Raises:
            StoreError: as for `Store.create_log`.
        """
        bounds = await self._store.create_log(self._log)
        last = self.opened_at = bounds.last
        start = max(bounds.first - 1, last - _AT_OPEN)
        items: list[Item] = []
        size = 0
        while start < last and (part := await self._store.read(self._log, start, READ_LIMIT)):
            items += [Item(*stored) for stored in part]
            size += sum([len(stored.value) for stored in part])
            start = part[-1].position
            if size > _MAX_BYTES and start < last:  # too much to keep: try the newer half of the rest
                items, size, start = [], 0, (start + last) // 2
        self.epoch = bounds.epoch
        first = items[0].position if items else last + 1
        self._kept = first, []
        self.last = first - 1
        self.add(items)

    def add(self, items: list[Item]) -> None:
        """Add entries that follow each other; those that were added before are ignored."""
        last = self.last
        if not items or last is None:
            return
        if items[0].position <= last:
            items = [item for item in items if item.position > last]
            if not items:
                return
        if items[0].position != last + 1:  # the ones between were removed
            self._kept, self._size = (items[0].position, []), 0
        self._kept[1].extend(items)
        self._size += sum([len(item.entry) for item in items])
        self.last = items[-1].position
        self._evict()
        self.bell.ring()

    def extend(self, first: int, time: float, values: Sequence[bytes]) -> None:
        """Add entries that this process has appended, if no others are missing before them."""
        self._appended = first + len(values) - 1
        if self.last is not None and first == self.last + 1:
            self.add(list(map(Item, counting(first), repeat(time), values)))

    @property
    def end(self) -> int:
        """The last position that this process knows of: it has read that entry or appended it."""
        return max(self.last or 0, self._appended)

    def conflicts(self, position: int, entry: bytes) -> bool:
        """Return whether another entry has been read at a position: then the end of the log went back."""
        item = self._item(position)
        return item is not None and item.entry != entry

    def _item(self, position: int) -> Item | None:
        first, items = self._kept
        return items[position - first] if first <= position < first + len(items) else None

    def get(self, after: int, limit: int) -> list[Item] | None:
        """Return the items after a position, or None if they have to be read from the store."""
        last = self.last
        if last is None or after >= last:
            return []
        first, items = self._kept
        start = after + 1 - first
        return None if start < 0 else items[start : start + limit]

    def newest(self, count: int) -> list[Item]:
        """Return the newest `count` items, oldest first."""
        return self._kept[1][-count:] if count > 0 else []

    def __len__(self) -> int:
        return len(self._kept[1])

    def restart_place(self) -> Place:
        """Return the position up to which everything was delivered before the end of the log went back."""
        return Place(self.epoch, self.restart)

    async def follow(self, appending: Callable[[], bool]) -> None:
        """Read what is appended, until a `StoreError` occurs.

        Args:
            appending: says whether this process is appending; then it will add the entries itself, of which
                a store may give notice before it answers.
        """
        while True:
            after = self.last or 0
            await self._store.wait(self._log, after, _WAIT)
            if self.last != after or appending():
                await asyncio.sleep(_PAUSE)
            elif self.bell.is_patient():
                await asyncio.sleep(_PATIENCE)
            if self.last == after:
                entries = await self._store.read(self._log, after, READ_LIMIT)
                self.add([Item(*stored) for stored in entries])

    async def check(self) -> bool:
        """Return whether the end of the log went back while the connection was lost.

        Then a part of it was lost, or a backup was restored. The log gets a new epoch, and readers continue
        after the last entry that is still there.
        """
        last, (first, items) = self.last, self._kept
        if last is None:
            return False
        known = {item.position: item for item in items}  # others are added meanwhile
        bounds = await self._store.create_log(self._log)
        common = await self._last_in_common(bounds, last, first, known)
        if bounds.epoch == self.epoch and common == last:
            return False
        if bounds.epoch == self.epoch:
            bounds = await self._store.renew_epoch(self._log, self.epoch)
        _log.warning(
            self._log,
            "%s: the end of log %s went back from %d to %d: a part of it was lost, or a backup was restored",
            self._store.url,
            self._log,
            last,
            common,
        )
        self.epoch = bounds.epoch
        first, items = self._kept
        kept = items[: max(common + 1 - first, 0)]
        self._kept = min(first, common + 1), kept
        self._size = sum(len(item.entry) for item in kept)
        self.restart = self.last = self._appended = common
        self.generation += 1
        self.bell.ring()
        return True

    async def _last_in_common(self, bounds: Bounds, last: int, first: int, items: dict[int, Item]) -> int:
        """Return the position of the newest item that the log still has, 0 if there is none.

        Entries that the retention has removed cannot be compared; those of the same epoch count as the same.
        """
        if last == 0 or (not items and bounds.last >= last):
            return last
        after = max(first, bounds.first) - 1
        common = min(after, last, bounds.last) if bounds.epoch == self.epoch else 0
        while common < last and (entries := await self._store.read(self._log, after, READ_LIMIT)):
            for position, _, value in entries:
                item = items.get(position)
                if item is None or item.entry != value:
                    return common
                common = after = position
        return common

    def _evict(self) -> None:
        """Remove the oldest items if there are too many, and some more, so that it is not often necessary."""
        first, items = self._kept
        if len(items) <= _MAX_ITEMS and self._size <= _MAX_BYTES:
            return
        removed = max(len(items) - _FEWER * _MAX_ITEMS // 10, 0)
        self._size -= sum([len(item.entry) for item in items[:removed]])
        while self._size > _FEWER * _MAX_BYTES // 10 and removed < len(items) - 1:
            self._size -= len(items[removed].entry)
            removed += 1
        self._kept = first + removed, items[removed:]
