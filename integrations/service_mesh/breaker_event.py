"""`CircuitBreakerEvent`: one shape for the events of all circuit breakers."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Self

import msgspec
from codomyrmex.streaming import Event, EventType, create_event

_NOT_IN_A_TOKEN = re.compile(r"[.*>\s]+")


class BreakerState(StrEnum):
    """The states of resilience4j's circuit breakers, and `ejected` for a host."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"
    METRICS_ONLY = "metrics_only"
    EJECTED = "ejected"


class BreakerEventKind(StrEnum):
    """What happened to a circuit breaker."""

    STATE_CHANGE = "state_change"
    FAILURE = "failure"
    SUCCESS = "success"
    REJECTED = "rejected"
    RESET = "reset"
    SNAPSHOT = "snapshot"


PROCESS_ENDED = "process ended"
"""The native state of a breaker that has ended with its process."""

_BLOCKING = frozenset({BreakerState.OPEN, BreakerState.FORCED_OPEN, BreakerState.EJECTED})
NOT_CLOSED = _BLOCKING | {BreakerState.HALF_OPEN}
_PASSING = frozenset({BreakerState.CLOSED, BreakerState.DISABLED, BreakerState.METRICS_ONLY})


class CircuitBreakerEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a circuit breaker.

    Attributes:
        breaker: the name of the breaker.
        kind: what happened.
        source: the library or mesh, such as `pybreaker` or `envoy`.
        service: the service that the breaker guards, if known.
        instance: whose breaker it is: the name of the process, or the host of a mesh. None if processes share
            the breaker, or if it is not known.
        shared: whether the breaker does not belong to the process that publishes the event: it is that of a
            mesh, or in a store that processes share. It does not end with the process.
        from_state: the previous state, if known.
        to_state: the current state.
        native_state: the current state in the source's own words.
        reason: the class and shortened message of an exception, or the mesh's reason, with secrets removed.
        failure_count: consecutive failures, or what the source counts instead.
        opened_at: when the circuit was last opened.
        details: fields that only this source has.
        transition_id: identifies a transition. Processes that share the breaker's store and each observe
            the transition publish the same id. None if the event is not a transition.
    """

    breaker: str
    kind: BreakerEventKind
    source: str
    service: str | None = None
    instance: str | None = None
    shared: bool = False
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
        """Whether calls are blocked from now on."""
        return (
            self.kind is BreakerEventKind.STATE_CHANGE
            and self.to_state in _BLOCKING
            and self.from_state not in _BLOCKING
        )

    @property
    def fires(self) -> bool:
        """Whether the circuit opens, or is open or half open in a snapshot."""
        is_snapshot = self.kind is BreakerEventKind.SNAPSHOT
        return self.opens or (is_snapshot and self.to_state in NOT_CLOSED)

    @property
    def closes(self) -> bool:
        """Whether calls pass again from now on."""
        return self.kind is BreakerEventKind.STATE_CHANGE and self.to_state in _PASSING

    def to_event(self, timestamp: datetime | None = None) -> Event:
        """Return the event to publish.

        Its data are the fields, its topic is `circuit_breaker.<source>.<breaker>`, and its type is ERROR if
        a circuit opens, is open in a snapshot, or a host is ejected. Then, and if it closes, the metadata
        describe an alert for alert routing: `labels`, `status`, `starts_at` and `annotations`.

        Args:
            timestamp: when it happened; now by default.
        """
        metadata: dict[str, Any] = {}
        if self.transition_id is not None:
            metadata["transition_id"] = self.transition_id
        if self.fires or self.closes:
            labels = {
                "alertname": "CircuitBreakerOpen",
                "breaker": self.breaker,
                "source": self.source,
                "severity": "critical",
            }
            for label in ("service", "instance"):
                if (value := getattr(self, label)) is not None:
                    labels[label] = value
            metadata["labels"] = labels
            metadata["status"] = "firing" if self.fires else "resolved"
            metadata["annotations"] = {"summary": self.summary()}
            if self.opened_at is not None:
                metadata["starts_at"] = self.opened_at.isoformat()
        event = create_event(
            msgspec.to_builtins(self),
            EventType.ERROR if self.fires else EventType.MESSAGE,
            topic=topic_of(self.source, self.breaker),
            **metadata,
        )
        return event if timestamp is None else event.replace(timestamp=timestamp)

    def summary(self) -> str:
        """Return the state in a sentence: `orders (shop) is open after 3 failures: ConnectionError: away`."""
        service = "" if self.service is None else f" ({self.service})"
        state = "in an unknown state" if self.to_state is None else self.to_state.value.replace("_", " ")
        text = f"{self.breaker}{service} is {state}"
        if self.native_state == PROCESS_ENDED:
            return f"{text}: its process has ended"
        if not self.fires:
            return text
        if self.failure_count:
            text += f" after {self.failure_count} failure{'s' if self.failure_count > 1 else ''}"
        return text if self.reason is None else f"{text}: {self.reason}"

    @classmethod
    def from_event(cls, event: Event) -> Self | None:
        """Return the circuit-breaker event that `event` carries, or None if it carries something else."""
        try:
            return msgspec.convert(event.data, cls)
        except (msgspec.ValidationError, TypeError, ValueError):  # ValueError: a lone surrogate
            return None


def topic_of(source: str, breaker: str) -> str:
    """Return the topic of the events of a breaker."""
    return f"circuit_breaker.{topic_token(source)}.{topic_token(breaker)}"


def topic_token(name: str) -> str:
    """Return `name` without the characters that are special in a topic."""
    return _NOT_IN_A_TOKEN.sub("_", name).strip() or "_"


def transition_id(*parts: object) -> str:
    """Return the id of the transition that the parts identify."""
    return blake2b("\n".join(map(str, parts)).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def as_utc(time: datetime | float | None) -> datetime | None:
    """Return a time in UTC; None if a datetime in UTC cannot express it.

    Args:
        time: a datetime, in UTC if naive, or seconds since the epoch.
    """
    if time is None or isinstance(time, bool):
        return None
    try:
        if isinstance(time, (int, float)):
            return datetime.fromtimestamp(time, UTC)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (OverflowError, ValueError, OSError):
        return None


def parse_state(native: object) -> BreakerState | None:
    """Return the state that a library names `native`: `half-opened`, `HALF_OPEN`, `HalfOpen`."""
    name = native_name(native)
    state = _STATES.get(name)  # the spelling of most libraries
    if state is None:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
        state = _STATES.get(words.lower().replace("-", "_").replace(" ", "_"))
    return state


def native_name(native: object) -> str:
    """Return what a library calls a state, which may be the member of an Enum."""
    return str(getattr(native, "value", native))


_STATES = {state.value: state for state in BreakerState} | {
    "opened": BreakerState.OPEN,
    "half_opened": BreakerState.HALF_OPEN,
    "halfopen": BreakerState.HALF_OPEN,
    "halfopened": BreakerState.HALF_OPEN,
    "true": BreakerState.OPEN,
    "false": BreakerState.CLOSED,
}
