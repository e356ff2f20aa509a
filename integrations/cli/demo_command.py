"""`codomyrmex-streaming demo`: the demonstration that is in examples/demo."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer
from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.cli.output import PROBLEMS, say, telling

_WITHOUT_A_TERMINAL = 45.0  # seconds: a job that waits for its end is not kept for ever


def demo(
    *,
    port: Annotated[
        int, typer.Option(help="Of the live page; 0 is any that is free.", min=0, max=65535)
    ] = 8765,
    duration: Annotated[
        float | None,
        typer.Option(
            help="Seconds until it ends. By default it runs until Ctrl-C; without a terminal, "
            f"{_WITHOUT_A_TERMINAL:g}.",
            min=1,
            show_default=False,
        ),
    ] = None,
    cycle: Annotated[
        float, typer.Option(help="Seconds from one failure of the back end to the next.", min=4)
    ] = 30,
    browser: Annotated[bool, typer.Option(help="Open the live page in a browser.")] = True,
) -> None:
    """Watch all of it: a shop whose back end fails now and then, its log, its alerts and its live page."""
    at_a_terminal = sys.stdout.isatty()
    if duration is None and not at_a_terminal:
        duration = _WITHOUT_A_TERMINAL
    try:
        run = _find()
        browser = browser and at_a_terminal and _has_screen()
        complete = asyncio.run(run(port=port, cycle=cycle, duration=duration, browser=browser))
    except KeyboardInterrupt:  # before it has begun
        return
    except BrokenPipeError:  # as with `| head`; what is still to be written goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        why = "is in use; choose another with --port" if in_use else f"cannot be used: {error.strerror}"
        say(f"port {port} {why}", "red")
        raise typer.Exit(PROBLEMS) from None
    if not complete:
        raise typer.Exit(PROBLEMS)


def _find() -> Callable[..., Coroutine[Any, Any, bool]]:
    """Import the demo, which needs more than the command does."""
    with telling(as_json=False):
        try:
            from codomyrmex.demo.main import run
        except ImportError as error:
            name = "-".join((error.name or "a package").split(".")[:2])  # opentelemetry.sdk
            raise MissingExtraError("the demo", name, "demo") from error
    return run


def _has_screen() -> bool:
    """Tell whether a browser would have a window; without one, a browser of text would take the terminal."""
    return sys.platform in {"darwin", "win32"} or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
