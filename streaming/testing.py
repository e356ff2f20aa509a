"""Helpers for tests of streams: `collect` and `FakeClock`."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from typing import Self

from codomyrmex.streaming.buffers import complete
from codomyrmex.streaming.events import Event
from codomyrmex.streaming.stream import Stream
from codomyrmex.streaming.subscriptions import Subscription
from codomyrmex.streaming.topics import EVERYTHING


class collect(list[Event]):  # noqa: N801 - used like a function
    """A list of the events that a stream delivers inside the context.

    Use `with collect(stream) as events:`, in plain and in async code.

    Args:
        stream: the stream.
        topic: a topic or a pattern.
    """

    def __init__(self, stream: Stream, topic: str = EVERYTHING) -> None:
        super().__init__()
        self._stream = stream
        self._topic = topic
        self._subscription: Subscription | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def __enter__(self) -> Self:
        self._subscription = self._stream.subscribe_nowait(self._add, self._topic)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._subscription is not None:
            self._subscription.cancel()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        self.__exit__()

    async def wait_for(self, n: int, timeout: float = 5.0) -> list[Event]:  # noqa: ASYNC109 - a test wants one line
        """Return the first `n` events; a `TimeoutError` is raised if that takes over `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while len(self) < n:
                    arrived = asyncio.get_running_loop().create_future()
                    self._waiters.append(arrived)
                    if len(self) < n:  # an event from another thread may have come in between
                        await arrived
        except TimeoutError:
            raise TimeoutError(f"{len(self)} of {n} events arrived within {timeout} s") from None
        return self[:n]

    def _add(self, event: Event) -> None:
        self.append(event)
        while self._waiters:
            complete(self._waiters.pop())


class FakeClock:
    """A clock that stands still until `advance` is called.

    Args:
        start: the first value of `monotonic`, in seconds.
        epoch: the value of `time` when `monotonic` is 0; by default Monday 2026-01-05 12:00 UTC.
    """

    def __init__(self, start: float = 0.0, epoch: float = 1_767_614_400.0) -> None:
        self._now = start
        self._epoch = epoch
        self._order = count()
        self._timers: list[tuple[float, int, _FakeTimer]] = []

    def monotonic(self) -> float:
        """Return the seconds that have been advanced."""
        return self._now

    def time(self) -> float:
        """Return seconds since 1970."""
        return self._epoch + self._now

    def call_later(self, delay: float, callback: Callable[[], object]) -> _FakeTimer:
        """Call `callback` when the clock has advanced by `delay` seconds."""
        timer = _FakeTimer(callback)
        heapq.heappush(self._timers, (self._now + delay, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Move the clock forward, and make the calls that become due, each at its own time.

        Raises:
            ValueError: the number of seconds is negative.
        """
        if seconds < 0:
            raise ValueError(f"seconds: must be at least 0, got {seconds}")
        end = self._now + seconds
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, due)
            if timer.callback is not None:
                timer.callback()
        self._now = max(self._now, end)  # a callback may have moved it further

    def pending(self) -> int:
        """Return the number of scheduled calls."""
        return sum(timer.callback is not None for _, _, timer in self._timers)


class _FakeTimer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None
