"""The sink `opentelemetry`: OTLP, configured by OpenTelemetry's environment variables."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.sink import InlineSink
from codomyrmex.integrations.logging_monitoring.opentelemetry_sink import Mode, OpenTelemetrySink
from codomyrmex.integrations.pipelines.parts import Context, SinkConfig
from codomyrmex.streaming import Event

_PACKAGES = {"grpc": "grpc", "http/protobuf": "http"}
_SDK = "opentelemetry.sdk"
_FLUSH_TIMEOUT = 5.0  # seconds for records that the collector has not accepted yet
_SHUTDOWN_TIMEOUT = 2.0


class OpenTelemetry(SinkConfig, frozen=True):
    """Log records and span events, exported over OTLP."""

    mode: Mode = "log_event"
    service_name: str | None = None

    def build(self, name: str, _: Context) -> InlineSink:
        return OtlpSink(self.mode, self.service_name, name)


class OtlpSink(InlineSink):
    """Exports over OTLP.

    The SDK reads `OTEL_EXPORTER_OTLP_ENDPOINT`, `_HEADERS`, `_PROTOCOL` (`grpc` or `http/protobuf`),
    `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`. Closing takes bounded time even without a collector.

    Args:
        mode: as for `OpenTelemetrySink`.
        service_name: used if the environment names none.
        name: the name in reports and logs.

    Raises:
        ValueError: the protocol is unknown.
        MissingExtraError: the SDK or the exporter is not installed.
    """

    drain_timeout = _FLUSH_TIMEOUT + _SHUTDOWN_TIMEOUT

    def __init__(self, mode: Mode, service_name: str | None, name: str) -> None:
        self.name = name
        self._mode = mode
        self._service_name = service_name
        self._sink: OpenTelemetrySink | None = None
        self._providers: tuple[Any, ...] = ()
        self._exporters: list[_CountingExporter] = []
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "grpc"
        if protocol not in _PACKAGES:
            supported = " or ".join(_PACKAGES)
            raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL: must be {supported}, got {protocol!r}")
        exporters = f"opentelemetry.exporter.otlp.proto.{_PACKAGES[protocol]}"
        try:
            self._resources: Any = import_module(f"{_SDK}.resources")
            self._logs: Any = import_module(f"{_SDK}._logs")
            self._log_export: Any = import_module(f"{_SDK}._logs.export")
            self._traces: Any = import_module(f"{_SDK}.trace")
            self._trace_export: Any = import_module(f"{_SDK}.trace.export")
            self._log_exporter: Any = import_module(f"{exporters}._log_exporter")
            self._span_exporter: Any = import_module(f"{exporters}.trace_exporter")
        except ImportError as error:
            package = f"opentelemetry-exporter-otlp-proto-{_PACKAGES[protocol]}"
            raise MissingExtraError("the sink opentelemetry", package, "otlp") from error

    async def open(self) -> None:
        resource = self._resource()
        logger_provider = self._logs.LoggerProvider(resource=resource, shutdown_on_exit=False)
        logs = _CountingExporter(self._log_exporter.OTLPLogExporter())
        log_processor = self._log_export.BatchLogRecordProcessor(logs)
        logger_provider.add_log_record_processor(_CountingProcessor(log_processor, logs))
        tracer_provider = self._traces.TracerProvider(resource=resource, shutdown_on_exit=False)
        spans = _CountingExporter(self._span_exporter.OTLPSpanExporter())
        span_processor = self._trace_export.BatchSpanProcessor(spans)
        tracer_provider.add_span_processor(_CountingProcessor(span_processor, spans))
        self._exporters = [logs, spans]
        self._providers = (logger_provider, tracer_provider)
        self._sink = OpenTelemetrySink(self._mode, tracer_provider, logger_provider, name=self.name)

    def _resource(self) -> Any:
        resource = self._resources.OTELResourceDetector().detect()
        if self._service_name is not None and "service.name" not in resource.attributes:
            resource = resource.merge(self._resources.Resource({"service.name": self._service_name}))
        return self._resources.Resource.create().merge(resource)

    def emit(self, event: Event) -> None:
        assert self._sink is not None  # noqa: S101 - open was called
        self._sink.emit(event)

    async def close(self) -> None:
        # The SDK does not keep to its own limits where there is no collector.
        await _call_all([provider.force_flush for provider in self._providers], _FLUSH_TIMEOUT)
        await _call_all([provider.shutdown for provider in self._providers], _SHUTDOWN_TIMEOUT)

    def not_exported(self) -> int:
        """Return how many records and spans no collector has accepted so far."""
        return sum(exporter.processed - exporter.exported for exporter in self._exporters)


class _CountingExporter:
    """An exporter that counts the records that a collector accepted."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter
        self.processed = 0
        self.exported = 0

    def export(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        result = self._exporter.export(batch, *args, **kwargs)
        if result.name == "SUCCESS":
            self.exported += len(batch)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exporter, name)


class _CountingProcessor:
    """A processor of log records or spans that counts those on their way to an exporter."""

    def __init__(self, processor: Any, exporter: _CountingExporter) -> None:
        self._processor = processor
        self._exporter = exporter

    def on_emit(self, record: Any) -> None:
        self._exporter.processed += 1
        self._processor.on_emit(record)

    def on_end(self, span: Any) -> None:
        self._exporter.processed += 1
        self._processor.on_end(span)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)


async def _call_all(calls: list[Callable[[], object]], timeout: float) -> None:  # noqa: ASYNC109 - threads
    """Call blocking functions at once, each on a daemon thread, and wait for them up to a timeout."""
    loop = asyncio.get_running_loop()

    def run(call: Callable[[], object], done: asyncio.Event) -> None:
        try:
            call()
        finally:
            if not loop.is_closed():
                loop.call_soon_threadsafe(done.set)

    waiting = []
    for call in calls:
        done = asyncio.Event()
        threading.Thread(target=run, args=(call, done), daemon=True).start()
        waiting.append(asyncio.create_task(done.wait()))
    if waiting:
        _, pending = await asyncio.wait(waiting, timeout=timeout)
        for task in pending:
            task.cancel()
