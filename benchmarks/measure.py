"""Ratios in one run: candidate and baseline in turn, many short rounds, the median of the ratios.

Machines are noisy and drift; two things measured one right after the other drift together.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Result(NamedTuple):
    """A line of the table.

    Attributes:
        work: what was measured.
        against: the baseline.
        ratio: candidate to baseline; time, or rate where `rate` is set. NaN if it could not be measured.
        bar: the limit to keep, or None where the figure is only for information.
        rate: the ratio is of rates, so that more is better.
        detail: the absolute figures of this run.
    """

    work: str
    against: str
    ratio: float
    bar: float | None
    rate: bool
    detail: str

    @property
    def kept(self) -> bool:
        if self.bar is None:
            return True
        return self.ratio >= self.bar if self.rate else self.ratio <= self.bar


def compare(
    work: str,
    against: str,
    candidate: Callable[[], int],
    baseline: Callable[[], int],
    *,
    bar: float | None = None,
    rate: bool = False,
    rounds: int = 41,
) -> Result:
    """Run both in turn and give the median ratio.

    Args:
        work: what is measured.
        against: what the baseline is.
        candidate: does some work and tells how many units it was.
        baseline: does the same work.
        bar: the limit to keep.
        rate: compare rates instead of times.
        rounds: how often.
    """
    candidate()
    baseline()
    ratios, ours, theirs = [], [], []
    gc.collect()
    for _ in range(rounds):
        base = _time_of_one(baseline)
        own = _time_of_one(candidate)
        ratios.append(base / own if rate else own / base)
        ours.append(own)
        theirs.append(base)
    detail = f"{_show(statistics.median(ours))} against {_show(statistics.median(theirs))}"
    return Result(work, against, statistics.median(ratios), bar, rate, detail)


def compare_prepared(
    work: str,
    against: str,
    candidate: tuple[Callable[[], None], Callable[[], int]],
    baseline: tuple[Callable[[], None], Callable[[], int]],
    *,
    bar: float,
    rounds: int = 21,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Result:
    """As `compare`, of rates, where something has to be prepared before each round and is not measured."""
    ratios, ours, theirs = [], [], []
    gc.collect()
    for _ in range(rounds):
        baseline[0]()
        base = _time_of_one(baseline[1], clock)
        candidate[0]()
        own = _time_of_one(candidate[1], clock)
        ratios.append(base / own)
        ours.append(own)
        theirs.append(base)
    detail = f"{_show(statistics.median(ours))} against {_show(statistics.median(theirs))}"
    return Result(work, against, statistics.median(ratios), bar, rate=True, detail=detail)


def _time_of_one(work: Callable[[], int], clock: Callable[[], int] = time.perf_counter_ns) -> float:
    start = clock()
    units = work()
    return (clock() - start) / units


def _show(nanoseconds: float) -> str:
    if nanoseconds < 1_000:
        return f"{nanoseconds:.0f} ns"
    if nanoseconds < 1_000_000:
        return f"{nanoseconds / 1_000:.1f} µs"
    return f"{nanoseconds / 1_000_000:.1f} ms"
