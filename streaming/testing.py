"""What tests of streams need: collect events, and a clock that is moved by hand."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from types import TracebackType
from typing import Self

from codomyrmex.streaming.dispatch import LocalStream
from codomyrmex.streaming.events import Event
from codomyrmex.streaming.stream import Stream
from codomyrmex.streaming.subscriptions import Subscription
from codomyrmex.streaming.topics import EVERYTHING


class collect(list[Event]):  # noqa: N801 - used like a function
    """The list of what arrives on a stream while the context lasts.

    `with collect(stream) as events:` in plain code as in async code; `async with` for streams whose
    subscribing has to be awaited.

    Args:
        stream: where from.
        topic: a topic or a pattern.
    """

    def __init__(self, stream: Stream, topic: str = EVERYTHING) -> None:
        super().__init__()
        self._stream = stream
        self._topic = topic
        self._subscription: Subscription | None = None
        self._waiters: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def __enter__(self) -> Self:
        if not isinstance(self._stream, LocalStream):
            raise TypeError(f"{type(self._stream).__name__} needs `async with collect(...)`")
        self._subscription = self._stream.subscribe_nowait(self._arrived, self._topic)
        return self

    async def __aenter__(self) -> Self:
        self._subscription = await self._stream._subscribe_listener(self._arrived, self._topic, None)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._subscription is not None:
            self._subscription.cancel()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc_value, traceback)

    async def wait_for(self, n: int, timeout: float = 5.0) -> list[Event]:  # noqa: ASYNC109 - a test wants one line
        """Wait until `n` events have arrived, and give them.

        Args:
            n: how many events.
            timeout: seconds.

        Raises:
            TimeoutError: fewer came in time; the message says how many.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        waiter = (n, loop, future)
        self._waiters.append(waiter)
        self._tell()
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            raise TimeoutError(f"{len(self)} of {n} events arrived in {timeout} s") from None
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return self[:n]

    def _arrived(self, event: Event) -> None:
        self.append(event)
        if self._waiters:
            self._tell()

    def _tell(self) -> None:
        for n, loop, future in tuple(self._waiters):
            if len(self) >= n:
                loop.call_soon_threadsafe(_resolve, future)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class FakeClock:
    """A clock that stands still until `advance` moves it.

    Args:
        start: what `monotonic` gives at first.
        epoch: what `time` gives when `monotonic` gives 0; if left out, Monday 2026-01-05 12:00 UTC.
    """

    def __init__(self, start: float = 0.0, epoch: float = 1_767_614_400.0) -> None:
        self._now = start
        self._epoch = epoch
        self._order = count()
        self._timers: list[tuple[float, int, _FakeTimer]] = []

    def monotonic(self) -> float:
        """Give seconds."""
        return self._now

    def time(self) -> float:
        """Give seconds since 1970."""
        return self._epoch + self._now

    def call_later(self, delay: float, callback: Callable[[], object]) -> _FakeTimer:
        """Call `callback` when the clock has been moved by `delay` seconds."""
        timer = _FakeTimer(callback)
        heapq.heappush(self._timers, (self._now + delay, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Move the clock and make the calls that are due on the way, each at its own time.

        Raises:
            ValueError: the time would go back.
        """
        if seconds < 0:
            raise ValueError(f"time does not go back, so not by {seconds} s")
        end = self._now + seconds
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, due)
            timer.fire()
        self._now = max(self._now, end)  # a call may itself have moved it

    def pending(self) -> int:
        """Count the calls that are still to come."""
        return sum(not timer.cancelled for _, _, timer in self._timers)


class _FakeTimer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def fire(self) -> None:
        if not self.cancelled:
            self._callback()
