"""What became of one attempt to send a batch."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import NamedTuple

from codomyrmex.integrations.delivery.errors import (
    DeliveryError,
    PartialDeliveryError,
    PermanentError,
    RetryableError,
)
from codomyrmex.streaming import Event

# An event and since when it waits, by the clock. A plain tuple: one is made for each event.
Item = tuple[Event, float]


class Failure(NamedTuple):
    """An event that an attempt did not deliver, and why."""

    item: Item
    error: BaseException


class Outcome(NamedTuple):
    """What became of the events of an attempt; those that are in neither list were delivered.

    Attributes:
        failures: what is to be sent again.
        refused: what will never be taken.
        error: what the sink raised, if it did.
    """

    failures: list[Failure]
    refused: list[Failure]
    error: BaseException | None

    def retry_after(self) -> float | None:
        """Give the seconds that the sink asked to wait, the most of all parts; None if it did not."""
        asked = [_seconds(f.error) for f in self.failures if isinstance(f.error, RetryableError)]
        return max((seconds for seconds in asked if seconds is not None), default=None)


def classify(batch: list[Item], sending: asyncio.Task[None], timed_out: BaseException | None) -> Outcome:
    """Read what became of an attempt.

    Args:
        batch: what was sent.
        sending: the task of the call, which is done.
        timed_out: what to say if it was cancelled because it took too long.
    """
    if sending.cancelled():
        error: BaseException | None = timed_out or RetryableError("the sink cancelled its own send")
    else:
        error = sending.exception()
    if error is None:
        return Outcome([], [], None)
    if isinstance(error, PartialDeliveryError):
        by_id = error.failed
        found = [Failure(item, by_id[item[0].id]) for item in batch if item[0].id in by_id]
        if by_id and not found:  # ids of another kind, say: to send twice is better than to lose
            return Outcome([Failure(item, _strangers(by_id)) for item in batch], [], _strangers(by_id))
        failures = [failure for failure in found if not isinstance(failure.error, PermanentError)]
        refused = [failure for failure in found if isinstance(failure.error, PermanentError)]
        return Outcome(failures, refused, error if found else None)
    all_failed = [Failure(item, error) for item in batch]
    if isinstance(error, PermanentError):
        return Outcome([], all_failed, error)
    return Outcome(all_failed, [], error)


def _seconds(error: RetryableError) -> float | None:
    """Give what an error asks for; a subclass may have forgotten to say, or say anything."""
    asked = getattr(error, "retry_after", None)
    try:
        return None if asked is None or not asked >= 0 else float(asked)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return None


def _strangers(by_id: Mapping[str, Exception]) -> Exception:
    return DeliveryError(f"the sink named {len(by_id)} events that failed, none of which is in the batch")
