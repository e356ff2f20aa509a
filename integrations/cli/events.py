"""How the commands print events: a line each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from codomyrmex.integrations.cli.output import printable
from codomyrmex.streaming import Event, EventType
from codomyrmex.streaming.encoding import to_json
from rich.console import Console
from rich.text import Text

_STYLES = {EventType.ERROR: "bold red", EventType.HEARTBEAT: "dim"}
_MAX_PAYLOAD = 4_000  # characters; no terminal shows more in one line


def write_json(event: Event, **more: str) -> None:
    """Write an event as a line of JSON, with more keys if there are any."""
    sys.stdout.write(f"{to_json({**more, **event.to_dict()})}\n")
    sys.stdout.flush()


def line_writer(console: Console) -> Callable[..., None]:
    """Return a function that prints an event as a line, cut to the width of a terminal."""
    width = console.width if console.is_terminal or "COLUMNS" in os.environ else None

    def write(event: Event, cursor: str = "") -> None:
        payload = event.data if isinstance(event.data, str) else to_json(event.data)
        if width is not None:
            payload = payload[:_MAX_PAYLOAD]
        line = Text.assemble(
            (f"{cursor}  " if cursor else "", "dim"),
            (f"{event.timestamp.astimezone():%H:%M:%S}.{event.timestamp.microsecond // 1000:03d} ", "dim"),
            (f"{event.type.value:<9} ", _STYLES.get(event.type, "green")),
            (f"{printable(event.topic or str(event.metadata.get('event', '-')))}  ", "cyan"),
            printable(payload),
        )
        if width is not None:
            line.truncate(width, overflow="ellipsis")
        # Written by us, because the console would handle a broken pipe itself.
        with console.capture() as captured:
            console.print(line, soft_wrap=True)
        sys.stdout.write(captured.get())
        sys.stdout.flush()

    return write
