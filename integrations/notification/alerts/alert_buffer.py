"""`AlertBuffer`: events on their way to the engine, at most two for each label set."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

from codomyrmex.integrations.notification.alerts.alert import LabelRules
from codomyrmex.streaming import Event


class Batch(NamedTuple):
    """The events of a buffer in the order of publishing, and how many did not fit."""

    events: list[Event]
    dropped: int


class AlertBuffer:
    """A bounded table of events by their labels, so that a storm of one alert occupies one entry.

    Of several events with the same labels it keeps the first, for the start of the alert, and the last,
    for its current state. It can be used from any thread, and calls `wake` when it is no longer empty.
    """

    def __init__(self, rules: LabelRules, size: int, wake: Callable[[], None]) -> None:
        self.rules = rules
        self._size = size
        self._wake = wake
        self._lock = threading.Lock()
        self._entries: dict[frozenset[tuple[str, str]], list[tuple[int, Event]]] = {}
        self._order = count()
        self._dropped = 0

    # The cost for a publisher: the labels, a frozenset of them, and one step under a lock.
    def put(self, event: Event) -> bool:
        """Add an event, or ignore it if it is not an alert; return False if it does not fit."""
        labels = self.rules.labels_of(event)
        if labels is None:
            return True
        key = frozenset(labels.items())
        with self._lock:
            was_empty = not self._entries and not self._dropped
            entry = self._entries.get(key)
            if entry is not None:
                entry[1:] = [(next(self._order), event)]
                return True
            fits = len(self._entries) < self._size
            if fits:
                self._entries[key] = [(next(self._order), event)]
            else:
                self._dropped += 1
        if was_empty:
            self._wake()
        return fits

    def get_all(self) -> Batch:
        """Return the content and empty the buffer."""
        with self._lock:
            entries, self._entries = self._entries, {}
            dropped, self._dropped = self._dropped, 0
        # In order across label sets: an event that resolves an alert may have other labels, such as its type.
        ordered = sorted((number, event) for entry in entries.values() for number, event in entry)
        return Batch([event for _, event in ordered], dropped)
