"""`SSEFeed`: publishes the events of Hystrix and resilience4j."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Literal, get_args

import msgspec
from codomyrmex.integrations.configuration.durations import check_seconds
from codomyrmex.integrations.delivery.secrets import clean
from codomyrmex.integrations.service_mesh.breaker_event import (
    BreakerEventKind,
    BreakerState,
    as_utc,
    parse_state,
)
from codomyrmex.integrations.service_mesh.breaker_table import Row
from codomyrmex.integrations.service_mesh.feed import remember
from codomyrmex.integrations.service_mesh.open_circuits import REPEAT_INTERVAL
from codomyrmex.integrations.service_mesh.remote import RemoteFeed
from codomyrmex.streaming import SSEDecoder, SSERecord, Stream

Dialect = Literal["hystrix", "resilience4j"]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]
Number = int | float


class _Hystrix(msgspec.Struct, rename="camel"):
    """A command of Hystrix. An aggregator counts the instances with each value: `{"false": 2}`."""

    name: Name
    is_circuit_breaker_open: bool | dict[Literal["true", "false"], Annotated[int, msgspec.Meta(ge=0)]]
    group: str | None = None
    error_count: int | None = None
    error_percentage: Number | None = None
    request_count: Number | None = None

    def state(self) -> str:
        """Return the state; of several instances, that of the majority."""
        value = self.is_circuit_breaker_open
        if isinstance(value, dict):
            if not sum(value.values()):
                raise ValueError("isCircuitBreakerOpen: must count at least one instance, got none")
            value = value.get("true", 0) > value.get("false", 0)
        return "open" if value else "closed"


class _Resilience4j(msgspec.Struct, rename="camel"):
    """An event of resilience4j."""

    circuit_breaker_name: Name
    type: str
    creation_time: str | None = None
    state_transition: str | None = None
    error_message: str | None = None
    duration_in_ms: Number | None = None


class SSEFeed(RemoteFeed):
    """Reads a stream of server-sent events about circuit breakers, and reconnects when it ends.

    `hystrix`: `/hystrix.stream` sends snapshots of each command; the differences are published.
    `resilience4j`: `/actuator/streamcircuitbreakerevents`. A lost connection is an event of the breaker
    `feed`; the delays between attempts to reconnect double up to 30 s.

    Args:
        url: the stream. It is never logged or published, because it may contain a secret.
        stream: where events are published.
        dialect: the format of the events.
        calls: publish each success and failure as well, if the dialect reports them.
        backoff_initial: seconds before the first attempt to reconnect.
        timeout: seconds without data after which the connection counts as lost.
        repeat_interval: seconds after which an open circuit is published again, as a snapshot; also while the
            connection is lost, as it may still be open. After a reconnect, the next record shows its state.
        instance: whose breakers they are, for the label `instance`; by default the host and port of the URL,
            and this host's name for a loopback address. Processes that read the same source, such as those
            of `run_once`, need the same one.

    Attributes:
        invalid: records that could not be read and were skipped.

    Raises:
        TypeError: `stream` is not a stream, or a time is not a number.
        ValueError: the dialect is unknown, a time is not greater than 0, or the URL is not an HTTP URL.
    """

    def __init__(
        self,
        url: str,
        stream: Stream,
        dialect: Dialect,
        *,
        calls: bool = False,
        backoff_initial: float = 1.0,
        timeout: float = 30.0,
        repeat_interval: float = REPEAT_INTERVAL,
        instance: str | None = None,
    ) -> None:
        if dialect not in get_args(Dialect):
            raise ValueError(f"dialect: must be one of {', '.join(get_args(Dialect))}, got {dialect!r}")
        check_seconds("backoff_initial", backoff_initial, finite=True)
        super().__init__(
            url,
            stream,
            dialect,
            "feed",
            calls=calls,
            backoff_initial=backoff_initial,
            timeout=timeout,
            repeat_interval=repeat_interval,
            instance=instance,
        )
        self._publish: Callable[[SSERecord], None] = {
            "hystrix": self._publish_hystrix,
            "resilience4j": self._publish_resilience4j,
        }[dialect]
        self._states: dict[tuple[str | None, str], str] = {}

    def read(self) -> float:
        """Read until the connection ends."""
        with self.get(self.url, headers={"Accept": "text/event-stream"}) as response:
            self.connected()
            decoder = SSEDecoder()
            for chunk in response.iter_bytes():
                if self.closing.is_set():
                    return 0.0
                for record in decoder.feed(chunk):
                    self.skip_invalid(self._publish, record)
        raise ConnectionError("the server has ended the stream")

    def adopt(self, row: Row) -> None:
        if self.feed.source == "hystrix" and row.state is not None:
            self.feed.adopt(row)  # a record about it follows soon
            remember(self._states, (row.service, row.breaker), row.state.value)

    def reconnected(self) -> None:
        # resilience4j reports changes only, and a command of Hystrix may not come back: an alert that is not
        # confirmed ends with its timeout.
        self.feed.open_circuits.clear()

    def _publish_hystrix(self, record: SSERecord) -> None:
        plain = msgspec.json.decode(record.data)
        if not isinstance(plain, dict):
            raise ValueError(f"must be an object, got {type(plain).__name__}")  # noqa: TRY004 - as the others
        if plain.get("type") != "HystrixCommand":
            return
        command = msgspec.convert(plain, _Hystrix)
        name, service, state = command.name, command.group or None, command.state()
        previous = self._states.get((service, name))
        remember(self._states, (service, name), state)
        is_confirmed = (service, name) in self.feed.open_circuits
        if previous is None or (previous == state == "open" and not is_confirmed):
            self.feed.publish_snapshot(name, state, failure_count=command.error_count, service=service)
        else:
            self.feed.publish_change(
                name,
                previous,
                state,
                failure_count=command.error_count,
                service=service,
                error_percentage=command.error_percentage,
                requests=command.request_count,
            )

    def _publish_resilience4j(self, record: SSERecord) -> None:
        if record.event == "ping" or not record.data:
            return
        event = msgspec.json.decode(record.data, type=_Resilience4j)
        name, kind = event.circuit_breaker_name, event.type
        created = _parse_java_time(event.creation_time)
        feed = self.feed
        if kind == "STATE_TRANSITION":
            old, _, new = (event.state_transition or "").partition("_TO_")
            if parse_state(old) is None or parse_state(new) is None:
                shown = ascii(event.state_transition)[:100]
                raise ValueError(f"stateTransition: must be like CLOSED_TO_OPEN, got {shown}")
            is_open = parse_state(new) in {BreakerState.OPEN, BreakerState.FORCED_OPEN}
            opened_at = created if is_open else None
            feed.publish_change(name, old, new, opened_at=opened_at, shared=created is not None)
        elif kind == "NOT_PERMITTED":
            feed.publish_rejection(name, kind)
        elif kind == "RESET":
            feed.publish(name, BreakerEventKind.RESET, to_state=BreakerState.CLOSED, native_state=kind)
        elif kind in {"FAILURE_RATE_EXCEEDED", "SLOW_CALL_RATE_EXCEEDED"}:
            feed.record_failure(name, RuntimeError(kind))
        elif feed.calls and kind in {"ERROR", "SUCCESS"}:
            outcome = BreakerEventKind.FAILURE if kind == "ERROR" else BreakerEventKind.SUCCESS
            details = {"duration_ms": event.duration_in_ms}
            reason = None if event.error_message is None else clean(event.error_message)
            feed.publish(name, outcome, reason=reason, native_state=kind, details=details)


def _parse_java_time(text: object) -> datetime | None:
    """Return a time that Java has written, such as `2026-11-24T10:00:00.123+01:00[Europe/Berlin]`."""
    if not isinstance(text, str):
        return None
    try:
        return as_utc(msgspec.convert(text.partition("[")[0], datetime))
    except msgspec.ValidationError:
        return None
