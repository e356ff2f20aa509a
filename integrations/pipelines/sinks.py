"""The sinks `structlog`, `jsonl`, `alerts`, `dashboard` and `sse`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

from codomyrmex.integrations.delivery.sink import InlineSink, Sink
from codomyrmex.integrations.pipelines.parts import (
    Address,
    Context,
    FieldError,
    Server,
    SinkConfig,
    Size,
    Token,
)
from codomyrmex.streaming import Event, InMemoryStream


class Structlog(SinkConfig, frozen=True):
    """Log lines on stdout or stderr, independent of the structlog configuration of the process."""

    format: Literal["console", "json"] = "console"
    output: Literal["stdout", "stderr"] = "stderr"
    level: Literal["debug", "info", "warning", "error", "critical"] = "debug"

    def build(self, name: str, context: Context) -> Sink:
        from codomyrmex.integrations.logging_monitoring.log_lines import LogLines

        if self.output == "stdout":
            _check_stdout("output")
        sink = LogLines(1 if self.output == "stdout" else 2, self.format, self.level, name=name)
        sink.on_broken_pipe = context.stdout_closed.set
        return sink


class Jsonl(SinkConfig, frozen=True):
    """A file with a line of JSON for each event, which is rotated; `-` is the standard output."""

    path: str = ""
    data: Literal["event", "payload"] = "event"
    max_size: Size | None = None
    keep: int = 5

    def build(self, name: str, context: Context) -> Sink:
        from codomyrmex.integrations.logging_monitoring.jsonl_sink import JsonlSink

        if not self.path:
            raise FieldError("path", "is required")
        if self.path == "-":
            _check_stdout("path")
        path = self.path if self.path == "-" else context.folder / self.path
        sink = JsonlSink(path, data=self.data, max_size=self.max_size, keep=self.keep, name=name)
        sink.on_broken_pipe = context.stdout_closed.set
        return sink

    def writes(self, context: Context) -> Iterable[tuple[str, Path]]:
        if self.path != "-":
            yield "path", context.folder / self.path


def _check_stdout(field: str) -> None:
    # The descriptor does not show this: if it was closed, the command has replaced it.
    if sys.__stdout__ is None:
        raise FieldError(field, "the standard output is closed")


class Alerts(SinkConfig, frozen=True):
    """Alert routing with a separate configuration file."""

    config: str = ""

    def build(self, name: str, context: Context) -> InlineSink | Sink:
        from codomyrmex.integrations.notification.alerts.sink import AlertSink

        if not self.config:
            raise FieldError("config", "is required: the path of the file with the routes")
        sink = AlertSink(context.folder / self.config, audit=context.audit, name=name)
        context.notes += sink.config.notes
        return sink

    def reads(self, context: Context) -> Iterable[tuple[str, Path]]:
        yield "config", context.folder / self.config


class ServerSink(InlineSink):
    """Serves the events of a sink over HTTP.

    Args:
        name: the name in reports and logs.
        stream: receives the events.
        app: returns the application that serves the stream; called when the sink is opened.
        address: where to listen.
        token: required from each client.
        context: as for `Server`.
    """

    drain_timeout = 10.0

    def __init__(
        self,
        name: str,
        stream: InMemoryStream,
        app: Callable[[], Any],
        address: Address,
        token: str | None,
        context: Context,
    ) -> None:
        self.name = name
        self._stream = stream
        self.server = Server(app, address, token, context)

    async def open(self) -> None:
        await self.server.open()

    def emit(self, event: Event) -> None:
        self._stream.publish_nowait(event)

    async def close(self) -> None:
        await self.server.aclose()


class Dashboard(SinkConfig, frozen=True):
    """The live page."""

    shows_alerts: ClassVar[bool] = True
    listen: Address = Address("127.0.0.1", 8000)
    token: Token | None = None
    actions: bool = False
    title: str = "codomyrmex-streaming"

    def build(self, name: str, context: Context) -> InlineSink:
        from codomyrmex.integrations.notification.alerts.sink import AlertSink
        from codomyrmex.integrations.web.dashboard import dashboard

        stream = InMemoryStream(buffer_size=1)

        def app() -> Any:
            alerts = (sink for sink in context.sinks.values() if isinstance(sink, AlertSink))
            return dashboard(
                stream,
                context,
                next(alerts, None),
                context.board,
                audit=context.audit,
                allow_actions=self.token if self.actions else None,
                title=self.title,
                signals=False,
            )

        return ServerSink(name, stream, app, self.listen, self.token, context)


class SseServer(SinkConfig, frozen=True):
    """Server-sent events for any client that connects."""

    listen: Address = Address("127.0.0.1", 8001)
    token: Token | None = None
    data: Literal["event", "payload"] = "event"
    buffer_size: int = 1_000
    allow_origins: list[str] = []

    def build(self, name: str, context: Context) -> InlineSink:
        from codomyrmex.integrations.web.event_stream import event_stream

        stream = InMemoryStream(buffer_size=1)
        app = event_stream(
            stream,
            data=self.data,
            buffer_size=self.buffer_size,
            allow_origins=self.allow_origins,
            signals=False,
        )
        return ServerSink(name, stream, lambda: app, self.listen, self.token, context)
