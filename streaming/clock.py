"""The source of time for everything that waits, so that tests need not sleep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Cancel the call."""


class Clock(Protocol):
    """The source of time; `codomyrmex.streaming.testing.FakeClock` is one for tests."""

    def monotonic(self) -> float:
        """Return seconds that never go backwards, for elapsed time."""

    def time(self) -> float:
        """Return seconds since 1970, for calendar time and for what outlives the process."""

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` after `delay` seconds on the running event loop."""


class SystemClock:
    """The system's time, on the running event loop."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(delay, callback)


SYSTEM_CLOCK = SystemClock()
