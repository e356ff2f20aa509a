"""`AlertSink` from its opening to its end: state, cancellation, forks, and processes without a loop."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest
from alert_channels import (
    INTERVAL,
    WAIT,
    Inbox,
    ends,
    fires,
    instead_of_apprise,
    routing,
    running,
    until,
)
from codomyrmex.integrations import PermanentError, SinkState, attach, attach_blocking
from codomyrmex.integrations.durable import StoreError
from codomyrmex.integrations.notification import AlertSink, Silence, parse_matchers
from codomyrmex.integrations.notification.alerts.alert import Alert
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
async def test_a_query_or_post_during_close_gets_a_result_or_an_error(tmp_path):
    for config in (routing(), routing(state=str(tmp_path / "state.db"))):
        async with running(config, {"ops": Inbox()}) as run:
            now = run.clock.time()
            calls = [run.sink.groups() for _ in range(100)]
            calls += [run.sink.post([Alert({"alertname": "disk"})]) for _ in range(20)]
            calls += [
                run.sink.add_silence(Silence(parse_matchers(f"a={number}"), now, now + 60))
                for number in range(20)
            ]
            asked = [asyncio.ensure_future(call) for call in calls]
            await asyncio.sleep(0)
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            assert outcome is None or isinstance(outcome, list | RuntimeError | StoreError)
    await all_threads_end()


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
    assert inbox.calls in (["open", "close"], ["open"])


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
    slow = "{% for i in range(2500) %}{% for j in range(2500) %}{% endfor %}{% endfor %}"  # not for long
    config = routing({"name": "ops", "apprise_configs": [{"url": "json://127.0.0.1:9", "body": slow}]})
    async with running(config, {}) as run:
        seen = []

        def hangs():
            run.clock.advance(11)  # a second longer than a call may take, each time that this is tried
            seen.append(run.attachment.health()["alerts"])
            return str(seen[-1].last_error).startswith("engine: busy for ")

        def works_again():
            run.clock.advance(0.02)  # the attempt may have taken too long, and is repeated after a pause
            return run.attachment.health()["alerts"].state is SinkState.OK

        await run.publish(fires("disk"))
        run.clock.advance(WAIT)
        step = asyncio.create_task(run.sink.flush())
        await until(hangs)
        assert seen[-1].state is SinkState.DEGRADED
        assert str(seen[-1].last_error).endswith(", perhaps with a template; no alert is sent")
        await step
        await until(works_again)


@in_time
async def test_labels_with_lone_surrogates_are_shared_with_a_replacement(tmp_path):
    inbox, config = Inbox(), routing(state=str(tmp_path / "state.db"))
    async with running(config, {"ops": inbox}) as run:
        await run.publish(fires("odd \ud800"))
        clock = run.clock
    async with running(config, {"ops": inbox}, clock=clock) as run:
        [group] = await run.sink.groups()
        assert group.labels == {"alertname": "odd \ufffd"}
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
from codomyrmex.integrations.durable import StoreError
from codomyrmex.integrations.notification import AlertSink, Silence, parse_matchers
from codomyrmex.integrations.notification.alerts.alert import Alert
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
