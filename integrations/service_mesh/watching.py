"""`watch`: any object with a readable state becomes a feed, by looking at it now and then."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from operator import attrgetter
from typing import Any

from codomyrmex.integrations.delivery.seconds import check_seconds
from codomyrmex.integrations.service_mesh.breaker_event import as_utc, state_of
from codomyrmex.integrations.service_mesh.feed import BreakerFeed
from codomyrmex.streaming import Stream


def watch(
    breaker: object,
    stream: Stream,
    state: Callable[[Any], object] | None = None,
    *,
    name: str | None = None,
    source: str = "watch",
    service: str | None = None,
    interval: float = 1.0,
) -> WatchFeed:
    """Look at the state of something on an interval, and publish the changes.

    What happens between two looks is not seen. Made for objects without a hook, such as the
    `CircuitBreaker` of codomyrmex's service mesh, with the attributes `name`, `state`, `failure_count` and
    `last_failure_time`.

    Args:
        breaker: what to look at.
        stream: where to.
        state: gives the state of the breaker: a name in any spelling, an Enum, or True for open. Left out,
            it is `breaker.state`.
        name: what it is called; `breaker.name` if left out.
        source: the library that it is of.
        service: the service that it guards.
        interval: seconds between two looks; 0 looks only when `look()` is called.

    Returns:
        A handle whose `detach()` ends it.

    Raises:
        TypeError: it is no stream, it has no state to read, `state` cannot be called, or the interval is no
            number.
        ValueError: its state is unknown, or the interval negative.
        Exception: what `state` raises at the first look; later it is logged.
    """
    if state is not None and not callable(state):
        raise TypeError(f"state is a function of the breaker, not {state!r}")
    check_seconds("interval", interval, zero=True, finite=True)
    if state is None and not hasattr(breaker, "state"):
        raise TypeError(
            f"{type(breaker).__name__} has no attribute 'state': give a function that reads it as state="
        )
    return WatchFeed(breaker, stream, state, name=name, source=source, service=service, interval=interval)


class WatchFeed(BreakerFeed):
    """Looks at one object; made by `watch`."""

    def __init__(
        self,
        breaker: object,
        stream: Stream,
        state: Callable[[Any], object] | None,
        *,
        name: str | None,
        source: str,
        service: str | None,
        interval: float,
    ) -> None:
        super().__init__(stream, source, service, calls=False)
        self._breaker = breaker
        self._read = attrgetter("state") if state is None else state
        self._name = str(name or getattr(breaker, "name", None) or "unnamed")
        self._state = self._read(breaker)
        if state_of(self._state) is None:
            raise ValueError(f"{self._state!r} is no state of a circuit breaker")
        self.snapshot(self._name, self._state, failure_count=self._failure_count())
        self._ended = threading.Event()
        self._interval = interval
        if interval > 0:
            threading.Thread(target=self._run, name=f"watch {self._name}", daemon=True).start()

    def look(self) -> None:
        """Look now. What goes wrong is logged."""
        try:
            state = self._read(self._breaker)
            if state_of(state) is None:
                raise ValueError(f"{state!r} is no state of a circuit breaker")  # noqa: TRY301
            old, self._state = self._state, state
            opened_at: datetime | None = None
            if state_of(state) == "open":
                moment = getattr(self._breaker, "last_failure_time", None)
                opened_at = as_utc(moment) if isinstance(moment, (int, float, datetime)) and moment else None
            self.change(self._name, old, state, failure_count=self._failure_count(), opened_at=opened_at)
        except Exception as error:  # noqa: BLE001 - the next look may do better
            self.complain(self._name, error)

    def detach(self) -> None:
        super().detach()
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            self.look()

    def _failure_count(self) -> int | None:
        count = getattr(self._breaker, "failure_count", None)
        return count if isinstance(count, int) else None
