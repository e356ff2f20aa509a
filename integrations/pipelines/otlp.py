"""OpenTelemetry's SDK over OTLP, set up by its standard environment variables."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.sink import InlineSink
from codomyrmex.integrations.delivery.waiting import resolve
from codomyrmex.integrations.logging_monitoring.opentelemetry_sink import Mode, OpenTelemetrySink
from codomyrmex.streaming import Event

_PACKAGES = {"grpc": "grpc", "http/protobuf": "http"}
_SDK = "opentelemetry.sdk"
_TO_FLUSH = 5.0  # seconds for what the collector has not taken yet
_TO_END = 2.0


class OtlpSink(InlineSink):
    """Exports over OTLP.

    `OTEL_EXPORTER_OTLP_ENDPOINT`, `_HEADERS`, `_PROTOCOL` (`grpc` or `http/protobuf`), `OTEL_SERVICE_NAME`
    and `OTEL_RESOURCE_ATTRIBUTES` are read by the SDK. It ends in bounded time, whether or not there is a
    collector.

    Args:
        mode: as for `OpenTelemetrySink`.
        service_name: where the environment says none.
        name: what the sink is called.

    Raises:
        ValueError: the protocol is unknown.
        MissingExtraError: the SDK or the exporter is not installed.
    """

    drain_timeout = _TO_FLUSH + _TO_END

    def __init__(self, mode: Mode, service_name: str | None, name: str) -> None:
        self.name = name
        self._mode = mode
        self._service_name = service_name
        self._sink: OpenTelemetrySink | None = None
        self._providers: tuple[Any, ...] = ()
        self._counts: list[_Counting] = []
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "grpc"
        if protocol not in _PACKAGES:
            raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL is {' or '.join(_PACKAGES)}, not {protocol!r}")
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
        logs = _Counting(self._log_exporter.OTLPLogExporter())
        logger_provider.add_log_record_processor(
            logs.before(self._log_export.BatchLogRecordProcessor(logs), "on_emit")
        )
        tracer_provider = self._traces.TracerProvider(resource=resource, shutdown_on_exit=False)
        spans = _Counting(self._span_exporter.OTLPSpanExporter())
        tracer_provider.add_span_processor(
            spans.before(self._trace_export.BatchSpanProcessor(spans), "on_end")
        )
        self._counts = [logs, spans]
        self._providers = (logger_provider, tracer_provider)
        self._sink = OpenTelemetrySink(self._mode, tracer_provider, logger_provider, name=self.name)

    def _resource(self) -> Any:
        resource = self._resources.OTELResourceDetector().detect()
        if self._service_name is not None and "service.name" not in resource.attributes:
            resource = resource.merge(self._resources.Resource({"service.name": self._service_name}))
        return self._resources.Resource.create().merge(resource)

    def emit(self, event: Event) -> None:
        assert self._sink is not None  # noqa: S101 - it was opened
        self._sink.emit(event)

    async def close(self) -> None:
        # The SDK's own limits do not hold where there is no collector.
        await _within(_TO_FLUSH, [provider.force_flush for provider in self._providers])
        await _within(_TO_END, [provider.shutdown for provider in self._providers])

    def lost(self) -> int:
        """Tell how many records and spans no collector has taken, up to now."""
        return sum(count.taken - count.exported for count in self._counts)


class _Counting:
    """An exporter that counts what is taken for it and what a collector has got."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter
        self.taken = 0
        self.exported = 0

    def export(self, batch: Any, *args: Any, **named: Any) -> Any:
        result = self._exporter.export(batch, *args, **named)
        if result.name == "SUCCESS":
            self.exported += len(batch)
        return result

    def before(self, processor: Any, name: str) -> Any:
        """Count what a processor takes; give the processor."""
        take = getattr(processor, name)

        def counted(record: Any) -> None:
            self.taken += 1
            take(record)

        setattr(processor, name, counted)
        return processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exporter, name)


async def _within(seconds: float, calls: list[Callable[[], object]]) -> None:
    """Make blocking calls at once, each on a daemon thread, and wait so long at most."""
    loop = asyncio.get_running_loop()
    waiting = []
    for call in calls:
        done = loop.create_future()
        threading.Thread(target=_call, args=(call, loop, done), daemon=True).start()
        waiting.append(done)
    if waiting:
        await asyncio.wait(waiting, timeout=seconds)


def _call(call: Callable[[], object], loop: asyncio.AbstractEventLoop, done: asyncio.Future[None]) -> None:
    try:
        call()
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(resolve, done)
