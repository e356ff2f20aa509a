"""`NotificationRenderer`: the title and body of a notification, by default or from a channel's templates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec
from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.notification.alerts.config import AlertConfig
from codomyrmex.integrations.notification.alerts.notification import (
    Kind,
    Notification,
    NotifiedAlert,
    Part,
    Reason,
    Status,
    count_firing,
    moment_of,
    pairs,
)
from codomyrmex.integrations.notification.channels import ChannelConfig
from codomyrmex.integrations.notification.event_renderer import Message, one_line, severity_type
from codomyrmex.integrations.notification.receivers.receiver_config import ReceiverConfig
from codomyrmex.integrations.notification.templates import compile_template

_MAX_ALERTS = 50  # in a body; the others are counted
_BY_SEVERITY = ("failure", "warning", "info")
# Variables of templates that are attributes of the notification.
_TEXTS = ("receiver", "channel", "status", "reason", "kind", "group_key")
_MAPPINGS = ("route_labels", "group_labels", "common_labels", "common_annotations")


class NotificationRenderer:
    """Renders the notifications of a configuration.

    The default title consists of the labels of the group only, because services that treat messages with
    the same title as one incident could not resolve it otherwise.

    Args:
        config: the configuration.
    """

    def __init__(self, config: AlertConfig) -> None:
        self._trace_url = config.trace_url

    def message(self, notification: Notification, channel: ChannelConfig) -> Message:
        """Return the message of a notification.

        Args:
            notification: the notification.
            channel: the channel, for its templates and format.

        Raises:
            TemplateError: a template fails with this notification.
        """
        if isinstance(channel, ReceiverConfig):
            return channel.compose(notification.to_dict(), self._default(notification))
        values = {} if channel.title is channel.body is None else self._values(notification)
        title = _title(notification)
        if channel.title is not None:
            title = compile_template(channel.title).render(**values)
        title = one_line(title)
        if channel.body is None:
            return replace(self._default(notification), title=title)
        body = compile_template(channel.body, channel.format).render(**values)
        return Message(title, body, notify_type(notification), channel.format)

    def default(self, notification: Notification, channel: ChannelConfig) -> Message:
        """Return the default message of a notification, for a channel whose templates fail."""
        default = self._default(notification)
        if isinstance(channel, ReceiverConfig):
            return channel.outline(notification.to_dict(), default)
        return default

    def _default(self, notification: Notification) -> Message:
        body, cuts = self._body_and_cuts(notification)
        return Message(one_line(_title(notification)), body, notify_type(notification), "text", cuts)

    def _values(self, notification: Notification) -> dict[str, Any]:
        """Return the variables of a template: plain values only, nothing that could be called."""
        alerts = [self._alert_values(alert) for alert in notification.alerts]
        return {
            **{name: str(getattr(notification, name)) for name in _TEXTS},
            **{name: dict(getattr(notification, name)) for name in _MAPPINGS},
            "route": notification.route_path,
            "fallback_for": notification.fallback_for,
            "title": _title(notification),
            "body": self._body(notification),
            "alerts": alerts,
            "firing": [alert for alert in alerts if alert["status"] == "firing"],
            "resolved": [alert for alert in alerts if alert["status"] == "resolved"],
        }

    def _alert_values(self, alert: NotifiedAlert) -> dict[str, Any]:
        ends_at = None if alert.ends_at is None else moment_of(alert.ends_at)
        times = {"starts_at": moment_of(alert.starts_at), "ends_at": ends_at}
        return {**msgspec.to_builtins(alert), **times, "url": self._link(alert)}

    def _link(self, alert: NotifiedAlert) -> str | None:
        if alert.trace_id is not None and self._trace_url is not None:
            return self._trace_url.replace("{trace_id}", alert.trace_id)
        return alert.url

    # The default body

    def _body(self, notification: Notification) -> str:
        return self._body_and_cuts(notification)[0]

    def _body_and_cuts(self, notification: Notification) -> tuple[str, list[tuple[int, int]]]:
        lines: list[str] = []
        cuts: list[tuple[int, int]] = []
        size, remaining = -1, len(notification.alerts)
        for line in self._lines(notification):
            if line is None:
                cuts.append((size, remaining))
                remaining -= 1
            else:
                lines.append(line)
                size += len(line) + 1
        return "\n".join(lines), cuts

    def _lines(self, notification: Notification) -> Iterator[str | None]:
        """Yield the lines of the default body, and None before each alert."""
        yield _headline(notification)
        labels: Mapping[str, str] = {}
        annotations: Mapping[str, str] = {}
        if len(notification.alerts) > 1:  # what all have in common is shown once
            labels, annotations = notification.common_labels, notification.common_annotations
            if labels:
                yield f"In common: {pairs(labels)}"
            yield from (f"{name}: {value}" for name, value in annotations.items())
        remaining = _MAX_ALERTS
        for part in notification.parts:
            if len(notification.parts) > 1:
                yield ""
                yield f"{pairs(part.group_labels) or 'all alerts'}: {_counts(part)}"
            for alert in part.alerts[: max(remaining, 0)]:
                yield None
                yield ""
                yield from self._alert_lines(alert, labels, annotations)
            remaining -= len(part.alerts)
        if remaining < 0:
            yield ""
            yield f"and {-remaining} more"

    def _alert_lines(
        self, alert: NotifiedAlert, labels: Mapping[str, str], annotations: Mapping[str, str]
    ) -> Iterator[str]:
        if alert.ends_at is None:
            yield f"FIRING since {_shown(alert.starts_at)}"
        else:
            lasted = Duration(max(round(alert.ends_at - alert.starts_at), 0))
            yield f"RESOLVED at {_shown(alert.ends_at)}, after {lasted}"
        others = {name: value for name, value in alert.labels.items() if labels.get(name) != value}
        if others:
            yield f"  {pairs(others)}"
        for name, value in alert.annotations.items():
            if annotations.get(name) != value:
                yield f"  {name}: {value}"
        link = self._link(alert)
        if link is not None:
            yield f"  {link}"
        elif alert.trace_id is not None:
            yield f"  trace {alert.trace_id}"


def outline(notification: Notification) -> tuple[Message, dict[str, Any]]:
    """Return a message and data with what can be rendered of a notification that fails as a whole."""
    lines = [f"{notification.receiver}: this notification cannot be rendered; its alerts:"]
    alerts: list[dict[str, Any]] = []
    for alert in notification.alerts:
        try:
            alerts.append(alert.to_dict())
            line = f"{alert.status.value.upper()} {pairs(alert.labels)}"
        except Exception as error:  # noqa: BLE001 - it must not affect the others
            line = f"an alert that cannot be shown: {type(error).__name__}"
        lines.append(line)
    more = len(lines) - 1 - _MAX_ALERTS
    if more > 0:
        lines[_MAX_ALERTS + 1 :] = [f"and {more} more"]
    status = notification.status.value
    data = {"version": "4", "receiver": notification.receiver, "status": status, "alerts": alerts}
    kind = "failure" if notification.firing else "success"
    return Message(f"{notification.receiver}: alerts", "\n".join(lines), kind, "text"), data


def notify_type(notification: Notification) -> str:
    """Return the type for Apprise: that of the worst severity that fires, or `success`."""
    firing = [alert for alert in notification.alerts if alert.status is Status.FIRING]
    if not firing:
        return "success"
    types = {severity_type(alert.labels.get("severity")) or _type_of(alert) for alert in firing}
    return next(each for each in _BY_SEVERITY if each in types)


def _type_of(alert: NotifiedAlert) -> str:
    return "failure" if alert.labels.get("type") == "error" else "warning"


def _title(notification: Notification) -> str:
    if notification.kind is Kind.QUIET_HOURS:
        return f"{notification.receiver}: summary of the quiet hours"
    if notification.kind is Kind.RATE_LIMIT:
        return f"{notification.receiver}: several groups of alerts"
    labels = dict(notification.parts[0].group_labels)
    name = labels.pop("alertname", None)
    if name is None:
        return pairs(labels) or f"{notification.receiver}: alerts"
    return f"{name} ({pairs(labels)})" if labels else name


def _headline(notification: Notification) -> str:
    counts = _counts(notification.parts[0])
    if len(notification.parts) > 1:
        firing = notification.firing
        resolved = len(notification.alerts) - firing
        counts = f"{len(notification.parts)} groups: {firing} FIRING, {resolved} RESOLVED"
    elif notification.reason is Reason.REPEAT:
        counts = f"{counts} (still)"
    if notification.fallback_for is not None:
        counts = f"{counts} (sent here because {notification.fallback_for} could not be reached)"
    return counts


def _counts(part: Part) -> str:
    firing = count_firing(part.alerts)
    counts = ((firing, "FIRING"), (len(part.alerts) - firing, "RESOLVED"))
    return ", ".join(f"{number} {status}" for number, status in counts if number)


def _shown(seconds: float) -> str:
    return f"{moment_of(seconds):%Y-%m-%d %H:%M:%S} UTC"
