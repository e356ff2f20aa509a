"""Heartbeats and batches take their time from a clock, so that tests do not sleep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """Take it back."""


class Clock(Protocol):
    """What code that waits asks for the time; `codomyrmex.streaming.testing.FakeClock` is another."""

    def monotonic(self) -> float:
        """Give seconds that never go back."""

    def time(self) -> float:
        """Give seconds since 1970, for what has to do with calendars or outlives the process."""

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` after `delay` seconds on the running event loop."""


class SystemClock:
    """The real time, on the running event loop."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(delay, callback)


SYSTEM_CLOCK = SystemClock()
