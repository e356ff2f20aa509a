"""HTTP details that the applications share: authorization, origins, headers, bodies and responses."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from inspect import isawaitable
from typing import Any

from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.streaming.encoding import to_json
from codomyrmex.streaming.topics import check_pattern, matches
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Scope

Topics = str | Iterable[str]
Authorize = Callable[[Scope], "Topics | Awaitable[Topics | None] | None"]

RESPONSE_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
UNAUTHORIZED = {"www-authenticate": "Bearer"}  # RFC 9110, section 15.5.2: 401 names the scheme
_ALLOWED_HEADERS = ("Authorization", "Content-Type", "Last-Event-ID")

_log = Diagnostics(__name__)


class AllowedTopics:
    """The topics that a request may use, as one or several patterns; `"*"` allows everything."""

    def __init__(self, patterns: Topics) -> None:
        listed = [patterns] if isinstance(patterns, str) else patterns
        self._patterns = [check_pattern(pattern) for pattern in listed]
        self.everything = "*" in self._patterns

    def allow(self, topic: str | None) -> bool:
        """Return whether a topic may be used."""
        return self.everything or any(matches(pattern, topic) for pattern in self._patterns)


async def authorized_topics(authorize: Authorize | None, scope: Scope) -> AllowedTopics:
    """Return the topics that a request may use.

    Raises:
        HTTPException: with status 401 if the request may use none, and 500 if `authorize` raised.
    """
    if authorize is None:
        return AllowedTopics("*")
    try:
        topics: Any = authorize(scope)
        if isawaitable(topics):
            topics = await topics
        if topics is not None:
            return AllowedTopics(topics)
    except Exception as error:  # noqa: BLE001 - user code; its message may hold secrets
        _log.warning("authorize", "authorize raised %s", type(error).__name__, error=error)
        raise HTTPException(500, "authorization failed; the server's log says why") from None
    raise HTTPException(401, "not authorized: a valid token is required", UNAUTHORIZED)


def require_token(token: str, topics: Topics = "*") -> Authorize:
    """Return an `authorize` that requires a token: `Authorization: Bearer ...` or `?access_token=...`.

    The query parameter (RFC 6750, section 2.3) is for browsers, whose EventSource cannot send headers. Query
    strings are often logged, so prefer the header elsewhere. Tokens are compared in constant time.

    Args:
        token: the expected token.
        topics: one or several topic patterns that requests with the token may use.

    Raises:
        ValueError: the token is empty.
    """
    if not token:
        raise ValueError("token: must not be empty, because that would let everyone in")

    def authorize(scope: Scope) -> Topics | None:
        request = Request(scope)
        sent = bearer_token(request.headers)
        if sent is None:
            sent = request.query_params.get("access_token", "").strip()
        return topics if same_token(sent, token) else None

    return authorize


def bearer_token(headers: Headers) -> str | None:
    """Return the token of `Authorization: Bearer ...` (RFC 6750, section 2.1), or None."""
    scheme, _, token = utf8_header(headers, "authorization").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def same_token(sent: str, expected: str) -> bool:
    """Return whether two tokens are equal, in constant time."""
    return hmac.compare_digest(sent.encode(errors="replace"), expected.encode())


def listed_origins(origins: Iterable[str]) -> list[str]:
    """Return origins as browsers send them: without a trailing slash."""
    listed = [origins] if isinstance(origins, str) else origins
    return [origin.rstrip("/") for origin in listed]


def allow_cross_origin(app: ASGIApp, origins: Iterable[str], methods: Sequence[str]) -> ASGIApp:
    """Return an application that lets pages of other origins read its responses (CORS)."""
    allowed = listed_origins(origins)
    return CORSMiddleware(app, allowed, methods, _ALLOWED_HEADERS) if allowed else app


def is_cross_origin(headers: Headers, allowed: Sequence[str] = ()) -> bool:
    """Return whether a browser sends the request for a page of another origin that is not allowed.

    Browsers name the origin of every POST (Fetch, section 3.2); other clients usually send none.
    """
    origin = headers.get("origin")
    if origin is None or "*" in allowed or origin in allowed:
        return False
    return origin.partition("://")[2].lower() != headers.get("host", "").lower()


class JsonResponse(JSONResponse):
    """A JSON response for any content that events can hold, such as lone surrogates, NaN and dates."""

    def __init__(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(content, status, {**RESPONSE_HEADERS, **(headers or {})})

    def render(self, content: Any) -> bytes:
        return to_json(content).encode()


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body of a request.

    Raises:
        HTTPException: with status 413 if it is larger than `max_bytes`.
        ClientDisconnect: the client disconnected.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise HTTPException(413, f"the body is too large: at most {max_bytes} bytes are accepted")
    return bytes(body)


def utf8_header(headers: Headers, name: str) -> str:
    """Return a header as UTF-8, which browsers send (WHATWG HTML, section 9.2.3); empty if it is missing."""
    return headers.get(name, "").encode("latin-1").decode(errors="replace")


def accepts_event_stream(accept: str | None) -> bool:
    """Return whether an `Accept` header allows `text/event-stream`, as it does when it is absent."""
    if accept is None:
        return True
    ranges = [part.partition(";") for part in accept.lower().split(",")]
    return any(
        media_range.strip() in {"text/event-stream", "text/*", "*/*"}
        and "q=0" not in parameters.replace(" ", "").split(";")
        for media_range, _, parameters in ranges
    )
