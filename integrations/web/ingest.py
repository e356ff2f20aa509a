"""`event_ingest`: an ASGI application that publishes the events that are posted to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from operator import itemgetter
from typing import Any

from codomyrmex.integrations.configuration.durations import check_seconds
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.durable import DurableStream, EventTooLargeError, StoreUnavailableError
from codomyrmex.integrations.web import http
from codomyrmex.integrations.web.alert_webhook import alerts_of, event_of
from codomyrmex.integrations.web.gates import SiteGate
from codomyrmex.integrations.web.sender_rates import SenderRates, sender_of
from codomyrmex.streaming import Clock, Event, EventDecodeError, Stream, StreamClosedError, TopicError
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from codomyrmex.streaming.external import decode_external
from codomyrmex.streaming.topics import check_topic
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

_MAX_BODIES = 32  # of the maximum size, in memory at once
_VALUE_BYTES = 64  # about what a value takes in memory, in addition to its JSON

_JSON = json.JSONDecoder()
_SPACE = " \t\n\r"
_BEFORE_JSON = b"\xef\xbb\xbf \t\n\r"
_log = Diagnostics(__name__)


class EventIngestApp:
    """An ASGI application that publishes the events that are posted to it.

    Clients send `POST /` with one event as JSON, an array of events, or JSON lines (`application/x-ndjson`).
    Events have the fields of `Event.from_dict`; an event without an id gets one. If the body is a webhook of
    Alertmanager (version 4) or Grafana, each of its alerts becomes an event. The response has status 202,
    the ids in order and, for each invalid event, its index and the problem. Valid events are published even
    if others are invalid; if all are invalid, the status is 400. What is cleaned on the way in is described
    in `decode_external`. Status 202 means that the events were published: every handler and queue of the
    stream has them, and no more than that. Those of a durable stream are in its store.

    With status 503, the events in `ids` were published, and the others can be posted again. If the store of a
    durable stream did not answer in time, some of the others may be stored all the same; the events that the
    client has given ids can be recognised by them.

    Args:
        stream: the stream to publish to.
        authorize: a plain or async function that is called with the ASGI scope and returns the topics that
            may be published to: one or several patterns, or None for none.
        max_bytes: the size limit of a body; larger ones are refused with 413.
        max_events: the limit of events in a body; more are refused with 413.
        max_event_bytes: the limit of the memory that an event takes, estimated as its JSON and 64 bytes for
            each value in it; by default a quarter of `max_bytes`, and at least 64 KiB.
        rate: events per second from each sender: an address and, if there is one, a token. Bursts of one
            second are accepted. A body with more events than can be accepted at the moment is refused as a
            whole, with 429 and `Retry-After`, or with 413 if it has more than a burst. None: no limit.
        total_rate: events per second from all senders; by default ten times `rate`.
        alert_topic: the topic of events for the alerts of webhooks.
        alerts_only: whether to refuse all bodies except webhooks.
        body_timeout: seconds for a body to arrive; then it is refused with 408.
        allow_origins: other origins whose pages can post (CORS); `"*"` allows any.
        allowed_hosts: the names that requests may have in their `Host` header; `"*"` allows any. By default
            those of this machine, or any if `authorize` is passed, a gate of `serve` has checked them, or
            every origin is allowed.
        clock: the clock; tests pass a `FakeClock`.

    Attributes:
        allow_origins: the other origins.

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
        max_event_bytes: int | None = None,
        rate: float | None = None,
        total_rate: float | None = None,
        alert_topic: str = "alerts",
        alerts_only: bool = False,
        body_timeout: float = 60.0,
        allow_origins: Iterable[str] = (),
        allowed_hosts: Iterable[str] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not isinstance(stream, Stream):
            raise TypeError(f"stream: must be a Stream, got {type(stream).__name__}")
        if max_event_bytes is None and isinstance(max_bytes, int):
            max_event_bytes = max(max_bytes // 4, 65_536)
        limits = {"max_bytes": max_bytes, "max_events": max_events, "max_event_bytes": max_event_bytes}
        for name, value in limits.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: must be an integer of at least 1, got {value!r}")
        check_topic(alert_topic)
        check_seconds("body_timeout", body_timeout, finite=True)
        self._stream = stream
        self._authorize = authorize
        self._max_events = max_events
        self._alert_topic, self._alerts_only = alert_topic, alerts_only
        self._max_event_bytes: Any = max_event_bytes
        self._bodies = http.BodyReader(max_bytes, body_timeout, _MAX_BODIES, clock)
        self._rates = SenderRates(rate, total_rate, clock)
        self._gate = SiteGate(allowed_hosts, allow_origins, authorized=authorize is not None)
        self.allow_origins = tuple(self._gate.origins)
        self._router = Router(default=http.allow_cross_origin(self._respond, self.allow_origins, ("POST",)))

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
        self._gate.check(request)  # CORS would only hide the response
        allowed = await http.authorized_topics(self._authorize, request.scope)
        sender = sender_of(request, with_token=self._authorize is not None)
        self._rates.check(sender)
        async with self._bodies.reading(request) as body:
            content_type = request.headers.get("content-type", "")
            try:
                items = self._webhook(body)
                if items is None:
                    items = _parse(body, content_type, self._max_events, self._max_event_bytes)
            except _InvalidError as error:
                raise HTTPException(400, str(error)) from None
            if len(items) > self._max_events:
                raise HTTPException(
                    413, f"too many events: at most {self._max_events} are accepted in a body"
                )
            self._rates.reserve(sender, len(items))
            return await self._publish(items, allowed)

    def _webhook(self, body: bytes) -> list[Any] | None:
        """Return the alerts of a webhook as mappings, or errors; None if the body is something else."""
        alerts = None
        if body[:100].lstrip(_BEFORE_JSON).startswith(b"{") and b'"alerts"' in body:  # an array may be large
            with suppress(ValueError, RecursionError):
                alerts = alerts_of(json.loads(body))
        if alerts is None:
            if self._alerts_only:
                raise _InvalidError("the body must be a webhook of Alertmanager or Grafana")
            return None
        return [self._alert(alert) for alert in alerts[: self._max_events + 1]]

    def _alert(self, alert: Any) -> Any:
        try:
            event = event_of(alert, self._alert_topic)
            text = json.dumps(event)
        except (EventDecodeError, RecursionError) as error:
            return _InvalidError(str(error))
        return _checked(event, text, 0, len(text), self._max_event_bytes)

    async def _publish(self, values: list[Any], allowed: http.AllowedTopics) -> http.JsonResponse:
        ids: list[str] = []
        errors: list[dict[str, Any]] = []
        events: dict[int, Event] = {}
        for index, value in enumerate(values):
            try:
                events[index] = _event(value, allowed)
            except (EventDecodeError, TopicError, _InvalidError) as error:
                errors.append({"index": index, "error": str(error)})
        refusal = None
        outcomes = await self._publish_events(list(events.values()))
        for (index, event), outcome in zip(events.items(), outcomes, strict=False):
            if outcome is None:
                ids.append(event.id)
            elif isinstance(outcome, TopicError | EventTooLargeError):
                errors.append({"index": index, "error": str(outcome)})
            else:
                refusal = refusal or _refusal(outcome)
        too_large = sum(isinstance(outcome, EventTooLargeError) for outcome in outcomes)
        content: dict[str, Any] = {"ids": ids, "errors": sorted(errors, key=itemgetter("index"))}
        if refusal is not None:
            return http.JsonResponse({**content, "error": refusal}, 503, {"retry-after": "5"})
        status = 202 if ids or not errors else 413 if too_large == len(errors) else 400
        return http.JsonResponse(content, status)

    async def _publish_events(self, events: list[Event]) -> list[BaseException | None]:
        """Publish events up to the first failure; return the error of each, None for those published."""
        if isinstance(self._stream, DurableStream):  # all at once, so that they are stored together
            return await asyncio.gather(*map(self._stream.publish, events), return_exceptions=True)
        outcomes: list[BaseException | None] = []
        for event in events:
            try:
                await self._stream.publish(event)
            except Exception as error:  # noqa: BLE001 - any stream may fail in its own way
                outcomes.append(error)
                if not isinstance(error, TopicError | EventTooLargeError):
                    break
            else:
                outcomes.append(None)
        return outcomes


event_ingest = EventIngestApp


class _InvalidError(Exception):
    """A body or an event is invalid."""


def _parse(body: bytes, content_type: str, max_events: int, max_event_bytes: int) -> list[Any]:
    """Return the values in a body, with an error in place of each that is invalid.

    At most `max_events + 1` values are decoded, because `[{},{},...]` takes 30 times its length in memory.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _InvalidError(f"the body is not valid UTF-8, at byte {error.start}") from None
    lines = content_type.partition(";")[0].strip().lower() in {"application/x-ndjson", "application/jsonl"}
    if not lines:
        try:
            return list(islice(_values(text, max_event_bytes), max_events + 1))
        except (ValueError, RecursionError) as error:
            if "\n" not in text.strip():
                raise _InvalidError(f"the body is not valid JSON: {error}") from None
    return list(islice(_lines(text, max_event_bytes), max_events + 1))


def _values(text: str, max_event_bytes: int) -> Iterator[Any]:
    """Yield the only value of a text, or the items of its array; raise a ValueError if it is not JSON."""
    begin = _skip_space(text, 0)
    if not text.startswith("[", begin):
        yield _checked(json.loads(text), text, begin, len(text), max_event_bytes)
        return
    position = _skip_space(text, begin + 1)
    more = not text.startswith("]", position)
    while more:
        value, end = _JSON.raw_decode(text, position)
        yield _checked(value, text, position, end, max_event_bytes)
        position = _skip_space(text, end)
        more = text.startswith(",", position)
        if more:
            position = _skip_space(text, position + 1)
        elif not text.startswith("]", position):
            raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
    if _skip_space(text, position + 1) != len(text):
        raise json.JSONDecodeError("Extra data", text, position + 1)


def _lines(text: str, max_event_bytes: int) -> Iterator[Any]:
    """Yield the value of each line that is not empty, or an error if it is not JSON."""
    begin = 0
    while begin < len(text):
        end = text.find("\n", begin)
        end = len(text) if end < 0 else end
        line = text[begin:end]
        begin = end + 1
        if line.strip():
            try:
                yield _checked(json.loads(line), line, 0, len(line), max_event_bytes)
            except (ValueError, RecursionError) as error:
                yield _InvalidError(f"not valid JSON: {error}")


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SPACE:
        position += 1
    return position


def _checked(value: Any, text: str, begin: int, end: int, max_event_bytes: int) -> Any:
    """Return a value, or an error if it takes too much memory."""
    if (end - begin) * (_VALUE_BYTES + 1) <= max_event_bytes:
        return value
    values = sum(text.count(character, begin, end) for character in "[{,:")
    size = end - begin + _VALUE_BYTES * values
    if size <= max_event_bytes:
        return value
    return _InvalidError(f"too large: about {size} bytes in memory, at most {max_event_bytes} are accepted")


def _event(value: Any, allowed: http.AllowedTopics) -> Event:
    if isinstance(value, _InvalidError):
        raise value
    event = decode_external(value)
    if not allowed.allow(event.topic):
        raise _InvalidError(f"topic: not authorized to publish to {event.topic!r}")
    return event


def _refusal(error: BaseException) -> str:
    """Return why events could not be published."""
    if isinstance(error, StreamClosedError):
        return "the stream is closed; try again later"
    if isinstance(error, StoreUnavailableError):
        _log.warning("store", "publishing failed: %s", error)
        return "the store of the stream is not available; try again later"
    _log.warning("publish", "publishing failed: %s", type(error).__name__, error=error)
    return "an event could not be published; try again later"
