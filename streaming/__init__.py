"""Events, streams and processors."""

from codomyrmex.streaming.buffers import Overflow
from codomyrmex.streaming.clock import Clock
from codomyrmex.streaming.errors import (
    EventDecodeError,
    StepResultError,
    StreamClosedError,
    StreamingError,
    TopicError,
)
from codomyrmex.streaming.events import Event, EventType, create_event
from codomyrmex.streaming.memory import InMemoryStream, TopicStream
from codomyrmex.streaming.processor import ProcessorStatistics, StreamProcessor
from codomyrmex.streaming.sse import Frame, SSEStream
from codomyrmex.streaming.sse_format import SSEDecodeError, SSEDecoder, SSERecord
from codomyrmex.streaming.stream import Interceptor, Listener, Stream, StreamStatistics, broadcast
from codomyrmex.streaming.subscriptions import FilterFunction, Handler, Subscription

__version__ = "0.1.0"

__all__ = [
    "Clock",
    "Event",
    "EventDecodeError",
    "EventType",
    "FilterFunction",
    "Frame",
    "Handler",
    "InMemoryStream",
    "Interceptor",
    "Listener",
    "Overflow",
    "ProcessorStatistics",
    "SSEDecodeError",
    "SSEDecoder",
    "SSERecord",
    "SSEStream",
    "StepResultError",
    "Stream",
    "StreamClosedError",
    "StreamProcessor",
    "StreamStatistics",
    "StreamingError",
    "Subscription",
    "TopicError",
    "TopicStream",
    "broadcast",
    "create_event",
]
