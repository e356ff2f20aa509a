"""`DaemonCalls`: blocking calls on threads that hold nothing up when they hang.

The threads of a `ThreadPoolExecutor` are joined when the interpreter ends, so one that hangs would keep
the program from ending. These are daemons, and are used again, as none can be started while the
interpreter ends: what is drained then still has one.
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
    """There is no thread for a call: as many calls hang as there may be, or none could be started."""


class _Job(NamedTuple):
    call: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]


class DaemonCalls:
    """Makes blocking calls on a few daemon threads of its own.

    Args:
        name: what the threads are called.
        limit: how many calls may be under way, with those that were left alone and still hang.
    """

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = 0
        self._under_way = 0

    async def run(self, call: Callable[..., T], *args: Any, timeout: float | None = None) -> T:  # noqa: ASYNC109
        """Make a call on a thread, in a copy of the context, and give what it returns or raises.

        Where this is cancelled or the time is over, the call is left alone: it goes on unheard.

        Args:
            call: what blocks.
            *args: what it is called with.
            timeout: seconds; None is no limit.

        Raises:
            NoThreadError: no thread is free and there can be no other; the message says why.
            TimeoutError: it took longer.
        """
        context = copy_context()  # so that what is logged there is known for what it comes from
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._take(_Job(lambda: context.run(call, *args), loop, answer))
        async with asyncio.timeout(timeout):
            return await answer

    def close(self) -> None:
        """Let the threads end, each when its call does; waits for nothing."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _take(self, job: _Job) -> None:
        with self._lock:
            if self._under_way >= self._limit:
                raise NoThreadError(f"{self._under_way} calls hang")
            if self._under_way == self._threads:
                self._start_thread()
            self._under_way += 1
        self._jobs.put(job)

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
            except BaseException as raised:  # noqa: BLE001 - whatever it is, it is for who waits
                error = raised
            with self._lock:  # before it is told, so that the next call finds this thread free
                self._under_way -= 1
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                job.loop.call_soon_threadsafe(_settle, job.answer, result, error)
            del job, result, error  # what was sent is not kept until the next call


def _settle(answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if answer.done():  # it was left alone
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
