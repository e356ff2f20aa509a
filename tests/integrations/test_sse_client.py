"""`EventSource`: reads another server's stream, over breaks and against servers that do as they like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from codomyrmex.integrations.web import sse_client
from codomyrmex.integrations.web.sse_client import EventSource, RefusedError
from codomyrmex.streaming import Event, EventType, create_event
from helpers import in_time

OPEN = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
SOON = b"retry: 1\n"  # so that no test waits long

Handler = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers each connection with the next of some bytes, and keeps what was asked."""

    def __init__(self, *answers: bytes, stays: bool = False) -> None:
        self.asked: list[bytes] = []
        self.url = ""
        self._answers = list(answers)
        self._stays = stays  # after the last answer the connection stays open
        self._writers: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
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
    assert two.id not in {"1", "3"}  # the id of the one before is not its own


@in_time
async def test_it_asks_for_a_topic_with_its_token_and_no_secret_is_told():
    told: list[Any] = []
    async with serving(OPEN + frame("1"), stays=True) as server:
        source = EventSource(server.url, topic="a.*", token=" tökén\n", tell=lambda *each: told.append(each))
        await first(source, 1)
    assert b"GET /events?key=t0ps3cr3t&topic=a." in server.asked[0]
    assert "authorization: bearer tökén\r\n" in server.asked[0].decode().lower()
    assert told == [("connected", {})]


@in_time
async def test_after_a_break_it_goes_on_behind_the_last_event():
    told: list[str] = []
    async with serving(
        OPEN + frame("1", id="æ1"),
        OPEN + frame("2", id="b2") + b"id: c3\ndata: cut off",
        OPEN + frame("3", id="c3"),
        stays=True,
    ) as server:
        source = EventSource(server.url, tell=lambda what, _: told.append(what))
        events = await first(source, 3)
    assert [event.data for event in events] == [1, 2, 3]
    assert b"last-event-id" not in server.asked[0].lower()
    assert "last-event-id: æ1\r\n" in server.asked[1].decode().lower()
    assert b"last-event-id: b2\r\n" in server.asked[2].lower()  # what was cut off never came
    assert told == ["connected", "lost", "connected", "lost", "connected"]
    assert source.last_event_id == "c3"


@in_time
async def test_it_goes_on_from_an_id_that_it_is_given():
    async with serving(OPEN + frame("1"), stays=True) as server:
        await first(EventSource(server.url, last_event_id="x9"), 1)
    assert b"last-event-id: x9\r\n" in server.asked[0].lower()


@in_time
async def test_what_the_server_does_not_have_any_more_is_told():
    told: list[Any] = []
    connect = frame('{"resumed": false, "requested": "a1", "first_available": "b1"}', event="connect")
    async with serving(OPEN + connect + frame("2", id="b1"), stays=True) as server:
        source = EventSource(server.url, last_event_id="a1", tell=lambda *each: told.append(each))
        await first(source, 1)
    assert told[-1][0] == "missed"
    assert told[-1][1]["first_available"] == "b1"


@pytest.mark.parametrize("data", ["no json", "[]", '{"resumed": true, "replayed": 3}', '{"resumed": false}'])
@in_time
async def test_other_notices_tell_nothing_and_are_no_events(data):
    told: list[str] = []
    notices = frame(data, event="connect") + frame("{}", event="disconnect") + frame("{}", event="heartbeat")
    async with serving(OPEN + notices + frame("1"), stays=True) as server:
        [event] = await first(EventSource(server.url, tell=lambda what, _: told.append(what)), 1)
    assert event.data == 1
    assert told == ["connected"]


@in_time
async def test_an_event_that_cannot_be_read_is_counted_and_left_out():
    wrong = '{"type": "nonsense", "data": 1, "metadata": {}}'
    deep = "[" * 100_000
    async with serving(OPEN + frame(wrong) + frame(deep) + frame("2"), stays=True) as server:
        source = EventSource(server.url)
        events = await first(source, 2)
    assert source.invalid == 1
    assert [event.data for event in events] == [deep, 2]


@pytest.mark.parametrize("status", ["204 No Content", "401 Unauthorized", "403 Forbidden", "404 Not Found"])
@in_time
async def test_a_server_that_refuses_is_not_asked_again(status):
    if status.startswith("204"):
        said = await refusal_of(answer(status))
    else:
        said = await refusal_of(answer(status, "because I say so"), token="t0ps3cr3t")
        assert said.endswith("because I say so")
    assert said.startswith(f"the server answers {status[:3]}: ")


@in_time
async def test_what_is_no_event_stream_is_refused():
    page = answer("200 OK", "<html>", "text/html; charset=utf-8")
    assert await refusal_of(page) == "the server gives text/html, not text/event-stream"


@in_time
async def test_an_event_of_any_size_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(sse_client, "_MAX_EVENT", 1000)
    async with serving(OPEN + frame("1", id="a") + frame("x" * 5000), stays=True) as server:
        source = EventSource(server.url)
        with pytest.raises(RefusedError, match="an event of more than 1,000 bytes"):
            await first(source, 2)
    assert source.last_event_id == "a"  # what came before it was given


@in_time
async def test_a_server_that_is_away_or_broken_is_asked_again(monkeypatch):
    waits: list[float] = []
    sleep = asyncio.sleep

    async def at_once(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    answers = [answer("503 Service Unavailable"), b"garbage\r\n\r\n", b"", OPEN + frame("1")]
    async with serving(*answers, stays=True) as server:
        told: list[Any] = []
        source = EventSource(server.url, tell=lambda *each: told.append(each))
        monkeypatch.setattr(sse_client.asyncio, "sleep", at_once)
        [event] = await first(source, 1)
        monkeypatch.undo()
    assert event.data == 1
    assert [round(wait / limit) for wait, limit in zip(waits, (1, 2, 4), strict=True)] == [1, 1, 1]
    assert told[0][1]["why"] == "HTTPStatusError"
    assert "t0ps3cr3t" not in str(told)


@in_time
async def test_a_server_cannot_have_itself_asked_without_pause(monkeypatch):
    told: list[Any] = []
    async with serving(OPEN + b"retry: 0\ndata: 1\n\n", OPEN + frame("2"), stays=True) as server:
        await first(EventSource(server.url, tell=lambda *each: told.append(each)), 2)
    assert told[1][0] == "lost"
    assert told[1][1]["seconds"] >= 0.03


@in_time
async def test_silence_is_a_break():
    async with serving(OPEN + frame("1"), stays=True) as server:
        told: list[str] = []
        source = EventSource(
            server.url, timeout=0.05, tell=lambda _, details: told.append(details.get("why", ""))
        )
        async with source, aclosing(source.events()) as events:
            await anext(events)
            waiting = asyncio.ensure_future(anext(events))
            while not any(told):
                await asyncio.sleep(0.005)
            waiting.cancel()
            await asyncio.wait({waiting})
    assert "ReadTimeout" in told


@pytest.mark.parametrize(
    "url", ["", "nonsense", "ftp://a/", "http://", "http://[", "http://a:99999/", "/path"]
)
def test_what_is_no_url_of_http_is_refused_and_not_shown(url):
    with pytest.raises(ValueError, match="begins with http:// or https:// and a host") as caught:
        EventSource(url)
    assert url in {"", "http://"} or url not in str(caught.value)
