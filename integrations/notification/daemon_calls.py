"""`DaemonCalls`: blocking calls on daemon threads, so that a call that hangs delays nothing else.

The threads of a `ThreadPoolExecutor` are joined when the interpreter exits, so one that hangs would keep the
program running. Threads are reused, because none can be started while the interpreter exits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class NoThreadError(RuntimeError):
    """No thread is available for a call: all of them hang, none could be started, or they have ended."""


class _Job(NamedTuple):
    call: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    result: asyncio.Future[Any]


class DaemonCalls:
    """Makes blocking calls on its own daemon threads, at most `limit` at once with the abandoned ones."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = 0
        self._in_progress = 0
        self._closed = False

    async def run(self, call: Callable[..., T], *args: Any, timeout: float | None = None) -> T:  # noqa: ASYNC109
        """Make a call on a thread, in a copy of the current context, and return its result.

        After a timeout or a cancellation the call continues, but its result is discarded.

        Raises:
            NoThreadError: no thread is available.
            TimeoutError: the call took too long.
        """
        context = copy_context()  # so that log lines of the call have the provenance of the caller
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()
        with self._lock:
            if self._closed:  # no thread would run the call
                raise NoThreadError(f"{self._name}: it was closed")
            if self._in_progress >= self._limit:
                raise NoThreadError(f"{self._in_progress} calls hang")
            if self._in_progress == self._threads:
                self._start_thread()
            self._in_progress += 1
            self._jobs.put(_Job(lambda: context.run(call, *args), loop, result))
        async with asyncio.timeout(timeout):
            return await result

    def close(self) -> None:
        """End each thread after its current call, without waiting."""
        with self._lock:
            self._closed = True
            for _ in range(self._threads):
                self._jobs.put(None)

    def _start_thread(self) -> None:
        try:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        except RuntimeError as error:
            raise NoThreadError(str(error)) from None
        self._threads += 1

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            result: Any = None
            error: BaseException | None = None
            try:
                result = job.call()
            except BaseException as raised:  # noqa: BLE001 - it is re-raised in the caller
                error = raised
            with self._lock:  # before the caller resumes, so that its next call finds this thread idle
                self._in_progress -= 1
            with suppress(RuntimeError):  # the loop is closed
                job.loop.call_soon_threadsafe(_settle, job.result, result, error)
            del job, result, error  # so that they are not kept alive until the next call


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():  # abandoned
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
