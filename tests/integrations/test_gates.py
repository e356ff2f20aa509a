"""The gates of `serve`, and the limits of its connections."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest
from codomyrmex.integrations.web import connections, dashboard, event_stream, serve
from codomyrmex.integrations.web.connections import LimitedProtocol, LimitedServer
from codomyrmex.integrations.web.gates import HostGate, TokenGate
from codomyrmex.streaming import InMemoryStream
from helpers import in_time
from uvicorn.lifespan.on import LifespanOn

TOKEN = "s3cret"
ORIGIN = "https://app.example"
PREFLIGHT = {"origin": ORIGIN, "access-control-request-method": "GET"}


def browser(app: Any, url: str = "https://page.localhost") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=url)


async def test_the_gates_pass_on_only_http_and_the_lifespan():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    seen: list[str] = []
    gate = TokenGate(app, TOKEN)
    await gate({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="websocket"):
        await gate({"type": "websocket"}, None, None)  # type: ignore[arg-type]
    await HostGate(app, ())({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    host = {"type": "http", "method": "GET", "headers": [(b"host", b"Ops.Test:80")]}
    await HostGate(app, ["ops.test"])(host, None, None)  # type: ignore[arg-type]
    await HostGate(app, ())({**host, "headers": []}, None, None)  # type: ignore[arg-type]
    await HostGate(app, ())({**host, "headers": [(b"host", b"")]}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan", "lifespan", "http", "http", "http"]  # the last two are HTTP/1.0


@in_time
@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("/live/?a=1&access_token=s3cret&b=", "?a=1&b="),
        ("/live/?access_token=s3cret", "./"),
        ("/api/state?access_token=s3cret", "./state"),
        ("/a%20b:c?access_token=s3cret", "./a%20b%3Ac"),
        ("/%0d%0aSet-Cookie:x?access_token=s3cret", "./%0D%0ASet-Cookie%3Ax"),
    ],
)
@pytest.mark.parametrize("headers", [{"accept": "text/html, */*"}, {"sec-fetch-mode": "navigate"}])
async def test_a_redirect_to_the_same_address_removes_only_the_token(
    url: str, location: str, headers: dict[str, str]
):
    async with browser(TokenGate(dashboard(InMemoryStream()), TOKEN)) as page:
        answer = await page.get(url, headers=headers)
        assert answer.status_code == 303
        assert answer.headers["location"] == location
        cookie = answer.headers["set-cookie"].lower()
        assert all(part in cookie for part in ("httponly", "samesite=lax", "secure", "path=/"))


@in_time
@pytest.mark.parametrize("headers", [{}, {"origin": ORIGIN}, {"sec-fetch-mode": "cors"}])
async def test_the_token_in_the_url_is_enough_where_no_cookie_can_come(headers: dict[str, str]):
    stream = InMemoryStream()
    app = event_stream(stream, allow_origins=[ORIGIN])
    async with browser(TokenGate(app, TOKEN)) as page:
        assert (await page.head("/?access_token=s3cret", headers=headers)).status_code == 200
        assert (await page.head("/?access_token=wrong", headers=headers)).status_code == 401
        assert (await page.post("/?access_token=s3cret", headers=headers)).status_code == 401


@in_time
async def test_preflights_pass_and_refusals_can_be_read_by_allowed_origins():
    app = event_stream(InMemoryStream(), allow_origins=[ORIGIN])
    async with browser(TokenGate(app, TOKEN)) as page:
        asked = await page.options("/", headers=PREFLIGHT)
        refused = await page.get("/", headers={"origin": ORIGIN})
        other = await page.get("/", headers={"origin": "https://evil.example"})
        assert (await page.options("/", headers={"origin": ORIGIN})).status_code == 401
    assert (asked.status_code, refused.status_code, other.status_code) == (200, 401, 401)
    assert [each.headers.get("access-control-allow-origin") for each in (asked, refused, other)] == [
        ORIGIN,
        ORIGIN,
        None,
    ]


@in_time
async def test_an_application_behind_a_gate_leaves_the_host_to_it():
    for gate in (
        TokenGate(dashboard(InMemoryStream()), TOKEN),
        HostGate(dashboard(InMemoryStream()), ["a.b"]),
    ):
        async with browser(gate, "http://a.b") as page:
            headers = {"authorization": f"Bearer {TOKEN}"}
            assert (await page.get("/api/state", headers=headers)).status_code == 200
    async with browser(HostGate(dashboard(InMemoryStream()), ()), "http://a.b") as page:
        assert (await page.get("/api/state")).status_code == 421


@in_time
async def test_a_cookie_is_found_among_others():
    async with browser(TokenGate(dashboard(InMemoryStream()), TOKEN)) as page:
        first = await page.get("/?access_token=s3cret", headers={"accept": "text/html"})
        name, _, value = first.headers["set-cookie"].partition(";")[0].partition("=")
        page.cookies.clear()
        for cookie, status in (
            (f"{name}={value}", 200),
            (f"a=1; {name}={value}; b", 200),
            (f"{name}=wrong; {name}={value}", 200),  # another page of this host has set one too
            (f"{name}=wrong", 401),
            (f"x{name}={value}", 401),
            (";;=;" * 10 + f"{name} = {value}", 200),
        ):
            assert (await page.get("/", headers={"cookie": cookie})).status_code == status


@in_time
@pytest.mark.parametrize("cookie", ['a="' + "\\1" * 30_000, "a=b;" * 15_000, "=" * 60_000, '"\\"' * 20_000])
async def test_a_hostile_cookie_header_takes_little_time(cookie: str):
    async with browser(TokenGate(dashboard(InMemoryStream()), TOKEN)) as page:
        began = time.thread_time()  # other programs do not count
        assert (await page.get("/", headers={"cookie": cookie})).status_code == 401
        assert time.thread_time() - began < 2  # it was four seconds


# Connections


class Transport:
    """The connection of a client."""

    def __init__(self) -> None:
        self.written = b""
        self.unsent = 0
        self.closed = self.aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, _: str) -> None:
        return None

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


class Connections:
    """A server without sockets, whose application never answers."""

    def __init__(self, limit: int) -> None:
        self.server = LimitedServer(self.app, limit, 1)
        self.server.config.load()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass

    def connect(self, data: bytes = b"") -> tuple[LimitedProtocol, Transport]:
        kind: Any = self.server.config.http_protocol_class
        connection, transport = kind(self.server.config, self.server.server_state, {}), Transport()
        connection.connection_made(transport)
        if data:
            connection.data_received(data)
        return connection, transport


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        (b"", connections.HEADER_TIMEOUT),
        (b"GET / HTTP/1.1\r\nX: ", connections.HEADER_TIMEOUT),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1", connections.BODY_TIMEOUT),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n", connections.BODY_TIMEOUT),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
    ],
)
async def test_a_request_has_a_time_to_arrive(data: bytes, limit: float | None):
    connection, transport = Connections(10).connect(data)
    now = connection.loop.time()
    connection.expire(now + (limit or 1_000_000) - 1)
    assert not transport.aborted
    connection.expire(now + (limit or 1_000_000) + 1)
    assert transport.aborted == (limit is not None)
    connection.connection_lost(None)


async def test_a_request_that_arrives_byte_by_byte_has_no_more_time():
    connection, transport = Connections(10).connect(b"GET / HTTP/1.1\r\nX: ")
    now = connection.loop.time()
    for second in range(9):
        connection.data_received(b"x")
        connection.expire(now + second)
    assert not transport.aborted
    connection.expire(now + 11)
    assert transport.aborted


async def test_a_response_that_is_not_read_ends_its_connection():
    connection, transport = Connections(10).connect(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    for now, unsent in enumerate([0, 5, 9, 8, 7, 0, 3] + [3] * 59):
        transport.unsent = unsent
        connection.expire(now)
    assert not transport.aborted
    connection.expire(66)
    assert transport.aborted
    connection.connection_lost(None)


async def test_connections_beyond_the_limit_are_refused(caplog: pytest.LogCaptureFixture):
    made = Connections(2)
    first, _ = made.connect()
    _, second = made.connect()
    refused, transport = made.connect()
    assert transport.written.startswith(b"HTTP/1.1 503 ")
    assert transport.closed
    assert not second.closed
    assert "a connection was refused: 2 are open (the limit)" in caplog.text
    refused.expire(refused.loop.time())
    assert transport.aborted  # even if it does not read that
    for connection in (refused, first):
        connection.connection_lost(None)
    _, transport = made.connect()
    assert not transport.closed


async def test_the_server_looks_at_its_connections_each_second():
    made = Connections(10)
    connection, transport = made.connect()
    transport.unsent = 1
    connection.expire(connection.loop.time() - 100)
    for counter in range(1, 10):
        await made.server.on_tick(counter)
    assert not transport.aborted
    await made.server.on_tick(10)
    assert transport.aborted


@pytest.fixture
def descriptors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def limit(number: int) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (number, number))

    return limit


@pytest.mark.parametrize(
    ("number", "limit", "backlog"),
    [(100, 50, 12), (4, 2, 1), (1_000_000, 1_000, 128), (resource.RLIM_INFINITY, 1_000, 128)],
)
def test_half_of_the_descriptors_are_left_for_other_things(
    descriptors: Any, number: int, limit: int, backlog: int
):
    descriptors(number)
    server = LimitedServer(None, 1_000, 1)
    protocol: Any = server.config.http
    assert (protocol.max_connections, server.config.backlog) == (limit, backlog)


@pytest.mark.parametrize("limit", [0, -1, True, 1.5])
def test_a_limit_of_connections_is_a_number(limit: Any):
    with pytest.raises(ValueError, match="max_connections: must be an integer of at least 1"):
        serve(dashboard(InMemoryStream()), max_connections=limit)


@pytest.mark.parametrize("port", [-1, 65_536, True, "8000"])
def test_a_port_is_a_number_up_to_65535(port: Any):
    with pytest.raises(ValueError, match="port: must be an integer from 0 to 65535"):
        serve(dashboard(InMemoryStream()), port=port)


def test_what_is_no_application_is_not_served():
    with pytest.raises(TypeError, match="app: must be an ASGI application, got NoneType"):
        serve(cast("Any", None))


async def test_a_server_that_is_cancelled_prints_no_traceback(caplog):
    server = LimitedServer(dashboard(InMemoryStream(), signals=False), 10, 1)
    lifespan = LifespanOn(server.config)
    before = asyncio.all_tasks()
    await lifespan.startup()
    [task] = asyncio.all_tasks() - before
    task.cancel()
    await asyncio.wait({task})
    assert (lifespan.shutdown_failed, caplog.records) == (True, [])
