"""Alert sinks that share their state: one notifies, the others stand by and take over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from alert_channels import Inbox, ends, fires, routing, until
from codomyrmex.integrations import Attachment, Binding, SinkState, attach
from codomyrmex.integrations.durable import DurableStream, SQLiteStore, StreamAdmin
from codomyrmex.integrations.durable.copying import copy_stream
from codomyrmex.integrations.notification import AlertSink, NotifierRole, Silence, parse_matchers
from codomyrmex.streaming import InMemoryStream, Stream, create_event
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from helpers import in_time

QUICK = {"route": {"group_wait": "20ms", "group_interval": "40ms"}}
PATIENT = {"route": {"group_wait": "1h"}}


class Process:
    """What a process of an application has: a stream, a sink and a channel."""

    def __init__(self, path: Path, config: Any, inbox: Inbox, *, durable: bool, lease: float = 1.0) -> None:
        self.stream: Stream = InMemoryStream()
        self.inbox = inbox
        if durable:
            self.stream = DurableStream(SQLiteStore(path), lease=lease)
        else:
            config = {**config, "state": {"url": str(path), "lease": f"{lease:g}s"}}
        self.sink = AlertSink(config, {"ops": inbox})
        self.stack = AsyncExitStack()
        self.attachment: Attachment

    async def start(self) -> Process:
        if isinstance(self.stream, DurableStream):
            await self.stack.enter_async_context(self.stream)
        self.attachment = await self.stack.enter_async_context(attach(self.stream, self.sink))
        return self


@pytest.fixture(params=[True, False], ids=["durable stream", "state"])
def durable(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@asynccontextmanager
async def processes(
    path: Path, count: int, config: Any, *, durable: bool, **options: Any
) -> AsyncIterator[list[Process]]:
    inbox = Inbox()
    started = [await Process(path, config, inbox, durable=durable, **options).start() for _ in range(count)]
    try:
        yield started
    finally:
        for process in reversed(started):
            await process.stack.aclose()


def roles(started: list[Process]) -> list[NotifierRole | None]:
    return [process.sink.role for process in started]


@in_time
async def test_one_process_notifies_about_the_alerts_of_all(tmp_path, durable):
    async with processes(tmp_path / "a.db", 3, routing(**QUICK), durable=durable) as started:
        inbox = started[0].inbox
        assert roles(started) == [NotifierRole.HOLDER, NotifierRole.STANDBY, NotifierRole.STANDBY]
        for number, process in enumerate(started):
            await process.stream.publish(fires(f"disk{number}"))
        assert sorted(await inbox.wait_for(3)) == ["firing: disk0", "firing: disk1", "firing: disk2"]
        await started[2].stream.publish(ends("disk0"))
        assert (await inbox.wait_for(4))[3] == "resolved: disk0"
        assert started[1].attachment.health()["alerts"].state is SinkState.STANDBY
        assert started[0].attachment.health()["alerts"].state is SinkState.OK
    assert len(inbox.received) == 4


@in_time
async def test_every_process_knows_the_groups_and_the_silences(tmp_path, durable):
    async with processes(tmp_path / "a.db", 2, routing(**PATIENT), durable=durable) as started:
        holder, standby = (process.sink for process in started)
        await started[1].stream.publish(fires("disk"))
        await holder.flush()
        await standby.flush()
        groups = [await sink.groups() for sink in (holder, standby)]
        assert groups[0] == groups[1]
        assert groups[0][0].labels == {"alertname": "disk"}
        now = SYSTEM_CLOCK.time()
        silence = Silence(tuple(parse_matchers("alertname=disk")), now, now + 60, "ann")
        await standby.add_silence(silence)
        assert await holder.silences() == await standby.silences() == [silence]
        explanation = await standby.explain({"alertname": "disk"})
        assert "silenced" in str(explanation).lower()
        await holder.expire_silence(silence.id)
        await until(lambda: standby.role is NotifierRole.STANDBY)
        [expired] = await holder.silences()
        assert expired.ends_at < now + 60

        async def seen() -> bool:
            return await standby.silences() == [expired]

        while not await seen():
            await asyncio.sleep(0.01)


@in_time
async def test_a_process_that_ends_leaves_its_groups_with_their_timers_to_another(tmp_path, durable):
    async with processes(tmp_path / "a.db", 2, routing(**PATIENT), durable=durable, lease=30.0) as started:
        first, second = started
        await first.stream.publish(fires("disk"))
        await first.sink.flush()
        [before] = await first.sink.groups()
        await first.stack.aclose()
        await until(lambda: second.sink.role is NotifierRole.HOLDER)
        [after] = await second.sink.groups()
        assert after.next_tick == before.next_tick


@in_time
async def test_another_process_sends_the_pending_notifications_of_one_that_ends(tmp_path, durable):
    config = routing(route={"group_wait": "300ms", "group_interval": "40ms"})
    async with processes(tmp_path / "a.db", 2, config, durable=durable, lease=30.0) as started:
        first, second = started
        await first.stream.publish(fires("disk"))
        await first.sink.flush()
        await first.stack.aclose()
        assert await first.inbox.wait_for(1) == ["firing: disk"]
        await second.stream.publish(ends("disk"))
        assert await first.inbox.wait_for(2) == ["firing: disk", "resolved: disk"]


@in_time
async def test_all_processes_may_end_and_new_ones_continue(tmp_path, durable):
    path, config = tmp_path / "a.db", routing(**QUICK)
    async with processes(path, 1, config, durable=durable) as [process]:
        await process.stream.publish(fires("disk"))
        await process.inbox.wait_for(1)
    async with processes(path, 1, config, durable=durable) as [process]:
        await process.stream.publish(fires("disk"))
        await process.sink.flush()
        await asyncio.sleep(0.2)
        assert process.inbox.received == []  # it was notified before
        await process.stream.publish(ends("disk"))
        assert await process.inbox.wait_for(1) == ["resolved: disk"]


@in_time
async def test_a_sink_whose_group_was_deleted_begins_anew(tmp_path):
    path, config, now = tmp_path / "a.db", routing(**QUICK), SYSTEM_CLOCK.time()
    async with processes(path, 1, config, durable=True) as [process]:
        await process.stream.publish(fires("disk"))
        await process.inbox.wait_for(1)
        await process.sink.add_silence(Silence(tuple(parse_matchers("alertname=cpu")), now, now + 60))
    async with DurableStream(SQLiteStore(path)) as stream:
        await stream.delete_group("alerts")
    async with processes(path, 1, config, durable=True) as [process]:
        await process.sink.flush()
        assert await process.sink.groups() == await process.sink.silences() == []
        await process.stream.publish(fires("disk"))
        assert await process.inbox.wait_for(1) == ["firing: disk"]


@in_time
async def test_a_sink_continues_on_a_copy_of_its_store(tmp_path):
    config, now = routing(**QUICK), SYSTEM_CLOCK.time()
    silence = Silence(tuple(parse_matchers("alertname=cpu")), now, now + 60)
    async with processes(tmp_path / "a.db", 1, config, durable=True) as [process]:
        await process.stream.publish(fires("disk"))
        await process.inbox.wait_for(1)
        await process.sink.add_silence(silence)
    async with SQLiteStore(tmp_path / "a.db") as source, SQLiteStore(tmp_path / "b.db") as target:
        await copy_stream(StreamAdmin(source, "events"), target, "me")
    async with processes(tmp_path / "b.db", 1, config, durable=True) as [process]:
        assert await process.sink.silences() == [silence]
        await process.stream.publish(ends("disk"))
        assert await process.inbox.wait_for(1) == ["resolved: disk"]


@in_time
async def test_only_events_of_the_topic_and_filter_are_alerts(tmp_path):
    inbox, stream = Inbox(), DurableStream(SQLiteStore(tmp_path / "a.db"))
    sink = AlertSink(routing(**QUICK), {"ops": inbox})
    binding = Binding(sink, "orders.*", lambda event: event.data != "no")
    async with stream, attach(stream, binding):
        for topic, data in (("jobs", "yes"), ("orders.new", "no"), ("orders.new", "yes")):
            labels = {"alertname": topic + data}
            await stream.publish(create_event(data, topic=topic, labels=labels))
        assert await inbox.wait_for(1) == ["firing: orders.newyes"]
        await sink.add_silence(Silence(tuple(parse_matchers("alertname=x")), 0, SYSTEM_CLOCK.time() + 9))
        assert len(await sink.silences()) == 1
    assert len(inbox.received) == 1
