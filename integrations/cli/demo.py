"""`codomyrmex-streaming demo`: runs examples/demo."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer
from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.cli.arguments import finite
from codomyrmex.integrations.cli.output import PROBLEMS, discard_stdout, print_message, reporting_errors

_PORT_ERRORS = {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES}
_DURATION = 45.0  # seconds without a terminal, where nobody presses Ctrl-C


def demo(
    *,
    port: Annotated[
        int, typer.Option(help="The port of the live page; 0 for any free port.", min=0, max=65535)
    ] = 8765,
    duration: Annotated[
        float | None,
        typer.Option(
            help="Seconds until it ends. By default it runs until Ctrl-C, or without a terminal "
            f"{_DURATION:g} seconds.",
            min=1,
            show_default=False,
            callback=finite,
        ),
    ] = None,
    cycle: Annotated[
        float,
        typer.Option(help="Seconds from one failure of the backend to the next.", min=4, callback=finite),
    ] = 30,
    browser: Annotated[bool, typer.Option(help="Open the live page in a browser.")] = True,
) -> None:
    """Watch a shop whose backend fails now and then.

    Shows its log, its traces, its alerts and its live page.
    """
    on_terminal = sys.stdout.isatty()
    if duration is None and not on_terminal:
        duration = _DURATION
    try:
        run = _import_demo()
        browser = browser and on_terminal and _has_display()
        complete = asyncio.run(run(port=port, cycle=cycle, duration=duration, browser=browser))
    except KeyboardInterrupt:  # before the signal handlers were set
        return
    except BrokenPipeError:  # as with `| head`
        discard_stdout()
        return
    except OSError as error:
        if error.errno not in _PORT_ERRORS:  # such as a full disk behind stdout
            raise
        in_use = error.errno == errno.EADDRINUSE
        problem = "is in use; choose another with --port" if in_use else f"cannot be used: {error.strerror}"
        print_message(f"port {port} {problem}", "red")
        raise typer.Exit(PROBLEMS) from None
    if not complete:
        raise typer.Exit(PROBLEMS)


def _import_demo() -> Callable[..., Coroutine[Any, Any, bool]]:
    """Import the demo, which needs more packages than the command."""
    with reporting_errors(as_json=False):
        try:
            from codomyrmex.demo.main import run
        except ImportError as error:
            name = "-".join((error.name or "a package").split(".")[:2])  # opentelemetry.sdk
            raise MissingExtraError("the demo", name, "demo") from error
    return run


def _has_display() -> bool:
    """Return whether a browser can open a window; a text browser would take over the terminal."""
    return sys.platform in {"darwin", "win32"} or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
