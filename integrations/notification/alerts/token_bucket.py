"""A token bucket: so many at once, and after that at so high a rate. No clock of its own."""

from __future__ import annotations


class TokenBucket:
    """Lets `count` through in `seconds`, and as many at once after a pause.

    Args:
        count: how many.
        seconds: in how long.
    """

    def __init__(self, count: int, seconds: float) -> None:
        self._count = count
        self._each = seconds / count
        self._full_at = 0.0  # when the bucket would be full again: one number says how much is in it

    def take(self, now: float) -> bool:
        """Take one, if there is one."""
        if self.ready_at() > now:
            return False
        self.spend(now)
        return True

    def spend(self, now: float) -> None:
        """Take one, whether or not there is one; there are fewer for others then."""
        self._full_at = max(self._full_at, now) + self._each

    def ready_at(self) -> float:
        """Give the moment from which there is one."""
        return self._full_at - (self._count - 1) * self._each
