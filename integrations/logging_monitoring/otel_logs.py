"""OpenTelemetry's logs API, which still stands in modules with an underscore: all of it is used here."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from codomyrmex.integrations._extras import MissingExtraError

try:
    from opentelemetry._logs import (
        Logger,
        LoggerProvider,
        NoOpLoggerProvider,
        SeverityNumber,
        get_logger_provider,
    )
    from opentelemetry._logs._internal import ProxyLoggerProvider
except ImportError as error:
    raise MissingExtraError("OpenTelemetrySink", "opentelemetry-api", "otel") from error

if TYPE_CHECKING:
    from opentelemetry.context import Context

__all__ = ["Logger", "LoggerProvider", "emit_log", "find_logger"]

_SCOPE = "codomyrmex.streaming"

_SEVERITIES = {
    logging.DEBUG: (SeverityNumber.DEBUG, "DEBUG"),
    logging.INFO: (SeverityNumber.INFO, "INFO"),
    logging.WARNING: (SeverityNumber.WARN, "WARN"),
    logging.ERROR: (SeverityNumber.ERROR, "ERROR"),
    logging.CRITICAL: (SeverityNumber.FATAL, "FATAL"),
}


def find_logger(provider: LoggerProvider | None) -> Logger | None:
    """Give the logger of a provider, or of the global one; None where none has been set up."""
    if provider is None:
        provider = get_logger_provider()
    if isinstance(provider, (ProxyLoggerProvider, NoOpLoggerProvider)):
        return None
    return provider.get_logger(_SCOPE)


def emit_log(
    logger: Logger,
    name: str,
    level: int,
    nanoseconds: int,
    body: str,
    attributes: Mapping[str, Any],
    context: Context | None,
) -> bool:
    """Emit a log record with an event name; False where the logger does not want it."""
    number, text = _SEVERITIES[level]
    if not logger.enabled(context=context, severity_number=number, event_name=name):
        return False
    logger.emit(
        timestamp=nanoseconds,
        observed_timestamp=time.time_ns(),
        context=context,
        severity_number=number,
        severity_text=text,
        body=body,
        attributes=attributes,
        event_name=name,
    )
    return True
