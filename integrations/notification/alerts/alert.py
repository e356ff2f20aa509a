"""`Alert` and `LabelRules`: how an event becomes an alert. Alerts with the same labels are the same alert."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from itertools import chain
from typing import Any

from codomyrmex.integrations.configuration.matchers import Matcher, matches_all
from codomyrmex.streaming import Event, EventType
from codomyrmex.streaming.errors import shorten
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
_MAX_URL = 2048  # a longer one is left out, as a cut one leads nowhere
_MAX_BYTES = 16_384  # of the labels of an alert, and of its annotations
_MAX_INTEGER = 10**100  # Python refuses to convert much larger ones to text
MAX_POSTED = 131_072  # characters in a posted alert; even with all of them escaped, it fits into a log entry
MAX_TIME = 32_503_679_999.0  # the end of the year 2999, which can be formatted in any time zone


@dataclass(frozen=True, slots=True)
class Alert:
    """A problem, firing or resolved.

    Args:
        labels: what identifies it; no value is empty.
        annotations: information that does not identify it.
        starts_at: when it started, in seconds since 1970.
        ends_at: when it ends or ended; None if that is not known yet: then it ends `resolve_timeout` after
            its last update.
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


def past_or(seconds: float | None, now: float) -> float:
    """Return a time in seconds since 1970; `now` if it is None, before 1970, in the future or NaN."""
    return seconds if seconds is not None and 0 <= seconds <= now else now


def not_in_the_future(alert: Alert, now: float) -> Alert:
    """Return the alert of an event with an end that is not in the future, as by a clock that is ahead."""
    return alert if alert.ends_at is None or alert.ends_at <= now else replace(alert, ends_at=now)


def posted(alert: Alert, now: float) -> Alert:
    """Return an alert of `AlertSink.post` with its start, and without empty labels and annotations.

    Raises:
        TypeError: it is not an alert, or one of its texts is not text.
        ValueError: it has no labels, has an impossible time, ends before it starts, or is too large.
    """
    if not isinstance(alert, Alert):
        raise TypeError(f"alert: must be an Alert, got {type(alert).__name__}")
    labels, annotations = _with_text("labels", alert.labels), _with_text("annotations", alert.annotations)
    if not labels:
        raise ValueError("labels: must not be empty")
    for name, text in (("url", alert.url), ("trace_id", alert.trace_id)):
        if not isinstance(text, str | None):
            raise TypeError(f"{name}: must be text or None, got {shorten(text)}")
    for name, time in (("starts_at", alert.starts_at), ("ends_at", alert.ends_at)):
        is_number = isinstance(time, int | float) and not isinstance(time, bool)
        if time is not None and not (is_number and time <= MAX_TIME):
            problem = "must be in seconds since 1970 and before the year 3000"
            raise ValueError(f"{name}: {problem}, got {shorten(time)}")
    if (size := text_size(alert)) > MAX_POSTED:
        raise ValueError(f"alert: must have at most {MAX_POSTED:,} characters, got {size:,}")
    starts_at = alert.starts_at
    if starts_at is None:
        starts_at = now if alert.ends_at is None else min(now, alert.ends_at)
    if alert.ends_at is not None and alert.ends_at < starts_at:
        raise ValueError(f"ends_at: must not be before starts_at, got {alert.ends_at:g} and {starts_at:g}")
    return replace(alert, labels=labels, annotations=annotations, starts_at=starts_at)


def text_size(alert: Alert) -> int:
    """Return how many characters the labels, the annotations and the URL of an alert have."""
    texts = (alert.labels, alert.labels.values(), alert.annotations, alert.annotations.values())
    return sum(map(len, chain.from_iterable(texts))) + len(alert.url or "")


def _with_text(name: str, texts: Mapping[str, str]) -> dict[str, str]:
    """Return the texts that are not empty."""
    if not isinstance(texts, Mapping) or not all(map(_is_text, (*texts, *texts.values()))):
        raise TypeError(f"{name}: must be a mapping of texts, got {shorten(texts)}")
    return {key: text for key, text in texts.items() if text}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


@dataclass(frozen=True, slots=True)
class LabelRules:
    """Which events are alerts, and what their labels are.

    Args:
        chosen: for each label, the metadata entry of its value; `topic` and `type` are those of the event.
            None for the default: `topic`, `type`, each scalar entry of the metadata that is not an id or a
            time, and the entries of `metadata["labels"]`.
        control: whether HEARTBEAT, CONNECT and DISCONNECT are alerts too.
        selected: the matchers that the labels of an alert meet. None for the default: an event is an alert if
            its type is ERROR, or its metadata has `labels` or a `status` of `firing` or `resolved`.
    """

    chosen: Mapping[str, str] | None = None
    control: bool = False
    selected: Sequence[Matcher] | None = None

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
            _short(metadata.get("generator_url") or metadata.get("trace_url") or metadata.get("url")),
            _short(metadata.get("trace_id")),
        )

    # This runs in the publisher's call, so it does nothing but read the metadata once.
    def labels_of(self, event: Event) -> dict[str, str] | None:
        """Return the labels of an event; None if it is not an alert."""
        metadata = event.metadata
        entries = metadata.get("labels")
        if not self._may_be_alert(event, entries):
            return None
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
        if sum(map(len, labels)) + sum(map(len, labels.values())) > _MAX_BYTES // 4:  # four bytes for each
            labels = _bounded(labels)
        if self.selected is not None and not matches_all(self.selected, labels):
            return None
        return labels

    def _may_be_alert(self, event: Event, labels: object) -> bool:
        if event.type in _CONTROL:
            return self.control
        return (
            self.selected is not None
            or event.type is EventType.ERROR
            or isinstance(labels, Mapping)
            or event.metadata.get("status") in ("firing", "resolved")
        )


def _annotations(event: Event) -> dict[str, str]:
    entries = event.metadata.get("annotations")
    annotations: dict[str, str] = {}
    if isinstance(entries, Mapping):
        for key, value in list(entries.items())[:_MAX_LABELS]:
            name, text = _text(key), _text(value)
            if name and text:
                annotations[name[:_MAX_VALUE]] = text[:_MAX_ANNOTATION]
        annotations = _bounded(annotations)
    if "summary" not in annotations and "description" not in annotations and event.data is not None:
        data = _data_of(event)
        annotations["summary"] = data if len(data) <= _MAX_SUMMARY else f"{data[:_MAX_SUMMARY]}..."
    return annotations


def _data_of(event: Event) -> str:
    if isinstance(event.data, str):
        return event.data
    try:
        return json.dumps(event.to_dict()["data"], ensure_ascii=False, separators=(", ", ": "))
    except Exception as error:  # noqa: BLE001 - data can be anything, and the alert matters more
        return f"(the data of the event cannot be shown: {type(error).__name__})"


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


def _short(value: object) -> str | None:
    text = _text(value)
    return text if text is not None and len(text) <= _MAX_URL else None


def _bounded(texts: dict[str, str]) -> dict[str, str]:
    """Return the first items, with at most `_MAX_BYTES` in UTF-8."""
    bounded: dict[str, str] = {}
    remaining = _MAX_BYTES
    for name, text in texts.items():
        remaining -= len(f"{name}{text}".encode(errors="surrogatepass"))
        if remaining < 0:
            break
        bounded[name] = text
    return bounded


def _seconds(value: object, default: float) -> float:
    """Return a time in seconds since 1970, from a datetime, ISO 8601 text, or seconds.

    A time before 1970 or after 2999 is the default too, as no alert can have such a time: Go writes
    0001-01-01T00:00:00Z for a time that is not set.
    """
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            value = (value.replace(tzinfo=UTC) if value.tzinfo is None else value).timestamp()
        if isinstance(value, (int, float)) and 0 <= value <= MAX_TIME:
            return float(value)
    except (ValueError, OverflowError):
        pass
    return default
