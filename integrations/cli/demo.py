"""`codomyrmex-streaming demo`: runs examples/demo."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import sys
from collections.abc import Coroutine
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any

import typer
from codomyrmex.demo.errors import DemoError
from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.cli.arguments import finite, read_duration
from codomyrmex.integrations.cli.output import (
    PROBLEMS,
    discard_stdout,
    fail,
    print_message,
    printable,
    reporting_errors,
)

_PORT_ERRORS = {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES}
_DURATION = 45.0  # seconds without a terminal, where nobody presses Ctrl-C
_CYCLE = 30.0  # seconds
_KILL_EVERY = "20s"
_MAX_WORKERS = 16


def demo(
    *,
    port: Annotated[
        int, typer.Option(help="The port of the live page; 0 for any free port.", min=0, max=65535)
    ] = 8765,
    duration: Annotated[
        str | None,
        typer.Option(
            "--duration",
            "--for",
            metavar="SPAN",
            help="When it ends, such as 45 or 2m. By default it runs until Ctrl-C, or without a terminal "
            f"{_DURATION:g} seconds.",
            show_default=False,
        ),
    ] = None,
    cycle: Annotated[
        float | None,
        typer.Option(
            help=f"Seconds from one failure of the backend to the next; {_CYCLE:g} by default.",
            min=4,
            show_default=False,
            callback=finite,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Run this number of processes that share a SQLite file, and kill the one that sends the "
            "alerts every now and then.",
            min=1,
            max=_MAX_WORKERS,
            show_default=False,
        ),
    ] = None,
    kill_every: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN",
            help=f"With --workers, how often a process is killed; {_KILL_EVERY} by default.",
            show_default=False,
        ),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the live page in a browser.")] = True,
) -> None:
    """Watch a shop whose backend fails now and then.

    Shows its log, its traces, its alerts and its live page.

    With --workers, several processes take orders and one of them sends the alerts. It is killed now and then,
    and another one takes over. At the end it prints what was published, what arrived and what was lost.
    """
    on_terminal = sys.stdout.isatty()
    seconds = None if duration is None else _at_least_a_second(duration, "--for")
    if seconds is None and not on_terminal:
        seconds = _DURATION
    browser = browser and on_terminal and _has_display()
    if workers is None:
        if kill_every is not None:
            raise typer.BadParameter("needs --workers", param_hint="--kill-every")
        run = _import_demo("main").run(port=port, cycle=cycle or _CYCLE, duration=seconds, browser=browser)
    else:
        if sys.platform == "win32":
            raise typer.BadParameter("needs SIGKILL, which Windows does not have", param_hint="--workers")
        if cycle is not None:
            raise typer.BadParameter("cannot be used with --workers", param_hint="--cycle")
        every = _at_least_a_second(kill_every or _KILL_EVERY, "--kill-every")
        run = _import_demo("workers").run_workers(
            workers=workers, port=port, kill_every=every, duration=seconds, browser=browser
        )
    _run(run, port)


def _run(demo: Coroutine[Any, Any, bool], port: int) -> None:
    """Run a demo, and exit with 1 if it has lost something or cannot run."""
    try:
        complete = asyncio.run(demo)
    except KeyboardInterrupt:  # before the signal handlers were set
        return
    except BrokenPipeError:  # as with `| head`
        discard_stdout()
        return
    except DemoError as error:
        fail(str(error), as_json=False)
    except OSError as error:
        if error.errno not in _PORT_ERRORS:  # such as a full disk behind stdout
            raise
        in_use = error.errno == errno.EADDRINUSE
        problem = "is in use; choose another with --port" if in_use else f"cannot be used: {error.strerror}"
        print_message(f"port {port} {problem}", "red")
        raise typer.Exit(PROBLEMS) from None
    if not complete:
        raise typer.Exit(PROBLEMS)


def _import_demo(module: str) -> ModuleType:
    """Import a module of the demo, which needs more packages than the command."""
    with reporting_errors(as_json=False):
        try:
            return import_module(f"codomyrmex.demo.{module}")
        except ImportError as error:
            name = "-".join((error.name or "a package").split(".")[:2])  # opentelemetry.sdk
            raise MissingExtraError("the demo", name, "demo") from error


def _at_least_a_second(text: str, option: str) -> float:
    """Return the seconds of an option: a number, or a duration such as 2m."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = read_duration(text, option)
    if not 1 <= seconds < math.inf:
        raise typer.BadParameter(f"must be at least 1s and finite, got {printable(text)}", param_hint=option)
    return seconds


def _has_display() -> bool:
    """Return whether a browser can open a window; a text browser would take over the terminal."""
    return sys.platform in {"darwin", "win32"} or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
