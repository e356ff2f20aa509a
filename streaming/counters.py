"""Counters that threads raise without a lock.

Publishing is counted once for each event, and taking a lock costs more than all the rest of it. One
step of `itertools.count` is a single call into C, which no other thread can come in between.
"""

from __future__ import annotations

import threading
from itertools import count

from codomyrmex.streaming.forks import renew_in_children


class _ReadLock:
    """One for all counters: they are read so seldom that none needs one of its own."""

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        self.held = threading.RLock()  # reentrant: a finalizer may ask for the same numbers


_read_lock = _ReadLock()
renew_in_children(_read_lock)


class Counter:
    """A number that goes up by one at each `tick()`, or `next(counter.steps)` where time matters."""

    __slots__ = ("_reads", "steps")

    def __init__(self) -> None:
        self.steps = count()
        self._reads = 0

    def tick(self) -> None:
        """Raise it by one; from any thread."""
        next(self.steps)

    def value(self) -> int:
        """Give the number."""
        with _read_lock.held:  # to read a count is to move it, so the reads are subtracted again
            steps = next(self.steps) - self._reads
            self._reads += 1
            return steps


class DeliveryCounters:
    """What became of the events of one stream.

    An event is counted once, in the counter of all events that as many subscriptions get. From these
    follow both how many events and how many deliveries there were; what then did not come about
    (filtered out, ended meanwhile, failed, dropped) is counted on its own and subtracted.
    """

    def __init__(self) -> None:
        self._by_audience_size: dict[int, Counter] = {}
        self.skipped = Counter()
        self.dropped_at_queue = Counter()
        self.other_drops = Counter()
        self.handler_errors = Counter()
        self.settled = Counter()  # subtracted twice: interrupted, and dropped or failed as well
        self.other_errors = Counter()  # those that do not cost a delivery

    def published_to(self, size: int) -> count[int]:
        """Give what to step once for each event that goes to `size` subscriptions."""
        return self._by_audience_size.setdefault(size, Counter()).steps

    @property
    def published(self) -> int:
        return sum(counter.value() for counter in list(self._by_audience_size.values()))

    @property
    def delivered(self) -> int:
        offered = sum(n * c.value() for n, c in list(self._by_audience_size.items()))
        lost = self.skipped.value() + self.dropped_at_queue.value() + self.handler_errors.value()
        return offered - lost + self.settled.value()

    @property
    def dropped(self) -> int:
        return self.dropped_at_queue.value() + self.other_drops.value()

    @property
    def errors(self) -> int:
        return self.handler_errors.value() + self.other_errors.value()
