"""Circuit breakers of several processes on a durable stream: what boards show, and alerts that are left.

Another process is a second `DurableStream` on the same file here; those that are killed are in `tests/peers`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pybreaker
import pytest
from codomyrmex.integrations.durable import DurableStream, SQLiteStore, StoreUnavailableError
from codomyrmex.integrations.service_mesh import (
    BreakerEventKind,
    BreakerState,
    CircuitBoard,
    CircuitBreakerEvent,
    EnvoyAdmin,
    EnvoyOutlierLog,
    SSEFeed,
    attach_pybreaker,
    watch,
)
from codomyrmex.streaming import Event, Stream
from helpers import DEADLINE, in_time, until


class Processes:
    """Processes on one SQLite file. The name of all is that of the one that was started or used last."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self._monkeypatch = path, monkeypatch
        self.streams: dict[str, DurableStream] = {}

    def use(self, name: str) -> None:
        self._monkeypatch.setenv("CODOMYRMEX_PROCESS", name)

    async def start(self, name: str) -> DurableStream:
        self.use(name)
        stream = self.streams[name] = DurableStream(SQLiteStore(self.path), lease=0.6)
        await stream.open()
        return stream

    async def end(self, name: str) -> None:
        self.use(name)
        await self.streams.pop(name).aclose()

    async def wait_for_report(self, name: str, condition: Callable[[dict[str, Any]], object]) -> None:
        """Wait until what a process reports of its breakers, by name, meets a condition."""
        [stream, *_] = self.streams.values()
        async with asyncio.timeout(DEADLINE):
            while True:
                for process in await stream.processes():
                    rows = process.sections.get("breakers", {}).values()
                    if process.name == name and condition({row["breaker"]: row for row in rows}):
                        return
                await asyncio.sleep(0.01)


@pytest.fixture
async def processes(tmp_path, monkeypatch) -> AsyncIterator[Processes]:
    monkeypatch.setattr("codomyrmex.integrations.service_mesh.reports._REFRESH", 0.02)
    processes = Processes(tmp_path / "events.db", monkeypatch)
    yield processes
    for name in tuple(processes.streams):
        await processes.end(name)


def attached(stream: Stream, name: str, state: str = "closed") -> pybreaker.CircuitBreaker:
    """Return a breaker in a state, with a feed that repeats nothing."""
    breaker = pybreaker.CircuitBreaker(name=name, reset_timeout=3_600)
    attach_pybreaker(breaker, stream, repeat_interval=0)
    if state != "closed":
        breaker.open()
    if state == "half_open":
        breaker.half_open()
    return breaker


async def labelled(stream: DurableStream) -> list[Event]:
    await stream.flush()
    return [record.event for record in await stream.read(limit=1_000) if "labels" in record.event.metadata]


async def alerts(stream: DurableStream) -> list[tuple[str, str, str]]:
    """Return the instance, the breaker and the status of each event of an alert."""
    found = [(event.metadata["labels"], event.metadata["status"]) for event in await labelled(stream)]
    return [(labels["instance"], labels["breaker"], status) for labels, status in found]


async def ended(stream: DurableStream) -> set[tuple[str, str]]:
    """Return the alerts that another process has resolved; at least once each, so that it may be twice."""
    events = [event for event in await labelled(stream) if event.data["native_state"] == "process ended"]
    labels = [event.metadata["labels"] for event in events]
    return {(label["instance"], label["breaker"]) for label in labels}


async def wait_for_end(stream: DurableStream, *expected: tuple[str, str]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not await ended(stream) >= set(expected):
            await asyncio.sleep(0.01)


def shown(board: CircuitBoard) -> dict[str, dict[str, Any]]:
    return {status.breaker: dict(status.instances) for status in board.snapshot()}


# Boards


@in_time
async def test_a_board_that_is_made_later_shows_breakers_that_publish_nothing(processes: Processes):
    late = await processes.start("b")
    first = await processes.start("a")
    with CircuitBoard(first) as early:
        for name, state in (("orders", "open"), ("quiet", "closed"), ("search", "half_open")):
            attached(first, name, state)
        await until(lambda: len(early.snapshot()) == 3)
        await processes.wait_for_report("a", lambda rows: len(rows) == 3)
        with CircuitBoard(late) as board, CircuitBoard(late, "circuit_breaker.*.quiet") as one:
            await until(lambda: board.snapshot() == early.snapshot())
            await until(lambda: shown(one) == {"quiet": {"a": "closed"}})
            assert shown(board) == {
                "orders": {"a": "open"},
                "quiet": {"a": "closed"},
                "search": {"a": "half_open"},
            }


@in_time
async def test_what_a_report_has_is_not_counted_again(processes: Processes):
    late = await processes.start("b")
    first = await processes.start("a")
    breaker = attached(first, "orders", "open")
    for _ in range(3):
        with pytest.raises(pybreaker.CircuitBreakerError):
            breaker.call(print)
    await processes.wait_for_report("a", lambda rows: rows.get("orders", {}).get("rejected") == 3)
    with CircuitBoard(late) as board:
        await until(lambda: [status.rejected for status in board.snapshot()] == [3])
        with pytest.raises(pybreaker.CircuitBreakerError):
            breaker.call(print)
        await until(lambda: [status.rejected for status in board.snapshot()] == [4])
        assert board.snapshot()[0].opened_last_hour == 1


@in_time
async def test_a_process_that_has_ended_is_not_counted(processes: Processes):
    here = await processes.start("a")
    with CircuitBoard(here) as board:
        attached(await processes.start("b"), "orders", "open")
        await until(lambda: shown(board) == {"orders": {"b": "open"}})
        await processes.wait_for_report("b", lambda rows: rows)
        await processes.end("b")
        await until(lambda: not board.snapshot())
        processes.use("b")
        late = CircuitBreakerEvent(
            breaker="orders",
            kind=BreakerEventKind.STATE_CHANGE,
            source="pybreaker",
            instance="b",
            to_state=BreakerState.OPEN,
        )
        board.update(late.to_event())
        assert not board.snapshot()
        attached(await processes.start("b"), "orders")  # it is back under the same name
        await until(lambda: shown(board) == {"orders": {"b": "closed"}})


class FailingStore(SQLiteStore):
    """A store that can fail to load the reports of processes."""

    error: Exception | None = None
    failed = 0

    async def load(self, prefix: str) -> Any:
        if self.error is not None and prefix.endswith("/process/"):
            self.failed += 1
            raise self.error
        return await super().load(prefix)


@in_time
async def test_a_board_survives_errors_of_the_store(processes: Processes):
    store = FailingStore(processes.path)
    processes.use("a")
    async with DurableStream(store, lease=0.6) as here:
        with CircuitBoard(here) as board:
            other = await processes.start("b")
            attached(other, "orders", "open")
            await until(lambda: shown(board) == {"orders": {"b": "open"}})
            for error in (StoreUnavailableError("no answer"), ValueError("a bug")):
                store.error, store.failed = error, 0
                await until(lambda: store.failed > 1)
            store.error = None
            await processes.end("b")
            await until(lambda: not board.snapshot())


@in_time
async def test_a_feed_polls_although_the_log_cannot_be_read(processes: Processes, answers, caplog):
    here = await processes.start("a")
    feed = EnvoyAdmin("http://10.0.0.7:9901", here)
    await processes.end("a")
    answers += envoy(ejected=True, limit=0)
    poll_once(feed)
    assert not answers
    assert "the circuits of 10.0.0.7:9901 that were open before are not known" in caplog.text


# Alerts that are left


@in_time
async def test_exactly_the_circuits_that_were_not_closed_are_resolved_when_a_process_ends(
    processes: Processes,
):
    here = await processes.start("a")
    CircuitBoard(here)  # so that this process takes part
    other = await processes.start("b")
    opened, _, half = [attached(other, name, name) for name in ("open", "closed", "half_open")]
    again = attached(other, "again", "open")
    again.close()
    assert opened.current_state == "open"
    assert half.current_state == "half-open"
    await processes.wait_for_report("b", lambda rows: len(rows) == 4)
    await processes.end("b")
    processes.use("a")
    await wait_for_end(here, ("b", "open"), ("b", "half_open"))
    await asyncio.sleep(0.5)  # more than a look at the processes
    assert await ended(here) == {("b", "open"), ("b", "half_open")}
    events = {(e.metadata["labels"]["breaker"], e.metadata["status"]): e for e in await labelled(here)}
    for name in ("open", "half_open"):
        fired, resolved = events[name, "firing"], events[name, "resolved"]
        assert resolved.metadata["labels"] == fired.metadata["labels"]
        assert resolved.metadata["starts_at"] == fired.metadata["starts_at"]
        summary = resolved.metadata["annotations"]["summary"]
        assert summary == f"{name} is closed: its process has ended"


@in_time
async def test_circuits_are_resolved_by_a_process_that_starts_when_all_have_ended(processes: Processes):
    attached(await processes.start("a"), "orders", "open")
    await processes.wait_for_report("a", lambda rows: rows.get("orders", {}).get("firing"))
    await processes.end("a")
    later = await processes.start("b")
    assert await alerts(later) == [("a", "orders", "firing")]
    attached(later, "payments")
    await wait_for_end(later, ("a", "orders"))


@in_time
async def test_a_circuit_that_is_open_again_in_a_process_of_the_same_name_is_not_resolved(
    processes: Processes,
):
    first = await processes.start("a")
    attached(first, "orders", "open")
    attached(first, "payments", "open")
    await processes.wait_for_report("a", lambda rows: len(rows) == 2)
    await processes.end("a")
    second = await processes.start("a")  # as in a container that was restarted
    attached(second, "orders", "open")
    attached(second, "payments")
    await wait_for_end(second, ("a", "payments"))
    assert await ended(second) == {("a", "payments")}


@in_time
async def test_what_the_last_report_does_not_have_is_read_from_the_log(processes: Processes):
    here = await processes.start("a")
    CircuitBoard(here)
    other = await processes.start("b")
    breaker = attached(other, "orders", "open")
    attached(other, "token=topsecret", "open")  # a report has no secrets, and so not this name
    await processes.wait_for_report("b", lambda rows: len(rows) == 2)
    with pytest.MonkeyPatch.context() as patch:  # it reports nothing from here on
        patch.setattr("codomyrmex.integrations.durable.reports._MAX_BYTES", 0)
        breaker.close()
        attached(other, "payments", "open")
        await processes.end("b")
    processes.use("a")
    await wait_for_end(here, ("b", "payments"), ("b", "token=topsecret"))
    assert await ended(here) == {("b", "payments"), ("b", "token=topsecret")}  # orders was closed before


# Sources that another process continues to read


def poll_once(feed: Any) -> None:
    with closing(feed):
        feed.poll()


def envoy(*, ejected: bool, limit: int) -> list[str]:
    host = {
        "address": {"socket_address": {"address": "10.0.0.1", "port_value": 80}},
        "health_status": {"failed_outlier_check": ejected},
    }
    clusters = {"cluster_statuses": [{"name": "shop", "host_statuses": [host]}]}
    return [f"cluster.shop.circuit_breakers.default.rq_open: {limit}\n", json.dumps(clusters)]


@in_time
async def test_the_next_process_that_polls_envoy_resolves_what_is_over(processes: Processes, answers):
    first, second = await processes.start("a"), await processes.start("b")
    answers += envoy(ejected=True, limit=1)
    poll_once(EnvoyAdmin("http://10.0.0.7:9901", first))
    await first.flush()
    answers += envoy(ejected=False, limit=1)
    feed = EnvoyAdmin("http://10.0.0.7:9901", second, repeat_interval=0)
    feed.poll()
    feed.feed.open_circuits.repeat()
    feed.close()
    assert await alerts(second) == [
        ("10.0.0.7:9901", "default.rq", "firing"),
        ("10.0.0.7:9901", "10.0.0.1:80", "firing"),
        ("10.0.0.7:9901", "10.0.0.1:80", "resolved"),
        ("10.0.0.7:9901", "default.rq", "firing"),  # repeated
    ]
    fired, _, _, repeated = await labelled(second)
    assert repeated.metadata["starts_at"] == fired.metadata["starts_at"]


@in_time
async def test_the_next_process_resolves_that_a_source_could_not_be_read(processes: Processes, answers):
    first, second = await processes.start("a"), await processes.start("b")
    answers += [httpx.ConnectError("away")] * 2
    poll_once(EnvoyAdmin("http://10.0.0.7:9901", first))
    await first.flush()
    poll_once(EnvoyAdmin("http://10.0.0.7:9901", second))  # still away
    await second.flush()
    answers += envoy(ejected=False, limit=0)
    poll_once(EnvoyAdmin("http://10.0.0.7:9901", first))
    assert [alert[1:] for alert in await alerts(first)] == [("admin", "firing"), ("admin", "resolved")]


@in_time
async def test_the_next_process_that_reads_hystrix_resolves_what_is_over(processes: Processes, answers):
    first, second = await processes.start("a"), await processes.start("b")

    def record(*, opened: bool) -> str:
        command = {"type": "HystrixCommand", "name": "get", "group": "shop", "isCircuitBreakerOpen": opened}
        return f"data: {json.dumps(command)}\n\n"

    answers += [record(opened=True), record(opened=False)]
    for stream in (first, second):
        poll_once(SSEFeed("http://10.0.0.7/hystrix.stream", stream, "hystrix"))
        await stream.flush()
    found = [alert for alert in await alerts(first) if alert[1] == "get"]
    assert found == [("10.0.0.7:80", "get", "firing"), ("10.0.0.7:80", "get", "resolved")]


@in_time
async def test_the_next_process_does_not_guess_what_resilience4j_does_not_say(processes: Processes, answers):
    first, second = await processes.start("a"), await processes.start("b")
    transition = {"circuitBreakerName": "x", "type": "STATE_TRANSITION", "stateTransition": "CLOSED_TO_OPEN"}
    answers += [f"data: {json.dumps(transition)}\n\n", ": nothing\n\n"]
    poll_once(SSEFeed("http://10.0.0.7/", first, "resilience4j"))
    await first.flush()
    feed = SSEFeed("http://10.0.0.7/", second, "resilience4j", repeat_interval=0)
    feed.poll()
    feed.feed.open_circuits.repeat()
    feed.close()
    assert [alert[1:] for alert in await alerts(second) if alert[1] == "x"] == [("x", "firing")]


@in_time
async def test_the_next_process_repeats_and_resolves_what_a_log_reported(processes: Processes, tmp_path):
    first, second = await processes.start("a"), await processes.start("b")
    log, position = tmp_path / "outliers.log", tmp_path / "position"

    def line(action: str) -> str:
        entry = {
            "timestamp": (datetime.now(UTC) - timedelta(minutes=1)).isoformat(),
            "cluster_name": "up",
            "upstream_url": "10.0.0.1:80",
            "action": action,
            "enforced": True,
        }
        return json.dumps(entry) + "\n"

    log.write_text(line("EJECT"), encoding="utf-8")
    poll_once(EnvoyOutlierLog(log, first, position=position, from_start=True))
    await first.flush()
    with closing(EnvoyOutlierLog(log, second, position=position, repeat_interval=0)) as feed:
        feed.poll()
        feed.open_circuits.repeat()
        with log.open("a", encoding="utf-8") as file:
            file.write(line("UNEJECT"))
        feed.poll()
    assert [status for _, _, status in await alerts(second)] == ["firing", "firing", "resolved"]
    assert len({event.metadata["labels"]["instance"] for event in await labelled(second)}) == 1


class Gateway:
    """A breaker that is not in this process."""

    name = "gateway"
    state = "open"


@in_time
async def test_the_next_process_that_watches_a_remote_breaker_resolves_what_is_over(processes: Processes):
    first, second = await processes.start("a"), await processes.start("b")
    breaker = Gateway()
    watch(breaker, first, service="edge", instance="edge-1", poll_interval=0, repeat_interval=0).close()
    await first.flush()
    breaker.state = "closed"
    feed = watch(breaker, second, service="edge", instance="edge-1", poll_interval=0, repeat_interval=0)
    feed.poll()
    feed.poll()
    feed.close()
    assert await alerts(second) == [("edge-1", "gateway", "firing"), ("edge-1", "gateway", "resolved")]


@in_time
async def test_breakers_of_a_mesh_do_not_end_with_the_process_that_reads_it(processes: Processes, answers):
    here = await processes.start("a")
    with CircuitBoard(here) as board:
        other = await processes.start("b")
        answers += envoy(ejected=True, limit=0)
        poll_once(EnvoyAdmin("http://10.0.0.7:9901", other))
        attached(other, "orders", "open")
        await processes.wait_for_report("b", lambda rows: len(rows) == 2)
        await processes.end("b")
        await until(lambda: shown(board) == {"10.0.0.1:80": {"10.0.0.7:9901": "ejected"}})
        await wait_for_end(here, ("b", "orders"))
        assert await ended(here) == {("b", "orders")}
