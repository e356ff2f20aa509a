"""What a sink raises to say more than that it failed."""

from __future__ import annotations

from collections.abc import Mapping


class DeliveryError(Exception):
    """Base of the errors of `codomyrmex.integrations`."""


class DroppedError(DeliveryError):
    """An inline sink did not take an event, and not because it failed.

    Args:
        reason: one word or two for the report, such as `no_span`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RetryableError(DeliveryError):
    """None of a batch was delivered, and it may work later. Any other exception means the same.

    Args:
        message: what went wrong.
        retry_after: seconds that the other side asked to wait (`Retry-After`, RFC 9110 section 10.2.3).

    Raises:
        ValueError: `retry_after` is negative or no number.
    """

    def __init__(self, message: str = "not delivered", *, retry_after: float | None = None) -> None:
        if retry_after is not None and not (isinstance(retry_after, (int, float)) and retry_after >= 0):
            raise ValueError(f"retry_after is a number of seconds from 0 on, not {retry_after!r}")
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(DeliveryError):
    """None of a batch was delivered, and trying again would not help: the events are given up."""


class PartialDeliveryError(DeliveryError):
    """Some events of a batch were not delivered; all others were, and are not sent again.

    A sink whose `send` is cut off by the timeout may raise it too, to say how far it came.

    Args:
        failed: the error for each event that failed, by event id. A `PermanentError` gives that event
            up; with any other it is tried again.
    """

    def __init__(self, failed: Mapping[str, Exception]) -> None:
        self.failed = dict(failed)
        example = next(iter(self.failed.values()), None)
        super().__init__(f"{len(self.failed)} not delivered, for example because: {example}")
