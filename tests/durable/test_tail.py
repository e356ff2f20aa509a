"""The newest entries of a log in memory: who waits for them, and where the log ends."""

from __future__ import annotations

import asyncio
from typing import Any

from codomyrmex.integrations import attach
from codomyrmex.integrations.durable import DurableStream, SQLiteStore
from codomyrmex.integrations.durable.tail import Bell
from codomyrmex.integrations.notification import AlertSink, NotifierRole
from codomyrmex.streaming import create_event
from codomyrmex.streaming.testing import FakeClock
from faulty_store import FaultyStore
from helpers import in_time


@in_time
async def test_new_entries_are_delayed_only_while_all_waiters_are_patient():
    clock = FakeClock()
    bell = Bell(clock)
    assert not bell.is_patient()
    patient = bell.future(patient=True)
    assert bell.is_patient()
    waiting = bell.future()
    assert not bell.is_patient()
    bell.ring()
    await asyncio.gather(patient, waiting)
    bell.future(patient=True)
    assert not bell.is_patient()  # what waited may be busy with the entries
    clock.advance(2)
    assert bell.is_patient()
    bell.future()
    clock.advance(2)
    assert not bell.is_patient()


@in_time
async def test_a_patient_waiter_can_be_cancelled():
    bell = Bell()
    waiting = bell.future(patient=True)
    bell.forget(waiting)
    assert waiting.cancelled()
    assert not bell.is_patient()


@in_time
async def test_a_standby_flushes_what_it_appended_after_entries_it_has_not_read(tmp_path):
    config: dict[str, Any] = {
        "route": {"receiver": "ops", "group_wait": "1h"},
        "receivers": [{"name": "ops"}],
    }
    store = FaultyStore(tmp_path / "events.db")
    other, stream = DurableStream(SQLiteStore(tmp_path / "events.db")), DurableStream(store)
    holder, standby = AlertSink(config), AlertSink(config)
    async with other, stream, attach(other, holder), attach(stream, standby):
        assert standby.role is NotifierRole.STANDBY
        store.held["read"] = asyncio.Event()
        await other.publish(create_event("x", topic="jobs"))
        await stream.publish(create_event("x", "error", topic="jobs", labels={"alertname": "disk"}))
        flushing = asyncio.create_task(standby.flush())
        await asyncio.wait({flushing}, timeout=0.2)
        assert not flushing.done()
        store.held["read"].set()
        await flushing
        [group] = await standby.groups()
        assert [alert.labels["alertname"] for alert in group.alerts] == ["disk"]
