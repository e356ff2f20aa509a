"""`TokenGate`: nobody comes to an application without a token."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit

from codomyrmex.integrations.web.access import bearer_of, same_token
from codomyrmex.integrations.web.asgi import NO_STORE, Receive, Request, Scope, Send, answer

_PARAMETER = "access_token"


class Application(Protocol):
    """An ASGI application."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a connection."""


class TokenGate:
    """Lets a request through that has the token: `Authorization: Bearer ...`, or a cookie.

    A browser gets the cookie from `/?access_token=...`, once; it is sent on to the address without it, so
    that the token stands in no bookmark. The cookie is not the token and cannot be read by a page.

    Args:
        app: what is behind it.
        token: what is asked for.
    """

    def __init__(self, app: Application, token: str) -> None:
        self._app = app
        self._token = token
        digest = hmac.new(token.encode(), b"codomyrmex live page", hashlib.sha256).hexdigest()
        self._name, self._value = f"codomyrmex_{digest[:8]}", digest[8:]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP comes through here, not {scope['type']}")
        request = Request(scope)
        if self._has_header(request) or self._has_cookie(request):
            await self._app(scope, receive, send)
        elif request.method == "GET" and same_token(next(iter(request.query(_PARAMETER)), ""), self._token):
            # Lax, so that a link in a chat works: Strict would keep the cookie from the redirect.
            cookie = f"{self._name}={self._value}; HttpOnly; SameSite=Lax; Path=/"
            if scope.get("scheme") == "https":
                cookie += "; Secure"
            headers = [(b"location", _without_token(scope)), (b"set-cookie", cookie.encode()), NO_STORE]
            await answer(send, 303, "", [*headers, (b"referrer-policy", b"no-referrer")])
        else:
            message = f"A token is needed: open this with ?{_PARAMETER}=... once, or send it as a bearer."
            await answer(send, 401, message, [(b"www-authenticate", b"Bearer"), NO_STORE])

    def _has_header(self, request: Request) -> bool:
        given = bearer_of(request)
        return given is not None and same_token(given, self._token)

    def _has_cookie(self, request: Request) -> bool:
        try:
            found = SimpleCookie(request.header("cookie") or "").get(self._name)
        except CookieError:
            return False
        return found is not None and same_token(found.value, self._value)


class HostGate:
    """Refuses requests for other hosts: else any page could have its own name lead to this machine.

    Args:
        app: what is behind it.
        hosts: names besides those of this machine, such as that of a proxy.
    """

    def __init__(self, app: Application, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection, or refuse it."""
        if scope["type"] == "http":
            host = _name_of(Request(scope).header("host") or "")
            if not (is_loopback(host) or host in self._hosts):
                await answer(send, 421, f"this server is not {host}; it serves this machine only", [NO_STORE])
                return
        await self._app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Tell whether an address can be reached from this machine only; a name is not looked up."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _without_token(scope: Scope) -> bytes:
    query = scope.get("query_string", b"").decode("latin-1")
    left = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name != _PARAMETER]
    return f"?{urlencode(left)}".encode() if left else b"./"
