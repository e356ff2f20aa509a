"""`run_once`: a feed that runs in one process at a time, the one that holds its lease."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, suppress
from enum import StrEnum
from inspect import isawaitable
from typing import Any, NamedTuple, Self, TypeVar
from uuid import uuid4

from codomyrmex.integrations.configuration.durations import check_seconds
from codomyrmex.integrations.configuration.process import process_name
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.policy import backoff
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.delivery.worker import done_within
from codomyrmex.integrations.durable.store import (
    Lease,
    LeaseLostError,
    Store,
    StoreError,
    StoreUnavailableError,
)
from codomyrmex.integrations.durable.stream import DurableStream
from codomyrmex.streaming.clock import SYSTEM_CLOCK, Clock
from codomyrmex.streaming.errors import shorten

T = TypeVar("T")
Feed = Callable[[], Any]
"""Called to start a feed; returns an awaitable or a context manager."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LONGEST_PAUSE = 0.5  # seconds between two attempts to acquire the lease
_BACKOFF_INITIAL, _BACKOFF_MAX = 1.0, 30.0  # seconds before a feed that raised is started again

_log = Diagnostics(__name__)


class FeedState(StrEnum):
    """What a process does with a feed.

    `STANDBY`: another process runs it, or the lease was not acquired yet. `RUNNING`: it runs here. `FAILED`:
    it raised, and is started again soon. `ENDED`: it returned, and the lease is kept, so that no other
    process starts it. `UNAVAILABLE`: the store cannot be reached, so nobody knows who may run it. `CLOSED`:
    this process does not take part any more.
    """

    STANDBY = "standby"
    RUNNING = "running"
    FAILED = "failed"
    ENDED = "ended"
    UNAVAILABLE = "unavailable"
    CLOSED = "closed"


class FeedHealth(NamedTuple):
    """The health of a feed in this process.

    Attributes:
        name: its name.
        state: what this process does with it.
        failures: how often it has raised here.
        last_error: the last error of the feed or of the store, in one line without secrets.
    """

    name: str
    state: FeedState
    failures: int
    last_error: str | None


def run_once(
    store: Store | DurableStream,
    name: str,
    feed: Feed,
    *,
    lease: float = 10.0,
    clock: Clock = SYSTEM_CLOCK,
) -> FeedRunner:
    """Run a feed in one of the processes that call this with the same store and name.

    `async with run_once(stream, "envoy", lambda: EnvoyAdmin(url, stream)):` in every process. One of them
    holds the lease and runs the feed; the others stand by. Another one takes over within half a second if
    the holder ends in order, and half a second after its lease has expired if it is killed. A holder that
    cannot renew its lease stops the feed after two thirds of it, before another process can start it. Only a
    process that stands still for longer, such as a suspended one, may run the feed until it finds that out
    when it continues.

    Args:
        store: a durable stream, or a store that no stream of this process uses, which is opened and not
            closed. The feeds of a stream are those of its name in its store.
        name: the name of the feed: 1 to 64 characters of A-Z, a-z, 0-9, `.`, `-` and `_`.
        feed: a function that is called on this event loop each time the feed has to start. It is an async
            function, which is cancelled to stop it; or it returns a context manager, plain or async, which is
            left to stop it, the plain one in a thread. `contextlib.closing` makes one of a handle with
            `close()`. A feed that raises is started again after a delay that doubles up to 30 s.
        lease: seconds after which another process takes over from one that was killed.
        clock: the source of time; for tests.

    Returns:
        An async context manager.

    Raises:
        TypeError: `store` is neither a stream nor a store, or `feed` cannot be called.
        ValueError: the name or the lease is not valid.
    """
    return FeedRunner(store, name, feed, lease, clock)


class FeedRunner:
    """Runs a feed while this process holds its lease; returned by `run_once`."""

    def __init__(
        self, store: Store | DurableStream, name: str, feed: Feed, lease: float, clock: Clock
    ) -> None:
        if not isinstance(store, Store | DurableStream):
            raise TypeError(f"store: must be a DurableStream or a Store, got {shorten(store)}")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"name: must be 1 to 64 characters of A-Z, a-z, 0-9, ., - and _, got {shorten(name)}"
            )
        if not callable(feed):
            raise TypeError(f"feed: must be a function that starts the feed, got {shorten(feed)}")
        check_seconds("lease", lease, finite=True)
        self.name = name
        self._stream = store if isinstance(store, DurableStream) else None
        self._store = store.store if isinstance(store, DurableStream) else store
        self._lease_name = f"feed/{name}" if self._stream is None else f"{self._stream.name}/feed/{name}"
        self._owner = f"{process_name()}#{uuid4().hex[:6]}.feed"
        self._feed = feed
        self._seconds = lease
        self._clock = clock
        self._state = FeedState.STANDBY
        self._failures = 0
        self._last_error: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending: asyncio.Future[None] | None = None

    def health(self) -> FeedHealth:
        """Return the health of the feed in this process. May be called from any thread."""
        return FeedHealth(self.name, self._state, self._failures, self._last_error)

    async def start(self) -> Self:
        """Run the feed here as soon as no other process does.

        Raises:
            RuntimeError: it was started before.
            StoreConfigError: the store cannot be used as it is.
        """
        if self._ending is not None:
            raise RuntimeError(f"feed {self.name}: it can be started only once; call run_once again")
        self._ending = asyncio.get_running_loop().create_future()
        with suppress(StoreUnavailableError):  # it is opened later
            await self._open()
        self._task = asyncio.create_task(self._take_part(self._ending), name=f"run_once {self.name}")
        return self

    async def aclose(self) -> None:
        """Stop the feed if it runs here, and release its lease. May be called repeatedly.

        A feed that does not stop within the seconds of a lease is left alone, and so is its lease.
        """
        if self._ending is None or self._task is None:
            self._state = FeedState.CLOSED
            return
        if not self._ending.done():
            self._ending.set_result(None)
        await asyncio.wait({self._task})

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    # The lease

    async def _open(self) -> None:
        await (self._store if self._stream is None else self._stream).open()

    async def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return await coroutine if self._stream is None else await self._stream.call(coroutine)

    async def _take_part(self, ending: asyncio.Future[None]) -> None:
        try:
            while not ending.done():
                since = self._clock.monotonic()
                lease = await self._acquire()
                if lease is not None:
                    await self._hold(lease, since, ending)
                else:
                    await done_within(ending, min(self._seconds / 3, _LONGEST_PAUSE), self._clock)
        finally:
            self._state = FeedState.CLOSED

    async def _acquire(self) -> Lease | None:
        try:
            await self._open()
            lease = await self._call(self._store.acquire(self._lease_name, self._owner, self._seconds))
        except Exception as error:  # noqa: BLE001 - a bug in a store must not end the feed for good
            self._state = FeedState.UNAVAILABLE
            self._note_store_error(error)
            return None
        self._state = FeedState.STANDBY
        return lease

    async def _hold(self, lease: Lease, since: float, ending: asyncio.Future[None]) -> None:
        """Run the feed until its lease is lost, or until the end."""
        feed = asyncio.create_task(self._run_feed(), name=f"feed {self.name}")
        keeping = asyncio.create_task(self._keep(lease, since))
        try:
            await asyncio.wait({keeping, ending}, return_when=asyncio.FIRST_COMPLETED)
            feed.cancel()
            if not await done_within(feed, self._seconds, self._clock):
                _log.warning(self.name, "feed %s: it does not stop", self.name)
            if not ending.done():  # it must not run twice in this process
                await asyncio.wait({feed, ending}, return_when=asyncio.FIRST_COMPLETED)
            if feed.done() and not keeping.done():
                keeping.cancel()
                await asyncio.wait({keeping})
                await self._release(lease)
        finally:
            feed.cancel()
            keeping.cancel()

    async def _keep(self, lease: Lease, renewed: float) -> None:
        """Renew a lease until it is lost, or was not renewed for two thirds of its seconds."""
        clock, pause = self._clock, self._seconds / 3
        while True:
            limit = renewed + self._seconds * 2 / 3
            await self._sleep(min(pause, limit - clock.monotonic()))
            asked = clock.monotonic()
            if asked >= limit:
                _log.warning(self.name, "feed %s: its lease could not be renewed in time", self.name)
                return
            renewing = asyncio.create_task(self._call(self._store.renew(lease, self._seconds)))
            try:
                await done_within(renewing, limit - asked, clock)
            finally:
                renewing.cancel()
            await asyncio.wait({renewing})
            error = TimeoutError("no answer") if renewing.cancelled() else renewing.exception()
            if error is None:
                renewed, pause = asked, self._seconds / 3
            elif isinstance(error, LeaseLostError):
                self._last_error = describe(error)
                _log.warning(self.name, "feed %s: another process has taken over its lease", self.name)
                return
            else:
                pause = min(self._seconds / 10, _LONGEST_PAUSE)
                self._note_store_error(error)

    async def _release(self, lease: Lease) -> None:
        with suppress(StoreError):  # it expires
            await self._call(self._store.release(lease))

    def _note_store_error(self, error: BaseException) -> None:
        self._last_error = describe(error)
        _log.warning(self.name, "feed %s: its lease cannot be read: %s", self.name, self._last_error)

    async def _sleep(self, seconds: float) -> None:
        await done_within(asyncio.get_running_loop().create_future(), seconds, self._clock)

    # The feed

    async def _run_feed(self) -> None:
        """Run the feed, and start it again when it raises."""
        failures = 0
        while True:
            self._state = FeedState.RUNNING
            started = self._clock.monotonic()
            try:
                await self._run_until_it_ends()
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                problem: BaseException = error  # it was cancelled by something else
            except Exception as error:  # noqa: BLE001 - a feed may raise anything
                problem = error
            else:
                self._state = FeedState.ENDED
                return
            if self._clock.monotonic() - started > _BACKOFF_MAX:
                failures = 0
            failures += 1
            self._failures += 1
            self._state, self._last_error = FeedState.FAILED, describe(problem)
            _log.warning(self.name, "feed %s: it failed, and is started again", self.name, error=problem)
            await self._sleep(backoff(_BACKOFF_INITIAL, _BACKOFF_MAX, failures))

    async def _run_until_it_ends(self) -> None:
        running = self._feed()
        forever = asyncio.get_running_loop().create_future()
        if isawaitable(running):
            await running
        elif isinstance(running, AbstractAsyncContextManager):
            async with running:
                await forever
        elif isinstance(running, AbstractContextManager):
            with ExitStack() as stack:
                stack.enter_context(running)
                closing = stack.pop_all()
            try:
                await forever
            finally:
                await asyncio.to_thread(closing.close)  # it may wait for a request to end
        else:
            raise TypeError(f"feed: must return an awaitable or a context manager, got {shorten(running)}")
