"""`Alert` and `LabelRules`: how an event becomes an alert. Alerts with the same labels are the same alert."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from codomyrmex.streaming import Event, EventType
from codomyrmex.streaming.provenance import ORIGIN

_NOT_LABELS = frozenset(
    {
        *(
            "annotations",
            "correlation_id",
            "duration",
            "elapsed",
            "ends_at",
            "event_id",
            "generator_url",
            "id",
        ),
        *("labels", "link", "parent_id", "parent_span_id", "request_id", "span_id", "starts_at", "status"),
        *("time", "timestamp", "topic", "trace_flags", "trace_id", "trace_url", "traceparent", "tracestate"),
        *("transition_id", "url", ORIGIN),
    }
)
_CONTROL = frozenset({EventType.HEARTBEAT, EventType.CONNECT, EventType.DISCONNECT})
_MAX_LABELS = 64
_MAX_VALUE = 1024  # characters of a label
_MAX_ANNOTATION = 4096
_MAX_SUMMARY = 500
_MAX_INTEGER = 10**100  # Python refuses to convert much larger ones to text


@dataclass(frozen=True, slots=True)
class Alert:
    """A problem, firing or resolved.

    Args:
        labels: what identifies it; no value is empty.
        annotations: information that does not identify it.
        starts_at: when it started, in seconds since 1970.
        ends_at: when it ended; None while it fires.
        url: a link to its source.
        trace_id: the trace that it belongs to.
    """

    labels: Mapping[str, str]
    annotations: Mapping[str, str] = field(default_factory=dict)
    starts_at: float | None = None
    ends_at: float | None = None
    url: str | None = None
    trace_id: str | None = None


def fingerprint(labels: Mapping[str, str]) -> str:
    """Return what identifies labels, whatever their order."""
    pairs = sorted(labels.items())
    text = "\xff".join([f"{name}\xfe{value}" for name, value in pairs])
    if text.count("\xff") >= max(len(pairs), 1) or text.count("\xfe") > len(pairs):
        text = f"\xff{pairs}"  # a label contains a separator, and could look like two labels
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class LabelRules:
    """Which events are alerts, and what their labels are.

    Args:
        chosen: for each label, the metadata entry of its value; `topic` and `type` are those of the event.
            None for the default: `topic`, `type`, each scalar entry of the metadata that is not an id or a
            time, and the entries of `metadata["labels"]`.
        control: whether HEARTBEAT, CONNECT and DISCONNECT are alerts too.
    """

    chosen: Mapping[str, str] | None = None
    control: bool = False

    def alert_of(self, event: Event) -> Alert | None:
        """Return the alert of an event; None if it is not an alert."""
        labels = self.labels_of(event)
        if labels is None:
            return None
        metadata = event.metadata
        published = event.timestamp.timestamp()
        resolved = metadata.get("status") == "resolved"
        return Alert(
            labels,
            _annotations(event),
            _seconds(metadata.get("starts_at"), published),
            min(_seconds(metadata.get("ends_at"), published), published) if resolved else None,
            _text(metadata.get("generator_url") or metadata.get("trace_url") or metadata.get("url")),
            _text(metadata.get("trace_id")),
        )

    # This runs in the publisher's call, so it does nothing but read the metadata once.
    def labels_of(self, event: Event) -> dict[str, str] | None:
        """Return the labels of an event; None if it is not an alert."""
        if event.type in _CONTROL and not self.control:
            return None
        metadata = event.metadata
        entries = metadata.get("labels")
        nested: Mapping[Any, Any] = entries if isinstance(entries, Mapping) else {}
        if self.chosen is None:
            items: Iterable[tuple[Any, Any]] = [
                ("topic", event.topic),
                ("type", event.type.value),
                *((name, value) for name, value in metadata.items() if name not in _NOT_LABELS),
                *nested.items(),
            ]
        else:
            values = {"type": event.type.value, **metadata, **nested}
            items = [(label, values.get(entry)) for label, entry in self.chosen.items()]
        labels: dict[str, str] = {}
        for key, value in items:
            name = key if key.__class__ is str else _text(key)
            text = value if value.__class__ is str else _text(value)
            if not name:
                continue
            if not text:
                labels.pop(name, None)  # an empty label is a missing one
            elif name in labels or len(labels) < _MAX_LABELS:
                labels[name[:_MAX_VALUE]] = text[:_MAX_VALUE]
        return labels


def _annotations(event: Event) -> dict[str, str]:
    entries = event.metadata.get("annotations")
    annotations: dict[str, str] = {}
    if isinstance(entries, Mapping):
        for key, value in list(entries.items())[:_MAX_LABELS]:
            name, text = _text(key), _text(value)
            if name and text:
                annotations[name[:_MAX_VALUE]] = text[:_MAX_ANNOTATION]
    if "summary" not in annotations and "description" not in annotations and event.data is not None:
        data = event.data
        if not isinstance(data, str):
            data = json.dumps(event.to_dict()["data"], ensure_ascii=False, separators=(", ", ": "))
        annotations["summary"] = data if len(data) <= _MAX_SUMMARY else f"{data[:_MAX_SUMMARY]}..."
    return annotations


def _text(value: object) -> str | None:
    """Return a scalar as text; None for anything else."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < _MAX_INTEGER):
        return str(value)
    return None


def _seconds(value: object, default: float) -> float:
    """Return a time in seconds since 1970, from a datetime, ISO 8601 text, or seconds."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return (value.replace(tzinfo=UTC) if value.tzinfo is None else value).timestamp()
        if isinstance(value, (int, float)):
            datetime.fromtimestamp(value, UTC)  # raises if there is no such time
            return float(value)
    except (ValueError, OverflowError, OSError):
        pass
    return default
