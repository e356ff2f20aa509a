"""How a sink is: its state and its numbers, and the change of its state as an event."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from codomyrmex.streaming import Event, EventType, create_event
from codomyrmex.streaming.provenance import ORIGIN, marked


class SinkState(StrEnum):
    """What a sink is doing.

    `OK`: its last attempt came through, or it had none. `RETRYING`: its last attempt failed. `OPEN`:
    it failed so often that its breaker leaves it alone. `CLOSED`: it gets nothing more.
    """

    OK = "ok"
    RETRYING = "retrying"
    OPEN = "open"
    CLOSED = "closed"


class SinkHealth(NamedTuple):
    """How one sink is.

    Attributes:
        state: what it is doing.
        queued: events that wait for it.
        in_flight: events that are being sent, or wait to be sent again.
        delivered: events that it took.
        retried: events sent again, each as often as it was.
        dropped: events that never came to it, by reason.
        dead: events given up after they were tried.
        last_error: what went wrong last, in a line without secrets; None where nothing has.
        last_success: when it last took events.
        oldest_age: seconds that the oldest event which is queued or in flight has been waiting; 0 where
            there is none.
        capacity: how many events may be queued; 0 for an inline sink.
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


def origin_for(sink: object) -> str:
    """Give what marks an event as being about a sink, so that it is not delivered to that sink."""
    return f"sink:{id(sink):x}"


def state_event(sink: object, name: str, old: SinkState, health: SinkHealth, *, worse: bool) -> Event:
    """Make the event that tells of a change of state."""
    data = {
        "sink": name,
        "from_state": old.value,
        "to_state": health.state.value,
        "queued": health.queued + health.in_flight,
        "delivered": health.delivered,
        "dead": health.dead,
        "dropped": dict(health.dropped),
        "last_error": health.last_error,
    }
    return create_event(
        data,
        EventType.ERROR if worse else EventType.MESSAGE,
        topic=f"sink.{topic_token(name)}.{health.state.value}",
        sink=name,
        **{ORIGIN: marked(origin_for(sink))},
    )


def topic_token(name: str) -> str:
    """Make of a name what can stand between the dots of a topic."""
    clean = "".join("_" if c in ".*>" or c.isspace() else c for c in name)
    return clean or "_"
