"""`CircuitBreakerEvent`: one shape for what circuit breakers tell, wherever they are."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self
from uuid import UUID, uuid5

import msgspec
from codomyrmex.streaming import Event, EventType, create_event

_NOT_IN_A_TOKEN = re.compile(r"[.*>\s]+")
_NAMESPACE = UUID("5f0f3c1e-6a1c-5f4e-9a55-0e3e8f6d3b11")  # of the ids of transitions


class BreakerState(StrEnum):
    """What a circuit breaker does with calls: the states of resilience4j, and `ejected` for a host."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"
    METRICS_ONLY = "metrics_only"
    EJECTED = "ejected"


class BreakerEventKind(StrEnum):
    """What happened at a circuit breaker."""

    STATE_CHANGE = "state_change"
    FAILURE = "failure"
    SUCCESS = "success"
    REJECTED = "rejected"
    RESET = "reset"
    SNAPSHOT = "snapshot"


_LETS_NOTHING_THROUGH = frozenset({BreakerState.OPEN, BreakerState.FORCED_OPEN, BreakerState.EJECTED})
_LETS_ALL_THROUGH = frozenset({BreakerState.CLOSED, BreakerState.DISABLED, BreakerState.METRICS_ONLY})


class CircuitBreakerEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened at a circuit breaker.

    Args:
        breaker: its name.
        kind: what happened.
        source: the library or mesh, such as `pybreaker` or `envoy`.
        service: the service that the breaker guards, where it is known.
        from_state: the state before; None where it is not known.
        to_state: the state now.
        native_state: the state as the source calls it.
        reason: the class and shortened message of an exception, or the mesh's reason; without secrets.
        failure_count: failures in a row, or what the source counts.
        opened_at: when the circuit was opened last.
        details: what only this source tells.
        transition_id: the same for the same transition, also where several processes that share the
            breaker's store each see it; None for what is no transition.
    """

    breaker: str
    kind: BreakerEventKind
    source: str
    service: str | None = None
    from_state: BreakerState | None = None
    to_state: BreakerState | None = None
    native_state: str | None = None
    reason: str | None = None
    failure_count: int | None = None
    opened_at: datetime | None = None
    details: dict[str, Any] = msgspec.field(default_factory=dict)
    transition_id: str | None = None

    @property
    def opens(self) -> bool:
        """Whether calls that were let through are not any more."""
        return (
            self.kind is BreakerEventKind.STATE_CHANGE
            and self.to_state in _LETS_NOTHING_THROUGH
            and self.from_state not in _LETS_NOTHING_THROUGH
        )

    @property
    def closes(self) -> bool:
        """Whether calls are let through again."""
        return self.kind is BreakerEventKind.STATE_CHANGE and self.to_state in _LETS_ALL_THROUGH

    def to_event(self, happened: datetime | None = None) -> Event:
        """Give the event for a stream.

        Its data are the fields, its topic is `circuit_breaker.<source>.<breaker>`, its type ERROR where a
        circuit opens or a host is ejected. The metadata of what opens or closes a circuit is an alert as
        alert routing takes it: `labels`, `status` and `starts_at`.

        Args:
            happened: when; now if left out.
        """
        metadata: dict[str, Any] = {}
        if self.transition_id is not None:
            metadata["transition_id"] = self.transition_id
        if self.opens or self.closes:
            labels = {
                "alertname": "CircuitBreakerOpen",
                "breaker": self.breaker,
                "source": self.source,
                "severity": "critical",
            }
            if self.service is not None:
                labels["service"] = self.service
            metadata["labels"] = labels
            metadata["status"] = "firing" if self.opens else "resolved"
            if self.opened_at is not None:
                metadata["starts_at"] = self.opened_at.isoformat()
        event = create_event(
            msgspec.to_builtins(self),
            EventType.ERROR if self.opens else EventType.MESSAGE,
            topic=f"circuit_breaker.{token(self.source)}.{token(self.breaker)}",
            **metadata,
        )
        return event if happened is None else event.replace(timestamp=happened)

    @classmethod
    def from_event(cls, event: Event) -> Self | None:
        """Read it back from an event of a stream; None where that is something else."""
        try:
            return msgspec.convert(event.data, cls)
        except (msgspec.ValidationError, TypeError):
            return None


def token(name: str) -> str:
    """Make of a name what can stand between the dots of a topic."""
    return _NOT_IN_A_TOKEN.sub("_", name).strip() or "_"


def transition_id(*what: object) -> str:
    """Give an id that is the same for the same transition."""
    return str(uuid5(_NAMESPACE, "\n".join(str(part) for part in what)))


def as_utc(moment: datetime | float | None) -> datetime | None:
    """Give a moment in UTC: from a datetime, where a naive one is UTC, or from seconds since 1970."""
    if moment is None or isinstance(moment, bool):
        return None
    if isinstance(moment, (int, float)):
        return datetime.fromtimestamp(moment, UTC)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def state_of(native: object) -> BreakerState | None:
    """Give the normal state for what a library calls it: `half-opened`, `HALF_OPEN`, `HalfOpen`."""
    text = str(getattr(native, "value", native))
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text).lower().replace("-", "_").replace(" ", "_")
    return _STATES.get(words)


_STATES = {state.value: state for state in BreakerState} | {
    "opened": BreakerState.OPEN,
    "half_opened": BreakerState.HALF_OPEN,
    "halfopen": BreakerState.HALF_OPEN,
    "halfopened": BreakerState.HALF_OPEN,
    "true": BreakerState.OPEN,
    "false": BreakerState.CLOSED,
}
