"""`EnvoyOutlierLog`: hosts that Envoy ejects and takes back become events."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

import msgspec
from codomyrmex.integrations.delivery.seconds import check_seconds
from codomyrmex.integrations.service_mesh.background import BackgroundFeed
from codomyrmex.integrations.service_mesh.breaker_event import (
    BreakerEventKind,
    BreakerState,
    CircuitBreakerEvent,
    transition_id,
)
from codomyrmex.integrations.service_mesh.feed import check_stream
from codomyrmex.integrations.service_mesh.tail import FileTail
from codomyrmex.streaming import Stream, StreamClosedError
from codomyrmex.streaming.diagnostics import Diagnostics

_log = Diagnostics(__name__)


class _Line(msgspec.Struct):
    """A line as Envoy writes it; numbers of 64 bit are text there, and what is zero may be left out."""

    action: str
    upstream_url: str
    cluster_name: str
    timestamp: datetime
    type: str = ""
    num_ejections: int | str = 0
    enforced: bool = False
    secs_since_last_action: int | str | None = None
    eject_success_rate_event: dict[str, Any] | None = None
    eject_failure_percentage_event: dict[str, Any] | None = None
    eject_extension_event: dict[str, Any] | None = None


class EnvoyOutlierLog(BackgroundFeed):
    """Follows Envoy's outlier-detection event log (`outlier_detection.event_log_path`), as `tail -F` does.

    A host that is ejected becomes a `state_change` to `ejected`, with the host as breaker and the cluster as
    service; one that is taken back a `state_change` to `closed`; one that is only detected a `failure` whose
    details say `enforced: false`. A line that is not valid is counted and logged, and left out.

    Args:
        path: the log, a file of JSON lines. It need not be there yet.
        stream: where to.
        position: a file that keeps how far was read, so that a restart goes on where it stopped.
        from_start: read a log that is there already from its beginning.
        interval: seconds between two looks.

    Attributes:
        invalid: lines that were left out.

    Raises:
        TypeError: it is no stream, or the interval is no number.
        ValueError: the interval is not above 0.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        stream: Stream,
        *,
        position: str | os.PathLike[str] | None = None,
        from_start: bool = False,
        interval: float = 0.25,
    ) -> None:
        check_stream(stream)
        check_seconds("interval", interval, finite=True)
        super().__init__(f"outlier log {path}")
        self.invalid = 0
        self._stream = stream
        self._interval = interval
        self._path = path
        self._tail = FileTail(path, position=position, from_start=from_start)

    def poll(self) -> float:
        try:
            while lines := self._tail.lines():
                for line in lines:
                    self._take(line)
                self._tail.save()
                if self._ended.is_set():
                    break
        except OSError as error:
            _log.warning(str(self._path), "the outlier log %s cannot be read", self._path, error=error)
        return self._interval

    def stop(self, timeout: float = 5.0) -> None:
        """End it; what was read is published. May be called twice."""
        super().stop(timeout)
        self._tail.close()

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            told = _decode(line)
            event = _event(told)
        except (msgspec.DecodeError, ValueError) as error:
            self.invalid += 1
            _log.warning(
                f"invalid {self._path}", "a line of the outlier log %s was left out: %s", self._path, error
            )
            return
        try:
            self._stream.publish_nowait(event.to_event(told.timestamp))
        except StreamClosedError:
            self._ended.set()


_decode = msgspec.json.Decoder(_Line).decode


def _event(told: _Line) -> CircuitBreakerEvent:
    if told.action not in {"EJECT", "UNEJECT"}:
        raise ValueError(f"action is EJECT or UNEJECT, not {told.action!r}")
    ejects = told.action == "EJECT"
    if ejects and not told.enforced:
        kind, before, after = BreakerEventKind.FAILURE, None, None
    elif ejects:
        kind, before, after = BreakerEventKind.STATE_CHANGE, BreakerState.CLOSED, BreakerState.EJECTED
    else:
        kind, before, after = BreakerEventKind.STATE_CHANGE, BreakerState.EJECTED, BreakerState.CLOSED
    details: dict[str, Any] = {"enforced": told.enforced, "num_ejections": int(told.num_ejections)}
    if told.secs_since_last_action is not None:
        details["secs_since_last_action"] = int(told.secs_since_last_action)
    for name in ("eject_success_rate_event", "eject_failure_percentage_event", "eject_extension_event"):
        more = getattr(told, name)
        if more:
            details.update(more)
    what = ("envoy", told.cluster_name, told.upstream_url, told.action, told.timestamp.isoformat())
    return CircuitBreakerEvent(
        breaker=told.upstream_url,
        service=told.cluster_name,
        kind=kind,
        source="envoy",
        from_state=before,
        to_state=after,
        native_state=told.action,
        reason=told.type or None,
        opened_at=told.timestamp if ejects and told.enforced else None,
        details=details,
        transition_id=None if after is None else transition_id(*what),
    )
