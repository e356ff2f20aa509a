"""`EventSource`: the events of another server, over server-sent events; connects again after a break."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.seconds import check_seconds
from codomyrmex.streaming import Event, EventDecodeError, EventType, SSEDecodeError, SSEDecoder, SSERecord

try:
    import httpx
except ImportError as error:
    raise MissingExtraError("reading another server", "httpx", "web") from error

Told = Callable[[str, Mapping[str, Any]], None]

_NO_SUCH = frozenset({204, 400, 401, 403, 404, 405, 406, 410})  # to ask again would not help
_TYPES = frozenset(EventType)
_MAX_EVENT = 1 << 24  # bytes
_SHORTEST = 0.05  # seconds before the next attempt, whatever a server asks for


class RefusedError(Exception):
    """The server does not want to be read; to ask again would not help."""


class EventSource:
    """Reads the events of a server, and connects again after a break with the id of the last one.

    Args:
        url: of the stream. It is not shown, as it may hold a secret.
        topic: only these, a topic or a pattern.
        token: for `Authorization: Bearer`.
        last_event_id: where to go on from.
        timeout: seconds of silence, heartbeats included, after which the connection counts as dead.
        tell: gets what happens to the connection: `connected`, `missed`, `lost`, with details.

    Attributes:
        last_event_id: the id of the last event that was read.
        invalid: events that could not be read; each is left out.

    Raises:
        ValueError: the URL is not one of HTTP.
    """

    def __init__(
        self,
        url: str,
        *,
        topic: str | None = None,
        token: str | None = None,
        last_event_id: str | None = None,
        timeout: float = 45.0,
        tell: Told | None = None,
    ) -> None:
        check_seconds("timeout", timeout, finite=True)
        try:
            address = httpx.URL(url)
            _ = urlsplit(url).port  # more is seen to than httpx does: brackets, the number of the port
        except (httpx.InvalidURL, ValueError):
            address = httpx.URL()
        if address.scheme not in {"http", "https"} or not address.host:
            raise ValueError("the URL of an event stream begins with http:// or https:// and a host")
        self.last_event_id = last_event_id or ""
        self.invalid = 0
        self._url = address if topic is None else address.copy_merge_params({"topic": topic})
        self._headers = {b"Accept": b"text/event-stream", b"Cache-Control": b"no-store"}
        if token is not None:
            self._headers[b"Authorization"] = f"Bearer {token.strip()}".encode()
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(10.0, read=timeout), follow_redirects=True)
        self._tell = tell or (lambda _what, _details: None)
        self._retry = 1.0
        self._failures = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Give events as long as anyone wants them.

        Raises:
            RefusedError: the server does not want to be read, as with a wrong token.
        """
        while True:
            try:
                async for record in self._records():
                    event = self._event(record)
                    if event is not None:
                        yield event
                why = "the server has ended the stream"
            except (httpx.HTTPError, OSError) as error:
                why = type(error).__name__  # its message may hold the URL
            self._failures += 1
            wait = min(self._retry * 2.0 ** min(self._failures - 1, 5), 30.0) * (0.75 + random.random() / 2)  # noqa: S311 - no secret
            self._tell("lost", {"why": why, "seconds": wait})
            await asyncio.sleep(wait)

    async def _records(self) -> AsyncIterator[SSERecord]:
        headers = dict(self._headers)
        if self.last_event_id:
            headers[b"Last-Event-ID"] = self.last_event_id.encode()
        async with self._client.stream("GET", self._url, headers=headers) as answer:
            if answer.status_code in _NO_SUCH:
                text = (await answer.aread()).decode("utf-8", "replace")[:200].strip()
                raise RefusedError(f"the server answers {answer.status_code}: {text or 'no reason given'}")
            answer.raise_for_status()
            kind = answer.headers.get("content-type", "")
            if not kind.startswith("text/event-stream"):
                raise RefusedError(
                    f"the server gives {kind.partition(';')[0] or 'something'}, not text/event-stream"
                )
            decoder = SSEDecoder(_MAX_EVENT)
            self._tell("connected", {})
            async for chunk in answer.aiter_bytes():
                too_large: SSEDecodeError | None = None
                try:
                    records = decoder.feed(chunk)
                except SSEDecodeError as error:
                    records, too_large = error.records, error
                for record in records:
                    self._failures = 0
                    if record.retry is not None:
                        self._retry = max(record.retry / 1000, _SHORTEST)
                    yield record
                if too_large is not None:  # to connect again would only bring it again
                    raise RefusedError(f"the server sends an event of more than {_MAX_EVENT:,} bytes")

    def _event(self, record: SSERecord) -> Event | None:
        """Give the event of a record, a whole one or one made of a payload; None for what the wire needs."""
        new = record.id not in {"", self.last_event_id}  # an event without an id has that of the one before
        if new:
            self.last_event_id = record.id
        if record.event in {"connect", "disconnect", "heartbeat"} and not _is_event(record):
            self._note(record)
            return None
        try:
            value = msgspec.json.decode(record.data)
        except (msgspec.DecodeError, RecursionError):
            value = record.data  # a stream of plain text
        try:
            if isinstance(value, dict) and {"type", "data", "metadata"} <= value.keys():
                return Event.from_dict(value)
        except EventDecodeError:
            self.invalid += 1
            return None
        kind = EventType(record.event) if record.event in _TYPES else EventType.MESSAGE
        named = {} if record.event in _TYPES else {"event": record.event}
        return Event(record.id, kind, value, named) if new else Event(type=kind, data=value, metadata=named)

    def _note(self, record: SSERecord) -> None:
        if record.event != "connect":
            return
        try:
            data = msgspec.json.decode(record.data, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            return
        if data.get("resumed") is False and data.get("requested"):
            self._tell("missed", data)


def _is_event(record: SSERecord) -> bool:
    return '"metadata"' in record.data
