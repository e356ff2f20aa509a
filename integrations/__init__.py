"""What ties streams to the world: `attach`, and what someone writing a sink needs."""

from codomyrmex.integrations._extras import MissingExtraError
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
from codomyrmex.integrations.delivery.health import SinkHealth, SinkState
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.delivery.report import DrainReport, SinkReport
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
    "SinkReport",
    "SinkState",
    "attach",
    "attach_blocking",
]
