"""`serve` and `serving`: an ASGI application on uvicorn, protected from anyone it is not meant for."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.web import http
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

if TYPE_CHECKING:
    import uvicorn

_SHUTDOWN_TIMEOUT = 5  # seconds for open requests when the server stops
_POLL_INTERVAL = 0.02
_PARAMETER = "access_token"


class PublicAddressError(ValueError):
    """An address that other machines can reach is used without a token."""


def check_address(host: str, token: str | None) -> None:
    """Raise unless it is safe to listen on an address: on this machine only, or with a token.

    Args:
        host: a name or an IP address; any name other than `localhost` counts as public.
        token: the token that requests need, if any.

    Raises:
        PublicAddressError: other machines can reach the address, and there is no token.
    """
    if not (token or "").strip() and not _is_loopback(host):
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

    Raises:
        PublicAddressError: other machines can reach the address, and there is no token.
        MissingExtraError: uvicorn is not installed.
        OSError: the address cannot be used.
    """
    server, listener = _server(app, host, port, token, hosts)
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
) -> AsyncIterator[str]:
    """Serve an application within a context, on the running loop.

    Takes the arguments of `serve` and raises the same errors. Signals are left to the program. At the end the
    `aclose` method of the application is awaited, if it has one.

    Yields:
        The URL, without the token.
    """
    server, listener = _server(app, host, port, token, hosts)
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
    app: ASGIApp, host: str, port: int, token: str | None, hosts: Collection[str]
) -> tuple[uvicorn.Server, socket.socket]:
    check_address(host, token)
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtraError("serve", "uvicorn", "web") from error
    token = (token or "").strip()
    config = uvicorn.Config(
        TokenGate(app, token) if token else HostGate(app, hosts),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT,
        ws="none",
    )
    # Bound here, because uvicorn would exit the process if the address cannot be used.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return uvicorn.Server(config), socket.create_server((host.strip("[]"), port), family=family, backlog=2048)


class TokenGate:
    """ASGI middleware that passes on requests with a token: `Authorization: Bearer ...`, or a cookie.

    A browser gets the cookie from `/?access_token=...` and is redirected to the URL without the token, which
    would otherwise end up in bookmarks. The cookie is derived from the token and hidden from scripts.

    Args:
        app: the application to protect.
        token: the expected token.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token
        digest = hmac.new(token.encode(), b"codomyrmex live page", hashlib.sha256).hexdigest()
        self._cookie, self._value = f"codomyrmex_{digest[:8]}", digest[8:]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served, not {scope['type']}")
        request = Request(scope)
        if http.same_token(http.bearer_token(request.headers) or "", self._token) or http.same_token(
            request.cookies.get(self._cookie, ""), self._value
        ):
            await self._app(scope, receive, send)
        elif request.method == "GET" and http.same_token(
            request.query_params.get(_PARAMETER, ""), self._token
        ):
            await self._set_cookie(request)(scope, receive, send)
        else:
            message = f"A token is required: open ?{_PARAMETER}=... once, or send Authorization: Bearer ..."
            response = PlainTextResponse(message, 401, {**http.RESPONSE_HEADERS, **http.UNAUTHORIZED})
            await response(scope, receive, send)

    def _set_cookie(self, request: Request) -> Response:
        query = [(name, value) for name, value in request.query_params.multi_items() if name != _PARAMETER]
        headers = {**http.RESPONSE_HEADERS, "referrer-policy": "no-referrer"}
        # Relative, because a proxy may serve this under another path.
        response = RedirectResponse(f"?{urlencode(query)}" if query else "./", 303, headers)
        # Lax, so that links from other pages work: browsers do not send Strict cookies after a redirect.
        secure = request.url.scheme == "https"
        response.set_cookie(self._cookie, self._value, httponly=True, samesite="lax", secure=secure)
        return response


class HostGate:
    """ASGI middleware that refuses requests for other hosts, which prevents DNS rebinding.

    Args:
        app: the application to protect.
        hosts: names in addition to those of this machine, such as the name of a proxy.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = _host_name(Request(scope).headers.get("host", ""))
            if not (_is_loopback(host) or host in self._hosts):
                message = f"this server is not {host}; it serves this machine only"
                await PlainTextResponse(message, 421, http.RESPONSE_HEADERS)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host; names are not resolved."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
