"""`DeliveryPolicy`: how much a sink may have waiting, and how often and how long it is tried."""

from __future__ import annotations

from dataclasses import dataclass, fields

from codomyrmex.integrations.delivery.seconds import check_seconds
from codomyrmex.streaming import Overflow

_COUNTS = ("queue_size", "batch_size", "max_attempts", "breaker_failures")
_MAY_BE_ZERO = ("batch_age", "backoff_initial", "backoff_max", "breaker_reset", "drain_timeout")


@dataclass(frozen=True, kw_only=True)
class DeliveryPolicy:
    """How events are queued for a sink, sent, tried again and given up. All times are in seconds.

    The defaults are what OpenTelemetry's batch processors, the Collector and Vector have in common.

    Args:
        queue_size: how many events may wait.
        overflow: what happens to one more: `DROP_OLDEST`, `DROP_NEWEST`, or `BLOCK`, with which
            `await publish()` waits for room and `publish_nowait()` drops the new event.
        batch_size: how many events go in one `send`; never more than the queue holds.
        batch_age: how long an event waits for others to fill a batch; 0 sends at once.
        timeout: for each attempt.
        max_attempts: how often an event is tried, the first time included.
        backoff_initial: the wait before the second attempt is random, up to this; it doubles each time.
        backoff_max: the wait is never more than this. What `RetryableError(retry_after=...)` says goes
            before both.
        max_elapsed: from the first attempt on, after so long an event is not tried again.
        breaker_failures: after so many failed attempts in a row the sink is left alone.
        breaker_reset: after so long it is tried with one batch again.
        drain_timeout: how long `aclose` delivers what is still queued.

    Raises:
        ValueError: a number is out of range; the message says which and why.
        TypeError: something is not a number.
    """

    queue_size: int = 2_048
    overflow: Overflow = Overflow.DROP_OLDEST
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

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "overflow":
                _check_number(field.name, getattr(self, field.name))
        try:
            overflow = Overflow(self.overflow)
        except ValueError:
            known = ", ".join(policy.value for policy in Overflow if policy is not Overflow.DISCONNECT)
            raise ValueError(f"overflow is one of {known}, not {self.overflow!r}") from None
        if overflow is Overflow.DISCONNECT:
            raise ValueError("overflow: DISCONNECT is for clients that come back; a sink does not")
        object.__setattr__(self, "overflow", overflow)
        if self.backoff_max < self.backoff_initial:
            raise ValueError(
                f"backoff_max ({self.backoff_max}) is less than backoff_initial ({self.backoff_initial})"
            )


def _check_number(name: str, value: object) -> None:
    if name not in _COUNTS:
        check_seconds(name, value, zero=name in _MAY_BE_ZERO)
    elif isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a whole number, not {value!r}")
    elif value < 1:
        raise ValueError(f"{name} is at least 1, not {value}")
