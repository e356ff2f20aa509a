"""Events as log lines and on traces, log records as events, and secrets taken out of both."""

from typing import TYPE_CHECKING

from codomyrmex.integrations._extras import lazy_exports

if TYPE_CHECKING:
    from codomyrmex.integrations.delivery.secrets import DEFAULT_PATTERNS
    from codomyrmex.integrations.logging_monitoring.delivery_metrics import meter_delivery
    from codomyrmex.integrations.logging_monitoring.log_handler import StreamLogHandler
    from codomyrmex.integrations.logging_monitoring.opentelemetry_sink import OpenTelemetrySink
    from codomyrmex.integrations.logging_monitoring.publish_logs import PublishLogs
    from codomyrmex.integrations.logging_monitoring.publishing_spans import trace_publishing
    from codomyrmex.integrations.logging_monitoring.redaction import (
        DEFAULT_KEYS,
        RedactionStatistics,
        Redactor,
        redact,
    )
    from codomyrmex.integrations.logging_monitoring.structlog_sink import StructlogSink
    from codomyrmex.integrations.logging_monitoring.trace_context import stamp_trace_context

__all__ = [
    "DEFAULT_KEYS",
    "DEFAULT_PATTERNS",
    "OpenTelemetrySink",
    "PublishLogs",
    "RedactionStatistics",
    "Redactor",
    "StreamLogHandler",
    "StructlogSink",
    "meter_delivery",
    "redact",
    "stamp_trace_context",
    "trace_publishing",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "DEFAULT_KEYS": "redaction",
        "DEFAULT_PATTERNS": "redaction",
        "OpenTelemetrySink": "opentelemetry_sink",
        "PublishLogs": "publish_logs",
        "RedactionStatistics": "redaction",
        "Redactor": "redaction",
        "StreamLogHandler": "log_handler",
        "StructlogSink": "structlog_sink",
        "meter_delivery": "delivery_metrics",
        "redact": "redaction",
        "stamp_trace_context": "trace_context",
        "trace_publishing": "publishing_spans",
    },
)
