"""`watch`: publishes the state of any object, by polling it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from operator import attrgetter
from typing import Any

from codomyrmex.integrations.configuration.durations import check_seconds
from codomyrmex.integrations.service_mesh.breaker_event import BreakerState, as_utc, parse_state
from codomyrmex.integrations.service_mesh.feed import BreakerFeed
from codomyrmex.integrations.service_mesh.open_circuits import REPEAT_INTERVAL
from codomyrmex.streaming import Stream


def watch(
    breaker: object,
    stream: Stream,
    state: Callable[[Any], object] | None = None,
    *,
    name: str | None = None,
    source: str = "watch",
    service: str | None = None,
    poll_interval: float = 1.0,
    repeat_interval: float = REPEAT_INTERVAL,
    instance: str | None = None,
) -> WatchFeed:
    """Poll the state of an object and publish its changes; changes between two polls are missed.

    It is meant for objects without a hook, such as the `CircuitBreaker` of codomyrmex's service mesh, which
    has the attributes `name`, `state`, `failure_count` and `last_failure_time`.

    Args:
        breaker: the object.
        stream: where events are published.
        state: returns the state of the object: a name in any spelling, a member of an Enum, or True for open.
            By default, it is `breaker.state`.
        name: the name in the events; `breaker.name` by default.
        source: the library that the object belongs to.
        service: the service that the breaker guards.
        poll_interval: seconds between two polls; 0 polls only when `poll()` is called.
        repeat_interval: seconds after which an open circuit is published again, as a snapshot; 0 for never.
        instance: whose breaker it is, if the object stands for one outside this process, which another
            process may watch next; by default it is a breaker of this process.

    Returns:
        A handle; its `close()` ends the feed.

    Raises:
        TypeError: `stream` is not a stream, the object has no state, `state` cannot be called, or the
            interval is not a number.
        ValueError: the state is unknown, or the interval is negative.
        Exception: what `state` raises at the first poll; later it is logged.
    """
    if state is not None and not callable(state):
        raise TypeError(f"state: must be a function of the breaker, got {state!r}")
    check_seconds("poll_interval", poll_interval, zero=True, finite=True)
    if state is None and not hasattr(breaker, "state"):
        raise TypeError(
            f"breaker: {type(breaker).__name__} has no attribute 'state'; pass a function as state="
        )
    name = str(name or getattr(breaker, "name", None) or "unnamed")
    read = attrgetter("state") if state is None else state
    return WatchFeed(breaker, stream, read, name, source, service, poll_interval, repeat_interval, instance)


class WatchFeed(BreakerFeed):
    """The feed of one object; made by `watch`."""

    def __init__(
        self,
        breaker: object,
        stream: Stream,
        read: Callable[[Any], object],
        name: str,
        source: str,
        service: str | None,
        poll_interval: float,
        repeat_interval: float,
        instance: str | None,
    ) -> None:
        super().__init__(
            stream,
            source,
            service,
            repeat_interval=repeat_interval,
            shared=instance is not None,
            instance=instance,
        )
        self._breaker = breaker
        self._read = read
        self._name = name
        self._state = self._read_state()
        self._began = not self.shared
        self._closing = threading.Event()
        self._poll_interval = poll_interval
        self.publish_snapshot(name, self._state, failure_count=self._failure_count())
        if poll_interval > 0:
            threading.Thread(target=self._run, name=f"watch {name}", daemon=True).start()

    def poll(self) -> None:
        """Read the state now and publish a change. Errors are logged."""
        try:
            if not self._began:
                self._began = True
                self._continue()
            previous, self._state = self._state, self._read_state()
            opened_at: datetime | None = None
            if parse_state(self._state) is BreakerState.OPEN:
                time = getattr(self._breaker, "last_failure_time", None)
                opened_at = as_utc(time) if isinstance(time, (int, float, datetime)) and time else None
            count = self._failure_count()
            self.publish_change(self._name, previous, self._state, failure_count=count, opened_at=opened_at)
        except Exception as error:  # noqa: BLE001 - the next poll may succeed
            self.log_error(self._name, error)

    def _continue(self) -> None:
        """Resolve what another process has published, if it is over."""
        for row in self.left():
            if (row.service, row.breaker) == (self._service, self._name):
                self.adopt(row)
                self.publish_change(self._name, row.state, self._state, service=row.service)

    def close(self) -> None:
        super().close()
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.wait(self._poll_interval):
            self.poll()

    def _read_state(self) -> object:
        state = self._read(self._breaker)
        if parse_state(state) is None:
            raise ValueError(f"state: must be a state of a circuit breaker, got {state!r}")
        return state

    def _failure_count(self) -> int | None:
        count = getattr(self._breaker, "failure_count", None)
        return count if isinstance(count, int) else None
