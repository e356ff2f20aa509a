"""What tests have in common."""

from __future__ import annotations

import asyncio
import functools
import gc
import re
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Self, TypeVar

T = TypeVar("T")

DEADLINE = 20.0  # only a test that hangs takes as long; slow machines are not a failure


def in_time(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Fail instead of hanging."""

    @functools.wraps(test)
    async def bounded(*args: Any, **named: Any) -> None:
        async with asyncio.timeout(DEADLINE):
            await test(*args, **named)

    return bounded


async def until(condition: Callable[[], object], timeout: float = DEADLINE) -> None:  # noqa: ASYNC109
    """Wait until a condition holds."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.001)


async def settle() -> None:
    """Let every task that can go on do so, before checking that nothing more happens."""
    for _ in range(30):
        await asyncio.sleep(0)


def shown(value: object) -> str:
    """Name a case of a test: the same in each process, so without the address of an object."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


@contextmanager
def no_unawaited_coroutines() -> Iterator[None]:
    """Fail if a coroutine is made inside and never awaited."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()  # those of earlier tests
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(w.message) for w in caught if "never awaited" in str(w.message)] == []


@contextmanager
def frequent_thread_switches() -> Iterator[None]:
    """Switch threads as often as possible, so that races show."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


class LoopThread:
    """An event loop that runs in a thread of its own."""

    def __enter__(self) -> Self:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()
        self.loop.close()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.start(coroutine).result(DEADLINE)
