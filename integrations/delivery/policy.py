"""`DeliveryPolicy` and what follows from it: backoff, circuit breaker, and the outcome of an attempt."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from codomyrmex.integrations.configuration.durations import check_seconds
from codomyrmex.integrations.delivery.errors import (
    DeliveryError,
    PartialDeliveryError,
    PermanentError,
    RetryableError,
)
from codomyrmex.streaming import Event, Overflow

_COUNTS = ("queue_size", "batch_size", "max_attempts", "breaker_failures")
_SECONDS = ("timeout", "max_elapsed")
_SECONDS_OR_ZERO = (
    "batch_age",
    "max_wait",
    "backoff_initial",
    "backoff_max",
    "retry_after_max",
    "breaker_reset",
    "drain_timeout",
)
_MAX_DOUBLINGS = 60  # far beyond any maximum, and still a float


@dataclass(frozen=True, kw_only=True)
class DeliveryPolicy:
    """How events are queued for a sink, sent, retried and given up. All times are in seconds.

    The defaults follow OpenTelemetry's batch processors, the OpenTelemetry Collector and Vector.

    Args:
        queue_size: the largest number of events in the queue.
        overflow: what happens when the queue is full: `DROP_OLDEST`, `DROP_NEWEST`, or `BLOCK`, with which
            `await publish()` waits for room and `publish_nowait()` drops the new event.
        block_timeout: how long `BLOCK` waits for room before it drops the new event; None waits forever.
        max_wait: how long `await publish()` waits for the next completed batch when the queue is more than
            half full; 0 never waits. It does not wait for a sink that fails, or whose current attempt began
            more than a second ago, nor with `BLOCK`.
        batch_size: the largest number of events in one `send`; never more than `queue_size`.
        batch_age: how long an event waits for others to fill a batch; 0 sends at once.
        timeout: of each attempt.
        max_attempts: how often an event is sent, including the first time.
        backoff_initial: the upper bound of the random wait before the second attempt; it doubles each time.
        backoff_max: the upper bound of all these waits. `RetryableError(retry_after=...)` overrides both.
        retry_after_max: the longest wait that a sink may request with `retry_after`.
        max_elapsed: how long after its first attempt an event is still retried.
        breaker_failures: how many failed attempts in a row open the circuit breaker.
        breaker_reset: how long the breaker stays open before one batch is tried.
        drain_timeout: how long `aclose` delivers events that are still queued.
        open: what happens if a sink cannot be opened at the start: `fail` raises the error, and nothing is
            attached; with `retry`, which also applies to inline sinks if it is the policy of the attachment,
            events are queued, and the sink is opened again with the same waits as between attempts.

    Raises:
        ValueError: a value is out of range.
        TypeError: a value has the wrong type.
    """

    queue_size: int = 2_048
    overflow: Overflow = Overflow.DROP_OLDEST
    block_timeout: float | None = None
    max_wait: float = 0.1
    batch_size: int = 512
    batch_age: float = 1.0
    timeout: float = 10.0
    max_attempts: int = 5
    backoff_initial: float = 0.5
    backoff_max: float = 30.0
    max_elapsed: float = 300.0
    breaker_failures: int = 5
    breaker_reset: float = 30.0
    drain_timeout: float = 5.0
    retry_after_max: float = 3_600.0
    open: Literal["fail", "retry"] = "fail"

    def __post_init__(self) -> None:
        for name in _COUNTS:
            _check_count(name, getattr(self, name))
        for name in _SECONDS:
            check_seconds(name, getattr(self, name))
        for name in _SECONDS_OR_ZERO:
            check_seconds(name, getattr(self, name), zero=True)
        if self.block_timeout is not None:
            check_seconds("block_timeout", self.block_timeout)
        if self.open not in {"fail", "retry"}:
            raise ValueError(f"open: must be 'fail' or 'retry', got {self.open!r}")
        allowed = (Overflow.BLOCK, Overflow.DROP_OLDEST, Overflow.DROP_NEWEST)
        if self.overflow not in allowed:
            got = getattr(self.overflow, "value", self.overflow)
            raise ValueError(f"overflow: must be one of {', '.join(allowed)}, got {got!r}")
        object.__setattr__(self, "overflow", Overflow(self.overflow))
        if self.backoff_max < self.backoff_initial:
            raise ValueError(
                f"backoff_max: must be at least backoff_initial ({self.backoff_initial}s), "
                f"got {self.backoff_max}s"
            )


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: must be at least 1, got {value}")


def backoff(initial: float, most: float, failures: int, chance: Callable[[], float] = random.random) -> float:
    """Return the seconds to wait after some failures: exponential, with full jitter.

    Args:
        initial: the upper bound after the first failure, in seconds.
        most: the upper bound after any number of failures, in seconds.
        failures: how many attempts have failed, at least 1.
        chance: returns a number from 0 to 1; for tests.
    """
    return min(most, initial * 2.0 ** min(failures - 1, _MAX_DOUBLINGS)) * chance()


class Breaker:
    """A circuit breaker: after failures in a row it allows only one attempt at a time.

    Args:
        failures: how many failures in a row open it.
        reset: seconds until the next attempt after each failure while it is open.
    """

    def __init__(self, failures: int, reset: float) -> None:
        self._threshold = failures
        self._reset = reset
        self._failures = 0
        self._opened_at: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether the last failures have opened it; an attempt may be allowed nevertheless."""
        return self._opened_at is not None

    def wait(self, now: float) -> float:
        """Return the seconds until an attempt is allowed; 0 if it is allowed now."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._reset - now)

    def fail(self, now: float) -> None:
        """Count a failed attempt."""
        self._failures += 1
        if self._failures >= self._threshold:
            self._opened_at = now

    def allow_one(self, now: float) -> None:
        """Allow an attempt now even if it is open."""
        if self._opened_at is not None:
            self._opened_at = now - self._reset

    def succeed(self) -> None:
        """Close it: the sink has accepted events, or refused them permanently."""
        self._failures = 0
        self._opened_at = None


# An event and when it was queued, in seconds of the clock. A plain tuple, as there is one for each event.
Item = tuple[Event, float]


class Failure(NamedTuple):
    """An event that an attempt did not deliver, and the reason."""

    item: Item
    error: BaseException


class Outcome(NamedTuple):
    """The outcome of an attempt. Events in neither list were delivered.

    Attributes:
        retryable: events to send again.
        refused: events that the sink will never accept.
        error: the exception of the attempt, if it failed.
    """

    retryable: list[Failure]
    refused: list[Failure]
    error: BaseException | None

    @classmethod
    def of(cls, batch: list[Item], error: BaseException | None) -> Outcome:
        """Return the outcome of sending a batch, from the exception of `send` or None."""
        if error is None:
            return cls([], [], None)
        if isinstance(error, PartialDeliveryError):
            reasons = _failed_of(error)
            failures = [Failure(item, reasons[item[0].id]) for item in batch if item[0].id in reasons]
            if failures or not reasons:
                refused = [failure for failure in failures if isinstance(failure.error, PermanentError)]
                retryable = [failure for failure in failures if not isinstance(failure.error, PermanentError)]
                return cls(retryable, refused, error if failures else None)
            # Ids that are not in the batch: sending twice is better than losing events.
            error = DeliveryError(f"PartialDeliveryError.failed: none of {len(reasons)} ids is in the batch")
        failures = [Failure(item, error) for item in batch]
        return cls([], failures, error) if isinstance(error, PermanentError) else cls(failures, [], error)

    @property
    def retry_after(self) -> float | None:
        """The longest wait that the errors request, in seconds; None if none does."""
        waits = [_retry_after(f.error) for f in self.retryable if isinstance(f.error, RetryableError)]
        return max((seconds for seconds in waits if seconds is not None), default=None)


def _failed_of(error: PartialDeliveryError) -> Mapping[str, BaseException]:
    """Return the error of each event that failed; none if a subclass has set it to something else."""
    try:
        return dict(error.failed)
    except Exception:  # noqa: BLE001 - foreign code
        return {"": error}


def _retry_after(error: RetryableError) -> float | None:
    """Return a valid `retry_after`; subclasses may have set it to anything, or not at all."""
    try:
        value = getattr(error, "retry_after", None)
        return float(value) if value is not None and value >= 0 else None
    except OverflowError:
        return math.inf
    except Exception:  # noqa: BLE001 - foreign code
        return None
