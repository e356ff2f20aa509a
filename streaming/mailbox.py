"""The calls of one async handler that no publisher waits for, run one after another on its own loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context

from codomyrmex.streaming.events import Event
from codomyrmex.streaming.provenance import cause
from codomyrmex.streaming.subscriptions import close_awaitable

_SIZE = 10_000


class Mailbox:
    """Runs the calls of one async handler in the order of publishing, on its loop and in its context."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        on_error: Callable[[Exception, Event], None],
        on_drop: Callable[[Event, str], None],
    ) -> None:
        self._loop = loop
        self._context = context
        self._on_error = on_error
        self._on_drop = on_drop
        self._calls: deque[tuple[Awaitable[object], Event, str | None]] = deque()
        self._running = False
        self._task: asyncio.Task[None] | None = None
        self._lock = threading.RLock()  # reentrant, as in `buffers`

    def put(self, awaitable: Awaitable[object], event: Event) -> None:
        """Add a call, from any thread; the oldest one is dropped if there are too many."""
        oldest = None
        with self._lock:
            if len(self._calls) >= _SIZE:
                oldest = self._calls.popleft()
            self._calls.append((awaitable, event, cause.get()))
            start, self._running = not self._running, True
        if oldest is not None:
            close_awaitable(oldest[0])
            self._on_drop(oldest[1], f"{_SIZE} earlier calls of its async handler are still waiting")
        if start or self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._start, context=self._context)
            except RuntimeError:
                self.clear("the event loop of its async handler is closed")

    def runs_current_task(self) -> bool:
        return self._task is not None and asyncio.current_task() is self._task

    async def join(self) -> None:
        """Wait for the calls, unless they run on another loop."""
        while self._running and self._loop is asyncio.get_running_loop():
            if self._task is None:
                await asyncio.sleep(0)  # it is about to start
            else:
                await asyncio.wait({self._task})

    def clear(self, reason: str | None = None) -> None:
        """Discard the waiting calls; with a reason they count as dropped."""
        with self._lock:
            calls, self._calls = self._calls, deque()
            if reason is not None:
                self._running = False
        for awaitable, event, _ in calls:
            close_awaitable(awaitable)
            if reason is not None:
                self._on_drop(event, reason)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task is self._task:
            self._task = None
        if task.cancelled():  # perhaps even before its first step
            self.clear("the task that runs its async handler was cancelled")
        elif task.exception() is not None:  # something like KeyboardInterrupt; the other calls go on
            self._start()

    async def _run(self) -> None:
        while True:
            with self._lock:
                self._running = bool(self._calls)
                if not self._running:
                    return
                awaitable, event, origin = self._calls.popleft()
            cause.set(origin)
            task = asyncio.current_task()
            cancelling = task.cancelling() if task is not None else 0
            try:
                await awaitable
            except Exception as error:  # noqa: BLE001 - a handler that fails must not stop the calls behind it
                self._on_error(error, event)
            except BaseException as error:
                self._on_drop(event, "its async handler was cancelled")
                # A cancellation of the call alone must not end the task of all calls.
                if not isinstance(error, asyncio.CancelledError) or (task and task.cancelling() > cancelling):
                    raise
