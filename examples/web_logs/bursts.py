"""A processor of one's own: bursts of events become one that fires, and one that says it is over.

The time is that of the log lines and not that of a clock, so a recorded file gives what a live one gave. A
burst ends when it has been quiet for as long as its window, or at the next line after that; where no line
comes any more, the alert file's `resolve_timeout` ends the alert.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from datetime import datetime, timedelta
from typing import NamedTuple

from codomyrmex.streaming import Event, create_event

MAX_KEYS = 1_000  # clients that are kept in mind; the one that was quiet for longest is forgotten first


class Rule(NamedTuple):
    """So many events of one kind in so long are a burst."""

    name: str
    severity: str
    least: int
    window: timedelta


RULES = {
    "4xx": Rule("ManyClientErrors", "warning", 5, timedelta(minutes=10)),
    "5xx": Rule("ManyServerErrors", "critical", 5, timedelta(minutes=1)),
    "login": Rule("RepeatedFailedLogins", "critical", 5, timedelta(minutes=5)),
}


class Window:
    """When the newest events of one kind and client happened, and whether they are a burst."""

    def __init__(self) -> None:
        self.times: deque[datetime] = deque()
        self.firing = False


windows: OrderedDict[tuple[str, str], Window] = OrderedDict()
newest: dict[str, datetime] = {}  # by topic: each log has a time of its own


def count(event: Event) -> list[Event]:
    """Take an error or a failed login; give what begins and what ends by it."""
    kind, client, moment = what_is_it(event)
    now = newest[event.topic or ""] = max(moment, newest.get(event.topic or "", moment))
    changes = []
    for (other, who), window in list(windows.items()):
        if now - window.times[-1] > RULES[other].window and of_topic(other) == event.topic:
            del windows[other, who]
            if window.firing:
                changes.append(change(other, who, "resolved", window, now))
    window = windows.setdefault((kind, client), Window())
    windows.move_to_end((kind, client))
    window.times += [moment] * int(event.data.get("times") or 1)
    while window.times[0] < now - RULES[kind].window and len(window.times) > 1:
        window.times.popleft()
    if len(window.times) >= RULES[kind].least and not window.firing:
        window.firing = True
        changes.append(change(kind, client, "firing", window, now))
    if len(windows) > MAX_KEYS:
        windows.popitem(last=False)
    return changes


def what_is_it(event: Event) -> tuple[str, str, datetime]:
    """Give the kind of an event, whose doing it is, and when it happened."""
    data = event.data
    if event.topic == "web.access":
        return (
            f"{data['status'][0]}xx",
            data["client"],
            datetime.strptime(data["time"], "%d/%b/%Y:%H:%M:%S %z"),
        )
    year = event.timestamp.year  # this format has none
    return "login", data["client"], datetime.strptime(f"{year} {data['time']} +0000", "%Y %b %d %H:%M:%S %z")


def of_topic(kind: str) -> str:
    """Give the log in which a kind of event stands."""
    return "auth.login" if kind == "login" else "web.access"


def change(kind: str, client: str, status: str, window: Window, now: datetime) -> Event:
    """Make the event that begins or ends an alert."""
    rule = RULES[kind]
    return create_event(
        {"seen": len(window.times), "last": window.times[-1].isoformat(), "at": now.isoformat()},
        topic=f"burst.{status}",
        labels={"alertname": rule.name, "severity": rule.severity, "client": client},
        annotations={"summary": f"{rule.least} or more from {client} in {rule.window}"},
        status=status,
    )
