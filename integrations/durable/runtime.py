"""`Runtime`: the thread on which a durable stream uses its store."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar
from uuid import uuid4
from weakref import WeakSet

from codomyrmex.integrations.configuration.process import process_name
from codomyrmex.integrations.delivery.forks import keep_in_children
from codomyrmex.integrations.delivery.health import SinkHealth
from codomyrmex.integrations.delivery.loop_thread import LoopThread, call_at_exit
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.durable.admin import StreamAdmin
from codomyrmex.integrations.durable.appender import Appender
from codomyrmex.integrations.durable.health import StreamHealth
from codomyrmex.integrations.durable.processes import ProcessRegistry
from codomyrmex.integrations.durable.reports import Sections
from codomyrmex.integrations.durable.retention import Trimmer
from codomyrmex.integrations.durable.store import Retention, StoreError, StoreUnavailableError
from codomyrmex.integrations.durable.tail import Tail
from codomyrmex.integrations.durable.threads import forget_thread, thread_of
from codomyrmex.streaming.clock import Clock
from codomyrmex.streaming.diagnostics import Diagnostics

T = TypeVar("T")

_RECONNECT_INITIAL, _RECONNECT_MAX = 0.1, 2.0  # seconds
_THREAD_GRACE = 2.0  # seconds to wait for the thread at the end

_log = Diagnostics(__name__)


class Runtime:
    """Uses a store on a thread of its own, which starts when it is first needed.

    It appends what is published, follows the log, trims it, and connects again when the store was not
    available. A child process starts afresh.

    Args:
        admin: the stream in its store.
        retention: how much of the log is kept.
        unread_limit: how much more is kept while a group has not read it.
        linger: seconds that an event of `publish_nowait` waits for others.
        lease: seconds after which another process takes over.
        timeout: seconds to wait for the store.
        sections: what this process reports to the others.
        clock: the source of time.

    Attributes:
        tail: the newest entries of the log.
        appender: appends entries; None until the thread is started.
        unavailable_since: in seconds of the clock, None if the store is available.
        last_error: why the store is not available, without secrets.
    """

    def __init__(
        self,
        admin: StreamAdmin,
        retention: Retention,
        unread_limit: Retention,
        linger: float,
        lease: float,
        timeout: float,
        sections: Sections,
        clock: Clock,
    ) -> None:
        self.sections = sections
        self._admin = admin
        self._store = admin.store
        self._retention = retention
        self._unread_limit = unread_limit
        self._linger = linger
        self._lease = lease
        self._timeout = timeout
        self._clock = clock
        self._start_afresh()
        _runtimes.add(self)

    def _start_afresh(self) -> None:
        self.tail = Tail(self._store, self._admin.name)
        self.appender: Appender | None = None
        self.unavailable_since: float | None = None
        self.last_error: str | None = None
        self._thread: LoopThread | None = None
        self._handlers: LoopThread | None = None
        self._opened: Future[None] = Future()
        self._when_used: tuple[Callable[[], None], ...] = ()
        self._tasks: list[asyncio.Task[None]] = []
        self._registry: ProcessRegistry | None = None
        self._following: asyncio.Task[None] | None = None
        self._rewound = False  # the end of the log went back, and the groups are not told yet
        self._id = uuid4().hex[:6]
        self._lock = threading.RLock()

    def after_fork(self) -> None:
        """Forget what belongs to the parent process."""
        self._store.abandon()
        forget_thread(self._store)
        self.sections.after_fork()
        self._start_afresh()

    def owner(self, purpose: str) -> str:
        """Return the owner of a lease: this process and the purpose."""
        return f"{process_name()}#{self._id}.{purpose}"

    def call_when_used(self, function: Callable[[], None]) -> None:
        """Call a function when the stream is used next."""
        self._when_used = (*self._when_used, function)

    def start(self) -> Appender:
        """Start the thread, unless it runs."""
        appender = self.appender
        if appender is not None and self._thread is not None and not self._when_used:
            return appender
        with self._lock:
            appender = self.appender
            if appender is None:
                appender = Appender(
                    self._store,
                    self._admin.name,
                    self._linger,
                    self._timeout,
                    self._appended,
                    self._set_state,
                    self._clock,
                )
                # From here on, a signal handler that interrupts this thread uses the appender.
                if self.appender is None:
                    self.appender = appender
                    self._start_thread(appender)
                else:
                    appender = self.appender
            when_used, self._when_used = self._when_used, ()
        for function in when_used:
            function()
        return appender

    def _start_thread(self, appender: Appender) -> None:
        try:
            thread = thread_of(self._store).join(self._store)
        except BaseException:
            self.appender = None
            raise
        self._thread = thread
        thread.loop.call_soon_threadsafe(self._start_tasks, appender)

    def run_handler(self, coroutine: Coroutine[None, None, T]) -> Future[T]:
        """Run a coroutine on another thread, which is for handlers that were subscribed without a loop."""
        with self._lock:
            if self._handlers is None:
                self._handlers = LoopThread(f"codomyrmex {self._admin.name} handlers")
                keep_in_children(self._handlers.loop)
        return self._handlers.submit(coroutine)

    async def call(self, coroutine: Coroutine[None, None, T]) -> T:
        """Run a coroutine on the thread, and return its result."""
        thread = self._thread
        if thread is None:
            coroutine.close()
            raise StoreUnavailableError(f"{self._store.url}: the stream is not open")
        if thread.loop is asyncio.get_running_loop():
            return await coroutine
        return await asyncio.wrap_future(thread.submit(coroutine))

    def call_soon(self, coroutine: Coroutine[None, None, object]) -> None:
        """Run a coroutine on the thread, without waiting for it; from any thread."""
        thread = self._thread
        if thread is None:
            coroutine.close()
        else:
            with suppress(RuntimeError):  # the loop is closed
                thread.submit(coroutine)

    async def open(self) -> None:
        """Wait until the end of the log is known; errors as for `DurableStream.open`."""
        self.start()
        opened = self._opened
        if opened.done():
            opened.result()
            return
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.shield(asyncio.wrap_future(opened))
        except TimeoutError:
            problem = self.last_error or f"{self._store.url}: no answer within {self._timeout:g}s"
            raise StoreUnavailableError(problem) from None

    async def flush(self) -> None:
        """Wait until everything that was published is in the store."""
        if self.appender is not None and self._thread is not None:
            await self.call(self.appender.flush())

    async def aclose(self) -> None:
        """Close the store and end the thread, even if the caller is cancelled meanwhile."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None and self.appender is not None:
            ending = asyncio.get_running_loop().run_in_executor(None, self._end, thread, self.appender)
            await asyncio.shield(ending)

    def _end(self, thread: LoopThread, appender: Appender) -> None:
        users = thread_of(self._store)
        last = users.leave()
        with suppress(StoreError, TimeoutError):
            thread.submit(self._stop_tasks(appender, close=last)).result(2 * self._timeout)
        if self._handlers is not None:
            self._handlers.stop(_THREAD_GRACE)
        users.stop(self._store)

    def health(
        self, too_large: int, missed: int, undecodable: int, groups: Mapping[str, SinkHealth]
    ) -> StreamHealth:
        """Return the health of the stream, with what the stream itself has counted; from any thread."""
        appender, since = self.appender, self.unavailable_since
        dropped = {"too_large": too_large}
        if appender is not None:
            dropped |= {"buffer_full": appender.rejected, "refused": appender.refused}
        return StreamHealth(
            store=self._store.url,
            available=since is None,
            unavailable_for=0.0 if since is None else self._clock.monotonic() - since,
            last_error=self.last_error,
            pending=0 if appender is None else appender.waiting(),
            dropped={reason: number for reason, number in dropped.items() if number},
            unconfirmed=0 if appender is None else appender.unconfirmed,
            missed=missed,
            undecodable=undecodable,
            warnings=self._store.warnings,
            groups=groups,
        )

    def flush_at_exit(self) -> None:
        """Store what was published when the program ends without closing the stream."""
        thread, appender = self._thread, self.appender
        if thread is None or appender is None or not thread.thread.is_alive():
            return
        with suppress(TimeoutError, RuntimeError):
            if appender.waiting():
                thread.submit(appender.flush()).result(self._timeout)
            if self._registry is not None and self.sections and self.unavailable_since is None:
                thread.submit(self._registry.close()).result(self._timeout / 2)

    # On the thread

    def _start_tasks(self, appender: Appender) -> None:
        trimmer = Trimmer(
            self._admin, self._retention, self._unread_limit, self.owner("retention"), self._lease, self.tail
        )
        self._registry = ProcessRegistry(
            self._store,
            self._admin.name,
            process_name(),
            self.owner("process"),
            self._lease,
            self.sections,
            self.run_handler,
            self._clock,
        )
        runs = (appender.run(), self._follow(appender), trimmer.run(), self._registry.run())
        self._tasks = [asyncio.create_task(run) for run in runs]

    async def _stop_tasks(self, appender: Appender, *, close: bool) -> None:
        if self.unavailable_since is None:  # other threads may have published until just now
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timeout):
                    await appender.flush()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        if self._registry is not None and self.unavailable_since is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timeout / 2):
                    await self._registry.close()
        if lost := appender.close():
            _log.warning("lost", "%s: %d events were not stored", self._store.url, lost)
        if close:  # no other stream uses it
            await self._store.close()

    async def _follow(self, appender: Appender) -> None:
        """Open the store and read what is appended; connect again when the store was not available."""
        wait = _RECONNECT_INITIAL
        while True:
            try:
                await self._store.open()
                if self.tail.last is None:
                    await self._open_tail(appender)
                elif await self.tail.check() or self._rewound:
                    self._rewound = True
                    await self._admin.note_rewind(self.tail.epoch, self.tail.restart, self.owner("rewind"))
                    self._rewound = False
                self._set_state(None)
                wait = _RECONNECT_INITIAL
                await self._follow_tail(appender)
                continue
            except StoreUnavailableError as error:
                self._set_state(error)
            except StoreError as error:
                self._set_state(error)
                self._refuse(appender, error)
            except Exception as error:  # noqa: BLE001 - a bug in a store must not end the stream
                self._set_state(error)
            await asyncio.sleep(wait)
            wait = min(2 * wait, _RECONNECT_MAX)

    async def _follow_tail(self, appender: Appender) -> None:
        """Read what is appended, until there is an error or the log has to be checked."""
        following = self._following = asyncio.create_task(self.tail.follow(appender.is_appending))
        try:
            await asyncio.wait({following})
        finally:
            following.cancel()
        if not following.cancelled():
            following.result()

    def _check_log(self) -> None:
        """Find out soon whether the end of the log went back."""
        if self._following is not None:
            self._following.cancel()

    def _appended(self, first: int, time: float, entries: Sequence[bytes]) -> None:
        if self.tail.conflicts(first, entries[0]):
            self._check_log()
        self.tail.extend(first, time, entries)

    async def _open_tail(self, appender: Appender) -> None:
        await self.tail.open()
        for warning in self._store.warnings:
            _log.warning(warning, "%s: %s", self._store.url, warning)
        appender.gate.set()
        self._opened.set_result(None)

    def _refuse(self, appender: Appender, error: StoreError) -> None:
        """Raise an error for everything that waits for a store that cannot be used as it is."""
        appender.refuse_all(error)
        if not self._opened.done():
            opened, self._opened = self._opened, Future()
            opened.set_exception(error)

    def _set_state(self, error: Exception | None) -> None:
        """Note whether the store is available."""
        if error is None:
            if self.unavailable_since is not None:
                _log.warning("available", "%s: the store is available again", self._store.url)
                self._check_log()
            self.unavailable_since = self.last_error = None
            return
        self.last_error = str(error) if isinstance(error, StoreError) else describe(error)
        if self.unavailable_since is None:
            self.unavailable_since = self._clock.monotonic()
        _log.warning("unavailable", "the store is not available: %s", self.last_error)


_runtimes: WeakSet[Runtime] = WeakSet()


def _flush_at_exit() -> None:
    for runtime in tuple(_runtimes):
        runtime.flush_at_exit()


call_at_exit(_flush_at_exit)
atexit.register(
    _flush_at_exit
)  # what other such functions, and threads that outlive the main thread, publish
