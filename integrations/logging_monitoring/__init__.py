"""Events as log lines and on traces, log records as events, and the redaction of secrets."""

from typing import TYPE_CHECKING

from codomyrmex.integrations._extras import lazy_exports

if TYPE_CHECKING:
    from codomyrmex.integrations.delivery.secrets import DEFAULT_PATTERNS
    from codomyrmex.integrations.logging_monitoring.delivery_collector import DeliveryCollector
    from codomyrmex.integrations.logging_monitoring.delivery_metrics import meter_delivery
    from codomyrmex.integrations.logging_monitoring.jsonl_sink import JsonlSink
    from codomyrmex.integrations.logging_monitoring.log_feeds import PublishLogs, StreamLogHandler
    from codomyrmex.integrations.logging_monitoring.log_lines import LogLines
    from codomyrmex.integrations.logging_monitoring.opentelemetry_sink import OpenTelemetrySink
    from codomyrmex.integrations.logging_monitoring.redaction import (
        DEFAULT_KEYS,
        RedactionStatistics,
        Redactor,
        redact,
    )
    from codomyrmex.integrations.logging_monitoring.structlog_sink import StructlogSink
    from codomyrmex.integrations.logging_monitoring.tracing import (
        PublishTracing,
        TraceContextStamp,
        stamp_trace_context,
        trace_publishing,
    )

__all__ = [
    "DEFAULT_KEYS",
    "DEFAULT_PATTERNS",
    "DeliveryCollector",
    "JsonlSink",
    "LogLines",
    "OpenTelemetrySink",
    "PublishLogs",
    "PublishTracing",
    "RedactionStatistics",
    "Redactor",
    "StreamLogHandler",
    "StructlogSink",
    "TraceContextStamp",
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
        "DeliveryCollector": "delivery_collector",
        "JsonlSink": "jsonl_sink",
        "LogLines": "log_lines",
        "OpenTelemetrySink": "opentelemetry_sink",
        "PublishLogs": "log_feeds",
        "PublishTracing": "tracing",
        "RedactionStatistics": "redaction",
        "Redactor": "redaction",
        "StreamLogHandler": "log_feeds",
        "StructlogSink": "structlog_sink",
        "TraceContextStamp": "tracing",
        "meter_delivery": "delivery_metrics",
        "redact": "redaction",
        "stamp_trace_context": "tracing",
        "trace_publishing": "tracing",
    },
)
