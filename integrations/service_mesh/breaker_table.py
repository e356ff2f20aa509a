"""`BreakerTable`: what events say about circuit breakers, one row for each breaker of each instance."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
from codomyrmex.integrations.service_mesh.breaker_event import (
    PROCESS_ENDED,
    BreakerEventKind,
    BreakerState,
    CircuitBreakerEvent,
    transition_id,
)
from codomyrmex.streaming.forks import renew_in_children

_HOUR = timedelta(hours=1)
_MAX_OPENINGS = 1_000  # for each row
_MAX_TRANSITIONS = 10_000  # whose ids are kept, to count each transition once

Key = tuple[str, str | None, str, str | None]
"""The source, the service, the breaker and the instance."""

_RANKS = {  # in the order of the board
    BreakerState.OPEN: 0,
    BreakerState.FORCED_OPEN: 0,
    BreakerState.EJECTED: 0,
    BreakerState.HALF_OPEN: 1,
    BreakerState.CLOSED: 2,
}
_OTHER = 9


class BreakerStatus(NamedTuple):
    """The status of a circuit breaker, in all processes that have one of this name.

    Attributes:
        source: the library or mesh.
        breaker: the name of the breaker.
        service: the service that it guards.
        state: its state; of several processes, the one that blocks most calls. None if unknown.
        since: when it entered that state; of several processes in it, the first one.
        failures: consecutive failures, or what the source counts instead; of several processes, the most.
        rejected: calls rejected since it was last opened, in all processes.
        opened_last_hour: how often it was opened within the last hour, in all processes.
        reason: why it was last opened.
        instances: the state in each process, by its name; that of a breaker without an instance is at "".
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
    instances: Mapping[str, BreakerState | None]

    @property
    def summary(self) -> str:
        """The state in words, such as `open in 3 of 4 processes`."""
        state = "unknown" if self.state is None else self.state.value.replace("_", " ")
        total = len(self.instances)
        if total < 2 or _rank(self.state) > _RANKS[BreakerState.HALF_OPEN]:  # noqa: PLR2004 - several
            return state
        alike = sum(_rank(each) == _rank(self.state) for each in self.instances.values())
        return f"{state} in {alike} of {total} processes"


class Row(msgspec.Struct, omit_defaults=True):
    """What is known of a breaker of an instance; processes report it as JSON.

    Attributes:
        since: when it entered its state.
        updated: the time of the last event.
        opened_at: when it was last opened, as the events say.
        firing: whether its alert was published and not resolved.
        openings: when it was opened.
        merged: up to when the events are those that another process has seen.
    """

    source: str
    breaker: str
    since: datetime
    updated: datetime
    service: str | None = None
    instance: str | None = None
    shared: bool = False
    state: BreakerState | None = None
    failures: int | None = None
    rejected: int = 0
    reason: str | None = None
    opened_at: datetime | None = None
    firing: bool = False
    openings: list[datetime] = []
    merged: datetime | None = None

    @property
    def key(self) -> Key:
        """What identifies the row."""
        return self.source, self.service, self.breaker, self.instance

    def update(self, change: CircuitBreakerEvent, now: datetime) -> None:
        """Note what an event says."""
        self.updated = now
        if change.failure_count is not None:
            self.failures = change.failure_count
        if change.fires or change.closes:
            self.firing = change.fires
        if change.kind is BreakerEventKind.REJECTED:
            self.rejected += 1
            return
        self.opened_at = change.opened_at or self.opened_at
        if change.to_state is not None and change.to_state is not self.state:
            self.state = change.to_state
            self.since = now
        if change.opens:
            self.openings.append(now)
            del self.openings[:-_MAX_OPENINGS]
            self.rejected = 0
            self.reason = change.reason

    def snapshot(self) -> CircuitBreakerEvent:
        """Return the event that says what state the breaker is in."""
        return CircuitBreakerEvent(
            breaker=self.breaker,
            kind=BreakerEventKind.SNAPSHOT,
            source=self.source,
            service=self.service,
            instance=self.instance,
            shared=self.shared,
            to_state=self.state,
            reason=self.reason,
            failure_count=self.failures,
            opened_at=self.opened_at,
        )

    def end(self) -> CircuitBreakerEvent:
        """Return the event that resolves the alert of a breaker that has ended with its process."""
        opened = self.opened_at or self.since
        return CircuitBreakerEvent(
            breaker=self.breaker,
            kind=BreakerEventKind.STATE_CHANGE,
            source=self.source,
            service=self.service,
            instance=self.instance,
            from_state=self.state,
            to_state=BreakerState.CLOSED,
            native_state=PROCESS_ENDED,
            opened_at=self.opened_at,
            transition_id=transition_id(PROCESS_ENDED, *self.key, opened.isoformat()),
        )


class BreakerTable:
    """The rows of breakers; thread-safe.

    Args:
        max_rows: the largest number of rows; beyond it, the one without events for the longest time is
            removed.
    """

    def __init__(self, max_rows: int = 10_000) -> None:
        self._max_rows = max_rows
        self._rows: OrderedDict[Key, Row] = OrderedDict()
        self._transitions: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.RLock()
        renew_in_children(self)

    def after_fork(self) -> None:
        """Renew the lock in a child process."""
        self._lock = threading.RLock()

    def update(self, change: CircuitBreakerEvent, now: datetime) -> None:
        """Note what an event says; a transition that several processes report is noted once."""
        with self._lock:
            if change.transition_id is not None:
                if change.transition_id in self._transitions:
                    return
                self._transitions[change.transition_id] = None
                if len(self._transitions) > _MAX_TRANSITIONS:
                    self._transitions.popitem(last=False)
            key = change.source, change.service, change.breaker, change.instance
            row = self._rows.get(key)
            if row is None:
                row = Row(
                    source=change.source,
                    breaker=change.breaker,
                    since=now,
                    updated=now,
                    service=change.service,
                    instance=change.instance,
                    shared=change.shared,
                )
                self._add(row)
            elif row.merged is not None and now <= row.merged:
                return
            self._rows.move_to_end(key)
            row.update(change, now)

    def merge(self, row: Row) -> None:
        """Replace a row by that of a process that has seen more."""
        with self._lock:
            known = self._rows.get(row.key)
            if known is None or known.updated < row.updated:
                row.merged = row.updated
                self._add(row)

    def _add(self, row: Row) -> None:
        if row.key not in self._rows and len(self._rows) >= self._max_rows:
            self._rows.popitem(last=False)
        self._rows[row.key] = row

    def remove_processes(self, names: Iterable[str]) -> None:
        """Remove the breakers of processes that have ended."""
        gone = frozenset(names)
        with self._lock:
            for key, row in list(self._rows.items()):
                if row.instance in gone and not row.shared:
                    del self._rows[key]

    def rows(self) -> list[Row]:
        """Return copies of the rows, the most recently updated last."""
        with self._lock:
            return [msgspec.structs.replace(row, openings=row.openings[:]) for row in self._rows.values()]

    def statuses(self, end: datetime) -> list[BreakerStatus]:
        """Return the status of each breaker, those that block calls first.

        Args:
            end: the end of the last hour.
        """
        breakers: dict[tuple[str, str | None, str], list[Row]] = {}
        with self._lock:
            for row in self._rows.values():
                breakers.setdefault((row.source, row.service, row.breaker), []).append(row)
            return sorted((_status(rows, end) for rows in breakers.values()), key=_position)


def _rank(state: BreakerState | None) -> int:
    return _OTHER if state is None else _RANKS.get(state, _OTHER)


def _position(status: BreakerStatus) -> tuple[int, str, str, str]:
    return _rank(status.state), status.source, status.service or "", status.breaker


def _status(rows: list[Row], end: datetime) -> BreakerStatus:
    first = min(rows, key=lambda row: (_rank(row.state), row.since))
    opened = [row for row in rows if row.openings]
    return BreakerStatus(
        source=first.source,
        breaker=first.breaker,
        service=first.service,
        state=first.state,
        since=first.since,
        failures=max((row.failures for row in rows if row.failures is not None), default=None),
        rejected=sum(row.rejected for row in rows),
        opened_last_hour=sum(end - _HOUR <= time <= end for row in rows for time in row.openings),
        reason=max(opened, key=lambda row: row.openings[-1]).reason if opened else None,
        instances={row.instance or "": row.state for row in sorted(rows, key=lambda row: row.instance or "")},
    )
