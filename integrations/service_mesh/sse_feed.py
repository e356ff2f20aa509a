"""`SSEFeed`: publishes the events of Hystrix and resilience4j."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, get_args

import msgspec
from codomyrmex.integrations.configuration.durations import check_seconds
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.service_mesh.breaker_event import (
    BreakerEventKind,
    BreakerState,
    as_utc,
    parse_state,
)
from codomyrmex.integrations.service_mesh.remote import RemoteFeed
from codomyrmex.streaming import SSEDecoder, SSERecord, Stream

Dialect = Literal["hystrix", "resilience4j"]


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

    Attributes:
        invalid: records that could not be read and were skipped.

    Raises:
        TypeError: `stream` is not a stream, or a time is not a number.
        ValueError: there is no such dialect, a time is not greater than 0, or the URL is not an HTTP URL.
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
    ) -> None:
        if dialect not in get_args(Dialect):
            raise ValueError(f"dialect: must be one of {', '.join(get_args(Dialect))}, got {dialect!r}")
        check_seconds("backoff_initial", backoff_initial, finite=True)
        super().__init__(
            url, stream, dialect, "feed", calls=calls, backoff_initial=backoff_initial, timeout=timeout
        )
        self.invalid = 0
        self._publish: Callable[[SSERecord], None] = {
            "hystrix": self._publish_hystrix,
            "resilience4j": self._publish_resilience4j,
        }[dialect]
        self._states: dict[tuple[str, str], str] = {}

    def read(self) -> float:
        """Read until the connection ends."""
        with self.client.stream("GET", self.url, headers={"Accept": "text/event-stream"}) as response:
            response.raise_for_status()
            self.connected()
            decoder = SSEDecoder()
            for chunk in response.iter_bytes():
                if self.closing.is_set():
                    return 0.0
                for record in decoder.feed(chunk):
                    self._read_record(record)
        raise ConnectionError("the other side has ended the stream")

    def _read_record(self, record: SSERecord) -> None:
        try:
            self._publish(record)
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
            self.invalid += 1
            self.feed.log_error(f"record: {describe(error)}", error)

    def _publish_hystrix(self, record: SSERecord) -> None:
        command: dict[str, Any] = msgspec.json.decode(record.data)
        if command.get("type") != "HystrixCommand":
            return
        name, group = str(command["name"]), str(command.get("group") or "")
        state = "open" if command["isCircuitBreakerOpen"] else "closed"
        previous = self._states.get((group, name))
        self._states[group, name] = state
        count, service = command.get("errorCount"), group or None
        if previous is None:
            self.feed.publish_snapshot(name, state, failure_count=count, service=service)
        else:
            self.feed.publish_change(
                name,
                previous,
                state,
                failure_count=count,
                service=service,
                error_percentage=command.get("errorPercentage"),
                requests=command.get("requestCount"),
            )

    def _publish_resilience4j(self, record: SSERecord) -> None:
        if record.event == "ping" or not record.data:
            return
        event: dict[str, Any] = msgspec.json.decode(record.data)
        name, kind = str(event["circuitBreakerName"]), str(event["type"])
        created = _parse_java_time(event.get("creationTime"))
        feed = self.feed
        if kind == "STATE_TRANSITION":
            old, _, new = str(event["stateTransition"]).partition("_TO_")
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
            details = {"duration_ms": event.get("durationInMs")}
            feed.publish(name, outcome, reason=event.get("errorMessage"), native_state=kind, details=details)


def _parse_java_time(text: object) -> datetime | None:
    """Return a time that Java has written, such as `2026-11-24T10:00:00.123+01:00[Europe/Berlin]`."""
    if not isinstance(text, str):
        return None
    try:
        return as_utc(msgspec.convert(text.partition("[")[0], datetime))
    except msgspec.ValidationError:
        return None
