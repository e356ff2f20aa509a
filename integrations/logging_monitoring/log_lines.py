"""`LogLines`: events as log lines on a separate output, which may be slow."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.sink import Sink
from codomyrmex.integrations.logging_monitoring.line_output import LineOutput, write_lines
from codomyrmex.integrations.logging_monitoring.naming import LEVELS, level_number
from codomyrmex.integrations.logging_monitoring.structlog_sink import StructlogSink
from codomyrmex.streaming import Event

try:
    import structlog
except ImportError as error:
    raise MissingExtraError("LogLines", "structlog", "structlog") from error

_NAMES = {1: "the standard output", 2: "the standard error"}


class LogLines(Sink):
    """Renders events with structlog and writes them to a descriptor, in a thread.

    Unlike `StructlogSink`, it does not use the application's logging, and a stalled reader never
    blocks the event loop.

    Args:
        descriptor: 1 for the standard output, 2 for the standard error; it is duplicated.
        format: `console` for people, `json` for programs.
        level: events below it are left out.
        name: the name of the sink in reports.

    Attributes:
        on_broken_pipe: called when the reader is gone.
    """

    def __init__(
        self,
        descriptor: int = 2,
        format: str = "console",  # noqa: A002 - as in a configuration
        level: str | int = "debug",
        *,
        name: str = "structlog",
    ) -> None:
        self.name = name
        self._descriptor = descriptor
        self._shown = _NAMES.get(descriptor, f"descriptor {descriptor}")
        self._output: LineOutput | None = None
        self._rendered: list[str] = []
        number = level_number(level)
        if number not in LEVELS.values():
            raise ValueError(f"level: must be one of {', '.join(map(str, LEVELS.values()))}, got {number}")
        renderer: Any = structlog.processors.JSONRenderer()
        if format == "console":
            renderer = structlog.dev.ConsoleRenderer(colors=os.isatty(descriptor))
        logger = structlog.wrap_logger(
            _Collector(self._rendered),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso"),
                structlog.processors.format_exc_info,
                renderer,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(number),
        )
        self._sink = StructlogSink(logger)
        self.on_broken_pipe: Callable[[], None] | None = None

    async def open(self) -> None:
        self._output = LineOutput(os.dup(self._descriptor))

    async def send(self, events: Sequence[Event]) -> None:
        assert self._output is not None  # noqa: S101 - it was opened
        await write_lines(self._output, self._shown, events, self._render, self.on_broken_pipe)

    async def close(self) -> None:
        output, self._output = self._output, None
        if output is not None:
            output.close()

    def _render(self, event: Event) -> bytes:
        self._rendered.clear()
        self._sink.emit(event)
        return "".join(f"{text}\n" for text in self._rendered).encode("utf-8", "replace")


class _Collector:
    """A logger that collects the texts it is called with."""

    def __init__(self, texts: list[str]) -> None:
        self._append = texts.append

    def msg(self, text: str) -> None:
        self._append(text)

    log = debug = info = warn = warning = error = critical = exception = fatal = failure = err = msg
