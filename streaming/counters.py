"""A counter that threads increment without a lock, which would cost more than the rest of publishing."""

from __future__ import annotations

from itertools import count


class Counter:
    """A number that increases by one with each `tick()`, or `next(counter.steps)` on hot paths.

    One step of `itertools.count` is a single call into C, which no other thread can interrupt.
    """

    __slots__ = ("steps",)

    def __init__(self) -> None:
        self.steps = count()

    def tick(self) -> None:
        next(self.steps)

    def value(self) -> int:
        return int(repr(self.steps)[6:-1])  # "count(7)"; every other way to read a count advances it
