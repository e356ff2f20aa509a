"""The tools over HTTP: who may use them, by which host and origin; both generations of the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from alert_channels import Inbox, routing, running
from assistants import LEGACY, MODERN, NO_TLS, ToolFailed, over_http
from codomyrmex.integrations.mcp import mcp_app
from codomyrmex.integrations.web import dashboard, require_token
from codomyrmex.streaming import InMemoryStream, Stream, create_event
from codomyrmex.streaming.testing import FakeClock
from helpers import in_time, settle
from starlette.applications import Starlette
from starlette.routing import Mount

TOKEN = "correct horse"
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


async def post(app: Any, method: str = "POST", content: Any = None, **headers: str) -> httpx2.Response:
    sent = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), verify=NO_TLS) as http:
        return await http.request(
            method,
            "http://localhost/",
            headers={**sent, **named},
            **({"json": PING} if content is None else {"content": content}),
        )


@pytest.mark.parametrize("mode", [LEGACY, MODERN])
@in_time
async def test_both_generations_of_the_protocol_are_served_without_a_lifespan(mode: str):
    stream = InMemoryStream()
    app = mcp_app(stream, token=TOKEN, allow_actions=True)
    async with over_http(app, token=TOKEN, mode=mode) as call:
        assert "add_silence" in await call.tools()
        await call("stream_publish", stream_name="default", data=1)
        assert (await call("recent_events"))["events"][0]["data"] == 1
        with pytest.raises(ToolFailed, match="limit: "):
            await call("recent_events", limit=0)
        subscription = (await call("stream_subscribe", stream_name="default"))["subscription_id"]
        waiting = asyncio.create_task(call("stream_read", subscription_id=subscription, timeout=30))
        await settle()
        await stream.publish(create_event(2))
        assert [event["data"] for event in (await waiting)["events"]] == [2]
    await app.aclose()
    await app.aclose()


@in_time
async def test_a_request_without_the_token_is_refused():
    app = mcp_app(InMemoryStream(), token=TOKEN)
    assert (await post(app, authorization=f"Bearer {TOKEN}")).status_code == 200
    for sent in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Bearer {TOKEN} "[:-2]}):
        response = await post(app, **sent)
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), verify=NO_TLS) as http:
        assert (await http.post(f"http://localhost/?access_token={TOKEN}", json=PING)).status_code == 401
    await app.aclose()


@in_time
async def test_requests_for_other_hosts_and_from_other_origins_are_refused():
    app = mcp_app(InMemoryStream())
    assert (await post(app)).status_code == 200
    assert (await post(app, host="evil.example")).status_code == 421
    assert (await post(app, origin="https://evil.example")).status_code == 403
    assert (await post(app, origin="http://localhost")).status_code == 200
    await app.aclose()
    app = mcp_app(InMemoryStream(), allowed_hosts=["mcp.example"])
    assert (await post(app, host="mcp.example")).status_code == 200
    assert (await post(app, host="evil.example")).status_code == 421
    await app.aclose()


@in_time
async def test_only_post_is_allowed_and_bodies_are_bounded():
    app = mcp_app(InMemoryStream())
    for method in ("GET", "DELETE", "PUT"):
        response = await post(app, method)
        assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert (await post(app, content=b" " * 300_000)).status_code == 413
    assert (await post(app, content=b"nonsense")).status_code == 400
    await app.aclose()


@in_time
async def test_a_body_that_does_not_arrive_times_out():
    clock = FakeClock()
    app = mcp_app(InMemoryStream(), clock=clock)
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}
    request = asyncio.create_task(app(scope, receive, send))
    await settle()
    clock.advance(10)
    await request
    assert sent[0]["status"] == 408
    await app.aclose()


@pytest.mark.parametrize("mode", [LEGACY, MODERN])
@in_time
async def test_a_client_that_may_see_some_topics_sees_only_their_events(mode: str):
    def authorize(scope: Any) -> Any:
        return {b"Bearer all": "*", b"Bearer some": ["orders.>"]}.get(
            dict(scope["headers"])[b"authorization"]
        )

    async with running(routing(), {"ops": Inbox()}) as run:
        for topic in ("orders.placed", "secret", None):
            await run.stream.publish(create_event(topic, topic=topic))
        app = mcp_app(run.stream, run.attachment, run.sink, authorize=authorize, allow_actions=True)
        # First one who may see everything: what the SDK starts then must not be used for others.
        async with over_http(app, token="all", mode=mode) as call:
            assert len((await call("recent_events"))["events"]) == 3
            assert (await call("sinks"))["total"] > 0
        async with over_http(app, token="some", mode=mode) as call:
            page = await call("recent_events")
            assert [event["topic"] for event in page["events"]] == ["orders.placed"]
            [stream] = (await call("stream_status"))["streams"]
            assert stream["topics"] == ["orders.placed"]
            for tool, arguments in (
                ("alert_groups", {}),
                ("explain_route", {"labels": {"a": "b"}}),
                ("why_not_notified", {"labels": {"a": "b"}}),
                ("silences", {}),
                ("sinks", {}),
                ("breakers", {}),
                ("stream_publish", {"stream_name": "default", "data": 1}),
                ("stream_create", {"name": "x"}),
                ("add_silence", {"matchers": 'a="b"', "duration": "1h", "created_by": "x"}),
                ("expire_silence", {"silence_id": "x"}),
                ("replay_dead_letters", {}),
            ):
                with pytest.raises(ToolFailed, match="needs access to all topics"):
                    await call(tool, **arguments)
            with pytest.raises(Exception, match="needs access to all topics"):
                await call.client.read_resource("sinks://")
        assert (await post(app, authorization="Bearer none")).status_code == 401
        await app.aclose()


@in_time
async def test_it_is_mounted_next_to_the_page_and_used_again_after_a_lifespan():
    stream = InMemoryStream()
    tools, page = mcp_app(stream), dashboard(stream)
    app = Starlette(routes=[Mount("/mcp", tools), Mount("/", page)])
    for _ in range(2):
        async with lifespan(tools), over_http(app, url="http://localhost/mcp/") as call:
            await stream.publish(create_event(1))
            assert (await call("recent_events"))["events"]
        assert (await post(tools)).status_code == 503
    await page.aclose()


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    received: asyncio.Queue[Any] = asyncio.Queue()
    sent: asyncio.Queue[Any] = asyncio.Queue()
    running = asyncio.create_task(app({"type": "lifespan"}, received.get, sent.put))
    received.put_nowait({"type": "lifespan.startup"})
    assert (await sent.get())["type"] == "lifespan.startup.complete"
    yield
    received.put_nowait({"type": "lifespan.shutdown"})
    await running
    assert (await sent.get())["type"] == "lifespan.shutdown.complete"


def test_each_event_loop_is_served():
    app = mcp_app(InMemoryStream())

    async def ask() -> int:
        return (await post(app)).status_code

    assert [asyncio.run(ask()) for _ in range(2)] == [200, 200]


@pytest.mark.parametrize(
    ("stream", "options", "error", "message"),
    [
        ("x", {}, TypeError, "stream: must be a Stream, got str"),
        (None, {"allow_actions": True}, ValueError, "allow_actions: needs a token"),
        (None, {"allow_actions": "yes", "token": "x"}, TypeError, "allow_actions: must be true or false"),
        (None, {"token": " "}, ValueError, "token: must not be empty"),
        (None, {"token": "x", "authorize": require_token("x")}, ValueError, "token: pass either"),
    ],
)
def test_unsafe_arguments_are_refused(stream: Stream, options: Any, error: Any, message: str):
    with pytest.raises(error, match=message):
        mcp_app(stream or InMemoryStream(), **options)


@in_time
async def test_only_http_is_served():
    with pytest.raises(RuntimeError, match="only HTTP is served, not websocket"):
        await mcp_app(InMemoryStream())({"type": "websocket"}, None, None)
