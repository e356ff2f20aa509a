"""`replay` and `compare`: recorded events in virtual time, and how two configurations differ."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codomyrmex.integrations.configuration.files import read_text
from codomyrmex.integrations.configuration.problems import ConfigError, Problem
from codomyrmex.integrations.notification.alerts.alert import MAX_TIME
from codomyrmex.integrations.notification.alerts.config import AlertConfig
from codomyrmex.integrations.notification.alerts.notification import iso
from codomyrmex.integrations.notification.alerts.simulation import Sent, simulate
from codomyrmex.streaming import Event, EventDecodeError

_MAX_PROBLEMS = 20
_MAX_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two configurations would have sent.

    Args:
        same: what both would have sent.
        only_old: what only the first one would have sent.
        only_new: what only the second one would have sent.
    """

    same: list[Sent]
    only_old: list[Sent]
    only_new: list[Sent]

    def to_dict(self) -> dict[str, Any]:
        return {
            name: [sent_as_dict(sent) for sent in getattr(self, name)]
            for name in ("same", "only_old", "only_new")
        }


def read_events(path: str | os.PathLike[str]) -> list[Event]:
    """Return recorded events, in the order of their time.

    Args:
        path: a file of JSON lines, each like the result of `Event.to_dict`.

    Raises:
        ConfigError: the file cannot be read, or lines are not events; it lists the first such lines.
    """
    name = str(path)
    text = read_text(Path(path), ConfigError, _MAX_BYTES)
    events: list[Event] = []
    problems: list[Problem] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        column = None
        try:
            event = Event.from_dict(json.loads(line))
            if 0 <= event.timestamp.timestamp() <= MAX_TIME:
                events.append(event)
                continue
            message = f"timestamp: must be between the years 1970 and 3000, got {event.timestamp}"
        except json.JSONDecodeError as error:
            message, column = f"this is not JSON: {error.msg}", error.colno
        except EventDecodeError as error:
            message = f"this is not an event: {error}"
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 10,000 brackets
            message = f"this cannot be read: {error}"
        if not (events or problems or line.lstrip().startswith("{")):
            message = "this is not a file of events, which has a line of JSON for each event"
            raise ConfigError([Problem(message, file=name, line=number)])
        problems.append(Problem(message, file=name, line=number, column=column))
        if len(problems) == _MAX_PROBLEMS:  # it is probably another kind of file
            break
    if problems:
        raise ConfigError(problems)
    return sorted(events, key=lambda event: event.timestamp)


def replay(config: AlertConfig, events: Iterable[Event]) -> list[Sent]:
    """Return what a configuration would have sent for events, until all their alerts were resolved.

    Args:
        config: the configuration.
        events: in the order of their time.
    """
    alerts = [
        (event.timestamp.timestamp(), alert)
        for event in events
        if (alert := config.label_rules.alert_of(event)) is not None
    ]
    if not alerts:
        return []
    slowest = max(route.group_wait + route.group_interval for route in config.route.walk())
    return simulate(config, alerts, alerts[-1][0] + config.resolve_timeout + 2 * slowest)


def compare(old: Iterable[Sent], new: Iterable[Sent]) -> Comparison:
    """Compare what two configurations would have sent."""
    unmatched: dict[Hashable, list[Sent]] = {}
    for sent in new:
        unmatched.setdefault(_key(sent), []).append(sent)
    same: list[Sent] = []
    only_old: list[Sent] = []
    for sent in old:
        candidates = unmatched.get(_key(sent))
        if candidates:
            candidates.pop(0)
        (only_old if candidates is None else same).append(sent)
        if candidates == []:
            del unmatched[_key(sent)]
    only_new = sorted((sent for each in unmatched.values() for sent in each), key=lambda sent: sent.at)
    return Comparison(same, only_old, only_new)


def _key(sent: Sent) -> Hashable:
    """Return what a recipient sees; not the names in the file."""
    notification = sent.notification
    alerts = frozenset((alert.fingerprint, alert.status) for alert in notification.alerts)
    return sent.at, notification.receiver, notification.status, alerts


def sent_as_dict(sent: Sent) -> dict[str, Any]:
    """Return a notification as built-in types."""
    notification = sent.notification
    return {
        "at": iso(sent.at),
        "receiver": notification.receiver,
        "channel": notification.channel,
        "status": notification.status.value,
        "reason": notification.reason.value,
        "kind": notification.kind.value,
        "route": notification.route_path,
        "group_labels": dict(notification.group_labels),
        "firing": notification.firing,
        "resolved": len(notification.alerts) - notification.firing,
        "alerts": [dict(alert.labels) for alert in notification.alerts],
    }
