"""`Appender`: collects entries from any thread, and appends them to a log in batches."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from uuid import uuid4

from codomyrmex.integrations.durable.store import (
    Batch,
    Store,
    StoreError,
    StoreUnavailableError,
    UnconfirmedError,
)
from codomyrmex.streaming.clock import Clock
from codomyrmex.streaming.diagnostics import Diagnostics

BUFFER_SIZE = 10_000
"""The number of entries of `put_nowait` that can wait to be appended."""

_MAX_BATCH, _MAX_BATCH_BYTES = 500, 4 * 1024 * 1024
_SWEEP = 0.25  # seconds between checks for entries that have waited too long
_BACKOFF_INITIAL, _BACKOFF_MAX = 0.05, 1.0  # seconds

_log = Diagnostics(__name__)


# An entry, the future of who waits until it is appended, and when it was put.
_Pending = tuple[bytes, asyncio.Future[int] | None, float]


class Appender:
    """Appends entries to a log in the order in which they were put, one batch at a time.

    Args:
        store: the store.
        log: the name of the log.
        linger: seconds that an entry of `put_nowait` waits for others.
        timeout: seconds after which `put` raises an error if the entry is not in the log.
        on_append: called on the loop with the position of the first entry, the time, and the entries.
        on_state: called on the loop with the error when the store fails, and with None when it works again.
        clock: the source of time.

    Attributes:
        rejected: entries of `put_nowait` that the buffer had no room for.
        refused: entries of `put_nowait` that the store refused.
        unconfirmed: entries whose `put` timed out while they were being appended; they may be in the log.
        gate: set once the end of the log is known, before which nothing is appended.
    """

    def __init__(
        self,
        store: Store,
        log: str,
        linger: float,
        timeout: float,
        on_append: Callable[[int, float, Sequence[bytes]], None],
        on_state: Callable[[Exception | None], None],
        clock: Clock,
    ) -> None:
        self.rejected = self.refused = self.unconfirmed = 0
        self._store = store
        self._log = log
        self._loop: asyncio.AbstractEventLoop | None = None
        self._linger = linger
        self._timeout = timeout
        self._on_append = on_append
        self._on_state = on_state
        self._now = clock.monotonic
        self._producer = uuid4().hex
        self._number = 0
        self._buffer: deque[_Pending] = deque()  # its methods are atomic
        self._first: deque[_Pending] = deque()  # entries of `put_nowait` that come before those in the buffer
        self._in_flight: list[_Pending] = []
        self._awake = False  # the task has been, or will soon be, woken
        self._waking = False  # a publisher's loop will soon wake the task
        self._waiter: asyncio.Future[None] | None = None
        self._idle: asyncio.Future[None] | None = None
        self._sweeping = False
        self._closed = False
        self.gate = asyncio.Event()

    def waiting(self) -> int:
        """Return the number of entries that are not in the log yet: what a kill would lose."""
        return len(self._first) + len(self._buffer) + len(self._in_flight)

    def pending(self) -> list[bytes]:
        """Return the entries that are not in the log yet, oldest first."""
        return [entry for entry, _, _ in (*self._in_flight, *self._first.copy(), *self._buffer.copy())]

    def is_appending(self) -> bool:
        """Return whether entries are being appended."""
        return bool(self._in_flight)

    def put_nowait(self, entry: bytes) -> bool:
        """Add an entry, from any thread; return False if there is no room for it."""
        buffer = self._buffer
        if len(buffer) + len(self._first) >= BUFFER_SIZE:
            self.rejected += 1
            return False
        buffer.append((entry, None, 0.0))
        # An entry is added before the flag is read, and `run` clears the flag before it looks for entries.
        if not self._awake:
            self._awake = True
            self._call_soon(self._wake_later)
        elif len(buffer) == _MAX_BATCH:
            self._call_soon(self._wake)
        if self._closed:
            self.close()
        return True

    def put(self, entry: bytes) -> asyncio.Future[int]:
        """Add an entry; the future has its position once it is in the log. From any event loop.

        Raises:
            StoreUnavailableError: it was not within the timeout. It may be in the log even so if it was
                being appended.
            StoreError: the store refuses it.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        self._buffer.append((entry, future, self._now()))
        self._awake = True
        # The first one wakes the task once the others that are ready to run have put theirs.
        if not self._waking and self._waiter is not None:
            self._waking = True
            loop.call_soon(self._call_soon, self._wake)
        if not self._sweeping:
            self._call_soon(self._sweep_later)
        if self._closed:
            self.close()
        return future

    async def flush(self) -> None:
        """Wait, on the loop, until every entry put so far is in the log or was given up."""
        while self.waiting():
            self._wake()
            if self._idle is None or self._idle.done():
                self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._idle})

    def _call_soon(self, function: Callable[[], None]) -> None:
        """Call a function on the loop; before there is one, `run` will find the entries."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed, and so is the stream
                self._loop.call_soon_threadsafe(function)

    def _set_idle(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _wake_later(self) -> None:
        asyncio.get_running_loop().call_later(self._linger, self._wake)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def run(self) -> None:
        """Append what is put, until cancelled; the loop that runs this is where the store is used."""
        loop = self._loop = asyncio.get_running_loop()
        self._sweep_later()
        await self.gate.wait()
        while True:
            batch = self._take()
            if batch:
                self._in_flight = batch
                await self._append(batch)
                self._in_flight = []
                if (
                    self._first or self._buffer
                ):  # others have their turn, as a store whose driver blocks does not suspend
                    await asyncio.sleep(0)
                continue
            self._set_idle()
            self._awake = self._waking = False
            waiter = self._waiter = loop.create_future()
            if self._buffer:
                self._waiter = None
            else:
                await waiter

    def _take(self) -> list[_Pending]:
        """Remove and return the oldest entries."""
        first, buffer = self._first, self._buffer
        batch = [first.popleft() for _ in range(min(len(first), _MAX_BATCH))]
        batch += [buffer.popleft() for _ in range(min(len(buffer), _MAX_BATCH - len(batch)))]
        size = sum([len(entry) for entry, _, _ in batch])
        while size > _MAX_BATCH_BYTES and len(batch) > 1:
            size -= len(batch[-1][0])
            (first or buffer).appendleft(batch.pop())
        return batch

    async def _append(self, batch: list[_Pending]) -> None:
        """Append a batch; one that the store refuses is split, so that one entry does not affect others."""
        self._number += 1
        entries = [pending[0] for pending in batch]
        try:
            first = await self._repeat(Batch(self._producer, self._number, entries))
        except StoreError as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._append(batch[:middle])
                await self._append(batch[middle:])
                return
            self._refuse(batch[0], error)
            return
        self._on_append(first, time.time(), entries)
        _complete(batch, first)

    async def _repeat(self, batch: Batch) -> int:
        """Append a batch once, and repeat that while the store is not available."""
        wait = _BACKOFF_INITIAL
        failed = False
        while True:
            try:
                try:
                    first = await self._store.append(self._log, batch)
                except StoreUnavailableError:
                    raise
                except StoreError:
                    if await self._store.bounds(self._log) is not None:
                        raise
                    await self._store.create_log(self._log)  # the engine has lost it
                    first = await self._store.append(self._log, batch)
            except Exception as error:  # a bug in a store must not end the appending
                if isinstance(error, StoreError) and not isinstance(error, StoreUnavailableError):
                    raise
                failed = True
                self._on_state(error)
                await asyncio.sleep(wait)
                wait = min(2 * wait, _BACKOFF_MAX)
            else:
                if failed:
                    self._on_state(None)
                return first

    def close(self) -> int:
        """Refuse what is not in the log, and what is put later; return the number of entries refused."""
        self._closed = True
        lost = self.waiting()
        self._first.extendleft(reversed(self._in_flight))
        self._in_flight = []
        message = f"{self._store.url}: the stream was closed before an event was stored; it may be stored"
        self.refuse_all(StoreUnavailableError(message))
        return lost

    def refuse_all(self, error: StoreError) -> None:
        """Drop everything that is not being appended, and raise an error in each `put`."""
        with suppress(IndexError):  # it is empty; several threads may do this
            while True:
                self._refuse((self._first or self._buffer).popleft(), error)
        self._call_soon(self._set_idle)

    def _refuse(self, pending: _Pending, error: StoreError) -> None:
        _, future, _ = pending
        if future is None:
            self.refused += 1
            _log.warning("refused", "%s: an event was dropped: the store refused it", self._log, error=error)
        else:
            _fail(future, error)

    # Timeouts

    def _sweep_later(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(min(_SWEEP, self._timeout / 4), self._sweep)

    def _sweep(self) -> None:
        """Raise an error in each `put` that has waited too long."""
        self._sweeping = False
        limit = self._now() - self._timeout
        message = f"{self._store.url}: an event could not be stored within {self._timeout:g}s"
        for _, future, since in self._in_flight:
            if future is not None and since <= limit and not future.done():
                self.unconfirmed += 1
                _fail(future, UnconfirmedError(f"{message}; it may be stored later"))
        while self._buffer and (self._buffer[0][1] is None or self._buffer[0][2] <= limit):
            pending = self._buffer.popleft()
            if pending[1] is None:
                self._first.append(pending)  # it does not expire
            else:
                _fail(pending[1], StoreUnavailableError(f"{message}; it was not stored"))
        if self.waiting():
            self._wake()  # a loop that was to do so may have stopped before
            self._sweep_later()


def _complete(batch: list[_Pending], first: int) -> None:
    """Complete the futures of a batch, with one call for each event loop."""
    for loop in {future.get_loop() for _, future, _ in batch if future is not None}:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_set_results, loop, batch, first)


def _set_results(loop: asyncio.AbstractEventLoop, batch: list[_Pending], first: int) -> None:
    for position, (_, future, _) in enumerate(batch, first):
        if future is not None and future.get_loop() is loop and not future.done():
            future.set_result(position)


def _fail(future: asyncio.Future[int], error: Exception) -> None:
    def set_exception() -> None:
        if not future.done():
            future.set_exception(error)

    with suppress(RuntimeError):  # the loop is closed
        future.get_loop().call_soon_threadsafe(set_exception)
