"""`serve`: an application over HTTP, and to nobody that it is not meant for. All that is used of uvicorn."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.web.token_gate import Application, HostGate, TokenGate, is_loopback

if TYPE_CHECKING:
    import uvicorn

_GRACE = 5  # seconds for requests under way when it ends
_TICK = 0.02


class PublicAddressError(ValueError):
    """An address that others can reach needs a token."""


def check_address(host: str, token: str | None) -> None:
    """Raise unless it is safe to listen: on this machine only, or with a token.

    Args:
        host: a name or an address; a name other than `localhost` is taken for public.
        token: what is asked for.

    Raises:
        PublicAddressError: others can reach the address, and there is no token.
    """
    if not (token or "").strip() and not is_loopback(host):
        shown = host or "every address"
        raise PublicAddressError(
            f"listening on {shown} would show it to everybody who can reach this machine: "
            "give a token, or listen on 127.0.0.1"
        )


def serve(
    app: Application,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    *,
    hosts: Collection[str] = (),
) -> None:
    """Serve an application until the process is asked to end (SIGINT, SIGTERM).

    Args:
        app: an ASGI application, such as `dashboard` gives.
        host: where to listen.
        port: the same; 0 is any that is free.
        token: asked for at each request; a browser gives it once, with `/?access_token=...`. It may be left
            out where only this machine can connect.
        hosts: without a token, the names besides those of this machine that may stand in the `Host` of a
            request; behind a proxy, its name.

    Raises:
        PublicAddressError: others can reach the address, and there is no token.
        MissingExtraError: uvicorn is not installed.
        OSError: the address cannot be used.
    """
    server, listening = _server(app, host, port, token, hosts)
    with listening, suppress(KeyboardInterrupt):  # which the server raises once it has ended
        server.run([listening])


@asynccontextmanager
async def serving(
    app: Application,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    *,
    hosts: Collection[str] = (),
) -> AsyncIterator[str]:
    """Serve an application as long as a context lasts, beside what else there is on the loop.

    Signals are left to the program. Takes what `serve` takes, raises what it raises. At the end the
    application's `aclose` is called, if it has one.

    Yields:
        The address, without the token.
    """
    server, listening = _server(app, host, port, token, hosts)
    close = getattr(app, "aclose", None)
    with listening:
        server.capture_signals = nullcontext  # type: ignore[assignment]
        running = asyncio.create_task(server.serve([listening]), name=f"serving {host}")
        try:
            while not (server.started or running.done()):  # noqa: ASYNC110 - it has no event for it
                await asyncio.sleep(_TICK)
            if running.done():
                await running
            yield address_of(listening, host)
        finally:
            if close is not None:
                await (
                    close()
                )  # a server waits for its connections to end, and an event stream does not by itself
            server.should_exit = True
            await asyncio.wait({running})


def address_of(listening: socket.socket, host: str) -> str:
    """Give the address to open in a browser."""
    shown = "127.0.0.1" if host in {"", "0.0.0.0"} else "[::1]" if host == "::" else host  # noqa: S104 - shown only
    name = f"[{shown}]" if ":" in shown and not shown.startswith("[") else shown
    return f"http://{name}:{listening.getsockname()[1]}/"


def _server(
    app: Application, host: str, port: int, token: str | None, hosts: Collection[str]
) -> tuple[uvicorn.Server, socket.socket]:
    check_address(host, token)
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtraError("serve", "uvicorn", "web") from error
    token = (token or "").strip()
    gate: Application = TokenGate(app, token) if token else HostGate(app, hosts)
    config = uvicorn.Config(
        gate,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
        ws="none",
    )
    return uvicorn.Server(config), _listen(host, port)


def _listen(host: str, port: int) -> socket.socket:
    """Take the address before the server does, which would end the process where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host.strip("[]"), port), family=family, backlog=2048)
