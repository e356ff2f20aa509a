"""`AlertSink` from its opening to its end: state, cancellation, forks, and processes without a loop."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
from alert_channels import (
    INTERVAL,
    WAIT,
    Inbox,
    ends,
    fires,
    instead_of_apprise,
    record_connections,
    routing,
    running,
    until,
)
from codomyrmex.integrations import PermanentError, SinkState, attach, attach_blocking
from codomyrmex.integrations.notification import AlertSink, StateError, StateFile
from codomyrmex.streaming import InMemoryStream
from codomyrmex.streaming.diagnostics import Diagnostics
from helpers import in_time


@pytest.fixture(autouse=True)
def every_line_is_logged(monkeypatch):
    """Not one of a kind in ten seconds, over all tests."""
    module = "codomyrmex.integrations.notification.alerts.engine_runner"
    monkeypatch.setattr(f"{module}._log", Diagnostics(module))


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("alerts ")]


async def all_threads_end() -> None:
    await until(lambda: not threads())


def is_free(path: Path) -> bool:
    """Return whether no process has claimed a state file."""
    file = StateFile(path)
    try:
        file.claim()
    except StateError:
        return False
    finally:
        file.close()
    return True


# The end


@in_time
async def test_without_a_state_pending_alerts_are_notified_on_close():
    inbox = Inbox()
    async with running(routing(), {"ops": inbox}) as run:
        await run.publish(fires("disk"))
        run.stream.publish_nowait(fires("cpu"))
    assert sorted(inbox.summaries) == ["firing: cpu", "firing: disk"]
    assert run.attachment.report().complete
    await all_threads_end()


@in_time
async def test_with_a_state_pending_alerts_are_left_to_the_next_process(tmp_path):
    inbox, config = Inbox(), routing(state=str(tmp_path / "state.db"))
    async with running(config, {"ops": inbox}) as run:
        await run.publish(fires("disk"))
        clock = run.clock
    assert inbox.received == []
    async with running(config, {"ops": inbox}, clock=clock) as run:
        await run.pass_time(WAIT)
        assert await inbox.wait_for(1) == ["firing: disk"]
    async with running(config, {"ops": inbox}, clock=clock) as run:
        await run.publish(ends("disk"))
        await run.pass_time(INTERVAL)
        assert await inbox.wait_for(2) == ["firing: disk", "resolved: disk"]


@in_time
async def test_the_fallback_is_notified_on_close_too():
    boss = Inbox()
    channels = {"ops": Inbox(PermanentError("gone")), "boss": boss}
    async with running(routing({"name": "ops", "fallback": "boss"}, "boss"), channels) as run:
        await run.publish(fires("disk"))
    assert boss.summaries == ["firing: disk"]


@in_time
async def test_a_hanging_channel_delays_close_by_the_drain_timeout_at_most():
    hanging, inbox = Inbox(hangs=True), Inbox()
    stream = InMemoryStream()
    sink = AlertSink(routing(), {"ops": [hanging, inbox]}, drain_timeout=0.2)
    async with attach(stream, sink):
        stream.publish_nowait(fires("disk"))
    assert inbox.summaries == ["firing: disk"]
    assert hanging.calls == ["open", "close"]
    await all_threads_end()


@in_time
async def test_an_attachment_that_is_closed_at_once_still_closes_the_channels(tmp_path):
    path, hanging, stream = tmp_path / "state.db", Inbox(hangs=True), InMemoryStream()
    config = routing(route={"group_wait": "0s"}, state=str(path))
    attachment = await attach(stream, AlertSink(config, {"ops": hanging})).start()
    stream.publish_nowait(fires("disk"))
    await until(lambda: hanging.attempts)
    await attachment.aclose(0)
    assert hanging.calls == ["open", "close"]
    assert is_free(path)
    await all_threads_end()


@in_time
async def test_a_state_file_that_hangs_delays_close_no_longer(tmp_path, monkeypatch, caplog):
    entered, free = threading.Event(), threading.Event()

    def hangs(*_: Any, **__: Any) -> None:
        entered.set()
        free.wait(10)

    monkeypatch.setattr(StateFile, "save", hangs)
    stream = InMemoryStream()
    attachment = await attach(stream, AlertSink(routing(state=str(tmp_path / "state.db")))).start()
    stream.publish_nowait(fires("disk"))
    await asyncio.to_thread(entered.wait, 5)
    for number in range(100):
        stream.publish_nowait(fires("disk", host=str(number)))  # returns all the same
    await attachment.aclose(0)
    assert "sink alerts: close() ignores its cancellation and is left running" in caplog.text
    free.set()
    await all_threads_end()


@in_time
async def test_what_is_published_after_the_end_is_refused():
    inbox = Inbox()
    async with running(routing(), {"ops": inbox}) as run:
        pass
    assert run.sink.health() == {}
    for question in (run.sink.groups, run.sink.flush, run.sink.silences, run.sink.reload):
        with pytest.raises(RuntimeError, match="is not open"):
            await question()


@in_time
async def test_a_sink_can_be_attached_again():
    inbox = Inbox()
    sink = AlertSink(routing(), {"ops": inbox})
    for name in ("disk", "cpu"):
        stream = InMemoryStream()
        async with attach(stream, sink):
            stream.publish_nowait(fires(name))
    assert inbox.summaries == ["firing: disk", "firing: cpu"]


# Cancellation


class Slow(Inbox):
    """Takes its time in one of its steps."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self.entered = asyncio.Event()
        self.step = step

    async def _enter(self, step: str) -> None:
        if step == self.step:
            self.entered.set()
            await asyncio.sleep(0.05)

    async def open(self) -> None:
        await super().open()
        await self._enter("open")

    async def send(self, events: Any) -> None:
        await self._enter("send")
        await super().send(events)

    async def close(self) -> None:
        await self._enter("close")
        await super().close()


@pytest.mark.parametrize("step", ["open", "send", "close"])
@in_time
async def test_cancelling_leaves_nothing_behind(step, tmp_path):
    path, inbox, stream = tmp_path / "state.db", Slow(step), InMemoryStream()
    config = routing(route={"group_wait": "0s"}, state=str(path))

    async def life() -> None:
        async with attach(stream, AlertSink(config, {"ops": inbox})):
            stream.publish_nowait(fires("disk"))
            if step == "send":
                await inbox.entered.wait()

    task = asyncio.create_task(life())
    await inbox.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await all_threads_end()
    assert is_free(path)
    assert inbox.calls in (["open", "close"], ["open"])


@in_time
async def test_cancelling_while_the_state_is_opened_leaves_it_free(tmp_path, monkeypatch):
    path, entered, free = tmp_path / "state.db", threading.Event(), threading.Event()
    claim = StateFile.claim

    def slow(file: StateFile) -> None:
        claim(file)
        entered.set()
        free.wait(5)

    monkeypatch.setattr(StateFile, "claim", slow)
    attachment = attach(InMemoryStream(), AlertSink(routing(state=str(path)), None))
    task = asyncio.create_task(attachment.start())
    await asyncio.to_thread(entered.wait, 5)
    task.cancel()
    await asyncio.sleep(0)
    free.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    await all_threads_end()
    assert is_free(path)


@in_time
async def test_cancelling_the_caller_of_reload_does_not_interrupt_it(tmp_path):
    path = tmp_path / "alerts.yaml"
    path.write_text("route: {receiver: ops}\nreceivers: [{name: ops}]\n")
    async with running(path, None, watch=False) as run:
        path.write_text("route: {receiver: ops}\nreceivers: [{name: ops}, {name: more}]\n")
        task = asyncio.create_task(run.sink.reload())
        await asyncio.sleep(0)
        task.cancel()
        await until(lambda: "more" in run.sink.config.receivers)


# The state file, when it cannot be used


async def open_with(path: Path) -> None:
    async with attach(InMemoryStream(), AlertSink(routing(state=str(path)))):
        pass


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"no database at all " * 100, id="no database"),
        pytest.param(("alert", '"a"', "{"), id="no JSON"),
        pytest.param(("alert", '"a"', "{}"), id="no alert"),
        pytest.param(("silence", '"s"', '{"matchers": 1}'), id="no silence"),
        pytest.param("PRAGMA user_version=9", id="another format"),
    ],
)
@in_time
async def test_a_damaged_state_is_an_error_with_the_remedy(content, tmp_path):
    path = tmp_path / "state.db"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        StateFile(path).close()
        with sqlite3.connect(path) as database:
            if isinstance(content, tuple):
                database.execute("INSERT INTO state VALUES (?, ?, ?)", content)
            else:
                database.execute(content)
        database.close()
    with pytest.raises(StateError, match=r"state\.db .*(is damaged|cannot be read)"):
        await open_with(path)
    await all_threads_end()


@in_time
async def test_a_state_in_a_folder_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(StateError, match="cannot be opened"):
        await open_with(tmp_path / "nowhere" / "state.db")


@in_time
async def test_a_state_that_another_process_holds_is_an_error_that_names_it(tmp_path):
    program = """
        import sys
        from codomyrmex.integrations.notification import StateFile
        file = StateFile(sys.argv[1])
        file.claim()
        print("claimed", flush=True)
        input()
    """
    path = tmp_path / "state.db"
    command = [sys.executable, "-c", textwrap.dedent(program), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:  # noqa: ASYNC220
        assert holder.stdout is not None
        await asyncio.to_thread(holder.stdout.readline)
        with pytest.raises(StateError, match=f"in use by process {holder.pid}; "):
            await open_with(path)
        holder.kill()
    await open_with(path)


@pytest.fixture
def connections(monkeypatch) -> list[sqlite3.Connection]:
    return record_connections(monkeypatch)


@in_time
async def test_a_full_disk_stops_no_notification_and_what_was_not_saved_is_saved_later(
    tmp_path, caplog, connections
):
    path, inbox = tmp_path / "state.db", Inbox()
    async with running(routing(state=str(path)), {"ops": inbox}) as run:
        [database] = connections
        [pages] = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count={pages}")
        await run.publish(*(fires("disk", host=str(number)) for number in range(100)))
        await run.pass_time(WAIT)
        assert len((await inbox.wait_for(1))[0].split()) == 101
        assert saved(path) == 0
        assert "database or disk is full" in (run.sink.health()["state file"].last_error or "")
        health = run.attachment.health()["alerts"]
        assert health.state is SinkState.DEGRADED
        assert "state file: " in health.last_error
        assert "database or disk is full" in health.last_error
        database.execute("PRAGMA max_page_count=1000000")
        run.clock.advance(60)
        await run.publish(fires("cpu"))
        assert saved(path) == 101
        assert set(run.sink.health()) == {"ops[0]"}
        assert run.attachment.health()["alerts"].state is SinkState.OK
    assert "continues without saving its state" in caplog.text
    assert "database or disk is full" in caplog.text


@in_time
async def test_the_attachment_shows_the_worst_channel_and_refused_alerts():
    config = routing(
        "ops", "pager", route={"routes": [{"receiver": "pager", "matchers": ["alertname=down"]}]}
    )
    config["global"]["max_alerts"] = 2
    pager = Inbox(OSError("no answer"))
    async with running(config, {"ops": Inbox(), "pager": pager}) as run:
        assert run.attachment.health()["alerts"].state is SinkState.OK
        await run.publish(fires("disk"), fires("down"))
        run.clock.advance(WAIT)
        await run.sink.flush()
        await until(lambda: run.attachment.health()["alerts"].state is SinkState.RETRYING)
        assert run.attachment.health()["alerts"].last_error == "pager[0]: OSError: no answer"
        pager.error = None
        await until(lambda: run.clock.advance(1) or len(pager.received) == 1)
        await until(lambda: run.attachment.health()["alerts"].state is SinkState.OK)
        await run.publish(fires("one too many"))
        health = run.attachment.health()["alerts"]
        assert (health.state, health.last_error) == (
            SinkState.DEGRADED,
            "max_alerts: 1 new alerts were refused",
        )
    assert run.attachment.health()["alerts"].state is SinkState.CLOSED


@in_time
async def test_a_template_that_takes_long_shows_in_the_health(monkeypatch):
    instead_of_apprise(monkeypatch)
    slow = "{% for i in range(1200) %}{% for j in range(1200) %}{% endfor %}{% endfor %}"  # not for long
    config = routing({"name": "ops", "apprise_configs": [{"url": "json://127.0.0.1:9", "body": slow}]})
    async with running(config, {}) as run:
        await run.publish(fires("disk"))
        run.clock.advance(WAIT)
        step = asyncio.create_task(run.sink.flush())
        await asyncio.sleep(0.01)
        run.clock.advance(20)
        health = run.attachment.health()["alerts"]
        assert health.state is SinkState.DEGRADED
        assert str(health.last_error).startswith("engine: busy for ")
        assert str(health.last_error).endswith("s, perhaps with a template; no alert is sent")
        await step
        await until(lambda: run.attachment.health()["alerts"].state is SinkState.OK)


def saved(path: Path) -> int:
    file = StateFile(path)
    try:
        return sum(kind == "alert" for kind, _ in file.load())
    finally:
        file.close()


@in_time
async def test_a_state_that_others_write_to_for_long_does_not_slow_the_publisher(
    tmp_path, caplog, connections
):
    path, inbox = tmp_path / "state.db", Inbox()
    async with running(routing(state=str(path)), {"ops": inbox}) as run:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for number in range(100):
            run.stream.publish_nowait(fires("disk", host=str(number)))  # returns
        await run.sink.flush()
        await run.pass_time(WAIT)
        await inbox.wait_for(1)
        other.execute("ROLLBACK")
        other.close()
        run.clock.advance(60)
        await run.sink.flush()
        assert saved(path) == 100
    assert "database is locked" in caplog.text


@in_time
async def test_a_state_file_that_is_removed_is_reported_and_stops_no_notification(tmp_path):
    path, inbox = tmp_path / "state.db", Inbox()
    async with running(routing(state=str(path)), {"ops": inbox}) as run:
        path.unlink()
        await run.pass_time(1)
        await until(lambda: "state file" in run.sink.health())
        assert "was removed while it was in use" in (run.sink.health()["state file"].last_error or "")
        await run.publish(fires("disk"))
        await run.pass_time(WAIT)
        assert await inbox.wait_for(1) == ["firing: disk"]


@in_time
async def test_silences_that_cannot_be_read_stop_nothing(tmp_path, caplog):
    path, inbox = tmp_path / "state.db", Inbox()
    async with running(routing(state=str(path)), {"ops": inbox}) as run:
        await run.publish(fires("disk"))
        with sqlite3.connect(path) as other:
            other.execute("""INSERT INTO state VALUES ('silence', '"x"', 'no JSON')""")
        other.close()
        await run.pass_time(1)
        await run.pass_time(WAIT)
        assert await inbox.wait_for(1) == ["firing: disk"]
        await until(lambda: "cannot read the silences of other processes" in caplog.text)


@in_time
async def test_labels_with_lone_surrogates_are_saved_too(tmp_path):
    inbox, config = Inbox(), routing(state=str(tmp_path / "state.db"))
    async with running(config, {"ops": inbox}) as run:
        await run.publish(fires("odd \ud800"))
        clock = run.clock
    async with running(config, {"ops": inbox}, clock=clock) as run:
        [group] = await run.sink.groups()
        assert group.labels == {"alertname": "odd \ud800"}
        await run.pass_time(WAIT)
        await inbox.wait_for(1)


# Without a loop, and after a fork


def test_a_program_without_an_event_loop_is_served_too():
    inbox, stream = Inbox(), InMemoryStream()
    with attach_blocking(stream, AlertSink(routing(), {"ops": inbox})):
        stream.publish_nowait(fires("disk"))
    assert inbox.summaries == ["firing: disk"]


PRELUDE = """
import asyncio, os, sys, time
from codomyrmex.integrations import attach, attach_blocking, InlineSink, Sink
from codomyrmex.integrations.notification import AlertSink
from codomyrmex.streaming import InMemoryStream, create_event

parent = os.getpid()

def say(*what):
    who = "parent" if os.getpid() == parent else "child"
    os.write(1, (" ".join(map(str, (who, *what))) + "\\n").encode())

class Recorder(Sink):
    name = "teller"
    async def send(self, events):
        for event in events:
            say("got", *sorted(alert["labels"]["alertname"] for alert in event.data["alerts"]))

def fires(name):
    return create_event(None, topic="jobs", labels={"alertname": name})

def end(child):
    os.waitpid(child, 0)

config = {"route": {"receiver": "ops"}, "receivers": [{"name": "ops"}]}
stream = InMemoryStream()
"""


def program(text: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PRELUDE + textwrap.dedent(text), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return [*done.stdout.splitlines(), *(f"log {line}" for line in done.stderr.splitlines())]


@forks
def test_a_forked_child_opens_its_own_and_sends_nothing_twice():
    lines = program("""
        with attach_blocking(stream, AlertSink(config, {"ops": Recorder()})) as attachment:
            stream.publish_nowait(fires("before"))
            time.sleep(0.05)
            if (child := os.fork()) == 0:
                stream.publish_nowait(fires("of the child"))
                attachment.close()
                os._exit(0)
            end(child)
    """)
    assert [line for line in lines if "got" in line] == ["child got of the child", "parent got before"]


@forks
def test_in_a_forked_child_the_sink_of_an_event_loop_drops_and_counts_events():
    lines = program("""
        class Logger(InlineSink):
            name = "logger"
            def emit(self, event):
                say("logged", event.metadata["labels"]["alertname"])

        async def main():
            async with attach(stream, AlertSink(config, {"ops": Recorder()}), Logger()) as attachment:
                await stream.publish(fires("before"))
                if (child := os.fork()) == 0:
                    stream.publish_nowait(fires("of the child"))
                    report = attachment.report().sinks["alerts"]
                    say("dropped", report.dropped, report.delivered)
                    os._exit(0)
                end(child)
        asyncio.run(main())
    """)
    assert "child dropped {'forked': 1} 0" in lines
    assert "child logged of the child" in lines  # what needs no opening goes on
    assert [line for line in lines if "got" in line] == ["parent got before"]


@forks
def test_a_child_cannot_use_the_state_of_its_parent(tmp_path):
    lines = program(
        """
        config["state"] = sys.argv[1]
        with attach_blocking(stream, AlertSink(config, {"ops": Recorder()})) as attachment:
            if (child := os.fork()) == 0:
                stream.publish_nowait(fires("first"))
                attachment.flush(5)
                time.sleep(0.2)
                stream.publish_nowait(fires("second"))
                health = attachment.health()["alerts"]
                say(health.state, health.delivered, health.queued, health.last_error)
                os._exit(0)
            end(child)
        """,
        str(tmp_path / "state.db"),
    )
    assert any(line.startswith("child not_open 0 2 StateError: the state file ") for line in lines)
    assert any("sink alerts: open() failed and will be retried: " in line for line in lines)


@forks
def test_a_child_that_lives_longer_does_not_keep_the_state_of_its_parent(tmp_path):
    path = tmp_path / "state.db"
    lines = program(
        """
        config["state"] = sys.argv[1]
        with attach_blocking(stream, AlertSink(config, {"ops": Recorder()})):
            read, write = os.pipe()
            if (child := os.fork()) == 0:
                os.close(1), os.close(2), os.close(write)
                os.read(read, 1)  # until the test ends the parent
                time.sleep(1)
                os._exit(0)
            say("child", child)
            os.kill(os.getpid(), 0)
            sys.stdout.flush()
            os._exit(0)
        """,
        str(path),
    )
    assert lines[0].startswith("parent child")
    assert is_free(path)
