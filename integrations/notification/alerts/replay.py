"""Recorded events through a configuration in virtual time, and the difference between two."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codomyrmex.integrations.configuration.problems import ConfigError, Problem
from codomyrmex.integrations.notification.alerts.config import AlertConfig
from codomyrmex.integrations.notification.alerts.notification import iso
from codomyrmex.integrations.notification.alerts.simulation import Sent, simulate
from codomyrmex.streaming import Event, EventDecodeError


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two configurations would have sent.

    Args:
        same: what both would.
        only_old: what only the first would.
        only_new: what only the second would.
    """

    same: list[Sent]
    only_old: list[Sent]
    only_new: list[Sent]

    def to_dict(self) -> dict[str, Any]:
        """Give it as built-in types."""
        return {
            name: [sent_as_dict(sent) for sent in getattr(self, name)]
            for name in ("same", "only_old", "only_new")
        }


def read_events(path: str | os.PathLike[str]) -> list[Event]:
    """Read recorded events, one as JSON in each line, and give them in the order of their time.

    Args:
        path: the file, with lines such as `Event.to_dict` gives.

    Raises:
        ConfigError: the file cannot be read, or lines are no events; with each line.
    """
    name = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is not UTF-8 text"
        raise ConfigError([Problem(f"the file cannot be read: {why}", file=name)]) from None
    events: list[Event] = []
    problems: list[Problem] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            events.append(Event.from_dict(json.loads(line)))
        except json.JSONDecodeError as error:
            problems.append(
                Problem(f"this is no JSON: {error.msg}", file=name, line=number, column=error.colno)
            )
        except EventDecodeError as error:
            problems.append(Problem(f"this is no event: {error}", file=name, line=number))
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 10,000 brackets
            problems.append(Problem(f"this cannot be read: {error}", file=name, line=number))
    if problems:
        raise ConfigError(problems)
    return sorted(events, key=lambda event: event.timestamp)


def replay(config: AlertConfig, events: Iterable[Event]) -> list[Sent]:
    """Give what a configuration would have sent for events, and after them until all of it was resolved.

    Args:
        config: the configuration.
        events: in the order of their time.
    """
    happenings = [
        (event.timestamp.timestamp(), alert)
        for event in events
        if (alert := config.label_rules.alert_of(event)) is not None
    ]
    if not happenings:
        return []
    slowest = max(route.group_wait + route.group_interval for route in config.route.walk())
    return simulate(config, happenings, happenings[-1][0] + config.resolve_timeout + 2 * slowest)


def compare(old: Iterable[Sent], new: Iterable[Sent]) -> Comparison:
    """Give the difference of what two configurations would have sent."""
    old, new = list(old), list(new)
    in_both = Counter(map(_key, old)) & Counter(map(_key, new))
    same, only_old = _part(old, in_both)
    _, only_new = _part(new, in_both)
    return Comparison(same, only_old, only_new)


def _part(sent: list[Sent], in_both: Counter[Any]) -> tuple[list[Sent], list[Sent]]:
    left = in_both.copy()
    both: list[Sent] = []
    alone: list[Sent] = []
    for each in sent:
        key = _key(each)
        left[key] -= 1
        (both if left[key] >= 0 else alone).append(each)
    return both, alone


def _key(sent: Sent) -> Any:
    """Give what somebody who gets it would see; not the names in the file."""
    notification = sent.notification
    alerts = frozenset((alert.fingerprint, alert.status) for alert in notification.alerts)
    return sent.at, notification.receiver, notification.status, alerts


def sent_as_dict(sent: Sent) -> dict[str, Any]:
    """Give it as built-in types."""
    notification = sent.notification
    firing = notification.firing
    return {
        "at": iso(sent.at),
        "receiver": notification.receiver,
        "channel": notification.channel,
        "status": notification.status.value,
        "reason": notification.reason.value,
        "kind": notification.kind.value,
        "route": notification.route_path,
        "group_labels": dict(notification.group_labels),
        "firing": firing,
        "resolved": len(notification.alerts) - firing,
        "alerts": [dict(alert.labels) for alert in notification.alerts],
    }
