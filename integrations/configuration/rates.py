"""`RateLimit` and `TokenBucket`: a number of events per period."""

from __future__ import annotations

import re
from typing import ClassVar

import msgspec
from codomyrmex.integrations.configuration.durations import Duration


class RateLimit(msgspec.Struct, frozen=True):
    """So many notifications in so long: `6/1m`."""

    expects: ClassVar[str] = "a rate like 6/1m, six a minute"
    count: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> RateLimit:
        match = re.fullmatch(r"([1-9][0-9]{0,6})\s*/\s*(\S+)", text)
        if match is None:
            raise ValueError(f"{text!r} is not {cls.expects}")
        unit = match[2] if match[2][0].isdigit() else f"1{match[2]}"  # 6/m
        seconds = Duration.parse(unit)
        if seconds <= 0:
            raise ValueError(f"{text!r}: a rate is over more than 0 seconds")
        return cls(int(match[1]), seconds)


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
