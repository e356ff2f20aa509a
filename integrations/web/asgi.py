"""The little of ASGI that the applications here need: what was asked, and a whole answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

NO_STORE = (b"cache-control", b"no-store")


class Request:
    """What was asked.

    Args:
        scope: of an ASGI connection over HTTP.

    Attributes:
        method: in capitals.
        path: below where the application is mounted; `/` at least.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.method = str(scope["method"]).upper()
        root, path = scope.get("root_path", ""), scope.get("path", "/")
        self.path = path.removeprefix(root) or "/"
        self._query: dict[str, list[str]] | None = None

    def header(self, name: str) -> str | None:
        """Give the first header of a name, which is in lower case."""
        wanted = name.encode("latin-1")
        found: bytes | None = next((value for key, value in self.scope["headers"] if key == wanted), None)
        if found is None:
            return None
        try:
            return found.decode()  # browsers send an id as UTF-8 (WHATWG HTML, section 9.2.3)
        except UnicodeDecodeError:
            return found.decode("latin-1")

    def query(self, name: str) -> list[str]:
        """Give the values of a parameter, in order."""
        if self._query is None:
            text = self.scope.get("query_string", b"").decode("latin-1")
            self._query = parse_qs(text, keep_blank_values=True)
        return self._query.get(name, [])


async def answer(
    send: Send,
    status: int,
    body: bytes | str | dict[str, Any] | list[Any] = b"",
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    content_type: str | None = None,
    with_body: bool = True,
) -> None:
    """Send a whole answer.

    Args:
        send: of the connection.
        status: the HTTP status.
        body: bytes, text, or what becomes JSON.
        headers: besides the type and length.
        content_type: where it does not follow from the body.
        with_body: False for HEAD.
    """
    kind = "text/plain; charset=utf-8"
    if isinstance(body, (dict, list)):
        body, kind = json.dumps(body), "application/json"  # in ASCII, which has a place for lone surrogates
    content = body.encode() if isinstance(body, str) else body
    start: Headers = [
        (b"content-type", (content_type or kind).encode("latin-1")),
        (b"content-length", str(len(content)).encode()),
        (b"x-content-type-options", b"nosniff"),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": content if with_body else b""})


class TooLargeError(Exception):
    """A body is larger than it may be."""


async def read_body(receive: Receive, most: int) -> bytes | None:
    """Read a body; None if the client has gone.

    Args:
        receive: of the connection.
        most: bytes that it may have.

    Raises:
        TooLargeError: it has more.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise TooLargeError
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def lifespan(receive: Receive, send: Send, close: Callable[[], Awaitable[None]]) -> None:
    """Answer the server's lifespan: nothing to begin, and `close` at the end."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        else:
            await close()
            await send({"type": "lifespan.shutdown.complete"})
            return
