"""`LoopThread`: an event loop on a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

call_at_exit: Callable[[Callable[[], None]], object] = getattr(threading, "_register_atexit", atexit.register)
"""Registers a function to call when the main thread ends; those registered later are called first.

The functions of `atexit` are too late: the thread pools of asyncio and `concurrent.futures` have ended.
"""


class LoopThread:
    """An event loop on a daemon thread.

    Args:
        name: the name of the thread, and the beginning of the names of its pool's threads.

    Raises:
        Exception: there are too many threads or open files.
    """

    def __init__(self, name: str) -> None:
        ready: Future[asyncio.AbstractEventLoop] = Future()

        def run() -> None:
            try:
                runner = asyncio.Runner()
                loop = runner.get_loop()
                loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix=name))
            except Exception as error:  # noqa: BLE001 - such as too many open files; raised by result()
                ready.set_exception(error)
                return
            with runner:
                ready.set_result(loop)
                loop.run_forever()

        self.thread = threading.Thread(target=run, name=name, daemon=True)
        self.thread.start()
        self.loop = ready.result()

    def is_current(self) -> bool:
        """Return whether the caller runs on this thread."""
        return self.thread is threading.current_thread()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop, from any thread.

        Raises:
            RuntimeError: the loop is closed.
        """
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except BaseException:
            coroutine.close()
            raise

    def stop(self, timeout: float) -> None:
        """End the loop, and wait for the thread for at most some seconds."""
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self.loop.stop)
        if not self.is_current():
            self.thread.join(timeout)
