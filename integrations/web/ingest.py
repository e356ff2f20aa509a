"""`event_ingest`: events that come in over HTTP, as an ASGI application."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from codomyrmex.integrations.web.access import AllowedTopics, Authorize, Origins, ask
from codomyrmex.integrations.web.asgi import (
    NO_STORE,
    Receive,
    Request,
    Scope,
    Send,
    TooLargeError,
    answer,
    lifespan,
    read_body,
)
from codomyrmex.streaming import Clock, Event, EventDecodeError, Stream, StreamClosedError, TopicError
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from codomyrmex.streaming.diagnostics import Diagnostics

_BURST = 1.0  # seconds of the rate that may come at once

_log = Diagnostics(__name__)


def event_ingest(
    stream: Stream,
    *,
    authorize: Authorize | None = None,
    max_bytes: int = 1_048_576,
    max_events: int = 1_000,
    rate: float | None = None,
    allow_origins: Iterable[str] = (),
    clock: Clock = SYSTEM_CLOCK,
) -> EventIngestApp:
    """Make an ASGI application that publishes what is posted to it.

    `POST /` with one event as JSON, an array of events, or JSON lines (`application/x-ndjson`); an event
    is what `Event.from_dict` takes, without an id it gets one. The answer is 202 with the ids in order and,
    for each bad event, its index and what is wrong; the good ones are published all the same. If none is
    good it is 400.

    Args:
        stream: where they are published.
        authorize: asked with the ASGI scope; gives the topics that may be published to, or None.
        max_bytes: of a body; more is 413.
        max_events: of a body; more is 413.
        rate: events a second, a second's worth at once; more is 429 with `Retry-After`. None: no limit.
        allow_origins: whose pages may post (CORS).
        clock: where the time comes from; for tests.

    Raises:
        TypeError: it is no stream.
        ValueError: a number is out of range.
    """
    if not isinstance(stream, Stream):
        raise TypeError(f"event_ingest takes a stream, not {type(stream).__name__}")
    for name, value in (("max_bytes", max_bytes), ("max_events", max_events)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is a number from 1 on, not {value!r}")
    if rate is not None and not (isinstance(rate, (int, float)) and 0 < rate < math.inf):
        raise ValueError(f"rate is a number of events a second above 0, not {rate!r}")
    return EventIngestApp(stream, authorize, max_bytes, max_events, rate, Origins(allow_origins), clock)


class EventIngestApp:
    """An ASGI application that publishes what is posted to it; made by `event_ingest`."""

    def __init__(
        self,
        stream: Stream,
        authorize: Authorize | None,
        max_bytes: int,
        max_events: int,
        rate: float | None,
        origins: Origins,
        clock: Clock,
    ) -> None:
        self._stream = stream
        self._authorize = authorize
        self._max_bytes = max_bytes
        self._max_events = max_events
        self._rate = rate
        self._origins = origins
        self._clock = clock
        self._busy_until = -math.inf  # when what has come would have come at the rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] == "lifespan":
            await lifespan(receive, send, self.aclose)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"events come in over HTTP, not {scope['type']}")
        request = Request(scope)
        headers = [*self._origins.headers(request), NO_STORE]
        if request.method == "OPTIONS":
            await answer(send, 204, headers=self._origins.preflight(request, "POST"))
        elif request.method != "POST":
            message = f"{request.method} is not understood here; POST publishes events"
            allow = (b"allow", b"POST, OPTIONS")
            await answer(send, 405, message, [*headers, allow], with_body=request.method != "HEAD")
        else:
            status, body, more = await self._take(request, receive)
            if status:
                await answer(send, status, body, [*headers, *more])

    async def aclose(self) -> None:
        """Nothing to end."""

    async def _take(  # noqa: PLR0911 - one for each refusal
        self, request: Request, receive: Receive
    ) -> tuple[int, dict[str, Any], list[tuple[bytes, bytes]]]:
        """Read and publish; give the status (0 if the client has gone), the answer and more headers."""
        if self._origins.foreign(request):  # a browser sends such a post even where it hides the answer
            return 403, {"error": "pages of this origin may not post here; see allow_origins"}, []
        try:
            allowed = await ask(self._authorize, request.scope)
        except Exception as error:  # noqa: BLE001 - it is user code; what it says is not for the client
            _log.warning("authorize", "authorize raised: %s", type(error).__name__, error=error)
            return 500, {"error": "it could not be found out what you may publish"}, []
        if allowed is None:
            return 401, {"error": "you may publish nothing here"}, [(b"www-authenticate", b"Bearer")]
        try:
            body = await read_body(receive, self._max_bytes)
        except TooLargeError:
            return 413, {"error": f"a body has at most {self._max_bytes} bytes"}, []
        if body is None:
            return 0, {}, []
        try:
            parsed = list(_parse(body, request.header("content-type") or "", self._max_events))
        except _UnreadableError as error:
            return 400, {"error": str(error)}, []
        if len(parsed) > self._max_events:
            return 413, {"error": f"a body has at most {self._max_events} events"}, []
        wait = self._wait_for(len(parsed))
        if wait > 0:
            message = f"at most {self._rate:g} events a second; nothing of this was taken"
            return 429, {"error": message}, [(b"retry-after", str(math.ceil(wait)).encode())]
        return await self._publish(parsed, allowed)

    async def _publish(
        self, parsed: list[Any], allowed: AllowedTopics
    ) -> tuple[int, dict[str, Any], list[tuple[bytes, bytes]]]:
        ids: list[str] = []
        errors: list[dict[str, Any]] = []
        for index, value in enumerate(parsed):
            try:
                event = _event(value, allowed)
                await self._stream.publish(event)
            except (EventDecodeError, TopicError, _UnreadableError) as error:
                errors.append({"index": index, "error": str(error)})
            except Exception as error:  # noqa: BLE001 - streams of other makers fail in other ways
                closed = isinstance(error, StreamClosedError)
                if not closed:
                    _log.warning("publish", "publishing failed: %s", type(error).__name__, error=error)
                reason = "the stream is closed" if closed else "it could not be published"
                done = {"ids": ids, "errors": errors, "error": f"{reason}; try again later"}
                return 503, done, [(b"retry-after", b"5")]
            else:
                ids.append(event.id)
        return (202 if ids or not errors else 400), {"ids": ids, "errors": errors}, []

    def _wait_for(self, count: int) -> float:
        """Give the seconds until more may come, and count these if that is now."""
        if self._rate is None:
            return 0.0
        now = self._clock.monotonic()
        busy_until = max(self._busy_until, now)
        if busy_until - now >= _BURST:
            return busy_until - now - _BURST + 1 / self._rate
        self._busy_until = busy_until + count / self._rate
        return 0.0


class _UnreadableError(Exception):
    """A body or an event cannot be read."""


def _parse(body: bytes, content_type: str, most: int) -> Iterator[Any]:
    """Give the values in a body; a line that is no JSON is given as the error that it is."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _UnreadableError(f"the body is not UTF-8 text, at byte {error.start}") from None
    lines = content_type.partition(";")[0].strip().lower() in {"application/x-ndjson", "application/jsonl"}
    if not lines:
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError) as error:
            if "\n" not in text.strip():
                raise _UnreadableError(f"the body is no JSON: {error}") from None
        else:
            yield from whole if isinstance(whole, list) else [whole]
            return
    for count, line in enumerate((line for line in text.split("\n") if line.strip()), start=1):
        if count > most + 1:
            return
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            yield _UnreadableError(f"this is no JSON: {error}")


def _event(value: Any, allowed: AllowedTopics) -> Event:
    if isinstance(value, _UnreadableError):
        raise value
    event = Event.from_dict(value)
    if not allowed.allow(event.topic):
        raise _UnreadableError(f"you may not publish to the topic {event.topic!r}")
    return event
