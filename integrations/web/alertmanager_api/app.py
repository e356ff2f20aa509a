"""`alert_api`: an ASGI application that serves Alertmanager's API for an alert sink."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from codomyrmex.integrations.configuration.durations import check_seconds
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.durable import StoreError
from codomyrmex.integrations.notification import AlertSink, Silence
from codomyrmex.integrations.notification.alerts.alert import MAX_POSTED
from codomyrmex.integrations.notification.alerts.silences import successor
from codomyrmex.integrations.web import http
from codomyrmex.integrations.web.alertmanager_api import encoding, parsing, queries
from codomyrmex.integrations.web.alertmanager_api.metrics import ApiCounts, encode_metrics
from codomyrmex.integrations.web.alertmanager_api.status import status
from codomyrmex.integrations.web.gates import SiteGate, is_reachable
from codomyrmex.integrations.web.snapshot import run_on_sink_loop
from codomyrmex.streaming import Clock
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

Handler = Callable[[Request], Awaitable[Response]]

_TIMEOUT = 30.0  # seconds for a call of the sink
_MAX_BODIES = 16  # of the maximum size, in memory at once
_API = "/api/v2"
_SILENCE = f"{_API}/silence/"
_OPEN_PATHS = ("/-/healthy", "/-/ready")

_log = Diagnostics(__name__)


class AlertApiApp:
    """An ASGI application that serves Alertmanager's API, version 2, for an alert sink.

    Prometheus, amtool, Grafana and other clients use it as they use Alertmanager. It serves `/api/v2/status`,
    `receivers`, `alerts`, `alerts/groups`, `silences` and `silence/{id}`, `/-/healthy`, `/-/ready`,
    `/-/reload` and `/metrics`. It can be mounted at any path; clients need that path in their configuration
    (for Prometheus, `path_prefix`).

    Valid alerts in a body are accepted even if others are invalid; the status is then 400, with all problems.
    Status 200 means that the alerts are in the engine of this process or, with a shared state, in the store.
    All processes of a shared state return the same answers. The body of an error is a JSON string.

    Without a token, requests must arrive at an address that only this machine can reach, and name this
    machine in `Host`: others are refused with 403 and 421. `/-/healthy` and `/-/ready` need no token.

    Args:
        sink: the alert sink; its attachment opens it, not the application.
        token: a token that requests need, as `Authorization: Bearer ...` or as the password of Basic
            authentication.
        authorize: a plain or async function that is called with the ASGI scope instead, and returns `"*"` for
            clients that may use the API, or None.
        prefix: the path below which the application is served if it is not mounted, like Alertmanager's
            `--web.route-prefix`.
        max_bytes: the maximum size of a body in bytes; larger ones are refused with 413.
        max_alerts: the maximum number of alerts in a body; more are refused with 413.
        max_alert_size: the maximum number of characters in an alert, and of bytes in a silence; not more than
            131,072.
        max_silences: the maximum number of silences, including those that expired within the last five days;
            more are refused with 400.
        body_timeout: seconds for a body to arrive; then it is refused with 408.
        allow_origins: other origins whose pages can use the API (CORS); `"*"` allows any.
        allowed_hosts: the names that requests may have in their `Host` header; `"*"` allows any. By default
            those of this machine, or any if requests are authorized.
        clock: the clock; tests pass a `FakeClock`.

    Attributes:
        allow_origins: the other origins.
        open_paths: the paths that need no token.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range, or both `token` and `authorize` are passed.
    """

    def __init__(
        self,
        sink: AlertSink,
        *,
        token: str | None = None,
        authorize: http.Authorize | None = None,
        prefix: str = "",
        max_bytes: int = 4_194_304,
        max_alerts: int = 10_000,
        max_alert_size: int = 65_536,
        max_silences: int = 10_000,
        body_timeout: float = 60.0,
        allow_origins: Iterable[str] = (),
        allowed_hosts: Iterable[str] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not isinstance(sink, AlertSink):
            raise TypeError(f"sink: must be an AlertSink, got {type(sink).__name__}")
        limits = {
            "max_bytes": max_bytes,
            "max_alerts": max_alerts,
            "max_alert_size": max_alert_size,
            "max_silences": max_silences,
        }
        for name, value in limits.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: must be an integer of at least 1, got {value!r}")
        if max_alert_size > MAX_POSTED:
            raise ValueError(f"max_alert_size: must be at most {MAX_POSTED}, got {max_alert_size}")
        check_seconds("body_timeout", body_timeout, finite=True)
        if prefix and not prefix.startswith("/"):
            raise ValueError(f"prefix: must begin with /, got {prefix!r}")
        if token is not None:
            if authorize is not None:
                raise ValueError("token: pass either a token or authorize, not both")
            authorize = http.require_token(token)
        self._sink = sink
        self._authorize = authorize
        self._prefix = prefix.rstrip("/")
        self._limits = max_alerts, max_alert_size
        self._max_silences = max_silences
        self._bodies = http.BodyReader(max_bytes, body_timeout, _MAX_BODIES, clock)
        self._gate = SiteGate(allowed_hosts, allow_origins, authorized=authorize is not None)
        self._since = clock.time()
        self._counts = ApiCounts()
        self._handlers: Mapping[str, Mapping[str, Handler]] = {
            f"{_API}/status": {"GET": self._get_status},
            f"{_API}/receivers": {"GET": self._get_receivers},
            f"{_API}/alerts": {"GET": self._get_alerts, "POST": self._post_alerts},
            f"{_API}/alerts/groups": {"GET": self._get_groups},
            f"{_API}/silences": {"GET": self._get_silences, "POST": self._post_silence},
            _SILENCE: {"GET": self._get_silence, "DELETE": self._delete_silence},
            "/metrics": {"GET": self._get_metrics},
            "/-/healthy": dict.fromkeys(("GET", "HEAD"), self._healthy),
            "/-/ready": dict.fromkeys(("GET", "HEAD"), self._ready),
            "/-/reload": dict.fromkeys(("POST", "PUT"), self._reload),
        }
        self.allow_origins = tuple(self._gate.origins)
        self.open_paths = tuple(f"{self._prefix}{path}" for path in _OPEN_PATHS)
        methods = ("GET", "POST", "DELETE")
        self._router = Router(default=http.allow_cross_origin(self._respond, self.allow_origins, methods))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._router(scope, receive, send)

    @staticmethod
    def refusal(message: str, status: int, headers: Mapping[str, str]) -> Response:
        """Return the response to a request that a gate in front of the application refuses."""
        return _json(encoding.to_json(message), status, headers)

    async def aclose(self) -> None:
        """Do nothing: the application holds no resources."""

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served, not {scope['type']}")
        try:
            response = await self._answer(Request(scope, receive))
        except HTTPException as refusal:
            response = _json(encoding.to_json(refusal.detail), refusal.status_code, refusal.headers)
        except ClientDisconnect:
            return
        if scope["method"] == "HEAD":
            response.body = b""  # the headers are those of GET (RFC 9110, section 9.3.2)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        scope = request.scope
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if not path.startswith(f"{self._prefix}/"):
            raise HTTPException(404, f"path {path[:1000]} was not found")
        path = path.removeprefix(self._prefix)
        if path not in _OPEN_PATHS:
            self._gate.check(request)
            await self._check_authorized(scope)
        name = _SILENCE if path.startswith(_SILENCE) and len(path) > len(_SILENCE) else path.rstrip("/")
        handlers = self._handlers.get(name)
        if handlers is None:
            raise HTTPException(404, f"path {path[:1000]} was not found")
        handler = handlers.get(request.method)
        if handler is None:
            allowed = ", ".join(handlers)
            message = f"method {request.method[:20]} is not allowed; use one of {allowed}"
            raise HTTPException(405, message, {"allow": allowed})
        try:
            return await handler(request)
        except StoreError as error:
            _log.warning("store", "the alert API is not available: %s", error)
            raise _unavailable("the store of the alerts is not available; try again later") from None

    async def _check_authorized(self, scope: Scope) -> None:
        if self._authorize is None and is_reachable(scope):
            problem = "this address can be reached from other machines"
            raise HTTPException(403, f"{problem}; set a token, or listen on 127.0.0.1")
        allowed = await http.authorized_topics(self._authorize, scope)
        if not allowed.everything:
            raise HTTPException(403, "alerts are shown only to clients that may see all topics")

    async def _run(self, call: Callable[[AlertSink], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine function with the sink."""
        if self._sink.role is None:
            raise _unavailable("the alert sink is not open; try again later")
        try:
            return await run_on_sink_loop(self._sink, call, _TIMEOUT)
        except RuntimeError as error:
            _log.warning("sink", "the alert API is not available: %s", describe(error))
            raise _unavailable("the alert sink does not respond; try again later") from None

    # Alerts

    async def _post_alerts(self, request: Request) -> Response:
        async with self._reading_json(request) as body:
            now = self._now()
            found = parsing.parse_alerts(body, now, *self._limits)
            await self._run(lambda sink: sink.post(found.alerts))
        self._counts.add(found, now)
        if found.problems:
            raise HTTPException(400, found.reasons())
        return _json(b"")

    async def _get_alerts(self, request: Request) -> Response:
        chosen = queries.alert_filter(request.query_params)
        views = await self._run(lambda sink: sink.alerts(chosen))
        return _json(await asyncio.to_thread(encoding.encode_alerts, views))

    async def _get_groups(self, request: Request) -> Response:
        chosen = queries.alert_filter(request.query_params)
        groups = await self._run(lambda sink: sink.alert_groups(chosen))
        return _json(await asyncio.to_thread(encoding.encode_groups, groups))

    # Silences

    async def _get_silences(self, request: Request) -> Response:
        silences = await self._run(lambda sink: sink.silences())
        now = self._now()
        chosen = queries.chosen_silences(request.query_params, silences, now)
        return _json(encoding.encode_silences(chosen, now))

    async def _get_silence(self, request: Request) -> Response:
        return _json(encoding.encode_silence(await self._find(request), self._now()))

    async def _delete_silence(self, request: Request) -> Response:
        silence = await self._find(request)
        await self._run(lambda sink: sink.expire_silence(silence.id))
        return _json(b"")

    async def _post_silence(self, request: Request) -> Response:
        async with self._reading_json(request) as body:
            now = self._now()
            wanted = parsing.parse_silence(body, now, self._limits[1])
        silences = {each.id: each for each in await self._run(lambda sink: sink.silences())}
        old = silences.get(wanted.id or "")
        if wanted.id is not None and old is None:
            raise HTTPException(404, "silence not found")
        silence = successor(old, wanted.silence, now)
        if silence.id not in silences and len(silences) >= self._max_silences:
            raise HTTPException(400, f"exceeded maximum number of silences: {len(silences)}")
        if old is not None and silence.id != old.id:
            await self._run(lambda sink: sink.expire_silence(old.id))
        await self._run(lambda sink: sink.add_silence(silence))
        return _json(encoding.to_json({"silenceID": silence.id}))

    async def _find(self, request: Request) -> Silence:
        silence_id = request.scope["path"].rpartition("/")[2]
        for silence in await self._run(lambda sink: sink.silences()):
            if silence.id == silence_id:
                return silence
        raise HTTPException(404, "silence not found")

    # Others

    async def _get_status(self, _: Request) -> Response:
        members = await self._run(lambda sink: sink.members())
        return _json(encoding.to_json(status(self._sink, members, self._since)))

    async def _get_receivers(self, request: Request) -> Response:
        names = self._sink.config.receivers if queries.receivers_shown(request.query_params) else ()
        return _json(encoding.to_json([{"name": name} for name in names]))

    async def _get_metrics(self, _: Request) -> Response:
        figures = await self._run(lambda sink: sink.figures())
        content, media_type = encode_metrics(self._sink, figures, self._counts)
        return Response(content, headers={**http.RESPONSE_HEADERS, "content-type": media_type})

    async def _healthy(self, _: Request) -> Response:
        return PlainTextResponse("OK", headers=http.RESPONSE_HEADERS)

    async def _ready(self, _: Request) -> Response:
        if self._sink.role is None:
            return PlainTextResponse("the alert sink is not open", 503, http.RESPONSE_HEADERS)
        return PlainTextResponse("OK", headers=http.RESPONSE_HEADERS)

    async def _reload(self, _: Request) -> Response:
        try:
            await self._run(lambda sink: sink.reload())
        except HTTPException:
            raise
        except Exception as error:  # noqa: BLE001 - each channel may fail to open in its own way
            raise HTTPException(500, f"failed to reload config: {describe(error)}") from None
        return _json(b"")

    # Helpers

    def _now(self) -> float:
        try:
            return self._sink.now()
        except RuntimeError:
            raise _unavailable("the alert sink is not open; try again later") from None

    @asynccontextmanager
    async def _reading_json(self, request: Request) -> AsyncIterator[bytes]:
        """Read a body whose content type is JSON, which a page of another site cannot send without CORS."""
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            shown_type = ascii(content_type[:100])[1:-1]
            raise HTTPException(
                415, f'unsupported media type "{shown_type}", only [application/json] are allowed'
            )
        async with self._bodies.reading(request) as body:
            yield body


alert_api = AlertApiApp


def _json(body: bytes, status_code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with JSON, or an empty one."""
    kind = {"content-type": "application/json"} if body else {}
    return Response(body, status_code, {**http.RESPONSE_HEADERS, **kind, **(headers or {})})


def _unavailable(problem: str) -> HTTPException:
    return HTTPException(503, problem, {"retry-after": "5"})
