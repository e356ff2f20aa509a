"""`event_ingest`: an ASGI application that publishes the events that are posted to it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.web import http
from codomyrmex.streaming import Clock, Event, EventDecodeError, Stream, StreamClosedError, TopicError
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

_BURST = 1.0  # seconds of the rate that are accepted at once

_log = Diagnostics(__name__)


class EventIngestApp:
    """An ASGI application that publishes the events that are posted to it.

    Clients send `POST /` with one event as JSON, an array of events, or JSON lines (`application/x-ndjson`).
    Events have the fields of `Event.from_dict`; an event without an id gets one. The response has status 202,
    the ids in order and, for each invalid event, its index and the problem. Valid events are published even
    if others are invalid; if all are invalid, the status is 400.

    Args:
        stream: the stream to publish to.
        authorize: a plain or async function that is called with the ASGI scope and returns the topics that
            may be published to: one or several patterns, or None for none.
        max_bytes: the size limit of a body; larger ones are refused with 413.
        max_events: the limit of events in a body; more are refused with 413.
        rate: events per second; bursts of one second are accepted, more are refused with 429 and
            `Retry-After`. None: no limit.
        allow_origins: other origins whose pages can post (CORS).
        clock: the clock; tests pass a `FakeClock`.

    Raises:
        TypeError: `stream` is not a stream.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        authorize: http.Authorize | None = None,
        max_bytes: int = 1_048_576,
        max_events: int = 1_000,
        rate: float | None = None,
        allow_origins: Iterable[str] = (),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not isinstance(stream, Stream):
            raise TypeError(f"stream: must be a Stream, got {type(stream).__name__}")
        for name, value in (("max_bytes", max_bytes), ("max_events", max_events)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: must be an integer of at least 1, got {value!r}")
        if rate is not None and not (isinstance(rate, (int, float)) and 0 < rate < math.inf):
            raise ValueError(f"rate: must be a finite number greater than 0, got {rate!r}")
        self._stream = stream
        self._authorize = authorize
        self._max_bytes = max_bytes
        self._max_events = max_events
        self._rate = rate
        self._origins = http.listed_origins(allow_origins)
        self._clock = clock
        self._busy_until = -math.inf  # when the accepted events would have arrived at the rate
        self._router = Router(default=http.allow_cross_origin(self._respond, self._origins, ("POST",)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._router(scope, receive, send)

    async def aclose(self) -> None:
        """Do nothing: the application holds no resources."""

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"events are posted over HTTP, not over {scope['type']}")
        try:
            response = await self._post(Request(scope, receive))
        except HTTPException as refusal:
            response = http.JsonResponse({"error": refusal.detail}, refusal.status_code, refusal.headers)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _post(self, request: Request) -> http.JsonResponse:
        if request.method != "POST":
            raise HTTPException(405, f"{request.method} is not allowed; use POST", {"allow": "POST"})
        if http.is_cross_origin(request.headers, self._origins):  # CORS would only hide the response
            raise HTTPException(403, "pages of this origin may not post events; see allow_origins")
        allowed = await http.authorized_topics(self._authorize, request.scope)
        body = await http.read_body(request, self._max_bytes)
        try:
            values = list(_parse(body, request.headers.get("content-type", ""), self._max_events))
        except _InvalidError as error:
            raise HTTPException(400, str(error)) from None
        if len(values) > self._max_events:
            raise HTTPException(413, f"too many events: at most {self._max_events} are accepted in a body")
        wait = self._reserve(len(values))
        if wait > 0:
            message = f"too many events: at most {self._rate:g} per second are accepted; none was published"
            raise HTTPException(429, message, {"retry-after": str(math.ceil(wait))})
        return await self._publish(values, allowed)

    async def _publish(self, values: list[Any], allowed: http.AllowedTopics) -> http.JsonResponse:
        ids: list[str] = []
        errors: list[dict[str, Any]] = []
        for index, value in enumerate(values):
            try:
                event = _event(value, allowed)
                await self._stream.publish(event)
            except (EventDecodeError, TopicError, _InvalidError) as error:
                errors.append({"index": index, "error": str(error)})
            except Exception as error:  # noqa: BLE001 - any stream may fail in its own way
                reason = "the stream is closed"
                if not isinstance(error, StreamClosedError):
                    reason = "an event could not be published"
                    _log.warning("publish", "publishing failed: %s", type(error).__name__, error=error)
                content = {"ids": ids, "errors": errors, "error": f"{reason}; try again later"}
                return http.JsonResponse(content, 503, {"retry-after": "5"})
            else:
                ids.append(event.id)
        return http.JsonResponse({"ids": ids, "errors": errors}, 202 if ids or not errors else 400)

    def _reserve(self, count: int) -> float:
        """Reserve capacity for some events and return 0, or return the seconds until there is capacity."""
        if self._rate is None:
            return 0.0
        now = self._clock.monotonic()
        busy_until = max(self._busy_until, now)
        if busy_until - now >= _BURST:
            return busy_until - now - _BURST + 1 / self._rate
        self._busy_until = busy_until + count / self._rate
        return 0.0


event_ingest = EventIngestApp


class _InvalidError(Exception):
    """A body or an event is invalid."""


def _parse(body: bytes, content_type: str, max_events: int) -> Iterator[Any]:
    """Yield the values in a body, and an error for each line that is not JSON."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _InvalidError(f"the body is not valid UTF-8, at byte {error.start}") from None
    if content_type.partition(";")[0].strip().lower() not in {"application/x-ndjson", "application/jsonl"}:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            if "\n" not in text.strip():
                raise _InvalidError(f"the body is not valid JSON: {error}") from None
        else:
            yield from value if isinstance(value, list) else [value]
            return
    for count, line in enumerate((line for line in text.split("\n") if line.strip()), start=1):
        if count > max_events + 1:
            return
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            yield _InvalidError(f"not valid JSON: {error}")


def _event(value: Any, allowed: http.AllowedTopics) -> Event:
    if isinstance(value, _InvalidError):
        raise value
    event = Event.from_dict(value)
    if not allowed.allow(event.topic):
        raise _InvalidError(f"topic: not authorized to publish to {event.topic!r}")
    return event
