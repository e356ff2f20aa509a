"""`dashboard` without a browser: responses, authorization, actions; and `serve`."""

from __future__ import annotations

import asyncio
import json
import math
import re
import socket
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from alert_channels import Inbox, Running, fires, routing, running, until
from codomyrmex.integrations import MissingExtraError, PermanentError, Sink, attach, web
from codomyrmex.integrations.notification import AlertSink
from codomyrmex.integrations.service_mesh import (
    BreakerEventKind,
    BreakerState,
    CircuitBoard,
    CircuitBreakerEvent,
)
from codomyrmex.integrations.web import (
    DashboardApp,
    PublicAddressError,
    check_address,
    dashboard,
    paging,
    require_token,
    serve,
    serving,
)
from codomyrmex.streaming import InMemoryStream, SSEDecoder, StreamClosedError, create_event
from codomyrmex.streaming.testing import FakeClock
from helpers import in_time
from starlette.applications import Starlette
from starlette.routing import Mount

PAGE = Path(web.__file__).parent / "page"
FILES = sorted(file.name for file in PAGE.iterdir())
TOKEN = "correct horse"
BEARER = {"authorization": f"Bearer {TOKEN}"}
SILENCE = {"matchers": 'alertname="disk"', "duration": "2h", "comment": "moving it", "created_by": "ann"}
HOSTILE = "<script>alert(1)</script>\ud800\u2028\"'&"


def client(app: Any, root_path: str = "", **headers: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, root_path=root_path)
    return httpx.AsyncClient(transport=transport, base_url="http://page.localhost", headers=headers)


async def state(app: Any, **headers: str) -> dict[str, Any]:
    async with client(app) as page:
        return (await page.get("/api/state", headers=headers)).raise_for_status().json()


async def post(app: Any, path: str, form: Any, **headers: str) -> httpx.Response:
    async with client(app) as page:
        return await page.post(path, json=form, headers={**BEARER, **headers})


@asynccontextmanager
async def alerting(**options: Any) -> AsyncIterator[tuple[Running, DashboardApp]]:
    """Yield a running alert sink with one alert, and a page that shows it."""
    audit = InMemoryStream()
    async with running(routing(), {"ops": Inbox()}, audit=audit) as run:
        options = {"audit": audit, "allow_actions": TOKEN, "clock": run.clock, **options}
        app = dashboard(run.stream, run.attachment, run.sink, **options)
        await run.publish(fires("disk", labels={"host": HOSTILE}, annotations={"summary": HOSTILE}))
        yield run, app


# The page


@pytest.mark.parametrize("path", ["", *FILES])
async def test_each_file_is_served_with_restrictive_headers(path):
    async with client(dashboard(InMemoryStream())) as page:
        answer = await page.get(f"/{path}")
        head = await page.head(f"/{path}")
    assert answer.status_code == head.status_code == 200
    assert head.content == b""
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in answer.headers


def test_the_files_request_nothing_from_other_hosts_and_insert_no_html():
    for path in FILES:
        text = (PAGE / path).read_text().replace('"http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?:|[\"'(]//", text), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text), path
        assert not re.search(r"<[^>]*\s(on\w+|style)=|<script>|<style>", text), path


async def test_only_the_page_is_served():
    async with client(dashboard(InMemoryStream())) as page:
        for path in (
            "/../dashboard.py",
            "/%2e%2e/serve.py",
            "/..%2fserve.py",
            "//etc/passwd",
            "/api",
            "/page/app.js",
        ):
            answer = await page.get(path)
            assert answer.status_code == 404, path
            assert answer.headers["content-security-policy"]
        assert (await page.post("/")).status_code == 405
        assert (await page.get("/api/explain?fingerprint=x")).status_code == 404
        head = await page.head("/api/state")
        assert (head.status_code, head.content) == (200, b"")


async def test_it_can_be_mounted_under_a_path():
    outer = Starlette(routes=[Mount("/ops/live", dashboard(InMemoryStream(), title="Mounted"))])
    async with client(outer) as page:
        assert (await page.get("/ops/live", follow_redirects=True)).url.path == "/ops/live/"
        assert "text/html" in (await page.get("/ops/live/")).headers["content-type"]
        assert "text/javascript" in (await page.get("/ops/live/app.js")).headers["content-type"]
        assert (await page.get("/ops/live/api/state")).json()["title"] == "Mounted"


async def test_without_the_trailing_slash_that_its_files_need_the_page_redirects():
    app = dashboard(InMemoryStream())
    async with client(app, "/a b/live") as page:
        answer = await page.get("/a b/live?x=1")
        assert (answer.status_code, answer.headers["location"]) == (308, "live/?x=1")
        assert (await page.get("/a b/live/")).status_code == 200
        assert (await page.get("/a b/live/style.css")).status_code == 200


async def test_it_serves_http_and_the_lifespan_only():
    app = dashboard(InMemoryStream())
    sent: list[Any] = []
    asked = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Any:
        return next(asked)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await app({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(RuntimeError, match="over HTTP, not over websocket"):
        await app({"type": "websocket", "path": "/"}, receive, send)


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        (("no stream",), {}, TypeError, "stream: must be a Stream"),
        ((InMemoryStream(),), {"audit": []}, TypeError, "audit: must be a Stream"),
        ((InMemoryStream(), object()), {}, TypeError, r"health\(\)"),
        ((InMemoryStream(), None, object()), {}, TypeError, r"explain\(\)"),
        ((InMemoryStream(), None, None, object()), {}, TypeError, r"snapshot\(\)"),
        ((InMemoryStream(),), {"allow_actions": True}, TypeError, "allow_actions: must be a token"),
        ((InMemoryStream(),), {"allow_actions": " "}, ValueError, "allow_actions: must not be empty"),
        ((InMemoryStream(),), {"max_clients": 0}, ValueError, "max_clients"),
    ],
)
async def test_invalid_arguments_are_rejected(args, options, error, message):
    with pytest.raises(error, match=message):
        dashboard(*args, **options)


# The events


async def connect(app: DashboardApp, count: int, **headers: str) -> list[tuple[str, Any]]:
    """Read events as a newly opened page does."""
    found: list[tuple[str, Any]] = []
    decoder, gone = SSEDecoder(), asyncio.Event()

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            found.extend((record.event, json.loads(record.data)) for record in decoder.feed(message["body"]))
            if len(found) >= count:
                gone.set()

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/events",
        "query_string": b"last_event_id=start",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await app(scope, receive, send)
    return found


@in_time
async def test_a_page_begins_with_the_recent_events_of_the_stream():
    stream = InMemoryStream()
    for number in range(5):
        await stream.publish(create_event(number, topic="a"))
    app = dashboard(stream, buffer_size=3)
    await stream.publish(create_event(5, topic="b"))
    (kind, report), *events = await connect(app, 4)
    assert (kind, report["resumed"]) == ("connect", False)
    assert [event["data"] for _, event in events] == [3, 4, 5]
    await app.aclose()
    assert app.clients == 0


async def test_the_events_of_each_topic_are_counted_per_second():
    stream, clock = InMemoryStream(), FakeClock()
    app = dashboard(stream, clock=clock)
    for topic, count in (("b", 3), ("a", 1), (None, 2)):
        for _ in range(count):
            await stream.publish(create_event(0, **({} if topic is None else {"topic": topic})))
    clock.advance(2)
    await stream.publish(create_event(0, topic="a"))
    clock.advance(1)
    topics = (await state(app))["topics"]
    assert topics["total"] == 7
    assert topics["counts"][-4:] == [0, 6, 0, 1]
    assert [(each["topic"], each["total"]) for each in topics["shown"]] == [("b", 3), (None, 2), ("a", 2)]
    clock.advance(100)
    assert sum((await state(app))["topics"]["counts"]) == 0


async def test_counts_of_topics_are_those_of_the_last_minute():
    stream, clock = InMemoryStream(), FakeClock()
    app = dashboard(stream, clock=clock)
    for _ in range(200):
        await stream.publish(create_event(0, topic="a"))
        clock.advance(1)
    topics = (await state(app))["topics"]
    assert (topics["total"], topics["counts"]) == (200, [1] * 60)


async def test_the_number_of_topics_is_bounded():
    stream = InMemoryStream()
    app = dashboard(stream)
    for number in range(2_000):
        await stream.publish(create_event(0, topic=f"t.{number}"))
    topics = (await state(app))["topics"]
    assert (len(topics["shown"]), topics["others"]) == (24, 476)


# Other sections


async def test_a_section_without_a_source_is_none():
    found = await state(dashboard(InMemoryStream(), title="Shop"))
    assert {name: found[name] for name in ("sinks", "breakers", "alerts", "notifications")} == dict.fromkeys(
        ("sinks", "breakers", "alerts", "notifications")
    )
    assert (found["title"], found["actions"], found["may_act"]) == ("Shop", False, False)


class Failing(Sink):
    name = HOSTILE

    async def send(self, events: Any) -> None:
        raise PermanentError(f"{HOSTILE} https://user:secret@host.test/")


@in_time
async def test_sinks_are_shown_with_their_health():
    stream = InMemoryStream()
    async with attach(stream, Failing()) as attachment:
        await stream.publish(create_event(1))
        await attachment.flush()
        [sink] = (await state(dashboard(stream, attachment)))["sinks"]
    assert (sink["name"], sink["dead"], sink["of"]) == (HOSTILE.replace("\ud800", "\ufffd"), 1, None)
    assert "PermanentError" in sink["last_error"]
    assert "secret" not in sink["last_error"]


def breaks(name: str, old: BreakerState, new: BreakerState, **more: Any) -> CircuitBreakerEvent:
    kind = BreakerEventKind.STATE_CHANGE
    return CircuitBreakerEvent(breaker=name, kind=kind, source="test", from_state=old, to_state=new, **more)


async def test_breakers_are_shown_with_their_history():
    stream = InMemoryStream()
    closed, opened, half = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
    with CircuitBoard(stream) as board:
        app = dashboard(stream, board=board)
        for old, new in (
            (closed, opened),
            (closed, opened),
            (opened, half),
            (half, closed),
            (closed, opened),
        ):
            await stream.publish(breaks(HOSTILE, old, new, reason="<img src=x>").to_event())
        await stream.publish(create_event({"breaker": 1, "source": [], "kind": "x", "to_state": "open"}))
        await stream.publish(create_event({"breaker": "b", "source": [], "kind": "x", "to_state": "open"}))
        [breaker] = (await state(app))["breakers"]
    assert (breaker["state"], breaker["reason"]) == ("open", "<img src=x>")
    assert [change for _, change in breaker["history"]] == ["open", "half_open", "closed", "open"]


async def test_the_history_of_breakers_is_bounded():
    stream = InMemoryStream()
    with CircuitBoard(stream) as board:
        app = dashboard(stream, board=board)
        for number in range(1_100):
            name = f"b{number}"
            await stream.publish(breaks(name, BreakerState.CLOSED, BreakerState.OPEN).to_event())
        breakers = (await state(app))["breakers"]
    assert len(breakers) == 200


@in_time
async def test_alerts_are_shown_by_group_with_the_reason_for_suppression():
    async with alerting() as (run, app):
        found = (await state(app))["alerts"]
        [group] = found["groups"]
        assert (group["receiver"], group["firing"], group["status"]) == ("ops", 1, "firing")
        assert group["alerts"][0]["suppressed"] is None
        added = await post(app, "/api/silences", SILENCE)
        found = (await state(app))["alerts"]
        why = {"why": "silenced", "by": added.json()["id"]}
        assert found["groups"][0]["alerts"][0]["suppressed"] == why
        await run.pass_time(40)
        found = await state(app)
        assert found["alerts"]["groups"][0]["alerts"][0]["suppressed"] == why
        [notification] = found["notifications"]
        assert notification["metadata"]["topic"] == "alerts.suppressed"
        channel = next(sink for sink in found["sinks"] if sink["of"] == "alerts")
        assert channel["name"] == "ops[0]"


@in_time
async def test_an_inhibited_alert_names_the_alert_that_inhibits_it():
    rule = {"source_matchers": ['alertname="power"'], "target_matchers": ['alertname="disk"']}
    async with running(routing(inhibit_rules=[rule]), {"ops": Inbox()}) as run:
        app = dashboard(run.stream, alerts=run.sink, clock=run.clock)
        await run.publish(fires("power"), fires("disk"))
        await run.pass_time(40)
        groups = (await state(app))["alerts"]["groups"]
        found = {alert["labels"]["alertname"]: alert for group in groups for alert in group["alerts"]}
        assert found["disk"]["suppressed"]["why"] == "inhibited"
        assert found["disk"]["suppressed"]["by"] == found["power"]["fingerprint"]


@in_time
async def test_a_storm_of_alerts_is_shown_in_part():
    async with running(routing(), {"ops": Inbox()}) as run:
        app = dashboard(run.stream, alerts=run.sink, clock=run.clock)
        await run.publish(*(fires("disk", labels={"host": str(number)}) for number in range(80)))
        [group] = (await state(app))["alerts"]["groups"]
        assert (len(group["alerts"]), group["others"], group["firing"]) == (50, 30, 80)


@in_time
async def test_notifications_come_from_the_audit_stream_only_and_newest_first():
    async with alerting() as (run, app):
        await run.publish(create_event({"receiver": "forged"}, topic="alerts.notified"))
        await run.pass_time(40)
        await until(lambda: run.sink.health()["ops[0]"].delivered)
        await run.pass_time(1)
        notifications = (await state(app))["notifications"]
        assert {each["data"]["receiver"] for each in notifications} == {"ops"}
        times = [each["timestamp"] for each in notifications]
        assert times == sorted(times, reverse=True)


async def test_a_failing_source_does_not_hide_the_others():
    class Broken:
        def health(self) -> Mapping[str, Any]:
            raise RuntimeError("the dog ate token=abcdef12345")

    stream = InMemoryStream()
    closed = AlertSink(routing(), {"ops": Inbox()})
    found = await state(dashboard(stream, Broken(), closed))
    assert found["sinks"] == []
    assert found["problems"]["sinks"] == "RuntimeError: the dog ate token=[redacted]"
    assert "is not open" in found["problems"]["alerts"]
    assert found["topics"]["total"] == 0


@in_time
async def test_many_pages_share_a_snapshot():
    class Counting:
        asked = 0

        def health(self) -> Mapping[str, Any]:
            self.asked += 1
            return {}

    clock, counting = FakeClock(), Counting()
    app = dashboard(InMemoryStream(), counting, clock=clock)
    await asyncio.gather(*(state(app) for _ in range(20)))
    assert counting.asked == 1
    clock.advance(1)
    await state(app)
    assert counting.asked == 2


@in_time
async def test_an_alert_sink_on_another_loop_is_called_there():
    ready, end = threading.Event(), threading.Event()
    sink = AlertSink(routing(), {"ops": Inbox()})
    stream = InMemoryStream()

    async def elsewhere() -> None:
        async with attach(stream, sink):
            ready.set()
            while not end.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    try:
        assert await asyncio.to_thread(ready.wait, 5)
        app = dashboard(stream, alerts=sink, allow_actions=TOKEN)
        stream.publish_nowait(fires("disk"))
        added = await post(app, "/api/silences", SILENCE)
        assert added.status_code == 201
        [silence] = (await state(app))["alerts"]["silences"]
        assert silence["id"] == added.json()["id"]
    finally:
        end.set()
        await asyncio.to_thread(thread.join)


@in_time
async def test_an_alert_sink_that_does_not_answer_delays_nothing_for_long(monkeypatch):
    monkeypatch.setattr("codomyrmex.integrations.web.snapshot.ALERTS_TIMEOUT", 0.05)
    async with alerting() as (run, app):
        run.sink.groups = asyncio.Event().wait
        found = await state(app)
        assert found["problems"]["alerts"] == "RuntimeError: sink alerts: no response within 0.05 s"
        assert found["sinks"]


@in_time
async def test_explain_returns_how_an_alert_is_routed():
    async with alerting() as (_, app):
        [alert] = (await state(app))["alerts"]["groups"][0]["alerts"]
        async with client(app) as page:
            answer = await page.get("/api/explain", params={"fingerprint": alert["fingerprint"]})
            assert answer.json()["receivers"] == ["ops"]
            assert answer.json()["root"]["match"]["group_labels"] == {"alertname": "disk"}
            assert (await page.get("/api/explain?fingerprint=none")).status_code == 404
            assert (await page.get("/api/explain")).status_code == 400


async def test_whatever_events_contain_the_response_is_json():
    stream, audit = InMemoryStream(), InMemoryStream()
    await stream.publish(create_event(0, topic=HOSTILE))
    await audit.publish(create_event({HOSTILE: math.nan, "at": datetime.now(UTC)}, topic="alerts.notified"))
    async with client(dashboard(stream, audit=audit)) as page:
        answer = await page.get("/api/state")
    assert answer.headers["content-type"] == "application/json"
    json.loads(answer.content, parse_constant=pytest.fail)


# Authorization


@in_time
async def test_without_authorization_only_the_page_itself_is_served():
    async with alerting(authorize=require_token("view")) as (_, app), client(app) as page:
        assert (await page.get("/")).status_code == 200
        for path in ("/api/state", "/api/explain?fingerprint=x", "/api/events"):
            answer = await page.get(path)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
        assert (await page.get("/api/state", headers={"authorization": "Bearer view"})).status_code == 200


@in_time
async def test_authorization_for_some_topics_shows_their_events_only():
    async def some(scope: Any) -> str:
        return "orders.>"

    stream = InMemoryStream()
    await stream.publish(create_event(1, topic="orders.paid"))
    await stream.publish(create_event(2, topic="staff.hired"))
    async with attach(stream) as attachment:
        app = dashboard(stream, attachment, authorize=some)
        found = await state(app)
        assert [each["topic"] for each in found["topics"]["shown"]] == ["orders.paid"]
        assert found["topics"]["total"] == 1
        assert "sinks" not in found
        _, (_, event) = await connect(app, 2)
        assert event["data"] == 1
        async with client(app) as page:
            assert (await page.get("/api/explain?fingerprint=x")).status_code == 403
        await app.aclose()


async def test_an_authorize_that_raises_admits_nobody_and_its_message_is_hidden():
    def authorize(scope: Any) -> None:
        raise RuntimeError("secret")

    async with client(dashboard(InMemoryStream(), authorize=authorize)) as page:
        answer = await page.get("/api/state")
        assert answer.status_code == 500
        assert "secret" not in answer.text


@in_time
async def test_the_token_for_actions_shows_everything():
    async with alerting(authorize=lambda _: None) as (_, app):
        found = await state(app, **BEARER)
        assert found["may_act"]
        assert found["alerts"]["groups"]
        events = await connect(app, 2, **BEARER)
        assert events[1][1]["metadata"]["labels"]["alertname"] == "disk"
        await app.aclose()


# Actions


@in_time
async def test_a_silence_is_added_and_expired():
    async with alerting() as (run, app):
        added = await post(app, "/api/silences", SILENCE)
        assert added.status_code == 201
        [silence] = await run.sink.silences()
        assert (silence.id, silence.comment, silence.created_by) == (added.json()["id"], "moving it", "ann")
        assert silence.ends_at - silence.starts_at == 7200
        [shown] = (await state(app))["alerts"]["silences"]
        assert (shown["state"], shown["matchers"]) == ("active", ['alertname="disk"'])
        run.clock.advance(60)
        ended = await post(app, "/api/silences/expire", {"id": silence.id})
        assert ended.status_code == 200
        assert (await state(app))["alerts"]["silences"][0]["state"] == "expired"
        assert (await post(app, "/api/silences/expire", {"id": "none"})).status_code == 404


@pytest.mark.parametrize(
    "path", ["/api/silences", "/api/silences/expire", "/api/dead_letters/replay", "/api/publish"]
)
@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("PUT", {}, 405),
        ("OPTIONS", {}, 405),
        ("POST", {"authorization": ""}, 401),
        ("POST", {"authorization": "Bearer wrong"}, 401),
        ("POST", {"authorization": "Bearer \u00e4"}, 401),
        ("POST", {"authorization": f"Basic {TOKEN}"}, 401),
        ("POST", {"origin": "https://evil.test"}, 403),
        ("POST", {"origin": "null"}, 403),
        ("POST", {"sec-fetch-site": "cross-site"}, 403),
        ("POST", {"sec-fetch-site": "same-site"}, 403),
        ("POST", {"content-type": "text/plain"}, 415),
        ("POST", {"content-type": "application/x-www-form-urlencoded"}, 415),
    ],
)
@in_time
async def test_an_action_requires_a_same_origin_post_with_the_token(path, method, headers, status):
    async with alerting(allow_publish=True) as (run, app), client(app) as page:
        sent = {**BEARER, "content-type": "application/json", **headers}
        raw = {name: value.encode() for name, value in sent.items()}
        query = f"?access_token={TOKEN}"
        answer = await page.request(method, path + query, content=json.dumps(SILENCE), headers=raw)
        assert answer.status_code == status
        assert answer.json()["error"]
        assert await run.sink.silences() == []


@in_time
async def test_a_same_origin_post_is_accepted():
    async with alerting() as (_, app):
        headers = {"origin": "http://page.localhost", "sec-fetch-site": "same-origin"}
        assert (await post(app, "/api/silences", SILENCE, **headers)).status_code == 201


@in_time
async def test_without_allow_actions_the_page_is_read_only():
    async with alerting(allow_actions=None) as (_, app):
        assert (await post(app, "/api/silences", SILENCE)).status_code == 403
        found = await state(app, authorization="Bearer ")
        assert (found["actions"], found["may_act"]) == (False, False)
    assert (
        await post(dashboard(InMemoryStream(), allow_actions=TOKEN), "/api/silences", {})
    ).status_code == 403


@pytest.mark.parametrize(
    ("change", "field", "problem"),
    [
        ({"matchers": ""}, "matchers", "at least one matcher"),
        ({"matchers": "alertname"}, "matchers", "alertname"),
        ({"matchers": 'a=~"("'}, "matchers", "("),
        ({"matchers": 'a=~".*"'}, "matchers", "must not match every alert"),
        ({"matchers": "x" * 5_000}, "matchers", "too long"),
        ({"matchers": 5}, "matchers", "must be text"),
        ({"matchers": None}, "matchers", "must be text"),
        ({"duration": ""}, "duration", "30s"),
        ({"duration": "soon"}, "duration", "'soon' is not a duration"),
        ({"duration": "0"}, "duration", "greater than 0"),
        ({"duration": "-1h"}, "duration", "-1h"),
        ({"duration": "100y"}, "duration", "at most a year"),
        ({"comment": "x" * 2_000}, "comment", "too long"),
        ({"created_by": ["ann"]}, "created_by", "must be text"),
        ({"starts": "now"}, "", "unknown field: starts"),
    ],
)
@in_time
async def test_a_mistake_in_the_form_is_reported_by_field(change, field, problem):
    async with alerting() as (run, app):
        answer = await post(app, "/api/silences", {**SILENCE, **change})
        assert answer.status_code == 400
        assert problem in answer.json()["problems"][field]
        assert await run.sink.silences() == []


@in_time
async def test_all_mistakes_of_a_form_are_reported_at_once():
    async with alerting() as (_, app):
        answer = await post(app, "/api/silences", {})
        assert set(answer.json()["problems"]) == {"matchers", "duration"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b"\xff\xfe", 400),
        (b"[" * 10_000, 400),
        (b'"' + b"x" * 20_000 + b'"', 413),
    ],
)
@in_time
async def test_a_body_that_is_not_a_form_is_refused(body, status):
    async with alerting() as (_, app), client(app) as page:
        headers = {**BEARER, "content-type": "application/json"}
        answer = await page.post("/api/silences", content=body, headers=headers)
        assert answer.status_code == status
        assert answer.json()["error"]


async def test_an_alert_sink_that_is_not_open_is_a_503():
    app = dashboard(InMemoryStream(), alerts=AlertSink(routing(), {"ops": Inbox()}), allow_actions=TOKEN)
    answer = await post(app, "/api/silences", SILENCE)
    assert answer.status_code == 503
    assert "is not open" in answer.json()["error"]
    async with client(app) as page:
        assert (await page.get("/api/explain?fingerprint=x")).status_code == 503


# Serving


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "a.localhost", "::ffff:127.0.0.1"]
)
def test_this_machine_may_connect_without_a_token(host):
    check_address(host, None)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "", "::", "192.168.1.4", "example.test", "2001:db8::1", "127.0.0.1.test"]
)
def test_a_public_address_requires_a_token(host):
    for token in (None, "", "  "):
        with pytest.raises(PublicAddressError, match="pass a token, or listen on 127"):
            check_address(host, token)
        with pytest.raises(PublicAddressError):
            serve(dashboard(InMemoryStream()), host, token=token)
    check_address(host, "secret")


async def test_without_uvicorn_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtraError, match=r"codomyrmex-streaming\[web\]"):
        serve(dashboard(InMemoryStream()))


@in_time
async def test_it_is_served_within_a_context():
    async with serving(dashboard(InMemoryStream()), port=0) as url, httpx.AsyncClient() as browser:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        assert (await browser.get(url)).status_code == 200
        port = int(url.rstrip("/").rpartition(":")[2])
        with pytest.raises(OSError, match=r"[Aa]ddress"):
            async with serving(dashboard(InMemoryStream()), port=port):
                pass
        refused = await browser.get(url, headers={"host": "evil.test"})
        assert refused.status_code == 421
    async with httpx.AsyncClient() as browser:
        with pytest.raises(httpx.ConnectError):
            await browser.get(url)


@in_time
async def test_a_response_does_not_wait_for_an_acknowledgement():
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            connection = receive.__self__.transport.get_extra_info("socket")
            seen.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    async with serving(app, port=0) as url, httpx.AsyncClient() as client:
        await client.get(url)
    assert seen == [1]


@in_time
async def test_a_browser_needs_the_token_once():
    async with (
        serving(dashboard(InMemoryStream()), "0.0.0.0", 0, "s3cret") as url,
        httpx.AsyncClient() as browser,
    ):
        for path in ("", "api/state", "?access_token=wrong"):
            refused = await browser.get(url + path)
            assert refused.status_code == 401
            assert "?access_token=" in refused.text
        first = await browser.get(
            f"{url}?access_token=s3cret", headers={"accept": "text/html"}, follow_redirects=True
        )
        assert (first.status_code, str(first.url)) == (200, url)
        assert "s3cret" not in str(list(browser.cookies.jar))
        assert (await browser.get(f"{url}api/state")).status_code == 200
        browser.cookies.clear()
        assert (await browser.get(url, headers={"authorization": "Bearer s3cret"})).status_code == 200
        assert (await browser.get(url, headers={"cookie": "codomyrmex_x=1; \x01"})).status_code in {400, 401}


# Bounds


@in_time
@pytest.mark.parametrize("text", ["x", "\u2028", "\ud800"])
async def test_large_alerts_make_no_large_snapshot(text):
    async with alerting() as (run, app):
        for number in range(200):
            labels = {"host": str(number), "long": text * 5_000}
            await run.publish(fires("big", labels=labels, annotations={"more": text * 20_000}))
        run.clock.advance(1)
        async with client(app) as page:
            answer = await page.get("/api/state")
    assert len(answer.content) < 2_500_000
    groups = answer.json()["alerts"]["groups"]
    shown = [alert for group in groups for alert in group["alerts"]]
    assert shown
    assert sum(group["others"] for group in groups) + len(shown) == 201
    long = next(alert["labels"]["long"] for alert in shown if "long" in alert["labels"])
    assert len(long) < 1_100
    assert long.endswith("(1024 characters)")  # the alert sink has cut it already


async def test_a_section_is_cut_to_a_size_but_never_empty():
    items = [{"text": "x" * 900, "list": list(range(1_000))}] * 5_000
    page = paging.page(items)
    assert 100 < len(page) < 1_000
    assert len(page[0]["list"]) == 100
    assert len(paging.page(items, 0)) == 1


class SlowBoard:
    """A board whose snapshot takes a second."""

    def __init__(self, clock: FakeClock) -> None:
        self.asked = 0
        self._clock = clock

    def snapshot(self) -> list[Any]:
        self.asked += 1
        self._clock.advance(1)
        return []


@in_time
async def test_a_source_that_takes_long_is_asked_less_often():
    clock = FakeClock()
    board = SlowBoard(clock)
    app = dashboard(InMemoryStream(), board=board, clock=clock)
    for _ in range(30):
        await state(app)
        clock.advance(1)
    assert board.asked == 3


@in_time
async def test_many_requests_for_explanations_ask_the_alert_sink_little(monkeypatch):
    async with alerting() as (run, app), client(app) as page:
        asked = 0
        explain = run.sink.explain

        async def count(labels: Any) -> Any:
            nonlocal asked
            asked += 1
            await asyncio.sleep(0)
            return await explain(labels)

        monkeypatch.setattr(run.sink, "explain", count)
        [group] = (await page.get("/api/state")).json()["alerts"]["groups"]
        query = {"fingerprint": group["alerts"][0]["fingerprint"]}
        answers = await asyncio.gather(*(page.get("/api/explain", params=query) for _ in range(100)))
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 503}
        assert statuses.count(200) == 20
        assert asked == 1
        run.clock.advance(1)
        assert (await page.get("/api/explain", params=query)).status_code == 200
        assert asked == 2


@in_time
async def test_a_form_that_does_not_arrive_is_refused_in_time():
    async with alerting() as (run, app), client(app) as page:

        async def never() -> AsyncIterator[bytes]:
            yield b"{"
            run.clock.advance(10)
            await asyncio.get_running_loop().create_future()

        headers = {**BEARER, "content-type": "application/json"}
        answer = await page.post("/api/silences", content=never(), headers=headers)
        assert answer.status_code == 408


# Other hosts and origins


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/app.js",
        "/api/state",
        "/api/events",
        "/api/explain",
        "/api/recent",
        "/api/groups",
        "/api/silences",
    ],
)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "rebound.example"}, 421),
        ({"origin": "http://localhost:9000"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}, 403),
    ],
)
@in_time
async def test_other_hosts_and_pages_of_other_origins_read_nothing(path, headers, status):
    async with client(dashboard(InMemoryStream())) as page:
        answer = await page.get(path, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"allowed_hosts": ["ops.example"]}, 200),
        ({"allowed_hosts": ["*"]}, 200),
        ({"authorize": lambda _: "*"}, 200),
        ({"allowed_hosts": ["other.example"]}, 421),
    ],
)
@in_time
async def test_the_hosts_that_a_mounted_page_serves_can_be_named(options, status):
    async with client(dashboard(InMemoryStream(), **options)) as page:
        headers = {"host": "ops.example", "origin": "https://ops.example"}
        assert (await page.get("/api/state", headers=headers)).status_code == status


# Mounting


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ({"path": "/live/app.js", "root_path": "/live"}, 200),
        ({"path": "/app.js/", "root_path": "", "raw_path": b"/live/app.js"}, 200),  # Litestar
        ({"path": "/api/state/", "root_path": "", "raw_path": b"/live/api/state"}, 200),
        ({"path": "/", "root_path": "", "raw_path": b"/live"}, "live/"),
        ({"path": "/", "root_path": "", "raw_path": b"/live/"}, 200),
        ({"path": "/live/app.js", "root_path": "/proxy/live"}, 200),  # FastAPI behind a proxy that strips
        ({"path": "/live/", "root_path": "/proxy/live"}, 200),
        ({"path": "/live", "root_path": "/proxy/live"}, "live/"),
        ({"path": "/live", "root_path": "/live", "query_string": b"a=1"}, "live/?a=1"),
        ({"path": "/live/nothing", "root_path": "/proxy/live"}, 404),
        ({"path": "/other/app.js", "root_path": "/live"}, 404),
    ],
)
@in_time
async def test_it_is_found_wherever_it_is_mounted(scope, expected):
    sent: list[Any] = []

    async def receive() -> Any:
        return await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)

    whole = {"type": "http", "method": "GET", "query_string": b"", "headers": [], **scope}
    await dashboard(InMemoryStream())(whole, receive, send)
    headers = dict(sent[0]["headers"])
    if isinstance(expected, str):
        assert (sent[0]["status"], headers[b"location"]) == (308, expected.encode())
    else:
        assert sent[0]["status"] == expected


@in_time
async def test_it_can_run_several_times():
    stream, audit = InMemoryStream(), InMemoryStream()
    app = dashboard(stream, audit=audit)
    for total in range(1, 4):
        inbox: asyncio.Queue[Any] = asyncio.Queue()
        sent: asyncio.Queue[Any] = asyncio.Queue()
        running = asyncio.create_task(app({"type": "lifespan", "app": app}, inbox.get, sent.put))
        inbox.put_nowait({"type": "lifespan.startup"})
        assert (await sent.get())["type"] == "lifespan.startup.complete"
        await stream.publish(create_event(1, topic="a"))
        assert (await state(app))["topics"]["total"] == total
        inbox.put_nowait({"type": "lifespan.shutdown"})
        assert (await sent.get())["type"] == "lifespan.shutdown.complete"
        await running
        async with client(app) as page:
            assert (await page.get("/api/events")).status_code == 503
        assert stream.statistics().subscribers == audit.statistics().subscribers == 0
    await stream.aclose()
    inbox.put_nowait({"type": "lifespan.startup"})
    with pytest.raises(StreamClosedError):
        await app({"type": "lifespan", "app": app}, inbox.get, sent.put)
    assert (await sent.get())["type"] == "lifespan.startup.failed"


async def test_lines_about_bad_requests_are_limited_and_show_no_secret(caplog):
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        raise ValueError("https://user:hunter2@db.example.org/")

    async with serving(broken, port=0) as url:
        port = int(url.rstrip("/").rpartition(":")[2])
        for request in [b"GET / HTTP/9\r\n\r\n"] * 20 + [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"] * 5:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            assert (await reader.readline()).startswith((b"HTTP/1.1 400", b"HTTP/1.1 500"))
            writer.close()
    assert caplog.text.count("Invalid HTTP request") == 1
    assert caplog.text.count("Exception in ASGI application") == 1
    assert "https://[redacted]@db.example.org/" in caplog.text
    assert "hunter2" not in caplog.text


# Health and metrics


@pytest.mark.parametrize("root_path", ["", "/live"])
async def test_the_page_serves_health_and_metrics(root_path):
    async with (
        alerting(authorize=lambda scope: "*" if b"cookie" in dict(scope["headers"]) else None) as (
            _,
            app,
        ),
        client(app, root_path) as page,
    ):
        page.base_url = "http://10.1.2.3:8000"  # as a probe sends it
        assert (await page.get(f"{root_path}/livez")).json() == {"status": "live"}
        assert (await page.get(f"{root_path}/readyz")).json() == {"status": "ready"}
        assert (await page.get(f"{root_path}/metrics")).status_code == 401
        metrics = await page.get(f"{root_path}/metrics", headers={"cookie": "a=b"})
        assert 'codomyrmex_sink_delivered_events_total{sink="alerts"} 1.0' in metrics.text


async def test_the_health_of_a_page_needs_no_token_and_its_metrics_do():
    app = dashboard(InMemoryStream())
    async with serving(app, port=0, token=TOKEN) as url, httpx.AsyncClient(base_url=url) as page:
        assert (await page.get("/readyz")).json() == {"status": "ready"}
        assert (await page.get("/metrics")).status_code == 401
        assert (await page.get("/metrics", headers=BEARER)).status_code == 200
        assert (await page.get("/api/state")).status_code == 401


async def test_a_page_whose_sinks_are_no_attachment_has_the_metrics_of_its_stream(monkeypatch):
    class Sinks:
        def health(self):
            return {}

    async with client(dashboard(InMemoryStream(), Sinks())) as page:
        assert "codomyrmex_stream_published_events_total 0.0" in (await page.get("/metrics")).text
    module = "codomyrmex.integrations.logging_monitoring.delivery_collector"
    monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr("codomyrmex.integrations.logging_monitoring.delivery_collector")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    async with client(dashboard(InMemoryStream(), Sinks())) as page:
        missing = await page.get("/metrics")
        assert missing.status_code == 501
        assert "pip install 'codomyrmex-streaming[metrics]'" in missing.text
        assert (await page.get("/readyz")).status_code == 200
