"""`EventSource`: reads streams of other servers, with interruptions and misbehaving servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from codomyrmex.integrations.web import sse_client
from codomyrmex.integrations.web.sse_client import EventSource, RefusedError
from codomyrmex.streaming import Event, EventType, create_event
from codomyrmex.streaming.encoding import to_json
from helpers import in_time

OPEN = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
SOON = b"retry: 1\n"  # keeps the tests fast

Handler = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers each connection with the next of some responses, and records the requests."""

    def __init__(self, *answers: bytes, stays: bool = False) -> None:
        self.requests: list[bytes] = []
        self.url = ""
        self._answers = list(answers)
        self._stays = stays  # the connection stays open after the last response
        self._writers: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self._answers.pop(0) if self._answers else OPEN)
        await writer.drain()
        if self._answers or not self._stays:
            writer.close()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def serving(*answers: bytes, stays: bool = False) -> AsyncIterator[Server]:
    server = Server(*answers, stays=stays)
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/events?key=t0ps3cr3t"
    try:
        yield server
    finally:
        listening.close()
        server.close()
        await listening.wait_closed()


def frame(data: str, *, id: str = "", event: str = "message") -> bytes:
    lines = [f"id: {id}"] * bool(id) + [f"event: {event}", f"data: {data}"]
    return SOON + "\n".join([*lines, "", ""]).encode()


async def first(source: EventSource, count: int) -> list[Event]:
    found: list[Event] = []
    async with source, aclosing(source.events()) as events:
        async for event in events:
            found.append(event)
            if len(found) == count:
                break
    return found


async def refusal_of(answer: bytes, **options: Any) -> str:
    async with serving(answer) as server:
        with pytest.raises(RefusedError) as caught:
            await first(EventSource(server.url, **options), 1)
    assert "t0ps3cr3t" not in str(caught.value)
    return str(caught.value)


def answer(status: str, body: str = "", kind: str = "text/plain") -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"Connection: close\r\n\r\n{body}"
    ).encode()


@in_time
async def test_whole_events_are_read_as_they_were_published():
    event = create_event({"order": 42}, EventType.ERROR, topic="orders")
    wire = (
        f"id: {event.id}\nevent: error\ndata: {sse_client.msgspec.json.encode(event.to_dict()).decode()}\n\n"
    )
    async with serving(OPEN + wire.encode(), stays=True) as server:
        assert await first(EventSource(server.url), 1) == [event]


@in_time
async def test_payloads_and_plain_text_become_events_too():
    body = frame('{"a": 1}', id="1") + frame("plain", event="tick") + frame("[2]", id="3", event="error")
    async with serving(OPEN + body, stays=True) as server:
        one, two, three = await first(EventSource(server.url), 3)
    assert (one.id, one.data, one.type, one.metadata) == ("1", {"a": 1}, EventType.MESSAGE, {})
    assert (two.data, two.type, two.metadata) == ("plain", EventType.MESSAGE, {"event": "tick"})
    assert (three.id, three.data, three.type) == ("3", [2], EventType.ERROR)
    assert two.id not in {"1", "3"}  # not the id of the previous event


@in_time
async def test_it_requests_a_topic_with_its_token_and_reports_no_secret():
    statuses: list[Any] = []
    async with serving(OPEN + frame("1"), stays=True) as server:
        source = EventSource(
            server.url, topic="a.*", token=" tökén\n", on_status=lambda *each: statuses.append(each)
        )
        await first(source, 1)
    assert b"GET /events?key=t0ps3cr3t&topic=a." in server.requests[0]
    assert "authorization: bearer tökén\r\n" in server.requests[0].decode().lower()
    assert statuses == [("connected", {})]


@in_time
async def test_after_an_interruption_it_resumes_after_the_last_event():
    statuses: list[str] = []
    async with serving(
        OPEN + frame("1", id="æ1"),
        OPEN + frame("2", id="b2") + b"id: c3\ndata: cut off",
        OPEN + frame("3", id="c3"),
        stays=True,
    ) as server:
        source = EventSource(server.url, on_status=lambda status, _: statuses.append(status))
        events = await first(source, 3)
    assert [event.data for event in events] == [1, 2, 3]
    assert b"last-event-id" not in server.requests[0].lower()
    assert "last-event-id: æ1\r\n" in server.requests[1].decode().lower()
    assert b"last-event-id: b2\r\n" in server.requests[2].lower()  # the incomplete event was not read
    assert statuses == ["connected", "lost", "connected", "lost", "connected"]
    assert source.last_event_id == "c3"


@in_time
async def test_it_resumes_from_a_given_id():
    async with serving(OPEN + frame("1"), stays=True) as server:
        await first(EventSource(server.url, last_event_id="x9"), 1)
    assert b"last-event-id: x9\r\n" in server.requests[0].lower()


@in_time
async def test_events_that_the_server_no_longer_has_are_reported():
    statuses: list[Any] = []
    connect = frame('{"resumed": false, "requested": "a1", "first_available": "b1"}', event="connect")
    async with serving(OPEN + connect + frame("2", id="b1"), stays=True) as server:
        source = EventSource(server.url, last_event_id="a1", on_status=lambda *each: statuses.append(each))
        await first(source, 1)
    assert statuses[-1][0] == "missed"
    assert statuses[-1][1]["first_available"] == "b1"


@pytest.mark.parametrize(
    ("event", "data"),
    [
        ("connect", '{"resumed": true, "replayed": 3}'),
        ("connect", '{"resumed": false, "replayed": 0}'),
        ("disconnect", '{"reason": "shutdown"}'),
        ("heartbeat", "null"),
    ],
)
@in_time
async def test_other_notices_are_neither_reported_nor_events(event: str, data: str):
    statuses: list[str] = []
    async with serving(OPEN + frame(data, event=event) + frame("1"), stays=True) as server:
        source = EventSource(server.url, on_status=lambda status, _: statuses.append(status))
        [found] = await first(source, 1)
    assert found.data == 1
    assert statuses == ["connected"]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        ("message", '{"type": "user.created", "data": {}, "metadata": {}}'),
        ("message", '{"id": "other", "type": "message", "data": 1, "metadata": {}, "timestamp": "x"}'),
        ("connect", '{"user": "ann"}'),
        ("connect", "no json"),
        ("disconnect", "{}"),
        ("heartbeat", "{}"),
        ("connect", "[]"),
    ],
)
@in_time
async def test_a_payload_that_looks_like_something_else_is_a_payload(event: str, data: str):
    async with serving(OPEN + frame(data, id="1", event=event), stays=True) as server:
        [found] = await first(EventSource(server.url), 1)
    assert found.id == "1"
    assert found.data == (data if data == "no json" else sse_client.msgspec.json.decode(data))


@pytest.mark.parametrize("last_id", [" a", "a ", "a\tb", "\x01", "x" * 2_000])
@in_time
async def test_an_id_that_no_header_can_carry_is_left_out_and_reported(last_id: str):
    statuses: list[Any] = []
    source_of = {"on_status": lambda *each: statuses.append(each)}
    body = OPEN + frame("1", id=f" {last_id}" if last_id.startswith(" ") else last_id)
    async with serving(body, OPEN + frame("2"), stays=True) as server:
        events = await first(EventSource(server.url, **source_of), 2)
    assert [event.data for event in events] == [1, 2]
    assert b"last-event-id" not in server.requests[1].lower()
    [missed] = [details for status, details in statuses if status == "missed"]
    assert missed["requested"].startswith(last_id[0] if last_id[0].isprintable() else "\\x01")


@in_time
async def test_what_another_server_sends_is_cleaned():
    sent = Event(id=" x", data=1, metadata={"codomyrmex.origin": "logs", "topic": "a"}).to_dict()
    body = frame(sse_client.msgspec.json.encode(sent).decode(), id=" x")
    async with serving(OPEN + body, stays=True) as server:
        [event] = await first(EventSource(server.url), 1)
    assert event.metadata == {"topic": "a", "original_id": "' x'"}
    assert (event.data, len(event.id)) == (1, 36)


class Waits:
    """Records the delays of reconnects, and ends them at once."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, status: str, details: Any) -> None:
        if status == "lost":
            self.seconds.append(details["seconds"])


@pytest.fixture
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = asyncio.sleep
    monkeypatch.setattr(sse_client.asyncio, "sleep", lambda _: sleep(0))


@in_time
async def test_a_retry_time_without_an_event_counts(no_sleep: None):
    waits = Waits()
    async with serving(OPEN + b"retry: 20000\n\n", OPEN + frame("1"), stays=True) as server:
        await first(EventSource(server.url, on_status=waits), 1)
    assert 15 <= waits.seconds[0] <= 25


@in_time
async def test_an_id_without_an_event_counts(no_sleep: None):
    async with serving(OPEN + b"id: 7\nretry: 1\n\n", OPEN + frame("1"), stays=True) as server:
        await first(EventSource(server.url), 1)
    assert b"last-event-id: 7\r\n" in server.requests[1].lower()


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("20", 20, 20),
        ("0", 0, 2),
        ("99999999999999999999999", 3_600, 3_600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3_600, 3_600),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0, 2),
        ("soon", 0, 2),
        ("-5", 0, 2),
        ("", 0, 2),
    ],
)
@in_time
async def test_it_waits_as_long_as_a_busy_server_asks_within_reason(
    no_sleep: None, header: str, least: float, most: float
):
    waits = Waits()
    busy = f"HTTP/1.1 503 Busy\r\nRetry-After: {header}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with serving(busy.encode(), OPEN + frame("1"), stays=True) as server:
        await first(EventSource(server.url, on_status=waits), 1)
    assert least <= waits.seconds[0] <= most


@in_time
async def test_an_event_that_cannot_be_decoded_is_counted_and_skipped():
    wrong = '{"id": "1", "type": "message", "data": 1, "metadata": [], "timestamp": "2026-01-01T00:00:00Z"}'
    deep = "[" * 100_000
    async with serving(OPEN + frame(wrong, id="1") + frame(deep) + frame("2"), stays=True) as server:
        source = EventSource(server.url)
        events = await first(source, 2)
    assert source.invalid == 1
    assert [event.data for event in events] == [deep, 2]


@pytest.mark.parametrize("status", ["204 No Content", "401 Unauthorized", "403 Forbidden", "404 Not Found"])
@in_time
async def test_a_refusal_is_not_retried(status):
    if status.startswith("204"):
        message = await refusal_of(answer(status))
    else:
        message = await refusal_of(answer(status, "because I say so"), token="t0ps3cr3t")
        assert message.endswith("because I say so")
    assert message.startswith(f"the server answered {status[:3]}: ")


@in_time
async def test_other_content_types_are_refused():
    page = answer("200 OK", "<html>", "text/html; charset=utf-8")
    assert await refusal_of(page) == "the server answered with text/html instead of text/event-stream"


@in_time
async def test_the_size_of_events_is_limited(monkeypatch):
    monkeypatch.setattr(sse_client, "MAX_EVENT_BYTES", 1000)
    async with serving(OPEN + frame("1", id="a") + frame("x" * 5000), stays=True) as server:
        source = EventSource(server.url)
        with pytest.raises(RefusedError, match="an event of more than 1,000 bytes"):
            await first(source, 2)
    assert source.last_event_id == "a"  # earlier events were read


@in_time
async def test_failures_are_retried_with_growing_delays(monkeypatch):
    waits: list[float] = []
    sleep = asyncio.sleep

    async def at_once(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    answers = [answer("503 Service Unavailable"), b"garbage\r\n\r\n", b"", OPEN + frame("1")]
    async with serving(*answers, stays=True) as server:
        statuses: list[Any] = []
        source = EventSource(server.url, on_status=lambda *each: statuses.append(each))
        monkeypatch.setattr(sse_client.asyncio, "sleep", at_once)
        [event] = await first(source, 1)
        monkeypatch.undo()
    assert event.data == 1
    assert [round(wait / limit) for wait, limit in zip(waits, (1, 2, 4), strict=True)] == [1, 1, 1]
    assert statuses[0][1]["why"] == "HTTPStatusError"
    assert "t0ps3cr3t" not in str(statuses)


@in_time
async def test_a_server_cannot_request_reconnects_without_a_delay(monkeypatch):
    statuses: list[Any] = []
    async with serving(OPEN + b"retry: 0\ndata: 1\n\n", OPEN + frame("2"), stays=True) as server:
        await first(EventSource(server.url, on_status=lambda *each: statuses.append(each)), 2)
    assert statuses[1][0] == "lost"
    assert statuses[1][1]["seconds"] >= 0.03


@in_time
async def test_a_silent_connection_counts_as_lost():
    async with serving(OPEN + frame("1"), stays=True) as server:
        statuses: list[str] = []
        source = EventSource(
            server.url, timeout=0.05, on_status=lambda _, details: statuses.append(details.get("why", ""))
        )
        async with source, aclosing(source.events()) as events:
            await anext(events)
            waiting = asyncio.ensure_future(anext(events))
            while not any(statuses):
                await asyncio.sleep(0.005)
            waiting.cancel()
            await asyncio.wait({waiting})
    assert "ReadTimeout" in statuses


@pytest.mark.parametrize(
    "url", ["", "nonsense", "ftp://a/", "http://", "http://[", "http://a:99999/", "/path"]
)
def test_other_urls_than_http_are_rejected_and_not_shown(url):
    with pytest.raises(ValueError, match="must begin with http:// or https:// and a host") as caught:
        EventSource(url)
    assert url in {"", "http://"} or url not in str(caught.value)


@in_time
async def test_frames_of_a_durable_stream_are_events_with_their_own_ids():
    first = create_event({"order": 1}, EventType.ERROR, topic="orders.created")
    second = create_event({"order": 2})
    frames = (
        frame(to_json(first.to_dict()), id="0123abcd:7", event="error"),
        frame("null", id="0123abcd:9", event="heartbeat"),
        frame(to_json(second.to_dict()), id="0123abcd:10"),
    )
    async with serving(OPEN + frames[0] + frames[1], OPEN + frames[2], stays=True) as server:
        source = EventSource(server.url)
        async with source, aclosing(source.events()) as events:
            assert [await anext(events), await anext(events)] == [first, second]
    assert b"Last-Event-ID: 0123abcd:9" in server.requests[1]
