"""An open circuit stays an alert until it is closed, and only it is one; foreign records are checked."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from threading import Event as Flag
from typing import Any

import circuitbreaker
import httpx
import pybreaker
import pytest
from alerting import config
from codomyrmex.integrations.notification import AlertEngine
from codomyrmex.integrations.notification.alerts.alert import LabelRules, not_in_the_future
from codomyrmex.integrations.service_mesh import (
    BreakerEventKind,
    BreakerState,
    CircuitBoard,
    CircuitBreakerEvent,
    EnvoyAdmin,
    EnvoyOutlierLog,
    SSEFeed,
    attach_circuitbreaker,
    attach_pybreaker,
    watch,
)
from codomyrmex.integrations.service_mesh.open_circuits import OpenCircuits
from codomyrmex.streaming import Event, InMemoryStream
from helpers import DEADLINE


@pytest.fixture
def stream() -> InMemoryStream:
    return InMemoryStream()


def events(stream: InMemoryStream) -> list[Event]:
    return stream.get_recent_events(10_000)


def short(stream: InMemoryStream) -> list[tuple[str, str | None]]:
    found = [CircuitBreakerEvent.from_event(event) for event in events(stream)]
    return [(event.kind, event.to_state) for event in found if event is not None]


def alerts(stream: InMemoryStream) -> list[tuple[str, str]]:
    """Return the status and the summary of each event that declares an alert."""
    return [
        (event.metadata["status"], event.metadata["annotations"]["summary"])
        for event in events(stream)
        if "labels" in event.metadata or "status" in event.metadata
    ]


def fail() -> None:
    raise ConnectionError("no route to token=s3cret")


def opened(stream: InMemoryStream, **options: Any) -> Any:
    """Attach a feed to a closed breaker of pybreaker and open it."""
    breaker = pybreaker.CircuitBreaker(fail_max=3, reset_timeout=3_600, name="orders")
    feed = attach_pybreaker(breaker, stream, service="shop", **options)
    for _ in range(3):
        with pytest.raises((ConnectionError, pybreaker.CircuitBreakerError)):
            breaker.call(fail)
    return feed


# Which events are alerts


def test_a_closed_breaker_that_is_attached_is_not_an_alert(stream):
    attach_pybreaker(pybreaker.CircuitBreaker(name="orders"), stream).close()
    [event] = events(stream)
    assert event.data["kind"] == "snapshot"
    assert not event.metadata.keys() & {"labels", "status", "annotations"}


@pytest.mark.parametrize("state", ["open", "half-open"])
def test_a_breaker_that_is_not_closed_when_it_is_attached_is_an_alert(stream, state):
    breaker = pybreaker.CircuitBreaker(name="orders")
    breaker.open() if state == "open" else breaker.half_open()
    attach_pybreaker(breaker, stream, service="shop").close()
    assert alerts(stream) == [("firing", f"orders (shop) is {state.replace('-', ' ')}")]
    [event] = events(stream)
    assert datetime.fromisoformat(event.metadata["starts_at"]) <= datetime.now(UTC)


def test_the_summary_says_what_is_open_since_when_and_why(stream):
    opened(stream).close()
    [(status, summary)] = alerts(stream)
    assert (status, summary) == (
        "firing",
        "orders (shop) is open after 3 failures: ConnectionError: no route to token=[redacted]",
    )


@pytest.mark.parametrize(
    ("fields", "summary"),
    [
        ({"to_state": "open", "failure_count": 1}, "b is open after 1 failure"),
        ({"to_state": "ejected", "service": "up", "reason": "5XX"}, "b (up) is ejected: 5XX"),
        ({"to_state": "closed", "failure_count": 3, "reason": "old"}, "b is closed"),
    ],
)
def test_the_summary_has_what_is_known(fields, summary):
    state = BreakerState(fields.pop("to_state"))
    event = CircuitBreakerEvent(
        breaker="b", kind=BreakerEventKind.STATE_CHANGE, source="x", to_state=state, **fields
    )
    assert event.to_event().metadata["annotations"] == {"summary": summary}


def test_each_event_of_a_circuit_is_the_same_alert(stream):
    feed = opened(stream)
    feed.open_circuits.repeat()
    feed.breaker.close()
    opened_event, repeated, closed = (event for event in events(stream) if "labels" in event.metadata)
    assert [status for status, _ in alerts(stream)] == ["firing", "firing", "resolved"]
    rules = LabelRules()
    assert rules.labels_of(repeated) == rules.labels_of(opened_event)
    assert closed.metadata["labels"] == opened_event.metadata["labels"]


# Repeating


def test_an_open_circuit_that_nobody_calls_is_repeated_until_it_is_closed(stream):
    feed = opened(stream)
    for _ in range(2):
        feed.open_circuits.repeat()
    first, *repeated = [event for event in events(stream) if "labels" in event.metadata]
    assert [event.data["kind"] for event in repeated] == ["snapshot"] * 2
    for event in repeated:
        assert event.metadata["labels"] == first.metadata["labels"]
        assert event.metadata["starts_at"] == first.metadata["starts_at"]
        assert event.metadata["annotations"] == first.metadata["annotations"]
        assert "transition_id" not in event.metadata
    feed.breaker.close()
    count = len(events(stream))
    feed.open_circuits.repeat()
    assert len(events(stream)) == count


def test_a_half_open_circuit_that_nobody_calls_is_repeated(stream):
    feed = opened(stream)
    feed.breaker.half_open()
    feed.open_circuits.repeat()
    assert short(stream)[-1] == ("snapshot", "half_open")
    assert alerts(stream)[-1][0] == "firing"


def test_a_repeated_circuit_was_opened_once_on_the_board(stream):
    with CircuitBoard(stream) as board:
        feed = opened(stream)
        feed.open_circuits.repeat()
        [status] = board.snapshot()
    assert (status.state, status.opened_last_hour) == ("open", 1)


def test_a_thread_repeats_while_a_circuit_is_open(stream):
    repeated = Flag()
    stream.subscribe_nowait(lambda event: repeated.set() if event.data["kind"] == "snapshot" else None)
    breaker = pybreaker.CircuitBreaker(fail_max=1, reset_timeout=3_600, name="orders")
    feed = attach_pybreaker(breaker, stream, repeat_interval=0.001)
    repeated.clear()  # of being attached
    breaker.open()
    for _ in range(3):
        assert repeated.wait(DEADLINE)
        repeated.clear()
    feed.close()


def test_a_closed_feed_repeats_nothing(stream):
    feed = opened(stream)
    feed.close()
    count = len(events(stream))
    feed.open_circuits.repeat()
    assert len(events(stream)) == count


def test_other_libraries_and_watched_objects_are_repeated_too(stream):
    breaker = circuitbreaker.CircuitBreaker(failure_threshold=1, name="orders")
    feed = attach_circuitbreaker(breaker, stream)
    with pytest.raises(ConnectionError):
        breaker.call(fail)
    feed.open_circuits.repeat()
    assert short(stream)[-1] == ("snapshot", "open")

    class Ours:
        state = "open"
        failure_count = 2

    watched = watch(Ours(), stream, name="ours", poll_interval=0)
    watched.open_circuits.repeat()
    assert alerts(stream)[-2:] == [("firing", "ours is open after 2 failures")] * 2
    for handle in (feed, watched):
        handle.close()


@pytest.mark.parametrize(
    ("interval", "error"), [(-1, ValueError), ("1", TypeError), (float("inf"), ValueError)]
)
def test_an_invalid_interval_is_rejected(stream, interval, error):
    with pytest.raises(error, match="repeat_interval: must be"):
        attach_pybreaker(pybreaker.CircuitBreaker(name="x"), stream, repeat_interval=interval)


def test_the_circuits_are_bounded():
    published: list[CircuitBreakerEvent] = []
    circuits = OpenCircuits(published.append, 0)
    for number in range(10_050):
        kind, state = BreakerEventKind.SNAPSHOT, BreakerState.OPEN
        circuits.update(CircuitBreakerEvent(breaker=str(number), kind=kind, source="x", to_state=state))
    circuits.repeat()
    assert len(published) == 10_000
    assert published[-1].breaker == "10049"


# Envoy's log


def entry(action: str = "EJECT", **more: Any) -> str:
    fields = {
        "type": "CONSECUTIVE_5XX",
        "timestamp": datetime.now(UTC).isoformat(),
        "cluster_name": "up",
        "upstream_url": "10.0.0.1:80",
        "action": action,
        "enforced": True,
    }
    return json.dumps(fields | more) + "\n"


def log_feed(path: Any, stream: InMemoryStream, *lines: str) -> EnvoyOutlierLog:
    path.write_text("".join(lines), encoding="utf-8")
    feed = EnvoyOutlierLog(path, stream, from_start=True, repeat_interval=0)
    feed.poll()
    return feed


def test_an_ejected_host_is_repeated_until_it_is_back(stream, tmp_path):
    feed = log_feed(tmp_path / "log", stream, entry())
    feed.open_circuits.repeat()
    assert short(stream) == [("state_change", "ejected"), ("snapshot", "ejected")]
    with (tmp_path / "log").open("a", encoding="utf-8") as file:
        file.write(entry("UNEJECT"))
    feed.poll()
    feed.open_circuits.repeat()
    assert short(stream)[-1] == ("state_change", "closed")
    feed.close()


def test_a_host_of_an_envoy_that_was_restarted_is_not_repeated_for_ever(stream, tmp_path):
    old = (datetime.now(UTC) - timedelta(hours=1, seconds=1)).isoformat()
    feed = log_feed(tmp_path / "log", stream, entry(timestamp=old))
    feed.open_circuits.repeat()
    assert len(events(stream)) == 1
    feed.close()


@pytest.mark.parametrize(
    "bad",
    [
        entry(timestamp="0001-01-01T00:00:00+14:00"),
        entry(enforced="false"),
        entry(num_ejections="9" * 5_000),
        entry(upstream_url="x" * 2_000),
        entry(eject_extension_event=None)[:-2]
        + ', "eject_extension_event": '
        + "[" * 9_000
        + "]" * 9_000
        + "}\n",
        "[]\n",
    ],
    ids=["time", "truthiness", "digits", "length", "depth", "array"],
)
def test_no_line_ends_the_feed(stream, tmp_path, bad):
    feed = log_feed(tmp_path / "log", stream, entry(), bad, entry("UNEJECT"))
    assert short(stream) == [("state_change", "ejected"), ("state_change", "closed")]
    assert feed.invalid == 1
    feed.close()


# Remote sources


def hystrix(opened: Any, **more: Any) -> str:
    command = {"type": "HystrixCommand", "name": "get", "group": "shop", "isCircuitBreakerOpen": opened}
    return f"data: {json.dumps(command | more)}\n\n"


def resilience4j(transition: str, **more: Any) -> str:
    fields = {"circuitBreakerName": "orders", "type": "STATE_TRANSITION", "stateTransition": transition}
    return f"data: {json.dumps(fields | more)}\n\n"


def own(stream: InMemoryStream, name: str) -> list[tuple[str, str | None]]:
    found = [CircuitBreakerEvent.from_event(event) for event in events(stream)]
    return [(event.kind, event.to_state) for event in found if event is not None and event.breaker == name]


@pytest.mark.parametrize(
    ("value", "state"),
    [
        (True, "open"),
        (False, "closed"),
        ({"false": 2}, "closed"),
        ({"true": 2, "false": 1}, "open"),
        ({"true": 1, "false": 1}, "closed"),
        ({"true": 1}, "open"),
    ],
)
def test_the_instances_that_an_aggregator_counts_are_read(stream, answers, value, state):
    answers.append(hystrix(value))
    feed = SSEFeed("http://x/", stream, "hystrix")
    feed.poll()
    assert (own(stream, "get"), feed.invalid) == ([("snapshot", state)], 0)
    feed.close()


@pytest.mark.parametrize(
    "record",
    [
        *(
            hystrix(value)
            for value in ("false", 0, 1, None, {}, {"true": 0}, {"true": -1}, {"maybe": 1}, [True])
        ),
        hystrix(True, errorCount="3"),
        hystrix(True, name=7),
        hystrix(True, name=""),
        "data: []\n\n",
        'data: "HystrixCommand"\n\n',
        f"data: {'[' * 9_000}\n\n",
    ],
)
def test_a_record_of_hystrix_with_other_types_is_invalid(stream, answers, record):
    answers.append(record + hystrix(False))
    feed = SSEFeed("http://x/", stream, "hystrix")
    feed.poll()
    assert (own(stream, "get"), feed.invalid) == ([("snapshot", "closed")], 1)
    feed.close()


@pytest.mark.parametrize(
    "record",
    [
        resilience4j("CLOSED"),
        resilience4j("CLOSED_TO_MAYBE"),
        resilience4j("CLOSED_TO_OPEN", circuitBreakerName=None),
        resilience4j("CLOSED_TO_OPEN", stateTransition=["CLOSED_TO_OPEN"]),
        resilience4j("CLOSED_TO_OPEN", creationTime=5),
        resilience4j("CLOSED_TO_OPEN", type=True),
    ],
)
def test_a_record_of_resilience4j_with_other_types_is_invalid(stream, answers, record):
    answers.append(record + resilience4j("HALF_OPEN_TO_CLOSED"))
    feed = SSEFeed("http://x/", stream, "resilience4j")
    feed.poll()
    assert (own(stream, "orders"), feed.invalid) == ([("state_change", "closed")], 1)
    feed.close()


def test_the_message_of_a_remote_error_is_redacted(stream, answers):
    answers.append(resilience4j("", type="ERROR", errorMessage="password=hunter2 \x1b[31m"))
    feed = SSEFeed("http://x/", stream, "resilience4j", calls=True)
    feed.poll()
    assert own(stream, "orders") == [("failure", None)]
    assert "hunter2" not in json.dumps([event.to_dict() for event in events(stream)])
    feed.close()


def test_the_url_of_a_source_is_not_logged_and_others_are(stream, answers, caplog):
    caplog.set_level("INFO")
    answers += [hystrix(False), "", "{}", "mine"]
    feeds = SSEFeed("http://u:p1@x/?token=s3cret", stream, "hystrix"), EnvoyAdmin("http://u:p1@x", stream)
    for feed in feeds:
        feed.poll()
        feed.close()
    with httpx.Client() as client:
        client.get("http://application/")
    assert "s3cret" not in caplog.text
    assert "p1" not in caplog.text
    assert "http://application/" in caplog.text


def test_circuits_of_a_source_that_is_away_are_repeated(stream, answers):
    answers += [hystrix(True), httpx.ConnectError("away"), hystrix(True), hystrix(False)]
    feed = SSEFeed("http://x/", stream, "hystrix", repeat_interval=0)
    feed.poll()
    feed.poll()  # away
    feed.feed.open_circuits.repeat()
    assert own(stream, "get") == [("snapshot", "open")] * 2
    assert own(stream, "feed")[-1] == ("snapshot", "open")
    feed.poll()  # back, and it is still open
    assert own(stream, "get") == [("snapshot", "open")] * 3
    feed.poll()
    assert own(stream, "get")[-1] == ("state_change", "closed")
    feed.close()


def test_a_circuit_that_a_source_no_longer_reports_is_not_repeated_for_ever(stream, answers):
    answers += [resilience4j("CLOSED_TO_OPEN"), b": nothing\n\n"]
    feed = SSEFeed("http://x/", stream, "resilience4j", repeat_interval=0)
    feed.poll()
    feed.feed.open_circuits.repeat()
    count = len(own(stream, "orders"))
    assert count == 2
    feed.poll()  # connected again: whether it is open is not known
    feed.feed.open_circuits.repeat()
    assert len(own(stream, "orders")) == count
    feed.close()


def admin(answers: list[Any], *hosts: Any, cluster: Any = "shop") -> None:
    entries = [{"name": cluster, "host_statuses": list(hosts)}]
    answers += ["", json.dumps({"cluster_statuses": entries})]


def host(port: Any, *, ejected: Any) -> Any:
    address = {"socket_address": {"address": "10.0.0.1", "port_value": port}}
    return {"address": address, "health_status": {"failed_outlier_check": ejected}}


def test_a_host_that_is_no_longer_configured_is_no_longer_ejected(stream, answers):
    feed = EnvoyAdmin("http://x", stream, repeat_interval=0)
    admin(answers, host(80, ejected=True))
    admin(answers)
    feed.poll()
    feed.feed.open_circuits.repeat()
    feed.poll()
    feed.feed.open_circuits.repeat()
    states = [("state_change", "ejected"), ("snapshot", "ejected"), ("state_change", "closed")]
    assert own(stream, "10.0.0.1:80") == states
    feed.close()


@pytest.mark.parametrize(
    "bad",
    [host(80, ejected="false"), host("80", ejected=True), host(80, ejected=1), "host", None, {"address": []}],
)
def test_a_host_with_other_types_is_invalid_and_the_next_one_is_read(stream, answers, bad):
    feed = EnvoyAdmin("http://x", stream)
    admin(answers, bad, host(81, ejected=True))
    feed.poll()
    assert (short(stream), feed.invalid) == ([("state_change", "ejected")], 1)
    feed.close()


def test_an_endless_answer_is_not_read_to_its_end(stream, answers, monkeypatch):
    monkeypatch.setattr("codomyrmex.integrations.service_mesh.envoy_admin._MAX_BODY", 1_000)
    answers += ["x" * 1_001]
    feed = EnvoyAdmin("http://x", stream)
    feed.poll()
    assert own(stream, "admin") == [("state_change", "open")]
    feed.close()


# Alert routing


def test_a_repeated_circuit_is_not_resolved_by_a_timeout_but_by_its_end(stream):
    feed, rules = opened(stream), LabelRules()
    engine = AlertEngine(config(resolve_timeout="5m"))
    status, seen = [], 0
    for minute in range(30):
        feed.open_circuits.repeat()
        if minute == 20:
            feed.breaker.close()
        found = [rules.alert_of(event) for event in events(stream)[seen:] if "labels" in event.metadata]
        seen = len(events(stream))
        now = minute * 60
        engine.observe([not_in_the_future(alert, now) for alert in found if alert is not None], now)
        for notification in engine.due(minute * 60 + 30):
            engine.delivered(notification, minute * 60 + 30)
            status.append((minute, [alert.ends_at is None for alert in notification.alerts]))
    assert status[0] == (0, [True])
    assert [entry for entry in status if entry[1] == [False]] == [(20, [False])]
    feed.close()
