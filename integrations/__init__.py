"""What ties streams to the world: `attach`, and what someone writing a sink needs."""

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.attachment import Attachment, attach
from codomyrmex.integrations.delivery.errors import DeliveryError, DroppedError, PartialDeliveryError
from codomyrmex.integrations.delivery.report import DrainReport, SinkReport
from codomyrmex.integrations.delivery.sink import InlineSink, Sink

__all__ = [
    "Attachment",
    "DeliveryError",
    "DrainReport",
    "DroppedError",
    "InlineSink",
    "MissingExtraError",
    "PartialDeliveryError",
    "Sink",
    "SinkReport",
    "attach",
]
