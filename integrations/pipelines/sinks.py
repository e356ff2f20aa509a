"""Where events go: each sink of the configuration as what `attach` takes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO, cast

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.delivery.sink import Binding, InlineSink
from codomyrmex.integrations.logging_monitoring.jsonl_sink import JsonlSink
from codomyrmex.integrations.notification.alerts.sink import AlertSink
from codomyrmex.integrations.pipelines.fields import condition
from codomyrmex.integrations.pipelines.file import (
    Alerts,
    Dashboard,
    Delivery,
    Jsonl,
    OpenTelemetry,
    SinkFile,
    SseServer,
    Structlog,
)
from codomyrmex.streaming import Event, InMemoryStream, Overflow

_BLOCK = DeliveryPolicy(overflow=Overflow.BLOCK, batch_size=1_000, queue_size=10_000, batch_age=0.2)


@dataclass(slots=True)
class Page:
    """Something that is served over HTTP: made when the sinks are attached.

    Args:
        file: what stands in the configuration.
        stream: the events for it.
    """

    file: Dashboard | SseServer
    stream: InMemoryStream = field(default_factory=lambda: InMemoryStream(buffer_size=1))


class _IntoStream(InlineSink):
    """Gives the events of a sink of the file to a stream, from which they are served."""

    def __init__(self, name: str, stream: InMemoryStream) -> None:
        self.name = name
        self._stream = stream

    def emit(self, event: Event) -> None:
        self._stream.publish_nowait(event)


@dataclass(slots=True)
class Built:
    """What a sink of the configuration became."""

    binding: Binding
    page: Page | None = None
    alerts: AlertSink | None = None
    lost: Callable[[], int] | None = None  # what it took and could not bring to where it belongs


def make_sink(
    file: SinkFile, name: str, folder: Path, audit: InMemoryStream, nobody_reads: Callable[[], None]
) -> Built:
    """Make a sink of what stands in the configuration. Nothing is opened by that.

    Args:
        file: its struct.
        name: what it is called.
        folder: where relative paths begin.
        audit: gets what alert sinks decide.
        nobody_reads: called when who has read the standard output is gone.

    Raises:
        ValueError: it cannot be made; the message says why.
        ConfigError: the file of an alert sink has mistakes.
        MissingExtraError: a package is not installed.
    """
    built = _make(file, name, folder, audit, nobody_reads)
    binding = built.binding
    matchers = [matcher for line in file.where for matcher in line.matchers]
    policy: DeliveryPolicy | None = None
    if not isinstance(binding.sink, InlineSink):
        policy = _policy(file.delivery)
    elif file.delivery is not None:
        raise ValueError("this sink has no queue of its own, so there is no delivery to set")
    built.binding = Binding(binding.sink, file.topic, condition("*", matchers), policy)
    return built


def _make(
    file: SinkFile, name: str, folder: Path, audit: InMemoryStream, nobody_reads: Callable[[], None]
) -> Built:
    match file:
        case Structlog():
            return Built(Binding(_structlog(file, name, nobody_reads)))
        case OpenTelemetry():
            from codomyrmex.integrations.pipelines.otlp import OtlpSink  # imports much

            telemetry = OtlpSink(file.mode, file.service_name, name)
            return Built(Binding(telemetry), lost=telemetry.lost)
        case Alerts():
            if not file.config:
                raise ValueError("alerts has a config, the file with the routes")
            alerts = AlertSink(folder / file.config, audit=audit, name=name)
            return Built(Binding(alerts), alerts=alerts)
        case Jsonl():
            if not file.path:
                raise ValueError("jsonl has a path")
            path = file.path if file.path == "-" else folder / file.path
            sink = JsonlSink(path, data=file.data, max_size=file.max_size, keep=file.keep, name=name)
            sink.on_nobody_reads = nobody_reads
            return Built(Binding(sink))
        case Dashboard() | SseServer():
            page = Page(file)
            return Built(Binding(_IntoStream(name, page.stream)), page=page)
        case _:
            raise ValueError(f"there is no sink {type(file).__name__}")


def _policy(file: Delivery | None) -> DeliveryPolicy:
    if file is None:
        return _BLOCK
    given = {name: value for name in file.__struct_fields__ if (value := getattr(file, name)) is not None}
    if "overflow" in given:
        given["overflow"] = Overflow(given["overflow"])
    return replace(_BLOCK, **given)


class _Output:
    """The standard output or error for a logger: tells when nobody reads it any more."""

    def __init__(self, file: TextIO, nobody_reads: Callable[[], None]) -> None:
        self._file = file
        self._nobody_reads = nobody_reads

    def write(self, text: str) -> None:
        self._safely(lambda: self._file.write(text))

    def flush(self) -> None:
        self._safely(self._file.flush)

    def _safely(self, call: Callable[[], object]) -> None:
        try:
            call()
        except BrokenPipeError:
            self._nobody_reads()
            raise


def _structlog(file: Structlog, name: str, nobody_reads: Callable[[], None]) -> InlineSink:
    """Make a logger of its own, whatever the process has configured."""
    try:
        import structlog
    except ImportError as error:
        raise MissingExtraError("the sink structlog", "structlog", "structlog") from error
    from codomyrmex.integrations.logging_monitoring.naming import level_number
    from codomyrmex.integrations.logging_monitoring.structlog_sink import StructlogSink

    output = sys.stdout if file.output == "stdout" else sys.stderr
    renderer: Any = structlog.processors.JSONRenderer()
    if file.format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=output.isatty())
    logger = structlog.wrap_logger(
        structlog.PrintLogger(cast("TextIO", _Output(output, nobody_reads))),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level_number(file.level)),
    )
    return StructlogSink(logger, name=name)
