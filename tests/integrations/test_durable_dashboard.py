"""`dashboard` on a durable stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from codomyrmex.integrations import Sink, attach
from codomyrmex.integrations.durable import DurableStream, SQLiteStore, StoreUnavailableError
from codomyrmex.integrations.durable.store import Batch
from codomyrmex.integrations.web import DashboardApp, dashboard
from codomyrmex.streaming import Event, create_event
from helpers import in_time, until
from sse_connection import Connection


class Warehouse(Sink):
    name = "warehouse"

    async def send(self, events: Sequence[Event]) -> None:
        pass


@pytest.fixture
async def stream(tmp_path: Path) -> AsyncIterator[DurableStream]:
    async with DurableStream(SQLiteStore(tmp_path / "events.db"), publish_timeout=0.1) as stream:
        yield stream


async def state(app: DashboardApp) -> dict[str, Any]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://page.localhost") as page:
        return (await page.get("/api/state")).raise_for_status().json()


async def publish(stream: DurableStream, *data: object) -> None:
    for each in data:
        await stream.publish(create_event(each, topic="orders.created"))


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
async def test_a_sink_that_another_process_delivers_to_stands_by(stream: DurableStream, tmp_path: Path):
    async with (
        DurableStream(SQLiteStore(tmp_path / "events.db")) as other,
        attach(other, Warehouse()) as first,
    ):
        await publish(other, 1)
        assert await first.flush()
        async with attach(stream, Warehouse()) as second:
            app = dashboard(stream, second, signals=False)
            await until(lambda: second.health()["warehouse"].state == "standby")
            assert [sink["state"] for sink in (await state(app))["sinks"]] == ["standby"]
            await app.aclose()


@in_time
async def test_the_state_of_the_store_is_shown_in_plain_words(
    stream: DurableStream, monkeypatch: pytest.MonkeyPatch
):
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
    assert store["problems"][0].startswith("The store has not answered for 0 s: ")
    assert "connection refused" in store["problems"][0]
    assert store["problems"][1] == "Not stored yet, and lost if this process is killed: 1 event"
    assert store["problems"][2] == "1 event was perhaps stored, as the store did not answer in time"
    await app.aclose()
