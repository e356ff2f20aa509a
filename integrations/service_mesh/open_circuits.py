"""`OpenCircuits`: repeats the events of open circuits, because an alert ends if its source falls silent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import msgspec
from codomyrmex.integrations.configuration.durations import check_seconds
from codomyrmex.integrations.service_mesh.breaker_event import BreakerEventKind, CircuitBreakerEvent

REPEAT_INTERVAL = 60.0  # seconds, less than any reasonable `resolve_timeout`
_MAX_CIRCUITS = 10_000


class OpenCircuits:
    """The circuits of a feed that are open, and a thread that repeats them while there are any.

    A library reports that a circuit opens, and nothing more until someone calls it. Alert routing treats the
    silence as the end of the alert (`resolve_timeout`). So the state is published again as a snapshot, until
    it is closed.

    Args:
        publish: publishes an event; must not raise.
        repeat_interval: seconds between two repetitions; 0 repeats only when `repeat()` is called.
        max_age: how long a circuit is repeated after it was opened; for sources that may not report its end.
        refresh: called before each repetition; must not raise. It may find out that circuits are closed.

    Raises:
        TypeError: the interval is not a number.
        ValueError: the interval is negative.
    """

    def __init__(
        self,
        publish: Callable[[CircuitBreakerEvent], None],
        repeat_interval: float = REPEAT_INTERVAL,
        max_age: timedelta | None = None,
        refresh: Callable[[], None] = lambda: None,
    ) -> None:
        check_seconds("repeat_interval", repeat_interval, zero=True, finite=True)
        self._publish = publish
        self._interval = repeat_interval
        self._max_age = max_age
        self._refresh = refresh
        self._open: dict[tuple[str | None, str], CircuitBreakerEvent] = {}
        self._timer: threading.Timer | None = None

    def __contains__(self, key: tuple[str | None, str]) -> bool:
        """Return whether a circuit, by service and breaker, is open or half open."""
        return key in self._open

    def update(self, event: CircuitBreakerEvent) -> None:
        """Note what an event says about a circuit."""
        key = event.service, event.breaker
        if event.fires:
            if len(self._open) >= _MAX_CIRCUITS and key not in self._open:
                with suppress(StopIteration, KeyError, RuntimeError):  # another thread has removed it
                    del self._open[next(iter(self._open))]
            self._open[key] = msgspec.structs.replace(
                event, kind=BreakerEventKind.SNAPSHOT, from_state=None, transition_id=None
            )
            self._start()
        elif event.kind is BreakerEventKind.STATE_CHANGE and not event.closes:
            opened = self._open.get(key)
            if opened is not None:
                self._open[key] = msgspec.structs.replace(
                    opened, to_state=event.to_state, native_state=event.native_state
                )
        elif event.kind in {BreakerEventKind.STATE_CHANGE, BreakerEventKind.SNAPSHOT, BreakerEventKind.RESET}:
            self._open.pop(key, None)

    def repeat(self) -> None:
        """Publish a snapshot of each open circuit."""
        self._refresh()
        oldest = None if self._max_age is None else datetime.now(UTC) - self._max_age
        for key, event in list(self._open.items()):
            if oldest is not None and event.opened_at is not None and event.opened_at < oldest:
                self._open.pop(key, None)
            else:
                self._publish(event)

    def clear(self) -> None:
        """Forget all circuits: their states are no longer known."""
        self._open.clear()

    def close(self) -> None:
        """Stop repeating."""
        self.clear()
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    # The thread exists only while a circuit is open. A forked process starts its own.
    def _start(self) -> None:
        if not self._interval or (self._timer is not None and self._timer.is_alive()):
            return
        timer = threading.Timer(self._interval, lambda: self._run(timer))
        timer.name, timer.daemon = "open circuits", True
        self._timer = timer
        with suppress(RuntimeError):  # the interpreter is exiting, or there are too many threads
            timer.start()

    def _run(self, timer: threading.Timer) -> None:
        if self._timer is not timer:  # closed, or another thread has started one as well
            return
        self._timer = None
        self.repeat()
        if self._open:
            self._start()
