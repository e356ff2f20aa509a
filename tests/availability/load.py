"""Alerts that begin and end as a seed says, and the two ways in which they are posted."""

from __future__ import annotations

import json
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import httpx
from durable.history import Recorder


class Incident(NamedTuple):
    """An alert.

    Attributes:
        group: its label `alertname`, by which alerts are grouped.
        name: its label `alert`, which differs for each.
        fires: when it begins, in seconds after the start of the run.
        ends: when it ends.
    """

    group: str
    name: str
    fires: float
    ends: float


class Change(NamedTuple):
    """An alert that begins or ends; `at` are seconds after the start of the run."""

    at: float
    incident: Incident
    status: str


def make_incidents(
    chance: random.Random, seconds: float, every: float, lives: tuple[float, float]
) -> list[Incident]:
    """Return alerts of a new group every so many seconds; half of the groups have a second, later one."""
    found = []
    for number in range(int(seconds / every)):
        begin = (number + chance.uniform(0, 0.5)) * every
        group = f"g{number:05}"
        for index in range(chance.randint(1, 2)):
            fires = begin + index * chance.uniform(0, lives[0])
            found.append(Incident(group, f"{group}.{index}", fires, fires + chance.uniform(*lives)))
    return found


def changes_of(incidents: Iterable[Incident]) -> list[Change]:
    changes = [Change(each.fires, each, "firing") for each in incidents]
    changes += [Change(each.ends, each, "resolved") for each in incidents]
    return sorted(changes)


def play(changes: Iterable[Change], recorder: Recorder, publish: Callable[[Change], None]) -> None:
    """Publish each change when it is due, and record it."""
    start = time.monotonic()
    for change in changes:
        time.sleep(max(0.0, start + change.at - time.monotonic()))
        recorder.note(
            "changed", group=change.incident.group, alert=change.incident.name, status=change.status
        )
        publish(change)


def in_words(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


class Prometheus:
    """Posts alerts to all members of a cluster as Prometheus does.

    A change is posted at once. An alert that fires is posted again each `resend` seconds, and so is one that
    has ended, for 15 minutes. Each member has a queue of its own, and what it does not take within 10 s is
    dropped.

    Args:
        urls: those of the members.
        resend: as `--rules.alert.resend-delay`, which is 1 min by default.
    """

    KEPT = 900.0

    def __init__(self, urls: Iterable[str], resend: float) -> None:
        self.resend = resend
        self._alerts: dict[str, tuple[dict[str, Any], float | None]] = {}  # and when it ended
        self._sent: dict[str, float] = {}
        self._lock = threading.Lock()
        self._queues: list[queue.Queue[dict[str, Any]]] = [queue.Queue(10_000) for _ in urls]
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._post, args=(url, waiting), daemon=True)
            for url, waiting in zip(urls, self._queues, strict=True)
        ]
        self._threads.append(threading.Thread(target=self._repeat, daemon=True))
        for thread in self._threads:
            thread.start()

    def publish(self, change: Change) -> None:
        now, incident = time.time(), change.incident
        with self._lock:
            if change.status == "firing":
                labels = {"alertname": incident.group, "alert": incident.name}
                self._alerts[incident.name] = ({"labels": labels, "startsAt": in_words(now)}, None)
            else:
                self._alerts[incident.name] = (self._alerts[incident.name][0], now)
            self._put(incident.name, now)

    def _put(self, name: str, now: float) -> None:
        alert, ended = self._alerts[name]
        self._sent[name] = now
        posted = {**alert, "endsAt": in_words(now + 4 * self.resend if ended is None else ended)}
        for waiting in self._queues:
            waiting.put(posted)

    def _repeat(self) -> None:
        while not self._end.wait(0.1):
            now = time.time()
            with self._lock:
                for name, (_, ended) in [*self._alerts.items()]:
                    if ended is not None and now > ended + self.KEPT:
                        del self._alerts[name]
                    elif now >= self._sent[name] + self.resend:
                        self._put(name, now)

    def _post(self, url: str, waiting: queue.Queue[dict[str, Any]]) -> None:
        with httpx.Client(base_url=url, timeout=10) as client:
            while not self._end.is_set():
                try:
                    batch = [waiting.get(timeout=0.1)]
                except queue.Empty:
                    continue
                while len(batch) < 256 and not waiting.empty():
                    batch.append(waiting.get())
                try:
                    client.post("/api/v2/alerts", json=batch).raise_for_status()
                except httpx.HTTPError:  # dropped, as Prometheus does
                    continue

    def close(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


class Publisher:
    """Publishes alerts in one of several processes, and in another one if the first was killed meanwhile.

    A change of an alert is published once the one before it is in the stream: a process may be slow, and two
    processes that publish at the same time decide by chance which change is the last.

    Args:
        usable: returns the processes that can be asked now; each has `ask(line)`, which returns whether it
            could be asked, puts its answers into `answered`, and has `silent`: it will answer nothing more.
    """

    def __init__(self, chance: random.Random, usable: Callable[[], list[Any]]) -> None:
        self.chance, self.usable = chance, usable
        self.repeated = 0
        self._changes: dict[str, list[tuple[int, str]]] = {}  # of each alert, with the lines to ask with
        self._waiting: dict[int, tuple[str, str, Any]] = {}  # the alert, the line, and who was asked
        self._number = 0
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def publish(self, change: Change) -> None:
        name = change.incident.name
        labels = {"alertname": change.incident.group, "alert": name}
        with self._lock:
            self._number += 1
            line = json.dumps({"number": self._number, "labels": labels, "status": change.status})
            changes = self._changes.setdefault(name, [])
            changes.append((self._number, line))
            if len(changes) == 1:
                self._ask(self._number, name, line)

    def _ask(self, number: int, name: str, line: str) -> None:
        processes = self.usable()
        process = self.chance.choice(processes) if processes else None
        if process is None or not process.ask(line):
            process = None
        self._waiting[number] = (name, line, process)

    def answered(self, number: int) -> None:
        with self._lock:
            if number not in self._waiting:
                return
            name, _, _ = self._waiting.pop(number)
            changes = self._changes[name]
            del changes[0]
            if changes:
                number, line = changes[0]
                self._ask(number, name, line)
            else:
                del self._changes[name]

    def _watch(self) -> None:
        while not self._end.wait(0.1):
            with self._lock:
                for number, (name, line, process) in [*self._waiting.items()]:
                    if process is None or process.silent:
                        self.repeated += process is not None
                        self._ask(number, name, line)

    def waits_for(self, process: Any) -> bool:
        """Return whether a process has not answered yet."""
        with self._lock:
            return any(asked is process for _, _, asked in self._waiting.values())

    def close(self) -> None:
        self._end.set()
        self._thread.join()
