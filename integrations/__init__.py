"""Delivery of events to sinks: `attach`, and everything a sink author needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codomyrmex.integrations._extras import MissingExtraError, lazy_exports

if TYPE_CHECKING:
    from codomyrmex.integrations.delivery.attachment import Attachment, attach
    from codomyrmex.integrations.delivery.blocking import BlockingAttachment, attach_blocking
    from codomyrmex.integrations.delivery.dead_letters import DeadLetter, DeadLetters
    from codomyrmex.integrations.delivery.errors import (
        DeliveryError,
        DroppedError,
        PartialDeliveryError,
        PermanentError,
        RetryableError,
    )
    from codomyrmex.integrations.delivery.health import (
        DrainReport,
        SinkHealth,
        SinkProblem,
        SinkReport,
        SinkState,
    )
    from codomyrmex.integrations.delivery.policy import DeliveryPolicy
    from codomyrmex.integrations.delivery.sink import Binding, InlineSink, Sink

__all__ = [
    "Attachment",
    "Binding",
    "BlockingAttachment",
    "DeadLetter",
    "DeadLetters",
    "DeliveryError",
    "DeliveryPolicy",
    "DrainReport",
    "DroppedError",
    "InlineSink",
    "MissingExtraError",
    "PartialDeliveryError",
    "PermanentError",
    "RetryableError",
    "Sink",
    "SinkHealth",
    "SinkProblem",
    "SinkReport",
    "SinkState",
    "attach",
    "attach_blocking",
]

# Imported on first use, so that importing one integration does not import the dependencies of others.
__getattr__ = lazy_exports(
    __name__,
    {
        "Attachment": "delivery.attachment",
        "Binding": "delivery.sink",
        "BlockingAttachment": "delivery.blocking",
        "DeadLetter": "delivery.dead_letters",
        "DeadLetters": "delivery.dead_letters",
        "DeliveryError": "delivery.errors",
        "DeliveryPolicy": "delivery.policy",
        "DrainReport": "delivery.health",
        "DroppedError": "delivery.errors",
        "InlineSink": "delivery.sink",
        "PartialDeliveryError": "delivery.errors",
        "PermanentError": "delivery.errors",
        "RetryableError": "delivery.errors",
        "Sink": "delivery.sink",
        "SinkHealth": "delivery.health",
        "SinkProblem": "delivery.health",
        "SinkReport": "delivery.health",
        "SinkState": "delivery.health",
        "attach": "delivery.attachment",
        "attach_blocking": "delivery.blocking",
    },
)
