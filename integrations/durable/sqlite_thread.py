"""`SQLiteThread`: the thread that has the connection to a SQLite file, and who waits for changes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from weakref import WeakSet

from codomyrmex.integrations.durable.sqlite_schema import connect, convert_error
from codomyrmex.integrations.durable.store import StoreConfigError, StoreError, StoreUnavailableError
from codomyrmex.streaming.forks import renew_in_children

T = TypeVar("T")

_FASTEST_POLL, _SLOWEST_POLL = 0.005, 0.05  # seconds between looks at the file while somebody waits
_FORK_TIMEOUT = 1.0  # seconds added to the timeout for closing the file before a fork

_Job = tuple[Callable[..., Any], tuple[Any, ...], "asyncio.Future[Any] | None"]


@dataclass(eq=False)
class _Waiter:
    log: str
    after: int
    future: asyncio.Future[None]


class SQLiteThread:
    """Runs functions on the thread that has the connection to a file, which it opens when it is needed.

    Args:
        path: the file.
        durability: as for `SQLiteStore`.
        timeout: as for `SQLiteStore`.
    """

    def __init__(self, path: Path, durability: str, timeout: float) -> None:
        self.path = path
        self.place = f"sqlite:///{path}"
        self._durability = durability
        self._timeout = timeout
        self._lock = threading.Lock()
        self._start_afresh()
        _threads.add(self)
        renew_in_children(self)

    def _start_afresh(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._version = 0  # changes when another connection has committed
        self._waiters: list[_Waiter] = []
        self._last_change = 0.0

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function on the thread, and return its result or raise its error."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, args=(self._jobs,), name="codomyrmex sqlite", daemon=True
                )
                self._thread.start()
            self._jobs.put((function, args, future))
        return await future

    async def close(self) -> None:
        """Close the file and end the thread; the next call starts another one."""
        if self._thread is not None:
            await self.call(self._disconnect)
            with self._lock:
                self._jobs.put(None)
                self._start_afresh()

    def after_fork(self) -> None:
        """Forget the connection of the parent process without closing it, and start afresh."""
        self._lock = threading.Lock()
        inherited = self._connection
        self._start_afresh()
        if inherited is not None:  # the file could not be closed before the fork
            _inherited.append((self.path, inherited))

    def _run(self, jobs: SimpleQueue[_Job | None]) -> None:
        while True:
            try:
                job = jobs.get(timeout=self._poll_interval() if self._waiters else None)
            except Empty:
                self._look()
                continue
            if job is None:
                return
            function, args, future = job
            if future is not None and future.cancelled():
                continue
            try:
                _complete(future, function(*args), None)
            except BaseException as error:  # noqa: BLE001 - raised in the caller
                _complete(future, None, self._failed(error))
            if self._waiters:
                self._look()

    def _failed(self, error: BaseException) -> BaseException:
        """Return the error to raise for one of the engine, after which the file is opened again."""
        if isinstance(error, sqlite3.Error):
            error = convert_error(error, self.place, self._timeout)
        with suppress(sqlite3.Error):
            if self._connection is not None and self._connection.in_transaction:
                self._connection.rollback()
        if isinstance(error, StoreConfigError):
            self._disconnect()
        return error

    # The connection; everything below runs on the thread

    def connection(self) -> sqlite3.Connection:
        """Return the connection, and open the file if it is not open."""
        connection = self._connection
        if connection is None:
            if any(path == self.path for path, _ in _inherited):
                raise StoreConfigError(
                    f"{self.place}: the process was forked while the file was busy, which is not safe; "
                    "fork before the store is used, or use the start method spawn"
                )
            connection = self._connection = connect(self.path, self._durability, self._timeout)
            self._inode = os.stat(self.path).st_ino  # noqa: PTH116 - half the cost of Path.stat
            self._last_change = time.monotonic()
        return connection

    def begin(self) -> sqlite3.Connection:
        """Begin a transaction that writes: it takes the lock now, as upgrading a read lock may fail."""
        connection = self.connection()
        try:
            inode = os.stat(self.path).st_ino  # noqa: PTH116 - as above
        except FileNotFoundError:
            inode = 0
        if inode != self._inode:
            self._disconnect()
            raise StoreUnavailableError(f"{self.place}: the file was removed or replaced while it was open")
        connection.execute("BEGIN IMMEDIATE")
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def close_before_fork(self) -> None:
        """Close the file before the process forks; it is opened again when it is used.

        SQLite notes in memory which locks a process holds. A child would believe that it holds the parent's,
        and the parent, closing the file as its apparently last user, would remove what the child has written.
        """
        if self._connection is None or threading.current_thread() is self._thread:
            return
        closed = threading.Event()

        def disconnect() -> None:
            self._disconnect()
            closed.set()

        self._jobs.put((disconnect, (), None))
        closed.wait(self._timeout + _FORK_TIMEOUT)

    # Waiting

    async def wait(self, log: str, after: int, seconds: float) -> None:
        """Wait until a log has an entry after a position, for at most some seconds."""
        waiter = _Waiter(log, after, asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(seconds):
                await self.call(self._add_waiter, waiter)
                await waiter.future
        except TimeoutError:
            pass
        finally:
            waiter.future.cancel()

    def _add_waiter(self, waiter: _Waiter) -> None:
        self._waiters.append(waiter)
        self._version = -1  # look at the logs now

    def ring(self, log: str, last: int) -> None:
        """Wake those who wait for a log whose last entry has this position."""
        self._last_change = time.monotonic()
        for waiter in self._waiters:
            if waiter.log == log and waiter.after < last:
                _complete(waiter.future, None, None)

    def _poll_interval(self) -> float:
        idle = time.monotonic() - self._last_change
        return min(max(idle / 200, _FASTEST_POLL), _SLOWEST_POLL)

    def _look(self) -> None:
        """Wake those who wait for a log that has grown, in this process or in another one."""
        self._waiters = [waiter for waiter in self._waiters if not waiter.future.done()]
        try:
            connection = self.connection()
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            if version == self._version:
                return
            changed, self._version = self._version != -1, version
            if changed:
                self._last_change = time.monotonic()
            for log in {waiter.log for waiter in self._waiters}:
                row = connection.execute("SELECT last FROM logs WHERE name = ?", (log,)).fetchone()
                for waiter in self._waiters:
                    if waiter.log == log and row is not None and waiter.after < row[0]:
                        _complete(waiter.future, None, None)
        except (sqlite3.Error, StoreError):
            for waiter in self._waiters:  # their callers read, and get the error
                _complete(waiter.future, None, None)


def _complete(future: asyncio.Future[Any] | None, result: object, error: BaseException | None) -> None:
    """Complete a future of any loop; None stands for one that nobody awaits."""
    if future is not None:
        with suppress(RuntimeError):  # its loop is closed
            future.get_loop().call_soon_threadsafe(_set, future, result, error)


def _set(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


_threads: WeakSet[SQLiteThread] = WeakSet()
_inherited: list[tuple[Path, sqlite3.Connection]] = []  # connections of the parent process, never closed


def _before_fork() -> None:
    for thread in tuple(_threads):
        thread.close_before_fork()


if hasattr(os, "register_at_fork"):  # systems without it do not fork
    os.register_at_fork(before=_before_fork)
