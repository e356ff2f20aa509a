"""The state and the counters of a sink: its health now, its final report, and state changes as events."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from codomyrmex.streaming import Event, EventType, create_event
from codomyrmex.streaming.provenance import ORIGIN, marked

# The reasons why an event was dropped before the sink was called with it.
QUEUE_FULL = "queue_full"
NOT_STARTED = "not_started"  # published before the attachment was started
NOT_OPEN = "not_open"  # published while the sink could not be opened
CLOSED = "closed"  # published while the sink was being closed
FORKED = "forked"  # published in a child process, while the sink belongs to the parent
INTERRUPTED = "interrupted"  # a BaseException such as KeyboardInterrupt ended `emit`
REMOVED = "removed"  # the retention of a durable stream removed it before it was delivered
FILTER_FAILED = "filter_failed"  # the filter of the sink raised
ABOUT_ITSELF = "about_itself"  # a health event or dead letter of this very sink

# Inline sinks may leave out events for other reasons, on purpose.
LOSSES = frozenset({QUEUE_FULL, NOT_STARTED, NOT_OPEN, CLOSED, FORKED, INTERRUPTED, FILTER_FAILED, REMOVED})

LOSING_FOR = 60.0  # seconds after a loss during which a sink is `losing`


class SinkState(StrEnum):
    """The state of a sink, from the best to the worst. A sink that is `OK` has not lost any event.

    `OK`: the last attempt succeeded, or there was none. `STANDBY`: another process delivers the events of a
    durable stream to this sink; this one takes over if necessary. `DEGRADED`: the last attempt succeeded, but
    events were lost since the sink was attached, the last one more than a minute ago, or something behind an
    inline sink does not work, which is in `last_error`. `LOSING`: the same, but events were lost within the
    last minute. `RETRYING`: the last attempt failed. `NOT_OPEN`: it could not be opened yet. `OPEN`: so many
    attempts failed in a row that the circuit breaker is open. `NOT_STARTED`: it is attached, but the
    attachment was not started, and events are dropped. `CLOSED`: it receives no more events.
    """

    OK = "ok"
    STANDBY = "standby"
    DEGRADED = "degraded"
    LOSING = "losing"
    RETRYING = "retrying"
    NOT_OPEN = "not_open"
    OPEN = "open"
    NOT_STARTED = "not_started"
    CLOSED = "closed"


_SEVERITY = {state: number for number, state in enumerate(SinkState)}


class SinkHealth(NamedTuple):
    """The health of one sink.

    Attributes:
        state: the current state.
        queued: events in the queue.
        in_flight: events that are being sent or wait for their next attempt.
        delivered: events that were delivered.
        retried: events that were sent again, counted each time.
        dropped: events that never reached the sink, by reason.
        dead: events that were given up after at least one attempt.
        last_error: the last error in one line without secrets; None if there was none.
        last_success: when events were last delivered.
        oldest_age: seconds since the oldest event that is queued or in flight was published; 0 if there is
            none.
        capacity: the size of the queue; 0 for an inline sink.
        last_loss: when an event was last dropped or given up; None if none was lost.
        next_attempt: until when the sink is not called or opened again, because it failed, or asked for it;
            None if it may be called now.
    """

    state: SinkState
    queued: int
    in_flight: int
    delivered: int
    retried: int
    dropped: Mapping[str, int]
    dead: int
    last_error: str | None
    last_success: datetime | None
    oldest_age: float
    capacity: int
    last_loss: datetime | None = None
    next_attempt: datetime | None = None


class SinkProblem(NamedTuple):
    """What does not work behind an inline sink, such as one of its channels.

    Attributes:
        state: the state that the sink is in because of it.
        reason: the error, in one line without secrets; None if nothing is wrong, as on standby.
    """

    state: SinkState
    reason: str | None


def worst(*states: SinkState) -> SinkState:
    """Return the worst of some states."""
    return max(states, key=_SEVERITY.__getitem__)


def worst_problem(parts: Mapping[str, SinkHealth]) -> SinkProblem | None:
    """Return the problem of the part in the worst state; None if none has one."""
    fine = {SinkState.OK, SinkState.STANDBY, SinkState.CLOSED}
    failing = [(name, part) for name, part in parts.items() if part.state not in fine]
    if not failing:
        return None
    name, part = max(failing, key=lambda each: _SEVERITY[each[1].state])
    return SinkProblem(part.state, f"{name}: {part.last_error}")


class SinkReport(NamedTuple):
    """The balance of the events that were published for one sink.

    Attributes:
        delivered: events that were delivered.
        given_up: events that were given up after at least one attempt.
        dropped: events that never reached the sink, by reason.
        lost: events that were still queued or in flight when the drain timeout expired.
        retried: events that were sent again, counted each time.
        left: events of a durable stream that are in its store and will be delivered later.
    """

    delivered: int
    given_up: int
    dropped: Mapping[str, int]
    lost: int
    retried: int = 0
    left: int = 0

    def __str__(self) -> str:
        counts = {
            "given up": self.given_up,
            **{f"dropped ({reason})": number for reason, number in self.dropped.items()},
            "lost": self.lost,
            "left in the store": self.left,
        }
        others = [f"{number} {what}" for what, number in counts.items() if number]
        return ", ".join([f"{self.delivered} delivered", *others])

    @property
    def complete(self) -> bool:
        """Whether no event was lost; events that an inline sink left out on purpose do not count."""
        return not (self.given_up or self.lost or any(self.dropped.get(reason) for reason in LOSSES))

    def plus(self, other: SinkReport) -> SinkReport:
        """Return the sum of two reports: of a removed sink and of a later one with the same name."""
        reasons = {*self.dropped, *other.dropped}
        return SinkReport(
            self.delivered + other.delivered,
            self.given_up + other.given_up,
            {reason: self.dropped.get(reason, 0) + other.dropped.get(reason, 0) for reason in reasons},
            self.lost + other.lost,
            self.retried + other.retried,
            other.left,
        )


class DrainReport(NamedTuple):
    """The report of each sink, by name."""

    sinks: Mapping[str, SinkReport]

    @property
    def complete(self) -> bool:
        """Whether no event was lost for any sink."""
        return all(report.complete for report in self.sinks.values())


def origin_for(sink: object) -> str:
    """Return the mark of events about a sink, which are not delivered to that sink."""
    return f"sink:{id(sink):x}"


def state_event(sink: object, name: str, old: SinkState, health: SinkHealth, report: SinkReport) -> Event:
    """Return the event that reports a change of a sink's state: an ERROR if the state is worse.

    Args:
        sink: the sink that has changed.
        name: its name.
        old: its state before.
        health: its health now.
        report: its balance now.
    """
    state = health.state
    worse = not report.complete if state is SinkState.CLOSED else _SEVERITY[state] > _SEVERITY[old]
    data = {
        "sink": name,
        "from_state": old.value,
        "to_state": state.value,
        "queued": health.queued + health.in_flight,
        "delivered": health.delivered,
        "dead": health.dead,
        "dropped": dict(health.dropped),
        "last_error": health.last_error,
    }
    token = "".join("_" if c in ".*>" or c.isspace() else c for c in name) or "_"
    return create_event(
        data,
        EventType.ERROR if worse else EventType.MESSAGE,
        topic=f"sink.{token}.{state.value}",
        sink=name,
        **{ORIGIN: marked(origin_for(sink))},
    )
