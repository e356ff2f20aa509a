"""`SSEFeed`: the event streams of Hystrix and resilience4j become events."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, get_args

import msgspec
from codomyrmex.integrations.delivery.seconds import check_seconds
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.service_mesh.background import BackgroundFeed, backoff
from codomyrmex.integrations.service_mesh.breaker_event import (
    BreakerEventKind,
    BreakerState,
    as_utc,
    state_of,
)
from codomyrmex.integrations.service_mesh.feed import BreakerFeed
from codomyrmex.integrations.service_mesh.http import HTTPError, client
from codomyrmex.streaming import SSEDecodeError, SSEDecoder, SSERecord, Stream

Dialect = Literal["hystrix", "resilience4j"]


class SSEFeed(BackgroundFeed):
    """Reads a stream of server-sent events that tells of circuit breakers, and connects again when it ends.

    `hystrix`: `/hystrix.stream`, snapshots of each command, whose differences are published. `resilience4j`:
    `/actuator/streamcircuitbreakerevents`. That the other side is away is an event too, of the breaker
    `feed`; the waits between two attempts double.

    Args:
        url: of the stream. It is not shown, as it may hold a secret.
        stream: where to.
        dialect: who talks.
        calls: publish each success and failure too, where the dialect tells of them.
        retry: seconds before the second attempt to connect.
        timeout: seconds of silence after which the connection counts as dead.

    Attributes:
        invalid: records that could not be read; each is left out.

    Raises:
        TypeError: it is no stream, or a time is no number.
        ValueError: there is no such dialect, a time is not above 0, or the URL is not one of HTTP.
    """

    def __init__(
        self,
        url: str,
        stream: Stream,
        dialect: Dialect,
        *,
        calls: bool = False,
        retry: float = 1.0,
        timeout: float = 30.0,
    ) -> None:
        if dialect not in get_args(Dialect):
            raise ValueError(f"dialect is one of {', '.join(get_args(Dialect))}, not {dialect!r}")
        check_seconds("retry", retry, finite=True)
        super().__init__(f"{dialect} feed")
        self.invalid = 0
        self._url = url
        self._feed = BreakerFeed(stream, dialect, None, calls=calls)
        self._take: Callable[[SSERecord], None] = {
            "hystrix": self._hystrix,
            "resilience4j": self._resilience4j,
        }[dialect]
        self._retry = retry
        self._client = client(url, timeout)
        self._states: dict[tuple[str, str], str] = {}
        self._away = False
        self._failures = 0

    def poll(self) -> float:
        """Read until the connection ends."""
        try:
            with self._client.stream("GET", self._url, headers={"Accept": "text/event-stream"}) as answer:
                answer.raise_for_status()
                self._here()
                decoder = SSEDecoder()
                for chunk in answer.iter_bytes():
                    if self._ended.is_set():
                        return 0.0
                    for record in decoder.feed(chunk):
                        self._read(record)
            raise ConnectionError("the other side has ended the stream")
        except (HTTPError, OSError, SSEDecodeError) as error:
            self._failures += 1
            self._gone(error)
            return backoff(self._failures, self._retry)

    def stop(self, timeout: float = 5.0) -> None:
        """End it. May be called twice."""
        self._feed.detach()
        self._ended.set()
        self._client.close()
        super().stop(timeout)

    def _here(self) -> None:
        self._failures = 0
        if self._away:
            self._away = False
            self._feed.change("feed", BreakerState.OPEN, BreakerState.CLOSED)

    def _gone(self, error: Exception) -> None:
        if not self._away and not self._ended.is_set():
            self._away = True
            # The message of an HTTP error quotes the URL, so only its class is told.
            kind = type(error).__name__
            self._feed.note_failure("feed", ConnectionError(kind) if isinstance(error, HTTPError) else error)
            self._feed.change("feed", BreakerState.CLOSED, BreakerState.OPEN)

    def _read(self, record: SSERecord) -> None:
        try:
            self._take(record)
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
            self.invalid += 1
            self._feed.complain(f"record: {describe(error)}", error)

    def _hystrix(self, record: SSERecord) -> None:
        told: dict[str, Any] = msgspec.json.decode(record.data)
        if told.get("type") != "HystrixCommand":
            return
        name, group = str(told["name"]), str(told.get("group") or "")
        state = "open" if told["isCircuitBreakerOpen"] else "closed"
        before = self._states.get((group, name))
        self._states[group, name] = state
        count, service = told.get("errorCount"), group or None
        if before is None:
            self._feed.snapshot(name, state, failure_count=count, service=service)
        elif before != state:
            self._feed.change(
                name,
                before,
                state,
                failure_count=count,
                service=service,
                error_percentage=told.get("errorPercentage"),
                requests=told.get("requestCount"),
            )

    def _resilience4j(self, record: SSERecord) -> None:
        if record.event == "ping" or not record.data:
            return
        told: dict[str, Any] = msgspec.json.decode(record.data)
        name, kind = str(told["circuitBreakerName"]), str(told["type"])
        moment = _moment(told.get("creationTime"))
        if kind == "STATE_TRANSITION":
            before, _, after = str(told["stateTransition"]).partition("_TO_")
            opened = moment if state_of(after) in {BreakerState.OPEN, BreakerState.FORCED_OPEN} else None
            self._feed.change(name, before, after, opened_at=opened, shared=moment is not None)
        elif kind == "NOT_PERMITTED":
            self._feed.rejected(name, kind)
        elif kind == "RESET":
            self._feed.emit(name, BreakerEventKind.RESET, to_state=BreakerState.CLOSED, native_state=kind)
        elif kind in {"FAILURE_RATE_EXCEEDED", "SLOW_CALL_RATE_EXCEEDED"}:
            self._feed.note_failure(name, RuntimeError(kind))
        elif self._feed.calls and kind in {"ERROR", "SUCCESS"}:
            calls = BreakerEventKind.FAILURE if kind == "ERROR" else BreakerEventKind.SUCCESS
            details = {"duration_ms": told.get("durationInMs")}
            self._feed.emit(name, calls, reason=told.get("errorMessage"), native_state=kind, details=details)


def _moment(text: object) -> datetime | None:
    """Read a time as Java writes it: `2026-11-24T10:00:00.123+01:00[Europe/Berlin]`."""
    if not isinstance(text, str):
        return None
    try:
        return as_utc(msgspec.convert(text.partition("[")[0], datetime))
    except msgspec.ValidationError:
        return None
