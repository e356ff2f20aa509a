"""What a channel raises. It speaks of the channel's name and scheme, never of its URL."""

from __future__ import annotations

from codomyrmex.integrations.delivery.errors import DeliveryError, PermanentError, RetryableError


class ChannelError(DeliveryError):
    """A channel could not be set up, or did not deliver and nobody knows why: it is tried again."""


class ChannelRetryableError(ChannelError, RetryableError):
    """A channel did not deliver, and later it may; `retry_after` holds the seconds it was asked to wait."""


class ChannelPermanentError(ChannelError, PermanentError):
    """A channel did not deliver, and trying again would not help."""
