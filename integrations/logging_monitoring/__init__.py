"""Events as log lines and on traces."""

from typing import TYPE_CHECKING

from codomyrmex.integrations._extras import lazy_exports

if TYPE_CHECKING:
    from codomyrmex.integrations.logging_monitoring.opentelemetry_sink import OpenTelemetrySink
    from codomyrmex.integrations.logging_monitoring.structlog_sink import StructlogSink

__all__ = ["OpenTelemetrySink", "StructlogSink"]

__getattr__ = lazy_exports(
    __name__, {"OpenTelemetrySink": "opentelemetry_sink", "StructlogSink": "structlog_sink"}
)
