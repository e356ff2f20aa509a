"""Targets: requests to the web applications, and what servers answer to the SSE client."""

from __future__ import annotations

import asyncio
import atexit
import json
from collections.abc import Coroutine
from contextlib import aclosing, suppress
from typing import Any
from unittest import mock

import h11
import httpx
from codomyrmex.integrations.notification.alerts.alert import posted as complete
from codomyrmex.integrations.notification.alerts.silences import successor
from codomyrmex.integrations.web import dashboard, event_ingest, event_stream, require_token
from codomyrmex.integrations.web.alertmanager_api import encoding, parsing
from codomyrmex.integrations.web.serve import HostGate, TokenGate
from codomyrmex.integrations.web.silence_form import FormError, parse_silence
from codomyrmex.integrations.web.sse_client import EventSource, RefusedError
from codomyrmex.streaming import Event, InMemoryStream, create_event
from fuzz.fuzzing import Targets
from fuzz.record_targets import EVENT, JSON, SSE, TLS, loaded
from starlette.exceptions import HTTPException

TARGETS = Targets()
_runner = asyncio.Runner()
atexit.register(_runner.close)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return _runner.run(coroutine)


async def call(
    app: Any, method: str, path: bytes, query: bytes, headers: list[Any], body: bytes
) -> tuple[int, bytes]:
    """Return the status and the body that an application answers before its client disconnects."""
    inbox = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return inbox.pop(0) if inbox else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    decoded = path.decode("utf-8", "replace")
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http",
             "method": method, "path": decoded, "raw_path": path, "root_path": "", "query_string": query,
             "headers": headers, "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1)}  # fmt: skip
    await asyncio.wait_for(app(scope, receive, send), 5)
    if not sent:
        return 0, b""
    for name, value in sent[0]["headers"]:
        assert not {*b"\r\n\0"} & {*name, *value}, "a response's header has a line break"
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


# Ingest


@TARGETS.add(*JSON, *EVENT, b"},{", b"[{},", b'"a.*.>"', b'"codomyrmex.origin"', memory=1_200)
def ingest_body(data: bytes) -> None:
    run(_ingest(data))


async def _ingest(data: bytes) -> None:
    stream = InMemoryStream(0)
    frames: list[str] = []
    stream.subscribe_nowait(lambda event: frames.append(event.to_sse()))
    app = event_ingest(stream)
    for kind in (b"application/json", b"application/x-ndjson"):
        frames.clear()
        headers = [(b"host", b"127.0.0.1"), (b"content-type", kind)]
        status, body = await call(app, "POST", b"/", b"", headers, data)
        assert status in {202, 400, 413}, body
        answer = json.loads(body)
        assert len(answer.get("ids", ())) == len(frames)
    assert stream.statistics().handler_errors == 0


# Requests


def _request(data: bytes) -> tuple[str, bytes, bytes, list[tuple[bytes, bytes]], bytes]:
    """Return a request as a server parses it: a request line, headers, an empty line, and the body."""
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.split(b"\n")
    method, _, target = first.partition(b" ")
    path, _, query = target.partition(b"?")
    headers = [
        (name.strip().lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)
    ]
    methods = {b"GET": "GET", b"POST": "POST", b"HEAD": "HEAD", b"OPTIONS": "OPTIONS", b"PUT": "PUT"}
    return methods.get(method, "GET"), b"/" + path.lstrip(b"/"), query, headers, body


REQUEST = (
    b"GET ", b"POST ", b"HEAD ", b"OPTIONS ", b"/", b"?", b"&", b"topic=", b"a.*.>", b"%3E", b"a.", b"\n",
    b"host: 127.0.0.1", b"host: evil.example", b"origin: http://evil.example", b"cookie: ", b"; ",
    b"a=b; ", b'"', b"accept: ", b"text/event-stream", b"*/*;q=0", b"last-event-id: ",
    b"authorization: Bearer ", b"t0k3n", b"access_token=", b"content-type: application/json",
    b"access-control-request-method: POST", b"[::1]", b"last_event_id=", b"sec-fetch-site: same-origin",
    b"/api/events", b"/api/state", b"/api/explain?fingerprint=", b"/api/silences", b"/app.js", b"/../",
    b"%2e%2e%2f", b"%00",
)  # fmt: skip


@TARGETS.add(*REQUEST)
def requests(data: bytes) -> None:
    run(_requests(data))


async def _requests(data: bytes) -> None:
    request = _request(data)
    stream = InMemoryStream()
    await stream.publish(create_event({"n": 1}, topic="orders.created"))
    streamed = event_stream(stream, allow_origins=["https://ok.example"], signals=False, max_clients=2)
    page = dashboard(stream, signals=False)
    secured = event_ingest(stream, authorize=require_token("t0k3n"))
    for app in (streamed, page, secured, TokenGate(streamed, "t0k3n"), HostGate(page, ())):
        status, body = await call(app, *request)
        assert status < 500, (status, body)
    assert (streamed.clients, page.clients) == (0, 0)
    await streamed.aclose()
    await page.aclose()


@TARGETS.add(
    *JSON, b'"matchers":', b'"duration":', b'"comment":', b'"created_by":', b"=~", b"1h", b"!=", b"{a=b}",
)  # fmt: skip
def silence_form(data: bytes) -> None:
    for form in loaded(data):
        with suppress(FormError):
            silence = parse_silence(form, 1e9)
            assert silence.starts_at < silence.ends_at


# The alert API


@TARGETS.add(
    *JSON, b'"labels":', b'"annotations":', b'"startsAt":', b'"endsAt":', b'"2026-01-01T00:00:00Z"',
    b'"0001-01-01T00:00:00+14:00"', b'"9999-12-31T23:59:59-12:00"', b'"generatorURL":', b'"http://a/%20"',
    b'"\\ud800"', b"},{", b'"a":""', b'"matchers":[{"name":"a","value":"b","isRegex":false}]',
    b'"comment":""', b'"createdBy":""', b'"isEqual":', b'"id":',
)  # fmt: skip
def alert_api_bodies(data: bytes) -> None:
    with suppress(HTTPException):
        found = parsing.parse_alerts(data, 1e9, 100, 10_000)
        for alert in found.alerts:  # what the sink checks
            assert json.loads(encoding.to_json(complete(alert, 1e9)))["labels"]
        assert len(found.reasons()) < 100_000
    with suppress(HTTPException):
        silence_id, silence = parsing.parse_silence(data, 1e9, 10_000)
        assert encoding.encode_silence(silence, 1e9)
        assert successor(None, silence, 1e9).ends_at > 1e9
        assert silence_id != ""


# The client


class NoWaiting:
    """The module `asyncio`, with another `sleep`."""

    def __init__(self, sleep: Any) -> None:
        self.sleep = sleep

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


@TARGETS.add(
    *SSE, *JSON, *EVENT, b"event: connect", b"event: message", b"event: heartbeat", b'"requested":',
    b'"resumed":', b"id: a ", b"id:  a", "id: \u2028".encode(), b"retry: 1",
)  # fmt: skip
def sse_client(data: bytes) -> None:
    run(_follow(data))


async def _follow(data: bytes) -> None:
    """Read an event behind hostile ones, reconnect, and read another one."""
    answers = [data + b'\n\nevent: message\ndata: "first"\n\n', b'data: "second"\n\n']

    async def respond(_: Any, request: httpx.Request) -> httpx.Response:
        # As the server's side of a connection, h11 refuses headers that cannot be sent.
        h11.Request(method="GET", target="/", headers=request.headers.raw)
        content = answers.pop(0) if answers else b'data: "second"\n\n'
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=content)

    async def sleep(seconds: float) -> None:
        assert 0 <= seconds < float("inf")

    remaining = ["second", "first"]
    with (
        mock.patch("httpx.AsyncHTTPTransport.handle_async_request", respond),
        mock.patch("codomyrmex.integrations.web.sse_client.asyncio", NoWaiting(sleep)),
        mock.patch("ssl.create_default_context", return_value=TLS),  # it takes 20 ms
        suppress(RefusedError),
    ):
        async with EventSource("http://127.0.0.1:1/") as source, aclosing(source.events()) as events:
            async for event in events:
                assert isinstance(event, Event)
                if event.data == remaining[-1]:
                    remaining.pop()
                if not remaining:
                    return
