"""Targets: records of other programs. A bad record is counted and never ends the stream of records."""

from __future__ import annotations

import codecs
import itertools
import json
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import msgspec
from codomyrmex.integrations.logging_monitoring.attributes import attributes_of
from codomyrmex.integrations.logging_monitoring.redaction import redact
from codomyrmex.integrations.pipelines.line_sources import LineReader, Lines
from codomyrmex.integrations.service_mesh import CircuitBoard, CircuitBreakerEvent
from codomyrmex.integrations.service_mesh.envoy_admin import EnvoyAdmin
from codomyrmex.integrations.service_mesh.envoy_outlier_log import EnvoyOutlierLog
from codomyrmex.integrations.service_mesh.lines import LineSplitter
from codomyrmex.integrations.service_mesh.sse_feed import SSEFeed
from codomyrmex.integrations.service_mesh.tail import FileTail
from codomyrmex.streaming import (
    Event,
    EventDecodeError,
    EventType,
    InMemoryStream,
    SSEDecodeError,
    SSEDecoder,
    TopicError,
    TopicStream,
)
from codomyrmex.streaming.topics import check_pattern, matches
from fuzz.fuzzing import Targets

TARGETS = Targets()
TLS = ssl.create_default_context()
FOLDER = tempfile.TemporaryDirectory(prefix="fuzz")
JSON = (b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\n", b"\r\n", b"\xef\xbb\xbf", b"\xff")
EVENT = (b'"id":', b'"type":', b'"data":', b'"metadata":', b'"timestamp":', b'"topic":', b'"error"')
SSE = (b"data:", b"data: ", b"id: ", b"event: ", b"retry: ", b": ", b"\n", b"\r", b"\r\n", b"\n\n", b"\0")


def path(name: str) -> Path:
    return Path(FOLDER.name) / name


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def loaded(data: bytes) -> Iterator[Any]:
    """Yield the value that the bytes are as JSON, or nothing."""
    with suppress(ValueError, RecursionError):
        yield json.loads(data)


def decoded_events(data: bytes) -> Iterator[Event]:
    for value in loaded(data):
        with suppress(EventDecodeError):
            yield Event.from_dict(value)


# Server-sent events


@TARGETS.add(*SSE)
def sse_decoder(data: bytes) -> None:
    decoder = SSEDecoder()
    records = decoder.feed(data)
    split, cut = SSEDecoder(), len(data) // 3
    assert [
        *split.feed(data[:cut]),
        *split.feed(data[cut : 2 * cut]),
        *split.feed(data[2 * cut :]),
    ] == records
    assert [record.data for record in decoder.feed(b"\n\ndata: good\n\n")][-1] == "good"
    with suppress(SSEDecodeError):
        SSEDecoder(64).feed(data)


@TARGETS.add(*JSON, *EVENT)
def event_from_json(data: bytes) -> None:
    for event in decoded_events(data):
        same = Event.from_dict(json.loads(json.dumps(event.to_dict())))
        assert (same.type, same.timestamp) == (event.type, event.timestamp)
        records = SSEDecoder().feed(event.to_sse().encode())
        assert [record.event for record in records] == [event.type.value]
        json.loads(records[0].data)


@TARGETS.add(b".", b"*", b">", b".>", b"*.", b"a", b"orders.", b"\n", b" ")
def topics(data: bytes) -> None:
    pattern, *names = text(data).split("\n")
    try:
        check_pattern(pattern)
    except TopicError:
        return
    received: list[Event] = []
    stream = TopicStream()
    subscription = stream.subscribe_nowait(received.append, topic=pattern)
    expected = 0
    for name in names[:20]:
        with suppress(TopicError):
            stream.publish_nowait(Event(metadata={"topic": name}))
            expected += matches(pattern, name)
    assert len(received) == expected
    subscription.cancel()
    assert stream.statistics().subscribers == 0


# Lines


def _read(data: bytes, good: bytes, **options: Any) -> list[Event]:
    reader = LineReader(Lines(topic="t", **options))
    cut = data.find(b"\n", len(data) // 2) + 1
    events = [*reader.read(data[:cut].split(b"\n")), *reader.read([*data[cut:].split(b"\n"), good])]
    for event in events:
        event.to_sse()
    return events


@TARGETS.add(*JSON)
def json_lines(data: bytes) -> None:
    values = []
    for line in data.split(b"\n"):
        with suppress(ValueError, RecursionError):
            values.append(msgspec.json.decode(line.removeprefix(codecs.BOM_UTF8)))
    events = _read(data, b'{"n": 1}', format="json")
    assert repr([event.data for event in events]) == repr(
        [*values, {"n": 1}]
    )  # whatever stands beside a line


@TARGETS.add(*JSON, *EVENT)
def event_lines(data: bytes) -> None:
    assert _read(data, b'{"data": {"n": 1}}', format="event")[-1].data == {"n": 1}


@TARGETS.add(b"good ", b"7", b"\n", b"\r\n", b"\xef\xbb\xbf", b"\xff", b"\0")
def text_lines(data: bytes) -> None:
    assert _read(data, b"good 7", format="text")[-1].data == {"line": "good 7"}
    last = _read(data, b"good 7", format="text", pattern="(?P<n>[0-9]+)$")[-1]
    assert last.data == {"line": "good 7", "n": "7"}


@TARGETS.add(b"\n", b"\n\n", b"\r\n", b"\xff", b"\0", b"x" * 8, b"x" * 9)
def split_lines(data: bytes) -> None:
    """The lines are the same however the bytes are cut; the first bytes say how."""
    sizes, data = data[:4] or b"7", data[4:]
    for longest in (8, 4_096, len(data) + 4):
        splitter = LineSplitter(longest)
        found: list[bytes] = []
        start, cuts = 0, itertools.cycle(sizes)
        while start < len(data):
            size = next(cuts) + 1
            found += splitter.feed(data[start : start + size])
            start += size
        assert splitter.pending == len(data) - data.rfind(b"\n") - 1
        *whole, last = data.split(b"\n")
        whole += [last] if last else []
        assert found + splitter.flush() == [line for line in whole if len(line) <= longest]
        assert splitter.too_long == sum(len(line) > longest for line in whole)
        assert splitter.feed(b"good\n") == [b"good"]


@TARGETS.add(b"\n", b"\r\n", b"\xff", b"\0")
def tailed_file(data: bytes) -> None:
    path("log").write_bytes(data + b"\nlast\n")
    tail = FileTail(path("log"), position=None, from_start=True)
    lines: list[bytes] = []
    while new := tail.lines():
        lines += new
    tail.close()
    assert lines == (data.removeprefix(codecs.BOM_UTF8) + b"\nlast").split(b"\n")


@TARGETS.add(*JSON, b'{"inode": ', b'"offset": ')
def tail_position(data: bytes) -> None:
    path("log").write_bytes(b"one\ntwo\n")
    path("position").write_bytes(data.replace(b"INODE", str(path("log").stat().st_ino).encode()))
    tail = FileTail(path("log"), from_start=True, position=path("position"))
    tail.lines()
    tail.save()
    tail.close()


# Meshes


@TARGETS.add(*JSON, b'"action":', b'"EJECT"', b'"timestamp":', b'"num_ejections":', b'"enforced":')
def envoy_outlier_log(data: bytes) -> None:
    good = {"action": "EJECT", "upstream_url": "good:1", "cluster_name": "c",
            "timestamp": "2026-11-27T00:00:00Z", "enforced": True}  # fmt: skip
    path("outliers").write_bytes(data + b"\n" + json.dumps(good).encode() + b"\n")
    with _published(lambda stream: EnvoyOutlierLog(path("outliers"), stream, from_start=True)) as (
        feed,
        found,
    ):
        feed.poll()
    assert found[-1].breaker == "good:1"


@contextmanager
def _published(make: Callable[[InMemoryStream], Any]) -> Iterator[tuple[Any, list[CircuitBreakerEvent]]]:
    found: list[CircuitBreakerEvent] = []
    stream = InMemoryStream(0)

    def keep(event: Event) -> None:
        event.to_sse()
        breaker = CircuitBreakerEvent.from_event(event)
        assert breaker is not None
        found.append(breaker)

    stream.subscribe_nowait(keep)
    with mock.patch("ssl.create_default_context", return_value=TLS):  # it takes 20 ms
        feed = make(stream)
    try:
        yield feed, found
        assert stream.statistics().handler_errors == 0
    finally:
        feed.close()


def _answers(feed: Any, *bodies: bytes) -> None:
    """Let a feed read these bodies instead of a server's."""
    remaining = list(bodies)
    feed.client.close()
    feed.client = httpx.Client(
        verify=TLS, transport=httpx.MockTransport(lambda _: httpx.Response(200, content=remaining.pop(0)))
    )


STATS = b"cluster.a.circuit_breakers.default.rq_open: 1\ncluster.a.upstream_rq_pending_overflow: 4\n"
HOST = {
    "address": {"socket_address": {"address": "good", "port_value": 1}},
    "health_status": {"failed_outlier_check": True},
}
CLUSTERS = json.dumps({"cluster_statuses": [{"name": "a", "host_statuses": [HOST]}]}).encode()


@TARGETS.add(
    *JSON, b"cluster.", b".circuit_breakers.default.rq_open: 1", b".upstream_rq_pending_overflow: ",
    b"\n---\n", b'"cluster_statuses":', b'"host_statuses":', b'"socket_address":', b'"health_status":',
)  # fmt: skip
def envoy_admin(data: bytes) -> None:
    stats, _, clusters = data.partition(b"\n---\n")
    with _published(lambda stream: EnvoyAdmin("http://127.0.0.1:1", stream)) as (feed, found):
        _answers(feed, stats, clusters or b"{}", STATS, CLUSTERS)
        assert 0 < feed.poll() <= 30
        count = len(found)
        assert 0 < feed.poll() <= 30
        if b"good" not in data:
            assert "good:1" in [each.breaker for each in found[count:]]


def _sse_feed(data: bytes, dialect: Any, good: dict[str, Any]) -> None:
    with _published(lambda stream: SSEFeed("http://127.0.0.1:1", stream, dialect, calls=True)) as (
        feed,
        found,
    ):
        _answers(feed, data + b"\n\ndata: " + json.dumps(good).encode() + b"\n\n")
        assert 0 < feed.poll() <= 30
    assert any(each.breaker == "last" for each in found)


@TARGETS.add(
    *SSE, *JSON, b'"type": "HystrixCommand"', b'"name":', b'"isCircuitBreakerOpen":', b'"errorCount":',
)  # fmt: skip
def hystrix_stream(data: bytes) -> None:
    good = {"type": "HystrixCommand", "name": "last", "group": "z", "isCircuitBreakerOpen": True}
    _sse_feed(data, "hystrix", good)


@TARGETS.add(
    *SSE, *JSON, b'"type": "STATE_TRANSITION"', b'"circuitBreakerName":', b'"creationTime":',
    b'"stateTransition":', b'"CLOSED_TO_OPEN"', b'"NOT_PERMITTED"', b'"SUCCESS"', b'"durationInMs":',
)  # fmt: skip
def resilience4j_stream(data: bytes) -> None:
    good = {"type": "STATE_TRANSITION", "circuitBreakerName": "last", "stateTransition": "CLOSED_TO_OPEN"}
    _sse_feed(data, "resilience4j", good)


@TARGETS.add(
    *JSON, *EVENT, b'"breaker":', b'"kind":', b'"source":', b'"to_state":', b'"opened_at":', b'"details":',
)  # fmt: skip
def breaker_events(data: bytes) -> None:
    stream = InMemoryStream(0)
    board = CircuitBoard(stream)
    for event in decoded_events(data):
        board.update(event)
        board.snapshot()
    board.close()


# Payloads


@TARGETS.add(
    *JSON, *EVENT, b'"password":', b'"hunter2"', b"https://u:hunter2@h/", b"token=", b"Bearer ", b"eyJ",
    b"-----BEGIN ",
)  # fmt: skip
def payloads(data: bytes) -> None:
    clean = redact()
    for value in (*loaded(data), text(data)):
        event = Event(data=value, type=EventType.ERROR, metadata={"topic": "t", "value": value})
        attributes_of(event)
        redacted = clean(event)
        assert redacted is not None
        redacted.to_sse()
        hidden = clean(Event(data={"password": value}))
        assert hidden is not None
        assert hidden.data["password"] != value or not value
