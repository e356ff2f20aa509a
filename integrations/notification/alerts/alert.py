"""`Alert`: what an event becomes for routing. The same labels are the same alert."""

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
    (
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
        *("time", "timestamp", "trace_flags", "trace_id", "trace_url", "traceparent", "tracestate"),
        *("transition_id", "url", ORIGIN),
    )
)
_OTHERS = _NOT_LABELS | {"topic"}
_CONTROL = frozenset({EventType.HEARTBEAT, EventType.CONNECT, EventType.DISCONNECT})
_MAX_LABELS = 64
_MAX_VALUE = 1024  # characters of a label
_MAX_SUMMARY = 500
_MOST = 10**100  # of whole numbers as text; Python refuses to write much longer ones
_MAX_ANNOTATION = 4096


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that is wrong, or is not any more.

    Args:
        labels: what it is; without empty ones.
        annotations: what to tell of it; they do not make it another alert.
        starts_at: when it began, in seconds since 1970.
        ends_at: when it ended; None while it fires.
        url: where it comes from.
        trace_id: the trace that it belongs to.
    """

    labels: Mapping[str, str]
    annotations: Mapping[str, str] = field(default_factory=dict)
    starts_at: float | None = None
    ends_at: float | None = None
    url: str | None = None
    trace_id: str | None = None


def fingerprint(labels: Mapping[str, str]) -> str:
    """Give what identifies a label set: the same for the same labels, in whatever order."""
    pairs = sorted(labels.items())
    text = "\xff".join([f"{name}\xfe{value}" for name, value in pairs])
    if text.count("\xff") >= max(len(pairs), 1) or text.count("\xfe") > len(pairs):
        text = f"\xff{pairs}"  # a label has one of them itself, and could look like two
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class LabelRules:
    """Which events are alerts, and what their labels are.

    Args:
        chosen: each label with the metadata entry it is taken from; `topic` and `type` are those of the
            event. None for the default: both, each scalar entry of the metadata but ids and times, and
            the entries of `metadata["labels"]`.
        control: whether HEARTBEAT, CONNECT and DISCONNECT are alerts too.
    """

    chosen: Mapping[str, str] | None = None
    control: bool = False

    def alert_of(self, event: Event) -> Alert | None:
        """Make an alert of an event; None where it is none."""
        labels = self.labels_of(event)
        if labels is None:
            return None
        metadata = event.metadata
        happened = event.timestamp.timestamp()
        resolved = metadata.get("status") == "resolved"
        return Alert(
            labels,
            _annotations(event),
            _seconds(metadata.get("starts_at"), happened),
            min(_seconds(metadata.get("ends_at"), happened), happened) if resolved else None,
            _text(metadata.get("generator_url") or metadata.get("trace_url") or metadata.get("url")),
            _text(metadata.get("trace_id")),
        )

    # On the publisher's way: a walk over the metadata, and nothing else.
    def labels_of(self, event: Event) -> dict[str, str] | None:
        """Give the labels of an event; None where it is no alert."""
        if event.type in _CONTROL and not self.control:
            return None
        metadata = event.metadata
        own = metadata.get("labels")
        nested: Mapping[Any, Any] = own if isinstance(own, Mapping) else {}
        if self.chosen is None:
            found: Iterable[tuple[Any, Any]] = [
                ("topic", event.topic),
                ("type", event.type.value),
                *((name, value) for name, value in metadata.items() if name not in _OTHERS),
                *nested.items(),
            ]
        else:
            known = {"type": event.type.value, **metadata, **nested}
            found = [(label, known.get(entry)) for label, entry in self.chosen.items()]
        labels: dict[str, str] = {}
        for key, value in found:
            name = key if key.__class__ is str else _text(key)
            text = value if value.__class__ is str else _text(value)
            if not name:
                continue
            if not text:
                labels.pop(name, None)  # an empty label is none
            elif name in labels or len(labels) < _MAX_LABELS:
                labels[name[:_MAX_VALUE]] = text[:_MAX_VALUE]
        return labels


def _annotations(event: Event) -> dict[str, str]:
    given = event.metadata.get("annotations")
    found: dict[str, str] = {}
    if isinstance(given, Mapping):
        for key, value in list(given.items())[:_MAX_LABELS]:
            name, text = _text(key), _text(value)
            if name and text:
                found[name[:_MAX_VALUE]] = text[:_MAX_ANNOTATION]
    if "summary" not in found and "description" not in found and event.data is not None:
        found["summary"] = _summary(event)
    return found


def _summary(event: Event) -> str:
    data = event.data
    if not isinstance(data, str):
        data = json.dumps(event.to_dict()["data"], ensure_ascii=False, separators=(", ", ": "))
    return data if len(data) <= _MAX_SUMMARY else f"{data[:_MAX_SUMMARY]}..."


def _text(value: object) -> str | None:
    """Give a scalar as text; None for what is none."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < _MOST):
        return str(value)
    return None


def _seconds(value: object, default: float) -> float:
    """Give a moment in seconds since 1970: a datetime, ISO 8601 text, or seconds."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return (value.replace(tzinfo=UTC) if value.tzinfo is None else value).timestamp()
        if isinstance(value, (int, float)):
            datetime.fromtimestamp(value, UTC)  # raises where there is no such moment
            return float(value)
    except (ValueError, OverflowError, OSError):
        pass
    return default
