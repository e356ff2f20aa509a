"""`CircuitBoard`: the present state of every circuit breaker that a stream tells of."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.service_mesh.breaker_event import (
    BreakerEventKind,
    BreakerState,
    CircuitBreakerEvent,
)
from codomyrmex.streaming import Event, InMemoryStream, SSEStream, Stream, TopicStream

if TYPE_CHECKING:
    from rich.table import Table

_HOUR = timedelta(hours=1)
_MAX_OPENINGS = 1_000  # remembered for each breaker
_MAX_SEEN = 10_000  # ids of transitions, so that one seen twice counts once


class BreakerStatus(NamedTuple):
    """How a circuit breaker is.

    Attributes:
        source: the library or mesh.
        breaker: its name.
        service: the service that it guards.
        state: its state; None where it is not known.
        since: when it came to that state.
        failures: failures in a row, or what the source counts.
        rejected: calls that it refused since it was opened last.
        opened_last_hour: how often it was opened within an hour.
        reason: why it was opened last.
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
    def __init__(self, told: CircuitBreakerEvent, now: datetime) -> None:
        self.told = told
        self.state: BreakerState | None = None
        self.since = now
        self.failures: int | None = None
        self.rejected = 0
        self.reason: str | None = None
        self.openings: deque[datetime] = deque(maxlen=_MAX_OPENINGS)


class CircuitBoard:
    """The present state of every breaker that a stream tells of, built from the events alone.

    `with CircuitBoard(stream) as board:` or `board = CircuitBoard(stream)` and, at the end, `board.close()`.
    Safe to read from any thread.

    Args:
        stream: a stream of this process.
        topic: where the breakers are.
        max_breakers: how many it knows; for one more the one goes that was quiet the longest.

    Raises:
        TypeError: it is another kind of stream.
        ValueError: `max_breakers` is below 1.
    """

    def __init__(
        self, stream: Stream, topic: str = "circuit_breaker.>", *, max_breakers: int = 10_000
    ) -> None:
        if not isinstance(stream, (InMemoryStream, TopicStream, SSEStream)):
            raise TypeError(f"a board needs a stream of this process, not {type(stream).__name__}")
        if max_breakers < 1:
            raise ValueError(f"max_breakers is at least 1, not {max_breakers}")
        self._max = max_breakers
        self._lock = threading.RLock()
        self._breakers: OrderedDict[tuple[str, str | None, str], _Breaker] = OrderedDict()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._subscription = stream.subscribe_nowait(self.take, topic)

    def take(self, event: Event) -> None:
        """Learn from an event; what tells of no breaker is left out."""
        told = CircuitBreakerEvent.from_event(event)
        if told is None:
            return
        with self._lock:
            if told.transition_id is not None:
                if told.transition_id in self._seen:  # another process has told of it already
                    return
                self._seen[told.transition_id] = None
                if len(self._seen) > _MAX_SEEN:
                    self._seen.popitem(last=False)
            self._learn(told, event.timestamp)

    def _learn(self, told: CircuitBreakerEvent, now: datetime) -> None:
        key = (told.source, told.service, told.breaker)
        breaker = self._breakers.get(key)
        if breaker is None:
            if len(self._breakers) >= self._max:
                self._breakers.popitem(last=False)
            breaker = self._breakers[key] = _Breaker(told, now)
        self._breakers.move_to_end(key)
        if told.failure_count is not None:
            breaker.failures = told.failure_count
        if told.kind is BreakerEventKind.REJECTED:
            breaker.rejected += 1
            return
        if told.to_state is not None and told.to_state is not breaker.state:
            breaker.state = told.to_state
            breaker.since = now
        if told.opens:
            breaker.openings.append(now)
            breaker.rejected = 0
            breaker.reason = told.reason

    def snapshot(self, now: datetime | None = None) -> list[BreakerStatus]:
        """Give every breaker, those that let nothing through first.

        Args:
            now: the end of the last hour; the present if left out.
        """
        end = datetime.now(UTC) if now is None else now
        with self._lock:
            found = [
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
        return sorted(found, key=lambda s: (_ORDER.get(s.state, 9), s.source, s.service or "", s.breaker))

    def render(self) -> Table:
        """Give the board as a table of `rich`.

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
            state = "unknown" if status.state is None else status.state.value
            cells = [name, status.source, state, f"{status.since:%H:%M:%S}", _shown(status.failures)]
            cells += [str(status.rejected), str(status.opened_last_hour), status.reason or ""]
            style = _STYLES.get(status.state, "")
            table.add_row(*(Text(cell, style if place == 2 else "") for place, cell in enumerate(cells)))  # noqa: PLR2004 - the state
        return table

    def close(self) -> None:
        """Learn no more."""
        self._subscription.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


_ORDER: dict[BreakerState | None, int] = {
    BreakerState.OPEN: 0,
    BreakerState.FORCED_OPEN: 0,
    BreakerState.EJECTED: 0,
    BreakerState.HALF_OPEN: 1,
    BreakerState.CLOSED: 2,
}
_STYLES: dict[BreakerState | None, str] = {
    BreakerState.OPEN: "bold red",
    BreakerState.FORCED_OPEN: "bold red",
    BreakerState.EJECTED: "bold red",
    BreakerState.HALF_OPEN: "yellow",
    BreakerState.CLOSED: "green",
}


def _shown(number: int | None) -> str:
    return "" if number is None else str(number)
