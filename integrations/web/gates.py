"""Gates refuse requests without a token, for other hosts (DNS rebinding), or from other origins."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Collection, Iterable, Sequence
from urllib.parse import quote, urlencode, urlsplit

from codomyrmex.integrations.web import http
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

_GATED = "codomyrmex.gated"  # in the scope of a request that has passed a gate
UNGATED = "codomyrmex.ungated"  # in the scope of a request without a token for a path that needs none
_NO_HOST = frozenset("@/?#")  # characters that only occur in other parts of a URL
_PARAMETER = "access_token"


class SiteGate:
    """Refuses requests for other hosts, and requests that pages of other origins make.

    A page of another site can make requests to this machine and, by changing what its name resolves to, read
    the responses (DNS rebinding). The names that a request is for are therefore checked.

    Args:
        hosts: the names that requests may have in their `Host` header; `"*"` allows any. None allows those of
            this machine, or any if requests are authorized or every origin may read.
        origins: other origins whose pages are allowed, as browsers send them; `"*"` allows any.
        authorized: whether requests are authorized in another way too.
        addresses: whether requests for any IP address are allowed, as monitoring systems send them; nobody
            can make an address resolve to another machine.
    """

    def __init__(
        self,
        hosts: Iterable[str] | None,
        origins: Iterable[str],
        *,
        authorized: bool,
        addresses: bool = False,
    ) -> None:
        self.origins = [origin.rstrip("/") for origin in _texts("allow_origins", origins)]
        listed = _texts("allowed_hosts", hosts or ())
        self._hosts = frozenset(host.lower() for host in listed)
        self._any_host = "*" in self._hosts or (hosts is None and (authorized or "*" in self.origins))
        self._addresses = addresses

    def check(self, request: Request) -> None:
        """Raise an HTTPException if the request is for another host or from a page of another origin."""
        host = request.headers.get("host")
        gated = self._any_host or _GATED in request.scope
        # Every browser sends the header, so a request without it (HTTP/1.0) is not from a page. Granian shows
        # a header that is absent as an empty one.
        if self._addresses and host and _is_address(_host_name(host)):
            gated = True
        if not gated and host and not _names_this(host, self._hosts):
            name = ascii(_host_name(host) or host)[1:-1][:100]
            raise HTTPException(421, f"this server is not {name}; name the hosts it serves in allowed_hosts")
        if is_cross_origin(request.headers, self.origins, self._hosts):
            raise HTTPException(403, "pages of this origin may not use this server; see allow_origins")


def _texts(name: str, values: Iterable[str]) -> list[str]:
    listed = (
        [values] if isinstance(values, str) else list(values) if isinstance(values, Iterable) else [values]
    )
    for each in listed:
        if not isinstance(each, str):
            raise TypeError(f"{name}: must be a list of texts, got {values!r}")
    return listed


def is_cross_origin(
    headers: Headers, origins: Sequence[str] = (), hosts: Collection[str] = frozenset()
) -> bool:
    """Return whether a browser sends the request for a page of another origin that is not allowed.

    Browsers name the origin of every POST and of requests whose response a script can read (Fetch, section
    3.2), and the relation of origins of all others (Fetch Metadata). Following a link is not refused. Other
    clients usually send neither.
    """
    if "*" in origins:
        return False
    origin = headers.get("origin")
    if origin is None:
        site = headers.get("sec-fetch-site", "same-origin")
        return site not in {"same-origin", "none"} and headers.get("sec-fetch-mode") != "navigate"
    address = origin.partition("://")[2].lower()
    same = address in hosts or (address != "" and address == headers.get("host", "").lower())
    return origin not in origins and not same


class TokenGate:
    """ASGI middleware that passes on requests with a token: `Authorization: Bearer ...`, or a cookie.

    A browser gets the cookie from `/?access_token=...` and is redirected to the URL without the token, which
    would otherwise end up in bookmarks. The cookie is derived from the token and hidden from scripts. Where
    no cookie can come, as in the requests of scripts, the parameter is enough. CORS preflights, which have
    neither, are left to the application, and so are requests without a token for its `open_paths`.

    Args:
        app: the application to protect; pages of its `allow_origins`, if it has such an attribute, can read
            refusals too. If it has `refusal`, a function of a message, a status and headers, this makes them.
        token: the expected token.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token
        origins = getattr(app, "allow_origins", ())
        self._refuse = http.allow_cross_origin(self._refuse_request, origins, ("GET", "POST"))
        digest = hmac.new(token.encode(), b"codomyrmex live page", hashlib.sha256).hexdigest()
        self._cookie, self._value = f"codomyrmex_{digest[:8]}", digest[8:]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served, not {scope['type']}")
        request = Request(scope)
        headers = request.headers
        may_pass = http.same_token(http.bearer_token(headers) or "", self._token) or any(
            http.same_token(value, self._value) for value in http.cookie_values(headers, self._cookie)[:10]
        )
        if not may_pass and request.method in {"GET", "HEAD"}:
            may_pass = http.same_token(request.query_params.get(_PARAMETER, ""), self._token)
            if may_pass and _is_navigation(headers):
                await self._set_cookie(request)(scope, receive, send)
                return
        if may_pass or _is_preflight(request):
            await self._app({**scope, _GATED: True}, receive, send)
        elif request.method in {"GET", "HEAD"} and scope["path"] in getattr(self._app, "open_paths", ()):
            await self._app({**scope, UNGATED: True}, receive, send)
        else:
            await self._refuse(scope, receive, send)

    async def _refuse_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {**http.RESPONSE_HEADERS, **http.UNAUTHORIZED}
        refusal = getattr(self._app, "refusal", None)
        if refusal is None:
            message = f"A token is required: open ?{_PARAMETER}=... once, or send Authorization: Bearer ..."
            response = PlainTextResponse(message, 401, headers)
        else:
            response = refusal("a token is required; send Authorization: Bearer ...", 401, headers)
        await response(scope, receive, send)

    def _set_cookie(self, request: Request) -> Response:
        query = [(name, value) for name, value in request.query_params.multi_items() if name != _PARAMETER]
        headers = {**http.RESPONSE_HEADERS, "referrer-policy": "no-referrer"}
        # Relative, because a proxy may serve this under another path.
        same_path = "./" + quote(request.scope["path"].rpartition("/")[2].encode(errors="replace"))
        response = RedirectResponse(f"?{urlencode(query)}" if query else same_path, 303, headers)
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
        self._gate = SiteGate(hosts, ["*"], authorized=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._gate.check(Request(scope))
            except HTTPException as refusal:
                respond = getattr(self._app, "refusal", PlainTextResponse)
                response = respond(refusal.detail, refusal.status_code, http.RESPONSE_HEADERS)
                await response(scope, receive, send)
                return
            scope = {**scope, _GATED: True}
        await self._app(scope, receive, send)


def is_loopback(host: str) -> bool:
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


def is_reachable(scope: Scope) -> bool:
    """Return whether a request arrived at an address that other machines can reach; False behind `serve`.

    A server without an address listens on a Unix socket, which other machines cannot reach.
    """
    host, port = scope.get("server") or (None, None)
    return port is not None and _GATED not in scope and not is_loopback(host or "")


def _names_this(host: str, hosts: Collection[str]) -> bool:
    name = _host_name(host)
    return is_loopback(name) or name in hosts or host.lower() in hosts


def _host_name(host: str) -> str:
    """Return the name in a `Host` header (RFC 9110, section 7.2); empty if it is not a host and a port."""
    if not _NO_HOST.isdisjoint(host):
        return ""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_preflight(request: Request) -> bool:
    """Return whether a browser asks what pages of another origin may send (Fetch, section 3.2.2)."""
    headers = request.headers
    return request.method == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


def _is_navigation(headers: Headers) -> bool:
    """Return whether a browser opens a page, so that it can follow a redirect and keep a cookie."""
    if "origin" in headers:
        return False
    mode = headers.get("sec-fetch-mode")
    return mode == "navigate" if mode is not None else "text/html" in headers.get("accept", "").lower()
