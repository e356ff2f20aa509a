"""Retries, watched objects, Envoy, event streams of other languages, and the board."""

from __future__ import annotations

import functools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import stamina
import tenacity
from codomyrmex.integrations.service_mesh import (
    BreakerEventKind,
    BreakerState,
    CircuitBoard,
    CircuitBreakerEvent,
    EnvoyAdmin,
    EnvoyOutlierLog,
    SSEFeed,
    attach_stamina,
    attach_tenacity,
    watch,
)
from codomyrmex.streaming import EventType, InMemoryStream, Stream, create_event
from helpers import DEADLINE
from rich.console import Console


def published(stream: InMemoryStream) -> list[CircuitBreakerEvent]:
    events = [CircuitBreakerEvent.from_event(event) for event in stream.get_recent_events(10_000)]
    return [event for event in events if event is not None]


def short(stream: InMemoryStream) -> list[tuple[str, str | None, str | None]]:
    return [(event.breaker, event.from_state, event.to_state) for event in published(stream)]


# The shape


def test_an_event_can_be_read_back():
    event = CircuitBreakerEvent(
        breaker="a.b *>",
        kind=BreakerEventKind.STATE_CHANGE,
        source="test",
        from_state=BreakerState.CLOSED,
        to_state=BreakerState.OPEN,
        opened_at=datetime(2026, 11, 24, tzinfo=UTC),
    )
    published = event.to_event()
    assert published.topic == "circuit_breaker.test.a_b_"
    assert CircuitBreakerEvent.from_event(published) == event
    assert CircuitBreakerEvent.from_event(create_event({"breaker": "x"})) is None
    assert CircuitBreakerEvent.from_event(create_event("text")) is None


# Retries


@pytest.fixture
def stream() -> InMemoryStream:
    return InMemoryStream()


def test_a_retry_of_stamina_is_published_without_arguments_and_other_hooks_stay(stream):
    seen: list[Any] = []
    stamina.instrumentation.set_on_retry_hooks([seen.append])
    feed = attach_stamina(stream)
    calls: list[str] = []

    @stamina.retry(on=OSError, attempts=2, wait_initial=0, wait_jitter=0)
    def order(password: str) -> str:
        calls.append(password)
        if len(calls) == 1:
            raise OSError("token=abc")
        return "fine"

    try:
        assert order("hunter2") == "fine"
        [event] = stream.get_recent_events()
        assert event.topic is not None
        assert event.topic.startswith("retry.")
        assert event.data["kind"] == "retry_scheduled"
        assert (event.data["attempt"], event.data["reason"]) == (1, "OSError: token=[redacted]")
        assert "hunter2" not in json.dumps(event.to_dict())
        assert len(seen) == 1
        feed.close()
        feed.close()
        assert stamina.instrumentation.get_on_retry_hooks() == (seen.append,)
    finally:
        stamina.instrumentation.set_on_retry_hooks(None)


def test_retries_need_a_stream():
    hooks = stamina.instrumentation.get_on_retry_hooks()
    with pytest.raises(TypeError, match="must be a Stream, got str"):
        attach_stamina("stream")
    assert stamina.instrumentation.get_on_retry_hooks() == hooks
    retrying = tenacity.Retrying()
    before = retrying.before_sleep
    with pytest.raises(TypeError, match="must be a Stream, got str"):
        attach_tenacity(retrying, "stream")
    assert retrying.before_sleep is before


def test_a_retry_of_tenacity_is_published_beside_its_own_hook(stream):
    own: list[Any] = []

    @tenacity.retry(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_none(), before_sleep=own.append)
    def order(password: str) -> None:
        raise OSError("away")

    feed = attach_tenacity(order, stream, name="orders.eu")
    with pytest.raises(tenacity.RetryError):
        order("hunter2")
    assert [event.topic for event in stream.get_recent_events()] == ["retry.orders_eu"] * 2
    assert [event.data["attempt"] for event in stream.get_recent_events()] == [1, 2]
    assert "hunter2" not in json.dumps([event.to_dict() for event in stream.get_recent_events()])
    assert len(own) == 2
    feed.close()
    with pytest.raises(tenacity.RetryError):
        order("hunter2")
    assert len(stream.get_recent_events()) == 2
    assert len(own) == 4
    with pytest.raises(TypeError, match="retrying: must be a Retrying"):
        attach_tenacity(print, stream)


def test_a_controller_of_tenacity_can_be_attached(stream):
    retrying = tenacity.Retrying(stop=tenacity.stop_after_attempt(2), wait=tenacity.wait_none(), reraise=True)
    feed = attach_tenacity(retrying, stream, name="orders")
    with pytest.raises(ZeroDivisionError):
        retrying(lambda: 1 / 0)
    assert [event.topic for event in stream.get_recent_events()] == ["retry.orders"]
    feed.close()
    assert retrying.before_sleep is None


class AsyncHook:
    def __init__(self) -> None:
        self.called = 0

    async def __call__(self, state: tenacity.RetryCallState) -> None:
        self.called += 1


@pytest.mark.parametrize("wrap", [lambda hook: hook, lambda hook: hook.__call__, functools.partial])
async def test_an_async_hook_of_tenacity_is_still_awaited(stream, wrap):
    hook = AsyncHook()
    stop, wait = tenacity.stop_after_attempt(2), tenacity.wait_none()
    retrying = tenacity.AsyncRetrying(stop=stop, wait=wait, before_sleep=wrap(hook), reraise=True)
    feed = attach_tenacity(retrying, stream, name="orders")

    async def fail() -> None:
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        await retrying(fail)
    assert (hook.called, len(stream.get_recent_events())) == (1, 1)
    feed.close()


# Watching


class State(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class OurBreaker:
    """Like the breaker of codomyrmex's own service mesh."""

    def __init__(self) -> None:
        self.name = "orders"
        self.state = State.CLOSED
        self.failure_count = 0
        self.last_failure_time = 0.0


def test_the_state_of_an_object_is_polled(stream):
    breaker = OurBreaker()
    feed = watch(breaker, stream, poll_interval=0)
    feed.poll()
    breaker.state, breaker.failure_count, breaker.last_failure_time = State.OPEN, 5, 1_700_000_000.0
    feed.poll()
    feed.poll()
    breaker.state = State.HALF_OPEN
    feed.poll()
    assert short(stream) == [
        ("orders", None, "closed"),
        ("orders", "closed", "open"),
        ("orders", "open", "half_open"),
    ]
    opened = published(stream)[1]
    assert opened.failure_count == 5
    assert opened.opened_at == datetime.fromtimestamp(1_700_000_000, UTC)
    feed.close()
    breaker.state = State.CLOSED
    feed.poll()
    assert len(published(stream)) == 3


def test_a_function_can_read_the_state_and_may_fail(stream):
    states: list[object] = [False, 1 / 3, True]
    feed = watch(
        object(), stream, lambda _: states.pop(0), name="x", source="ours", service="shop", poll_interval=0
    )
    feed.poll()
    feed.poll()
    assert [(event.source, event.service, event.to_state) for event in published(stream)] == [
        ("ours", "shop", "closed"),
        ("ours", "shop", "open"),
    ]


def test_a_watch_polls_by_itself(stream):
    breaker, opened = OurBreaker(), threading.Event()
    stream.subscribe_nowait(lambda event: opened.set() if event.type is EventType.ERROR else None)
    feed = watch(breaker, stream, poll_interval=0.001)
    breaker.state = State.OPEN
    assert opened.wait(DEADLINE)
    feed.close()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"state": "open"}, TypeError),
        ({"poll_interval": -1}, ValueError),
        ({"poll_interval": "1"}, TypeError),
        ({"state": lambda _: "on fire"}, ValueError),
    ],
)
def test_invalid_arguments_of_watch_are_rejected(stream, arguments, error):
    with pytest.raises(error):
        watch(OurBreaker(), stream, **arguments)


def test_an_object_without_a_state_needs_a_function_that_reads_it(stream):
    with pytest.raises(TypeError, match="state="):
        watch(object(), stream)


# Envoy's log


def line(action: str = "EJECT", host: str = "127.0.0.1:19101", second: int = 0, **more: Any) -> str:
    entry = {
        "type": "CONSECUTIVE_5XX",
        "timestamp": f"2026-11-24T10:00:{second:02d}.123Z",
        "cluster_name": "up",
        "upstream_url": host,
        "action": action,
        "num_ejections": 1,
        "enforced": action == "EJECT",
        **more,
    }
    return json.dumps(entry) + "\n"


@pytest.fixture
def follow() -> Iterator[Callable[..., EnvoyOutlierLog]]:
    """Return a function that makes feeds, which are closed at the end."""
    made: list[EnvoyOutlierLog] = []

    def make(*args: Any, **options: Any) -> EnvoyOutlierLog:
        made.append(EnvoyOutlierLog(*args, **options))
        return made[-1]

    yield make
    for feed in made:
        feed.close()


def append(path: Any, *lines: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(lines))


def test_ejected_hosts_and_their_return_are_published(follow, tmp_path, stream):
    log = tmp_path / "outliers.log"
    feed = follow(log, stream)  # it does not exist yet
    feed.poll()
    append(log, line(), line("UNEJECT", second=5, secs_since_last_action="5", enforced=False))
    append(log, line(second=6, enforced=False, type="SUCCESS_RATE"))
    feed.poll()
    ejected, back, detected = published(stream)
    assert (ejected.breaker, ejected.service, ejected.to_state) == ("127.0.0.1:19101", "up", "ejected")
    assert (ejected.reason, ejected.native_state) == ("CONSECUTIVE_5XX", "EJECT")
    assert (back.from_state, back.to_state) == ("ejected", "closed")
    assert back.details["secs_since_last_action"] == 5
    assert (detected.kind, detected.details["enforced"]) == ("failure", False)
    events = stream.get_recent_events()
    assert [event.type for event in events] == [EventType.ERROR, EventType.MESSAGE, EventType.MESSAGE]
    assert events[0].timestamp == datetime(2026, 11, 24, 10, 0, 0, 123_000, tzinfo=UTC)
    assert [event.metadata.get("status") for event in events] == ["firing", "resolved", None]


@pytest.mark.parametrize(
    "kind",
    [
        "CONSECUTIVE_5XX",
        "CONSECUTIVE_GATEWAY_FAILURE",
        "SUCCESS_RATE",
        "CONSECUTIVE_LOCAL_ORIGIN_FAILURE",
        "SUCCESS_RATE_LOCAL_ORIGIN",
        "FAILURE_PERCENTAGE",
        "FAILURE_PERCENTAGE_LOCAL_ORIGIN",
        "EXTENSION",
        "SOMETHING_NEW",
    ],
)
def test_every_type_of_outlier_is_published(follow, tmp_path, stream, kind):
    log = tmp_path / "outliers.log"
    append(log, line(type=kind, eject_success_rate_event={"host_success_rate": 12}))
    follow(log, stream, from_start=True).poll()
    [event] = published(stream)
    assert event.reason == kind
    assert event.details["host_success_rate"] == 12


def test_an_invalid_line_is_counted_and_others_are_published(follow, tmp_path, stream, caplog):
    log = tmp_path / "outliers.log"
    bad = ["not json\n", "{}\n", line(action="EXPLODE"), "\n", line()[:40] + "\n", line(timestamp="today")]
    append(log, line(second=1), *bad, line(second=2))
    feed = follow(log, stream, from_start=True)
    feed.poll()
    assert len(published(stream)) == 2
    assert feed.invalid == 5  # an empty line is not invalid
    assert caplog.text.count("was skipped") == 1


def test_a_line_is_read_once_it_is_complete(follow, tmp_path, stream):
    log = tmp_path / "outliers.log"
    log.touch()
    feed = follow(log, stream)
    text = line()
    for piece in (text[:10], text[10:-1]):
        append(log, piece)
        feed.poll()
        assert published(stream) == []
    append(log, "\n")
    feed.poll()
    assert len(published(stream)) == 1


def test_existing_lines_are_skipped_by_default(follow, tmp_path, stream):
    log = tmp_path / "outliers.log"
    append(log, line(second=1))
    feed = follow(log, stream)
    append(log, line(second=2))
    feed.poll()
    assert [event.timestamp.second for event in stream.get_recent_events()] == [2]


def test_rotation_and_truncation_lose_nothing(follow, tmp_path, stream):
    log = tmp_path / "outliers.log"
    log.touch()
    feed = follow(log, stream)
    append(log, line(second=1))
    feed.poll()
    append(log, line(second=2))  # written after the last poll, before the rotation
    log.rename(tmp_path / "outliers.log.1")
    feed.poll()
    append(log, line(second=3))
    feed.poll()
    feed.poll()
    os.truncate(log, 0)
    feed.poll()
    append(log, line(second=4))
    feed.poll()
    assert [event.timestamp.second for event in stream.get_recent_events()] == [1, 2, 3, 4]


def test_a_restart_resumes_at_the_saved_position(follow, tmp_path):
    log, position = tmp_path / "outliers.log", tmp_path / "position"
    seconds: list[int] = []
    for start in range(0, 9, 3):
        append(log, *(line(second=second) for second in range(start, start + 3)))
        stream = InMemoryStream()
        feed = follow(log, stream, position=position)
        feed.poll()
        feed.close()
        seconds += [event.timestamp.second for event in stream.get_recent_events()]
    assert seconds == list(range(9))
    position.write_text("nonsense", encoding="utf-8")
    stream = InMemoryStream()
    follow(log, stream, position=position).poll()
    assert len(published(stream)) == 9  # rather twice than not at all


def test_the_log_is_followed_in_a_thread(tmp_path, stream):
    log, arrived = tmp_path / "outliers.log", threading.Event()
    stream.subscribe_nowait(lambda event: arrived.set())
    with EnvoyOutlierLog(log, stream, poll_interval=0.001) as feed:
        append(log, line())
        assert arrived.wait(DEADLINE)
        with pytest.raises(RuntimeError, match="once"):
            feed.start()


def test_a_line_without_an_end_does_not_exhaust_memory(follow, tmp_path, stream):
    log = tmp_path / "outliers.log"
    append(log, "x" * 3_000_000, "\n", line())
    feed = follow(log, stream, from_start=True)
    feed.poll()
    assert len(published(stream)) == 1
    assert feed.invalid >= 1


# Servers


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, tuple[int, str]] = {}
        self.frames: list[str] = []
        self.is_down = False
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.connections = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that have disconnected."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/stream":
            if self.server.is_down:
                self.send_error(503)
                return
            self.server.connections += 1
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for frame in self.server.frames:
                self.wfile.write(frame.encode())
            return
        status, body = self.server.answers.get(path, (404, ""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base class
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(DEADLINE)


# Envoy's admin endpoint


def stats(**values: int) -> str:
    names = {
        "open": "cluster.eu.orders.circuit_breakers.default.rq_pending_open",
        "overflow": "cluster.eu.orders.upstream_rq_pending_overflow",
    }
    return "".join(f"{names[name]}: {value}\n" for name, value in values.items())


def clusters(*, ejected: bool) -> str:
    host = {
        "address": {"socket_address": {"address": "10.0.0.1", "port_value": 80}},
        "health_status": {"failed_outlier_check": True} if ejected else {},
    }
    return json.dumps({"cluster_statuses": [{"name": "eu.orders", "host_statuses": [host]}]})


def test_limits_overflows_and_hosts_of_envoy_are_published(server, stream):
    feed = EnvoyAdmin(server.url, stream, poll_interval=0.5)
    for text, ejected in (
        (stats(open=0, overflow=3), False),
        (stats(open=1, overflow=10), True),
        (stats(open=0, overflow=10), False),
        (stats(open=0, overflow=2), False),  # Envoy was restarted
    ):
        server.answers = {"/stats": (200, text), "/clusters": (200, clusters(ejected=ejected))}
        assert feed.poll() == 0.5
    assert short(stream) == [
        ("default.rq_pending", "closed", "open"),
        ("default.rq_pending", None, None),
        ("10.0.0.1:80", "closed", "ejected"),
        ("default.rq_pending", "open", "closed"),
        ("10.0.0.1:80", "ejected", "closed"),
        ("default.rq_pending", None, None),
    ]
    assert {event.service for event in published(stream)} == {"eu.orders"}
    grown = [event.details["overflow"] for event in published(stream) if event.kind == "rejected"]
    assert grown == [7, 2]
    feed.close()


@pytest.mark.parametrize(
    "answer", [(500, ""), (200, "not json"), (200, "[]"), (200, '{"cluster_statuses": 3}')]
)
def test_a_failing_endpoint_is_an_event_and_is_polled_less_often(server, stream, answer):
    feed = EnvoyAdmin(server.url, stream, poll_interval=1.0)
    server.answers = {"/stats": (200, ""), "/clusters": answer}
    waits = [feed.poll() for _ in range(8)]
    assert short(stream) == [("admin", "closed", "open")]
    assert 0.5 <= waits[0] <= 1.0
    assert 15 <= waits[-1] <= 30
    server.answers = {"/stats": (200, ""), "/clusters": (200, clusters(ejected=False))}
    assert feed.poll() == 1.0
    assert short(stream)[-1] == ("admin", "open", "closed")
    feed.close()


# Event streams


def hystrix(name: str = "getOrder", *, opened: bool, **more: Any) -> str:
    command = {
        "type": "HystrixCommand",
        "name": name,
        "group": "shop",
        "isCircuitBreakerOpen": opened,
    }
    return f"data: {json.dumps(command | more)}\n\n"


def resilience4j(kind: str, **more: Any) -> str:
    event = {"circuitBreakerName": "orders", "type": kind, "creationTime": "2026-11-24T10:00:00.5Z[UTC]"}
    return f"id:orders\nevent:{kind}\ndata:{json.dumps(event | more)}\n\n"


def read_once(server: Server, stream: Stream, dialect: Any, *frames: str, **options: Any) -> SSEFeed:
    server.frames = list(frames)
    feed = SSEFeed(f"{server.url}/stream?token=s3cret", stream, dialect, **options)
    feed.poll()
    return feed


def test_the_differences_of_hystrix_snapshots_are_published(server, stream):
    feed = read_once(
        server,
        stream,
        "hystrix",
        hystrix(opened=False),
        hystrix(opened=False),
        'data: {"type": "HystrixThreadPool", "name": "x"}\n\n',
        "data: not json\n\n",
        hystrix(opened=True, errorCount=7, errorPercentage=70, requestCount=10),
        hystrix(opened=True),
        hystrix(opened=False),
    )
    breakers = [event for event in published(stream) if event.breaker == "getOrder"]
    assert [(event.kind, event.to_state) for event in breakers] == [
        ("snapshot", "closed"),
        ("state_change", "open"),
        ("state_change", "closed"),
    ]
    assert (breakers[1].failure_count, breakers[1].details["error_percentage"]) == (7, 70)
    assert breakers[1].service == "shop"
    assert feed.invalid == 1
    feed.close()


def test_the_events_of_resilience4j_are_published(server, stream):
    frames = [
        "event:ping\ndata:\n\n",
        resilience4j("ERROR", errorMessage="away"),
        resilience4j("FAILURE_RATE_EXCEEDED"),
        resilience4j("STATE_TRANSITION", stateTransition="CLOSED_TO_OPEN"),
        resilience4j("NOT_PERMITTED"),
        resilience4j("STATE_TRANSITION", stateTransition="OPEN_TO_HALF_OPEN"),
        resilience4j("STATE_TRANSITION", stateTransition="HALF_OPEN_TO_CLOSED"),
        resilience4j("STATE_TRANSITION", stateTransition="CLOSED_TO_FORCED_OPEN"),
        resilience4j("RESET"),
    ]
    feed = read_once(server, stream, "resilience4j", *frames)
    breakers = [event for event in published(stream) if event.breaker == "orders"]
    assert [(event.kind, event.to_state) for event in breakers] == [
        ("state_change", "open"),
        ("rejected", "open"),
        ("state_change", "half_open"),
        ("state_change", "closed"),
        ("state_change", "forced_open"),
        ("reset", "closed"),
    ]
    assert breakers[0].opened_at == datetime(2026, 11, 24, 10, 0, 0, 500_000, tzinfo=UTC)
    assert breakers[0].reason == "RuntimeError: FAILURE_RATE_EXCEEDED"
    again = InMemoryStream()
    read_once(server, again, "resilience4j", *frames, calls=True)
    same = [event for event in published(again) if event.opens and event.breaker == "orders"]
    assert same[0].transition_id == breakers[0].transition_id  # as if another process read the same stream
    assert "failure" in [event.kind for event in published(again)]
    feed.close()


def test_a_lost_connection_is_an_event_that_never_shows_the_url(server, stream, caplog):
    server.is_down = True
    feed = read_once(server, stream, "hystrix", hystrix(opened=True), backoff_initial=0.001)
    waits = [feed.poll() for _ in range(3)]
    assert all(0 < wait < 1 for wait in waits)
    assert short(stream) == [("feed", "closed", "open")]
    assert published(stream)[0].reason == "ConnectionError: HTTP status 503"
    server.is_down = False
    feed.poll()
    assert ("feed", "open", "closed") in short(stream)
    text = json.dumps([event.to_dict() for event in stream.get_recent_events()]) + caplog.text
    assert "s3cret" not in text
    feed.close()


def test_a_feed_reconnects(server, stream):
    server.frames = [hystrix(opened=False)]
    with SSEFeed(f"{server.url}/stream", stream, "hystrix", backoff_initial=0.001):
        deadline = time.monotonic() + DEADLINE
        while server.connections < 3:
            assert time.monotonic() < deadline
            time.sleep(0.001)


@pytest.mark.parametrize("url", ["", "localhost:9901", "file:///etc/passwd", "http://", "http://x:s3cret"])
def test_an_invalid_url_is_rejected_and_not_shown(stream, url):
    for feed in (lambda: EnvoyAdmin(url, stream), lambda: SSEFeed(url, stream, "hystrix")):
        with pytest.raises(ValueError, match="http://") as refusal:
            feed()
        assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("seconds", "error"),
    [(0, ValueError), (-1, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError)],
)
def test_invalid_times_are_rejected(stream, seconds, error):
    url = "http://127.0.0.1:9"
    for feed in (
        lambda: EnvoyOutlierLog("outliers.log", stream, poll_interval=seconds),
        lambda: EnvoyAdmin(url, stream, poll_interval=seconds),
        lambda: EnvoyAdmin(url, stream, timeout=seconds),
        lambda: SSEFeed(url, stream, "hystrix", backoff_initial=seconds),
        lambda: SSEFeed(url, stream, "hystrix", timeout=seconds),
    ):
        with pytest.raises(error, match="must be"):
            feed()


def test_an_unknown_dialect_is_rejected(stream):
    with pytest.raises(ValueError, match="hystrix, resilience4j"):
        SSEFeed("http://127.0.0.1/", stream, "morse")


# The board


def change(breaker: str, old: str, new: str, **more: Any) -> CircuitBreakerEvent:
    return CircuitBreakerEvent(
        breaker=breaker,
        kind=BreakerEventKind.STATE_CHANGE,
        source="test",
        from_state=BreakerState(old),
        to_state=BreakerState(new),
        **more,
    )


NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def publish(stream: InMemoryStream, event: CircuitBreakerEvent, minutes: float = 0) -> None:
    stream.publish_nowait(event.to_event(NOON + timedelta(minutes=minutes)))


def test_the_board_shows_the_current_state_of_each_breaker(stream):
    with CircuitBoard(stream) as board:
        publish(stream, change("a", "closed", "open", reason="OSError: away", failure_count=5))
        publish(stream, change("a", "open", "half_open"), 1)
        publish(stream, change("a", "half_open", "open", reason="OSError: still"), 2)
        rejected = CircuitBreakerEvent(breaker="a", kind=BreakerEventKind.REJECTED, source="test")
        for _ in range(3):
            publish(stream, rejected, 3)
        publish(stream, change("b", "open", "closed", service="shop"), 4)
        stream.publish_nowait(create_event("something else", topic="circuit_breaker.x.y"))
        first, second = board.snapshot(NOON + timedelta(minutes=10))
        assert (first.breaker, first.state, first.failures, first.rejected) == ("a", "open", 5, 3)
        assert (first.since, first.reason) == (NOON + timedelta(minutes=2), "OSError: still")
        assert first.opened_last_hour == 2
        assert (second.breaker, second.service, second.state) == ("b", "shop", "closed")
        assert board.snapshot(NOON + timedelta(minutes=61))[0].opened_last_hour == 1
    publish(stream, change("c", "closed", "open"))
    assert len(board.snapshot()) == 2


def test_a_transition_reported_by_several_processes_counts_once(stream):
    board = CircuitBoard(stream)
    for _ in range(3):
        publish(stream, change("a", "closed", "open", transition_id="the same"))
    assert board.snapshot(NOON)[0].opened_last_hour == 1


def test_the_board_is_bounded(stream):
    board = CircuitBoard(stream, max_breakers=3)
    for name in "abcad":
        publish(stream, change(name, "closed", "open"))
    assert {status.breaker for status in board.snapshot()} == {"c", "a", "d"}
    with pytest.raises(ValueError, match="max_breakers"):
        CircuitBoard(stream, max_breakers=0)
    with pytest.raises(TypeError, match="must be a Stream"):
        CircuitBoard("stream")


def test_markup_in_names_is_not_rendered(stream):
    board = CircuitBoard(stream)
    publish(stream, change("[bold]a", "closed", "open", reason="[red]x"))
    console = Console(width=120, record=True, force_terminal=False)
    console.print(board.render())
    text = console.export_text()
    assert "[bold]a" in text
    assert "[red]x" in text
    assert "open" in text
