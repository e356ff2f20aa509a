"""What a history of alerts and notifications says about the system that notified."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import NamedTuple

from durable.history import Record

TOLERANCE = 1.0  # seconds that a notification may take, while the alert ends


class Figures(NamedTuple):
    """What became of the alerts of a run.

    Attributes:
        alerts: how many began and ended.
        notified: how many of them were in a notification that said that they fire.
        lost: how many were not.
        unresolved: how many were, but in none that said that they have ended.
        notifications: how many there were.
        duplicates: how many said what an earlier one had said of the same group.
        wrong: how many said that a group is resolved while an alert of it fired of which there had been a
            notification.
        late: seconds from when the first notification of a group is due until it came, the median.
        latest: the longest of these.
        silent: for each fault, the longest time without the first notification of any group that contains
            a part of the minute after it.
    """

    alerts: int
    notified: int
    lost: int
    unresolved: int
    notifications: int
    duplicates: int
    wrong: int
    late: float
    latest: float
    silent: list[float]


def measure(records: list[Record], group_wait: float, window: float) -> Figures:
    changed = [record for record in records if record["op"] == "changed"]
    arrived = sorted(
        (record for record in records if record["op"] == "arrived"), key=lambda each: each["begin"]
    )
    began: dict[str, float] = {}
    for record in changed:
        began.setdefault(record["group"], record["end"])
    alerts = {record["alert"] for record in changed}
    said: defaultdict[str, set[str]] = defaultdict(set)
    ended = {record["alert"]: record["end"] for record in changed if record["status"] == "resolved"}
    known: defaultdict[str, set[str]] = defaultdict(set)  # the alerts of a group that have been notified of
    first: dict[str, float] = {}
    seen: defaultdict[str, set[tuple[str, frozenset[tuple[str, str]]]]] = defaultdict(set)
    duplicates = wrong = 0
    for record in arrived:
        group = record["group"]
        first.setdefault(group, record["begin"])
        what = (record["status"], frozenset(record["alerts"].items()))
        duplicates += what in seen[group]
        seen[group].add(what)
        if record["status"] == "resolved":
            wrong += any(
                ended[each] > record["begin"] + TOLERANCE
                for each in known[group] - said["resolved"] - {*record["alerts"]}
            )
        for alert, status in record["alerts"].items():
            if status == "firing":
                known[group].add(alert)
            said[status].add(alert)
    delays = [at - began[group] - group_wait for group, at in first.items()]
    moments = sorted(first.values())
    faults = [record["end"] for record in records if record["op"] == "fault"]
    return Figures(
        len(alerts),
        len(alerts & said["firing"]),
        len(alerts - said["firing"]),
        len((alerts & said["firing"]) - said["resolved"]),
        len(arrived),
        duplicates,
        wrong,
        statistics.median(delays) if delays else 0.0,
        max(delays, default=0.0),
        [longest_gap(moments, fault, window) for fault in faults],
    )


def longest_gap(moments: list[float], fault: float, window: float) -> float:
    before = [moment for moment in moments if moment <= fault][-1:] or [fault]
    after = [moment for moment in moments if fault < moment]
    longest = 0.0
    last = before[0]
    for moment in after:
        if last > fault + window:
            break
        longest = max(longest, moment - last)
        last = moment
    return longest
