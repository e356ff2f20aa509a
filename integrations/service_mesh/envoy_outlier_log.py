"""`EnvoyOutlierLog`: publishes the hosts that Envoy ejects and readmits."""

from __future__ import annotations

import os
import socket
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
from codomyrmex.integrations.configuration.durations import check_seconds
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.service_mesh.background import BackgroundFeed
from codomyrmex.integrations.service_mesh.breaker_event import (
    BreakerEventKind,
    BreakerState,
    CircuitBreakerEvent,
    as_utc,
    transition_id,
)
from codomyrmex.integrations.service_mesh.feed import check_instance, check_stream
from codomyrmex.integrations.service_mesh.open_circuits import REPEAT_INTERVAL, OpenCircuits
from codomyrmex.integrations.service_mesh.reports import circuits_left, reports_of
from codomyrmex.integrations.service_mesh.tail import FileTail
from codomyrmex.streaming import Stream, StreamClosedError

_log = Diagnostics(__name__)


class _Entry(msgspec.Struct):
    """A line of the log. Envoy writes 64-bit numbers as strings and may omit zeros."""

    action: str
    upstream_url: Annotated[str, msgspec.Meta(max_length=1_000)]
    cluster_name: Annotated[str, msgspec.Meta(max_length=1_000)]
    timestamp: datetime
    type: str = ""
    num_ejections: int | str = 0
    enforced: bool = False
    secs_since_last_action: int | str | None = None
    eject_success_rate_event: dict[str, Any] | None = None
    eject_failure_percentage_event: dict[str, Any] | None = None
    eject_extension_event: dict[str, Any] | None = None


class EnvoyOutlierLog(BackgroundFeed):
    """Follows Envoy's log of outlier detection (`outlier_detection.event_log_path`) like `tail -F`.

    An ejected host is a `state_change` to `ejected`, with the host as the breaker and the cluster as the
    service; its return is a `state_change` to `closed`. A host that is detected but not ejected is a
    `failure` with `enforced: false` in its details. An invalid line is counted, logged and skipped.

    Args:
        path: the log, a file of JSON lines. It need not exist yet.
        stream: where events are published.
        position: a file in which the position in the log is saved, so that a restart resumes there.
        from_start: read an existing log from its beginning.
        poll_interval: seconds between two polls.
        repeat_interval: seconds after which an ejected host is published again, as a snapshot, for at most an
            hour: an Envoy that is restarted does not log that its hosts are back.
        instance: whose hosts they are, for the label `instance`; by default this host's name and the path.

    Attributes:
        invalid: lines that were skipped.

    Raises:
        TypeError: `stream` is not a stream, or the interval is not a number.
        ValueError: the interval is not greater than 0.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        stream: Stream,
        *,
        position: str | os.PathLike[str] | None = None,
        from_start: bool = False,
        poll_interval: float = 0.25,
        repeat_interval: float = REPEAT_INTERVAL,
        instance: str | None = None,
    ) -> None:
        check_stream(stream)
        check_instance(instance)
        check_seconds("poll_interval", poll_interval, finite=True)
        super().__init__(f"outlier log {path}")
        self.invalid = 0
        self._stream = stream
        self._reports = reports_of(stream)
        self._began = False
        self._poll_interval = poll_interval
        self._path = path
        self._instance = log_instance(path) if instance is None else instance
        self.open_circuits = OpenCircuits(self._publish_event, repeat_interval, timedelta(hours=1))
        self._tail = FileTail(path, position=position, from_start=from_start)

    def poll(self) -> float:
        """Publish the lines that were written since the last poll."""
        if not self._began:
            self._began = True
            for row in circuits_left(self._stream, "envoy", self._instance):
                self.open_circuits.update(row.snapshot())
        try:
            while lines := self._tail.lines(self.closing.is_set):
                for line in lines:
                    self._publish(line)
                self._tail.save()
                if self.closing.is_set():
                    break
        except OSError as error:
            _log.warning(str(self._path), "the outlier log %s cannot be read", self._path, error=error)
        return self._poll_interval

    def close(self, timeout: float = 5.0) -> None:
        super().close(timeout)
        self.open_circuits.close()
        self._tail.close()

    def _publish(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            event, timestamp = read_line(line, self._instance)
        except Exception as error:  # noqa: BLE001 - whatever a line contains, the next one is read
            self.invalid += 1
            key, text = f"invalid {self._path}", "a line of the outlier log %s was skipped: %s"
            _log.warning(key, text, self._path, describe(error))
            return
        self.open_circuits.update(event)
        self._publish_event(event, timestamp)

    def _publish_event(self, event: CircuitBreakerEvent, timestamp: datetime | None = None) -> None:
        try:
            published = event.to_event(timestamp)
            if self._reports is not None:
                self._reports.update(event, published.timestamp)
            self._stream.publish_nowait(published)
        except StreamClosedError:
            self.closing.set()
            self.open_circuits.close()
        except Exception as error:  # noqa: BLE001 - the next event may be published
            text = "an event of the outlier log %s was not published"
            _log.warning(str(self._path), text, self._path, error=error)


_decode = msgspec.json.Decoder(_Entry).decode


def log_instance(path: str | os.PathLike[str]) -> str:
    """Return whose hosts a log is about: the Envoy that writes this file on this host."""
    return f"{socket.gethostname()}:{Path(path).resolve()}"


def read_line(line: bytes, instance: str) -> tuple[CircuitBreakerEvent, datetime]:
    """Return the event of a line of the log of an instance, and its time.

    Raises:
        ValueError: the line is invalid.
        msgspec.DecodeError: it is not JSON, or has other fields.
    """
    entry = _decode(line)
    timestamp = _timestamp(entry)
    return _to_event(entry, timestamp, instance), timestamp


def _timestamp(entry: _Entry) -> datetime:
    timestamp = as_utc(entry.timestamp)
    if timestamp is None:
        raise ValueError(f"timestamp: must be a time that UTC can express, got {entry.timestamp}")
    return timestamp


def _to_event(entry: _Entry, timestamp: datetime, instance: str) -> CircuitBreakerEvent:
    if entry.action not in {"EJECT", "UNEJECT"}:
        raise ValueError(f"action: must be EJECT or UNEJECT, got {entry.action!r}")
    ejects = entry.action == "EJECT"
    if not ejects:
        kind, from_state, to_state = BreakerEventKind.STATE_CHANGE, BreakerState.EJECTED, BreakerState.CLOSED
    elif entry.enforced:
        kind, from_state, to_state = BreakerEventKind.STATE_CHANGE, BreakerState.CLOSED, BreakerState.EJECTED
    else:
        kind, from_state, to_state = BreakerEventKind.FAILURE, None, None
    details: dict[str, Any] = {"enforced": entry.enforced, "num_ejections": int(entry.num_ejections)}
    if entry.secs_since_last_action is not None:
        details["secs_since_last_action"] = int(entry.secs_since_last_action)
    for name in ("eject_success_rate_event", "eject_failure_percentage_event", "eject_extension_event"):
        details.update(getattr(entry, name) or {})
    identity = ("envoy", entry.cluster_name, entry.upstream_url, entry.action, timestamp.isoformat())
    return CircuitBreakerEvent(
        breaker=entry.upstream_url,
        service=entry.cluster_name,
        instance=instance,
        shared=True,
        kind=kind,
        source="envoy",
        from_state=from_state,
        to_state=to_state,
        native_state=entry.action,
        reason=entry.type or None,
        opened_at=timestamp if ejects and entry.enforced else None,
        details=details,
        transition_id=None if to_state is None else transition_id(*identity),
    )
