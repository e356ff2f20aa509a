"""The base of the feeds for circuit breakers, and what the feeds for retries share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import uuid4

import msgspec
from codomyrmex.integrations.configuration.process import process_name
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.service_mesh.breaker_event import (
    NOT_CLOSED,
    BreakerEventKind,
    BreakerState,
    CircuitBreakerEvent,
    native_name,
    parse_state,
    topic_token,
    transition_id,
)
from codomyrmex.integrations.service_mesh.breaker_table import Row
from codomyrmex.integrations.service_mesh.open_circuits import REPEAT_INTERVAL, OpenCircuits
from codomyrmex.integrations.service_mesh.reports import circuits_left, reports_of
from codomyrmex.streaming import Stream, StreamClosedError, create_event

K = TypeVar("K")
V = TypeVar("V")

_MAX_BREAKERS = 10_000

_log = Diagnostics(__name__)


def wrap_method(target: object, name: str, wrapper: Callable[..., Any], undo: ExitStack) -> None:
    """Replace a method of one object until `undo` is closed.

    If someone else has replaced it again by then, their replacement stays and keeps calling this one.
    """
    attributes = vars(target)
    previous = attributes.get(name)
    attributes[name] = wrapper

    def restore() -> None:
        if attributes.get(name) is not wrapper:
            return
        if previous is None:
            del attributes[name]
        else:
            attributes[name] = previous

    undo.callback(restore)


def remember(table: dict[K, V], key: K, value: V) -> None:
    """Put a value into a table of bounded size; the oldest key is forgotten.

    The names of breakers may come from another host.
    """
    if key not in table and len(table) >= _MAX_BREAKERS:
        with suppress(StopIteration, KeyError, RuntimeError):  # another thread has removed it
            del table[next(iter(table))]
    table[key] = value


def check_type(name: str, value: object, library: str, *types: type) -> None:
    """Raise a TypeError unless `value` is an instance of one of the library's types."""
    if not isinstance(value, types):
        names = " or ".join(kind.__name__ for kind in types)
        raise TypeError(f"{name}: must be a {names} of {library}, got {type(value).__name__}")


def check_instance(instance: object) -> None:
    """Raise an error unless `instance` is None or a name."""
    if instance is not None and not isinstance(instance, str):
        raise TypeError(f"instance: must be a text, got {type(instance).__name__}")
    if instance == "":
        raise ValueError("instance: must not be empty; leave it out for the default")


def check_stream(stream: object) -> None:
    """Raise a TypeError unless `stream` is a stream."""
    if not isinstance(stream, Stream):
        raise TypeError(f"stream: must be a Stream, got {type(stream).__name__}")


class BreakerFeed:
    """Publishes the events of circuit breakers. Never raises, never waits, and needs no event loop.

    Args:
        stream: where events are published.
        source: the library or mesh.
        service: the service that the breakers guard.
        calls: whether to publish each success and failure as well.
        repeat_interval: seconds after which open circuits are published again.
        shared: whether the breakers do not belong to this process: they are those of a mesh, or in a store
            that processes share.
        instance: whose breakers they are, if they are shared; those of this process have its name.

    Attributes:
        open_circuits: the circuits that are open.
    """

    def __init__(
        self,
        stream: Stream,
        source: str,
        service: str | None = None,
        *,
        calls: bool = False,
        repeat_interval: float = REPEAT_INTERVAL,
        shared: bool = False,
        instance: str | None = None,
    ) -> None:
        check_stream(stream)
        check_instance(instance)
        self.open_circuits = OpenCircuits(self._publish, repeat_interval, refresh=self.refresh)
        self.source = source
        self.calls = calls
        self.shared = shared
        self.closed = False
        self._stream = stream
        self._service = service
        self._instance = instance
        self._reports = reports_of(stream)
        self._opened_at: dict[tuple[str | None, str], datetime] = {}
        self._reasons: dict[str, str] = {}

    def close(self) -> None:
        """Stop publishing. Closing twice is allowed."""
        self.closed = True
        self.open_circuits.close()

    def record_failure(self, breaker: str, error: BaseException | None) -> None:
        """Remember the error of a failed call: it is the reason if the circuit opens now."""
        if error is not None:
            remember(self._reasons, breaker, describe(error))

    def publish_change(
        self,
        breaker: str,
        old: object,
        new: object,
        *,
        failure_count: int | None = None,
        opened_at: datetime | None = None,
        shared: bool = False,
        service: str | None = None,
        **details: Any,
    ) -> None:
        """Publish a change of state; nothing is published if the two states are equal.

        Args:
            breaker: the name of the breaker.
            old: the previous state in the source's words.
            new: the current state in the source's words.
            failure_count: consecutive failures.
            opened_at: when the circuit was opened, if the source knows.
            shared: whether `opened_at` comes from a store that other processes use too.
            service: the service that this breaker guards, if it differs from the feed's.
            **details: fields that only this source has.
        """
        from_state, to_state = parse_state(old), parse_state(new)
        if from_state is to_state:
            return
        if opened_at is not None:
            remember(self._opened_at, (service, breaker), opened_at)
        elif to_state is BreakerState.OPEN:
            remember(self._opened_at, (service, breaker), datetime.now(UTC))
        opened_at = self._opened_at.get((service, breaker))
        moment = opened_at.isoformat() if shared and opened_at is not None else uuid4()
        self.publish(
            breaker,
            BreakerEventKind.STATE_CHANGE,
            from_state=from_state,
            to_state=to_state,
            native_state=native_name(new),
            reason=self._reasons.get(breaker) if to_state is BreakerState.OPEN else None,
            failure_count=failure_count,
            opened_at=opened_at,
            details=details,
            transition_id=transition_id(
                self.source, service or self._service, breaker, from_state, to_state, moment
            ),
            service=service,
        )
        if to_state is BreakerState.CLOSED:
            self._opened_at.pop((service, breaker), None)
            self._reasons.pop(breaker, None)

    def publish_snapshot(
        self,
        breaker: str,
        state: object,
        *,
        opened_at: datetime | None = None,
        service: str | None = None,
        **fields: Any,
    ) -> None:
        """Publish the state that a breaker has when the feed is attached; if it is open, that is an alert."""
        to_state, name = parse_state(state), native_name(state)
        if to_state in NOT_CLOSED:
            opened_at = self._opened_at.get((service, breaker)) or opened_at or datetime.now(UTC)
            remember(self._opened_at, (service, breaker), opened_at)
        self.publish(
            breaker,
            BreakerEventKind.SNAPSHOT,
            to_state=to_state,
            native_state=name,
            opened_at=opened_at,
            service=service,
            **fields,
        )

    def publish_rejection(self, breaker: str, native_state: str, **fields: Any) -> None:
        """Publish that an open breaker has rejected a call."""
        kind, state = BreakerEventKind.REJECTED, BreakerState.OPEN
        self.publish(breaker, kind, to_state=state, native_state=native_state, **fields)

    def publish_failure(self, breaker: str, error: BaseException | None, **fields: Any) -> None:
        """Publish a failed call, if calls are published."""
        if self.calls:
            reason = None if error is None else describe(error)
            self.publish(breaker, BreakerEventKind.FAILURE, reason=reason, **fields)

    def publish_success(self, breaker: str, **fields: Any) -> None:
        """Publish a successful call, if calls are published."""
        if self.calls:
            self.publish(breaker, BreakerEventKind.SUCCESS, **fields)

    def publish(
        self, breaker: str, kind: BreakerEventKind, *, service: str | None = None, **fields: Any
    ) -> None:
        """Publish a `CircuitBreakerEvent` with these fields."""
        if self.closed:
            return
        try:
            event = CircuitBreakerEvent(
                breaker=breaker,
                kind=kind,
                source=self.source,
                service=service or self._service,
                instance=self._instance,
                shared=self.shared,
                **fields,
            )
            self.open_circuits.update(event)
        except Exception as error:  # noqa: BLE001 - it would reach the guarded call
            self.log_error(breaker, error)
            return
        self._publish(event)

    def _publish(self, event: CircuitBreakerEvent) -> None:
        if self.closed:
            return
        try:
            if not self.shared:  # named here, because a forked process has circuits of its own
                event = msgspec.structs.replace(event, instance=process_name())
            published = event.to_event()
            if self._reports is not None:
                self._reports.update(event, published.timestamp)
            self._stream.publish_nowait(published)
        except Exception as error:  # noqa: BLE001 - as above
            self.log_error(event.breaker, error)
            if isinstance(error, StreamClosedError):
                self.open_circuits.close()

    def refresh(self) -> None:
        """Publish what has happened to the open circuits, if that has to be asked for. Never raises."""

    def left(self) -> list[Row]:
        """Return the circuits of this instance that another process has published as open."""
        return circuits_left(self._stream, self.source, self._instance)

    def adopt(self, row: Row) -> None:
        """Continue with a circuit that another process has published as open."""
        if row.opened_at is not None:
            remember(self._opened_at, (row.service, row.breaker), row.opened_at)
        self.open_circuits.update(row.snapshot())

    def log_error(self, breaker: str, error: Exception) -> None:
        """Log that an event of a breaker could not be published."""
        key = f"{self.source} {breaker}"
        _log.warning(key, "an event of breaker %r was not published", breaker, error=error)


class RetryFeed:
    """Publishes the retries that a library schedules.

    Args:
        stream: where events are published.
        source: the library.
    """

    def __init__(self, stream: Stream, source: str) -> None:
        check_stream(stream)
        self._stream = stream
        self._source = source
        self._closed = False

    def close(self) -> None:
        """Stop publishing. Closing twice is allowed."""
        self._closed = True

    def publish(
        self, name: str, *, attempt: int, wait: float, waited: float, error: BaseException | None
    ) -> None:
        """Publish `retry_scheduled` with the topic `retry.<name>`. Never raises.

        The arguments of the call are left out, because they may be secret.
        """
        if self._closed:
            return
        try:
            data = {
                "kind": "retry_scheduled",
                "name": name,
                "source": self._source,
                "attempt": attempt,
                "wait": wait,
                "waited": waited,
                "reason": None if error is None else describe(error),
            }
            event = create_event(data, topic=f"retry.{topic_token(name)}", level="warning")
            self._stream.publish_nowait(event)
        except Exception as problem:  # noqa: BLE001 - it would reach the call that is retried
            _log.warning(name, "a retry of %r was not published", name, error=problem)
