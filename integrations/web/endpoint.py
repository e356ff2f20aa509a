"""`Endpoint`: the base of the small applications that answer GET and HEAD."""

from __future__ import annotations

from abc import ABC, abstractmethod

from codomyrmex.integrations.web import http
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Router
from starlette.types import Receive, Scope, Send


class Endpoint(ABC):
    """An ASGI application that answers GET and HEAD, wherever it is mounted, with or without a lifespan."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await Router()(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served, not {scope['type']}")
        request = Request(scope)
        try:
            if request.method not in {"GET", "HEAD"}:
                raise HTTPException(405, "only GET and HEAD are allowed", {"allow": "GET, HEAD"})  # noqa: TRY301
            response = await self.answer(request, scope["path"].rstrip("/").rpartition("/")[2])
        except HTTPException as refusal:
            headers = {**http.RESPONSE_HEADERS, **(refusal.headers or {})}
            response = PlainTextResponse(refusal.detail, refusal.status_code, headers)
        if request.method == "HEAD":
            response.body = b""  # the headers are those of GET (RFC 9110, section 9.3.2)
        await response(scope, receive, send)

    @abstractmethod
    async def answer(self, request: Request, name: str) -> Response:
        """Return the response to a request whose path ends with a name, or raise an HTTPException."""


def quality(accept: str, media_type: str) -> float | None:
    """Return how much a client wants a media type, from 0 to 1; None if it does not name it.

    Ranges such as `*/*` are ignored (RFC 9110, section 12.5.1): they do not ask for anything in particular.
    """
    for item in accept.lower().split(","):
        name, *parameters = [part.strip() for part in item.split(";")]
        if name != media_type:
            continue
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                try:
                    return min(max(float(value), 0.0), 1.0)
                except ValueError:
                    return 0.0
        return 1.0
    return None
