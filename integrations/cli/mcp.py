"""`codomyrmex-streaming mcp`: tools for an assistant, over stdin and stdout."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from typing import Annotated

import typer
from codomyrmex.integrations.cli.output import print_message
from codomyrmex.integrations.mcp.backend import Backend
from codomyrmex.integrations.mcp.local import LocalBackend
from codomyrmex.integrations.mcp.remote import RemoteBackend
from codomyrmex.integrations.mcp.server import mcp_server
from codomyrmex.integrations.web.page_client import PageClient

_CLOSE_TIMEOUT = 2.0  # seconds


def mcp(
    *,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The URL of the live page of the application that the tools read. Without it, they only "
            "have streams of their own in memory.",
            show_default=False,
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            help="The token of the live page. The variable keeps it out of the process list.",
            envvar="CODOMYRMEX_TOKEN",
            metavar="TOKEN",
        ),
    ] = None,
    allow_actions: Annotated[
        bool,
        typer.Option(
            "--allow-actions",
            help="With --url, also offer tools that add and expire silences, replay dead letters, and "
            "publish events. The live page has to allow actions with this token.",
        ),
    ] = False,
) -> None:
    """Serve tools for an assistant over stdin and stdout (MCP).

    Add this command to the configuration of an assistant, which then starts it. It ends when stdin is closed.
    Messages go to stderr.
    """
    if url is None and allow_actions:
        raise typer.BadParameter("needs --url", param_hint="--allow-actions")
    # At a lower level, the SDK logs every request.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    if sys.stdin.isatty():
        print_message(
            "This command waits for an assistant on stdin and stdout, see docs/mcp.md; Ctrl-C ends it."
        )
    with suppress(KeyboardInterrupt):  # on Windows
        asyncio.run(_serve(url, token, allow_actions=allow_actions))


async def _serve(url: str | None, token: str | None, *, allow_actions: bool) -> None:
    backend: Backend
    if url is None:
        backend = LocalBackend()
    else:
        try:
            client = PageClient(url, token)
        except ValueError as error:
            option, _, problem = str(error).partition(": ")
            raise typer.BadParameter(problem, param_hint=f"--{option}") from None
        backend = RemoteBackend(client)
    server = mcp_server(backend, allow_actions=allow_actions, streams_writable=url is None or allow_actions)
    interrupted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # on Windows Ctrl-C is a KeyboardInterrupt
            asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
    serving = asyncio.create_task(server.run_stdio_async())
    waiting = asyncio.create_task(interrupted.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    with suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            await backend.aclose()
    if not serving.done():
        os._exit(0)  # nothing can interrupt the thread that reads stdin
    waiting.cancel()
    try:
        await serving
    except* BrokenPipeError:  # the assistant is gone
        pass
