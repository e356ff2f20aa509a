"""When a sink is tried again: how long to wait, and when to leave it alone. No clock, no I/O."""

from __future__ import annotations

import random
from collections.abc import Callable

_MAX_DOUBLINGS = 60  # far beyond any maximum, and still a float


def backoff(initial: float, most: float, failures: int, chance: Callable[[], float] = random.random) -> float:
    """Give the seconds to wait after so many failures: doubling, with full jitter.

    Args:
        initial: the upper bound after the first failure.
        most: the bound of all of them.
        failures: how many attempts have failed, at least 1.
        chance: gives a number from 0 to 1; for tests.
    """
    return min(most, initial * 2.0 ** min(failures - 1, _MAX_DOUBLINGS)) * chance()


class Breaker:
    """Leaves a sink alone after failures in a row, and then lets one attempt through at a time.

    Args:
        failures: how many in a row open it.
        reset: seconds that it stays open; a failure then opens it for as long again.
    """

    def __init__(self, failures: int, reset: float) -> None:
        self._threshold = failures
        self._reset = reset
        self._in_a_row = 0
        self._opened_at: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether it waits, or lets one attempt through to see."""
        return self._opened_at is not None

    def wait(self, now: float) -> float:
        """Give the seconds until an attempt is allowed; 0 is now."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._reset - now)

    def failed(self, now: float) -> None:
        """Note a failed attempt."""
        self._in_a_row += 1
        if self._in_a_row >= self._threshold:
            self._opened_at = now

    def allow_one(self, now: float) -> None:
        """Let one attempt through, however long it has been open."""
        if self._opened_at is not None:
            self._opened_at = now - self._reset

    def answered(self) -> None:
        """Note that the sink took something, or refused it for good: it is there."""
        self._in_a_row = 0
        self._opened_at = None
