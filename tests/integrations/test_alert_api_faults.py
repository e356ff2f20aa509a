"""`alert_api`: who may use it, attacks, and a sink or a store that is not available."""

from __future__ import annotations

import asyncio
import json
import sys
from base64 import b64encode
from typing import Any

import httpx
import pytest
from alert_api_client import ADDRESS, JSON, api, config
from alert_channels import Inbox, routing, until
from codomyrmex.integrations import attach, logging_monitoring
from codomyrmex.integrations.durable import DurableStream
from codomyrmex.integrations.notification import AlertSink, NotifierRole
from codomyrmex.integrations.web import AlertApiApp, alert_api, serving
from codomyrmex.streaming import InMemoryStream
from codomyrmex.streaming.testing import FakeClock
from faulty_store import FaultyStore
from helpers import in_time
from starlette.applications import Starlette
from starlette.routing import Mount

ALERT = '[{"labels":{"alertname":"A"}}]'
COLLECTOR = "codomyrmex.integrations.logging_monitoring.delivery_collector"
EVIL = {"origin": "http://evil.example"}


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def basic(user: str, password: str) -> dict[str, str]:
    return {"authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}


# Who may use it


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        (bearer("wrong"), 401),
        (basic("me", "wrong"), 401),
        ({"authorization": "Basic !!!"}, 401),
        ({"authorization": "Basic 8A=="}, 401),
        ({"authorization": "Digest secret"}, 401),
        (bearer("secret"), 200),
        (basic("anyone", "secret"), 200),
        (basic("", "secret"), 200),
        (bearer("secret") | {"host": "alerts.example"}, 200),
        (bearer("secret") | EVIL, 403),
    ],
)
@in_time
async def test_a_token_is_required_everywhere_except_for_health(headers, status):
    async with api(token="secret") as client:
        for path in ("/api/v2/alerts", "/api/v2/status", "/metrics"):
            assert (await client.http.get(path, headers=headers)).status_code == status
        for path in ("/-/healthy", "/-/ready"):
            assert (await client.http.get(path, headers=headers)).status_code == 200
        posted = await client.request("POST", "alerts", content=ALERT, headers={**JSON, **headers})
        assert posted.status_code == status
        assert (await client.http.post("/-/reload", headers=headers)).status_code == status
        if status == 401:
            assert posted.headers["www-authenticate"] == "Bearer"
            assert isinstance(posted.json(), str)


@in_time
async def test_without_a_token_only_requests_for_this_machine_are_accepted():
    async with api() as client:
        for headers, status in (
            ({}, 200),
            ({"host": "localhost:9093"}, 200),
            ({"host": "[::1]:9093"}, 200),
            ({"host": "rebound.example"}, 421),
            ({"host": "192.168.0.2:9093"}, 421),
            (EVIL, 403),
            ({"origin": "null"}, 403),
            ({"origin": ADDRESS}, 200),
            ({"sec-fetch-site": "cross-site"}, 403),
        ):
            for method, path, content in (
                *(("GET", "alerts", None), ("POST", "alerts", ALERT), ("GET", "silences", None)),
                ("DELETE", "silence/x", None),
            ):
                response = await client.request(method, path, content=content, headers={**JSON, **headers})
                expected = 404 if (method, status) == ("DELETE", 200) else status
                assert response.status_code == expected, (headers, method, path)


@pytest.mark.parametrize(
    ("server", "status"),
    [
        (("127.0.0.1", 9093), 200),
        (("::1", 9093), 200),
        (("/run/alerts.sock", None), 200),
        (None, 200),
        (("192.168.0.2", 9093), 403),
        (("", 9093), 403),
    ],
)
@in_time
async def test_without_a_token_an_address_that_others_can_reach_is_refused(server, status):
    async with api(allowed_hosts="*") as client:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/api/v2/alerts",
            "query_string": b"",
            "headers": [],
        }
        await client.app({**scope, "server": server}, None, send)  # type: ignore[arg-type]
        assert sent[0]["status"] == status


@in_time
async def test_behind_the_gates_of_serve_a_token_is_checked_there():
    sink = AlertSink(config(), clock=FakeClock())
    async with (
        attach(InMemoryStream(), sink),
        serving(alert_api(sink), port=0, token="secret") as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        assert (await client.get("api/v2/alerts")).status_code == 401
        assert (await client.get("-/healthy")).status_code == 200
        for headers in (bearer("secret"), basic("prometheus", "secret")):
            assert (await client.get("api/v2/alerts", headers=headers)).json() == []
        assert (await client.get("api/v2/alerts", headers=bearer("secret") | EVIL)).status_code == 403


@in_time
async def test_authorize_decides_instead_of_a_token():
    async def authorize(scope: Any) -> str | None:
        return {"/api/v2/alerts": "*", "/api/v2/silences": "some.*"}.get(scope["path"])

    async with api(authorize=authorize) as client:
        assert (await client.request("GET", "alerts")).status_code == 200
        assert (await client.request("GET", "silences")).status_code == 403
        assert (await client.request("GET", "status")).status_code == 401


@in_time
async def test_pages_of_allowed_origins_can_use_the_api():
    async with api(allow_origins=["http://karma.example"]) as client:
        headers = {"origin": "http://karma.example"}
        response = await client.request("GET", "alerts", headers=headers)
        assert response.headers["access-control-allow-origin"] == "http://karma.example"
        preflight = {**headers, "access-control-request-method": "DELETE"}
        assert (await client.request("OPTIONS", "silence/x", headers=preflight)).status_code == 200


# Where it is served


@in_time
async def test_it_is_served_below_a_prefix_or_mounted():
    async with api(prefix="/am/") as client:
        assert (await client.http.get("/am/api/v2/alerts")).json() == []
        assert (await client.http.get("/am/-/ready")).text == "OK"
        assert client.app.open_paths == ("/am/-/healthy", "/am/-/ready")
        for path in ("/api/v2/alerts", "/am", "/amapi/v2/alerts", "/"):
            assert (await client.http.get(path)).status_code == 404
    async with api() as client:
        transport = httpx.ASGITransport(Starlette(routes=[Mount("/am", client.app)]))
        async with httpx.AsyncClient(transport=transport, base_url=f"{ADDRESS}/am") as mounted:
            assert (await mounted.post("/api/v2/alerts", content=ALERT, headers=JSON)).status_code == 200
            assert len((await mounted.get("/api/v2/alerts/")).json()) == 1
            silence = (await mounted.get("/api/v2/silence/x")).json()
            assert silence == "silence not found"


# Attacks

DEEP = "[" * 50_000
LONG = "x" * 70_000
SILENCE: dict[str, Any] = {
    "matchers": [{"name": "a", "value": "b", "isRegex": False}],
    "startsAt": "2026-01-05T11:00:00Z",
    "endsAt": "2999-01-05T11:00:00Z",
    "createdBy": "me",
    "comment": "why",
}


def silence(**changes: Any) -> str:
    return json.dumps({**SILENCE, **changes})


def matcher(name: Any, value: Any, **more: Any) -> str:
    return silence(matchers=[{"name": name, "value": value, "isRegex": False, **more}])


BODIES: dict[str, list[str | bytes]] = {
    "alerts": [
        "",
        "{",
        "{}",
        "1",
        "NaN",
        '"text"',
        ALERT + ALERT,
        DEEP,
        DEEP + "]" * len(DEEP),
        f'[{{"labels":{{"a":"b"}},"x":{DEEP}',
        f'[{{"labels":{{"a":"b"}},"x":{DEEP}{"]" * len(DEEP)}}}]',
        f'[{{"\\ud800":{DEEP}',
        "[null]",
        "[[]]",
        '[{"labels":null}]',
        '[{"labels":[]}]',
        '[{"labels":{"a":null}}]',
        '[{"labels":{"a":{"b":"c"}}}]',
        f'[{{"labels":{{"a":{"9" * 10_000}}}}}]',
        f'[{{"labels":{{"a":"b"}},"startsAt":{"9" * 10_000}}}]',
        f'[{{"labels":{{"\\ud800":{"9" * 10_000}}}}}]',
        '[{"labels":{"a":"b"},"startsAt":NaN}]',
        '[{"labels":{"a":"b"},"endsAt":Infinity}]',
        '[{"labels":{"a":"b"},"startsAt":"10000-01-01T00:00:00Z"}]',
        '[{"labels":{"a":"b"},"startsAt":"2026-01-05"}]',
        '[{"labels":{"a":"b"},"startsAt":"2026-02-30T00:00:00Z"}]',
        '[{"labels":{"a":"b"},"startsAt":""}]',
        '[{"labels":{"a":"b"},"startsAt":1}]',
        '[{"labels":{"a":"b"},"generatorURL":"javascript"}]',
        '[{"labels":{"a":"b"},"generatorURL":"http://x/\\u0000"}]',
        '[{"labels":{"a":"b"},"generatorURL":{}}]',
        '[{"labels":{"a":"b"},"annotations":{"":"x"}}]',
        '[{"labels":{"a":"b"},"annotations":[]}]',
        f'[{{"labels":{{"a":"{LONG}"}}}}]',
        f'[{{"labels":{{"a":"b"}},"annotations":{{"{LONG}":"x"}}}}]',
        f'[{{"labels":{{"a":"b"}},"generatorURL":"http://{LONG}"}}]',
        b"\xff\xfe[\x00]\x00",
        b"\x1f\x8b\x08",
    ],
    "silences": [
        "",
        "null",
        "[]",
        "{}",
        DEEP,
        '{"\\ud800":' + DEEP,
        silence(matchers=[]),
        silence(matchers=None),
        silence(matchers="a=b"),
        silence(matchers=[{"name": "a", "value": "b"}]),
        matcher("", "x"),
        matcher("a", ""),
        matcher("a", None),
        matcher("a", "(", isRegex=True),
        matcher("a", ".*", isRegex=True),
        matcher("a", "(?=x)", isRegex=True),
        matcher("a", "((a{1000}){1000}){1000}", isRegex=True),
        matcher("a", "b", isEqual="yes"),
        silence(startsAt=None),
        silence(startsAt="2999-01-05T12:00:00Z"),
        silence(endsAt="2026-01-05T11:00:00Z"),
        silence(endsAt="2026-01-05T11:30:00Z"),
        silence(endsAt="0001-01-01T00:00:00Z"),
        silence(endsAt="0001-01-01T00:00:00+14:00"),
        silence(endsAt=1e308),
        silence(createdBy=None),
        silence(comment=5),
        silence(annotations={"a": 1}),
        silence(id=5),
    ],
}
PATHS = [
    "alerts?filter=",
    "alerts?filter=a",
    "alerts?filter=a=b,c=d",
    "alerts?filter={a=b}",
    "alerts?filter=a=~(",
    "alerts?filter=a=~((a{1000}){1000}){1000}",
    "alerts?filter=" + "a" * 5_000,
    "alerts?" + "&".join(["filter=a=b"] * 101),
    "alerts?receiver=(",
    "alerts?receiver=(?P<n>x)(?P=n)",
    "alerts/groups?filter=!",
    "alerts/groups?receiver=[",
    "alerts/groups?receiver_matchers=x",
    "receivers?receiver_matchers=(",
    "silences?filter=a",
]


@in_time
async def test_no_body_causes_a_server_error():
    async with api() as client:
        for path, bodies in BODIES.items():
            for body in bodies:
                response = await client.request("POST", path, content=body, headers=JSON)
                assert response.status_code == 400, (path, body[:100], response.text)
                assert isinstance(response.json(), str)
                assert len(response.content) < 5_000, (path, body[:100])
        assert await client.get("alerts") == await client.get("silences") == []


@in_time
async def test_an_invalid_parameter_is_refused_with_a_reason():
    async with api() as client:
        for path in PATHS:
            response = await client.request("GET", path)
            assert response.status_code == 400, (path, response.text)
            assert isinstance(response.json(), str)
            assert len(response.content) < 5_000


@in_time
async def test_unknown_paths_and_methods_are_refused():
    async with api() as client:
        for method, path, status in (
            *(("GET", "/", 404), ("GET", "/api/v2", 404), ("GET", "/api/v2/nothing", 404)),
            *(("GET", "/api/v2/silence", 404), ("GET", "/api/v2/silence/", 404)),
            *(("GET", "/api/v2/silence/x", 404), ("DELETE", "/api/v2/silence/%ff%00", 404)),
            *(("GET", "/api/v2/silence/" + "x" * 10_000, 404), ("GET", "/api/v1/alerts", 404)),
            *(("PUT", "/api/v2/alerts", 405), ("HEAD", "/api/v2/alerts", 405)),
            *(("DELETE", "/api/v2/silences", 405), ("POST", "/api/v2/silence/x", 405)),
            *(("GET", "/-/reload", 405), ("POST", "/-/healthy", 405), ("POST", "/metrics", 405)),
            ("X" * 1_000, "/api/v2/alerts", 405),
        ):
            response = await client.http.request(method, path)
            assert response.status_code == status, (method, path[:50])
            assert ("allow" in response.headers) is (status == 405)


@pytest.mark.parametrize("kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "a/b;json"])
@in_time
async def test_a_body_must_have_the_content_type_json(kind):
    async with api() as client:
        headers = {} if kind is None else {"content-type": kind}
        for path in ("alerts", "silences"):
            response = await client.request("POST", path, content=ALERT, headers=headers)
            assert response.status_code == 415
        headers = {"content-type": "Application/JSON; charset=utf-8"}
        response = await client.request("POST", "alerts", content=ALERT, headers=headers)
        assert response.status_code == 200


@in_time
async def test_bodies_and_alerts_are_bounded():
    async with api(max_bytes=1_000, max_alerts=3, max_silences=2) as client:
        alerts = ",".join(['{"labels":{"a":"b"}}'] * 4)
        for content, status in ((f"[{alerts}]", 413), (" " * 1_001, 413), (f"[{alerts[21:]}]", 200)):
            response = await client.request("POST", "alerts", content=content, headers=JSON)
            assert response.status_code == status
        for _ in range(2):
            assert (await client.request("POST", "silences", content=silence(), headers=JSON)).is_success
        response = await client.request("POST", "silences", content=silence(), headers=JSON)
        assert (response.status_code, response.json()) == (400, "exceeded maximum number of silences: 2")
        silence_id = (await client.get("silences"))[0]["id"]  # one that exists can be changed
        body = silence(id=silence_id, startsAt=client.time(), endsAt=client.time(99))
        assert (await client.request("POST", "silences", content=body, headers=JSON)).is_success
        invalid = ",".join(["1"] * 4)
        response = await client.request("POST", "alerts", content=f"[{invalid}]", headers=JSON)
        assert response.status_code == 413
    async with api() as client:
        body = silence(comment="x" * 70_000)
        assert (await client.request("POST", "silences", content=body, headers=JSON)).status_code == 413
        content = "[" + ",".join(["1"] * 10_000) + "]"
        response = await client.request("POST", "alerts", content=content, headers=JSON)
        assert response.json().endswith("; and 9900 more")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"token": ""}, "token: must not be empty"),
        ({"token": "a", "authorize": str}, "token: pass either a token or authorize, not both"),
        ({"max_alerts": 0}, "max_alerts: must be an integer of at least 1, got 0"),
        ({"max_bytes": True}, "max_bytes: must be an integer of at least 1, got True"),
        ({"body_timeout": 0}, "body_timeout: must be greater than 0"),
        ({"prefix": "am"}, "prefix: must begin with /, got 'am'"),
    ],
)
def test_an_argument_out_of_range_is_refused(options, problem):
    with pytest.raises(ValueError, match=problem):
        alert_api(AlertSink(config()), **options)


def test_the_sink_must_be_an_alert_sink():
    with pytest.raises(TypeError, match="sink: must be an AlertSink, got InMemoryStream"):
        alert_api(InMemoryStream())  # type: ignore[arg-type]


@in_time
async def test_times_of_any_year_are_accepted():
    first, last = "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"
    async with api() as client:
        await client.post_alerts({"labels": {"alertname": "A"}, "startsAt": first, "endsAt": last})
        assert await client.names("alerts") == ["A"]
        body = silence(startsAt=first, endsAt=last)
        assert (await client.request("POST", "silences", content=body, headers=JSON)).is_success
        body = silence(startsAt="0001-01-01T00:00:00Z", endsAt=last)
        assert (await client.request("POST", "silences", content=body, headers=JSON)).is_success
        shown = {(each["startsAt"], each["endsAt"]) for each in await client.get("silences")}
        assert shown == {(client.time(), "2999-12-31T23:59:59.000Z")}


@in_time
async def test_a_client_that_disconnects_and_a_websocket_change_nothing():
    async with api() as client:

        async def receive() -> Any:
            return {"type": "http.disconnect"}

        scope = {"method": "POST", "path": "/api/v2/alerts", "query_string": b""}
        headers = [(b"content-type", b"application/json")]
        await client.app({**scope, "type": "http", "headers": headers}, receive, None)  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="only HTTP is served, not websocket"):
            await client.app({**scope, "type": "websocket"}, receive, None)  # type: ignore[arg-type]
        assert await client.get("alerts") == []
        await client.app.aclose()


# A sink or a store that is not available


@in_time
async def test_a_sink_that_does_not_respond_is_unavailable(monkeypatch):
    monkeypatch.setattr("codomyrmex.integrations.web.alertmanager_api.app._TIMEOUT", 0.02)
    async with api() as client:
        client.sink.alerts = lambda _: asyncio.Event().wait()  # type: ignore[assignment]
        response = await client.request("GET", "alerts")
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
        assert response.json() == "the alert sink does not respond; try again later"


@in_time
async def test_without_prometheus_client_only_the_metrics_are_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, COLLECTOR, raising=False)
    monkeypatch.delattr(logging_monitoring, "delivery_collector", raising=False)
    async with api() as client:
        response = await client.http.get("/metrics")
        assert response.status_code == 501
        assert "pip install 'codomyrmex-streaming[metrics]'" in response.json()
        assert await client.get("alerts") == []


@in_time
async def test_a_sink_that_is_not_open_is_unavailable():
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(AlertApiApp(AlertSink(config()))), base_url=ADDRESS, headers=JSON
    )
    async with client:
        for method, path, content in (
            *(("GET", "/api/v2/alerts", ""), ("POST", "/api/v2/alerts", ALERT)),
            *(("GET", "/api/v2/status", ""), ("POST", "/api/v2/silences", silence())),
            *(("DELETE", "/api/v2/silence/x", ""), ("GET", "/metrics", ""), ("POST", "/-/reload", "")),
        ):
            response = await client.request(method, path, content=content)
            assert response.status_code == 503, path
            assert response.headers["retry-after"] == "5"
            assert response.json() == "the alert sink is not open; try again later"
        assert (await client.get("/-/ready")).status_code == 503
        assert (await client.get("/-/healthy")).status_code == 200


@in_time
async def test_without_the_store_and_with_hold_posts_are_refused_and_alerts_still_shown(tmp_path):
    store = FaultyStore(tmp_path / "a.db")
    stream = DurableStream(store, lease=0.4, publish_timeout=0.05)
    sink = AlertSink(routing(when_away="hold"), {"ops": Inbox()}, drain_timeout=0.1)
    async with stream, attach(stream, sink):
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(alert_api(sink)), base_url=ADDRESS, headers=JSON
        )
        await until(lambda: sink.role is NotifierRole.HOLDER)
        while not (await client.get("/api/v2/alerts")).json():  # more than once if the machine is busy
            await client.post("/api/v2/alerts", content=ALERT)
        store.away = {"append", "read", "wait", "renew", "acquire", "save"}
        for path, content in (("alerts", ALERT), ("silences", silence())):
            response = await client.post(f"/api/v2/{path}", content=content)
            assert response.status_code == 503, response.text
            assert response.json() == "the store of the alerts is not available; try again later"
        assert len((await client.get("/api/v2/alerts")).json()) == 1
        store.away = set()
        await client.aclose()


@in_time
async def test_every_process_of_a_shared_state_returns_the_same(tmp_path):
    sinks, inbox = [], Inbox()
    for _ in range(2):
        stream = InMemoryStream()
        state = {"url": str(tmp_path / "a.db")}
        sink = AlertSink(
            routing(state=state, route={"group_wait": "10ms"}), {"ops": inbox}, drain_timeout=0.5
        )
        sinks.append((sink, attach(stream, sink), httpx.ASGITransport(alert_api(sink))))
    async with sinks[0][1], sinks[1][1]:
        clients = [
            httpx.AsyncClient(transport=transport, base_url=ADDRESS, headers=JSON)
            for _, _, transport in sinks
        ]
        await until(lambda: sinks[0][0].role is NotifierRole.HOLDER)
        for client in reversed(clients):  # first the one that stands by
            assert (await client.post("/api/v2/alerts", content=ALERT)).status_code == 200
        assert await inbox.wait_for(1) == ["firing: A"]
        silence_id = (await clients[1].post("/api/v2/silences", content=silence())).json()["silenceID"]
        await sinks[1][0].flush()
        for path in ("alerts", "alerts/groups", "silences", f"silence/{silence_id}", "receivers"):
            answers = [[], None]
            while answers[0] != answers[1] or not answers[0]:
                answers = [(await client.get(f"/api/v2/{path}")).json() for client in clients]
                await asyncio.sleep(0.01)
        large = [{"labels": {"alertname": f"L{n}"}, "annotations": {"text": "x" * 60_000}} for n in range(50)]
        assert (await clients[1].post("/api/v2/alerts", json=large)).status_code == 200
        for client in clients:
            while (status := (await client.get("/api/v2/status")).json()["cluster"])["status"] != "ready" or (
                len(status["peers"]) < 2
            ):
                await asyncio.sleep(0.01)
            assert "\nalertmanager_cluster_members 2.0\n" in (await client.get("/metrics")).text
        for client in clients:
            await client.aclose()
    assert inbox.summaries.count("firing: A") == 1
