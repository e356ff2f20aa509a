"""`dashboard`: an ASGI application that shows a stream on a live page."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote

from codomyrmex.integrations.durable import DurableStream
from codomyrmex.integrations.web import http, snapshot
from codomyrmex.integrations.web.actions import Actions
from codomyrmex.integrations.web.event_pages import EventPages
from codomyrmex.integrations.web.event_stream import event_stream
from codomyrmex.integrations.web.gates import SiteGate
from codomyrmex.integrations.web.health import HasHealth
from codomyrmex.integrations.web.monitoring import OPEN_PATHS, Monitoring
from codomyrmex.integrations.web.queries import Queries
from codomyrmex.integrations.web.recent import TOPIC_WINDOW, RecentEvents
from codomyrmex.integrations.web.silence_form import FormError
from codomyrmex.integrations.web.topic_rates import TopicRates
from codomyrmex.streaming import Clock, Event, InMemoryStream, Stream, Subscription
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from codomyrmex.streaming.encoding import replace_surrogates, to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

if TYPE_CHECKING:
    from codomyrmex.integrations.notification import AlertSink

T = TypeVar("T")

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # Text can never become HTML, not even by a mistake in our scripts.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    **http.RESPONSE_HEADERS,
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "DENY",  # for browsers without frame-ancestors
}

_logger = logging.getLogger(__name__)


class DashboardApp:
    """An ASGI application that shows a stream on a live page.

    Serve it with `serve(dashboard(stream))`, or mount it: `app.mount("/live", dashboard(stream))`. The page
    shows events and their rate per topic, the state of a durable stream's store, and, if their sources are
    passed, sinks, circuit breakers, alerts and how they are routed, notifications, and silences. It makes no
    requests to other hosts, and it is read-only unless `allow_actions` is passed.
    Beside it are `livez`, `readyz` and `metrics`, as `health_app` and `metrics_app` serve them.

    Args:
        stream: the stream whose events are shown.
        attachment: provides the sinks.
        alerts: provides alerts, silences and channels.
        board: provides the circuit breakers.
        audit: the `audit` stream of the alert sink; provides notifications.
        allow_actions: a token that the page asks for. Users with this token may see everything, add and
            expire silences, and replay dead letters. None: the page is read-only.
        allow_publish: whether users with this token may also publish events.
        authorize: called with the ASGI scope; returns the topics that may be seen, or None for none, as for
            `event_stream`. Sections other than events and topics are shown to those who may see all topics.
        title: the title of the page.
        buffer_size: the number of recent events that a page shows at first and can get after an interruption.
        queue_size: the number of events that can be queued for each page.
        max_clients: the number of pages that can be connected; others are refused and retry later.
        heartbeat_interval: seconds without events after which a page is sent a comment.
        reconnect_within: seconds over which pages spread their reconnects after a shutdown.
        allowed_hosts: as for `event_stream`.
        signals: as for `event_stream`.
        clock: the clock; tests pass a `FakeClock`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a number is out of range, or the token is empty.
    """

    open_paths = OPEN_PATHS

    def __init__(
        self,
        stream: Stream,
        attachment: HasHealth | None = None,
        alerts: AlertSink | None = None,
        board: snapshot.Board | None = None,
        *,
        audit: Stream | None = None,
        allow_actions: str | None = None,
        allow_publish: bool = False,
        authorize: http.Authorize | None = None,
        title: str = "Live events",
        buffer_size: int = 500,
        queue_size: int = 5_000,
        max_clients: int = 100,
        heartbeat_interval: float = 15.0,
        reconnect_within: float = 2.0,
        allowed_hosts: Iterable[str] | None = None,
        signals: bool = True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        for name, value in (("stream", stream), ("audit", stream if audit is None else audit)):
            if not isinstance(value, Stream):
                raise TypeError(f"{name}: must be a Stream, got {type(value).__name__}")
        for name, source, method in (
            ("attachment", attachment, "health"),
            ("alerts", alerts, "explain"),
            ("board", board, "snapshot"),
        ):
            if source is not None and not callable(getattr(source, method, None)):
                raise TypeError(f"{name}: must have a method {method}(), got {type(source).__name__}")
        if allow_actions is not None and not isinstance(allow_actions, str):
            raise TypeError(f"allow_actions: must be a token (a string), got {type(allow_actions).__name__}")
        if allow_actions is not None and not allow_actions.strip():
            raise ValueError("allow_actions: must not be empty, because that would let everyone act")
        self._alerts = alerts
        self._snapshots = snapshot.Snapshots(stream, attachment, alerts, board, clock)
        self._token = None if allow_actions is None else allow_actions.strip()
        self._authorize = authorize
        self._gate = SiteGate(allowed_hosts, (), authorized=authorize is not None)
        may_read = None if authorize is None else self._topics
        self._monitoring = Monitoring(attachment, stream, authorize=may_read, allowed_hosts=allowed_hosts)
        self._title = title
        self._clock = clock
        self._rates = TopicRates(TOPIC_WINDOW if isinstance(stream, DurableStream) else None)
        self._feed = InMemoryStream(0)  # the recent events of the stream, and then all new ones
        self._events = event_stream(
            stream if isinstance(stream, DurableStream) else self._feed,  # the former keeps them itself
            authorize=self._topics,
            buffer_size=buffer_size,
            queue_size=queue_size,
            max_clients=max_clients,
            heartbeat_interval=heartbeat_interval,
            reconnect_within=reconnect_within,
            max_replay=buffer_size,
            allowed_hosts=["*"],  # checked here
            signals=signals,
            clock=clock,
        )
        self._queries = Queries(self._topics, self._snapshots, _HEADERS, max_clients)
        actions = Actions(
            self._snapshots,
            attachment,
            alerts,
            stream if allow_publish else None,
            None if allow_actions is None else self._may_act,
            _HEADERS,
            clock,
        )
        self._buffer_size, self._signals = buffer_size, signals
        for event in snapshot.recent_events(stream, buffer_size):
            self._add(event, event.timestamp.timestamp())
        self._stream, self._audit = stream, audit
        self._subscribe()
        self._app = Starlette(
            routes=[
                Mount(
                    "/api",
                    routes=[
                        Route("/events", self._events),
                        Route("/state", self._get_state),
                        Route("/stream", self._get_stream),
                        *self._queries.routes,
                        *actions.routes,
                    ],
                ),
                Mount("/", _PageFiles()),
            ],
            exception_handlers={HTTPException: _error_response},
            lifespan=self._lifespan,
        )

    @property
    def clients(self) -> int:
        """The number of connected pages."""
        return self._events.clients

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            raise RuntimeError("the live page is served over HTTP, not over websocket")
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = _as_mounted(scope)
        if (endpoint := self._monitoring.find(scope)) is not None:
            await endpoint(scope, receive, send)
            return
        try:
            self._gate.check(Request(scope))
        except HTTPException as refusal:
            await _error_response(Request(scope), refusal)(scope, receive, send)
            return
        redirect = _slash_redirect(scope)
        await (redirect or self._app)(scope, receive, send)

    async def aclose(self) -> None:
        """Send each page a `disconnect`, and end. Can be called twice."""
        for subscription in self._subscriptions:
            subscription.cancel()
        await self._queries.pages.aclose()
        await self._snapshots.aclose()
        await self._events.aclose()

    @asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[None]:
        if not self._subscriptions[0].active:  # a second run, as in tests
            self._events.open()
            self._subscribe()
        yield
        await self.aclose()

    def _subscribe(self) -> None:
        clock, stream = self._clock, self._stream
        self._queries.pages = EventPages(stream, self._buffer_size, clock, signals=self._signals)
        self._subscriptions: list[Subscription]
        self._recent: RecentEvents | None = None
        if isinstance(stream, DurableStream):
            self._recent = RecentEvents(stream, self._rates, self._snapshots.history, clock)
            self._snapshots.recent = self._recent
            self._subscriptions = self._recent.subscriptions
        else:
            self._subscriptions = [stream.subscribe_nowait(lambda event: self._add(event, clock.time()))]
        if self._audit is not None:
            self._subscriptions.append(self._snapshots.watch(self._audit))

    def _add(self, event: Event, time: float) -> None:
        self._rates.count(event.topic, time)
        self._snapshots.history.add(event)
        self._feed.publish_nowait(event)

    # Access

    def _may_act(self, request: Request) -> bool:
        """Return whether the token is in the header; in a URL it could come from a link."""
        sent = http.bearer_token(request.headers)
        return self._token is not None and sent is not None and http.same_token(sent, self._token)

    def _topics(self, scope: Scope) -> Any:
        if self._authorize is None or self._may_act(Request(scope)):
            return "*"
        return self._authorize(scope)

    # Reading

    async def _get_stream(self, request: Request) -> Response:
        allowed = await http.authorized_topics(self._topics, request.scope)
        topics = self._rates.busiest(self._clock.time(), allowed.allow)["shown"]
        names = [topic["topic"] for topic in topics if topic["topic"] is not None]
        return http.JsonResponse({**self._queries.pages.describe(), "topics": names}, headers=_HEADERS)

    async def _get_state(self, request: Request) -> Response:
        allowed = await http.authorized_topics(self._topics, request.scope)
        now = self._clock.time()
        if self._recent is not None:
            self._snapshots.report(self._title, lambda: self.clients)
            await self._recent.ready()
            now = self._recent.now()
        state = {
            "title": self._title,
            "now": now,
            "actions": self._token is not None and self._alerts is not None,
            "may_act": self._may_act(request),
            "topics": self._rates.busiest(now, allowed.allow),
        }
        # The snapshot is the larger part, and it is encoded once for all pages.
        sections = await self._snapshots.get() if allowed.everything else b'{"problems":{}}'
        body = to_json(state).encode()[:-1] + b"," + sections[1:]
        return Response(body, headers={"content-type": "application/json", **_HEADERS})


dashboard = DashboardApp


class _PageFiles(StaticFiles):
    """The files of the page, with headers that limit what the page can do."""

    def __init__(self) -> None:
        directory = Path(__file__).parent.resolve() / "page"
        super().__init__(directory=directory, html=True, follow_symlink=True)  # for editable installs

    def file_response(self, full_path: Any, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(full_path, *args, **kwargs)
        response.headers.update(_HEADERS)
        if Path(full_path).suffix == ".js":  # Python 3.11 and some systems have another type for it
            response.headers["content-type"] = "text/javascript; charset=utf-8"
        return response


def _error_response(_: Request, error: Any) -> Response:
    content = {"error": error.detail}
    if isinstance(error, FormError):
        content["problems"] = error.problems
    return http.JsonResponse(content, error.status_code, {**_HEADERS, **(error.headers or {})})


def _as_mounted(scope: Scope) -> Scope:
    """Return a scope whose path begins with its root path (ASGI, HTTP scope), whoever has mounted the page.

    Behind a proxy that strips its prefix, FastAPI leaves the prefix in the root path only. Litestar has no
    root path and ends each path with a slash.
    """
    root, path = scope.get("root_path", "").rstrip("/"), scope.get("path", "")
    while root and path != root and not path.startswith(f"{root}/"):
        _, slash, rest = root[1:].partition("/")
        root = slash + rest
    if path.rstrip("/") != root:
        path = path.rstrip("/")
    return {**scope, "root_path": root, "path": path}


def _slash_redirect(scope: Scope) -> Response | None:
    """Return a redirect to the page's path with a slash, which relative URLs need, if it has none.

    Some frameworks add the slash themselves, so what the client has sent decides.
    """
    sent = scope.get("raw_path")
    path = scope.get("path", "") if sent is None else unquote(sent.decode("latin-1"))
    at_page = scope["path"].rstrip("/") == scope["root_path"]
    if not at_page or path.endswith("/") or not path:
        return None
    query = scope.get("query_string", b"").decode("latin-1")
    location = quote(replace_surrogates(path.rpartition("/")[2])) + "/" + (query and f"?{query}")
    return RedirectResponse(location, 308, _HEADERS)  # relative, because a proxy may serve this elsewhere
