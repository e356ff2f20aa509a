"""HTTP details that the applications share: authorization, headers, bodies and responses."""

from __future__ import annotations

import asyncio
import hmac
import re
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import Any

from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.streaming.clock import Clock
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
_MAX_DIGITS = 20  # of a Content-Length
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

    Clients that only support Basic authentication can send the token as the password. The query parameter
    (RFC 6750, section 2.3) is for browsers, whose EventSource cannot send headers. Query strings are often
    logged, so prefer the header elsewhere. Tokens are compared in constant time.

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
    """Return the token of `Authorization: Bearer ...` (RFC 6750, section 2.1), or None.

    For clients that only support Basic authentication (RFC 7617), it may be the password instead.
    """
    scheme, _, token = utf8_header(headers, "authorization").partition(" ")
    if scheme.lower() == "basic":
        try:
            return b64decode(token.strip(), validate=True).decode().partition(":")[2]
        except ValueError:
            return None
    return token.strip() if scheme.lower() == "bearer" else None


def same_token(sent: str, expected: str) -> bool:
    """Return whether two tokens are equal, in constant time."""
    return hmac.compare_digest(sent.encode(errors="replace"), expected.encode())


def allow_cross_origin(
    app: ASGIApp, origins: Sequence[str], methods: Sequence[str], *, credentials: bool = False
) -> ASGIApp:
    """Return an application that lets pages of other origins read its responses (CORS)."""
    if not origins:
        return app
    return CORSMiddleware(app, origins, methods, _ALLOWED_HEADERS, credentials)


class JsonResponse(JSONResponse):
    """A JSON response for any content that events can hold, such as lone surrogates, NaN and dates."""

    def __init__(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(content, status, {**RESPONSE_HEADERS, **(headers or {})})

    def render(self, content: Any) -> bytes:
        return to_json(content).encode()


class BodyReader:
    """Reads the bodies of requests within bounds.

    Args:
        max_bytes: the size limit of a body.
        timeout: seconds for a body to arrive.
        max_bodies: the number of bodies of that size that can be in memory at once.
        clock: the clock.
    """

    def __init__(self, max_bytes: int, timeout: float, max_bodies: int, clock: Clock) -> None:
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._max_total = max_bodies * max_bytes
        self._clock = clock
        self._total = 0

    @asynccontextmanager
    async def reading(self, request: Request) -> AsyncIterator[bytes]:
        """Read a body, which counts as being in memory until the context ends.

        Raises:
            HTTPException: with status 408 if it takes too long, 413 if it is too large, or 503 if there are
                too many others.
            ClientDisconnect: the client disconnected.
        """
        body = bytearray()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = True
            task.cancel()

        timer = self._clock.call_later(self._timeout, expire)
        try:
            try:
                self._check_length(request.headers.get("content-length", ""))
                async for chunk in request.stream():
                    self._total += len(chunk)
                    body += chunk
                    self._check_length(len(body))
            except asyncio.CancelledError:
                if not expired:
                    raise
                task.uncancel()
                message = f"the body did not arrive within {self._timeout:g} s"
                raise HTTPException(408, message, {"connection": "close"}) from None
            finally:
                timer.cancel()
            yield bytes(body)
        finally:
            self._total -= len(body)

    def _check_length(self, length: int | str) -> None:
        if isinstance(length, str):
            length = int(length) if length.isascii() and length.isdigit() and len(length) < _MAX_DIGITS else 0
        if length > self._max_bytes:
            raise HTTPException(413, f"the body is too large: at most {self._max_bytes} bytes are accepted")
        if self._total > self._max_total:
            raise HTTPException(503, "too many requests at once; try again soon", {"retry-after": "1"})


def utf8_header(headers: Headers, name: str) -> str:
    """Return a header as UTF-8, which browsers send (WHATWG HTML, section 9.2.3); empty if it is missing."""
    return headers.get(name, "").encode("latin-1").decode(errors="replace")


def cookie_values(headers: Headers, name: str) -> list[str]:
    """Return the values of a cookie, in time linear in the length of the headers (RFC 6265, section 5.4)."""
    pairs = (pair.partition("=") for header in headers.getlist("cookie") for pair in header.split(";"))
    return [value.strip() for key, _, value in pairs if key.strip() == name]


def accepts_event_stream(accept: Sequence[str]) -> bool:
    """Return whether the `Accept` headers allow `text/event-stream` (RFC 9110, section 12.5.1).

    Several headers are one list; the most specific range decides; a header that is absent or empty allows
    everything.
    """
    allowed: dict[str, bool] = {}
    for item in ",".join(accept).lower().split(","):
        media_range, *parameters = [part.strip() for part in item.split(";")]
        if media_range in {"text/event-stream", "text/*", "*/*"}:
            forbidden = any(re.fullmatch(r"q\s*=\s*0(\.0{0,3})?", parameter) for parameter in parameters)
            allowed[media_range] = allowed.get(media_range, False) or not forbidden
        elif media_range:
            allowed.setdefault("", False)
    for media_range in ("text/event-stream", "text/*", "*/*"):
        if media_range in allowed:
            return allowed[media_range]
    return not allowed
