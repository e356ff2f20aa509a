"""`serve` and `serving`: an ASGI application on uvicorn, protected from unauthorized access."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.configuration.environment import is_header_text
from codomyrmex.integrations.web.gates import HostGate, TokenGate, is_loopback
from starlette.types import ASGIApp

if TYPE_CHECKING:
    import uvicorn

_MAX_PORT = 65_535
_SHUTDOWN_TIMEOUT = 5  # seconds for open requests when the server stops
_POLL_INTERVAL = 0.02


class PublicAddressError(ValueError):
    """An address that other machines can reach is used without a token."""


def check_address(host: str, token: str | None) -> None:
    """Raise unless it is safe to listen on an address: on this machine only, or with a token.

    Args:
        host: a name or an IP address; any name other than `localhost` counts as public.
        token: the token that requests need, if any.

    Raises:
        PublicAddressError: other machines can reach the address, and there is no token.
        ValueError: the token is not printable ASCII.
    """
    if token is not None and not isinstance(token, str):
        raise TypeError(f"token: must be text, got {type(token).__name__}")
    if token is not None and not is_header_text(token):
        raise ValueError("token: must be printable ASCII, as no client can send another one")
    if not (token or "").strip() and not is_loopback(host):
        raise PublicAddressError(
            f"host: {host or 'every address'} is reachable from other machines; "
            "pass a token, or listen on 127.0.0.1"
        )


def serve(
    app: ASGIApp,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    *,
    hosts: Collection[str] = (),
    max_connections: int = 1_000,
) -> None:
    """Serve an application until the process receives SIGINT or SIGTERM.

    Args:
        app: an ASGI application, such as `dashboard` returns.
        host: the address to listen on.
        port: the port to listen on; 0 picks a free one.
        token: a token that each request needs. A browser needs it once, as `/?access_token=...`. Optional if
            only this machine can connect.
        hosts: without a token, the names in addition to those of this machine that requests may have in their
            `Host` header, such as the name of a proxy.
        max_connections: the number of connections at once; others are closed. It is at most half of the
            descriptors that the process may have, so that files and other connections can still be opened.
            A request has 10 seconds for its headers (of at most 32 KiB) and 60 for its body.

    Raises:
        PublicAddressError: other machines can reach the address, and there is no token.
        MissingExtraError: uvicorn is not installed.
        OSError: the address cannot be used.
    """
    server, listener = _server(app, host, port, token, hosts, max_connections)
    with listener, suppress(KeyboardInterrupt):  # raised by the server after it has shut down
        server.run([listener])


@asynccontextmanager
async def serving(
    app: ASGIApp,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    *,
    hosts: Collection[str] = (),
    max_connections: int = 1_000,
) -> AsyncIterator[str]:
    """Serve an application within a context, on the running loop.

    Takes the arguments of `serve` and raises the same errors. Signals are left to the program. At the end the
    `aclose` method of the application is awaited, if it has one.

    Yields:
        The URL, without the token.
    """
    server, listener = _server(app, host, port, token, hosts, max_connections)
    with listener:
        server.capture_signals = nullcontext  # type: ignore[assignment]
        task = asyncio.create_task(server.serve([listener]), name=f"serving {host}")
        try:
            while not (server.started or task.done()):  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(_POLL_INTERVAL)
            if task.done():
                await task
            yield _url(listener, host)
        finally:
            aclose = getattr(app, "aclose", None)
            if (
                aclose is not None
            ):  # uvicorn waits for connections, and event streams do not end by themselves
                await aclose()
            server.should_exit = True
            await asyncio.wait({task})


def _url(listener: socket.socket, host: str) -> str:
    name = "127.0.0.1" if host in {"", "0.0.0.0"} else "[::1]" if host == "::" else host  # noqa: S104 - shown only
    name = f"[{name}]" if ":" in name and not name.startswith("[") else name
    return f"http://{name}:{listener.getsockname()[1]}/"


def _server(
    app: ASGIApp, host: str, port: int, token: str | None, hosts: Collection[str], max_connections: int
) -> tuple[uvicorn.Server, socket.socket]:
    check_address(host, token)
    if not callable(app):
        raise TypeError(f"app: must be an ASGI application, got {type(app).__name__}")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= _MAX_PORT:
        raise ValueError(f"port: must be an integer from 0 to {_MAX_PORT}, got {port!r}")
    if isinstance(max_connections, bool) or not isinstance(max_connections, int) or max_connections < 1:
        raise ValueError(f"max_connections: must be an integer of at least 1, got {max_connections!r}")
    try:
        import uvicorn  # noqa: F401 - imported first, because its absence is what is reported
        from codomyrmex.integrations.web.connections import LimitedServer
    except ImportError as error:
        raise MissingExtraError("serve", "uvicorn", "web") from error
    token = (token or "").strip()
    gate = TokenGate(app, token) if token else HostGate(app, hosts)
    server = LimitedServer(gate, max_connections, _SHUTDOWN_TIMEOUT)
    # Bound here, because uvicorn would exit the process if the address cannot be used.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host.strip("[]"), port), family=family, backlog=server.config.backlog)
    # Connections inherit it. asyncio sets it only for sockets created with an explicit protocol. Without it,
    # each of several requests in a row over one connection waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return server, listener
