"""`CircuitBoard`: the current state of every circuit breaker on a stream."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.durable import DurableStream
from codomyrmex.integrations.service_mesh.breaker_event import BreakerState, CircuitBreakerEvent
from codomyrmex.integrations.service_mesh.breaker_table import BreakerStatus, BreakerTable
from codomyrmex.integrations.service_mesh.feed import check_stream
from codomyrmex.integrations.service_mesh.reports import ProcessFollower, reports_of
from codomyrmex.streaming import Event, Stream

if TYPE_CHECKING:
    from rich.table import Table

_STYLES = {
    BreakerState.OPEN: "bold red",
    BreakerState.FORCED_OPEN: "bold red",
    BreakerState.EJECTED: "bold red",
    BreakerState.HALF_OPEN: "yellow",
    BreakerState.CLOSED: "green",
}


class CircuitBoard:
    """The current state of every circuit breaker on a stream, built from events.

    A context manager, or call `close()` at the end. It can be read from any thread. Breakers of the same
    source, service and name in several processes are one on the board. On a durable stream, the board begins
    with what the running processes report of their breakers, and leaves out those of processes that have
    ended.

    Args:
        stream: the stream to subscribe to.
        topic: the topic of the circuit-breaker events.
        max_breakers: the largest number of breakers, each counted once for each process; beyond it, the one
            without events for the longest time is removed.

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
        self._table = BreakerTable(max_breakers)
        self._processes: ProcessFollower | None = None
        self._parts = ExitStack()
        self._parts.callback(stream.subscribe_nowait(self.update, topic).cancel)
        if isinstance(stream, DurableStream):
            reports_of(stream)  # so that this process can act for those that have ended
            self._processes = ProcessFollower(stream, self._table, topic)
            self._parts.callback(self._processes.close)

    def update(self, event: Event) -> None:
        """Update the board from an event; an event that is not about a circuit breaker is ignored."""
        change = CircuitBreakerEvent.from_event(event)
        if change is None or (self._processes is not None and self._processes.has_ended(change)):
            return
        self._table.update(change, event.timestamp)

    def snapshot(self, now: datetime | None = None) -> list[BreakerStatus]:
        """Return the status of every breaker, those that block calls first.

        Args:
            now: the end of the last hour; the current time by default.
        """
        return self._table.statuses(datetime.now(UTC) if now is None else now)

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
            style = "" if status.state is None else _STYLES.get(status.state, "")
            failures = "" if status.failures is None else str(status.failures)
            before = [name, status.source]
            after = [f"{status.since:%H:%M:%S}", failures, str(status.rejected)]
            after += [str(status.opened_last_hour), status.reason or ""]
            table.add_row(*map(Text, before), Text(status.summary, style), *map(Text, after))
        return table

    def close(self) -> None:
        """Stop updating the board. Closing twice is allowed."""
        self._parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
