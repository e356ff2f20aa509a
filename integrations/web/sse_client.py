"""`EventSource`: the events of another server, read as server-sent events with automatic reconnects."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.configuration.durations import check_seconds
from codomyrmex.streaming import (
    Event,
    EventDecodeError,
    EventType,
    SSEDecodeError,
    SSEDecoder,
    SSERecord,
    TopicError,
)
from codomyrmex.streaming.external import clean_id, decode_external
from codomyrmex.streaming.sse_format import wire_id

try:
    import httpx
except ImportError as error:
    raise MissingExtraError("EventSource", "httpx", "web") from error

OnStatus = Callable[[str, Mapping[str, Any]], None]

MAX_EVENT_BYTES = 1 << 24
_PERMANENT = frozenset({204, 400, 401, 403, 404, 405, 406, 410})  # statuses that a retry would not change
_TYPES = frozenset(EventType)
_MIN_RETRY = 0.05  # seconds
_MAX_DELAY = 30.0
_MAX_RETRY_AFTER = 3_600.0
_EVENT_KEYS = frozenset({"id", "type", "data", "metadata", "timestamp"})
_NOTICES = {  # the keys of the data of a server's own notices
    "connect": ({"resumed", "replayed"}, {"resumed", "requested", "first_available"}),
    "disconnect": ({"reason"},),
}
_HEADER_ID = re.compile(r"[!-~\x80-\U0010ffff](?:[ -~\x80-\U0010ffff]*[!-~\x80-\U0010ffff])?")
_CURSOR = re.compile(r"[0-9A-Za-z-]+:[0-9]+")  # the id of a frame of a durable stream
_MAX_HEADER_ID = 1_000  # bytes; longer headers are refused by some servers


class RefusedError(Exception):
    """The server refuses the client; a retry would not help."""


class EventSource:
    """Reads the events of a server; reconnects after interruptions with the id of the last event.

    Args:
        url: the URL of the stream. It never appears in errors, because it can hold a secret.
        topic: a topic or pattern; only matching events are requested.
        token: a token for `Authorization: Bearer`.
        last_event_id: the id of the event to resume after.
        timeout: seconds without data, heartbeats included, after which the connection counts as lost.
        on_status: called with each change of the connection and its details: `connected`; `missed` if the
            server no longer has all missed events, or the id of the last one does not fit into a header;
            `lost` with the reason (`why`) and the delay in `seconds`.

    Attributes:
        last_event_id: the id of the last event.
        invalid: the number of events that could not be decoded and were skipped.

    Raises:
        ValueError: the URL is not an HTTP URL.
    """

    def __init__(
        self,
        url: str,
        *,
        topic: str | None = None,
        token: str | None = None,
        last_event_id: str | None = None,
        timeout: float = 45.0,
        on_status: OnStatus | None = None,
    ) -> None:
        check_seconds("timeout", timeout, finite=True)
        try:
            address = httpx.URL(url)
            _ = urlsplit(url).port  # stricter than httpx: checks brackets and the range of the port
        except (httpx.InvalidURL, ValueError):
            address = httpx.URL()
        if address.scheme not in {"http", "https"} or not address.host:
            problem = "must begin with http:// or https:// and a host; a port is at most 65535"
            raise ValueError(f"url: {problem}")
        self.last_event_id = last_event_id or ""
        self.invalid = 0
        self._url = address if topic is None else address.copy_merge_params({"topic": topic})
        self._headers = {b"Accept": b"text/event-stream", b"Cache-Control": b"no-store"}
        if token is not None:
            self._headers[b"Authorization"] = f"Bearer {token.strip()}".encode()
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(10.0, read=timeout), follow_redirects=True)
        self._on_status = on_status or (lambda _status, _details: None)
        self._retry = 1.0
        self._failures = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.aclose()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield events until the caller stops.

        Raises:
            RefusedError: the server refuses the client, for example because the token is wrong.
        """
        while True:
            at_least = 0.0
            try:
                async for record in self._records():
                    event = self._event(record)
                    if event is not None:
                        yield event
                why = "the server has closed the stream"
            except (httpx.HTTPError, OSError) as error:
                why = type(error).__name__  # the message may hold the URL
                if isinstance(error, httpx.HTTPStatusError):
                    at_least = _retry_after(error.response)
            self._failures += 1
            delay = min(self._retry * 2.0 ** min(self._failures - 1, 5), _MAX_DELAY)
            delay = max(delay * (0.75 + random.random() / 2), at_least)  # noqa: S311 - not a secret
            self._on_status("lost", {"why": why, "seconds": delay})
            await asyncio.sleep(delay)

    async def _records(self) -> AsyncIterator[SSERecord]:
        async with self._client.stream("GET", self._url, headers=self._request_headers()) as response:
            if response.status_code in _PERMANENT:
                text = (await response.aread()).decode("utf-8", "replace")[:200].strip()
                raise RefusedError(f"the server answered {response.status_code}: {text or 'no reason given'}")
            response.raise_for_status()
            content_type = response.headers.get("content-type", "")
            if not content_type.startswith("text/event-stream"):
                name = content_type.partition(";")[0] or "no content type"
                raise RefusedError(f"the server answered with {name} instead of text/event-stream")
            decoder = SSEDecoder(MAX_EVENT_BYTES)
            self._on_status("connected", {})
            async for chunk in response.aiter_bytes():
                too_large = False
                try:
                    records = decoder.feed(chunk)
                except SSEDecodeError as error:
                    records, too_large = error.records, True
                if decoder.retry is not None:
                    self._retry = max(decoder.retry / 1000, _MIN_RETRY)
                for record in records:
                    self._failures = 0
                    yield record
                if decoder.last_event_id:  # also of a frame without data
                    self.last_event_id = decoder.last_event_id
                if too_large:  # after a reconnect the server would send it again
                    raise RefusedError(f"the server sent an event of more than {MAX_EVENT_BYTES:,} bytes")

    def _request_headers(self) -> dict[bytes, bytes]:
        headers = dict(self._headers)
        if self.last_event_id:
            last_id = self.last_event_id.encode(errors="replace")
            if _HEADER_ID.fullmatch(self.last_event_id) and len(last_id) <= _MAX_HEADER_ID:
                headers[b"Last-Event-ID"] = last_id
            else:  # sending it would fail, at each attempt
                requested = ascii(self.last_event_id)[1:-1][:_MAX_HEADER_ID]
                self._on_status("missed", {"requested": requested, "first_available": None})
        return headers

    def _event(self, record: SSERecord) -> Event | None:
        """Return the event of a record, which holds a whole event or a payload; None for notices."""
        has_own_id = record.id not in {
            "",
            self.last_event_id,
        }  # records without an id repeat the previous one
        if has_own_id:
            self.last_event_id = record.id
        try:
            value = msgspec.json.decode(record.data)
        except (msgspec.DecodeError, RecursionError):
            value = record.data  # plain text
        keys = value.keys() if isinstance(value, dict) else frozenset()
        if keys in _NOTICES.get(record.event, ()):
            if value.get("resumed") is False and value.get("requested"):
                self._on_status("missed", value)
            return None
        is_event = keys == _EVENT_KEYS and value["type"] == record.event
        if is_event and (record.id == wire_id(str(value["id"])) or _CURSOR.fullmatch(record.id)):
            try:
                return decode_external(value)
            except (EventDecodeError, TopicError):
                self.invalid += 1
                return None
        if record.event == "heartbeat" and value is None:
            return None
        is_type = record.event in _TYPES
        event_type = EventType(record.event) if is_type else EventType.MESSAGE
        event = Event(type=event_type, data=value, metadata={} if is_type else {"event": record.event})
        return event.replace(id=clean_id(record.id)) if has_own_id else event


def _retry_after(response: httpx.Response) -> float:
    """Return the seconds of a `Retry-After` header, or 0 if there is none (RFC 9110, section 10.2.3)."""
    text = response.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:20]), _MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(text)
        seconds = (moment - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError, IndexError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)
