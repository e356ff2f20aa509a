"""`StateAdmin`: silences of a shared state without a sink, whether or not a process notifies meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from alert_channels import Inbox, fires, routing, until
from codomyrmex.integrations import attach
from codomyrmex.integrations.durable import DurableStream, SQLiteStore
from codomyrmex.integrations.durable.names import Names
from codomyrmex.integrations.notification import AlertSink, NotifierRole, Silence, parse_matchers
from codomyrmex.integrations.notification.alerts.control import silence_event
from codomyrmex.integrations.notification.alerts.state_admin import StateAdmin, StateName, find_states
from codomyrmex.integrations.notification.alerts.state_records import StateNames
from codomyrmex.streaming import InMemoryStream
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from helpers import in_time

QUICK = {"route": {"group_wait": "0s", "group_interval": "40ms"}}
NAME = StateName("alerts", "alerts")


def silence(matcher: str = "alertname=disk", **more: Any) -> Silence:
    now = SYSTEM_CLOCK.time()
    return Silence(tuple(parse_matchers(matcher)), now, now + 3600, "ann", **more)


@asynccontextmanager
async def running(path: Path, inbox: Inbox | None = None, lease: float = 1.0) -> AsyncIterator[AlertSink]:
    state = {"url": str(path), "lease": f"{lease:g}s"}
    sink = AlertSink(routing(**QUICK, state=state), {"ops": inbox or Inbox()})
    async with attach(InMemoryStream(), sink):
        yield sink


@asynccontextmanager
async def admin(path: Path, name: StateName = NAME) -> AsyncIterator[StateAdmin]:
    async with SQLiteStore(path) as store:
        yield StateAdmin(store, name, "host:1#command")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@in_time
async def test_a_silence_added_before_any_process_has_run_is_in_force_in_the_first_one(path):
    added = silence()
    async with admin(path) as changes:
        await changes.add_silence(added)
        assert await changes.silences() == [added]
    inbox, stream = Inbox(), InMemoryStream()
    sink = AlertSink(routing(**QUICK, state=str(path)), {"ops": inbox})
    async with attach(stream, sink):
        assert await sink.silences() == [added]
        for name in ("disk", "other"):
            await stream.publish(fires(name))
        assert await inbox.wait_for(1) == ["firing: other"]


@in_time
async def test_a_silence_added_or_expired_while_a_process_notifies_is_in_force_there(path):
    added = silence()
    async with running(path) as sink, admin(path) as changes:
        await changes.add_silence(added)
        assert await changes.silences() == [added]  # even while it waits in the log

        async def of_sink() -> list[Silence]:
            return await sink.silences()

        while await of_sink() != [added]:
            await asyncio.sleep(0.01)
        expired = await changes.expire_silence(added.id, SYSTEM_CLOCK.time())
        assert await changes.silences() == [expired]
        while await of_sink() != [expired]:
            await asyncio.sleep(0.01)
        with pytest.raises(ValueError, match="expired already"):
            await changes.expire_silence(added.id, SYSTEM_CLOCK.time())
        with pytest.raises(KeyError):
            await changes.expire_silence("unknown", SYSTEM_CLOCK.time())


@in_time
async def test_a_silence_that_waits_in_the_log_is_expired_behind_it(path):
    """Or the next process would read the old one from the log and bring it back."""
    async with running(path):
        pass
    added = silence()
    async with DurableStream(SQLiteStore(path), "alerts") as stream:  # its process was killed just then
        await stream.publish_to_group(silence_event(added), "alerts")
    async with admin(path) as changes:
        assert await changes.silences() == [added]
        expired = await changes.expire_silence(added.id, SYSTEM_CLOCK.time())
        assert await changes.silences() == [expired]
        other = silence("a=b")
        await changes.add_silence(other)
    async with running(path) as sink:
        await sink.flush()
        assert sorted(each.id for each in await sink.silences()) == sorted([added.id, other.id])
        assert expired in await sink.silences()


@in_time
async def test_a_process_on_standby_follows_what_was_saved_without_a_holder(path):
    """Between the kill of the holder and the takeover, the command holds the lease for a moment."""
    async with SQLiteStore(path) as store:
        killed = await store.acquire(f"{Names('alerts', 'alerts').shards}0", "killed", 30.0)
        assert killed is not None
        async with running(path) as sink:
            assert sink.role is NotifierRole.STANDBY
            await store.release(killed)  # as if it had expired
            added = silence()
            await StateAdmin(store, NAME, "host:1#command").add_silence(added)
            while await sink.silences() != [added]:
                await asyncio.sleep(0.01)
            await until(lambda: sink.role is NotifierRole.HOLDER)
            assert await sink.silences() == [added]


@in_time
async def test_while_a_process_is_just_beginning_the_silence_is_not_put_where_nobody_looks(path):
    """It has the lease, but its group, which begins at the end of the log, does not exist yet."""
    async with SQLiteStore(path) as store:
        await store.create_log("alerts")
        lease = await store.acquire(f"{Names('alerts', 'alerts').shards}0", "other", 30.0)
        assert lease is not None
        added = silence()
        adding = asyncio.create_task(StateAdmin(store, NAME, "host:1#command").add_silence(added))
        await asyncio.sleep(0.12)
        assert not adding.done()
        await store.release(lease)
        await adding
        assert await StateAdmin(store, NAME, "host:1#command").silences() == [added]
        bounds = await store.bounds("alerts")
        assert bounds is not None
        assert bounds.last == 0


@in_time
async def test_the_state_of_a_sink_on_a_durable_stream_is_found(path):
    stream = DurableStream(SQLiteStore(path), "orders")
    sinks = [AlertSink(routing(), {"ops": Inbox()}, name=name) for name in ("alerts", "the others")]
    async with stream, attach(stream, *sinks), SQLiteStore(path) as store:
        found = [StateName("orders", "alerts"), StateName("orders", "the others")]
        assert await find_states(store) == found
        assert [str(name) for name in found] == ["orders", "orders (sink the others)"]
        added = silence()
        await StateAdmin(store, found[1], "host:1#command").add_silence(added)
        while await sinks[1].silences() != [added]:
            await asyncio.sleep(0.01)
        assert await sinks[0].silences() == []


@in_time
async def test_damaged_values_and_entries_affect_only_themselves(path):
    good = silence("a=b")
    async with admin(path) as changes:
        await changes.add_silence(good)
    async with SQLiteStore(path) as store:
        names = StateNames("alerts", "alerts")
        lease = await store.acquire("any", "me", 5.0)
        assert lease is not None
        values = {"x": b"[", "y": b'["silence","2",{"id":5}]', "silence/1": b'["silence","1",{}]'}
        await store.save(lease, {f"{names.prefix}{name}": value for name, value in values.items()})
    async with running(path) as sink, admin(path) as changes:
        await until(lambda: sink.role is NotifierRole.HOLDER)
        assert await sink.silences() == await changes.silences() == [good]
