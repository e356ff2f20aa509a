"""`event_stream`: a stream as server-sent events over HTTP, as an ASGI application."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterable
from contextlib import aclosing, suppress
from typing import Any, Literal

from codomyrmex.integrations.delivery.seconds import check_seconds
from codomyrmex.integrations.web import shutdown
from codomyrmex.integrations.web.access import AllowedTopics, Authorize, Origins, ask
from codomyrmex.integrations.web.asgi import (
    NO_STORE,
    Headers,
    Receive,
    Request,
    Scope,
    Send,
    answer,
    lifespan,
)
from codomyrmex.streaming import (
    Clock,
    Event,
    EventType,
    Frame,
    Overflow,
    SSEStream,
    Stream,
    Subscription,
    TopicError,
)
from codomyrmex.streaming.clock import SYSTEM_CLOCK, Timer
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.dispatch import LocalStream
from codomyrmex.streaming.encoding import to_json
from codomyrmex.streaming.sse_format import wire_id
from codomyrmex.streaming.subscriptions import when_ended
from codomyrmex.streaming.topics import check_pattern

Form = Literal["event", "payload"]

_HEARTBEAT = b": hb\n"  # without a blank line: with one, some clients see an empty event
_HEADERS = (
    (b"content-type", b"text/event-stream"),
    NO_STORE,
    (b"x-accel-buffering", b"no"),  # nginx
    (b"x-content-type-options", b"nosniff"),
)
_BATCH = 200  # frames in one write
_PROBE = 8  # after so many single events it is tried whether more come together if they may
_FAREWELL = 5.0  # seconds that the clients have to take what is left for them when the server ends

_SOON = (b"retry-after", b"5")
_Refusal = tuple[int, str, Headers]

_log = Diagnostics(__name__)


def event_stream(
    stream: Stream,
    *,
    data: Form = "event",
    authorize: Authorize | None = None,
    replay: int = 1_000,
    queue_size: int = 1_000,
    overflow: Overflow = Overflow.DISCONNECT,
    heartbeat: float = 15.0,
    send_timeout: float = 30.0,
    max_clients: int = 10_000,
    allow_origins: Iterable[str] = (),
    reconnect_within: float = 5.0,
    signals: bool = True,
    clock: Clock = SYSTEM_CLOCK,
) -> EventStreamApp:
    """Make an ASGI application that serves a stream as `text/event-stream`.

    `GET /?topic=orders.>&last_event_id=...`; the header `Last-Event-ID` goes before the parameter. The
    first event is of the type `connect` and says whether the stream was resumed, or what was missed; the
    last, when the server ends, `disconnect`, with a time to reconnect that is another for each client.

    Source: WHATWG HTML, section 9.2, in the form that all clients read the same: LF only, each event with
    a type, a heartbeat that is one comment line, `retry` only inside an event.

    Args:
        stream: what is served.
        data: what stands in `data`: the whole `event` as `Event.to_dict` gives it, or its `payload`.
        authorize: asked with the ASGI scope when a client connects, a plain or an async function; gives
            the topics that it may see, a pattern or several, or None for nothing. `require_token` makes one.
        replay: how many of the newest events a client that comes back can get.
        queue_size: how many events may wait for a client.
        overflow: what happens to one more; by default the client is disconnected, and gets what it missed
            when it comes back.
        heartbeat: seconds of silence after which a comment is sent.
        send_timeout: a client that takes nothing for so many seconds is dropped.
        max_clients: more are refused with 503.
        allow_origins: whose pages may read it (CORS); by default only those of the server itself.
        reconnect_within: seconds over which clients are spread when the server ends.
        signals: whether SIGTERM and SIGINT say goodbye to the clients, before the server's own handling.
        clock: where the time comes from; for tests.

    Raises:
        TypeError: it is no stream.
        ValueError: a number is out of range.
    """
    return EventStreamApp(
        stream,
        data=data,
        authorize=authorize,
        replay=replay,
        queue_size=queue_size,
        overflow=overflow,
        heartbeat=heartbeat,
        send_timeout=send_timeout,
        max_clients=max_clients,
        origins=Origins(allow_origins),
        reconnect_within=reconnect_within,
        signals=signals,
        clock=clock,
    )


class _Client:
    """One connection."""

    __slots__ = ("abort", "asked", "dropped", "last_id", "sending_since", "subscription", "task")

    def __init__(
        self, subscription: Subscription, task: asyncio.Task[Any], abort: Callable[[], None] | None
    ) -> None:
        self.subscription = subscription
        self.task = task
        self.abort = abort
        self.asked = ""  # where it wants to resume
        self.last_id = ""
        self.dropped = False
        self.sending_since = math.inf  # while it is being sent to

    def drop(self) -> None:
        """End a connection that takes nothing, and so would not take an end either."""
        self.dropped = True
        if self.abort is not None:
            self.abort()
        self.task.cancel()


class EventStreamApp:
    """An ASGI application that serves a stream; made by `event_stream`."""

    def __init__(
        self,
        stream: Stream,
        *,
        data: Form,
        authorize: Authorize | None,
        replay: int,
        queue_size: int,
        overflow: Overflow,
        heartbeat: float,
        send_timeout: float,
        max_clients: int,
        origins: Origins,
        reconnect_within: float,
        signals: bool,
        clock: Clock,
    ) -> None:
        if not isinstance(stream, Stream):
            raise TypeError(f"event_stream takes a stream, not {type(stream).__name__}")
        if data not in {"event", "payload"}:
            raise ValueError(f"data is event or payload, not {data!r}")
        check_seconds("heartbeat", heartbeat)
        check_seconds("send_timeout", send_timeout)
        check_seconds("reconnect_within", reconnect_within, zero=True, finite=True)
        if isinstance(max_clients, bool) or not isinstance(max_clients, int) or max_clients < 1:
            raise ValueError(f"max_clients is a number from 1 on, not {max_clients!r}")
        if overflow == Overflow.BLOCK:
            raise ValueError("BLOCK would let one client hold up the publisher; choose another policy")
        # A stream of its own: the queues, the replay and the encoded frames are those of this application.
        self._hub = SSEStream(replay, queue_size, overflow, heartbeat, clock=clock)
        self._source = stream
        self._subscription: Subscription | None = None
        self._joining = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = False
        if isinstance(stream, LocalStream):  # else with the first client: it has to be awaited
            self._subscription = stream.subscribe_nowait(self._hub.publish_nowait)
            when_ended(self._subscription, self._source_ended)
        self._whole = data == "event"
        self._authorize = authorize
        self._send_timeout = send_timeout
        self._max_clients = max_clients
        self._origins = origins
        self._reconnect_within = reconnect_within
        self._signals = signals
        self._clock = clock
        self._clients: set[_Client] = set()
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._watching: Timer | None = None
        self._closing: asyncio.Task[None] | None = None
        self.refused = 0
        self.dropped = 0

    @property
    def clients(self) -> int:
        """How many clients are connected."""
        return len(self._clients)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        if scope["type"] == "lifespan":
            await lifespan(receive, send, self.aclose)
        elif scope["type"] == "http":
            await self._serve(Request(scope), receive, send)
        else:
            raise RuntimeError(f"an event stream is served over HTTP, not {scope['type']}")

    async def aclose(self) -> None:
        """Say goodbye to all clients and end. May be called twice."""
        self._ending = True
        shutdown.unwatch(self)
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await self._leave(subscription)
        await self._hub.aclose()
        if self._clients:
            timer = self._clock.call_later(min(self._send_timeout, _FAREWELL), self._drop_all)
            try:
                await self._nobody.wait()
            finally:
                timer.cancel()

    # Where the events come from

    async def _join(self) -> None:
        """Subscribe to the stream, once, where that has to be awaited."""
        async with self._joining:
            if self._subscription is None and not self._ending:
                subscription = await self._source.subscribe(self._hub.publish_nowait)
                if self._ending:
                    await self._leave(subscription)
                else:
                    self._subscription = subscription
                    when_ended(subscription, self._source_ended)

    async def _leave(self, subscription: Subscription) -> None:
        subscription.cancel()
        await self._source.unsubscribe(subscription.id)

    def _source_ended(self) -> None:
        """Go the way of the stream; called in any thread."""
        if self._ending:
            return
        self._ending = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._end_soon)

    # One connection

    async def _serve(self, request: Request, receive: Receive, send: Send) -> None:
        headers = self._origins.headers(request)
        if request.method == "OPTIONS":
            await answer(send, 204, headers=self._origins.preflight(request, "GET, HEAD"))
            return
        if request.method not in {"GET", "HEAD"}:
            message = f"{request.method} is not understood here; GET opens the stream"
            await answer(send, 405, message, [*headers, (b"allow", b"GET, HEAD, OPTIONS")])
            return
        outcome = await self._admit(request)
        if not isinstance(outcome, AllowedTopics):
            status, message, more = outcome
            more = [*headers, *more, NO_STORE]
            await answer(send, status, message, more, with_body=request.method == "GET")
        elif request.method == "HEAD":
            await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *headers]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self._open(request, outcome, receive, send, headers)

    async def _admit(self, request: Request) -> AllowedTopics | _Refusal:
        """Give what the client may see, or why it is refused."""
        refusal = self._refuse(request)
        if refusal is not None:
            return refusal
        try:
            allowed = await ask(self._authorize, request.scope)
        except Exception as error:  # noqa: BLE001 - it is user code; what it says is not for the client
            _log.warning("authorize", "authorize raised: %s", type(error).__name__, error=error)
            return 500, "it could not be found out what you may see", []
        if allowed is None:
            return 401, "you may see nothing here", [(b"www-authenticate", b"Bearer")]
        if self._subscription is None:
            try:
                await self._join()
            except Exception as error:  # noqa: BLE001 - streams of other makers fail in other ways
                _log.warning("source", "subscribing failed: %s", type(error).__name__, error=error)
                return 503, "the stream cannot be read now; try again soon", [_SOON]
        return self._refuse(request) or allowed  # once more: asking may have taken its time

    def _refuse(self, request: Request) -> _Refusal | None:
        """Give the status, the reason and headers of a refusal, or None to go on."""
        if not _accepts_event_stream(request.header("accept")):
            return 406, "this is a text/event-stream; send Accept: text/event-stream", []
        try:
            check_pattern(_first(request.query("topic")) or "*")
        except TopicError as error:
            return 400, f"the topic is malformed: {error}", []
        if self._ending:
            return 503, "the stream is ending here; try again soon", [_SOON]
        if len(self._clients) >= self._max_clients:
            self.refused += 1
            message = (
                f"{self._max_clients} clients are connected, which is the most there may be; try again later"
            )
            return 503, message, [(b"retry-after", str(random.randint(5, 30)).encode())]  # noqa: S311 - no secret
        return None

    async def _open(
        self, request: Request, allowed: AllowedTopics, receive: Receive, send: Send, headers: Headers
    ) -> None:
        last_id = request.header("last-event-id") or _first(request.query("last_event_id"))
        before = self._hub.newest_id() or ""  # who has seen none can resume from there
        subscription = await self._hub.subscribe(
            topic=_first(request.query("topic")) or "*",
            filter_fn=None if allowed.everything else lambda event: allowed.allow(event.topic),
            last_event_id=last_id or None,
        )
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in one
        client = _Client(subscription, task, _abort_of(receive, send))
        client.asked, client.last_id = last_id, last_id or before
        self._enter(client)
        gone = asyncio.create_task(_wait_until_gone(receive, subscription))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *headers]})
            if not last_id:
                client.sending_since = self._clock.monotonic()
                body = _connect({"resumed": False, "replayed": 0}, before)
                await send({"type": "http.response.body", "body": body, "more_body": True})
                client.sending_since = math.inf
            await self._pump(client, send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError:  # the client has gone
            pass
        except asyncio.CancelledError:
            if not client.dropped:
                raise
            task.uncancel()
        finally:
            gone.cancel()
            self._exit(client)

    def _enter(self, client: _Client) -> None:
        self._clients.add(client)
        self._nobody.clear()
        self._loop = asyncio.get_running_loop()
        if self._watching is None:
            self._watching = self._clock.call_later(self._send_timeout / 4, self._look)
            if self._signals:
                shutdown.watch(self, self._end_soon)

    def _exit(self, client: _Client) -> None:
        client.subscription.cancel()
        self._clients.discard(client)
        if not self._clients:
            self._nobody.set()
            if self._watching is not None:
                self._watching.cancel()
                self._watching = None
            shutdown.unwatch(self)

    async def _pump(self, client: _Client, send: Send) -> None:
        """Send what comes, all that is ready in one write. Each call that is spared here counts."""
        now, encode, singles = self._clock.monotonic, self._encode, 0
        async with aclosing(self._hub.batches(client.subscription.id, _BATCH)) as batches:
            async for frames in batches:
                last = frames[-1]
                if not last.notice:
                    client.last_id = last.event.id
                elif len(frames) > 1 and not frames[-2].notice:  # notices come first, or last
                    client.last_id = frames[-2].event.id
                if len(frames) == 1:
                    body = last.wire or encode(last, client)
                else:
                    body = b"".join([frame.wire or encode(frame, client) for frame in frames])
                client.sending_since = now()
                await send({"type": "http.response.body", "body": body, "more_body": True})
                client.sending_since = math.inf
                if last.notice and last.event.type is EventType.DISCONNECT:
                    return
                singles = 0 if len(frames) > 1 else singles + 1
                if singles % _PROBE == 0:  # under load: two turns of the loop, and two events go together
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)

    # One encoding for all clients: it stays on the frame. What is for one client alone is not kept.
    def _encode(self, frame: Frame, client: _Client) -> bytes:
        event = frame.event
        if frame.notice:
            return self._notice(event, client)
        shown = event.to_dict() if self._whole else event.data
        frame.wire = _frame(event.id, event.type.value, shown)
        return frame.wire

    def _notice(self, event: Event, client: _Client) -> bytes:
        if event.type is EventType.HEARTBEAT:
            return _HEARTBEAT
        if event.type is EventType.CONNECT:
            return _connect(event.data, client.asked if event.data["resumed"] else "")
        return _goodbye(client.last_id, self._reconnect_within)

    # Clients that take nothing

    def _look(self) -> None:
        self._watching = self._clock.call_later(self._send_timeout / 4, self._look)
        limit = self._clock.monotonic() - self._send_timeout
        for client in self._clients:
            if client.sending_since < limit:
                self._drop(client)

    def _drop_all(self) -> None:
        for client in self._clients:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        if not client.dropped:
            self.dropped += 1
            client.drop()

    def _end_soon(self) -> None:
        self._closing = asyncio.ensure_future(self.aclose())


async def _wait_until_gone(receive: Receive, subscription: Subscription) -> None:
    """Wait for the client to go, and end its subscription: who reads that then ends too."""
    with suppress(Exception):
        while (await receive())["type"] != "http.disconnect":
            pass
    subscription.cancel()


def _abort_of(receive: Receive, send: Send) -> Callable[[], None] | None:
    """Find what ends the connection at once, where the server has it within reach, as uvicorn does.

    ASGI has no word for it, and a plain end waits until all is sent: for ever, if nothing is taken.
    """
    for call in (receive, send):
        transport = getattr(getattr(call, "__self__", None), "transport", None)
        abort = getattr(transport, "abort", None)
        if callable(abort):
            return abort  # type: ignore[no-any-return]
    return None


def _frame(event_id: str, kind: str, data: Any, retry: str = "") -> bytes:
    last = wire_id(event_id)
    line = f"id: {last}\n" if last else ""  # an empty one would make the client forget where it is
    return f"{line}event: {kind}\n{retry}data: {to_json(data)}\n\n".encode()


def _connect(data: dict[str, Any], last_id: str) -> bytes:
    return _frame(last_id, "connect", data)


def _goodbye(last_id: str, within: float) -> bytes:
    """Give the last frame, with a time to reconnect of its own: all at once would be a storm."""
    retry = round(1000 * (0.5 + random.random() * within))  # noqa: S311 - no secret
    return _frame(last_id, "disconnect", {"reason": "shutdown"}, f"retry: {retry}\n")


def _accepts_event_stream(accept: str | None) -> bool:
    if accept is None:
        return True
    wanted = [part.partition(";") for part in accept.lower().split(",")]
    return any(
        kind.strip() in {"text/event-stream", "text/*", "*/*"}
        and "q=0" not in rest.replace(" ", "").split(";")
        for kind, _, rest in wanted
    )


def _first(values: list[str]) -> str:
    return values[0] if values else ""
