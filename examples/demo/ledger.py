"""`Ledger`: counts what was seen of each event or notification, and knows what is missing."""

from __future__ import annotations

import threading
from collections import Counter
from typing import NamedTuple


class Ledger:
    """Notes which steps each key has taken; thread-safe.

    A key that has taken all steps is forgotten, so that the ledger does not grow.

    Args:
        steps: the steps that each key has to take, in any order.

    Attributes:
        counts: how many keys have taken each step.
        repeated: how many times a step was taken once more.
    """

    def __init__(self, *steps: str) -> None:
        self.counts: Counter[str] = Counter()
        self.repeated: Counter[str] = Counter()
        self._steps = set(steps)
        self._open: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def begin(self, key: str) -> None:
        """Add a key, before anything happens to it."""
        with self._lock:
            self._open[key] = set()

    def note(self, key: str, step: str) -> None:
        """Note that a key has taken a step, whether it has to or not."""
        with self._lock:
            taken = self._open.get(key)
            if taken is None or step in taken:
                self.repeated[step] += 1
                return
            taken.add(step)
            self.counts[step] += 1
            if taken >= self._steps:
                del self._open[key]

    def is_complete(self, key: str) -> bool:
        """Return whether a key has taken all steps."""
        return key not in self._open

    @property
    def lost(self) -> dict[str, list[str]]:
        """The keys that have taken some step and not all that they have to, with the missing steps."""
        with self._lock:
            return {key: sorted(self._steps - taken) for key, taken in self._open.items() if taken}


class Balance(NamedTuple):
    """What became of everything that was published.

    Attributes:
        published: the number of events in the log.
        delivered: how many of them a sink has received.
        notified: the number of notifications, of alerts that fire and of alerts that are resolved.
        duplicates: how many events and notifications have arrived more than once.
        lost: events that were published and not delivered, or that are missing in the log, and alerts of
            which nobody was notified.
    """

    published: int
    delivered: int
    notified: int
    duplicates: int
    lost: int


class Books:
    """The ledgers of the demo.

    Attributes:
        events: by id. They are `logged`, when the demo reads them in the log of the store, and `delivered`.
            `accepted` says that a worker has answered that it has stored them.
        alerts: by the order and the status, such as `17 firing`. They are `logged` and `notified`.
    """

    def __init__(self) -> None:
        self.events = Ledger("logged", "delivered")
        self.alerts = Ledger("logged", "notified")

    def balance(self) -> Balance:
        """Return what became of everything up to now."""
        events, alerts = self.events, self.alerts
        return Balance(
            published=events.counts["logged"],
            delivered=events.counts["delivered"],
            notified=alerts.counts["notified"],
            duplicates=events.repeated["delivered"] + alerts.repeated["notified"],
            lost=len(events.lost) + len(alerts.lost),
        )
