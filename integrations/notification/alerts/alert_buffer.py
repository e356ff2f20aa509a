"""`AlertBuffer`: events on their way to the engine, at most two for each label set."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import count, islice
from typing import Any, NamedTuple

from codomyrmex.integrations.notification.alerts.alert import LabelRules
from codomyrmex.streaming import Event

_UNWEIGHED = 128  # label sets; the size of events matters once there are more
_MAX_BYTES = 64 * 1024 * 1024  # of the events beyond them
_MAX_VALUES = 200  # of an event that are looked at
_VALUE_BYTES = 64  # about what a value takes in addition to its text


class Batch(NamedTuple):
    """The events of a buffer in the order of publishing, and how many did not fit."""

    events: list[Event]
    dropped: int


class AlertBuffer:
    """A bounded table of events by their labels, so that a storm of one alert occupies one entry.

    Of several events with the same labels it keeps the first, for the start of the alert, and the last,
    for its current state. It can be used from any thread, and calls `wake` when it is no longer empty.

    It is bounded in label sets (`size`) and, once the engine is more than 128 of them behind, in memory: the
    events that come then take at most about 64 MiB.

    Attributes:
        rules: how events become labels.
        size: the number of label sets.
    """

    def __init__(self, rules: LabelRules, size: int, wake: Callable[[], None]) -> None:
        self.rules = rules
        self.size = size
        self._wake = wake
        self._lock = threading.Lock()
        self._entries: dict[frozenset[tuple[str, str]], list[tuple[int, Event, int]]] = {}
        self._bytes = 0
        self._order = count()
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._entries)

    # The cost for a publisher: the labels, a frozenset of them, and one step under a lock.
    def put(self, event: Event) -> bool:
        """Add an event, or ignore it if it is not an alert; return False if it does not fit."""
        labels = self.rules.labels_of(event)
        if labels is None:
            return True
        key = frozenset(labels.items())
        weight = _weight(event) if len(self._entries) >= _UNWEIGHED else 0
        with self._lock:
            was_empty = not self._entries and not self._dropped
            entry = self._entries.get(key)
            replaced = sum(size for _, _, size in entry[1:]) if entry else 0
            fits = self._bytes + weight - replaced <= _MAX_BYTES and (
                entry is not None or len(self._entries) < self.size
            )
            if fits:
                self._bytes += weight - replaced
                self._entries[key] = [*(entry or ())[:1], (next(self._order), event, weight)]
            else:
                self._dropped += 1
        if was_empty:
            self._wake()
        return fits

    def get_all(self) -> Batch:
        """Return the content and empty the buffer."""
        with self._lock:
            entries, self._entries, self._bytes = self._entries, {}, 0
            dropped, self._dropped = self._dropped, 0
        # In order across label sets: an event that resolves an alert may have other labels, such as its type.
        ordered = sorted((number, event) for entry in entries.values() for number, event, _ in entry)
        return Batch([event for _, event in ordered], dropped)


def _weight(event: Event) -> int:
    """Return about how many bytes an event takes; of a large one, only a part is looked at."""
    weight, seen = 0, 0
    waiting: list[Any] = [event.data, event.metadata]
    while waiting and seen < _MAX_VALUES:
        value = waiting.pop()
        seen += 1
        weight += _VALUE_BYTES
        if isinstance(value, (str, bytes, bytearray)):
            weight += len(value)
        elif isinstance(value, (dict, list, tuple, set, frozenset)):
            with suppress(RuntimeError):  # changed by another thread
                waiting += islice(value, _MAX_VALUES)
                waiting += islice(value.values(), _MAX_VALUES) if isinstance(value, dict) else ()
            weight += _VALUE_BYTES * max(len(value) - _MAX_VALUES, 0)
    return weight + weight // seen * len(waiting)
