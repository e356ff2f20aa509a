"""Whose breaker an event is about, and the board over the breakers of several processes."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import purgatory
import pybreaker
import pytest
from alerting import config
from codomyrmex.integrations.notification import AlertEngine
from codomyrmex.integrations.notification.alerts.alert import LabelRules, not_in_the_future
from codomyrmex.integrations.service_mesh import (
    BreakerEventKind,
    BreakerState,
    BreakerStatus,
    CircuitBoard,
    CircuitBreakerEvent,
    EnvoyAdmin,
    EnvoyOutlierLog,
    SSEFeed,
    attach_purgatory,
    attach_pybreaker,
    attach_stamina,
    watch,
)
from codomyrmex.integrations.service_mesh.breaker_table import BreakerTable, Row
from codomyrmex.integrations.web.dashboard import dashboard
from codomyrmex.streaming import Event, InMemoryStream
from hypothesis import given, settings
from hypothesis import strategies as st
from purgatory.service._sync.repository import SyncInMemoryRepository
from purgatory.service._sync.unit_of_work import SyncAbstractUnitOfWork
from rich.console import Console

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOST = socket.gethostname()


@pytest.fixture
def stream() -> InMemoryStream:
    return InMemoryStream()


def published(stream: InMemoryStream) -> list[CircuitBreakerEvent]:
    events = [CircuitBreakerEvent.from_event(event) for event in stream.get_recent_events(10_000)]
    return [event for event in events if event is not None]


def labelled(stream: InMemoryStream) -> list[Event]:
    return [event for event in stream.get_recent_events(10_000) if "labels" in event.metadata]


def opened(stream: InMemoryStream) -> Any:
    feed = attach_pybreaker(pybreaker.CircuitBreaker(name="orders", reset_timeout=3_600), stream)
    feed.breaker.open()
    return feed


# Breakers of a process


def test_every_event_names_the_process_and_the_alert_has_it_as_a_label(stream, monkeypatch):
    monkeypatch.setenv("CODOMYRMEX_PROCESS", "shop-1")
    feed = opened(stream)
    feed.breaker.close()
    assert {(event.instance, event.shared) for event in published(stream)} == {("shop-1", False)}
    assert [event.metadata["labels"]["instance"] for event in labelled(stream)] == ["shop-1"] * 2
    assert all("instance" not in event.metadata for event in stream.get_recent_events(10))


def test_a_forked_process_repeats_an_open_circuit_under_its_own_name(stream, monkeypatch):
    monkeypatch.setenv("CODOMYRMEX_PROCESS", "parent")
    feed = opened(stream)
    monkeypatch.setenv("CODOMYRMEX_PROCESS", "child")
    feed.open_circuits.repeat()
    feed.breaker.close()
    assert [event.metadata["labels"]["instance"] for event in labelled(stream)] == [
        "parent",
        "child",
        "child",
    ]


def test_no_other_event_has_a_label_for_the_instance(stream):
    feed = attach_stamina(stream)
    feed.publish("orders", attempt=1, wait=1.0, waited=0.0, error=OSError("away"))
    feed.close()
    [event] = stream.get_recent_events()
    assert "labels" not in event.metadata
    assert "instance" not in event.data


def test_a_breaker_that_closes_in_one_process_does_not_resolve_its_alert_in_another(stream, monkeypatch):
    feeds = {}
    for process in ("a", "b"):
        monkeypatch.setenv("CODOMYRMEX_PROCESS", process)
        feeds[process] = opened(stream)
    engine, rules = AlertEngine(config(group_wait="0s")), LabelRules()

    def notify(now: float) -> list[tuple[str, bool]]:
        """Return the process and whether it fires, of each alert of the only notification."""
        found = [rules.alert_of(event) for event in labelled(stream)]
        engine.observe([not_in_the_future(alert, now) for alert in found if alert is not None], now)
        [notification] = engine.due(now)
        engine.delivered(notification, now)
        assert "instance" not in notification.group_labels
        return sorted((alert.labels["instance"], alert.ends_at is None) for alert in notification.alerts)

    assert notify(0) == [("a", True), ("b", True)]
    feeds["b"].breaker.close()
    assert notify(60) == [("a", True), ("b", False)]


def test_a_route_that_groups_by_all_labels_notifies_of_each_process(stream, monkeypatch):
    for process in ("a", "b"):
        monkeypatch.setenv("CODOMYRMEX_PROCESS", process)
        opened(stream)
    engine, rules = AlertEngine(config(group_wait="0s", group_by=["..."])), LabelRules()
    engine.observe([alert for event in labelled(stream) if (alert := rules.alert_of(event))], 0)
    assert sorted(each.group_labels["instance"] for each in engine.due(0)) == ["a", "b"]


# Breakers that processes share


class RemoteStorage(pybreaker.CircuitBreakerStorage):
    """A storage that is not in the memory of this process, such as that for Redis."""

    def __init__(self) -> None:
        super().__init__("remote")
        self._memory = pybreaker.CircuitMemoryStorage("closed")

    state = property(
        lambda self: self._memory.state, lambda self, state: setattr(self._memory, "state", state)
    )
    opened_at = property(
        lambda self: self._memory.opened_at, lambda self, time: setattr(self._memory, "opened_at", time)
    )
    counter = property(lambda self: self._memory.counter)
    success_counter = property(lambda self: self._memory.success_counter)

    def increment_counter(self) -> None:
        self._memory.increment_counter()

    def reset_counter(self) -> None:
        self._memory.reset_counter()

    def increment_success_counter(self) -> None:
        self._memory.increment_success_counter()

    def reset_success_counter(self) -> None:
        self._memory.reset_success_counter()


class RemoteUnitOfWork(SyncAbstractUnitOfWork):
    def __init__(self) -> None:
        self.contexts = SyncInMemoryRepository()

    def commit(self) -> None:
        pass

    def rollback(self) -> None:
        pass


def test_a_breaker_in_a_store_that_processes_share_has_no_instance(stream):
    breaker = pybreaker.CircuitBreaker(name="orders", state_storage=RemoteStorage())
    attach_pybreaker(breaker, stream)
    breaker.open()
    factory = purgatory.SyncCircuitBreakerFactory(default_threshold=1, uow=RemoteUnitOfWork())
    attach_purgatory(factory, stream)
    with pytest.raises(OSError, match="away"), factory.get_breaker("orders"):
        raise OSError("away")
    assert {(event.instance, event.shared) for event in published(stream)} == {(None, True)}
    assert len(labelled(stream)) == 2
    assert all("instance" not in event.metadata["labels"] for event in labelled(stream))


def test_a_circuit_that_another_process_has_closed_in_the_shared_store_is_not_repeated(stream):
    storage = RemoteStorage()
    here, there = [pybreaker.CircuitBreaker(name="orders", state_storage=storage) for _ in range(2)]
    feed = attach_pybreaker(here, stream, repeat_interval=0)
    here.open()
    feed.open_circuits.repeat()
    there.close()
    feed.open_circuits.repeat()
    feed.open_circuits.repeat()
    assert [event.metadata["status"] for event in labelled(stream)] == ["firing", "firing", "resolved"]


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every request fail."""
    original = httpx.Client

    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("away")

    def client(**options: Any) -> httpx.Client:
        return original(transport=httpx.MockTransport(answer), **options)

    monkeypatch.setattr(httpx, "Client", client)


@pytest.mark.usefixtures("away")
@pytest.mark.parametrize(
    ("url", "instance"),
    [
        ("http://10.0.0.7:9901", "10.0.0.7:9901"),
        ("https://user:secret@envoy.example/admin?token=secret", "envoy.example:443"),
        ("http://envoy.example", "envoy.example:80"),
        ("http://[2001:db8::1]:9901", "[2001:db8::1]:9901"),
        ("http://127.0.0.1:9901", f"{HOST}:9901"),
        ("http://localhost:9901", f"{HOST}:9901"),
        ("http://[::1]:9901", f"{HOST}:9901"),
    ],
)
def test_the_breakers_of_a_mesh_are_those_of_its_host(stream, url, instance):
    feeds = EnvoyAdmin(url, stream), SSEFeed(url, stream, "hystrix"), SSEFeed(url, stream, "resilience4j")
    for feed in feeds:
        feed.poll()
        feed.close()
    assert [(event.instance, event.shared) for event in published(stream)] == [(instance, True)] * 3


@pytest.mark.usefixtures("away")
def test_an_instance_can_be_named(stream):
    feed = EnvoyAdmin("http://10.0.0.7:9901", stream, instance="edge-1")
    feed.poll()
    feed.close()
    watch(pybreaker.CircuitBreaker(name="x"), stream, lambda _: "open", instance="edge-2", poll_interval=0)
    assert [(e.instance, e.shared) for e in published(stream)] == [("edge-1", True), ("edge-2", True)]


@pytest.mark.parametrize(("instance", "error"), [("", ValueError), (7, TypeError)])
def test_an_invalid_instance_is_rejected(stream, tmp_path, instance, error):
    with pytest.raises(error, match="instance: must"):
        EnvoyAdmin("http://10.0.0.7:9901", stream, instance=instance)
    with pytest.raises(error, match="instance: must"):
        EnvoyOutlierLog(tmp_path / "log", stream, instance=instance)


def test_the_hosts_in_a_log_are_those_of_the_envoy_that_writes_it(stream, tmp_path, monkeypatch):
    line = (
        '{"action": "EJECT", "upstream_url": "10.0.0.1:80", "cluster_name": "up", "enforced": true,'
        f' "timestamp": "{datetime.now(UTC).isoformat()}"}}\n'
    )
    (tmp_path / "log").write_text(line, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    feed = EnvoyOutlierLog("log", stream, from_start=True, repeat_interval=0)
    feed.poll()
    feed.open_circuits.repeat()
    feed.close()
    assert {(e.instance, e.shared) for e in published(stream)} == {(f"{HOST}:{tmp_path.resolve()}/log", True)}


def test_an_event_of_an_earlier_version_has_no_instance(stream):
    event = change("orders", "closed", "open").to_event()
    old = event.replace(data={k: v for k, v in event.data.items() if k not in {"instance", "shared"}})
    read = CircuitBreakerEvent.from_event(old)
    assert read is not None
    assert (read.instance, read.shared) == (None, False)


# The board


def change(
    breaker: str, old: str, new: str, instance: str | None = None, kind: str = "state_change", **more: Any
) -> CircuitBreakerEvent:
    return CircuitBreakerEvent(
        breaker=breaker,
        kind=BreakerEventKind(kind),
        source="test",
        from_state=BreakerState(old),
        to_state=BreakerState(new),
        instance=instance,
        **more,
    )


def board_of(*events: tuple[float, CircuitBreakerEvent]) -> list[BreakerStatus]:
    """Return what a board shows after events at some minutes after noon."""
    stream = InMemoryStream()
    with CircuitBoard(stream) as board:
        for minute, event in events:
            stream.publish_nowait(event.to_event(NOON + timedelta(minutes=minute)))
        return board.snapshot(NOON + timedelta(minutes=60))


@pytest.mark.parametrize(
    ("states", "summary"),
    [
        (["open", "open", "closed", "open"], "open in 3 of 4 processes"),
        (["closed", "half_open"], "half open in 1 of 2 processes"),
        (["open", "half_open", "forced_open"], "open in 2 of 3 processes"),
        (["open", "open"], "open in 2 of 2 processes"),
        (["closed", "closed"], "closed"),
        (["open"], "open"),
    ],
)
def test_the_board_says_in_how_many_processes_a_breaker_is_open(states, summary):
    events = [
        (0, change("orders", "disabled", state, f"host:{number}")) for number, state in enumerate(states)
    ]
    [status] = board_of(*events)
    assert status.summary == summary
    assert list(status.instances.values()) == states


def test_a_breaker_of_several_processes_is_one_on_the_board():
    reject = change("orders", "open", "open", "a", "rejected")
    [status] = board_of(
        (0, change("orders", "closed", "open", "a", reason="OSError: a", failure_count=3)),
        (1, change("orders", "closed", "open", "b", reason="OSError: b", failure_count=7)),
        (2, reject),
        (3, reject),
        (4, change("orders", "open", "half_open", "a")),
        (5, change("orders", "half_open", "closed", "a")),
        (6, change("orders", "closed", "closed", "c", "snapshot")),
    )
    assert (status.state, status.since) == ("open", NOON + timedelta(minutes=1))  # in b
    assert (status.failures, status.rejected, status.opened_last_hour) == (7, 2, 2)
    assert status.reason == "OSError: b"
    assert status.instances == {"a": "closed", "b": "open", "c": "closed"}


STATES = [state.value for state in BreakerState]
KINDS = ["state_change", "snapshot", "rejected"]
events_of_processes = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(STATES), st.sampled_from(KINDS)),
    min_size=1,
    max_size=30,
)
RANK = {"open": 0, "forced_open": 0, "ejected": 0, "half_open": 1, "closed": 2}


@settings(deadline=None, max_examples=50)
@given(events_of_processes)
def test_the_board_of_all_processes_is_made_of_the_boards_of_each(steps):
    events = [
        (float(minute), change("orders", "disabled", state, process, kind))
        for minute, (process, state, kind) in enumerate(steps)
    ]
    [together] = board_of(*events)
    alone = {
        process: board_of(*[(at, event) for at, event in events if event.instance == process])[0]
        for process in {event.instance for _, event in events}
    }
    assert together.instances == {process: status.state for process, status in alone.items()}
    assert RANK.get(together.state, 9) == min(RANK.get(status.state, 9) for status in alone.values())
    assert together.rejected == sum(status.rejected for status in alone.values())
    assert together.opened_last_hour == sum(status.opened_last_hour for status in alone.values())


@settings(deadline=None, max_examples=50)
@given(events_of_processes, st.randoms())
def test_the_order_between_processes_does_not_change_the_board(steps, random):
    events = [
        (float(minute), change("orders", "disabled", state, process, kind))
        for minute, (process, state, kind) in enumerate(steps)
    ]
    streams = {process: iter([e for e in events if e[1].instance == process]) for process in "abcd"}
    order = [event.instance for _, event in events]
    random.shuffle(order)
    assert board_of(*[next(streams[process]) for process in order]) == board_of(*events)


@settings(deadline=None, max_examples=50)
@given(st.data(), events_of_processes)
def test_a_report_and_the_events_after_it_say_the_same_as_all_events(data, steps):
    events = [
        (change(name, "closed", state, "a", kind, opened_at=NOON), NOON + timedelta(seconds=second))
        for second, (name, state, kind) in enumerate(steps)
    ]
    reported = data.draw(st.integers(0, len(events)))  # up to here, the report has everything
    read = data.draw(st.integers(0, reported))  # from here on, the log is read
    full, before, after = BreakerTable(), BreakerTable(), BreakerTable()
    for event in events:
        full.update(*event)
    for event in events[:reported]:
        before.update(*event)
    for row in before.rows():
        after.merge(msgspec.convert(msgspec.json.decode(msgspec.json.encode(row)), Row))
    for event in events[read:]:
        after.update(*event)

    def known(table: BreakerTable) -> dict[Any, Row]:
        return {row.key: msgspec.structs.replace(row, merged=None) for row in table.rows()}

    assert known(after) == known(full)


def test_tables_are_bounded():
    table = BreakerTable(max_rows=2)
    for number in range(3):
        table.update(change(f"b{number}", "closed", "open"), NOON)
    table.merge(Row(source="test", breaker="b3", since=NOON, updated=NOON))
    assert [row.breaker for row in table.rows()] == ["b2", "b3"]


def test_the_table_shows_the_processes(stream):
    with CircuitBoard(stream) as board:
        for process, state in (("a", "open"), ("b", "closed")):
            stream.publish_nowait(change("orders", "disabled", state, process).to_event())
        console = Console(width=160, record=True, force_terminal=False)
        console.print(board.render())
    assert "open in 1 of 2 processes" in console.export_text()


async def test_the_live_page_gets_the_processes(stream):
    with CircuitBoard(stream) as board:
        app = dashboard(stream, board=board)
        for process, state in (("a", "open"), ("b", "closed")):
            stream.publish_nowait(change("orders", "disabled", state, process).to_event())
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1"
        ) as client:
            [breaker] = (await client.get("/api/state")).json()["breakers"]
    assert breaker["summary"] == "open in 1 of 2 processes"
    assert breaker["instances"] == {"a": "open", "b": "closed"}
