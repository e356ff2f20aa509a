"""`mcp_app`: an ASGI application that serves the tools over streamable HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from codomyrmex.integrations.mcp.access import allowed_topics
from codomyrmex.integrations.mcp.local import LocalBackend
from codomyrmex.integrations.mcp.server import mcp_server
from codomyrmex.integrations.notification import AlertSink
from codomyrmex.integrations.web import http
from codomyrmex.integrations.web.gates import SiteGate
from codomyrmex.integrations.web.health import HasHealth
from codomyrmex.integrations.web.snapshot import Board
from codomyrmex.streaming import Clock, Stream
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Router
from starlette.types import Message, Receive, Scope, Send

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

_MAX_BODY = 256 * 1024  # bytes
_MAX_BODIES = 100  # of the maximum size, in memory at once
_BODY_TIMEOUT = 10.0  # seconds
_CLOSE_TIMEOUT = 2.0  # seconds to send the results of calls that were waiting
_CHECKED_HERE = TransportSecuritySettings(enable_dns_rebinding_protection=False)


class McpApp:
    """An ASGI application that serves the tools over streamable HTTP, as one endpoint.

    Mount it next to the live page: `app.mount("/mcp", mcp_app(stream, attachment, alerts, board))`. There are
    no sessions, so any process can answer any request. Only subscriptions and streams that tools create
    belong to a process; if there are several, clients should use `wait_for_events`. A call ends when its
    client disconnects. The tools are read-only unless `allow_actions` is true.

    Args:
        stream: the stream whose events are shown.
        attachment: provides the sinks and their dead letters.
        alerts: provides alerts, silences and channels.
        board: provides the circuit breakers.
        allow_actions: whether to offer tools that change something: silences, dead letters, and events. This
            needs `token` or `authorize`.
        token: a token that requests need, as `Authorization: Bearer ...` or as the password of Basic
            authentication.
        authorize: a function that is called with the ASGI scope instead, and returns the topics that a client
            may see, or None for none, as for `event_stream`. All tools except those for events need access
            to all topics.
        buffer_size: how many of the newest events are kept if the stream is not durable.
        allowed_hosts: as for `event_stream`. Pages of other origins cannot use it.
        signals: whether SIGTERM and SIGINT end the calls that wait for events. Otherwise a server that
            finishes open requests before it stops would wait for them.
        clock: the clock; tests pass a `FakeClock`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the token is empty, both `token` and `authorize` are passed, or `allow_actions` is true
            without either.
    """

    def __init__(
        self,
        stream: Stream,
        attachment: HasHealth | None = None,
        alerts: AlertSink | None = None,
        board: Board | None = None,
        *,
        allow_actions: bool = False,
        token: str | None = None,
        authorize: http.Authorize | None = None,
        buffer_size: int = 1_000,
        allowed_hosts: Iterable[str] | None = None,
        signals: bool = True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not isinstance(stream, Stream):
            raise TypeError(f"stream: must be a Stream, got {type(stream).__name__}")
        if not isinstance(allow_actions, bool):
            raise TypeError(f"allow_actions: must be true or false, got {type(allow_actions).__name__}")
        if token is not None:
            if authorize is not None:
                raise ValueError("token: pass either a token or authorize, not both")
            authorize = _bearer(token)
        if allow_actions and authorize is None:
            raise ValueError("allow_actions: needs a token or authorize, or anyone could use the actions")
        self._authorize = authorize
        self._gate = SiteGate(allowed_hosts, (), authorized=authorize is not None)
        self._bodies = http.BodyReader(_MAX_BODY, _BODY_TIMEOUT, _MAX_BODIES, clock)
        self._make_backend = partial(
            LocalBackend,
            stream,
            attachment,
            alerts,
            board,
            buffer_size=buffer_size,
            signals=signals,
            clock=clock,
        )
        self._allow_actions = allow_actions
        self._clock = clock
        self._open()

    def _open(self) -> None:
        self._backend = self._make_backend()
        server = mcp_server(self._backend, allow_actions=self._allow_actions, clock=self._clock)
        self._handler = _Handler(server)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await Router(lifespan=self._lifespan)(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served, not {scope['type']}")
        request = Request(scope, receive)
        try:
            allowed = await self._check(request)
            async with self._bodies.reading(request) as body:
                token = allowed_topics.set(None if allowed.everything else allowed.allow)
                try:
                    await self._handler(scope, _replay(body, receive), send)
                finally:
                    allowed_topics.reset(token)
        except ClientDisconnect:
            return
        except HTTPException as refusal:
            response = http.JsonResponse({"error": refusal.detail}, refusal.status_code, refusal.headers)
            await response(scope, receive, send)

    async def aclose(self) -> None:
        """End all calls, those that wait for events first. Can be called more than once."""
        await self._backend.aclose()
        await self._handler.aclose()

    @asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[None]:
        if self._handler.closed:  # a second run, as in tests
            self._open()
        yield
        await self.aclose()

    async def _check(self, request: Request) -> http.AllowedTopics:
        """Return the topics that a request may see; raise an HTTPException if it is refused."""
        self._gate.check(request)
        allowed = await http.authorized_topics(self._authorize, request.scope)
        if request.method != "POST":  # a GET would listen to a session, and there are none
            raise HTTPException(405, "only POST is allowed", {"allow": "POST"})
        return allowed


mcp_app = McpApp


class _Handler:
    """Handles requests with the SDK, whose manager runs in a task, as there may be no lifespan to run it."""

    def __init__(self, server: MCPServer[Any]) -> None:
        self.closed = False
        self._server = server
        self._requests: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._manager: StreamableHTTPSessionManager
        self._ready: asyncio.Event
        self._end: asyncio.Event
        self._task: asyncio.Task[None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.closed:
            raise HTTPException(503, "the server is stopping", {"retry-after": "1"})
        if self._loop is not asyncio.get_running_loop():
            self._begin(asyncio.get_running_loop())
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self._requests.add(task)
        try:
            await self._ready.wait()
            await self._manager.handle_request(scope, receive, send)
        finally:
            self._requests.discard(task)

    async def aclose(self) -> None:
        """End the running requests, after a moment in which results can be sent."""
        self.closed = True
        if self._loop is asyncio.get_running_loop():
            if self._requests:
                await asyncio.wait(self._requests, timeout=_CLOSE_TIMEOUT)
            self._end.set()
            await self._task

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        # A manager can run only once, and calling this is the public way to get a new one.
        self._server.streamable_http_app(stateless_http=True, transport_security=_CHECKED_HERE)
        self._manager = self._server.session_manager
        self._loop, self._ready, self._end = loop, asyncio.Event(), asyncio.Event()
        self._task = loop.create_task(self._run(), context=Context())  # not in the first request's context

    async def _run(self) -> None:
        async with self._manager.run():
            self._ready.set()
            await self._end.wait()


def _bearer(token: str) -> http.Authorize:
    expected = token.strip()
    if not expected:
        raise ValueError("token: must not be empty, because that would let everyone in")

    def authorize(scope: Scope) -> str | None:
        sent = http.bearer_token(Headers(scope=scope))
        return "*" if sent is not None and http.same_token(sent, expected) else None

    return authorize


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that first returns a body that has already been read."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replaying_receive() -> Message:
        return messages.pop() if messages else await receive()

    return replaying_receive
