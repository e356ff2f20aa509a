"""`dashboard`: the live page, as an ASGI application."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.web.access import AllowedTopics, Authorize, Origins, ask, bearer_of, same_token
from codomyrmex.integrations.web.asgi import (
    Receive,
    Request,
    Scope,
    Send,
    TooLargeError,
    answer,
    lifespan,
    read_body,
)
from codomyrmex.integrations.web.breaker_history import BreakerHistory
from codomyrmex.integrations.web.event_stream import event_stream
from codomyrmex.integrations.web.page_files import GUARDS, page_files
from codomyrmex.integrations.web.silence_form import FormError, read_fields, read_silence
from codomyrmex.integrations.web.snapshot import Board, HasHealth, Snapshots, notifications, on_its_loop
from codomyrmex.integrations.web.topic_rates import TopicRates
from codomyrmex.streaming import Clock, Event, InMemoryStream, Stream, Subscription
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.dispatch import LocalStream
from codomyrmex.streaming.encoding import replace_surrogates, to_json

if TYPE_CHECKING:
    from codomyrmex.integrations.notification import AlertSink

_MAX_FORM = 16_384  # bytes
_MAX_ID = 200
_ACTIONS = {"/api/silences", "/api/silences/expire"}

_logger = logging.getLogger(__name__)
_log = Diagnostics(__name__)


def dashboard(
    stream: Stream,
    attachment: HasHealth | None = None,
    alerts: AlertSink | None = None,
    board: Board | None = None,
    *,
    audit: Stream | None = None,
    allow_actions: str | None = None,
    authorize: Authorize | None = None,
    title: str = "Live events",
    replay: int = 500,
    queue_size: int = 5_000,
    max_clients: int = 100,
    heartbeat: float = 15.0,
    reconnect_within: float = 2.0,
    signals: bool = True,
    clock: Clock = SYSTEM_CLOCK,
) -> DashboardApp:
    """Make an ASGI application that is one page, which shows a stream as it happens.

    `serve(dashboard(stream))`, or mount it: `app.mount("/live", dashboard(stream, attachment))`. The page
    has the events and their rate for each topic and, where they are given, the sinks, the circuit breakers,
    the alerts with why they go where they go, the notifications, and the silences. It asks no other host
    for anything, and changes nothing unless `allow_actions` is given.

    Args:
        stream: whose events are shown.
        attachment: whose sinks are shown.
        alerts: whose alerts, silences and channels are shown.
        board: whose circuit breakers are shown.
        audit: the `audit` stream of the alert sink, for the notifications that were sent.
        allow_actions: a token. Who gives it, which the page asks for, may see everything, add silences and
            expire them. None: the page is read-only.
        authorize: as for `event_stream`: asked with the ASGI scope, gives the topics that may be seen, or
            None for nothing. Sinks, breakers, alerts and silences are shown to who may see every topic.
        title: of the page.
        replay: how many events a page shows at first, and can get after a break.
        queue_size: how many events may wait for a page.
        max_clients: how many pages there may be; more are told to try again later.
        heartbeat: seconds of silence after which a page is sent a sign of life.
        reconnect_within: seconds over which the pages come back when the server ends.
        signals: as for `event_stream`.
        clock: where the time comes from; for tests.

    Raises:
        TypeError: something is not what it should be.
        ValueError: a number is out of range, or the token is empty.
    """
    if not isinstance(stream, Stream):
        raise TypeError(f"dashboard takes a stream, not {type(stream).__name__}")
    if audit is not None and not isinstance(audit, Stream):
        raise TypeError(f"audit is a stream, not {type(audit).__name__}")
    for name, given, wanted in (
        ("attachment", attachment, "health"),
        ("alerts", alerts, "explain"),
        ("board", board, "snapshot"),
    ):
        if given is not None and not callable(getattr(given, wanted, None)):
            raise TypeError(f"{name} has a method {wanted}(), {type(given).__name__} has not")
    if allow_actions is not None and not isinstance(allow_actions, str):
        raise TypeError("allow_actions is a token, which who acts has to give; it is a string")
    if allow_actions is not None and not allow_actions.strip():
        raise ValueError("allow_actions is an empty token, which would let everybody act")
    return DashboardApp(
        stream,
        Snapshots(attachment, alerts, board, BreakerHistory(), clock),
        alerts,
        audit=audit,
        token=allow_actions,
        authorize=authorize,
        title=title,
        replay=replay,
        queue_size=queue_size,
        max_clients=max_clients,
        heartbeat=heartbeat,
        reconnect_within=reconnect_within,
        signals=signals,
        clock=clock,
    )


class DashboardApp:
    """An ASGI application that is the live page; made by `dashboard`."""

    def __init__(
        self,
        stream: Stream,
        snapshots: Snapshots,
        alerts: AlertSink | None,
        *,
        audit: Stream | None,
        token: str | None,
        authorize: Authorize | None,
        title: str,
        replay: int,
        queue_size: int,
        max_clients: int,
        heartbeat: float,
        reconnect_within: float,
        signals: bool,
        clock: Clock,
    ) -> None:
        self._files = page_files()
        self._snapshots = snapshots
        self._alerts = alerts
        self._token = token
        self._authorize = authorize
        self._title = title
        self._clock = clock
        self._rates = TopicRates()
        self._feed = InMemoryStream(
            0
        )  # what the page gets: what the stream still has, and then all that comes
        self._events = event_stream(
            self._feed,
            authorize=self._topics,
            replay=replay,
            queue_size=queue_size,
            max_clients=max_clients,
            heartbeat=heartbeat,
            reconnect_within=reconnect_within,
            signals=signals,
            clock=clock,
        )
        self._subscriptions: list[tuple[Stream, Subscription]] = []
        self._waiting: list[tuple[Stream, Any, str]] = []  # those that have to be awaited
        self._beginning = asyncio.Lock()
        for event in _recent(stream, replay):
            self._see(event, event.timestamp.timestamp())
        self._subscribe(stream, lambda event: self._see(event, clock.time()), "*")
        if audit is not None:
            told = snapshots.notifications = notifications()
            told.extend(event for event in _recent(audit, 1_000) if (event.topic or "").startswith("alerts."))
            self._subscribe(audit, told.append, "alerts.*")

    @property
    def clients(self) -> int:
        """How many pages are connected."""
        return self._events.clients

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        if scope["type"] == "lifespan":
            await lifespan(receive, send, self.aclose)
        elif scope["type"] == "http":
            await self._serve(Request(scope), receive, send)
        else:
            raise RuntimeError(f"the live page is served over HTTP, not {scope['type']}")

    async def aclose(self) -> None:
        """Say goodbye to all pages and end. May be called twice."""
        while self._subscriptions:
            stream, subscription = self._subscriptions.pop()
            subscription.cancel()
            await stream.unsubscribe(subscription.id)
        await self._events.aclose()

    # The events

    def _subscribe(self, stream: Stream, handler: Any, topic: str) -> None:
        if isinstance(stream, LocalStream):
            self._subscriptions.append((stream, stream.subscribe_nowait(handler, topic)))
        else:
            self._waiting.append((stream, handler, topic))

    def _see(self, event: Event, at: float) -> None:
        self._rates.count(event.topic, at)
        self._snapshots.history.take(event)
        self._feed.publish_nowait(event)

    async def _begin(self) -> None:
        async with self._beginning:
            for waiting in tuple(self._waiting):
                stream, handler, topic = waiting
                try:
                    self._subscriptions.append((stream, await stream.subscribe(handler, topic)))
                except Exception as error:  # noqa: BLE001 - streams of other makers fail in other ways
                    _log.warning("source", "subscribing failed: %s", describe(error), error=error)
                else:  # else it is tried again with the next request
                    self._waiting.remove(waiting)

    # What is asked for

    async def _serve(self, request: Request, receive: Receive, send: Send) -> None:
        if self._waiting:
            await self._begin()
        path = request.path
        if path == "/api/events":
            await self._events(request.scope, receive, send)
        elif path in _ACTIONS:
            await self._act(request, receive, send)
        elif request.method not in {"GET", "HEAD"}:
            await _refuse(send, 405, f"{request.method} is not understood here", allow="GET, HEAD")
        elif path == "/" and _lacks_slash(request.scope):
            await answer(send, 308, "", [*GUARDS, (b"location", _with_slash(request.scope))])
        elif path in self._files:
            file = self._files[path]
            with_body = request.method == "GET"
            await answer(send, 200, file.content, GUARDS, content_type=file.content_type, with_body=with_body)
        elif path in {"/api/state", "/api/explain"}:
            await self._tell(request, send)
        else:
            await _refuse(send, 404, "there is nothing here")

    async def _tell(self, request: Request, send: Send) -> None:
        try:
            allowed = await self._allowed(request.scope)
        except Exception as error:  # noqa: BLE001 - it is user code; what it says is not for the page
            _log.warning("authorize", "authorize raised: %s", type(error).__name__, error=error)
            await _refuse(send, 500, "it could not be found out what you may see")
            return
        if allowed is None:
            await _refuse(send, 401, "you may see nothing here without a token")
        elif request.path == "/api/state":
            await _give(send, 200, await self._state(request.scope, allowed), request.method == "GET")
        elif not allowed.everything:
            await _refuse(send, 403, "who may see only some topics does not see the alerts")
        else:
            await self._explain(request, send)

    async def _state(self, scope: Scope, allowed: AllowedTopics) -> dict[str, Any]:
        now = self._clock.time()
        may_act = self._may_act(scope)
        found = await self._snapshots.take() if allowed.everything else {"problems": {}}
        return {
            "title": self._title,
            "now": now,
            "actions": self._token is not None and self._alerts is not None,
            "may_act": may_act,
            "topics": self._rates.busiest(now, allowed.allow),
            **found,
        }

    async def _explain(self, request: Request, send: Send) -> None:
        wanted = next(iter(request.query("fingerprint")), "")
        if self._alerts is None:
            await _refuse(send, 404, "there are no alerts here")
            return
        try:
            explanation = await on_its_loop(self._alerts, lambda alerts: _explanation(alerts, wanted))
        except Exception as error:  # noqa: BLE001 - a state file may fail in many ways
            await _refuse(send, 503, f"the alerts could not be asked: {describe(error)}")
            return
        if explanation is None:
            await _refuse(send, 404, "there is no such alert any more")
        else:
            await _give(send, 200, explanation)

    # Who may do what

    def _may_act(self, scope: Scope) -> bool:
        """Tell whether the token is in the header; never from the URL, which others can make."""
        if self._token is None:
            return False
        given = bearer_of(Request(scope))
        return given is not None and same_token(given, self._token.strip())

    def _topics(self, scope: Scope) -> Any:
        if self._authorize is None or self._may_act(scope):
            return "*"
        return self._authorize(scope)

    async def _allowed(self, scope: Scope) -> AllowedTopics | None:
        return await ask(self._topics, scope)

    # What is done

    async def _act(self, request: Request, receive: Receive, send: Send) -> None:
        refusal = self._refusal(request)
        if refusal is not None:
            status, message = refusal
            await _refuse(send, status, message, allow="POST" if status == _NOT_ALLOWED else None)
            return
        try:
            body = await read_body(receive, _MAX_FORM)
            if body is None:
                return
            status, done = await self._do(request.path, _parsed(body))
        except TooLargeError:
            await _refuse(send, 413, f"a form has at most {_MAX_FORM} bytes")
        except FormError as error:
            await _give(send, 400, {"error": str(error), "problems": error.problems})
        except Exception as error:  # noqa: BLE001 - a state file may fail in many ways
            await _refuse(send, 503, f"the alerts could not be asked: {describe(error)}")
        else:
            self._snapshots.forget()
            await _give(send, status, done)

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        """Give the status and the reason of a refusal, or None to go on."""
        if request.method != "POST":
            return _NOT_ALLOWED, f"{request.method} does not act; POST does"
        if self._token is None or self._alerts is None:
            return 403, "this page is read-only"
        if not _is_from_here(request):
            return 403, "a page of another origin may not act here"
        if (request.header("content-type") or "").partition(";")[0].strip().lower() != "application/json":
            return 415, "the form is sent as application/json"
        if not self._may_act(request.scope):
            return 401, "the token is missing, or is not the right one"
        return None

    async def _do(self, path: str, form: object) -> tuple[int, Mapping[str, Any]]:
        assert self._alerts is not None  # noqa: S101 - refused before
        if path == "/api/silences":
            silence = read_silence(form, self._clock.time())
            await on_its_loop(self._alerts, lambda alerts: alerts.add_silence(silence))
            _logger.info("silence %s was added through the live page", silence.id)
            return 201, {"id": silence.id}
        silence_id = read_fields(form, {"id": _MAX_ID})["id"]
        try:
            await on_its_loop(self._alerts, lambda alerts: alerts.expire_silence(silence_id))
        except KeyError:
            return 404, {"error": "there is no such silence any more"}
        _logger.info("silence %s was expired through the live page", silence_id)
        return 200, {"id": silence_id}


_NOT_ALLOWED = 405


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise FormError({"": "this is no JSON"}) from None


async def _explanation(alerts: AlertSink, fingerprint: str) -> dict[str, Any] | None:
    for view in await alerts.groups():
        for alert in view.alerts:
            if alert.fingerprint == fingerprint:
                return (await alerts.explain(alert.labels)).to_dict()
    return None


def _recent(stream: Stream, count: int) -> list[Event]:
    """Give the newest events of a stream that keeps them."""
    recent = getattr(stream, "get_recent_events", None)
    found: list[Event] = [] if recent is None else recent(count)
    return found


def _is_from_here(request: Request) -> bool:
    """Tell whether it is this page that asks, or no page at all: a browser says where a POST comes from."""
    if request.header("sec-fetch-site") not in {None, "same-origin"}:
        return False
    return not Origins().foreign(request)


def _lacks_slash(scope: Scope) -> bool:
    """Tell whether the page was asked for without the slash that its files are found below."""
    return bool(scope.get("root_path", "")) and not scope["path"].endswith("/")


def _with_slash(scope: Scope) -> bytes:
    query = scope.get("query_string", b"")
    last = quote(replace_surrogates(scope["path"].rpartition("/")[2]))
    return f"{last}/".encode() + (b"?" + query if query else b"")


async def _give(send: Send, status: int, what: Mapping[str, Any], with_body: bool = True) -> None:  # noqa: FBT001, FBT002 - private
    body = to_json(what)  # which takes whatever stands in a label
    await answer(send, status, body, GUARDS, content_type="application/json", with_body=with_body)


async def _refuse(send: Send, status: int, message: str, *, allow: str | None = None) -> None:
    more = [] if allow is None else [(b"allow", allow.encode())]
    if status == 401:  # noqa: PLR2004 - as RFC 9110 has it
        more.append((b"www-authenticate", b"Bearer"))
    await answer(send, status, to_json({"error": message}), [*GUARDS, *more], content_type="application/json")
