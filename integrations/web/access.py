"""Who may read or write what: authorisation, and which pages of other origins may ask."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Iterable
from inspect import isawaitable
from typing import Any

from codomyrmex.integrations.web.asgi import Headers, Request, Scope
from codomyrmex.streaming.topics import check_pattern, matches

Topics = str | Iterable[str]
Authorize = Callable[[Scope], "Topics | Awaitable[Topics | None] | None"]


class AllowedTopics:
    """The topics that somebody may see.

    Args:
        patterns: topics or patterns; `"*"` is everything.

    Raises:
        TopicError: a pattern is malformed; a `ValueError`.
    """

    def __init__(self, patterns: Topics) -> None:
        listed = [patterns] if isinstance(patterns, str) else list(patterns)
        self._patterns = [check_pattern(pattern) for pattern in listed]
        self.everything = "*" in self._patterns

    def allow(self, topic: str | None) -> bool:
        """Tell whether an event of a topic may be seen."""
        return self.everything or any(matches(pattern, topic) for pattern in self._patterns)


async def ask(authorize: Authorize | None, scope: Scope) -> AllowedTopics | None:
    """Ask who may see what; None is nobody."""
    if authorize is None:
        return AllowedTopics("*")
    allowed: Any = authorize(scope)
    if isawaitable(allowed):
        allowed = await allowed
    return None if allowed is None else AllowedTopics(allowed)


def bearer_of(request: Request) -> str | None:
    """Give the token of `Authorization: Bearer ...` (RFC 6750, section 2.1); None where there is none."""
    kind, _, given = (request.header("authorization") or "").partition(" ")
    return given.strip() if kind.lower() == "bearer" else None


def same_token(given: str, wanted: str) -> bool:
    """Tell whether a token is the right one; it takes the same time whatever is wrong."""
    return hmac.compare_digest(given.encode(errors="replace"), wanted.encode())


def require_token(token: str, topics: Topics = "*") -> Authorize:
    """Make an `authorize` that wants a token: `Authorization: Bearer ...`, or `access_token` in the query.

    The query is for browsers, whose EventSource sends no headers of its own (RFC 6750, section 2.3); it
    tends to stand in logs. The comparison takes the same time whatever is wrong.

    Args:
        token: what is asked for.
        topics: what its bearer may see.

    Raises:
        ValueError: the token is empty.
    """
    if not token:
        raise ValueError("the token is empty, which would let everybody in")

    def authorize(scope: Scope) -> Topics | None:
        request = Request(scope)
        given = bearer_of(request)
        if given is None:
            given = next(iter(request.query("access_token")), "").strip()
        return topics if same_token(given, token) else None

    return authorize


class Origins:
    """The origins whose pages may ask; by default none but the server's own.

    Args:
        allowed: such as `https://app.example`; `"*"` is any.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        listed = [allowed] if isinstance(allowed, str) else allowed
        self._allowed = frozenset(origin.rstrip("/") for origin in listed)

    def headers(self, request: Request) -> Headers:
        """Give the headers that let a page read the answer; none for other origins."""
        origin = request.header("origin")
        if not self._allowed:
            return []
        if origin is None or not ({origin, "*"} & self._allowed):
            return [(b"vary", b"origin")]
        return [(b"vary", b"origin"), (b"access-control-allow-origin", origin.encode())]

    def foreign(self, request: Request) -> bool:
        """Tell whether a page of another origin asks that may not; who is no browser names no origin."""
        origin = request.header("origin")
        if origin is None or {origin, "*"} & self._allowed:
            return False
        return origin.partition("://")[2].lower() != (request.header("host") or "").lower()

    def preflight(self, request: Request, methods: str) -> Headers:
        """Give the headers that answer what a browser asks before it sends (Fetch, section 3.2.2)."""
        headers = self.headers(request)
        if len(headers) > 1:
            headers += [
                (b"access-control-allow-methods", methods.encode()),
                (b"access-control-allow-headers", b"authorization, content-type, last-event-id"),
                (b"access-control-max-age", b"600"),
            ]
        return headers
