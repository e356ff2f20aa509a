"""Your own step: turns a burst of events into one event when it starts and one when it ends.

Times are those of the log lines, not of a clock, so that a recorded file has the same result as a live one.
A burst ends with the first line after its window has passed without events; if there are no further lines,
the `resolve_timeout` of the alert file ends the alert.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from datetime import datetime, timedelta
from typing import NamedTuple

from codomyrmex.streaming import Event, create_event

MAX_WINDOWS = 1_000  # the one without events for the longest time is removed first


class Rule(NamedTuple):
    """How many events of one kind within which time are a burst."""

    name: str
    severity: str
    threshold: int
    window: timedelta


RULES = {
    "4xx": Rule("ManyClientErrors", "warning", 5, timedelta(minutes=10)),
    "5xx": Rule("ManyServerErrors", "critical", 5, timedelta(minutes=1)),
    "login": Rule("RepeatedFailedLogins", "critical", 5, timedelta(minutes=5)),
}


class Window:
    """The times of the latest events of one kind and client, and whether they are a burst."""

    def __init__(self) -> None:
        self.times: deque[datetime] = deque()
        self.firing = False


windows: OrderedDict[tuple[str, str], Window] = OrderedDict()
latest: dict[str, datetime] = {}  # by topic, because each log has its own time


def count(event: Event) -> list[Event]:
    """Count an error or a failed login; return the bursts that it starts and ends."""
    kind, client, moment = classify(event)
    now = latest[event.topic or ""] = max(moment, latest.get(event.topic or "", moment))
    changes = []
    for (other, other_client), window in list(windows.items()):
        if now - window.times[-1] > RULES[other].window and topic_of(other) == event.topic:
            del windows[other, other_client]
            if window.firing:
                changes.append(change(other, other_client, "resolved", window, now))
    window = windows.setdefault((kind, client), Window())
    windows.move_to_end((kind, client))
    window.times += [moment] * int(event.data.get("times") or 1)
    while window.times[0] < now - RULES[kind].window and len(window.times) > 1:
        window.times.popleft()
    if len(window.times) >= RULES[kind].threshold and not window.firing:
        window.firing = True
        changes.append(change(kind, client, "firing", window, now))
    if len(windows) > MAX_WINDOWS:
        windows.popitem(last=False)
    return changes


def classify(event: Event) -> tuple[str, str, datetime]:
    """Return the kind of an event, its client, and its time."""
    data = event.data
    if event.topic == "web.access":
        return (
            f"{data['status'][0]}xx",
            data["client"],
            datetime.strptime(data["time"], "%d/%b/%Y:%H:%M:%S %z"),
        )
    year = event.timestamp.year  # the format has none
    return "login", data["client"], datetime.strptime(f"{year} {data['time']} +0000", "%Y %b %d %H:%M:%S %z")


def topic_of(kind: str) -> str:
    """Return the topic of a kind of event."""
    return "auth.login" if kind == "login" else "web.access"


def change(kind: str, client: str, status: str, window: Window, now: datetime) -> Event:
    """Return the event that starts or ends an alert."""
    rule = RULES[kind]
    return create_event(
        {"seen": len(window.times), "last": window.times[-1].isoformat(), "at": now.isoformat()},
        topic=f"burst.{status}",
        labels={"alertname": rule.name, "severity": rule.severity, "client": client},
        annotations={"summary": f"{rule.threshold} or more from {client} in {rule.window}"},
        status=status,
    )
