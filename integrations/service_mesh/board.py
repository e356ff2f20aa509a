"""`CircuitBoard`: the current state of every circuit breaker on a stream."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, Self

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.service_mesh.breaker_event import (
    BreakerEventKind,
    BreakerState,
    CircuitBreakerEvent,
)
from codomyrmex.integrations.service_mesh.feed import check_stream
from codomyrmex.streaming import Event, Stream

if TYPE_CHECKING:
    from rich.table import Table

_HOUR = timedelta(hours=1)
_MAX_OPENINGS = 1_000  # for each breaker
_MAX_TRANSITIONS = 10_000  # whose ids are kept, to count each transition once

# The order of the board, and the styles of rich.
_ORDER = {
    BreakerState.OPEN: (0, "bold red"),
    BreakerState.FORCED_OPEN: (0, "bold red"),
    BreakerState.EJECTED: (0, "bold red"),
    BreakerState.HALF_OPEN: (1, "yellow"),
    BreakerState.CLOSED: (2, "green"),
}


class BreakerStatus(NamedTuple):
    """The status of a circuit breaker.

    Attributes:
        source: the library or mesh.
        breaker: the name of the breaker.
        service: the service that it guards.
        state: its state; None if unknown.
        since: when it entered that state.
        failures: consecutive failures, or what the source counts instead.
        rejected: calls rejected since it was last opened.
        opened_last_hour: how often it was opened within the last hour.
        reason: why it was last opened.
    """

    source: str
    breaker: str
    service: str | None
    state: BreakerState | None
    since: datetime
    failures: int | None
    rejected: int
    opened_last_hour: int
    reason: str | None


class _Breaker:
    def __init__(self, since: datetime) -> None:
        self.state: BreakerState | None = None
        self.since = since
        self.failures: int | None = None
        self.rejected = 0
        self.reason: str | None = None
        self.openings: deque[datetime] = deque(maxlen=_MAX_OPENINGS)


class CircuitBoard:
    """The current state of every circuit breaker on a stream, built from events alone.

    A context manager, or call `close()` at the end. It can be read from any thread.

    Args:
        stream: the stream to subscribe to.
        topic: the topic of the circuit-breaker events.
        max_breakers: the largest number of breakers; beyond it, the one without events for the longest time
            is removed.

    Raises:
        TypeError: `stream` is not a stream.
        ValueError: `max_breakers` is less than 1.
    """

    def __init__(
        self, stream: Stream, topic: str = "circuit_breaker.>", *, max_breakers: int = 10_000
    ) -> None:
        check_stream(stream)
        if max_breakers < 1:
            raise ValueError(f"max_breakers: must be at least 1, got {max_breakers}")
        self._max_breakers = max_breakers
        self._lock = threading.RLock()
        self._breakers: OrderedDict[tuple[str, str | None, str], _Breaker] = OrderedDict()
        self._transitions: OrderedDict[str, None] = OrderedDict()
        self._subscription = stream.subscribe_nowait(self.update, topic)

    def update(self, event: Event) -> None:
        """Update the board from an event; an event that is not about a circuit breaker is ignored."""
        change = CircuitBreakerEvent.from_event(event)
        if change is None:
            return
        with self._lock:
            if change.transition_id is not None:
                if change.transition_id in self._transitions:  # another process has reported it
                    return
                self._transitions[change.transition_id] = None
                if len(self._transitions) > _MAX_TRANSITIONS:
                    self._transitions.popitem(last=False)
            self._update(change, event.timestamp)

    def _update(self, change: CircuitBreakerEvent, now: datetime) -> None:
        key = (change.source, change.service, change.breaker)
        breaker = self._breakers.get(key)
        if breaker is None:
            if len(self._breakers) >= self._max_breakers:
                self._breakers.popitem(last=False)
            breaker = self._breakers[key] = _Breaker(now)
        self._breakers.move_to_end(key)
        if change.failure_count is not None:
            breaker.failures = change.failure_count
        if change.kind is BreakerEventKind.REJECTED:
            breaker.rejected += 1
            return
        if change.to_state is not None and change.to_state is not breaker.state:
            breaker.state = change.to_state
            breaker.since = now
        if change.opens:
            breaker.openings.append(now)
            breaker.rejected = 0
            breaker.reason = change.reason

    def snapshot(self, now: datetime | None = None) -> list[BreakerStatus]:
        """Return the status of every breaker, those that block calls first.

        Args:
            now: the end of the last hour; the current time by default.
        """
        end = datetime.now(UTC) if now is None else now
        with self._lock:
            statuses = [
                BreakerStatus(
                    source=source,
                    breaker=name,
                    service=service,
                    state=breaker.state,
                    since=breaker.since,
                    failures=breaker.failures,
                    rejected=breaker.rejected,
                    opened_last_hour=sum(end - _HOUR <= opened <= end for opened in breaker.openings),
                    reason=breaker.reason,
                )
                for (source, service, name), breaker in self._breakers.items()
            ]
        return sorted(statuses, key=_position)

    def render(self) -> Table:
        """Return the board as a table of `rich`.

        Raises:
            MissingExtraError: rich is not installed.
        """
        try:
            from rich.table import Table
            from rich.text import Text
        except ImportError as error:
            raise MissingExtraError("CircuitBoard.render", "rich", "board") from error
        table = Table(
            "breaker", "source", "state", "since", "failures", "rejected", "opened/h", "last reason"
        )
        for status in self.snapshot():
            name = status.breaker if status.service is None else f"{status.service}/{status.breaker}"
            state, style = "unknown", ""
            if status.state is not None:
                state, style = status.state.value, _ORDER.get(status.state, (9, ""))[1]
            failures = "" if status.failures is None else str(status.failures)
            before = [name, status.source]
            after = [f"{status.since:%H:%M:%S}", failures, str(status.rejected)]
            after += [str(status.opened_last_hour), status.reason or ""]
            table.add_row(*map(Text, before), Text(state, style), *map(Text, after))
        return table

    def close(self) -> None:
        """Stop updating the board."""
        self._subscription.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _position(status: BreakerStatus) -> tuple[int, str, str, str]:
    rank = 9 if status.state is None else _ORDER.get(status.state, (9, ""))[0]
    return rank, status.source, status.service or "", status.breaker
