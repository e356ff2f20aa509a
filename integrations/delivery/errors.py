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


class PartialDeliveryError(DeliveryError):
    """Some events of a batch were not delivered; all others were.

    Args:
        failed: the error for each event that failed, by event id.
    """

    def __init__(self, failed: Mapping[str, Exception]) -> None:
        self.failed = dict(failed)
        example = next(iter(self.failed.values()), None)
        super().__init__(f"{len(self.failed)} not delivered, for example because: {example}")
