"""Alert sinks of several hosts, whose clocks and files differ."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from alert_channels import Inbox, ends, fires, routing, until
from codomyrmex.integrations import Attachment, SinkState, attach
from codomyrmex.integrations.durable import DurableStream, SQLiteStore
from codomyrmex.integrations.notification import AlertSink, NotifierRole
from codomyrmex.streaming.clock import SYSTEM_CLOCK, SystemClock
from helpers import in_time

HOUR = 3_600.0


class RemoteStore(SQLiteStore):
    """A store whose processes are on several hosts."""

    on_this_host = False


class FastClock(SystemClock):
    """The clock of a host that is an hour ahead."""

    time = staticmethod(lambda: SYSTEM_CLOCK.time() + HOUR)


class SlowClock(SystemClock):
    """The clock of a host that is an hour behind."""

    time = staticmethod(lambda: SYSTEM_CLOCK.time() - HOUR)


@asynccontextmanager
async def host(
    path: Path, config: Any, inbox: Inbox, clock: SystemClock = SYSTEM_CLOCK
) -> AsyncIterator[tuple[DurableStream, AlertSink, Attachment]]:
    stream, sink = DurableStream(RemoteStore(path), lease=30.0), AlertSink(config, {"ops": inbox}, clock)
    async with stream, attach(stream, sink) as attachment:
        yield stream, sink, attachment


@in_time
async def test_the_timers_of_groups_are_those_of_the_store_where_clocks_of_hosts_are_wrong(tmp_path):
    config, inbox = routing(route={"group_wait": "10m", "group_interval": "10m"}), Inbox()
    async with host(tmp_path / "a.db", config, inbox, FastClock()) as (stream, sink, attachment):
        await stream.publish(fires("disk"))
        await sink.flush()
        [first] = await sink.groups()
        health = attachment.health()["alerts"]
        assert health.state is SinkState.DEGRADED
        assert "clock: differs by -3600." in str(health.last_error)
        async with host(tmp_path / "a.db", config, inbox, SlowClock()) as (_, standby, _):
            await standby.flush()
            assert standby.role is NotifierRole.STANDBY
            await attachment.aclose()
            await until(lambda: standby.role is NotifierRole.HOLDER)
            [second] = await standby.groups()
            assert abs(first.next_tick - SYSTEM_CLOCK.time() - 600) < 60
            assert first.next_tick == second.next_tick
            assert inbox.received == []


@in_time
async def test_a_process_with_another_file_says_so_until_it_is_the_one_that_notifies(tmp_path):
    inbox, quick = Inbox(), {"group_wait": "10ms", "group_interval": "30ms"}
    config = routing(route=quick)
    async with host(tmp_path / "a.db", config, inbox) as (stream, _, attachment):
        other = routing(route={**quick, "repeat_interval": "3h"})
        async with host(tmp_path / "a.db", other, inbox) as (_, standby, reports):
            await stream.publish(fires("disk"))
            await inbox.wait_for(1)
            await standby.flush()
            await until(lambda: reports.health()["alerts"].state is SinkState.DEGRADED)
            problem = str(reports.health()["alerts"].last_error)
            assert problem.startswith("configuration: the file differs from that of ")
            assert problem.endswith(", which is in force")
            assert attachment.health()["alerts"].state is SinkState.OK
            await attachment.aclose()
            await until(lambda: standby.role is NotifierRole.HOLDER)
            await stream.publish(ends("disk"))
            assert await inbox.wait_for(2) == ["firing: disk", "resolved: disk"]
            await until(lambda: reports.health()["alerts"].state is SinkState.OK)
