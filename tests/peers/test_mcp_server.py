"""The tools over HTTP under uvicorn: many clients, clients that disconnect, and the end of the server."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from alert_channels import Inbox, fires, routing
from assistants import LEGACY, MODERN, over_http
from codomyrmex.integrations import attach
from codomyrmex.integrations.mcp import McpApp, mcp_app
from codomyrmex.integrations.notification import AlertSink
from codomyrmex.integrations.web import dashboard, serving
from codomyrmex.streaming import InMemoryStream, create_event
from codomyrmex.streaming.testing import FakeClock
from helpers import in_time, until
from starlette.applications import Starlette
from starlette.routing import Mount

CLIENTS = 50
TOKEN = "correct horse"


class Counting:
    """Counts the requests that are being answered."""

    def __init__(self, app: McpApp) -> None:
        self.app = app
        self.open = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.open += scope["type"] == "http"
        try:
            await self.app(scope, receive, send)
        finally:
            self.open -= scope["type"] == "http"


class WaitingClock(FakeClock):
    """Counts the calls that have begun to wait for events for 30 seconds."""

    waiting = 0

    def call_later(self, delay: float, callback: Any) -> Any:
        self.waiting += delay == 30
        return super().call_later(delay, callback)


@in_time
async def test_fifty_clients_wait_for_an_event_and_ask_about_alerts_next_to_the_page():
    stream, sink = InMemoryStream(), AlertSink(routing(), {"ops": Inbox()})
    async with attach(stream, sink) as attachment:
        clock = WaitingClock()
        tools = mcp_app(stream, attachment, sink, token=TOKEN, clock=clock)
        page = dashboard(stream)
        app = Starlette(routes=[Mount("/mcp", tools), Mount("/", page)])
        await stream.publish(fires("DiskFull"))
        await sink.flush()

        async def ask(url: str, number: int) -> list[Any]:
            mode = (LEGACY, MODERN)[number % 2]
            async with over_http(url=f"{url}mcp/", token=TOKEN, mode=mode) as call:
                groups = await call("alert_groups")
                assert groups["groups"][0]["labels"] == {"alertname": "DiskFull"}
                page = await call("wait_for_events", topic="orders.placed")
                return [event["data"] for event in page["events"]]

        async with serving(app, port=0) as url:
            asking = [asyncio.create_task(ask(url, number)) for number in range(CLIENTS)]
            await until(lambda: clock.waiting == CLIENTS)
            await stream.publish(create_event("placed", topic="orders.placed"))
            assert await asyncio.gather(*asking) == [["placed"]] * CLIENTS
        await tools.aclose()
        await page.aclose()


@pytest.mark.parametrize("mode", [LEGACY, MODERN])
@in_time
async def test_clients_that_disconnect_while_they_wait_leave_nothing_behind(mode: str):
    stream, clock = InMemoryStream(), WaitingClock()
    app = Counting(mcp_app(stream, clock=clock))
    async with serving(app, port=0) as url:
        async with over_http(url=url, mode=mode) as call:
            await call("recent_events")
        await until(lambda: app.open == 0)
        subscribers = stream.statistics().subscribers

        async def wait() -> None:
            async with over_http(url=url, mode=mode) as call:
                await call("wait_for_events", timeout=30)

        waiting = [asyncio.create_task(wait()) for _ in range(5)]
        await until(lambda: clock.waiting == 5)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        await until(lambda: app.open == 0)
        assert stream.statistics().subscribers == subscribers
    await app.app.aclose()


@in_time
async def test_a_client_that_closes_its_connection_ends_its_call():
    clock = WaitingClock()
    app = Counting(mcp_app(InMemoryStream(), clock=clock))
    async with serving(app, port=0) as url:
        arguments = {"timeout": 30}
        call = {"name": "wait_for_events", "arguments": arguments}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
        head = (
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Accept: application/json, text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        await until(lambda: clock.waiting == 1)
        writer.transport.abort()
        await until(lambda: app.open == 0)
    await app.app.aclose()


@pytest.mark.parametrize("mode", [LEGACY, MODERN])
@in_time
async def test_the_end_of_the_server_ends_calls_that_wait(mode: str):
    clock = WaitingClock()
    app = mcp_app(InMemoryStream(), clock=clock)
    async with serving(app, port=0) as url, over_http(url=url, mode=mode) as call:
        await call.tools()
        waiting = asyncio.create_task(call("wait_for_events", timeout=30))
        await until(lambda: clock.waiting == 1)
        await app.aclose()
        assert (await waiting)["events"] == []
