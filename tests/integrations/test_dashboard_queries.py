"""The API of a live page for programs: events, groups, silences, explanations, and dead letters."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from alert_channels import Inbox, fires, routing, running
from codomyrmex.integrations import DeadLetters, DeliveryPolicy, Sink, attach, attach_blocking
from codomyrmex.integrations.durable import DurableStream, SQLiteStore
from codomyrmex.integrations.web import DashboardApp, dashboard, require_token
from codomyrmex.streaming import Event, InMemoryStream, create_event
from helpers import in_time, settle
from sse_connection import Connection

TOKEN = "correct horse"
BEARER = {"authorization": f"Bearer {TOKEN}"}
HOSTILE = "<script>alert(1)</script>\u2028\"'&"


async def get(app: DashboardApp, path: str, **query: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://page.localhost") as page:
        return await page.get(f"/api/{path}", params=query)


async def post(app: DashboardApp, path: str, form: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://page.localhost") as page:
        return await page.post(f"/api/{path}", json=form, headers=BEARER)


# Events


@in_time
async def test_recent_events_are_read_page_by_page():
    stream = InMemoryStream()
    for number in range(5):
        await stream.publish(create_event({"n": number}, topic="orders.placed"))
    app = dashboard(stream)
    page = (await get(app, "recent", topic="orders.>", limit=2)).json()
    assert [each["event"]["data"]["n"] for each in page["events"]] == [3, 4]
    assert (page["has_more"], page["missed"]) == (True, False)
    await stream.publish(create_event({"n": 5}, topic="orders.placed"))
    page = (await get(app, "recent", after=page["cursor"], wait=20)).json()
    assert [each["event"]["data"]["n"] for each in page["events"]] == [5]
    assert page["events"][0]["cursor"] == page["cursor"]
    await app.aclose()


@in_time
async def test_a_wait_for_events_ends_when_the_page_closes():
    app = dashboard(InMemoryStream())
    cursor = (await get(app, "recent")).json()["cursor"]
    waiting = asyncio.create_task(get(app, "recent", after=cursor, wait=30))
    await settle()
    await app.aclose()
    assert (await waiting).json()["events"] == []


@in_time
async def test_a_client_that_disconnects_ends_its_wait():
    app = dashboard(InMemoryStream(), max_clients=1)
    cursor = (await get(app, "recent")).json()["cursor"]
    leaving = Connection(app, path="/api/recent", after=cursor, wait="30")
    await settle()
    refused = await get(app, "recent", after=cursor, wait=30)
    assert (refused.status_code, refused.json()["error"]) == (
        503,
        "too many requests are waiting; try again soon",
    )
    leaving.leave()
    await leaving.task
    waiting = asyncio.create_task(get(app, "recent", after=cursor, wait=30))
    await settle()
    assert not waiting.done()
    await app.aclose()
    await waiting


@in_time
async def test_events_of_topics_that_a_request_may_not_see_are_not_on_its_pages():
    stream = InMemoryStream()
    app = dashboard(stream, authorize=require_token("t", "public.*"))
    assert (await get(app, "recent")).status_code == 401
    for topic in ("public.a", "secret.a"):
        await stream.publish(create_event(0, topic=topic))
    page = (await get(app, "recent", access_token="t")).json()
    assert [each["event"]["metadata"]["topic"] for each in page["events"]] == ["public.a"]


@pytest.mark.parametrize("with_cursor", [False, True])
@in_time
async def test_large_events_make_no_large_page(with_cursor):
    stream = InMemoryStream()
    app = dashboard(stream)
    start = (await get(app, "recent")).json()["cursor"]
    data = {f"field {number}": "x" * 1_000 for number in range(90)}
    for number in range(20):
        await stream.publish(create_event({"n": number, **data}))
    answer = await get(app, "recent", **({"after": start} if with_cursor else {}))
    page = answer.json()
    numbers = [each["event"]["data"]["n"] for each in page["events"]]
    assert len(answer.content) < 1_100_000
    assert page["has_more"]
    if not with_cursor:
        assert numbers == list(range(20 - len(numbers), 20))
        return
    while page["has_more"]:
        page = (await get(app, "recent", after=page["cursor"])).json()
        numbers += [each["event"]["data"]["n"] for each in page["events"]]
    assert numbers == list(range(20))


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ({"limit": "many"}, "limit: must be a number of at least 0, got 'many'"),
        ({"limit": "0"}, "limit: must be from 1 to 500, got 0"),
        ({"limit": "nan"}, "limit: must be a number of at least 0, got 'nan'"),
        ({"wait": "-1"}, "wait: must be a number of at least 0, got '-1'"),
        ({"topic": "a..b"}, "a..b"),
    ],
)
@in_time
async def test_an_invalid_query_for_events_is_reported(query, problem):
    answer = await get(dashboard(InMemoryStream()), "recent", **query)
    assert answer.status_code == 400
    assert problem in answer.json()["error"]


@in_time
async def test_a_stream_that_is_closed_is_a_503(tmp_path):
    stream = DurableStream(SQLiteStore(tmp_path / "events.db"))
    app = dashboard(stream)
    await stream.aclose()
    answer = await get(app, "recent")
    assert answer.status_code == 503
    assert "the stream is not available" in answer.json()["error"]
    await app.aclose()


@pytest.mark.parametrize("durable", [False, True])
@in_time
async def test_the_stream_is_described(durable, tmp_path):
    stream = DurableStream(SQLiteStore(tmp_path / "events.db")) if durable else InMemoryStream()
    async with stream:
        app = dashboard(stream, buffer_size=2)
        for number in range(3):
            await stream.publish(create_event(number, topic="a.b"))
        found = (await get(app, "stream")).json()
        assert found["subscribers"] >= 1
        kept = ("durable", 3, None) if durable else ("in_memory", 2, 2)
        assert (found["type"], found["kept"], found["capacity"]) == kept
        assert durable or found["topics"] == ["a.b"]  # those of a durable stream come a little later
        await app.aclose()


# Alerts


@in_time
async def test_groups_are_found_by_the_labels_and_states_of_their_alerts():
    rule = {"source_matchers": ['alertname="power"'], "target_matchers": ['alertname="fan"']}
    async with running(routing(inhibit_rules=[rule]), {"ops": Inbox()}) as run:
        app = dashboard(run.stream, alerts=run.sink, clock=run.clock)
        await run.publish(fires("disk", labels={"host": "a"}), fires("disk", labels={"host": HOSTILE}))
        await run.publish(fires("power"), fires("fan"))
        await run.pass_time(40)

        async def found(**query: Any) -> list[tuple[str, int]]:
            groups = (await get(app, "groups", **query)).json()["groups"]
            return [(group["labels"]["alertname"], len(group["alerts"])) for group in groups]

        assert sorted(await found()) == [("disk", 2), ("fan", 1), ("power", 1)]
        assert await found(matchers='host="a"') == [("disk", 1)]
        assert await found(matchers='alertname=~"p.*",host=""') == [("power", 1)]
        assert await found(state="suppressed") == [("fan", 1)]
        assert sorted(await found(state="active")) == [("disk", 2), ("power", 1)]
        assert await found(state="resolved") == []
        answer = (await get(app, "groups", limit=2)).json()
        assert (len(answer["groups"]), answer["total"], answer["has_more"]) == (2, 3, True)


@in_time
async def test_silences_are_listed_with_their_state():
    async with running(routing(), {"ops": Inbox()}) as run:
        app = dashboard(run.stream, alerts=run.sink, clock=run.clock, allow_actions=TOKEN)
        form = {"matchers": 'alertname="disk"', "duration": "2h", "comment": HOSTILE, "created_by": "ann"}
        preview = (await post(app, "silences/preview", form)).json()
        assert (preview["matchers"], preview["ends_at"] - preview["starts_at"]) == (
            ['alertname="disk"'],
            7_200,
        )
        assert (await get(app, "silences")).json()["silences"] == []
        first = (await post(app, "silences", form)).json()["id"]
        second = (await post(app, "silences", {**form, "created_by": "bob"})).json()["id"]
        await post(app, "silences/expire", {"id": first})
        listed = (await get(app, "silences")).json()
        assert [(each["id"], each["state"]) for each in listed["silences"]] == [
            (second, "active"),
            (first, "expired"),
        ]
        assert (listed["total"], listed["has_more"]) == (2, False)
        [silence] = (await get(app, "silences", state="active")).json()["silences"]
        assert (silence["matchers"], silence["comment"]) == (['alertname="disk"'], HOSTILE)


@in_time
async def test_any_labels_can_be_explained():
    async with running(routing(), {"ops": Inbox()}) as run:
        app = dashboard(run.stream, alerts=run.sink, clock=run.clock)
        answer = await get(app, "explain", labels=json.dumps({"alertname": "none", "host": HOSTILE}))
        assert answer.json()["receivers"] == ["ops"]
        assert answer.json()["labels"]["host"] == HOSTILE
        assert "no such group yet" in answer.json()["root"]["match"]["notes"][0]


@in_time
async def test_it_explains_why_nobody_was_notified():
    rule = {"source_matchers": ['alertname="power"'], "target_matchers": ['alertname="fan"']}
    async with running(routing(inhibit_rules=[rule]), {"ops": Inbox()}) as run:
        app = dashboard(run.stream, alerts=run.sink, clock=run.clock)
        await run.publish(fires("power"), fires("fan", labels={"host": HOSTILE}))
        await run.pass_time(40)
        found = (await get(app, "why", labels=json.dumps({"host": HOSTILE}))).json()
        [alert] = found["alerts"]
        assert (alert["notified"], alert["reasons"][0]["code"]) == (False, "inhibited")
        by_group = (await get(app, "why", group=alert["group"], limit=5)).json()
        assert by_group["alerts"] == found["alerts"]


@pytest.mark.parametrize(
    ("path", "query", "problem"),
    [
        ("why", {}, "labels: at least one label, or a group, is required"),
        ("why", {"labels": '{"a": ""}'}, "labels: at least one label, or a group, is required"),
        ("why", {"labels": '{"a": 1}'}, "labels: must be a JSON object with text values"),
        ("groups", {"matchers": "x=~("}, "matchers: "),
        ("groups", {"matchers": "x=y," * 3_000}, "matchers: must have at most 8000 characters, got 12000"),
        ("groups", {"state": "sad"}, "state: must be one of active, suppressed, resolved, got 'sad'"),
        ("groups", {"limit": "x"}, "limit: must be a number of at least 0, got 'x'"),
        ("silences", {"state": "sad"}, "state: must be one of active, pending, expired, got 'sad'"),
        ("explain", {"labels": "x"}, "labels: must be a JSON object with text values"),
        ("explain", {"labels": "[" * 5_000}, "labels: must be a JSON object with text values"),
        ("explain", {"labels": '{"a": 1}'}, "labels: must be a JSON object with text values"),
        ("explain", {"labels": " " * 9_000}, "labels: must have at most 8000 characters, got 9000"),
    ],
)
@in_time
async def test_an_invalid_query_for_alerts_is_reported(path, query, problem):
    async with running(routing(), {"ops": Inbox()}) as run:
        answer = await get(dashboard(run.stream, alerts=run.sink), path, **query)
    assert answer.status_code == 400
    assert problem in answer.json()["error"]


@pytest.mark.parametrize("path", ["groups", "silences", "explain", "why"])
@in_time
async def test_queries_for_alerts_need_an_alert_sink_and_access_to_all_topics(path):
    async with running(routing(), {"ops": Inbox()}) as run:
        assert (await get(dashboard(run.stream), path)).status_code == 404
        app = dashboard(run.stream, alerts=run.sink, authorize=require_token("t", "public.*"))
        assert (await get(app, path)).status_code == 401
        assert (await get(app, path, access_token="t")).status_code == 403
    answer = await get(dashboard(run.stream, alerts=run.sink), path, labels='{"a": "b"}')
    assert answer.status_code == 503
    assert "is not open" in answer.json()["error"]


@in_time
async def test_concurrent_queries_for_alerts_call_the_alert_sink_once(monkeypatch):
    async with running(routing(), {"ops": Inbox()}) as run:
        app = dashboard(run.stream, alerts=run.sink, clock=run.clock)
        asked = 0
        groups = run.sink.groups

        async def count() -> Any:
            nonlocal asked
            asked += 1
            return await groups()

        monkeypatch.setattr(run.sink, "groups", count)
        await asyncio.gather(*(get(app, "groups") for _ in range(50)))
        assert asked == 1
        run.clock.advance(1)
        await get(app, "silences")
        assert asked == 2


@in_time
async def test_an_alert_sink_that_does_not_respond_is_called_once_for_concurrent_queries(monkeypatch):
    monkeypatch.setattr("codomyrmex.integrations.web.snapshot.ALERTS_TIMEOUT", 0.05)
    async with running(routing(), {"ops": Inbox()}) as run:
        app = dashboard(run.stream, alerts=run.sink, clock=run.clock)
        asked = 0
        groups = run.sink.groups

        async def hang() -> Any:
            nonlocal asked
            asked += 1
            await asyncio.Event().wait()

        monkeypatch.setattr(run.sink, "groups", hang)
        answers = await asyncio.gather(*(get(app, "groups") for _ in range(50)))
        assert {answer.status_code for answer in answers} == {503}
        assert all("no response within 0.05 s" in answer.json()["error"] for answer in answers)
        assert asked == 1
        monkeypatch.setattr(run.sink, "groups", groups)
        run.clock.advance(1)
        assert (await get(app, "groups")).status_code == 200


@in_time
async def test_a_silence_that_is_added_while_others_are_read_is_in_the_next_response(monkeypatch):
    async with running(routing(), {"ops": Inbox()}) as run:
        app = dashboard(run.stream, alerts=run.sink, clock=run.clock, allow_actions=TOKEN)
        silences, read, added = run.sink.silences, asyncio.Event(), asyncio.Event()

        async def slowly() -> Any:
            found = await silences()
            read.set()
            await added.wait()
            return found

        monkeypatch.setattr(run.sink, "silences", slowly)
        reading = asyncio.create_task(get(app, "silences"))
        await read.wait()
        form = {"matchers": "a=b", "duration": "2h", "comment": "", "created_by": "ann"}
        await post(app, "silences", form)
        added.set()
        assert (await reading).json()["silences"] == []
        assert len((await get(app, "silences")).json()["silences"]) == 1


# Dead letters


class Warehouse(Sink):
    name = "warehouse"

    def __init__(self) -> None:
        self.broken = True
        self.received: list[Any] = []

    async def send(self, events: Sequence[Event]) -> None:
        if self.broken:
            raise OSError("no connection")
        self.received += [event.data for event in events]


ONCE = DeliveryPolicy(max_attempts=1, batch_age=0)


@pytest.mark.parametrize("durable", [False, True])
@in_time
async def test_dead_letters_are_replayed_with_the_token(durable, tmp_path):
    stream = DurableStream(SQLiteStore(tmp_path / "events.db")) if durable else InMemoryStream()
    sink, letters = Warehouse(), None if durable else DeadLetters()
    async with stream, attach(stream, sink, policy=ONCE, dead_letters=letters) as attachment:
        app = dashboard(stream, attachment, allow_actions=TOKEN)
        await stream.publish(create_event(1))
        await attachment.flush()
        sink.broken = False
        assert (await post(app, "dead_letters/replay", {"x": "y"})).status_code == 400
        assert (await post(app, "dead_letters/replay", {})).json() == {"replayed": 1}
        await attachment.flush()
        assert sink.received == [1]
        assert (await post(app, "dead_letters/replay", {})).json() == {"replayed": 0}
        await app.aclose()


def test_dead_letters_of_sinks_on_another_thread_are_replayed():
    stream, sink = InMemoryStream(), Warehouse()
    with attach_blocking(stream, sink, policy=ONCE, dead_letters=DeadLetters()) as attachment:
        stream.publish_nowait(create_event(1))
        attachment.flush()
        sink.broken = False

        async def replay() -> Any:
            return await post(dashboard(stream, attachment, allow_actions=TOKEN), "dead_letters/replay", {})

        assert asyncio.run(replay()).json() == {"replayed": 1}
        attachment.flush()
    assert sink.received == [1]


@in_time
async def test_without_dead_letters_there_is_nothing_to_replay():
    stream = InMemoryStream()
    async with attach(stream, Warehouse()) as attachment:
        app = dashboard(stream, attachment, allow_actions=TOKEN)
        answer = await post(app, "dead_letters/replay", {})
        assert (answer.status_code, answer.json()["error"]) == (
            404,
            "dead_letters: the attachment keeps none; pass dead_letters= to attach",
        )
    assert (await post(app, "dead_letters/replay", {})).status_code == 503
    assert (await post(dashboard(stream, attachment), "dead_letters/replay", {})).status_code == 403

    class Health:
        def health(self) -> dict[str, Any]:
            return {}

    app = dashboard(stream, Health(), allow_actions=TOKEN)
    assert (await post(app, "dead_letters/replay", {})).status_code == 404


# Publishing


@in_time
async def test_an_event_is_published_with_the_token_if_the_page_accepts_events():
    stream = InMemoryStream()
    app = dashboard(stream, allow_actions=TOKEN, allow_publish=True)
    form = {"data": {"n": 1}, "type": "error", "metadata": {"topic": "a.b", "codomyrmex.x": 1}}
    answer = await post(app, "publish", form)
    assert answer.status_code == 202
    [event] = stream.get_recent_events(1)
    assert (event.data, event.type, event.metadata) == ({"n": 1}, "error", {"topic": "a.b"})
    assert answer.json() == {"id": event.id, "timestamp": event.timestamp.isoformat()}
    for form in ({"data": 1, "metadata": {"topic": "a..b"}}, {"type": "none"}, [1]):
        assert (await post(app, "publish", form)).status_code == 400
    assert len(stream.get_recent_events(9)) == 1
    await stream.aclose()
    answer = await post(app, "publish", {"data": 1})
    assert answer.status_code == 503
    assert "the event was not published" in answer.json()["error"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"allow_actions": TOKEN}, "this page accepts no events; pass allow_publish=True to `dashboard`"),
        ({"allow_publish": True}, "this page is read-only"),
    ],
)
@in_time
async def test_a_page_accepts_events_only_with_allow_publish(options, problem):
    answer = await post(dashboard(InMemoryStream(), **options), "publish", {"data": 1})
    assert (answer.status_code, answer.json()["error"]) == (403, problem)
