"""How a notification reads: its title and body, by default or by the templates of a channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.notification.alerts.config import AlertConfig, ChannelConfig
from codomyrmex.integrations.notification.alerts.notification import (
    Kind,
    Notification,
    NotifiedAlert,
    Part,
    Reason,
    Status,
    firing_in,
)
from codomyrmex.integrations.notification.templates import compile_template
from codomyrmex.integrations.notification.wording import Message, one_line, severity_type

_MAX_ALERTS = 50  # in a body; the others are counted
_WORST = ("failure", "warning", "info")


class Wording:
    """Words the notifications of a configuration.

    The default title is made of the labels of the group and of nothing that changes, because services
    that take messages with the same title for one incident could not resolve it otherwise.

    Args:
        config: the configuration.
    """

    def __init__(self, config: AlertConfig) -> None:
        self._trace_url = config.trace_url

    def message(self, notification: Notification, channel: ChannelConfig) -> Message:
        """Make the message of a notification.

        Args:
            notification: what is to be told.
            channel: its templates and format.

        Raises:
            TemplateError: a template does not work with this notification.
        """
        values = {} if channel.title is channel.body is None else self._values(notification)
        title = _title(notification)
        if channel.title is not None:
            title = compile_template(channel.title).render(**values)
        title = one_line(title)
        if channel.body is None:
            return Message(title, self._body(notification), notify_type(notification), "text")
        body = compile_template(channel.body, channel.format).render(**values)
        return Message(title, body, notify_type(notification), channel.format)

    def _values(self, notification: Notification) -> dict[str, Any]:
        """Give a notification to a template: plain values only, nothing that could be called."""
        alerts = [self._alert_values(alert) for alert in notification.alerts]
        return {
            "receiver": notification.receiver,
            "channel": notification.channel,
            "status": notification.status.value,
            "reason": notification.reason.value,
            "kind": notification.kind.value,
            "route": notification.route_path,
            "route_labels": dict(notification.route_labels),
            "group_key": notification.group_key,
            "group_labels": dict(notification.group_labels),
            "common_labels": dict(notification.common_labels),
            "common_annotations": dict(notification.common_annotations),
            "fallback_for": notification.fallback_for,
            "title": _title(notification),
            "body": self._body(notification),
            "alerts": alerts,
            "firing": [alert for alert in alerts if alert["status"] == "firing"],
            "resolved": [alert for alert in alerts if alert["status"] == "resolved"],
        }

    def _alert_values(self, alert: NotifiedAlert) -> dict[str, Any]:
        return {
            "status": alert.status.value,
            "labels": dict(alert.labels),
            "annotations": dict(alert.annotations),
            "starts_at": _moment(alert.starts_at),
            "ends_at": None if alert.ends_at is None else _moment(alert.ends_at),
            "url": self._link(alert),
            "trace_id": alert.trace_id,
            "fingerprint": alert.fingerprint,
        }

    def _link(self, alert: NotifiedAlert) -> str | None:
        if alert.trace_id is not None and self._trace_url is not None:
            return self._trace_url.replace("{trace_id}", alert.trace_id)
        return alert.url

    # The default body

    def _body(self, notification: Notification) -> str:
        return "\n".join(self._lines(notification))

    def _lines(self, notification: Notification) -> Iterator[str]:
        yield _headline(notification)
        shared_labels, shared_notes = notification.common_labels, notification.common_annotations
        if len(notification.alerts) > 1:
            if shared_labels:
                yield f"In common: {_pairs(shared_labels)}"
            yield from (f"{name}: {value}" for name, value in shared_notes.items())
        else:
            shared_labels, shared_notes = {}, {}
        left = _MAX_ALERTS
        for part in notification.parts:
            if len(notification.parts) > 1:
                yield ""
                yield f"{_pairs(part.group_labels) or 'all alerts'}: {_counts(part)}"
            for alert in part.alerts[: max(left, 0)]:
                yield ""
                yield from self._alert_lines(alert, shared_labels, shared_notes)
            left -= len(part.alerts)
        if left < 0:
            yield ""
            yield f"and {-left} more"

    def _alert_lines(
        self, alert: NotifiedAlert, labels: Mapping[str, str], notes: Mapping[str, str]
    ) -> Iterator[str]:
        began = _shown(alert.starts_at)
        if alert.ends_at is None:
            yield f"FIRING since {began}"
        else:
            lasted = Duration(max(round(alert.ends_at - alert.starts_at), 0))
            yield f"RESOLVED at {_shown(alert.ends_at)}, after {lasted}"
        own = {name: value for name, value in alert.labels.items() if labels.get(name) != value}
        if own:
            yield f"  {_pairs(own)}"
        for name, value in alert.annotations.items():
            if notes.get(name) != value:
                yield f"  {name}: {value}"
        link = self._link(alert)
        if link is not None:
            yield f"  {link}"
        elif alert.trace_id is not None:
            yield f"  trace {alert.trace_id}"


def notify_type(notification: Notification) -> str:
    """Give the type that Apprise knows: the worst severity that fires, or `success`."""
    firing = [alert for alert in notification.alerts if alert.status is Status.FIRING]
    if not firing:
        return "success"
    types = {severity_type(alert.labels.get("severity")) or _by_type(alert) for alert in firing}
    return next(each for each in _WORST if each in types)


def _by_type(alert: NotifiedAlert) -> str:
    return "failure" if alert.labels.get("type") == "error" else "warning"


def _title(notification: Notification) -> str:
    if notification.kind is Kind.QUIET_HOURS:
        return f"{notification.receiver}: what happened in the quiet hours"
    if notification.kind is Kind.RATE_LIMIT:
        return f"{notification.receiver}: several groups of alerts"
    labels = dict(notification.parts[0].group_labels)
    name = labels.pop("alertname", None)
    if name is None:
        return _pairs(labels) or f"{notification.receiver}: alerts"
    return f"{name} ({_pairs(labels)})" if labels else name


def _headline(notification: Notification) -> str:
    counts = _counts(notification.parts[0])
    if len(notification.parts) > 1:
        firing = notification.firing
        counts = f"{_count(firing, 'FIRING')}, {_count(len(notification.alerts) - firing, 'RESOLVED')}"
        counts = f"{len(notification.parts)} groups: {counts}"
    elif notification.reason is Reason.REPEAT:
        counts = f"{counts} (still)"
    if notification.fallback_for is not None:
        counts = f"{counts} (to you because {notification.fallback_for} could not be reached)"
    return counts


def _counts(part: Part) -> str:
    firing = firing_in(part.alerts)
    resolved = len(part.alerts) - firing
    shown = [_count(number, what) for number, what in ((firing, "FIRING"), (resolved, "RESOLVED")) if number]
    return ", ".join(shown)


def _count(number: int, what: str) -> str:
    return f"{number} {what}"


def _pairs(labels: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in labels.items())


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _shown(seconds: float) -> str:
    return f"{_moment(seconds):%Y-%m-%d %H:%M:%S} UTC"
