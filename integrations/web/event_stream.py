"""`event_stream`: an ASGI application that serves a stream as server-sent events."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from typing import Literal

from codomyrmex.integrations.configuration.durations import check_seconds
from codomyrmex.integrations.durable import DurableStream
from codomyrmex.integrations.web import http
from codomyrmex.integrations.web import signals as process_signals
from codomyrmex.integrations.web.clients import (
    HEARTBEAT,
    Client,
    end_when_disconnected,
    find_abort,
    frame_bytes,
)
from codomyrmex.integrations.web.durable_hub import DurableHub
from codomyrmex.integrations.web.gates import SiteGate
from codomyrmex.streaming import (
    Clock,
    EventType,
    Frame,
    Overflow,
    SSEStream,
    Stream,
    Subscription,
    TopicError,
)
from codomyrmex.streaming.clock import SYSTEM_CLOCK, Timer
from codomyrmex.streaming.topics import check_pattern
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

Data = Literal["event", "payload"]
_Batches = AsyncGenerator[list[Frame], None]

_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"x-accel-buffering", b"no"),  # nginx would buffer the stream
    (b"cache-control", b"no-store, no-transform"),  # a proxy that compresses would buffer it too
    (b"x-content-type-options", b"nosniff"),
]
_BATCH = 200  # frames in one write
_SINGLES = 8  # writes of a single frame after which the next write waits for more frames
_DRAIN_TIMEOUT = 5.0  # seconds that clients have for the remaining events when the application closes


class EventStreamApp:
    """An ASGI application that serves a stream as `text/event-stream`.

    Clients send `GET /?topic=orders.>&last_event_id=...`; the header `Last-Event-ID` takes precedence over
    the parameter. The first event has the type `connect` and says whether the stream was resumed or what was
    missed. When the server shuts down, the last event has the type `disconnect` and a random `retry` time.

    The format follows WHATWG HTML, section 9.2, restricted to what all clients parse alike: LF only, a type
    in each event, heartbeats that are one comment line, `retry` only within an event.

    Args:
        stream: the stream to serve.
        data: the content of `data` fields: the whole `event` (`Event.to_dict`) or only its `payload`.
        authorize: a plain or async function that is called with the ASGI scope of each new client and returns
            the topics it may read: one or several patterns, or None for none. See `require_token`.
        buffer_size: the number of recent events that can be replayed to reconnecting clients. Those of a
            durable stream get all that they have missed; if the store does not have it any more, this many.
        queue_size: the number of events that can be queued for each client.
        overflow: what happens when the queue of a client is full. By default the client is disconnected and
            gets the missed events when it reconnects.
        heartbeat_interval: seconds without events after which a comment is sent.
        send_timeout: seconds after which a client that does not read is dropped.
        max_clients: the number of clients that can be connected; others are refused with 503.
        allow_origins: other origins whose pages can read the stream (CORS); `"*"` allows any.
        allow_credentials: whether these pages can send cookies; not possible with `"*"`.
        allowed_hosts: the names that requests may have in their `Host` header; `"*"` allows any. By default
            those of this machine, or any if `authorize` is passed, a gate of `serve` has checked them, or
            every origin is allowed.
        reconnect_within: seconds over which clients spread their reconnects after a shutdown.
        max_replay: the number of events of a durable stream that a client may have missed; one that has
            missed more is not resumed. None for no limit.
        signals: whether SIGTERM and SIGINT close the application before the server handles them. That is
            possible in the main thread only; elsewhere await `aclose` before the server stops.
        clock: the clock; tests pass a `FakeClock`.

    Attributes:
        allow_origins: the other origins.
        refused: the number of clients that were refused because of `max_clients`.
        dropped: the number of clients that were dropped because they did not read.

    Raises:
        TypeError: `stream` is not a stream.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        data: Data = "event",
        authorize: http.Authorize | None = None,
        buffer_size: int = 1_000,
        queue_size: int = 1_000,
        overflow: Overflow = Overflow.DISCONNECT,
        heartbeat_interval: float = 15.0,
        send_timeout: float = 30.0,
        max_clients: int = 10_000,
        allow_origins: Iterable[str] = (),
        allow_credentials: bool = False,
        allowed_hosts: Iterable[str] | None = None,
        reconnect_within: float = 5.0,
        max_replay: int | None = None,
        signals: bool = True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not isinstance(stream, Stream):
            raise TypeError(f"stream: must be a Stream, got {type(stream).__name__}")
        if data not in {"event", "payload"}:
            raise ValueError(f"data: must be 'event' or 'payload', got {data!r}")
        check_seconds("send_timeout", send_timeout)
        check_seconds("reconnect_within", reconnect_within, zero=True, finite=True)
        if isinstance(max_clients, bool) or not isinstance(max_clients, int) or max_clients < 1:
            raise ValueError(f"max_clients: must be an integer of at least 1, got {max_clients!r}")
        check_seconds("heartbeat_interval", heartbeat_interval)
        if overflow == Overflow.BLOCK:
            raise ValueError("overflow: must not be BLOCK, because one slow client would block the publisher")
        self._gate = SiteGate(allowed_hosts, allow_origins, authorized=authorize is not None)
        self.allow_origins = tuple(self._gate.origins)
        if allow_credentials and "*" in self.allow_origins:
            raise ValueError('allow_credentials: allow_origins must name the origins, got "*"')
        # Queues, replay and encoded frames belong to the application: the stream may have other subscribers.
        self._make_hub = partial(
            SSEStream,
            queue_size=queue_size,
            overflow=overflow,
            heartbeat_interval=heartbeat_interval,
            clock=clock,
        )
        self._hub = self._make_hub(buffer_size)  # checks the values
        self._buffer_size = buffer_size
        self._log: DurableHub | None = None
        self._log_options = (buffer_size, max_replay, heartbeat_interval, clock)
        self._stream = stream
        self._whole = data == "event"
        self._authorize = authorize
        self._send_timeout = send_timeout
        self._max_clients = max_clients
        self._reconnect_within = reconnect_within
        self._signals = signals
        self._clock = clock
        self._clients: set[Client] = set()
        self._no_clients = asyncio.Event()
        self._no_clients.set()
        self._watchdog: Timer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False
        self._close_task: asyncio.Task[None] | None = None
        self.refused = 0
        self.dropped = 0
        endpoint = http.allow_cross_origin(
            self._respond, self.allow_origins, ("GET", "HEAD"), credentials=allow_credentials
        )
        self._router = Router(default=endpoint, lifespan=self._lifespan)
        self.open()

    @property
    def clients(self) -> int:
        """The number of connected clients."""
        return len(self._clients)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._router(scope, receive, send)

    def open(self) -> None:
        """Serve the stream again after `aclose`.

        Raises:
            StreamClosedError: the stream is closed.
        """
        if isinstance(self._stream, DurableStream):
            self._log = DurableHub(self._stream, partial(self._make_hub, 0), *self._log_options)
            self._subscription = self._log.subscribe_end()
        else:
            self._hub = self._make_hub(self._buffer_size)
            self._subscription = self._stream.subscribe_nowait(self._hub.publish_nowait)
        self._closing = False
        self._subscription.on_end(self._source_closed)

    async def aclose(self) -> None:
        """Send each client its queued events and a `disconnect`, and end. Can be called twice."""
        self._closing = True
        process_signals.unwatch(self)
        self._subscription.cancel()
        await (self._hub if self._log is None else self._log).aclose()
        if self._clients:
            timer = self._clock.call_later(min(self._send_timeout, _DRAIN_TIMEOUT), self._drop_clients)
            try:
                await self._no_clients.wait()
            finally:
                timer.cancel()

    @asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[None]:
        if self._closing:  # a second run, as in tests
            self.open()
        yield
        await self.aclose()

    def _source_closed(self, ended: Subscription) -> None:
        """Close after the source stream; called in any thread."""
        if ended is self._subscription and not self._closing:
            self._closing = True
            if self._loop is not None:
                with suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._close_soon)

    def _close_soon(self) -> None:
        self._close_task = asyncio.ensure_future(self.aclose())

    # Connections

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"an event stream is served over HTTP, not over {scope['type']}")
        request = Request(scope, receive)
        try:
            allowed = await self._admit(request)
        except HTTPException as refusal:
            headers = {**http.RESPONSE_HEADERS, **(refusal.headers or {})}
            response = PlainTextResponse(refusal.detail, refusal.status_code, headers)
            await response(scope, receive, send)
            return
        if request.method == "HEAD":
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self._open(request, allowed, receive, send)

    async def _admit(self, request: Request) -> http.AllowedTopics:
        if request.method not in {"GET", "HEAD"}:
            raise HTTPException(405, f"{request.method} is not allowed; use GET", {"allow": "GET, HEAD"})
        self._check(request)
        allowed = await http.authorized_topics(self._authorize, request.scope)
        self._check(request)  # again, because authorization may have taken a while
        return allowed

    def _check(self, request: Request) -> None:
        """Raise an HTTPException if the client cannot be served."""
        self._gate.check(request)
        if not http.accepts_event_stream(request.headers.getlist("accept")):
            raise HTTPException(406, "this is an event stream: send Accept: text/event-stream")
        topics = request.query_params.getlist("topic")
        if len(topics) > 1:
            raise HTTPException(400, f"topic: must be one pattern, got {len(topics)}")
        try:
            check_pattern((topics and topics[0]) or "*")
        except TopicError as error:
            raise HTTPException(400, f"topic: {error}") from None
        if self._closing:
            raise HTTPException(503, "the server is shutting down; try again soon", {"retry-after": "5"})
        if len(self._clients) >= self._max_clients:
            self.refused += 1
            message = f"too many clients: {self._max_clients} are connected, which is the maximum"
            seconds = random.randint(5, 30)  # noqa: S311 - not a secret
            raise HTTPException(503, message, {"retry-after": str(seconds)})

    async def _open(
        self, request: Request, allowed: http.AllowedTopics, receive: Receive, send: Send
    ) -> None:
        query = request.query_params
        requested_id = http.utf8_header(request.headers, "last-event-id") or query.get("last_event_id", "")
        abort = find_abort(receive, send)
        visible = None if allowed.everything else lambda event: allowed.allow(event.topic)
        topic, newest_id = query.get("topic") or "*", ""
        if self._log is None:
            newest_id = self._hub.newest_id(visible) or ""  # a client without events can resume here
            subscription = await self._hub.subscribe(
                topic=topic, filter_fn=visible, last_event_id=requested_id or None
            )
        else:  # it gets one with a queue when it has caught up
            subscription = Subscription(None, topic, None, visible)
        task, hub = asyncio.current_task(), self._hub
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        client = Client(subscription, task, abort, requested_id, requested_id or newest_id)
        listener = asyncio.create_task(end_when_disconnected(receive, client))
        try:
            self._add(client)
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            if self._log is not None:
                self._log.start()
                await self._send_events(self._log.catch_up(client), client, send)
                hub = self._log.queues
            elif not requested_id:
                client.sending_since = self._clock.monotonic()
                body = frame_bytes(newest_id, "connect", {"resumed": False, "replayed": 0})
                await send({"type": "http.response.body", "body": body, "more_body": True})
                client.sending_since = math.inf
            await self._send_events(hub.batches(client.subscription.id, _BATCH), client, send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError:  # the client disconnected
            pass
        except asyncio.CancelledError:
            if not client.cancelled:
                raise
            task.uncancel()
        finally:
            listener.cancel()
            self._remove(client)

    def _add(self, client: Client) -> None:
        self._clients.add(client)
        self._no_clients.clear()
        self._loop = asyncio.get_running_loop()
        if self._watchdog is None:
            self._watchdog = self._clock.call_later(self._send_timeout / 4, self._check_timeouts)
            if self._signals:
                process_signals.watch(self, self._close_soon)

    def _remove(self, client: Client) -> None:
        self._clients.discard(client)  # before anything that may raise: the client is gone in any case
        if not self._clients:
            self._no_clients.set()
            if self._watchdog is not None:
                self._watchdog.cancel()
                self._watchdog = None
            process_signals.unwatch(self)
        client.subscription.cancel()

    async def _send_events(self, source: _Batches, client: Client, send: Send) -> None:
        """Send events until their source ends, all that are ready in one write: the hot loop."""
        now, encode, singles = self._clock.monotonic, self._encode, 0
        async with aclosing(source) as batches:
            async for frames in batches:
                last = frames[-1]
                if not last.notice:
                    client.last_id = last.id
                elif len(frames) > 1 and not frames[-2].notice:  # notices are first or last
                    client.last_id = frames[-2].id
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
                if singles % _SINGLES == 0:  # under load, two turns of the loop let two frames share a write
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)

    def _encode(self, frame: Frame, client: Client) -> bytes:
        """Return the bytes of a frame, which all clients share unless it is a notice for one of them."""
        event = frame.event
        if frame.notice:
            return self._encode_notice(frame, client)
        frame.wire = frame_bytes(frame.id, event.type.value, event.to_dict() if self._whole else event.data)
        return frame.wire

    def _encode_notice(self, frame: Frame, client: Client) -> bytes:
        event = frame.event
        if event.type is EventType.HEARTBEAT:
            return HEARTBEAT if self._log is None else self._log.heartbeat(client)
        if event.type is EventType.CONNECT:
            return frame_bytes(client.requested_id if event.data["resumed"] else "", "connect", event.data)
        # Each client gets another delay, so that they do not all reconnect at once.
        retry = round(1000 * (0.5 + random.random() * self._reconnect_within))  # noqa: S311 - not a secret
        return frame_bytes(client.last_id, "disconnect", {"reason": "shutdown"}, f"retry: {retry}\n")

    # Clients that do not read

    def _check_timeouts(self) -> None:
        self._watchdog = self._clock.call_later(self._send_timeout / 4, self._check_timeouts)
        self._drop_clients(self._clock.monotonic() - self._send_timeout)

    def _drop_clients(self, sending_since: float = math.inf) -> None:
        """Cut the connections whose current write began at a time or before; no regular end would arrive."""
        for client in self._clients:
            if client.sending_since > sending_since:
                continue
            if not client.dropped:
                client.dropped = True
                self.dropped += 1
                client.subscription.cancel()
            # A connection that the server does not let us abort stays, and is counted, until it is gone.
            if client.abort is not None:
                client.abort()
            if client.abort is not None or self._closing:
                client.cancel()


event_stream = EventStreamApp
