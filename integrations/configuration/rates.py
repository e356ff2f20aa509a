"""`RateLimit` and `TokenBucket`: a number of events per period."""

from __future__ import annotations

import re
from typing import ClassVar

import msgspec
from codomyrmex.integrations.configuration.durations import Duration


class RateLimit(msgspec.Struct, frozen=True):
    """A number of events per period, such as `6/1m`."""

    expects: ClassVar[str] = "a rate like 6/1m, six a minute"
    count: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> RateLimit:
        match = re.fullmatch(r"([1-9][0-9]{0,6})\s*/\s*(\S+)", text)
        if match is None:
            raise ValueError(f"{text!r} is not {cls.expects}")
        seconds = Duration.parse(match[2] if match[2][0].isdigit() else f"1{match[2]}")  # 6/m is 6/1m
        if seconds <= 0:
            raise ValueError(f"{text!r}: the period must be greater than 0")
        return cls(int(match[1]), seconds)


class TokenBucket:
    """Allows `count` events per `seconds`, and at most `count` at once after a pause."""

    def __init__(self, count: int, seconds: float) -> None:
        self._count = count
        self._seconds_per_token = seconds / count
        self._full_at = 0.0  # the time at which the bucket is full again determines its level

    def try_acquire(self, now: float) -> bool:
        """Remove a token and return True, or return False if there is none."""
        if self.ready_at() > now:
            return False
        self.spend(now)
        return True

    def spend(self, now: float) -> None:
        """Remove a token even if there is none, at the expense of later ones."""
        self._full_at = max(self._full_at, now) + self._seconds_per_token

    def move(self, by: float) -> None:
        """Move the times by some seconds, after the clock was set."""
        self._full_at += by

    def ready_at(self) -> float:
        """Return the time at which a token is available."""
        return self._full_at - (self._count - 1) * self._seconds_per_token
