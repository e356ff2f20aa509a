"""`health_app`: whether a process lives and is ready, and why it is not."""

from __future__ import annotations

import asyncio
import json
import re

import httpx
import pytest
from codomyrmex.integrations import DeliveryPolicy, InlineSink, PermanentError, Sink, attach, attach_blocking
from codomyrmex.integrations.durable import DurableStream, SQLiteStore, StoreUnavailableError
from codomyrmex.integrations.web import health_app, serving
from codomyrmex.streaming import InMemoryStream, create_event
from codomyrmex.streaming.testing import FakeClock
from fastapi import FastAPI
from helpers import settle, until
from litestar import Litestar, asgi
from litestar.types import Receive, Scope, Send
from starlette.applications import Starlette
from starlette.routing import Mount

ONCE = DeliveryPolicy(batch_age=0, batch_size=1, max_attempts=1, breaker_failures=1, breaker_reset=60.0)
SECRET = "hunter2"


class Fails(Sink):
    """A sink whose service is down, or up again."""

    def __init__(self, name="pager", error=None):
        self.name, self.error = name, error

    async def send(self, events):
        if self.error is not None:
            raise self.error


class Unopened(Sink):
    name = "unopened"

    async def open(self):
        raise ConnectionError(f"https://user:{SECRET}@host")

    async def send(self, events):
        raise AssertionError


class Inline(InlineSink):
    name = "inline"

    def emit(self, event):
        pass


class Refusing(SQLiteStore):
    """A store that stops answering."""

    away = False

    async def append(self, log, batch):
        if self.away:
            raise StoreUnavailableError(f"https://user:{SECRET}@internal.example is away")
        return await super().append(log, batch)


async def get(app, path="/readyz", method="GET", **headers):
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://10.1.2.3:8000") as client:
        return await client.request(method, path, headers=headers)


async def reasons(app):
    response = await get(app)
    assert response.status_code == 503
    assert response.json()["status"] == "not ready"
    return {entry.get("sink", "store"): entry["reason"] for entry in response.json()["reasons"]}


async def test_a_process_is_ready_when_its_sinks_were_started():
    attachment = attach(InMemoryStream(), Fails())
    app = health_app(attachment)
    assert await reasons(app) == {"pager": "the attachment was not started"}
    assert (await get(app, "/livez")).json() == {"status": "live"}
    async with attachment:
        response = await get(app)
        assert (response.status_code, response.json()) == (200, {"status": "ready"})
        assert response.headers["cache-control"] == "no-store"
    assert await reasons(app) == {"pager": "it is closed and receives no more events"}
    assert (await get(app, "/livez")).status_code == 200


def test_a_blocking_attachment_is_ready_too():
    attachment = attach_blocking(InMemoryStream(), Fails())
    app = health_app(attachment)
    assert asyncio.run(get(app)).status_code == 503
    with attachment:
        assert asyncio.run(get(app)).status_code == 200


async def test_an_open_breaker_and_recent_losses_are_not_ready_and_degraded_is():
    clock, stream, sink = FakeClock(), InMemoryStream(), Fails(error=ConnectionError(f"key={SECRET}"))
    async with attach(stream, sink, policy=ONCE, clock=clock) as attachment:
        app = health_app(attachment)
        await stream.publish(create_event(1))
        await until(lambda: attachment.health()["pager"].state == "open")
        assert await reasons(app) == {"pager": "its circuit breaker is open"}
        assert SECRET not in (await get(app)).text
        sink.error = None
        clock.advance(61)
        await stream.publish(create_event(2))
        await until(lambda: attachment.health()["pager"].delivered)
        await settle()
        states = {}
        for seconds in (0, 61):
            clock.advance(seconds)
            states[attachment.health()["pager"].state.value] = (await get(app)).status_code
        assert states["degraded"] == 200


async def test_a_sink_that_loses_events_is_not_ready_for_a_minute():
    clock, stream = FakeClock(), InMemoryStream()
    policy = DeliveryPolicy(batch_age=0, max_attempts=1, breaker_failures=100)
    async with attach(
        stream, sink := Fails(error=PermanentError("no")), policy=policy, clock=clock
    ) as attached:
        app = health_app(attached)
        await stream.publish(create_event(1))
        await until(lambda: attached.health()["pager"].dead)
        sink.error = None
        await stream.publish(create_event(2))
        await until(lambda: attached.health()["pager"].state == "losing")
        assert await reasons(app) == {"pager": "events were lost within the last minute"}
        clock.advance(61)
        assert attached.health()["pager"].state == "degraded"
        assert (await get(app)).status_code == 200


async def test_a_sink_that_could_not_be_opened_is_not_ready():
    policy = DeliveryPolicy(open="retry", drain_timeout=0)
    async with attach(InMemoryStream(), Unopened(), policy=policy) as attachment:
        response = await get(health_app(attachment))
        assert response.json()["reasons"] == [
            {"sink": "unopened", "state": "not_open", "reason": "it could not be opened yet"}
        ]
        assert SECRET not in response.text


async def test_only_the_named_sinks_count():
    attachment = attach(InMemoryStream(), Fails("pager"), Fails("chat"))
    assert set(await reasons(health_app(attachment))) == {"pager", "chat"}
    assert set(await reasons(health_app(attachment, sinks=["chat"]))) == {"chat"}
    assert (await get(health_app(attachment, sinks=[]))).status_code == 200


async def test_a_store_that_is_not_available_is_a_reason(tmp_path):
    store = Refusing(tmp_path / "events.db")
    async with DurableStream(store, publish_timeout=0.2) as stream, attach(stream, Fails()) as attachment:
        app = health_app(attachment, stream)
        assert (await get(app)).status_code == 200
        store.away = True
        with pytest.raises(StoreUnavailableError):
            await stream.publish(create_event(1))
        await until(lambda: not stream.health().available)
        response = await get(app)
        assert response.status_code == 503
        [found] = response.json()["reasons"]
        assert found["store"] == "unavailable"
        assert re.fullmatch(r"it has not answered for \d+ s", found["reason"])
        assert SECRET not in response.text
        assert "internal.example" not in response.text
        store.away = False
        await until(lambda: stream.health().available)
        assert (await get(app)).status_code == 200


async def test_a_standby_is_ready(tmp_path):
    async with (
        DurableStream(SQLiteStore(tmp_path / "events.db")) as one,
        DurableStream(SQLiteStore(tmp_path / "events.db")) as two,
        attach(one, Fails()) as first,
        attach(two, Fails()) as second,
    ):
        states = {first.health()["pager"].state, second.health()["pager"].state}
        assert states == {"ok", "standby"}
        for attachment, stream in ((first, one), (second, two)):
            assert (await get(health_app(attachment, stream))).status_code == 200


async def test_the_handlers_of_a_group_count_as_sinks_do(tmp_path):
    async with DurableStream(SQLiteStore(tmp_path / "events.db")) as stream:

        def fail(_):
            raise ValueError(SECRET)

        policy = DeliveryPolicy(batch_age=0, batch_size=1, max_attempts=1, breaker_failures=1)
        await stream.subscribe(fail, group="orders", policy=policy)
        app = health_app(None, stream)
        assert (await get(app)).status_code == 200
        await stream.publish(create_event(1))
        await until(lambda: stream.health().groups["orders"].state == "open")
        assert await reasons(app) == {"orders": "its circuit breaker is open"}


async def test_reasons_are_plain_text_for_a_client_that_accepts_only_that():
    attachment = attach(InMemoryStream(), Fails("bad\nname\ud800"), Fails("chat"))
    response = await get(health_app(attachment), accept="text/plain")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text == (
        "not ready\n"
        "sink bad name?: not_started: the attachment was not started\n"
        "sink chat: not_started: the attachment was not started\n"
    )
    for accept in (
        "*/*",
        "application/json",
        "text/plain;q=0",
        "text/plain;q=x",
        "application/json, text/plain",
    ):
        assert (await get(health_app(attachment), accept=accept)).json()["status"] == "not ready"


async def test_head_has_the_headers_of_get_and_other_methods_are_refused():
    app = health_app(attach(InMemoryStream(), Fails()))
    got, head = await get(app), await get(app, method="HEAD")
    assert (head.status_code, head.content) == (503, b"")
    assert head.headers == got.headers
    refused = await get(app, method="POST")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    assert (await get(app, "/")).status_code == 404
    with pytest.raises(RuntimeError, match="only HTTP is served, not websocket"):
        await app({"type": "websocket"}, None, None)


async def test_it_can_be_mounted_anywhere():
    app = health_app(attach(InMemoryStream(), Inline()))
    fastapi = FastAPI()
    fastapi.mount("/internal/health", app)

    @asgi("/internal/health", is_mount=True, copy_scope=True)
    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    litestar = Litestar([mounted], openapi_config=None)
    for outer in (Starlette(routes=[Mount("/internal/health", app)]), fastapi, litestar):
        assert (await get(outer, "/internal/health/livez")).json() == {"status": "live"}
        assert (await get(outer, "/internal/health/readyz")).status_code == 503


async def test_a_probe_needs_no_token_and_gets_no_reasons_without_it():
    app = health_app(attach(InMemoryStream(), Fails()))
    async with serving(app, port=0, token="t0ken") as url, httpx.AsyncClient(base_url=url) as client:
        response = await client.get("/readyz")
        assert (response.status_code, response.json()) == (503, {"status": "not ready"})
        assert (await client.get("/livez", headers={"host": "10.1.2.3"})).json() == {"status": "live"}
        assert (await client.get("/other/livez")).status_code == 401
        assert (await client.post("/livez")).status_code == 401
        response = await client.get("/readyz", headers={"authorization": "Bearer t0ken"})
        assert json.loads(response.text)["reasons"][0]["sink"] == "pager"
        assert (await client.head("/livez")).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5,), r"attachment: must have a method health\(\), got int"),
        ((None, 5), "stream: must be a Stream, got int"),
        ((None, None, "pager"), "sinks: must be a list of names, got 'pager'"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(TypeError, match=message):
        health_app(*arguments[:2], sinks=arguments[2] if len(arguments) == 3 else None)
