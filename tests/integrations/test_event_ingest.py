"""`event_ingest`: valid events are published, invalid ones are reported."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import pytest
from codomyrmex.integrations.web import EventIngestApp, event_ingest, require_token
from codomyrmex.streaming import InMemoryStream, Stream, TopicStream
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.testing import FakeClock
from helpers import in_time, settle

JSON_LINES = ("content-type", "application/x-ndjson; charset=utf-8")
Headers = Iterable[tuple[str, str]]


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def as_bytes(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    return (body if isinstance(body, str) else json.dumps(body)).encode()


async def call(
    app: EventIngestApp,
    *messages: Any,
    method: str = "POST",
    headers: Headers = (),
    scope: Mapping[str, Any] | None = None,
) -> Answer:
    """Call the application with messages as a server sends them."""
    inbox = list(messages)
    sent: list[Any] = []

    async def receive() -> Any:
        message = inbox.pop(0)
        return await message if isinstance(message, asyncio.Future) else message

    async def send(message: Any) -> None:
        sent.append(message)

    whole = {
        "type": "http",
        "method": method,
        "path": "/",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        **(scope or {}),
    }
    await app(whole, receive, send)
    if not sent:
        return Answer(0, {}, "")
    start, *bodies = sent
    named = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], named, b"".join(message["body"] for message in bodies).decode())


async def post(
    app: EventIngestApp, body: Any, *headers: tuple[str, str], scope: Mapping[str, Any] | None = None
) -> Answer:
    return await call(app, {"type": "http.request", "body": as_bytes(body)}, headers=headers, scope=scope)


def published(stream: InMemoryStream) -> list[Any]:
    return [event.data for event in stream.get_recent_events(10_000)]


@pytest.fixture
def stream() -> InMemoryStream:
    return InMemoryStream(10_000)


@pytest.fixture
def app(stream: InMemoryStream) -> EventIngestApp:
    return event_ingest(stream)


# Valid bodies


async def test_one_event_is_published_and_answered_with_its_id(stream: InMemoryStream, app: EventIngestApp):
    answer = await post(app, {"data": {"order": 42}, "metadata": {"topic": "orders.created"}})
    [event] = stream.get_recent_events()
    assert (event.data, event.topic) == ({"order": 42}, "orders.created")
    assert (answer.status, answer.json) == (202, {"ids": [event.id], "errors": []})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"


async def test_an_event_keeps_all_its_fields(stream: InMemoryStream, app: EventIngestApp):
    whole = {
        "id": "given",
        "type": "error",
        "data": [1, None],
        "metadata": {"topic": "t", "more": True},
        "timestamp": "2026-01-02T03:04:05+00:00",
    }
    assert (await post(app, whole)).json["ids"] == ["given"]
    assert [event.to_dict() for event in stream.get_recent_events()] == [whole]


async def test_an_array_is_published_in_its_order(stream: InMemoryStream, app: EventIngestApp):
    answer = await post(app, [{"data": number} for number in range(5)])
    assert answer.status == 202
    assert published(stream) == list(range(5))
    assert answer.json["ids"] == [event.id for event in stream.get_recent_events()]


@pytest.mark.parametrize("headers", [[], [JSON_LINES], [("content-type", "application/jsonl")]])
@pytest.mark.parametrize(
    "body",
    [
        '{"data": 0}\n{"data": 1}\n{"data": 2}',
        '{"data": 0}\n{"data": 1}\n{"data": 2}\n',
        '{"data": 0}\r\n\r\n{"data": 1}\r\n{"data": 2}\r\n',
        '\ufeff{"data": 0}\n  \n{"data": 1}\n{"data": 2}',
    ],
)
async def test_json_lines_are_an_event_each(
    stream: InMemoryStream, app: EventIngestApp, body: str, headers: list[tuple[str, str]]
):
    assert (await post(app, body, *headers)).status == 202
    assert published(stream) == [0, 1, 2]


@pytest.mark.parametrize("headers", [[], [JSON_LINES]])
async def test_one_line_is_one_event(
    stream: InMemoryStream, app: EventIngestApp, headers: list[tuple[str, str]]
):
    assert (await post(app, '{"data": "a\u2028b"}\n', *headers)).status == 202
    assert published(stream) == ["a\u2028b"]


async def test_json_over_several_lines_is_one_event(stream: InMemoryStream, app: EventIngestApp):
    assert (await post(app, json.dumps({"data": {"a": [1, 2]}}, indent=2))).status == 202
    assert published(stream) == [{"a": [1, 2]}]


async def test_a_byte_order_mark_is_ignored(stream: InMemoryStream, app: EventIngestApp):
    assert (await post(app, b'\xef\xbb\xbf{"data": 1}')).status == 202
    assert published(stream) == [1]


@pytest.mark.parametrize(("body", "headers"), [("[]", []), ("", [JSON_LINES]), ("\n\n", [JSON_LINES])])
async def test_a_body_without_events_is_accepted(
    app: EventIngestApp, body: str, headers: list[tuple[str, str]]
):
    answer = await post(app, body, *headers)
    assert (answer.status, answer.json) == (202, {"ids": [], "errors": []})


async def test_a_body_may_come_in_parts(stream: InMemoryStream, app: EventIngestApp):
    body = as_bytes({"data": "ü"})
    parts = [{"type": "http.request", "body": body[i : i + 1], "more_body": True} for i in range(len(body))]
    answer = await call(app, *parts, {"type": "http.request"})
    assert answer.status == 202
    assert published(stream) == ["ü"]


# Invalid bodies


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (42, "must be a mapping"),
        (None, "must be a mapping"),
        ([], "must be a mapping"),
        ("text", "must be a mapping"),
        ({"id": 7}, "id: must be a string"),
        ({"type": "unknown"}, "type: must be one of message"),
        ({"type": ["message"]}, "type: must be one of"),
        ({"metadata": []}, "metadata: must be a mapping"),
        ({"timestamp": "yesterday"}, "timestamp: must be an ISO 8601 time"),
        ({"timestamp": 0}, "timestamp: must be an ISO 8601 time"),
        ({"timestamp": "0001-01-01T00:00:00+23:00"}, "timestamp: must be an ISO 8601 time"),
    ],
)
async def test_an_invalid_event_is_reported_by_index_and_the_others_are_published(
    stream: InMemoryStream, app: EventIngestApp, bad: Any, reason: str
):
    answer = await post(app, [{"data": "good"}, bad, {"data": "good too"}])
    assert answer.status == 202
    assert published(stream) == ["good", "good too"]
    assert len(answer.json["ids"]) == 2
    [error] = answer.json["errors"]
    assert error["index"] == 1
    assert reason in error["error"]


@pytest.mark.parametrize("headers", [[], [JSON_LINES]])
async def test_a_line_that_is_not_json_is_reported_by_index(
    stream: InMemoryStream, app: EventIngestApp, headers: list[tuple[str, str]]
):
    answer = await post(app, '{"data": 0}\n{"data": 1\n{"data": 2}\nnonsense', *headers)
    assert answer.status == 202
    assert published(stream) == [0, 2]
    assert [error["index"] for error in answer.json["errors"]] == [1, 3]
    assert all("not valid JSON" in error["error"] for error in answer.json["errors"])


async def test_if_all_events_are_invalid_the_status_is_400(stream: InMemoryStream, app: EventIngestApp):
    answer = await post(app, [{"id": 1}, {"id": 2}])
    assert (answer.status, answer.json["ids"]) == (400, [])
    assert [error["index"] for error in answer.json["errors"]] == [0, 1]
    assert published(stream) == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not valid JSON"),
        (b"nonsense", "not valid JSON"),
        (b'{"data": 1', "not valid JSON"),
        (b'{"data": "\xff"}', "not valid UTF-8"),
        (b'{"data": ' + b"1" * 5_000 + b"}", "not valid JSON"),
    ],
)
async def test_an_unreadable_body_is_a_400_with_the_problem(app: EventIngestApp, body: bytes, reason: str):
    answer = await post(app, body)
    assert answer.status == 400
    assert reason in answer.json["error"]


@pytest.mark.parametrize("headers", [[], [JSON_LINES]])
@pytest.mark.parametrize("opening", ["[", '{"data":', '{"data":['])
async def test_deep_nesting_is_invalid_and_does_no_harm(
    stream: InMemoryStream, app: EventIngestApp, opening: str, headers: list[tuple[str, str]]
):
    answer = await post(app, opening * 50_000, *headers)
    assert answer.status == 400
    lines = await post(app, '{"data": 1}\n' + opening * 50_000, *headers)
    assert (lines.status, len(lines.json["errors"])) == (202, 1)
    assert published(stream) == [1]


async def test_moderate_nesting_is_published(stream: InMemoryStream, app: EventIngestApp):
    assert (await post(app, '{"data": ' + "[" * 200 + "]" * 200 + "}")).status == 202
    assert len(published(stream)) == 1


async def test_lone_surrogates_and_infinite_numbers_do_no_harm(stream: InMemoryStream, app: EventIngestApp):
    body = (
        b'[{"id": "\\ud800", "data": "\\udfff"}, {"data": 1e999}, {"data": NaN}, {"id": 1, "x": "\\ud800"}]'
    )
    answer = await post(app, body)
    assert answer.status == 202
    assert (len(answer.json["ids"]), len(answer.json["errors"])) == (3, 1)
    assert all(event.to_dict() and event.to_sse().encode() for event in stream.get_recent_events())


async def test_a_topic_that_the_stream_rejects_is_an_error_of_its_event():
    stream = TopicStream()
    answer = await post(
        event_ingest(stream),
        [
            {"data": 1},
            {"metadata": {"topic": "a.*"}},
            {"metadata": {"topic": 1}},
            {"metadata": {"topic": "a"}},
        ],
    )
    assert answer.status == 202
    assert [error["index"] for error in answer.json["errors"]] == [0, 1, 2]
    assert stream.list_topics() == ["a"]


# Limits


async def test_the_size_of_a_body_is_limited(stream: InMemoryStream):
    body = as_bytes({"data": "x" * 100})
    assert (await post(event_ingest(stream, max_bytes=len(body)), body)).status == 202
    answer = await post(event_ingest(stream, max_bytes=len(body) - 1), body)
    assert answer.status == 413
    assert str(len(body) - 1) in answer.json["error"]
    assert len(published(stream)) == 1


async def test_a_body_that_is_too_large_is_not_read_to_its_end(stream: InMemoryStream):
    part = {"type": "http.request", "body": b"x" * 100, "more_body": True}
    answer = await call(event_ingest(stream, max_bytes=1_000), *[part] * 50, {"type": "http.request"})
    assert answer.status == 413


@pytest.mark.parametrize("headers", [[], [JSON_LINES]])
async def test_the_number_of_events_in_a_body_is_limited(
    stream: InMemoryStream, headers: list[tuple[str, str]]
):
    app = event_ingest(stream, max_events=3)
    assert (await post(app, '{"data": 0}\n' * 3, *headers)).status == 202
    error = "too many events: at most 3 are accepted in a body"
    for body in ('{"data": 0}\n' * 4, '{"data": 0}\n' * 5_000):
        answer = await post(app, body, *headers)
        assert (answer.status, answer.json) == (413, {"error": error})
    assert (await post(app, [{"data": 0}] * 4)).status == 413
    assert len(published(stream)) == 3


async def test_requests_beyond_the_rate_are_refused_with_a_retry_time(stream: InMemoryStream):
    clock = FakeClock()
    app = event_ingest(stream, rate=2, clock=clock)
    assert [(await post(app, {"data": 0})).status for _ in range(3)] == [202, 202, 429]
    answer = await post(app, {"data": 0})
    assert answer.headers["retry-after"] == "1"
    assert "at most 2 per second" in answer.json["error"]
    assert len(published(stream)) == 2
    clock.advance(0.5)
    assert [(await post(app, {"data": 0})).status for _ in range(2)] == [202, 429]
    clock.advance(60)
    assert [(await post(app, {"data": 0})).status for _ in range(3)] == [202, 202, 429]


async def test_a_body_is_accepted_or_refused_as_a_whole_by_the_rate(stream: InMemoryStream):
    clock = FakeClock()
    app = event_ingest(stream, rate=10, clock=clock)
    answer = await post(app, [{"data": 0}] * 1_000)
    assert answer.status == 413
    assert answer.json["error"] == "too many events: at most 10 are accepted at once at this rate"
    assert (await post(app, [{"data": 0}] * 8)).status == 202
    refused = await post(app, [{"data": 0}] * 5)
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert (await post(app, [{"data": 0}] * 2)).status == 202
    assert len(published(stream)) == 10
    clock.advance(0.5)
    assert (await post(app, [{"data": 0}] * 5)).status == 202
    assert len(published(stream)) == 15


def sent_by(address: str, token: str = "") -> dict[str, Any]:
    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    return {"client": (address, 1), "headers": headers}


async def test_one_sender_does_not_use_up_the_rate_of_others(stream: InMemoryStream):
    app = event_ingest(stream, rate=1, total_rate=3, clock=FakeClock())

    async def statuses(*senders: dict[str, Any]) -> list[int]:
        return [(await post(app, {"data": 0}, scope=sender)).status for sender in senders]

    one, two = sent_by("10.0.0.1", "ignored"), sent_by("10.0.0.2")
    assert await statuses(one, one, one, two) == [202, 429, 429, 202]
    network = [sent_by(f"2001:db8::{number}") for number in range(1, 4)]
    assert await statuses(*network) == [202, 429, 429]
    assert await statuses(sent_by("10.0.0.3")) == [429]  # all together


async def test_with_authorization_a_sender_is_an_address_with_a_token(stream: InMemoryStream):
    app = event_ingest(stream, rate=1, authorize=lambda _: "*", clock=FakeClock())
    senders = [sent_by("10.0.0.1", "a"), sent_by("10.0.0.1", "b"), sent_by("10.0.0.1", "a")]
    assert [(await post(app, {"data": 0}, scope=sender)).status for sender in senders] == [202, 202, 429]


async def test_a_sender_beyond_its_rate_is_refused_before_its_body_is_read(stream: InMemoryStream):
    app = event_ingest(stream, rate=1, clock=FakeClock())
    assert (await post(app, {"data": 0})).status == 202
    assert (await call(app)).status == 429  # a read would fail: there is nothing to read


async def test_many_senders_take_little_memory(stream: InMemoryStream):
    app = event_ingest(stream, rate=1, total_rate=1e9, clock=FakeClock())
    tracemalloc.start()
    for number in range(5_000):
        await post(app, {"id": 0}, scope=sent_by(f"10.{number // 250}.0.{number % 250}"))
    assert tracemalloc.get_traced_memory()[0] < 3_000_000
    tracemalloc.stop()


# What comes from outside


async def test_ids_times_and_metadata_from_outside_are_cleaned(stream: InMemoryStream, app: EventIngestApp):
    answer = await post(
        app,
        [
            {"id": " a"},
            {"id": "x" * 200_000},
            {"timestamp": "9999-12-31T23:59:59.999999+00:00"},
            {"metadata": {"codomyrmex.origin": "logs", "kept": 1}},
        ],
    )
    assert answer.status == 202
    one, two, three, four = stream.get_recent_events()
    assert answer.json["ids"] == [event.id for event in (one, two, three, four)]
    assert one.metadata == {"original_id": "' a'"}
    assert len(two.id) == 36
    assert three.timestamp.year < 9_000
    assert four.metadata == {"kept": 1}


@pytest.mark.parametrize("topic", ["a.*.>", "*", ">", "", "a.", "a" * 30_000, ["a"], {}, 1, True])
async def test_an_event_with_a_topic_that_nobody_can_publish_to_is_an_error(
    stream: InMemoryStream, app: EventIngestApp, topic: Any
):
    answer = await post(app, {"metadata": {"topic": topic}})
    assert answer.status == 400
    assert "topic" in answer.json["errors"][0]["error"]
    assert len(answer.text) < 500
    answer = await post(app, [{"data": 1}, {"metadata": {"topic": topic}}])
    assert (answer.status, [error["index"] for error in answer.json["errors"]]) == (202, [1])
    assert published(stream) == [1]


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        ("x" * 60_000, True),
        ("x" * 70_000, False),
        ([], True),
        ([[]] * 400, True),
        ([[]] * 1_000, False),
        ([{}] * 1_000, False),
        ([{"a": 1}] * 400, False),
    ],
)
@pytest.mark.parametrize("headers", [[], [JSON_LINES]])
async def test_the_memory_that_an_event_takes_is_limited(
    stream: InMemoryStream, value: Any, accepted: bool, headers: list[tuple[str, str]]
):
    app = event_ingest(stream, max_event_bytes=65_536)
    answer = await post(app, {"data": value}, *headers)
    assert answer.status == (202 if accepted else 400)
    assert accepted or "too large: about" in answer.json["errors"][0]["error"]
    if not headers:
        mixed = await post(app, [{"data": 1}, {"data": value}])
        assert (mixed.status, len(mixed.json["errors"])) == (202, not accepted)


@pytest.mark.parametrize("item", ["{}", "[]", "[0]", '{"data":0}', '"ü"'])
async def test_a_body_of_many_small_values_takes_little_memory(app: EventIngestApp, item: str):
    count = 1_000_000 // (len(item) + 1)
    bodies = [f"[{','.join([item] * count)}]", f'{{"data":[{",".join([item] * (count // 10))}]}}']
    for body, status in zip(bodies, (413, 400), strict=True):
        encoded = body.encode()
        tracemalloc.start()
        assert (await post(app, encoded)).status == status
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 12_000_000
    lines = (item + "\n") * count
    assert (await post(app, lines, JSON_LINES)).status == 413


async def test_a_body_that_does_not_arrive_is_refused_in_time(stream: InMemoryStream):
    clock = FakeClock()
    app = event_ingest(stream, body_timeout=5, clock=clock)
    never = asyncio.get_running_loop().create_future()
    posting = asyncio.create_task(call(app, {"type": "http.request", "body": b"[", "more_body": True}, never))
    await settle()
    clock.advance(5)
    answer = await posting
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    assert answer.json["error"] == "the body did not arrive within 5 s"
    assert clock.pending() == 0


async def test_a_request_that_is_cancelled_while_its_body_arrives_stays_cancelled(app: EventIngestApp):
    never = asyncio.get_running_loop().create_future()
    posting = asyncio.create_task(call(app, never))
    await settle()
    posting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await posting


async def test_the_memory_of_unfinished_bodies_is_limited(stream: InMemoryStream):
    app = event_ingest(stream, max_bytes=100, clock=FakeClock())
    part = {"type": "http.request", "body": b"x" * 100, "more_body": True}
    loop = asyncio.get_running_loop()
    unfinished = [asyncio.create_task(call(app, part, loop.create_future())) for _ in range(100)]
    await settle()
    refused = [task.result() for task in unfinished if task.done()]
    assert 60 < len(refused) < 70
    assert {(answer.status, answer.headers["retry-after"]) for answer in refused} == {(503, "1")}
    for task in unfinished:
        task.cancel()
    await asyncio.wait(unfinished)
    assert (await post(app, {"data": 1})).status == 202


async def test_a_body_that_says_that_it_is_too_large_is_not_read(stream: InMemoryStream):
    app = event_ingest(stream, max_bytes=100)
    assert (await call(app, headers=[("content-length", "101")])).status == 413
    for length in ("²", "-1", "9" * 50, "", "10_0"):
        assert (await post(app, {"data": 1}, ("content-length", length))).status == 202


@pytest.mark.parametrize(
    ("options", "host", "status"),
    [
        ({}, "rebound.example", 421),
        ({}, "localhost", 202),
        ({"allowed_hosts": ["in.example"]}, "in.example", 202),
        ({"authorize": lambda _: "*"}, "any.example", 202),
    ],
)
async def test_requests_for_other_hosts_are_refused(
    stream: InMemoryStream, options: dict[str, Any], host: str, status: int
):
    assert (await post(event_ingest(stream, **options), {"data": 1}, ("host", host))).status == status


# Authorization


async def test_unauthorized_requests_are_refused_before_the_body_is_read(stream: InMemoryStream):
    app = event_ingest(stream, authorize=require_token("right"))
    answer = await call(app)  # a read would fail: there is nothing to read
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    answer = await post(app, {"data": 1}, ("authorization", "Bearer right"))
    assert answer.status == 202


@pytest.mark.parametrize("is_async", [False, True])
async def test_each_event_needs_an_authorized_topic(stream: InMemoryStream, is_async: bool):
    async def allowed(scope: Any) -> list[str]:
        await asyncio.sleep(0)
        return ["orders.>"]

    app = event_ingest(stream, authorize=allowed if is_async else lambda _: "orders.>")
    topics = ["orders.created", "users.created", None, ["orders.created"], "orders"]
    answer = await post(app, [{"data": n, "metadata": {"topic": topic}} for n, topic in enumerate(topics)])
    assert published(stream) == [0]
    assert [error["index"] for error in answer.json["errors"]] == [1, 2, 3, 4]
    assert "'users.created'" in answer.json["errors"][0]["error"]


async def test_an_authorize_that_raises_admits_nothing_and_its_message_is_hidden(
    stream: InMemoryStream, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    module = import_module("codomyrmex.integrations.web.http")
    monkeypatch.setattr(module, "_log", Diagnostics(module.__name__))

    def authorize(scope: Any) -> str:
        raise PermissionError("secret")

    answer = await post(event_ingest(stream, authorize=authorize), {"data": 1})
    assert answer.status == 500
    assert "secret" not in answer.text
    assert published(stream) == []
    assert "authorize raised PermissionError" in caplog.text


@pytest.mark.parametrize(
    ("headers", "allowed", "status"),
    [
        ([], [], 202),  # no browser
        ([("origin", "https://here.example"), ("host", "here.example")], [], 202),
        ([("origin", "http://localhost:8000"), ("host", "localhost:8000")], [], 202),
        ([("origin", "https://evil.example"), ("host", "here.example")], [], 403),
        ([("origin", "http://localhost:9000"), ("host", "localhost:8000")], [], 403),
        ([("origin", "null"), ("host", "here.example")], [], 403),
        ([("origin", "https://app.example"), ("host", "here.example")], ["https://app.example"], 202),
        ([("origin", "https://evil.example"), ("host", "here.example")], ["https://app.example"], 403),
        ([("origin", "https://any.example"), ("host", "here.example")], ["*"], 202),
    ],
)
async def test_pages_of_other_origins_publish_nothing_unless_allowed(
    stream: InMemoryStream, headers: list[tuple[str, str]], allowed: list[str], status: int
):
    app = event_ingest(stream, allow_origins=allowed, allowed_hosts=["here.example"])
    answer = await post(app, {"data": 1}, *headers)
    assert (answer.status, len(published(stream))) == (status, status == 202)
    shown = answer.headers.get("access-control-allow-origin")
    assert shown == (("*" if "*" in allowed else allowed[0]) if allowed and status == 202 else None)


@pytest.mark.parametrize("allowed", [[], ["https://app.example"]])
async def test_a_preflight_is_answered_if_the_origin_is_allowed(stream: InMemoryStream, allowed: list[str]):
    app = event_ingest(stream, allow_origins=allowed)
    headers = [("origin", "https://app.example"), ("access-control-request-method", "POST")]
    headers += [("access-control-request-headers", "content-type, authorization")]
    answer = await call(app, method="OPTIONS", headers=headers)
    assert answer.status == (200 if allowed else 405)
    assert answer.headers.get("access-control-allow-methods") == ("POST" if allowed else None)


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD"])
async def test_other_methods_are_refused(app: EventIngestApp, method: str):
    answer = await call(app, method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert answer.json["error"] == f"{method} is not allowed; use POST"


# Failures


async def test_a_client_that_disconnects_publishes_nothing_and_gets_no_response(
    stream: InMemoryStream, app: EventIngestApp
):
    begun = {"type": "http.request", "body": b'{"data": 1}', "more_body": True}
    answer = await call(app, begun, {"type": "http.disconnect"})
    assert answer.status == 0
    assert published(stream) == []


async def test_a_closed_stream_is_a_503_with_a_retry_time(stream: InMemoryStream, app: EventIngestApp):
    await stream.aclose()
    answer = await post(app, {"data": 1})
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert "closed" in answer.json["error"]


@pytest.mark.parametrize("error", [ConnectionError("redis://:secret@host"), RuntimeError("secret")])
async def test_a_stream_that_fails_midway_is_a_503_with_the_published_ids(
    stream: InMemoryStream, app: EventIngestApp, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    publish = stream.publish

    async def fails_at_two(event: Any) -> None:
        if event.data == 2:
            raise error
        await publish(event)

    monkeypatch.setattr(stream, "publish", fails_at_two)
    answer = await post(app, [{"data": 0}, {"id": 1}, {"data": 2}, {"data": 3}])
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert (len(answer.json["ids"]), answer.json["errors"][0]["index"]) == (1, 1)
    assert "secret" not in answer.text


@in_time
async def test_it_serves_http_and_the_lifespan_only(app: EventIngestApp):
    inbox = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def receive() -> Any:
        return inbox.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await app({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(RuntimeError, match="over HTTP, not over websocket"):
        await app({"type": "websocket", "path": "/"}, receive, send)


@pytest.mark.parametrize(
    "options",
    [
        {"max_bytes": 0},
        {"max_events": 0},
        {"max_events": True},
        {"rate": 0},
        {"rate": float("inf")},
        {"rate": "1"},
    ],
)
def test_arguments_out_of_range_are_rejected(stream: Stream, options: dict[str, Any]):
    with pytest.raises(ValueError):
        event_ingest(stream, **options)


def test_other_types_than_streams_are_rejected():
    with pytest.raises(TypeError, match="must be a Stream, got dict"):
        event_ingest({})  # type: ignore[arg-type]
