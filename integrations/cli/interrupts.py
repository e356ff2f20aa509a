"""`Interrupts`: how a command that delivers its queued events handles Ctrl-C and SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """The handlers of SIGINT and SIGTERM within a `with` statement.

    The first signal requests an orderly shutdown, the second one without delivery, and any later one ends the
    process at once, even if the event loop is blocked. They stay in place until the command has printed its
    report, so that an impatient user sees no traceback.

    Attributes:
        exit_code: None until the second signal; then 128 plus its number, as in a shell.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self._count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Event | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with suppress(ValueError):  # not in the main thread, which alone receives signals
            for number in _SIGNALS:
                self._stack.callback(signal.signal, number, signal.signal(number, self._handle))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    async def wait_for(self, count: int) -> None:
        """Wait until this many signals have been received."""
        if self._changed is None:
            self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()
        while self._count < count:
            self._changed.clear()
            await self._changed.wait()

    async def unless_interrupted(self, coroutine: Coroutine[Any, Any, object], count: int = 1) -> bool:
        """Await a coroutine, but cancel it after `count` signals; return whether it completed."""
        task, stopped = asyncio.create_task(coroutine), asyncio.create_task(self.wait_for(count))
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            if task.cancelled():
                return False
        task.result()  # raises what the coroutine raised
        return True

    def _handle(self, number: int, _: FrameType | None) -> None:
        self._count += 1
        if self._count > 1:
            self.exit_code = 128 + number
        if self._count > 2:  # noqa: PLR2004 - the third
            os._exit(128 + number)
        if self._loop is not None and self._changed is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._changed.set)


def on_signal(name: str, call: Callable[[], Any]) -> None:
    """Call a function on the running loop when a signal is received, if the platform has this signal."""
    number = getattr(signal, name, None)
    if number is None:  # Windows has no SIGHUP
        return
    with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, or not in the main thread
        asyncio.get_running_loop().add_signal_handler(number, call)
