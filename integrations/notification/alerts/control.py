"""Entries of the log that only the alert sinks read: alerts, silences, records of notifications."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.durable.saved_groups import Definition
from codomyrmex.integrations.durable.shard import Selection
from codomyrmex.integrations.durable.tail import Item
from codomyrmex.integrations.notification.alerts.alert import Alert, not_in_the_future
from codomyrmex.integrations.notification.alerts.engine import AlertEngine
from codomyrmex.integrations.notification.alerts.notification import LogEntry
from codomyrmex.integrations.notification.alerts.silences import Silence
from codomyrmex.streaming import Event, FilterFunction, create_event

_TOPIC = "alerts.control"

_log = Diagnostics(__name__)


def alert_event(alert: Alert) -> Event:
    """Return the event that passes the alert of an event to the process that notifies."""
    return create_event({"alert": alert}, topic=_TOPIC)


def post_event(alerts: Sequence[Alert]) -> Event:
    """Return the event that passes the alerts of `AlertSink.post` to the process that notifies."""
    return create_event({"alerts": alerts}, topic=_TOPIC)


def silence_event(silence: Silence) -> Event:
    """Return the event that adds a silence everywhere."""
    return create_event({"silence": silence.to_dict()}, topic=_TOPIC)


def log_event(entries: Mapping[str, LogEntry]) -> Event:
    """Return the event that adds log entries of notifications that were sent without the store."""
    return create_event({"log": {key: entry.to_dict() for key, entry in entries.items()}}, topic=_TOPIC)


def reload_event() -> Event:
    """Return the event that makes all processes look for a changed configuration."""
    return create_event({"reload": True}, topic=_TOPIC)


def apply_control(engine: AlertEngine, data: Mapping[str, Any], now: float) -> None:
    """Pass the data of a control event to an engine.

    Raises:
        Exception: the data was not created by one of the functions above.
    """
    if "alert" in data:
        engine.observe([not_in_the_future(msgspec.convert(data["alert"], Alert), now)], now)
    elif "alerts" in data:
        engine.observe(msgspec.convert(data["alerts"], list[Alert]), now)
    elif "silence" in data:
        engine.add_silence(Silence.from_dict(data["silence"]))
    elif "log" in data:
        for key, entry in data["log"].items():
            engine.merge_log(key, LogEntry.from_dict(entry))


def silences_in(controls: Iterable[Mapping[str, Any]]) -> list[Silence]:
    """Return the silences that control events add, in order; a damaged one is skipped and logged."""
    silences = []
    for data in controls:
        if "silence" in data:
            try:
                silences.append(Silence.from_dict(data["silence"]))
            except ValueError as error:
                _log.warning("control", "a silence in the log is skipped: %s", error)
    return silences


class ControlSelection(Selection):
    """Selects the entries for an alert sink, and collects control events separately.

    Attributes:
        controls: the data of the control events, in order.
    """

    def __init__(self, group: str, topic: str, filter_fn: FilterFunction | None) -> None:
        super().__init__(group, group, Definition(topic), filter_fn)
        self._name = group
        self.controls: list[Mapping[str, Any]] = []

    def event_for(self, shard: int, item: Item) -> Event | None:
        if item.group == self._name:
            event = item.event()
            if event is not None and event.topic == _TOPIC and isinstance(event.data, Mapping):
                self.controls.append(event.data)
                return None
        return super().event_for(shard, item)

    def pop(self) -> list[Mapping[str, Any]]:
        """Return the collected control events."""
        controls, self.controls = self.controls, []
        return controls
