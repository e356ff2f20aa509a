"""Alert sinks that share their state, while the store fails or hangs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from contextlib import suppress
from typing import Any

import pytest
from alert_channels import Inbox, ends, fires, routing, until
from codomyrmex.integrations import SinkState, attach
from codomyrmex.integrations.durable import DurableStream, StoreError, StoreUnavailableError
from codomyrmex.integrations.notification import AlertSink, NotifierRole, Silence, parse_matchers
from codomyrmex.integrations.notification.alerts.alert import Alert
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from faulty_store import FaultyStore
from helpers import DEADLINE, in_time

QUICK = {"group_wait": "10ms", "group_interval": "30ms"}
EVERYTHING = {"append", "read", "wait", "renew", "acquire", "save"}
LEASE = 0.4


async def publish(stream: DurableStream, *names: str) -> None:
    """Publish events that the store may refuse."""
    for name in names:
        with suppress(StoreError):
            await stream.publish(fires(name))


def make(
    path: Any, *, route: Any = QUICK, **config: Any
) -> tuple[FaultyStore, DurableStream, AlertSink, Inbox]:
    store, inbox = FaultyStore(path), Inbox()
    stream = DurableStream(store, lease=LEASE, publish_timeout=1.0)
    sink = AlertSink(routing(route=route, **config), {"ops": inbox}, drain_timeout=0.5)
    return store, stream, sink, inbox


@in_time
async def test_without_the_store_a_process_notifies_about_its_own_alerts(tmp_path):
    store, stream, sink, inbox = make(tmp_path / "a.db")
    async with stream, attach(stream, sink) as attachment:
        await publish(stream, "before")
        await inbox.wait_for(1)
        while not (await sink.groups())[0].notified:
            await asyncio.sleep(0.01)
        await sink.flush()  # now it is saved
        store.away = set(EVERYTHING)
        stream.publish_nowait(fires("first"))
        await until(lambda: sink.role is NotifierRole.AWAY)
        await publish(stream, "second")
        assert sorted((await inbox.wait_for(3))[1:]) == ["firing: first", "firing: second"]
        health = attachment.health()["alerts"]
        assert health.state is SinkState.DEGRADED
        assert "state: the store has not been available for " in str(health.last_error)
        assert "only alerts of this process are sent, perhaps twice (when_away: send)" in str(
            health.last_error
        )
        store.away = set()
        await until(lambda: sink.role is NotifierRole.HOLDER)
        await sink.flush()
        assert {group.labels["alertname"] for group in await sink.groups()} == {"before", "first", "second"}
        await asyncio.sleep(0.2)
        assert len(inbox.received) == 3, inbox.summaries  # what was sent meanwhile is not sent again
        assert sink.statistics().sent_away == 2
        await stream.publish(ends("second"))
        assert (await inbox.wait_for(4))[3] == "resolved: second"
        await until(lambda: attachment.health()["alerts"].state is SinkState.OK)


@in_time
async def test_with_hold_nothing_is_sent_until_the_store_is_back(tmp_path):
    store, stream, sink, inbox = make(tmp_path / "a.db", when_away="hold")
    async with stream, attach(stream, sink) as attachment:
        store.away = set(EVERYTHING)
        stream.publish_nowait(fires("disk"))
        await until(lambda: sink.role is NotifierRole.STANDBY)
        await asyncio.sleep(2 * LEASE)
        assert inbox.received == []
        problem = str(attachment.health()["alerts"].last_error)
        assert "nothing is sent until it is (when_away: hold)" in problem
        store.away = set()
        assert await inbox.wait_for(1) == ["firing: disk"]
        assert sink.statistics().sent_away == 0


@in_time
async def test_what_cannot_be_saved_is_not_sent_while_the_lease_is_held(tmp_path):
    store, stream, sink, inbox = make(tmp_path / "a.db", when_away="hold")
    async with stream, attach(stream, sink):
        store.away = {"save"}
        await stream.publish(fires("disk"))
        await asyncio.sleep(LEASE / 2)
        assert inbox.received == []
        store.away = set()
        assert await inbox.wait_for(1) == ["firing: disk"]


@in_time
async def test_a_store_that_is_not_available_at_the_start_is_opened_later(tmp_path):
    store, stream, sink, inbox = make(tmp_path / "a.db")
    store.away = set(EVERYTHING)
    async with attach(stream, sink):
        stream.publish_nowait(fires("disk"))
        assert await inbox.wait_for(1) == ["firing: disk"]
        store.away = set()
        await until(lambda: sink.role is NotifierRole.HOLDER)
        await sink.flush()
        await asyncio.sleep(0.1)
    await stream.aclose()
    assert inbox.summaries == ["firing: disk"]


@in_time
async def test_a_silence_that_is_added_without_the_store_is_in_force_and_kept(tmp_path):
    store, stream, sink, inbox = make(tmp_path / "a.db")
    async with stream, attach(stream, sink):
        store.away = set(EVERYTHING)
        await until(lambda: sink.role is NotifierRole.AWAY)
        now = SYSTEM_CLOCK.time()
        silence = Silence(tuple(parse_matchers("alertname=disk")), now, now + 60)
        await sink.add_silence(silence)
        assert await sink.silences() == [silence]
        await publish(stream, "disk", "cpu")
        assert await inbox.wait_for(1) == ["firing: cpu"]
        store.away = set()
        await until(lambda: sink.role is NotifierRole.HOLDER)
        await sink.flush()
        assert await sink.silences() == [silence]
    assert inbox.summaries == ["firing: cpu"]


@in_time
async def test_alerts_that_are_posted_without_the_store_are_shared_afterwards_in_any_number(tmp_path):
    store, stream, sink, _ = make(tmp_path / "a.db")
    names = {f"disk{number}" for number in range(30)}
    async with stream, attach(stream, sink):
        store.away = set(EVERYTHING)
        await until(lambda: sink.role is NotifierRole.AWAY)
        await sink.post([Alert({"alertname": name}, {"text": "x" * 60_000}) for name in names])
        store.away = set()
        await until(lambda: sink.role is NotifierRole.HOLDER)
        await sink.flush()
        assert {group.labels["alertname"] for group in await sink.groups()} == names


@in_time
async def test_a_process_that_ends_without_the_store_says_what_others_will_not_know(tmp_path, caplog):
    store, stream, sink, _ = make(tmp_path / "a.db")
    now = SYSTEM_CLOCK.time()
    async with stream, attach(stream, sink):
        store.away = set(EVERYTHING)
        await until(lambda: sink.role is NotifierRole.AWAY)
        await sink.post([Alert({"alertname": "disk"}), Alert({"alertname": "cpu"})])
        await sink.add_silence(Silence(tuple(parse_matchers("alertname=disk")), now, now + 60))
    assert "the store is not available; not shared with others: alerts: 2, silences: 1" in caplog.text


@in_time
async def test_no_more_alerts_are_accepted_without_the_store_than_can_be_shared_afterwards(tmp_path):
    store = FaultyStore(tmp_path / "a.db")
    stream = DurableStream(store, lease=LEASE, publish_timeout=1.0)
    sink = AlertSink(routing(route=QUICK), {"ops": Inbox()}, buffer_size=2)
    async with stream, attach(stream, sink):
        store.away = set(EVERYTHING)
        await until(lambda: sink.role is NotifierRole.AWAY)
        await sink.post([Alert({"alertname": "first"})])
        with pytest.raises(StoreUnavailableError, match="at most"):
            await sink.post([Alert({"alertname": "second"}), Alert({"alertname": "third"})])
        await sink.post([Alert({"alertname": "first"}), Alert({"alertname": "fourth"})])
        store.away = set()
        await until(lambda: sink.role is NotifierRole.HOLDER)
        await sink.flush()
        assert {group.labels["alertname"] for group in await sink.groups()} == {"first", "fourth"}


@in_time
async def test_alerts_are_shared_although_the_store_fails_again_meanwhile(tmp_path):
    store, stream, sink, inbox = make(tmp_path / "a.db")
    names = {f"disk{number}" for number in range(5)}

    async def fail_again(*_: Any) -> None:  # as soon as the store has taken something
        if sink.role is NotifierRole.AWAY:
            del store.after["append"]
            store.away = {"append"}

    async with stream, attach(stream, sink):
        store.away = set(EVERYTHING)
        await until(lambda: sink.role is NotifierRole.AWAY)
        for name in names:
            sink.emit(fires(name))
        await inbox.wait_for(5)
        store.after["append"] = fail_again
        store.away = set()
        await until(lambda: store.away)
        await asyncio.sleep(1.5)  # longer than `publish_timeout`, so that sharing fails
        store.away = set()
        await until(lambda: sink.role is NotifierRole.HOLDER)
        await sink.flush()
        assert {group.labels["alertname"] for group in await sink.groups()} == names


@in_time
async def test_alerts_that_are_posted_while_others_are_being_shared_are_shared_too(tmp_path):
    store, stream, sink, _ = make(tmp_path / "a.db")
    now, names = SYSTEM_CLOCK.time(), ["first"]
    silence = Silence(tuple(parse_matchers("alertname=other")), now, now + 60)

    async def come_between(*_: Any) -> None:
        if sink.role is NotifierRole.AWAY and len(names) < 4:
            names.append(f"late{len(names)}")
            await sink.post([Alert({"alertname": names[-1]})])
            if len(names) == 3:
                await sink.add_silence(silence)

    async with stream, attach(stream, sink):
        store.away = set(EVERYTHING)
        await until(lambda: sink.role is NotifierRole.AWAY)
        await sink.post([Alert({"alertname": "first"})])
        store.after["append"] = come_between
        store.away = set()
        await until(lambda: sink.role is NotifierRole.HOLDER)
        await sink.flush()
        assert len(names) == 4
        assert {group.labels["alertname"] for group in await sink.groups()} == set(names)
        assert await sink.silences() == [silence]


@in_time
async def test_a_process_that_has_lost_its_lease_sends_no_more(tmp_path):
    """As after SIGSTOP: another process has taken over, and this one finds out before it sends."""
    store, stream, sink, inbox = make(tmp_path / "a.db", when_away="hold")
    _, other_stream, other, other_inbox = make(tmp_path / "a.db", when_away="hold")
    inbox.hangs = True
    async with stream, other_stream, attach(stream, sink), attach(other_stream, other):
        await stream.publish(fires("disk"))
        await stream.publish(fires("cpu"))
        await until(lambda: inbox.attempts == 1)
        store.away = {"renew", "acquire"}
        await until(lambda: (sink.role, other.role) == (NotifierRole.STANDBY, NotifierRole.HOLDER))
        assert sorted(await other_inbox.wait_for(2)) == ["firing: cpu", "firing: disk"]
        assert inbox.attempts == 1
        await other_stream.publish(ends("disk"))
        assert (await other_inbox.wait_for(3))[2] == "resolved: disk"


@in_time
async def test_what_was_queued_when_the_lease_ended_is_not_sent_besides_what_is_sent_for_it(tmp_path):
    """The same process acquires the lease again, with the same token, as nobody else did meanwhile."""
    store, stream, sink, inbox = make(tmp_path / "a.db", when_away="hold")
    answer = asyncio.Event()
    send = inbox.send

    async def send_late(events: Any) -> None:
        await answer.wait()
        await send(events)

    inbox.send = send_late
    async with stream, attach(stream, sink):
        await stream.publish(fires("disk"))
        await stream.publish(fires("cpu"))
        await until(lambda: sink.role is NotifierRole.HOLDER)
        await until(lambda: any(name == "save" for name, *_ in store.calls))
        await asyncio.sleep(0.1)
        store.away = {"renew", "acquire"}
        await until(lambda: sink.role is NotifierRole.STANDBY)
        store.away = set()
        await until(lambda: sink.role is NotifierRole.HOLDER)
        await sink.flush()
        answer.set()
        await inbox.wait_for(3)  # what was in its hands, and both again
        await asyncio.sleep(0.1)
    assert sorted(inbox.summaries) in (
        ["firing: cpu", "firing: cpu", "firing: disk"],
        ["firing: cpu", "firing: disk", "firing: disk"],
    )


@in_time
async def test_a_standby_that_missed_changes_loads_the_state(tmp_path):
    _, stream, sink, inbox = make(tmp_path / "a.db", route={"group_wait": "1h"})
    store, other_stream, other, _ = make(tmp_path / "a.db", route={"group_wait": "1h"})
    async with stream, attach(stream, sink), other_stream, attach(other_stream, other):
        await stream.publish(fires("one"))
        await other.flush()
        store.away = {"read"}
        await stream.publish(fires("two"))
        await sink.flush()
        await stream.call(stream.store.trim("events.alerts.changes", _nothing(), 10_000))
        await stream.publish(fires("three"))
        await sink.flush()
        store.away = set()
        while len(await other.groups()) < 3:
            await asyncio.sleep(0.01)
    assert inbox.received == []


def _nothing() -> Any:
    from codomyrmex.integrations.durable import Retention

    return Retention(max_events=1)


@pytest.mark.parametrize("when_away", ["send", "hold"])
@in_time
async def test_a_store_that_never_answers_does_not_keep_the_sink_from_closing(tmp_path, when_away):
    store, stream, sink, _ = make(tmp_path / "a.db", when_away=when_away)
    async with attach(stream, sink):
        store.held = {name: asyncio.Event() for name in EVERYTHING}
        stream.publish_nowait(fires("disk"))
        await asyncio.sleep(2 * LEASE)
    for event in store.held.values():
        event.set()
    await stream.aclose()


@in_time
async def test_what_waits_is_sent_at_the_end_if_it_cannot_be_stored(tmp_path):
    store, stream, sink, inbox = make(tmp_path / "a.db", route={"group_wait": "1h"})
    async with attach(stream, sink):
        store.away = set(EVERYTHING)
        stream.publish_nowait(fires("disk"))
        await until(lambda: sink.role is NotifierRole.AWAY)
    assert inbox.summaries == ["firing: disk"]
    store.away = set()
    await stream.aclose()


@in_time
async def test_a_standby_does_not_wait_at_its_end_for_a_process_that_was_killed(tmp_path):
    store, stream, sink, _ = make(tmp_path / "a.db", route={"group_wait": "1h"})
    other_stream = DurableStream(FaultyStore(tmp_path / "a.db"), lease=30.0)
    async with stream, other_stream, attach(stream, sink):
        begin = SYSTEM_CLOCK.monotonic()
        async with attach(other_stream, AlertSink(routing(), {"ops": Inbox()})):
            store.away = set(EVERYTHING)
            await other_stream.publish(fires("disk"))
        assert SYSTEM_CLOCK.monotonic() - begin < DEADLINE
        store.away = set()


FULL_DISK = """
    import asyncio, resource, sys
    from codomyrmex.integrations import Sink, attach
    from codomyrmex.integrations.notification import AlertSink
    from codomyrmex.streaming import EventType, InMemoryStream, create_event

    class Inbox(Sink):
        name = "inbox"
        def __init__(self):
            self.names = []
        async def send(self, events):
            self.names += [alert["labels"]["alertname"] for event in events for alert in event.data["alerts"]]

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    async def until(condition):
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.01)

    async def main():
        inbox, stream = Inbox(), InMemoryStream()
        config = {
            "route": {"receiver": "ops", "group_by": ["alertname"], "group_wait": "10ms"},
            "receivers": [{"name": "ops"}],
            "state": {"url": sys.argv[1], "lease": "500ms"},
        }
        sink = AlertSink(config, {"ops": inbox}, drain_timeout=1)
        async def fire(name):
            await stream.publish(create_event("x" * 500, EventType.ERROR, labels={"alertname": name}))
        async with attach(stream, sink) as attachment:
            await fire("before")
            await until(lambda: inbox.names == ["before"])
            await sink.flush()
            limit(4096)
            for number in range(50):
                await fire(f"full{number}")
            await until(lambda: len(set(inbox.names)) == 51)
            health = attachment.health()["alerts"]
            assert health.state == "degraded", health
            assert "reading or writing the file failed" in health.last_error, health
            limit(resource.RLIM_INFINITY)
            await until(lambda: sink.role == "holder")
            await fire("after")
            await until(lambda: "after" in inbox.names)
            await until(lambda: attachment.health()["alerts"].state == "ok")
            await sink.flush()
            assert len(await sink.groups()) == 52
    asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="this system does not limit the size of files")
def test_on_a_full_disk_notifications_go_on_and_the_health_shows_it(tmp_path):
    program = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path / "state.db")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert program.returncode == 0, program.stderr
