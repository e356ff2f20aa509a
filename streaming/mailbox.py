"""Runs what async handlers returned on the loop that they were subscribed on.

A publisher that cannot await (`publish_nowait`) leaves its coroutines here; one task runs them one after
another, so that a subscriber sees the events in the order in which they were published.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from contextvars import Context, ContextVar
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any, NamedTuple

from codomyrmex.streaming.errors import HandlerLoopError
from codomyrmex.streaming.provenance import cause
from codomyrmex.streaming.subscriptions import close_awaitable

_LOOK_AGAIN = 1.0  # seconds between looks at whether the other loop still runs


class _Turn:
    """One call that a mailbox makes, as a mark in the context of the call."""

    __slots__ = ("mailbox", "running")

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.running = True


# The call in whose context the code runs. What is published from there must not wait for a mailbox:
# the call that it waits for may be waiting for this one.
_inside: ContextVar[_Turn | None] = ContextVar("codomyrmex.streaming.mailbox", default=None)


class Mailbox:
    """The work of one subscription's async handler, in order, on its own loop.

    Args:
        loop: where the handler runs.
        context: what it runs in.
        size: how many may wait; beyond it the oldest is dropped.
        on_error: called with what a handler raised, and the event.
        on_drop: called with the event and the reason when a call is dropped.
    """

    __slots__ = (
        "_context",
        "_joining",
        "_lock",
        "_loop",
        "_on_drop",
        "_on_error",
        "_scheduled",
        "_size",
        "_task",
        "_work",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        size: int,
        on_error: Callable[[Exception, Any], None],
        on_drop: Callable[[Any, str], None],
    ) -> None:
        self._loop = loop
        self._context = context
        self._size = size
        self._on_error = on_error
        self._on_drop = on_drop
        self._work: deque[_Job] = deque()
        self._joining: list[Future[None]] = []  # who waits until all is done
        self._scheduled = False
        self._task: asyncio.Task[None] | None = None
        self._lock = threading.RLock()  # reentrant for the reason given in `buffers`

    def must_wait_in_line(self) -> bool:
        """Tell whether earlier work is not done yet, and we are not part of it."""
        turn = _inside.get()
        return self._scheduled and not (turn is not None and turn.running and turn.mailbox is self)

    def put(self, awaitable: Awaitable[Any], event: Any, done: Future[None] | None = None) -> None:
        """Leave work to be done; from any thread, never waits."""
        lost = None
        with self._lock:
            if len(self._work) >= self._size:
                lost = self._work.popleft()
            self._work.append(_Job(awaitable, event, done, cause.get()))
            start = not self._scheduled
            self._scheduled = True
        if lost is not None:
            self._drop(lost, f"{self._size} earlier calls of its async handler still wait")
        if start or self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._start, context=self._context)
            except RuntimeError:
                self.discard("the event loop of its async handler is closed")

    async def join(self) -> None:
        """Wait until all that was put is done; not from inside a call, nor for a loop that stands still."""
        turn = _inside.get()
        if turn is not None and turn.running:
            return
        with self._lock:
            if not self._scheduled or not self._loop.is_running():
                return
            done: Future[None] = Future()
            self._joining.append(done)
        with contextlib.suppress(HandlerLoopError):
            await _wait_for(done, self._loop)

    def clear(self) -> int:
        """Take back all that waits, and tell how much it was."""
        with self._lock:
            work, self._work = self._work, deque()
        for job in work:
            _dispose(job)
        return len(work)

    def discard(self, reason: str) -> None:
        """Drop all that waits."""
        with self._lock:
            work, self._work = self._work, deque()
            self._all_done()
        for job in work:
            self._drop(job, reason)

    def _drop(self, job: _Job, reason: str) -> None:
        _dispose(job)
        self._on_drop(job.event, reason)

    def _all_done(self) -> None:
        """Note, under the lock, that no task runs any more."""
        self._scheduled = False
        self._task = None
        joining, self._joining = self._joining, []
        for done in joining:
            if done.set_running_or_notify_cancel():
                done.set_result(None)

    def _start(self) -> None:
        # The reference keeps the task from being collected while it runs.
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task is not self._task:  # it has ended as it should
            return
        if task.cancelled():  # perhaps even before its first step
            self.discard("the task that runs its async handler was cancelled")
            return
        with self._lock:  # a call has raised something like KeyboardInterrupt; the others go on
            work_left = bool(self._work)
            if not work_left:
                self._all_done()
        if work_left:
            self._start()

    async def _run(self) -> None:
        while True:
            with self._lock:
                if not self._work:
                    self._all_done()
                    return
                job = self._work.popleft()
            await self._do(job)

    async def _do(self, job: _Job) -> None:
        done = job.done
        if done is not None and not done.set_running_or_notify_cancel():
            done = None  # its publisher waits no more, but it was published
        turn = _Turn(self)
        _inside.set(turn)
        cause.set(job.cause)
        task = asyncio.current_task()
        cancelling = 0 if task is None else task.cancelling()
        try:
            await job.awaitable
        except Exception as error:  # noqa: BLE001 - a handler's failure is its own
            if done is None:
                self._on_error(error, job.event)
            else:
                done.set_exception(error)
        except BaseException as error:
            self._on_drop(job.event, "its async handler was cancelled")
            if done is not None:
                done.set_exception(error)
            # Only what was meant for the task of all calls may end it, not what one call has raised.
            stray = task is not None and task.cancelling() == cancelling
            if not (stray and isinstance(error, asyncio.CancelledError)):
                raise
        else:
            if done is not None:
                done.set_result(None)
        finally:
            turn.running = False


class InLine:
    """Work behind the earlier work of a mailbox, to be awaited. It accounts for its event itself."""

    __slots__ = ("_awaitable", "_event", "_mailbox")

    def __init__(self, mailbox: Mailbox, awaitable: Awaitable[Any], event: Any) -> None:
        self._mailbox = mailbox
        self._awaitable = awaitable
        self._event = event

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        turn = _inside.get()
        if turn is not None and turn.running:  # in its place, but not waited for
            self._mailbox.put(self._awaitable, self._event)
            return
        done: Future[None] = Future()
        self._mailbox.put(self._awaitable, self._event, done)
        with contextlib.suppress(HandlerLoopError):  # then it waits there for the loop to run again
            await _wait_for(done, self._mailbox._loop)


class _Job(NamedTuple):
    awaitable: Awaitable[Any]
    event: Any
    done: Future[None] | None  # who waits for it, if anyone
    cause: str | None  # what its publisher dealt with


def _dispose(job: _Job) -> None:
    close_awaitable(job.awaitable)
    if job.done is not None and not job.done.done() and job.done.set_running_or_notify_cancel():
        job.done.set_result(None)


async def run_on(loop: asyncio.AbstractEventLoop, awaitable: Awaitable[Any]) -> None:
    """Await something on another loop.

    Raises:
        HandlerLoopError: that loop is closed, does not run, or stops meanwhile.
    """
    if loop.is_closed() or not loop.is_running():
        close_awaitable(awaitable)
        state = "closed" if loop.is_closed() else "not running"
        raise HandlerLoopError(f"the event loop that the handler was subscribed on is {state}")
    work = _as_coroutine(awaitable)
    try:
        await _wait_for(asyncio.run_coroutine_threadsafe(work, loop), loop)
    except HandlerLoopError:
        if getcoroutinestate(work) == CORO_CREATED:
            work.close()
            close_awaitable(awaitable)
        raise


async def _wait_for(done: Future[None], loop: asyncio.AbstractEventLoop) -> None:
    """Wait for work on a loop, but not for ever where that loop stops before it is done."""
    waiting = asyncio.wrap_future(done)
    try:
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=_LOOK_AGAIN)
            if not waiting.done() and not loop.is_running():
                raise HandlerLoopError("the event loop of the handler stopped before it was done")
    finally:
        waiting.cancel()
    await waiting


async def _as_coroutine(awaitable: Awaitable[Any]) -> None:
    await awaitable
