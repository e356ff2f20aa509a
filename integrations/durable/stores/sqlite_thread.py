"""`SQLiteThread`: the thread that has the connection to a SQLite file, and waits for changes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

from codomyrmex.integrations.delivery.forks import keep_in_children
from codomyrmex.integrations.delivery.loop_thread import LoopThread
from codomyrmex.integrations.durable.store import StoreConfigError, StoreError, StoreUnavailableError
from codomyrmex.integrations.durable.stores.sqlite_schema import connect, convert_error, convert_os_error
from codomyrmex.streaming.forks import renew_in_children

T = TypeVar("T")

_FASTEST_POLL, _SLOWEST_POLL = 0.005, 0.06  # seconds between looks at the file while somebody waits
_FORK_TIMEOUT = 1.0  # seconds added to the timeout for closing the file before a fork
_THREAD_GRACE = 2.0  # seconds to wait for the thread at the end


@dataclass(eq=False)
class _Waiter:
    log: str
    after: int
    future: asyncio.Future[None]


class SQLiteThread:
    """Runs functions on the thread that has the connection to a file, which it opens when it is needed.

    The thread has an event loop, so that a stream can run on it too, and need not change threads to call it.

    Args:
        path: the file.
        durability: as for `SQLiteStore`.
        timeout: as for `SQLiteStore`.

    Attributes:
        must_exist: whether a file that is missing or empty is an error.
    """

    must_exist = False

    def __init__(self, path: Path, durability: str, timeout: float) -> None:
        self.path = path
        self.place = f"sqlite:///{path}"
        self._durability = durability
        self._timeout = timeout
        self._start_afresh()
        _threads.add(self)
        renew_in_children(self)

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._thread: LoopThread | None = None
        self._users = 0  # streams that run on the thread
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._version = 0  # changes when another connection has committed
        self._waiters: list[_Waiter] = []
        self._timer: asyncio.TimerHandle | None = None
        self._last_change = 0.0  # when somebody was woken; leases of other processes change the file as well

    def start(self) -> LoopThread:
        """Return the thread, and start it if it does not run."""
        thread = self._thread
        if thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = LoopThread("codomyrmex sqlite")
                    keep_in_children(self._thread.loop)
                thread = self._thread
        return thread

    def join(self) -> LoopThread:
        """Return the thread for a stream that runs on it until it calls `leave`."""
        self._users += 1
        return self.start()

    def leave(self) -> None:
        """End the thread if no other stream runs on it."""
        self._users -= 1
        if self._users <= 0 and self._thread is not None:
            thread, self._thread = self._thread, None
            thread.stop(_THREAD_GRACE)

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function on the thread, and return its result or raise its error."""
        thread = self._thread or self.start()
        if thread.is_current():
            return self._run(function, *args)
        return await asyncio.wrap_future(thread.submit(self._run_async(function, *args)))

    async def _run_async(self, function: Callable[..., T], *args: Any) -> T:
        return self._run(function, *args)

    def _run(self, function: Callable[..., T], *args: Any) -> T:
        try:
            return function(*args)
        except BaseException as error:
            with suppress(sqlite3.Error):
                if self._connection is not None and self._connection.in_transaction:
                    self._connection.rollback()
            converted = error
            if isinstance(error, sqlite3.Error):
                converted = convert_error(error, self.place, self._timeout)
            elif isinstance(error, OSError):
                converted = convert_os_error(error, self.place)
            if isinstance(converted, StoreConfigError):
                self._disconnect()
            if converted is error:
                raise
            raise converted from error

    async def close(self) -> None:
        """Close the file, and end the thread unless a stream runs on it; the next call starts afresh."""
        thread = self._thread
        if thread is not None:
            await self.call(self._disconnect)
            if not self._users:
                self._thread = None
                await asyncio.to_thread(thread.stop, _THREAD_GRACE)

    def after_fork(self) -> None:
        """Forget the connection of the parent process without closing it, and start afresh."""
        inherited = self._connection
        self._start_afresh()
        if inherited is not None:  # the file could not be closed before the fork
            _inherited.append((self.path, inherited))

    def close_before_fork(self) -> None:
        """Close the file before the process forks; it is opened again when it is used.

        SQLite notes in memory which locks a process holds. A child would believe that it holds the parent's,
        and the parent, closing the file as its apparently last user, would remove what the child has written.
        """
        thread = self._thread
        if thread is None:
            return
        if thread.is_current():
            self._disconnect()
            return
        closed: Future[None] = Future()
        forked = threading.Event()

        def disconnect() -> None:
            self._disconnect()
            closed.set_result(None)
            forked.wait()  # those who wait for entries would open the file again at once

        _forks.append(forked)
        with suppress(RuntimeError, TimeoutError):  # the loop is closed, or busy for very long
            thread.loop.call_soon_threadsafe(disconnect)
            closed.result(self._timeout + _FORK_TIMEOUT)

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
            connection = self._connection = connect(
                self.path, self._durability, self._timeout, must_exist=self.must_exist
            )
            self._inode = os.stat(self.path).st_ino  # noqa: PTH116 - half the cost of Path.stat
            self._last_change = time.monotonic()
            return connection
        try:
            self._check_file()
        except StoreUnavailableError:
            self._disconnect()
            raise
        return connection

    def _check_file(self) -> None:
        """Raise a StoreUnavailableError if the file is not the one that was opened."""
        try:
            inode = os.stat(self.path).st_ino  # noqa: PTH116 - as above
        except FileNotFoundError:
            inode = 0
        if inode != self._inode:
            raise StoreUnavailableError(f"{self.place}: the file was removed or replaced while it was open")

    def begin(self) -> sqlite3.Connection:
        """Begin a transaction that writes: it takes the lock now, as upgrading a read lock may fail."""
        connection = self.connection()
        connection.execute("BEGIN IMMEDIATE")
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    # Waiting

    async def wait(self, log: str, after: int, seconds: float) -> None:
        """Wait until a log has an entry after a position, for at most some seconds."""
        thread = self._thread or self.start()
        if thread.is_current():
            await self._wait(log, after, seconds)
        else:
            await asyncio.wrap_future(thread.submit(self._wait(log, after, seconds)))

    async def _wait(self, log: str, after: int, seconds: float) -> None:
        waiter = _Waiter(log, after, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._version = -1  # look at the logs now
        try:
            self._look()
            if not waiter.future.done():
                await asyncio.wait({waiter.future}, timeout=seconds)
        finally:
            waiter.future.cancel()

    def ring(self, log: str, last: int) -> None:
        """Wake those who wait for a log whose last entry has this position."""
        for waiter in self._waiters:
            if waiter.log == log and waiter.after < last and not waiter.future.done():
                waiter.future.set_result(None)
                self._last_change = time.monotonic()

    def _look(self) -> None:
        """Wake those who wait for a log that has grown, here or in another process; look again later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiters = [waiter for waiter in self._waiters if not waiter.future.done()]
        if not self._waiters:
            return
        try:
            self._check()
        except (sqlite3.Error, OSError, StoreError):
            for waiter in self._waiters:  # their callers read, and get the error
                if not waiter.future.done():
                    waiter.future.set_result(None)
        idle = time.monotonic() - self._last_change
        interval = min(max(idle / 200, _FASTEST_POLL), _SLOWEST_POLL)
        self._timer = asyncio.get_running_loop().call_later(interval, self._look)

    def _check(self) -> None:
        if self._connection is not None:
            self._check_file()
        connection = self.connection()
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version == self._version:
            return
        self._version = version
        for log in {waiter.log for waiter in self._waiters}:
            row = connection.execute("SELECT last FROM logs WHERE name = ?", (log,)).fetchone()
            if row is not None:
                self.ring(log, row[0])


_threads: WeakSet[SQLiteThread] = WeakSet()
_forks: list[threading.Event] = []  # to be set after the fork that is going on
_inherited: list[tuple[Path, sqlite3.Connection]] = []  # connections of the parent process, never closed


def _before_fork() -> None:
    for thread in tuple(_threads):
        thread.close_before_fork()


def _after_fork() -> None:
    while _forks:
        _forks.pop().set()


if hasattr(os, "register_at_fork"):  # systems without it do not fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_forks.clear)
