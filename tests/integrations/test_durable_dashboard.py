"""`dashboard` on a durable stream."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest
from codomyrmex.integrations import InlineSink, Sink, attach
from codomyrmex.integrations.durable import DurableStream, SQLiteStore, StoreUnavailableError
from codomyrmex.integrations.durable.processes import ProcessRegistry, load_processes
from codomyrmex.integrations.durable.reports import Sections
from codomyrmex.integrations.durable.store import Batch
from codomyrmex.integrations.service_mesh import (
    BreakerEventKind,
    BreakerState,
    CircuitBoard,
    CircuitBreakerEvent,
)
from codomyrmex.integrations.web import DashboardApp, dashboard
from codomyrmex.integrations.web.processes import pending, show_problems, show_processes, show_sinks
from codomyrmex.streaming import Event, InMemoryStream, create_event
from codomyrmex.streaming.clock import SYSTEM_CLOCK, SystemClock
from helpers import DEADLINE, in_time, until
from sse_connection import Connection


class Console(InlineSink):
    name = "console"

    def emit(self, event: Event) -> None:
        pass


class Warehouse(Sink):
    name = "warehouse"

    async def send(self, events: Sequence[Event]) -> None:
        pass


@pytest.fixture
async def stream(tmp_path: Path) -> AsyncIterator[DurableStream]:
    async with DurableStream(SQLiteStore(tmp_path / "events.db"), publish_timeout=DEADLINE) as stream:
        yield stream


async def state(app: DashboardApp) -> dict[str, Any]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://page.localhost") as page:
        return (await page.get("/api/state")).raise_for_status().json()


async def publish(stream: DurableStream, *data: object) -> None:
    for each in data:
        await stream.publish(create_event(each, topic="orders.created"))


async def shown(app: DashboardApp, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return what a page shows once a condition holds."""
    while not condition(found := await state(app)):
        await asyncio.sleep(0.02)
    return found


def breaker(name: str, state: BreakerState) -> Event:
    kind = BreakerEventKind.STATE_CHANGE
    return CircuitBreakerEvent(breaker=name, kind=kind, source="pybreaker", to_state=state).to_event()


def registry(store: SQLiteStore, name: str, sections: Sections) -> ProcessRegistry:
    """Return the registry of a process that reports under a short lease."""

    def no_handlers(_: object) -> Future[None]:
        raise NotImplementedError

    return ProcessRegistry(store, "events", name, name, 0.3, sections, no_handlers, SYSTEM_CLOCK)


@in_time
async def test_a_page_begins_with_the_newest_events_of_all_processes(stream: DurableStream, tmp_path: Path):
    async with DurableStream(SQLiteStore(tmp_path / "events.db")) as other:
        await publish(other, *range(5))
    while len(stream.get_recent_events(5)) < 5:  # this process has not seen them yet
        await asyncio.sleep(0.01)
    app = dashboard(stream, buffer_size=3, signals=False)
    page = Connection(app, path="/api/events", last_event_id="start")
    await page.first(4)
    assert [event["data"] for event in page.data] == [2, 3, 4]
    await publish(stream, 5)
    await page.first(5)
    page.leave()
    await publish(stream, 6)
    page = Connection(app, path="/api/events", last_event_id=page.events[-1].id)
    await page.first(2)
    assert [event["data"] for event in page.data] == [6]
    await app.aclose()


@in_time
async def test_each_event_is_counted_once_whether_it_was_stored_before_or_after(stream: DurableStream):
    await publish(stream, *range(5))
    app = dashboard(stream, signals=False)
    assert (await state(app))["topics"]["total"] == 5
    await publish(stream, *range(3))
    while (await state(app))["topics"]["total"] < 8:
        pass
    second = dashboard(stream, signals=False)
    await publish(stream, 1)
    while (await state(second))["topics"]["total"] < 9:
        pass
    assert (await state(second))["topics"]["total"] == 9
    await app.aclose()
    await second.aclose()


@in_time
async def test_notifications_of_a_durable_audit_stream_are_shown(stream: DurableStream, tmp_path: Path):
    async with DurableStream(SQLiteStore(tmp_path / "events.db"), "audit") as audit:
        await audit.publish(create_event({"receiver": "ops"}, topic="alerts.notified"))
        await audit.publish(create_event({"receiver": "ops"}, topic="other"))
        app = dashboard(stream, audit=audit, signals=False)
        assert [each["metadata"]["topic"] for each in (await state(app))["notifications"]] == [
            "alerts.notified"
        ]
        await app.aclose()


@in_time
async def test_a_sink_is_shown_with_its_state_in_all_processes(stream: DurableStream, tmp_path: Path):
    async with (
        DurableStream(SQLiteStore(tmp_path / "events.db")) as other,
        attach(other, Warehouse(), Console()) as first,
        attach(stream, Warehouse(), Console()) as second,
    ):
        await publish(other, 1)
        assert await first.flush()
        app = dashboard(stream, second, signals=False)

        def complete(state: dict[str, Any]) -> bool:
            sinks = [(s["name"], s["delivered"], len(s["processes"])) for s in state["sinks"]]
            return sinks == [("console", 1, 1), ("warehouse", 1, 2)]  # and in how many states it is

        found = await shown(app, complete)
        console, warehouse = found["sinks"]
        assert console["state"] == warehouse["state"] == "ok"
        assert [(part["state"], len(part["names"])) for part in console["processes"]] == [("ok", 2)]
        assert {part["state"]: len(part["names"]) for part in warehouse["processes"]} == {
            "ok": 1,
            "standby": 1,
        }
        assert [process["state"] for process in found["processes"]] == ["running", "running"]
        assert [len(process["sinks"]) for process in found["processes"]] == [2, 2]
        await app.aclose()


@in_time
async def test_every_process_shows_the_same(stream: DurableStream, tmp_path: Path):
    alerts = create_event({"receiver": "ops"}, topic="alerts.notified")
    async with (
        DurableStream(SQLiteStore(tmp_path / "events.db"), "audit") as audit,
        attach(stream, Warehouse()) as attachment,
    ):
        board = CircuitBoard(stream)
        early = dashboard(stream, attachment, board=board, audit=audit, signals=False)
        await state(early)
        for number, topic in enumerate(("a", "b", "a", None)):
            await stream.publish(create_event(number, **({} if topic is None else {"topic": topic})))
        for breaker_state in (BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED):
            await stream.publish(breaker("payments", breaker_state))
        await audit.publish(alerts)
        async with (
            DurableStream(SQLiteStore(tmp_path / "events.db")) as other,
            DurableStream(SQLiteStore(tmp_path / "events.db"), "audit") as other_audit,
        ):
            late = dashboard(
                other, board=board, audit=other_audit, signals=False
            )  # it has seen nothing of this
            await until(lambda: board.snapshot()[0].state is BreakerState.CLOSED)

            async def both() -> list[dict[str, Any]]:
                return [await state(app) for app in (early, late)]

            while len((pages := await both())[0]["processes"]) < 2 or pages[0] != pages[1] | {
                "now": pages[0]["now"]
            }:
                await asyncio.sleep(0.05)
            found = pages[0]
            assert found["topics"]["total"] == 7
            assert [each["id"] for each in found["notifications"]] == [alerts.id]
            assert [change for _, change in found["breakers"][0]["history"]] == [
                "open",
                "half_open",
                "closed",
            ]
            assert [sink["name"] for sink in found["sinks"]] == ["warehouse"]
            await late.aclose()
        await early.aclose()
        board.close()


class FastClock(SystemClock):
    """The clock of a host that is an hour ahead."""

    time = staticmethod(lambda: SYSTEM_CLOCK.time() + 3_600)


@in_time
async def test_rates_are_those_of_the_store_where_the_clock_of_a_host_is_wrong(stream: DurableStream):
    app = dashboard(stream, signals=False, clock=FastClock())
    await state(app)
    await publish(stream, 1, 2)
    found = await shown(app, lambda state: sum(state["topics"]["counts"]) == 2)
    assert abs(found["now"] - SYSTEM_CLOCK.time()) < 10
    await app.aclose()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
async def test_a_forked_worker_shows_what_its_parent_would_and_the_parent_is_no_process_of_the_page(
    tmp_path: Path,
):
    program = """
        import asyncio, json, os, sys
        import httpx
        from codomyrmex.integrations.durable import DurableStream, SQLiteStore
        from codomyrmex.integrations.web import dashboard
        from codomyrmex.streaming import create_event

        stream = DurableStream(SQLiteStore(sys.argv[1]))
        app = dashboard(stream, audit=stream, signals=False)

        async def publish():
            for number in range(5):
                await stream.publish(create_event(number, topic="alerts.notified"))

        async def show():
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://page.localhost") as page:
                state = (await page.get("/api/state")).json()
            processes = [each["name"].endswith(f":{os.getpid()}") for each in state["processes"]]
            print(json.dumps([state["topics"]["total"], len(state["notifications"]), processes]), flush=True)
            await stream.aclose()

        asyncio.run(publish())
        while len(stream.get_recent_events(5)) < 5:
            pass
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        asyncio.run(show())
    """
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", textwrap.dedent(program), tmp_path / "events.db"],
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert output == b"[5, 5, [true]]\n" * 2


@in_time
async def test_a_process_that_is_gone_is_shown_so_and_its_counters_are_not_added(
    stream: DurableStream, tmp_path: Path
):
    async with SQLiteStore(tmp_path / "events.db") as store:
        killed = Sections({})
        killed.add("sinks", lambda: {"warehouse": {"state": "ok", "delivered": 5}})
        process = registry(store, "host-b", killed)

        async def live() -> None:
            while True:
                await process.step()
                await asyncio.sleep(0.05)

        async with attach(stream, Warehouse()) as attachment:
            living = asyncio.create_task(live())
            app = dashboard(stream, attachment, signals=False)
            # Its lease can expire on a slow machine, until it reports again.
            found = await shown(app, lambda state: [sink["delivered"] for sink in state["sinks"]] == [5])
            assert len(found["processes"]) == 2
            living.cancel()
            await asyncio.wait({living})
            found = await shown(app, lambda state: state["processes"][-1]["state"] == "gone")
            assert (found["processes"][-1]["name"], found["processes"][-1]["sinks"][0]["state"]) == (
                "host-b",
                "ok",
            )
            assert [(sink["delivered"], len(sink["processes"])) for sink in found["sinks"]] == [(0, 1)]
            await app.aclose()


@in_time
async def test_sinks_that_are_not_started_or_of_another_stream_are_shown_too(stream: DurableStream):
    attachment = attach(stream, Warehouse())
    app = dashboard(stream, attachment, signals=False)
    assert [sink["state"] for sink in (await state(app))["sinks"]] == ["not_started"]
    async with attachment:
        found = await shown(app, lambda state: state["sinks"][0]["state"] == "ok")
        assert len(found["sinks"]) == 1
    await app.aclose()
    async with attach(InMemoryStream(), Warehouse()) as elsewhere:
        app = dashboard(stream, elsewhere, signals=False)
        await shown(app, lambda state: [sink["state"] for sink in state["sinks"]] == ["ok"])
        await app.aclose()


@in_time
async def test_what_a_process_has_lost_is_shown_by_every_process(stream: DurableStream, tmp_path: Path):
    async with (
        attach(stream, Console()),
        DurableStream(SQLiteStore(tmp_path / "events.db")) as other,
    ):
        stream.publish_nowait(create_event("x" * 1_100_000))
        app = dashboard(other, signals=False)
        found = await shown(app, lambda state: state["store"]["problems"])
        process = found["processes"][0]["name"]
        assert found["store"]["problems"] == [f"{process}: 1 event was never stored (too_large 1)"]
        await app.aclose()


@in_time
async def test_the_last_reports_are_shown_while_the_store_does_not_answer(
    stream: DurableStream, monkeypatch: pytest.MonkeyPatch
):
    async with attach(stream, Console()):
        app = dashboard(stream, signals=False)
        assert len((await state(app))["processes"]) == 1

        async def load(prefix: str) -> dict[str, bytes]:
            raise StoreUnavailableError("connection refused")

        with monkeypatch.context() as patch:
            patch.setattr(stream.store, "load", load)
            await asyncio.sleep(0.6)  # the age at which they are loaded again
            found = await state(app)
        assert [sink["name"] for sink in found["sinks"]] == ["console"]
        assert len(found["processes"]) == 1
        await app.aclose()


async def test_a_report_of_another_version_is_shown_as_far_as_it_is_understood(tmp_path: Path):
    async with SQLiteStore(tmp_path / "events.db") as store:
        odd = Sections({"stream": lambda: {"events": {"problems": "none", "pending": "many"}}})
        odd.add("sinks", lambda: {"a": {"state": "asleep", "dropped": [], "delivered": "5"}, "b": 3})
        odd.add("pages", lambda: {"x": None})
        await registry(store, "newer", odd).step()
        infos = await load_processes(store, "events")
    (sink,) = show_sinks(infos)
    assert (sink["name"], sink["state"], sink["delivered"], sink["dropped"]) == ("a", "degraded", 0, {})
    assert (show_problems(infos), pending(infos)) == ([], 0)
    assert [each["name"] for each in show_processes(infos)[0]["sinks"]] == ["a"]


@in_time
async def test_the_state_of_the_store_is_shown_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stream = await DurableStream(SQLiteStore(tmp_path / "events.db"), publish_timeout=0.3).__aenter__()
    app = dashboard(stream, signals=False)
    store = (await state(app))["store"]
    assert (store["name"], store["available"], store["problems"], store["pending"]) == ("events", True, [], 0)

    async def append(log: str, batch: Batch) -> int:
        raise StoreUnavailableError("connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(stream.store, "append", append)
        with pytest.raises(StoreUnavailableError):
            await publish(stream, 1)
        app = dashboard(stream, signals=False)
        store = (await state(app))["store"]
    assert not store["available"]
    assert re.match(r"The store has not answered for \d+ s: ", store["problems"][0])
    assert "connection refused" in store["problems"][0]
    assert store["problems"][1] == "Not stored yet, and lost if this process is killed: 1 event"
    assert store["problems"][2] == "1 event was perhaps stored, as the store did not answer in time"
    await app.aclose()
    await stream.aclose()
