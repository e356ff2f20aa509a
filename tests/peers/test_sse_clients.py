"""The event stream with real servers, clients and frameworks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import uvicorn
from codomyrmex.integrations.web import (
    DashboardApp,
    EventStreamApp,
    dashboard,
    event_ingest,
    event_stream,
)
from codomyrmex.streaming import Event, InMemoryStream, Overflow, SSEDecoder, SSERecord, create_event
from durable.servers import free_port

PATIENCE = 20.0
BIG = "x" * 100_000
TIMEOUT = httpx.Timeout(PATIENCE)


def need(module: str) -> Any:
    """Skip if a package is missing on a developer's machine; fail in CI, which installs it."""
    try:
        return import_module(module)
    except ImportError:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{module} is absent, and CI should have installed it")
        pytest.skip(f"{module} is not installed here")


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def served(
    app: Any, events: EventStreamApp | DashboardApp
) -> AsyncIterator[tuple[str, uvicorn.Server]]:
    """Serve an application that contains the event stream."""
    config = uvicorn.Config(app, port=0, log_level="critical", ws="none")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started or running.done())
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", server
    finally:
        await events.aclose()
        server.should_exit = True
        async with asyncio.timeout(PATIENCE):
            await running


# The clients: each returns what it reads from a stream up to its end


class Seen(NamedTuple):
    event: str
    data: str
    id: str


async def by_our_decoder(url: str, headers: dict[str, str]) -> list[Seen]:
    decoder = SSEDecoder()
    async with (
        httpx.AsyncClient(timeout=TIMEOUT) as client,
        client.stream("GET", url, headers=headers) as answer,
    ):
        return [
            Seen(record.event, record.data, record.id)
            async for chunk in answer.aiter_bytes()
            for record in decoder.feed(chunk)
        ]


async def by_httpx_sse(url: str, headers: dict[str, str]) -> list[Seen]:
    connect = need("httpx_sse").aconnect_sse
    async with (
        httpx.AsyncClient(timeout=TIMEOUT) as client,
        connect(client, "GET", url, headers=headers) as source,
    ):
        return [Seen(sse.event, sse.data, sse.id) async for sse in source.aiter_sse()]


async def by_sseclient(url: str, headers: dict[str, str]) -> list[Seen]:
    make = need("sseclient").SSEClient

    def read() -> list[Seen]:
        with httpx.stream("GET", url, headers=headers, timeout=TIMEOUT) as answer:
            return [Seen(sse.event, sse.data, sse.id) for sse in make(answer.iter_bytes()).events()]

    return await asyncio.to_thread(read)


CLIENTS = [by_our_decoder, by_httpx_sse, by_sseclient]


async def test_all_clients_see_the_same_events():
    for module in ("httpx_sse", "sseclient"):
        need(module)
    stream = InMemoryStream()
    app = event_stream(stream, heartbeat_interval=0.03)
    first = create_event("before")
    await stream.publish(first)
    sent = [
        create_event({"text": "a\r\nb", "lines": "x\x85y\u2028z\u2029", "emoji": "😀", "nul": "\0"}),
        Event(id="ü \r\n\0id", data=None, metadata={"topic": "orders.created"}),
        create_event("\ud800"),
        create_event(list(range(1_000))),
        create_event("data: not a field\n\nevent: neither"),
        create_event(BIG),
    ]
    async with served(app, app) as (url, _):
        reading = [asyncio.create_task(client(url, {})) for client in CLIENTS]
        await until(lambda: app.clients == len(CLIENTS))
        for event in sent:
            await stream.publish(event)
            await asyncio.sleep(0.1)  # leaves time for heartbeats between the events
        await app.aclose()
        ours, *others = await asyncio.gather(*reading)
    assert [record.event for record in ours] == ["connect", *["message"] * len(sent), "disconnect"]
    assert [Event.from_dict(json.loads(record.data)).data for record in ours[1:-1]] == [
        event.to_dict()["data"] for event in sent
    ]
    assert [record.id for record in ours[1:]] == [
        *(sent[0].id, "ü id", *(event.id for event in sent[2:])),
        sent[-1].id,
    ]
    assert all(record.id for record in ours)
    for other in others:
        assert other == ours


@pytest.mark.parametrize("client", CLIENTS)
async def test_each_client_resumes_with_the_last_id_that_it_has_seen(client: Any):
    stream = InMemoryStream()
    app = event_stream(stream, data="payload")
    events = [create_event(number) for number in range(10)]
    async with served(app, app) as (url, _):
        for event in events[:5]:
            await stream.publish(event)
        reading = asyncio.create_task(client(url, {"Last-Event-ID": events[1].id}))
        await until(lambda: app.clients or reading.done())
        for event in events[5:]:
            await stream.publish(event)
        await app.aclose()
        connect, *records, _ = await reading
    assert json.loads(connect.data) == {"resumed": True, "replayed": 3}
    assert [record.data for record in records] == [str(number) for number in range(2, 10)]


async def test_a_client_that_disconnects_again_and_again_loses_nothing_under_load():
    stream = InMemoryStream()
    app = event_stream(stream, data="payload", buffer_size=5_000, queue_size=5_000)
    count = 2_000
    start = create_event("start")
    await stream.publish(start)

    async def publish() -> None:
        for number in range(count):
            await stream.publish(create_event(number))
            await asyncio.sleep(0.001 if number % 20 == 0 else 0)

    async def read_some(client: httpx.AsyncClient, last: str, most: int) -> list[SSERecord]:
        decoder, records = SSEDecoder(), []
        async with client.stream("GET", url, headers={"Last-Event-ID": last}) as answer:
            async for chunk in answer.aiter_bytes():
                records += decoder.feed(chunk)
                if len(records) >= most or (records and records[-1].data == str(count - 1)):
                    break
        connect, *rest = records
        assert json.loads(connect.data)["resumed"] is True
        return rest

    got: list[SSERecord] = []
    async with served(app, app) as (url, _), httpx.AsyncClient(timeout=TIMEOUT) as client:
        publishing = asyncio.create_task(publish())
        async with asyncio.timeout(PATIENCE):
            while not got or got[-1].data != str(count - 1):
                got += await read_some(client, got[-1].id if got else start.id, 200)
        await publishing
        await until(lambda: app.clients == 0)
    assert [int(record.data) for record in got] == list(range(count))


# A client that does not read


@contextmanager
def reads_nothing(url: str) -> Iterator[socket.socket]:
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        slow.settimeout(PATIENCE)
        host = httpx.URL(url)
        slow.connect((host.host, host.port))
        slow.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        yield slow


@pytest.mark.parametrize("overflow", [Overflow.DISCONNECT, Overflow.DROP_OLDEST])
async def test_a_client_that_does_not_read_is_dropped_and_the_others_get_all_events(overflow: Overflow):
    stream = InMemoryStream()
    app = event_stream(stream, data="payload", send_timeout=0.4, queue_size=100, overflow=overflow)
    decoder, got = SSEDecoder(), []
    async with served(app, app) as (url, server):

        async def read() -> None:
            async with httpx.AsyncClient(timeout=TIMEOUT) as client, client.stream("GET", url) as answer:
                async for chunk in answer.aiter_bytes():
                    got.extend(record for record in decoder.feed(chunk) if record.event == "message")

        with reads_nothing(url):
            reading = asyncio.create_task(read())
            await until(lambda: app.clients == 2)
            sent = 0
            async with asyncio.timeout(PATIENCE):
                while app.clients == 2:
                    await stream.publish(create_event(BIG))
                    sent += 1
                    await asyncio.sleep(0.01)
            await until(lambda: len(got) == sent)
            assert (app.clients, app.dropped) == (1, 1)
            await until(lambda: len(server.server_state.connections) == 1)  # nothing is kept for it
        await app.aclose()
        await reading


async def test_a_slow_client_gets_everything_that_its_queue_can_hold():
    stream = InMemoryStream()
    app = event_stream(stream, data="payload", send_timeout=PATIENCE, queue_size=500)
    async with served(app, app) as (url, _):
        with reads_nothing(url) as slow:
            await until(lambda: app.clients)
            for _ in range(100):
                await stream.publish(create_event(BIG))
            await asyncio.sleep(0.1)

            def read() -> bytes:
                parts = []
                while parts.append(slow.recv(65_536)) or parts[-1]:
                    if sum(map(len, parts)) > 100 * len(BIG):
                        break
                return b"".join(parts)

            assert (await asyncio.to_thread(read)).count(b"event: message") == 100
        await until(lambda: not app.clients)
    assert app.dropped == 0


# Frameworks


def in_starlette(events: Any) -> Any:
    need("starlette")
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.gzip import GZipMiddleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    hello = Route("/hello", lambda _: PlainTextResponse("hello"))
    return Starlette(routes=[hello, Mount("/events", events)], middleware=[Middleware(GZipMiddleware)])


def in_fastapi(events: Any) -> Any:
    need("fastapi")
    from fastapi import FastAPI

    app = FastAPI()
    app.get("/hello")(lambda: "hello")
    app.mount("/events", events)
    return app


def in_litestar(events: Any) -> Any:
    need("litestar")
    from litestar import Litestar, asgi, get

    @get("/hello")
    async def hello() -> str:
        return "hello"

    mounted = asgi("/events", is_mount=True, copy_scope=True)(events.__call__)
    return Litestar([hello, mounted], logging_config=None)


def beside(other: Any, events: Any) -> Any:
    """Dispatch to the stream or to an application whose framework cannot mount others."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        here = scope["type"] == "http" and scope["path"].startswith("/events")
        await (events if here else other)(scope, receive, send)

    return app


def in_quart(events: Any) -> Any:
    app = need("quart").Quart("hello")

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    return beside(app, events)


def in_django(events: Any) -> Any:
    need("django")
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpResponse
    from django.urls import path

    async def hello(_: Any) -> HttpResponse:
        return HttpResponse("hello")

    if not settings.configured:
        urls = type("urls", (), {"urlpatterns": [path("hello", hello)]})
        settings.configure(ROOT_URLCONF=urls, ALLOWED_HOSTS=["*"], SECRET_KEY="test", LOGGING_CONFIG=None)
    return beside(get_asgi_application(), events)


@pytest.mark.parametrize("mount", [in_starlette, in_fastapi, in_litestar, in_quart, in_django])
async def test_it_mounts_in(mount: Callable[[Any], Any]):
    stream = InMemoryStream()
    events = event_stream(stream, data="payload")
    first, *_ = sent = [create_event(number, topic="orders.created") for number in range(3)]
    for event in sent:
        await stream.publish(event)
    async with served(mount(events), events) as (url, _), httpx.AsyncClient(timeout=TIMEOUT) as client:
        assert "hello" in (await client.get(f"{url}/hello")).text
        assert (await client.head(f"{url}/events/")).status_code == 200
        assert (await client.get(f"{url}/events/?topic=a..b")).status_code == 400
        decoder, records = SSEDecoder(), []
        query = {"topic": "orders.>", "last_event_id": first.id}
        async with client.stream("GET", f"{url}/events/", params=query) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            assert events.clients == 1
            async for chunk in answer.aiter_bytes():
                records += decoder.feed(chunk)
                if len(records) == 3:
                    await stream.publish(create_event("no", topic="users.created"))
                    await stream.publish(create_event("live", topic="orders.paid"))
                if len(records) == 4:
                    break
        assert [record.data for record in records[1:]] == ["1", "2", '"live"']
        await until(lambda: events.clients == 0)

        reading = asyncio.create_task(by_our_decoder(f"{url}/events/", {}))
        await until(lambda: events.clients == 1)
        await events.aclose()
        assert [record.event for record in await reading] == ["connect", "disconnect"]


@pytest.mark.parametrize("mount", [in_starlette, in_fastapi, in_litestar])
async def test_the_page_mounts_in(mount: Callable[[Any], Any]):
    page = dashboard(InMemoryStream())
    async with served(mount(page), page) as (url, _), httpx.AsyncClient(timeout=TIMEOUT) as client:
        first = await client.get(f"{url}/events", follow_redirects=True)
        assert (first.status_code, str(first.url)) == (200, f"{url}/events/")
        for path, kind in (("app.js", "text/javascript"), ("api/state", "application/json")):
            answer = await client.get(f"{url}/events/{path}")
            assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, kind)
        assert (await client.get(f"{url}/events/none.js")).status_code == 404


async def test_a_body_that_is_too_large_gets_a_response_over_a_real_connection():
    stream = InMemoryStream()
    ingest, events = event_ingest(stream, max_bytes=1_000), event_stream(stream)
    async with served(ingest, events) as (url, _), httpx.AsyncClient(timeout=TIMEOUT) as client:
        for size in (2_000, 200_000, 5_000_000):
            answer = await client.post(url, content=b"x" * size)
            assert (answer.status_code, "1000 bytes" in answer.text) == (413, True)
        assert (await client.post(url, json={"data": 1})).status_code == 202


# The end of a real process

SERVER = textwrap.dedent("""
    import asyncio, sys

    from codomyrmex.integrations.web import event_ingest, event_stream
    from codomyrmex.streaming import InMemoryStream

    stream = InMemoryStream()
    events, ingest = event_stream(stream, data="payload", send_timeout=1), event_ingest(stream)

    async def app(scope, receive, send):
        here = ingest if scope["type"] == "http" and scope["method"] == "POST" else events
        await here(scope, receive, send)

    server, port = sys.argv[1], int(sys.argv[2])
    if server == "uvicorn":
        import uvicorn
        uvicorn.run(app, port=port, log_level="critical", ws="none")
    else:
        from hypercorn.asyncio import serve
        from hypercorn.config import Config
        asyncio.run(serve(app, Config.from_mapping(bind=[f"127.0.0.1:{port}"], errorlog=None)))
""")


@contextmanager
def process(server: str, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    need(server)
    program = folder / "server.py"
    program.write_text(SERVER)
    port = free_port()
    with subprocess.Popen(
        [sys.executable, str(program), server, str(port)], stderr=subprocess.PIPE
    ) as running:
        try:
            deadline = time.monotonic() + PATIENCE
            while running.poll() is None and time.monotonic() < deadline:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port}", running
        finally:
            running.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("server", ["uvicorn", "hypercorn"])
async def test_a_signal_ends_a_real_server_soon_and_disconnects_each_client(
    server: str, number: signal.Signals, tmp_path: Path
):
    with process(server, tmp_path) as (url, running):
        async with httpx.AsyncClient(timeout=TIMEOUT) as client:
            reading = [asyncio.create_task(by_our_decoder(url, {})) for _ in range(10)]
            await asyncio.sleep(0.3)
            posted = await client.post(url, json=[{"data": 1}, {"data": 2}])
            assert posted.status_code == 202
        running.send_signal(number)
        all_seen = await asyncio.wait_for(asyncio.gather(*reading), PATIENCE)
        await asyncio.to_thread(running.wait, PATIENCE)
        errors = running.stderr.read().decode()
    for seen in all_seen:
        assert [(record.event, record.data) for record in seen] == [
            ("connect", '{"resumed":false,"replayed":0}'),
            ("message", "1"),
            ("message", "2"),
            ("disconnect", '{"reason":"shutdown"}'),
        ]
    assert errors == "" or (number == signal.SIGINT and "KeyboardInterrupt" in errors)


async def test_a_client_that_does_not_read_does_not_keep_a_real_server_from_ending(tmp_path: Path):
    with process("uvicorn", tmp_path) as (url, running), reads_nothing(url):
        async with httpx.AsyncClient(timeout=TIMEOUT) as client:
            await asyncio.sleep(0.2)
            for _ in range(10):
                assert (await client.post(url, json=[{"data": BIG}] * 9)).status_code == 202
        running.send_signal(signal.SIGTERM)
        await asyncio.to_thread(running.wait, PATIENCE)
        assert running.returncode == -signal.SIGTERM


PAGE = """
from codomyrmex.integrations.web import dashboard, serve
from codomyrmex.streaming import InMemoryStream

page = dashboard(InMemoryStream())

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        print("up", flush=True)
    await page(scope, receive, send)

serve(app, port=0)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0)])
def test_a_program_that_serves_ends_with_its_signal(number: signal.Signals, status: int):
    with subprocess.Popen([sys.executable, "-c", PAGE], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "up\n"
        program.send_signal(number)
        assert program.wait(PATIENCE) == status
