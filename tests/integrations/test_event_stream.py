"""`event_stream`, driven as a server drives an ASGI application: by scope, receive and send."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
import re
import signal
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from typing import Any

import pytest
import uvicorn
from codomyrmex.integrations.web import EventStreamApp, event_stream, require_token
from codomyrmex.streaming import (
    Event,
    EventType,
    InMemoryStream,
    Overflow,
    SSEStream,
    Stream,
    StreamClosedError,
    Subscription,
    TopicStream,
    create_event,
)
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.testing import FakeClock
from helpers import DEADLINE, in_time, settle
from sse_connection import Connection
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware

EACH_KIND = pytest.mark.parametrize("kind", [InMemoryStream, TopicStream, SSEStream])
TWO_FORMS = pytest.mark.parametrize("form", ["event", "payload"])


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0)


def serve(stream: Stream, **options: Any) -> EventStreamApp:
    return event_stream(stream, **{"data": "payload", "signals": False, **options})


async def connect(app: EventStreamApp, **arguments: Any) -> Connection:
    """Return a client once its stream is open."""
    client = Connection(app, **arguments)
    await client.first(1)
    return client


@asynccontextmanager
async def connected(stream: Stream, count: int = 1, **options: Any) -> AsyncIterator[tuple[Any, ...]]:
    """Yield an application and its clients, and close it."""
    app = serve(stream, **options)
    clients = [await connect(app) for _ in range(count)]
    try:
        yield (app, *clients)
    finally:
        for client in clients:
            client.read_again()
        await app.aclose()


async def publish(stream: Stream, *data: Any, topic: str = "orders.created") -> list[Event]:
    events = [create_event(one, topic=topic) for one in data]
    for event in events:
        await stream.publish(event)
    return events


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The log, without the rate limit that other tests have used up."""
    module = import_module("codomyrmex.integrations.web.http")
    monkeypatch.setattr(module, "_log", Diagnostics(module.__name__))
    return caplog


# The format


@in_time
@TWO_FORMS
async def test_each_event_is_an_id_a_type_and_one_line_of_data_with_lf_only(form: str):
    stream = InMemoryStream()
    app = serve(stream, data=form)
    client = await connect(app)
    [event] = await publish(stream, {"text": "a\r\nb\x85c\u2028d\u2029e ü"})
    await client.first(2)
    await app.aclose()
    assert b"\r" not in client.body
    assert not re.search("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", client.body.decode())
    connect_frame, frame, goodbye, nothing = client.body.decode().split("\n\n")
    assert nothing == ""
    assert connect_frame.startswith("event: connect\ndata: ")
    names = [line.partition(":")[0] for line in frame.split("\n")]
    assert names == ["id", "event", "data"]
    assert frame.startswith(f"id: {event.id}\nevent: message\n")
    shown = json.loads(frame.partition("data: ")[2])
    assert shown == (event.to_dict() if form == "event" else event.data)
    assert [line.partition(":")[0] for line in goodbye.split("\n")] == ["id", "event", "retry", "data"]


@in_time
async def test_a_whole_event_survives_the_round_trip():
    stream = InMemoryStream()
    async with connected(stream, data="event") as (_, client):
        [event] = await publish(stream, {"n": 1})
        record = (await client.first(2))[-1]
        assert Event.from_dict(json.loads(record.data)) == event
        assert (record.id, record.event) == (event.id, "message")


@in_time
async def test_the_headers_prevent_caching_and_buffering():
    async with connected(InMemoryStream()) as (_, client):
        assert client.status == 200
        assert client.headers == {
            "content-type": "text/event-stream",
            "cache-control": "no-store, no-transform",
            "x-accel-buffering": "no",
            "x-content-type-options": "nosniff",
        }


@in_time
async def test_a_heartbeat_is_a_comment_line_without_a_blank_line():
    clock = FakeClock()
    stream = InMemoryStream()
    async with connected(stream, clock=clock, heartbeat_interval=15) as (_, client):
        await until(lambda: clock.pending() == 2)  # the timeout of sending, and the heartbeat
        before = client.body
        for beats in range(1, 4):
            clock.advance(15)
            await client.until(lambda beats=beats: client.body.count(b": hb\n") == beats)
            assert client.body == before + b": hb\n" * beats
        await publish(stream, "after")
        await client.first(2)
        assert client.body.count(b": hb\n") == 3
        assert client.data == ["after"]


@in_time
async def test_events_postpone_the_heartbeat():
    clock = FakeClock()
    stream = InMemoryStream()
    async with connected(stream, clock=clock, heartbeat_interval=10) as (_, client):
        for number in range(5):
            clock.advance(6)
            await publish(stream, number)
            await client.first(number + 2)
        assert client.data == list(range(5))
        assert b": hb" not in client.body


@in_time
async def test_queued_events_go_in_one_write():
    stream = InMemoryStream()
    async with connected(stream) as (_, client):
        client.writes.clear()
        for number in range(50):
            stream.publish_nowait(create_event(number))
        await client.first(50)
        assert len(client.writes) == 1
        assert client.data == list(range(50))


@in_time
async def test_events_that_were_queued_during_a_write_go_in_the_next_one():
    stream = InMemoryStream()
    async with connected(stream) as (_, client):
        await client.hold(stream)
        await publish(stream, *range(30))
        client.writes.clear()
        client.read_again()
        await client.first(31)
        assert len(client.writes) == 2
        assert client.data == ["held up", *range(30)]


@in_time
async def test_events_in_quick_succession_share_writes_and_a_single_event_goes_at_once():
    stream = InMemoryStream()
    async with connected(stream) as (_, client):
        client.writes.clear()
        for number in range(100):
            stream.publish_nowait(create_event(number))
            await asyncio.sleep(0)
        await client.first(100)
        assert len(client.writes) < 70
        assert client.data == list(range(100))
        client.writes.clear()
        for number in range(5):
            stream.publish_nowait(create_event("alone"))
            await client.first(number + 1)
        assert [write.count(b"data: ") for write in client.writes] == [1] * 5


@in_time
async def test_one_encoding_is_shared_by_all_clients_and_the_replay():
    class Counted:
        shown = 0

        def __repr__(self) -> str:
            Counted.shown += 1
            return "encoded"

    stream = InMemoryStream()
    async with connected(stream, 5) as (app, *clients):
        await publish(stream, Counted())
        for client in clients:
            await client.first(2)
        late = await connect(app, last_event_id="unknown")
        await late.first(2)
        assert [client.data for client in (*clients, late)] == [["encoded"]] * 6
        assert Counted.shown == 1


# The first event


@in_time
async def test_a_first_connection_is_reported_as_not_resumed():
    async with connected(InMemoryStream()) as (_, client):
        [record] = client.records
        assert (record.event, record.id) == ("connect", "")
        assert json.loads(record.data) == {"resumed": False, "replayed": 0}


@in_time
async def test_a_client_that_has_seen_no_event_can_resume_from_where_it_connected():
    stream = InMemoryStream()
    app = serve(stream)
    await publish(stream, "before")
    client = await connect(app)
    client.leave()
    await client.task
    assert client.events == []
    await publish(stream, "missed")
    again = await connect(app, headers=[("last-event-id", client.records[0].id)])
    await again.first(2)
    assert again.data == ["missed"]
    await app.aclose()


@in_time
@pytest.mark.parametrize("by", ["header", "query", "both"])
async def test_it_resumes_after_the_last_event_id(by: str):
    stream = InMemoryStream()
    app = serve(stream)
    one, two, _ = await publish(stream, 1, 2, 3)
    headers = [] if by == "query" else [("last-event-id", two.id)]
    query = {} if by == "header" else {"last_event_id": (one if by == "both" else two).id}
    client = await connect(app, headers=headers, **query)
    await client.first(2)
    first = client.records[0]
    assert (first.event, first.id) == ("connect", two.id)
    assert json.loads(first.data) == {"resumed": True, "replayed": 1}
    assert client.data == [3]
    await app.aclose()


@in_time
async def test_the_query_is_used_if_the_header_is_empty():
    stream = InMemoryStream()
    app = serve(stream)
    one, _ = await publish(stream, 1, 2)
    client = await connect(app, headers=[("last-event-id", "")], last_event_id=one.id)
    await client.first(2)
    assert client.data == [2]
    await app.aclose()


@in_time
async def test_after_too_long_an_absence_the_gap_is_reported_and_the_rest_replayed():
    stream = InMemoryStream()
    app = serve(stream, buffer_size=2)
    one, _, three, _ = await publish(stream, 1, 2, 3, 4)
    client = await connect(app, headers=[("last-event-id", one.id)])
    await client.first(3)
    assert json.loads(client.records[0].data) == {
        "resumed": False,
        "requested": one.id,
        "first_available": three.id,
    }
    assert client.records[0].id == ""
    assert client.data == [3, 4]
    await app.aclose()


@in_time
async def test_a_non_ascii_id_is_read_as_utf8_as_browsers_send_it():
    stream = InMemoryStream()
    app = serve(stream)
    await stream.publish(Event(id="bestellung-ü-€", data=1))
    await publish(stream, 2)
    client = await connect(app, headers=[("last-event-id", "bestellung-ü-€".encode())])
    await client.first(2)
    assert client.data == [2]
    await app.aclose()


@in_time
async def test_an_undecodable_header_is_an_unknown_id():
    app = serve(InMemoryStream())
    client = await connect(app, headers=[("last-event-id", b"\xff\xfe")])
    assert json.loads(client.records[0].data)["resumed"] is False
    await app.aclose()


# Events


@in_time
async def test_a_topic_pattern_filters_the_replay_and_live_events():
    stream = InMemoryStream()
    app = serve(stream)
    [start] = await publish(stream, "start")
    await publish(stream, "no", topic="users.created")
    await publish(stream, "old")
    client = await connect(app, topic="orders.>", last_event_id=start.id)
    await publish(stream, "neither", topic="users.deleted")
    await publish(stream, "new")
    await client.first(3)
    assert client.data == ["old", "new"]
    assert json.loads(client.records[0].data) == {"resumed": True, "replayed": 1}
    await app.aclose()


@in_time
async def test_a_percent_encoded_pattern_is_understood_and_an_empty_one_is_everything():
    stream = InMemoryStream()
    app = serve(stream)
    some, every = await connect(app, topic="*.created"), await connect(app, topic="")
    await stream.publish(create_event("without a topic"))
    await publish(stream, "with one")
    await some.first(2)
    await every.first(3)
    assert (some.data, every.data) == (["with one"], ["without a topic", "with one"])
    await app.aclose()


@in_time
@EACH_KIND
async def test_streams_of_each_kind_are_served(kind: type[Stream]):
    stream = kind()
    app = serve(stream)
    [seen, *_] = await publish(stream, *range(5))
    client = await connect(app, last_event_id=seen.id)
    await publish(stream, *range(5, 8))
    await client.first(8)
    assert client.data == list(range(1, 8))
    await app.aclose()
    assert stream.statistics().subscribers == 0


@in_time
async def test_events_from_threads_arrive_in_the_order_of_each_thread():
    stream = InMemoryStream()
    async with connected(stream, 2, queue_size=5_000) as (_, *clients):

        def publish_many(thread: int) -> None:
            for number in range(300):
                stream.publish_nowait(create_event([thread, number]))

        threads = [threading.Thread(target=publish_many, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for client in clients:
            await client.until(lambda client=client: client.body.count(b"event: message") == 900)
            for thread in range(3):
                assert [number for of, number in client.data if of == thread] == list(range(300))
        for thread in threads:
            thread.join()


@in_time
async def test_published_events_of_other_types_are_ordinary_events():
    """They may be forwarded from another server; they have ids and do not end the connection."""
    stream = InMemoryStream()
    async with connected(stream) as (_, client):
        sent = [
            create_event({"resumed": True, "replayed": 3}, EventType.CONNECT),
            create_event(None, EventType.HEARTBEAT),
            create_event({"reason": "elsewhere"}, EventType.DISCONNECT),
            create_event("still here", EventType.ERROR),
        ]
        for event in sent:
            await stream.publish(event)
        _, *records = await client.first(5)
        assert [(record.event, record.id) for record in records] == [(e.type.value, e.id) for e in sent]
        assert [json.loads(record.data) for record in records] == [event.data for event in sent]


# Hostile payloads

HOSTILE = ["\r\nevent: evil\ndata: x\n\n", "\0", "a\0b", "x\x85y", "x\u2028y\u2029z", "\ud800", "😀", "", " "]


@in_time
@TWO_FORMS
@pytest.mark.parametrize("text", HOSTILE)
async def test_no_payload_id_or_metadata_breaks_out_of_its_field(text: str, form: str):
    stream = InMemoryStream()
    async with connected(stream, data=form) as (_, client):
        event = Event(id=f"i{text}", data={text: text}, metadata={"topic": "t", "note": text, text: 1})
        await stream.publish(event)
        await stream.publish(create_event("after"))
        _, record, after = await client.first(3)
        assert len(client.records) == 3
        assert record.event == "message"
        assert not set(record.id) & set("\r\n\0\ud800")
        shown = json.loads(record.data)
        clean = text.replace("\ud800", "\ufffd")
        assert (shown["data"] if form == "event" else shown) == {clean: clean}
        assert not re.search("[\r\0\x85\u2028\u2029]", record.data)
        assert after.event == "message"


@in_time
@pytest.mark.parametrize("text", [t for t in HOSTILE if t.strip()])
async def test_a_client_resumes_from_any_id_that_it_received(text: str):
    stream = InMemoryStream()
    app = serve(stream)
    await stream.publish(Event(id=f"i{text}", data=1))
    await publish(stream, 2)
    client = await connect(app, last_event_id="unknown")
    _, given, _ = await client.first(3)
    again = await connect(app, headers=[("last-event-id", given.id)])
    await again.first(2)
    assert json.loads(again.records[0].data) == {"resumed": True, "replayed": 1}
    await app.aclose()


@in_time
@pytest.mark.parametrize("event_id", ["", "\r\n", "\0"])
async def test_an_event_with_an_empty_id_does_not_reset_the_last_event_id(event_id: str):
    stream = InMemoryStream()
    async with connected(stream) as (_, client):
        [first] = await publish(stream, 1)
        await stream.publish(Event(id=event_id, data=2))
        await client.first(3)
        assert [record.id for record in client.events] == [first.id, first.id]


# Refusals


@in_time
@pytest.mark.parametrize(
    "topic",
    ["orders..created", ".", "orders.>.x", "a.", "a." * 1_500 + ">", "*." * 10_000 + "a", "x" * 30_000],
)
async def test_a_malformed_topic_is_refused_with_the_problem(topic: str):
    client = Connection(serve(InMemoryStream()), topic=topic)
    status, text = await client.answer()
    assert status == 400
    assert "topic pattern" in text


@in_time
async def test_several_topics_are_refused_rather_than_one_of_them_ignored():
    app = serve(InMemoryStream())
    client = Connection(app, query="topic=a&topic=b")
    status, text = await client.answer()
    assert (status, text) == (400, "topic: must be one pattern, got 2")


@in_time
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_other_methods_are_refused(method: str):
    client = Connection(serve(InMemoryStream()), method=method)
    status, text = await client.answer()
    assert (status, client.headers["allow"]) == (405, "GET, HEAD")
    assert method in text


@in_time
@pytest.mark.parametrize(
    "accept",
    [
        ["text/html"],
        ["application/json, image/*"],
        ["text/event-stream;q=0"],
        ["text/event-stream; Q=0.000, */*"],
        ["*/*", "text/*;q=0"],
        ["text/html", "application/json"],
    ],
)
async def test_a_client_must_accept_event_streams(accept: list[str]):
    client = Connection(serve(InMemoryStream()), headers=[("accept", one) for one in accept])
    status, text = await client.answer()
    assert status == 406
    assert "Accept: text/event-stream" in text


@in_time
@pytest.mark.parametrize(
    "accept",
    [
        [],
        [""],
        [" , "],
        ["text/event-stream"],
        ["TEXT/Event-Stream"],
        ["*/*"],
        ["text/*;q=0.1"],
        ["text/html, text/event-stream;q=0.5"],
        ["text/html", "text/event-stream"],
        ["text/event-stream;q=0.001, */*;q=0"],
        ["text/event-stream;charset=utf-8;q=1"],
    ],
)
async def test_an_accept_header_can_allow_event_streams_in_several_ways(accept: list[str]):
    app = serve(InMemoryStream())
    client = await connect(app, headers=[("accept", one) for one in accept])
    assert client.status == 200
    await app.aclose()


@in_time
async def test_a_client_beyond_the_limit_is_refused_until_another_leaves():
    async with connected(InMemoryStream(), 2, max_clients=2) as (app, first, _):
        refused = Connection(app)
        status, text = await refused.answer()
        assert status == 503
        assert "too many clients: 2 are connected" in text
        assert 5 <= int(refused.headers["retry-after"]) <= 30
        assert (app.clients, app.refused) == (2, 1)
        first.leave()
        await first.task
        await connect(app)
        assert app.clients == 2


@in_time
async def test_clients_that_are_authorized_at_the_same_time_do_not_exceed_the_limit():
    may = asyncio.Event()

    async def authorize(scope: Any) -> str:
        nonlocal asked
        asked += 1
        await may.wait()
        return "*"

    asked = 0
    app = serve(InMemoryStream(), max_clients=2, authorize=authorize)
    clients = [Connection(app) for _ in range(5)]
    await until(lambda: asked == 5)
    may.set()
    for client in clients:
        await client.until(lambda client=client: client.status)
    assert sorted(client.status or 0 for client in clients) == [200, 200, 503, 503, 503]
    assert (app.clients, app.refused) == (2, 3)
    await app.aclose()


@in_time
async def test_a_closed_application_refuses_clients():
    app = serve(InMemoryStream())
    await app.aclose()
    client = Connection(app)
    status, text = await client.answer()
    assert (status, client.headers["retry-after"]) == (503, "5")
    assert "again soon" in text


@in_time
async def test_a_client_that_is_authorized_during_the_shutdown_is_refused():
    may = asyncio.Event()

    async def authorize(scope: Any) -> str:
        asked.set()
        await may.wait()
        return "*"

    asked, stream = asyncio.Event(), InMemoryStream()
    app = serve(stream, authorize=authorize)
    client = Connection(app)
    await asked.wait()
    await app.aclose()
    may.set()
    status, _ = await client.answer()
    assert (status, app.clients, stream.statistics().subscribers) == (503, 0, 0)


@in_time
async def test_head_answers_as_get_would_and_opens_no_stream():
    app = serve(InMemoryStream(), authorize=require_token("token"))
    head = Connection(app, method="HEAD", headers=[("authorization", "Bearer token")])
    assert await head.answer() == (200, "")
    assert head.complete
    assert head.headers["content-type"] == "text/event-stream"
    assert app.clients == 0
    for refused in (Connection(app, method="HEAD"), Connection(app, method="HEAD", topic="..")):
        status, text = await refused.answer()
        assert status in (400, 401)
        assert text  # which servers leave out of a response to HEAD
        assert int(refused.headers["content-length"]) > 0


@in_time
async def test_many_parameters_are_not_a_server_error():
    app = serve(InMemoryStream())
    client = await connect(app, **{f"p{number}": "" for number in range(500)})
    assert client.status == 200
    await app.aclose()


@in_time
async def test_it_is_served_over_http_only():
    with pytest.raises(RuntimeError, match="over HTTP, not over websocket"):
        await serve(InMemoryStream())({"type": "websocket", "path": "/"}, None, None)  # type: ignore[arg-type]


# Authorization


@in_time
@pytest.mark.parametrize("is_async", [False, True])
async def test_authorize_decides_by_the_scope_what_a_client_may_read(is_async: bool):
    def plain(scope: Any) -> Any:
        user = dict(scope["headers"]).get(b"x-user", b"").decode()
        return {"all": "*", "some": ["orders.>", "stock"], "one": "stock"}.get(user)

    async def slow(scope: Any) -> Any:
        await asyncio.sleep(0)
        return plain(scope)

    stream = InMemoryStream()
    app = serve(stream, authorize=slow if is_async else plain)
    [start] = await publish(stream, "start")

    async def publish_all(when: str) -> None:
        for topic in ("orders.created", "users.created", "stock"):
            await publish(stream, f"{when} {topic}", topic=topic)
        await stream.publish(create_event(f"{when} no topic"))

    async def see(user: str, topic: str = "*") -> Connection:
        return await connect(app, headers=[("x-user", user)], topic=topic, last_event_id=start.id)

    await publish_all("old")
    clients = [await see("all"), await see("some"), await see("one"), await see("some", "users.>")]
    await publish_all("new")
    for client, count in zip(clients, (8, 4, 2, 0), strict=True):
        await client.first(count + 1)
    everything, some, one, none = [client.data for client in clients]
    assert len(everything) == 8
    assert some == ["old orders.created", "old stock", "new orders.created", "new stock"]
    assert one == ["old stock", "new stock"]
    assert none == []
    refused = Connection(app, headers=[("x-user", "somebody else")])
    assert await refused.answer() == (401, "not authorized: a valid token is required")
    assert refused.headers["www-authenticate"] == "Bearer"
    await app.aclose()


@in_time
@pytest.mark.parametrize("result", ["orders..", ["fine", ""], 42])
async def test_an_authorize_that_returns_a_wrong_type_admits_nobody(result: Any):
    client = Connection(serve(InMemoryStream(), authorize=lambda _: result))
    assert await client.answer() == (500, "authorization failed; the server's log says why")


@in_time
async def test_an_authorize_that_raises_admits_nobody_and_its_message_is_hidden(
    log: pytest.LogCaptureFixture,
):
    def authorize(scope: Any) -> str:
        raise PermissionError("the password of the database is secret")

    app = serve(InMemoryStream(), authorize=authorize)
    status, text = await Connection(app).answer()
    assert (status, app.clients) == (500, 0)
    assert "secret" not in text
    assert "authorize raised PermissionError" in log.text


@in_time
@pytest.mark.parametrize(
    ("header", "query", "status"),
    [
        ("Bearer right", None, 200),
        ("bearer   right", None, 200),
        ("Bearer wrong", None, 401),
        ("Bearer ", None, 401),
        ("Bearer", "right", 401),
        ("Basic right", None, 401),
        ("right", None, 401),
        ("Basic whatever", "right", 200),
        (None, "right", 200),
        (None, "wrong", 401),
        (None, "", 401),
        (None, "rightx", 401),
        (None, None, 401),
        ("Bearer wrong", "right", 401),
        ("Bearer \xff", None, 401),
    ],
)
async def test_a_token_is_in_the_header_or_the_query(header: str | None, query: str | None, status: int):
    app = serve(InMemoryStream(), authorize=require_token("right"))
    headers = [] if header is None else [("authorization", header.encode("latin-1"))]
    client = Connection(app, headers=headers, **({} if query is None else {"access_token": query}))
    await client.until(lambda: client.status)
    assert client.status == status
    await app.aclose()


@in_time
async def test_ids_of_topics_that_a_client_may_not_see_are_not_named():
    stream = InMemoryStream()
    app = serve(stream, authorize=lambda _: "orders.>", buffer_size=10)
    await publish(stream, 1, topic="secret")
    [shown] = await publish(stream, 2)
    await publish(stream, 3, topic="secret")
    client = await connect(app)
    assert client.records[0].id == shown.id
    gap = await connect(app, last_event_id="unknown")
    assert json.loads(gap.records[0].data)["first_available"] == shown.id
    await app.aclose()
    assert [record.id for record in client.records if record.event == "disconnect"] == [shown.id]


@in_time
async def test_a_client_that_may_see_no_event_yet_is_named_no_id():
    stream = InMemoryStream()
    app = serve(stream, authorize=lambda _: "orders.>")
    await publish(stream, 1, topic="secret")
    client = await connect(app, last_event_id="unknown")
    assert json.loads(client.records[0].data)["first_available"] is None
    assert (await connect(app)).records[0].id == ""
    await app.aclose()


@in_time
async def test_a_token_may_be_for_some_topics_only():
    stream = InMemoryStream()
    app = serve(stream, authorize=require_token("right", ["orders.>"]))
    client = await connect(app, access_token="right")
    await publish(stream, "no", topic="users.created")
    await publish(stream, "yes")
    await client.first(2)
    assert client.data == ["yes"]
    await app.aclose()


def test_an_empty_token_is_refused():
    with pytest.raises(ValueError, match="let everyone in"):
        require_token("")


# Pages of other origins


def preflight(app: EventStreamApp, origin: str) -> Connection:
    headers = [("origin", origin), ("access-control-request-method", "GET")]
    return Connection(
        app, method="OPTIONS", headers=[*headers, ("access-control-request-headers", "last-event-id")]
    )


@in_time
async def test_pages_of_other_origins_may_read_nothing_by_default():
    app = serve(InMemoryStream())
    client = Connection(app, headers=[("origin", "https://evil.example")])
    asking = preflight(app, "https://evil.example")
    assert [(await answer.answer())[0] for answer in (client, asking)] == [403, 405]
    for answer in (client, asking):
        assert not [name for name in answer.headers if name.startswith("access-control")]
    await app.aclose()


@in_time
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),  # a link
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),  # aborted at once, for example
        ({"sec-fetch-site": "same-site"}, 403),  # another port of this machine
        ({"origin": "null"}, 403),
    ],
)
async def test_a_request_of_another_origin_is_refused_even_if_its_page_cannot_read_it(
    headers: dict[str, str], status: int
):
    app = serve(InMemoryStream())
    client = Connection(app, headers=headers.items())
    await client.until(lambda: client.status)
    assert client.status == status
    await app.aclose()


@in_time
@pytest.mark.parametrize(
    ("options", "host", "status"),
    [
        ({}, "localhost:8000", 200),
        ({}, "127.0.0.1", 200),
        ({}, "[::1]:80", 200),
        ({}, None, 200),  # HTTP/1.0
        ({}, "rebound.example", 421),
        ({}, "", 200),  # the same, as granian shows it
        ({}, "[", 421),
        ({}, "evil.example@127.0.0.1", 421),
        ({}, "127.0.0.1/x", 421),
        ({"allowed_hosts": ["App.example"]}, "app.example:443", 200),
        ({"allowed_hosts": "app.example"}, "evil.example", 421),
        ({"allowed_hosts": ["*"]}, "any.example", 200),
        ({"allow_origins": ["*"]}, "any.example", 200),
        ({"allow_origins": ["https://app.example"]}, "any.example", 421),
        ({"authorize": lambda _: "*"}, "any.example", 200),
        ({"authorize": lambda _: "*", "allowed_hosts": ["app.example"]}, "any.example", 421),
    ],
)
async def test_requests_for_other_hosts_are_refused(options: dict[str, Any], host: str | None, status: int):
    app = serve(InMemoryStream(), **options)
    client = Connection(app, headers=[] if host is None else [("host", host)])
    await client.until(lambda: client.status)
    assert client.status == status
    await app.aclose()


@in_time
async def test_named_origins_can_be_allowed_to_send_cookies():
    origin = "https://app.example"
    app = serve(InMemoryStream(), allow_origins=[origin], allow_credentials=True)
    for client in (await connect(app, headers=[("origin", origin)]), preflight(app, origin)):
        await client.until(lambda client=client: client.status)
        assert client.headers["access-control-allow-credentials"] == "true"
        assert client.headers["access-control-allow-origin"] == origin
    await app.aclose()
    with pytest.raises(ValueError, match="allow_credentials: allow_origins must name the origins"):
        serve(InMemoryStream(), allow_origins=["*"], allow_credentials=True)


@in_time
@pytest.mark.parametrize(
    ("allowed", "origin", "may"),
    [
        (["https://app.example/"], "https://app.example", True),
        ("https://app.example", "https://app.example", True),
        (["https://app.example"], "https://app.example.evil.example", False),
        (["https://app.example"], "http://app.example", False),
        (["https://app.example"], "null", False),
        (["*"], "https://any.example", True),
    ],
)
async def test_allowed_origins_and_only_these_may_read(allowed: Any, origin: str, may: bool):
    app = serve(InMemoryStream(), allow_origins=allowed, authorize=require_token("right"))
    asking = preflight(app, origin)
    refused = Connection(app, headers=[("origin", origin)])
    client = Connection(app, headers=[("origin", origin)], access_token="right")
    await client.until(lambda: client.status)
    answers = [client, refused, asking]
    await refused.answer()
    assert await asking.answer() == ((200, "OK") if may else (400, "Disallowed CORS origin"))
    assert [answer.status for answer in answers[:2]] == ([200, 401] if may else [403, 403])
    for answer in answers:
        shown = answer.headers.get("access-control-allow-origin")
        assert shown == (("*" if "*" in allowed else origin) if may else None)
    await app.aclose()


# Slow and disconnected clients


@in_time
@pytest.mark.parametrize(
    ("overflow", "expected"),
    [
        (Overflow.DROP_OLDEST, ["held up", 2, 3, 4, "after"]),
        (Overflow.DROP_NEWEST, ["held up", 0, 1, 2, "after"]),
        (Overflow.DISCONNECT, ["held up", 0, 1, 2]),
    ],
)
async def test_the_overflow_policy_decides_about_events_beyond_the_queue_size(
    overflow: Overflow, expected: list[Any]
):
    stream = InMemoryStream()
    async with connected(stream, queue_size=3, overflow=overflow) as (app, client):
        await client.hold(stream)
        await publish(stream, *range(5))
        client.read_again()
        await client.first(5)
        await publish(stream, "after")
        await client.first(len(expected) + 1)
        if overflow is Overflow.DISCONNECT:
            await client.task
        assert client.data == expected
        assert client.complete == (overflow is Overflow.DISCONNECT)
        assert app.clients == (0 if overflow is Overflow.DISCONNECT else 1)


@in_time
async def test_a_client_that_was_disconnected_for_being_slow_gets_the_rest_when_it_reconnects():
    stream = InMemoryStream()
    async with connected(stream, queue_size=2) as (app, client):
        await client.hold(stream)
        await publish(stream, *range(10))
        client.read_again()
        await client.task
        again = await connect(app, headers=[("last-event-id", client.records[-1].id)])
        await again.until(lambda: len(client.data + again.data) >= 11)
        assert client.data + again.data == ["held up", *range(10)]


@in_time
async def test_a_slow_client_delays_neither_the_publisher_nor_other_clients():
    stream = InMemoryStream()
    async with connected(stream, 2, queue_size=10) as (_, slow, quick):
        slow.stop_reading()
        for number in range(100):
            await publish(stream, number)
            await quick.first(number + 2)
        assert quick.data == list(range(100))
        assert slow.data == []


@in_time
async def test_a_client_that_does_not_read_is_dropped_after_the_send_timeout():
    clock = FakeClock()
    stream = InMemoryStream()
    async with connected(stream, 2, clock=clock, send_timeout=8, heartbeat_interval=1_000) as (
        app,
        dead,
        alive,
    ):
        await dead.hold(stream)
        clock.advance(7.9)
        await publish(stream, 1)
        await alive.first(3)
        assert app.clients == 2
        clock.advance(2.2)
        await dead.task
        assert not dead.complete
        assert (app.clients, app.dropped) == (1, 1)
        await publish(stream, 2)
        await alive.first(4)
        assert alive.data == ["held up", 1, 2]


@in_time
@pytest.mark.parametrize("query", [{}, {"last_event_id": "unknown"}])
async def test_an_idle_client_is_not_dropped(query: dict[str, str]):
    clock = FakeClock()
    app = serve(InMemoryStream(), clock=clock, send_timeout=8, heartbeat_interval=1_000)
    client = await connect(app, **query)
    await until(lambda: clock.pending() == 2)
    for _ in range(20):
        clock.advance(2)
    await app.aclose()
    assert client.complete
    assert app.dropped == 0


@in_time
async def test_a_client_that_does_not_read_heartbeats_is_dropped():
    clock = FakeClock()
    async with connected(InMemoryStream(), clock=clock, send_timeout=8, heartbeat_interval=15) as (
        app,
        client,
    ):
        await until(lambda: clock.pending() == 2)
        client.stop_reading()
        clock.advance(15)
        await client.until(lambda: client.held)
        clock.advance(11)
        await client.task
        assert (app.clients, app.dropped) == (0, 1)


@in_time
async def test_a_slow_client_that_reads_now_and_then_is_not_dropped():
    clock = FakeClock()
    stream = InMemoryStream()
    async with connected(stream, clock=clock, send_timeout=8, heartbeat_interval=1_000) as (app, client):
        for number in range(10):
            client.stop_reading()
            await publish(stream, number)
            await client.until(lambda: client.held)
            clock.advance(7)
            client.read_again()
            await client.first(number + 2)
        assert (app.clients, app.dropped) == (1, 0)
        assert client.data == list(range(10))


@in_time
async def test_the_connection_of_a_dropped_client_is_aborted_if_the_server_can():
    clock, stream = FakeClock(), InMemoryStream()
    async with connected(stream, clock=clock, send_timeout=1) as (_, client):
        await client.hold(stream)
        assert not client.aborted
        clock.advance(2)
        await client.task
        assert client.aborted


class PassesThrough(BaseHTTPMiddleware):
    async def dispatch(self, request: Any, call_next: Any) -> Any:
        return await call_next(request)


@in_time
@pytest.mark.parametrize("layers", [1, 3])
async def test_the_connection_is_aborted_through_middleware_too(layers: int):
    clock, stream = FakeClock(), InMemoryStream()
    app = serve(stream, clock=clock, send_timeout=1)
    wrapped: Any = app
    for _ in range(layers):
        wrapped = GZipMiddleware(PassesThrough(wrapped))
    client = Connection(wrapped)
    await client.first(1)
    client.stop_reading()
    for _ in range(10):  # each layer has room for an event
        await publish(stream, "held up")
        await settle()
    clock.advance(2)
    clock.advance(2)
    await until(lambda: client.aborted)
    await until(lambda: app.clients == 0)
    client.broken = ConnectionResetError()
    client.read_again()
    await asyncio.wait({client.task})
    await app.aclose()


@in_time
@pytest.mark.parametrize("way", ["leaves", "breaks", "the application ends"])
async def test_a_connection_that_cannot_be_aborted_counts_until_it_is_gone(way: str):
    clock, stream = FakeClock(), InMemoryStream()
    app = serve(stream, clock=clock, send_timeout=1, max_clients=1)
    client = await connect(app, abortable=False)
    await client.hold(stream)
    clock.advance(2)
    await settle()
    assert (app.clients, app.dropped) == (1, 1)
    refused = Connection(app)
    assert (await refused.answer())[0] == 503
    if way == "leaves":
        client.leave()
    elif way == "breaks":
        client.broken = ConnectionResetError()
        client.read_again()
    else:
        closing = asyncio.create_task(app.aclose())
        await settle()
        clock.advance(6)
        await closing
    await client.task
    assert (app.clients, app.dropped) == (0, 1)
    await app.aclose()


@in_time
async def test_a_failing_clean_up_does_not_keep_a_place(monkeypatch: pytest.MonkeyPatch):
    def fail(_: Any) -> None:
        raise RecursionError("deep")

    stream = InMemoryStream()
    app = serve(stream, max_clients=1)
    for _ in range(3):
        client = await connect(app)
        with monkeypatch.context() as patch:
            patch.setattr(Subscription, "cancel", fail)
            client.task.cancel()
            await asyncio.wait({client.task})
        assert app.clients == 0
    await app.aclose()


class Pattern(str):
    """A topic pattern that can be referenced weakly."""

    __slots__ = ("__weakref__",)


class Witness:
    """An `authorize` that knows which subscriptions exist: each holds the pattern that it returned."""

    def __init__(self) -> None:
        self._patterns: list[weakref.ref[Pattern]] = []

    def __call__(self, scope: Any) -> list[Pattern]:
        pattern = Pattern("orders.>")
        self._patterns.append(weakref.ref(pattern))
        return [pattern]

    def subscriptions(self) -> int:
        gc.collect()
        return sum(pattern() is not None for pattern in self._patterns)


@in_time
@pytest.mark.parametrize("way", ["leaves", "breaks", "cancelled", "dropped", "too slow", "while it sends"])
async def test_a_client_that_is_gone_leaves_nothing_behind(way: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.CRITICAL)  # a log record would hold the subscription
    clock, stream, witness = FakeClock(), InMemoryStream(), Witness()
    app = serve(stream, clock=clock, queue_size=5, send_timeout=4, authorize=witness)
    for time in range(1, 4):
        client = await connect(app)
        await publish(stream, 1)
        await client.first(2)
        assert time > 1 or witness.subscriptions() == 1
        if way in ("dropped", "too slow", "while it sends"):
            await client.hold(stream)
        if way in ("leaves", "while it sends"):
            client.leave()
            client.read_again()
        elif way == "breaks":
            client.broken = ConnectionResetError()
            await publish(stream, 2)
        elif way == "cancelled":
            client.task.cancel()
        elif way == "dropped":
            clock.advance(6)
        elif way == "too slow":
            await publish(stream, *range(10))
            client.read_again()
        await asyncio.wait({client.task})
        assert client.task.cancelled() == (way == "cancelled")
        await until(lambda: len(asyncio.all_tasks()) == 1)
        assert (app.clients, clock.pending()) == (0, 0)
        assert app.dropped == (time if way == "dropped" else 0)
    del client
    assert witness.subscriptions() == 0
    await app.aclose()


@in_time
async def test_a_thousand_clients_leave_nothing_behind():
    witness = Witness()
    app = serve(InMemoryStream(), authorize=witness)
    for _ in range(1_000):
        client = Connection(app)
        client.leave()
        await client.task
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert (app.clients, witness.subscriptions()) == (0, 0)
    await app.aclose()


# Shutdown


@in_time
async def test_a_shutdown_sends_queued_events_and_a_random_reconnect_time():
    stream = InMemoryStream()
    app = serve(stream, reconnect_within=5)
    clients = [await connect(app) for _ in range(40)]
    [*_, last] = await publish(stream, 1, 2, 3)
    await app.aclose()
    retries = []
    for client in clients:
        assert client.complete
        assert client.data == [1, 2, 3]
        goodbye = client.records[-1]
        assert (goodbye.event, json.loads(goodbye.data)) == ("disconnect", {"reason": "shutdown"})
        assert goodbye.id == last.id  # so that nothing is replayed twice
        retries.append(goodbye.retry or 0)
        assert [record.retry for record in client.records[:-1]] == [None] * 4
    assert len(set(retries)) > 20
    assert 500 <= min(retries) < 2_000
    assert 3_500 < max(retries) <= 5_500
    assert (app.clients, stream.statistics().subscribers) == (0, 0)


@in_time
async def test_an_application_can_be_closed_twice_and_concurrently():
    app = serve(InMemoryStream())
    client = await connect(app)
    await asyncio.gather(app.aclose(), app.aclose())
    await app.aclose()
    assert [record.event for record in client.records] == ["connect", "disconnect"]


@in_time
async def test_a_client_that_does_not_read_delays_the_shutdown_by_seconds_only():
    clock = FakeClock()
    stream = InMemoryStream()
    app = serve(stream, clock=clock, send_timeout=math.inf)
    dead, alive = await connect(app), await connect(app)
    await dead.hold(stream)
    end = asyncio.create_task(app.aclose())
    await alive.until(lambda: alive.complete)
    assert not end.done()
    clock.advance(5)
    await end
    assert (app.clients, app.dropped, clock.pending()) == (0, 1, 0)


@in_time
async def test_clients_of_a_closed_stream_get_the_rest_and_a_disconnect():
    stream = InMemoryStream()
    app = serve(stream)
    client = await connect(app)
    await publish(stream, 1)
    await asyncio.to_thread(asyncio.run, stream.aclose())
    await client.task
    assert [record.event for record in client.records] == ["connect", "message", "disconnect"]
    status, _ = await Connection(app).answer()
    assert status == 503


@in_time
async def test_the_lifespan_of_the_server_closes_it():
    app = serve(InMemoryStream())
    client = await connect(app)
    inbox: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    sent: list[str] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    inbox.put_nowait({"type": "lifespan.startup"})
    running = asyncio.create_task(app({"type": "lifespan"}, inbox.get, send))
    await until(lambda: sent)
    assert sent == ["lifespan.startup.complete"]
    assert not client.complete
    inbox.put_nowait({"type": "lifespan.shutdown"})
    await running
    assert sent[-1] == "lifespan.shutdown.complete"
    assert client.records[-1].event == "disconnect"


@contextmanager
def handled(number: int) -> Iterator[list[int]]:
    """Install a handler as a server does, and yield the list of its calls."""
    calls: list[int] = []
    before = signal.signal(number, lambda got, _: calls.append(got))
    ours = signal.getsignal(number)
    try:
        yield calls
        assert signal.getsignal(number) is ours
    finally:
        signal.signal(number, before)


@in_time
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_closes_the_application_and_then_reaches_the_server(number: int):
    with handled(number) as calls:
        apps = [serve(InMemoryStream(), signals=True) for _ in range(2)]
        clients = [await connect(app) for app in apps]
        signal.raise_signal(number)
        for client in clients:
            await client.task
            assert client.records[-1].event == "disconnect"
        assert calls == [number]


@in_time
async def test_a_client_that_comes_when_the_server_is_ending_already_does_not_hold_it_up():
    server = uvicorn.Server(uvicorn.Config("shop:app", log_config=None))
    before = signal.signal(signal.SIGTERM, server.handle_exit)
    try:
        signal.raise_signal(signal.SIGTERM)
        client = await connect(serve(InMemoryStream(), signals=True))
        await client.task
        assert [record.event for record in client.records] == ["connect", "disconnect"]
    finally:
        signal.signal(signal.SIGTERM, before)


@in_time
async def test_without_clients_or_signals_no_handler_is_installed():
    with handled(signal.SIGTERM):
        ours = signal.getsignal(signal.SIGTERM)
        watching, deaf = serve(InMemoryStream(), signals=True), serve(InMemoryStream(), signals=False)
        await connect(deaf)
        assert signal.getsignal(signal.SIGTERM) is ours
        client = await connect(watching)
        assert signal.getsignal(signal.SIGTERM) is not ours
        client.leave()
        await client.task
        assert signal.getsignal(signal.SIGTERM) is ours
        await deaf.aclose()


def test_in_another_thread_it_works_without_signals():
    async def one_client() -> list[str]:
        app = serve(InMemoryStream(), signals=True)
        client = await connect(app)
        await app.aclose()
        return [record.event for record in client.records]

    before = signal.getsignal(signal.SIGTERM)
    result: list[str] = []
    thread = threading.Thread(target=lambda: result.extend(asyncio.run(one_client())))
    thread.start()
    thread.join(DEADLINE)
    assert result == ["connect", "disconnect"]
    assert signal.getsignal(signal.SIGTERM) is before


# Arguments


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"data": "all"}, ValueError),
        ({"heartbeat_interval": 0}, ValueError),
        ({"heartbeat_interval": "15"}, TypeError),
        ({"send_timeout": -1}, ValueError),
        ({"reconnect_within": math.inf}, ValueError),
        ({"max_clients": 0}, ValueError),
        ({"max_clients": True}, ValueError),
        ({"queue_size": 0}, ValueError),
        ({"buffer_size": -1}, ValueError),
        ({"overflow": Overflow.BLOCK}, ValueError),
        ({"overflow": "block"}, ValueError),
        ({"overflow": "unknown"}, ValueError),
    ],
)
async def test_arguments_out_of_range_are_rejected(options: dict[str, Any], error: type[Exception]):
    with pytest.raises(error):
        serve(InMemoryStream(), **options)


def test_other_types_than_streams_are_rejected():
    with pytest.raises(TypeError, match="must be a Stream, got list"):
        serve([])  # type: ignore[arg-type]


def test_it_can_be_created_without_a_loop_and_replays_earlier_events():
    stream = InMemoryStream()
    app = serve(stream)
    seen, missed = create_event(1), create_event(2)
    stream.publish_nowait(seen)
    stream.publish_nowait(missed)

    async def read() -> list[Any]:
        client = await connect(app, last_event_id=seen.id)
        await client.first(2)
        await app.aclose()
        return client.data

    assert asyncio.run(read()) == [2]


@in_time
async def test_a_slow_client_that_is_disconnected_is_logged_once(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    stream = InMemoryStream()
    async with connected(stream, queue_size=1) as (_, client):
        client.stop_reading()
        await publish(stream, *range(5))
        assert caplog.text.count("its queue is full") == 1


@in_time
async def test_the_lifespan_can_run_several_times_until_the_stream_is_closed():
    stream = InMemoryStream()
    app = serve(stream)
    for _ in range(3):
        inbox: asyncio.Queue[Any] = asyncio.Queue()
        sent: asyncio.Queue[Any] = asyncio.Queue()
        running = asyncio.create_task(app({"type": "lifespan", "app": app}, inbox.get, sent.put))
        inbox.put_nowait({"type": "lifespan.startup"})
        assert (await sent.get())["type"] == "lifespan.startup.complete"
        client = await connect(app)
        await publish(stream, 1)
        await client.first(2)
        inbox.put_nowait({"type": "lifespan.shutdown"})
        assert (await sent.get())["type"] == "lifespan.shutdown.complete"
        await running
        assert client.complete
        assert (await Connection(app).answer())[0] == 503
    await stream.aclose()
    inbox.put_nowait({"type": "lifespan.startup"})
    with pytest.raises(StreamClosedError):
        await app({"type": "lifespan", "app": app}, inbox.get, sent.put)
    assert (await sent.get())["type"] == "lifespan.startup.failed"


def test_outside_the_main_thread_a_warning_says_that_signals_are_not_noticed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    module = import_module("codomyrmex.integrations.web.signals")
    monkeypatch.setattr(module, "_log", Diagnostics(module.__name__))

    async def serve_one() -> None:
        app = serve(InMemoryStream(), signals=True)
        await connect(app)
        await app.aclose()

    thread = threading.Thread(target=lambda: asyncio.run(serve_one()))
    thread.start()
    thread.join(DEADLINE)
    assert "signals cannot be handled outside the main thread" in caplog.text
    assert "await aclose() before it stops" in caplog.text
