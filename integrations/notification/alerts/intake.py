"""Events on their way to the engine, one place for each label set."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

from codomyrmex.integrations.notification.alerts.alert import LabelRules
from codomyrmex.streaming import Event


class Taken(NamedTuple):
    """What has come since the last time.

    Attributes:
        events: in the order in which they came; of each label set one, or the first and the last.
        conflated: how many events others stand for.
        dropped: how many had no place.
    """

    events: list[Event]
    conflated: int
    dropped: int


class Intake:
    """A bounded table of events by their labels: a storm of one alert takes one place.

    From any thread. Of several events with the same labels the first is kept, for when it began, and the
    last, for how it is.

    Args:
        rules: what the labels are.
        places: how many label sets may wait.
        wake: called when there is something after nothing; from the thread that publishes.
    """

    def __init__(self, rules: LabelRules, places: int, wake: Callable[[], None]) -> None:
        self.rules = rules
        self._places = places
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: dict[frozenset[tuple[str, str]], list[tuple[int, Event]]] = {}
        self._order = count()
        self._conflated = 0
        self._dropped = 0

    # What the publisher pays for: the labels, a frozenset of them, one step under a lock.
    def put(self, event: Event) -> bool:
        """Take an event; False if there is no place for it. What is no alert is taken and forgotten."""
        labels = self.rules.labels_of(event)
        if labels is None:
            return True
        key = frozenset(labels.items())
        with self._lock:
            waiting = self._waiting
            first = not waiting and not self._dropped
            there = waiting.get(key)
            if there is not None:
                there[1:] = [(next(self._order), event)]
                self._conflated += 1
                return True
            taken = len(waiting) < self._places
            if taken:
                waiting[key] = [(next(self._order), event)]
            else:
                self._dropped += 1
        if first:
            self._wake()
        return taken

    def take(self) -> Taken:
        """Give what waits, and begin anew."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            conflated, self._conflated = self._conflated, 0
            dropped, self._dropped = self._dropped, 0
        # Of all label sets together: what resolves an alert may differ in its type from what fires.
        in_order = sorted((place, event) for events in waiting.values() for place, event in events)
        return Taken([event for _, event in in_order], conflated, dropped)
