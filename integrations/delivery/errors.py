"""The exceptions a sink raises to report how a delivery failed."""

from __future__ import annotations

from collections.abc import Mapping

from codomyrmex.streaming.diagnostics import message_of


class DeliveryError(Exception):
    """Base of the errors of `codomyrmex.integrations`."""


class DroppedError(DeliveryError):
    """An inline sink left out an event on purpose.

    Args:
        reason: the key under which the report counts it, such as `no_span`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RetryableError(DeliveryError):
    """No event of the batch was delivered, and a later attempt may succeed.

    Any other exception means the same.

    Args:
        message: what failed.
        retry_after: seconds to wait before the next attempt (`Retry-After`, RFC 9110, section 10.2.3).

    Raises:
        ValueError: `retry_after` is negative or not a number.
    """

    def __init__(self, message: str = "not delivered", *, retry_after: float | None = None) -> None:
        if retry_after is not None and not (isinstance(retry_after, (int, float)) and retry_after >= 0):
            raise ValueError(f"retry_after: must be a number of seconds, 0 or greater, got {retry_after!r}")
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(DeliveryError):
    """No event of the batch was delivered, and none will be: they become dead letters."""


class PartialDeliveryError(DeliveryError):
    """Some events of a batch were not delivered; all others were, and are not sent again.

    A `send` that is cancelled because of its timeout may raise it as well, to report its progress.

    Args:
        failed: the error of each event that failed, by event id. After a `PermanentError` the event becomes
            a dead letter; after any other error it is retried.
    """

    def __init__(self, failed: Mapping[str, Exception]) -> None:
        self.failed = dict(failed)
        example = next(iter(self.failed.values()), None)
        shown = "" if example is None else f", for example: {message_of(example)}"
        super().__init__(f"{len(self.failed)} events were not delivered{shown}")
