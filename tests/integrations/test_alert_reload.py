"""`AlertSink` when its configuration changes while it runs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from alert_channels import (
    INTERVAL,
    WAIT,
    Inbox,
    Running,
    fires,
    instead_of_apprise,
    routing,
    running,
    until,
    urls,
)
from codomyrmex.integrations import attach
from codomyrmex.integrations.notification import (
    AlertConfigError,
    AlertSink,
    ChannelError,
)
from codomyrmex.streaming import InMemoryStream
from codomyrmex.streaming.testing import collect
from helpers import in_time


@pytest.fixture
def apprise(monkeypatch) -> dict[str, Inbox]:
    return instead_of_apprise(monkeypatch)


BOTH = {"routes": [{"receiver": "ops", "continue": True}, {"receiver": "more"}]}


def write(path: Path, config: Any) -> None:
    """Put a file in the place of another, as editors and deployments do."""
    new = path.with_suffix(".new")
    new.write_text(config if isinstance(config, str) else json.dumps(config))
    new.replace(path)


@asynccontextmanager
async def watching(path: Path, config: Any, channels: Any) -> AsyncIterator[tuple[Running, collect]]:
    write(path, config)
    audit = InMemoryStream()
    with collect(audit) as events:
        async with running(path, channels, audit=audit) as run:
            yield run, events


@in_time
async def test_a_changed_file_is_loaded_and_groups_keep_their_timers(tmp_path, apprise):
    path, inbox = tmp_path / "alerts.yaml", Inbox()
    async with watching(path, routing(), {"ops": inbox}) as (run, audit):
        await run.publish(fires("disk"))
        await run.pass_time(WAIT - 10)
        write(path, routing("ops", urls(name="more"), labels=["alertname"]))
        run.clock.advance(1)
        [event] = await audit.wait_for(1)
        assert event.topic == "alerts.reloaded"
        assert event.data == {"file": str(path), "receivers": ["ops", "more"], "removed": []}
        assert apprise["more[0]"].calls == ["open", "close", "open"]  # tried first
        await run.pass_time(9)
        assert await inbox.wait_for(1) == ["firing: disk"]
        await run.publish(fires("cpu", host="a"))
        await run.pass_time(WAIT)
        await inbox.wait_for(2)
        assert inbox.received[1].data["commonLabels"] == {"alertname": "cpu"}


@in_time
async def test_an_invalid_file_is_reported_and_the_old_configuration_stays(tmp_path, caplog):
    path, inbox = tmp_path / "alerts.yaml", Inbox()
    async with watching(path, routing(), {"ops": inbox}) as (run, audit):
        write(path, "route:\n  receiver: opps\nreceivers: []\n")
        run.clock.advance(1)
        [event] = await audit.wait_for(1)
        assert event.topic == "alerts.reload_failed"
        [problem, *_] = event.data["problems"]
        assert (problem["line"], problem["path"]) == (2, "route.receiver")
        assert "receiver 'opps' is not defined" in problem["message"]
        path.unlink()
        run.clock.advance(1)
        await run.publish(fires("disk"))
        await run.pass_time(WAIT)
        assert await inbox.wait_for(1) == ["firing: disk"]
        assert len(audit) == 2
        write(path, routing())  # perhaps at the inode of the deleted one, so that it has to be seen twice
        await run.pass_time(1)
        await run.pass_time(1)
        await until(lambda: audit[-1].topic == "alerts.reloaded")
    assert "keeps its configuration" in caplog.text


@in_time
async def test_a_file_that_was_changed_before_the_sink_was_opened_is_loaded(tmp_path):
    path = tmp_path / "alerts.yaml"
    write(path, routing())
    sink = AlertSink(path)
    write(path, routing("ops", "more"))
    async with attach(InMemoryStream(), sink):
        await until(lambda: set(sink.config.receivers) == {"ops", "more"})


@in_time
async def test_without_watching_a_file_is_reloaded_on_request_only(tmp_path):
    path = tmp_path / "alerts.yaml"
    write(path, routing())
    async with running(path, None, watch=False) as run:
        write(path, routing("ops", "more"))
        await run.pass_time(10)
        assert set(run.sink.config.receivers) == {"ops"}
        await run.sink.reload()
        assert set(run.sink.config.receivers) == {"ops", "more"}
        write(path, "route: 1")
        with pytest.raises(AlertConfigError):
            await run.sink.reload()
        assert set(run.sink.config.receivers) == {"ops", "more"}


@in_time
async def test_the_state_file_cannot_be_changed_by_a_reload(tmp_path):
    path = tmp_path / "alerts.yaml"
    write(path, routing())
    async with running(path, None, watch=False) as run:
        write(path, routing(state="other.db"))
        with pytest.raises(AlertConfigError, match="cannot change while it is in use"):
            await run.sink.reload()


@in_time
async def test_a_reload_with_a_channel_that_cannot_be_opened_changes_nothing(tmp_path):
    path, inbox = tmp_path / "alerts.yaml", Inbox()
    async with watching(path, routing(), {"ops": inbox}) as (run, audit):
        bad = {"name": "bad", "apprise_configs": [{"url": "json://"}]}
        write(path, routing("ops", bad))
        with pytest.raises(ChannelError):
            await run.sink.reload()
        assert audit[-1].topic == "alerts.reload_failed"
        assert set(run.sink.config.receivers) == {"ops"}
        assert set(run.sink.health()) == {"ops[0]"}
        await run.publish(fires("disk"))
        await run.pass_time(WAIT)
        assert await inbox.wait_for(1) == ["firing: disk"]


@in_time
async def test_a_failing_reload_restores_the_channels(tmp_path, apprise):
    path, inbox = tmp_path / "alerts.yaml", Inbox()
    ops = {"name": "ops"}
    async with watching(path, routing(ops, urls({}, name="more"), route=BOTH), {"ops": inbox}) as (run, _):
        await run.publish(fires("disk"))
        await run.pass_time(WAIT)
        await inbox.wait_for(1)
        inbox.refusals = 1  # it gets another rate limit, so it is opened again
        write(path, routing({**ops, "rate_limit": "9/1m"}, urls({}, {}, name="more"), route=BOTH))
        with pytest.raises(OSError, match="no such host"):
            await run.sink.reload()
        assert set(run.sink.health()) == {"ops[0]", "more[0]"}
        await run.publish(fires("cpu"))
        await run.pass_time(WAIT)
        await inbox.wait_for(2)
        await apprise["more[0]"].wait_for(2)


@in_time
async def test_a_channel_that_cannot_be_restored_affects_no_other(tmp_path, apprise, caplog):
    path, inbox = tmp_path / "alerts.yaml", Inbox()
    ops, more = {"name": "ops"}, urls({}, name="more")
    async with watching(path, routing(ops, more, route=BOTH), {"ops": inbox}) as (run, audit):
        inbox.refusals = 2
        write(path, routing({**ops, "rate_limit": "9/1m"}, more, route=BOTH))
        with pytest.raises(OSError, match="no such host"):
            await run.sink.reload()
        await run.publish(fires("disk"))
        await run.pass_time(WAIT)
        await apprise["more[0]"].wait_for(1)
        [error] = [event.data["error"] for event in audit if event.topic == "alerts.failed"]
        assert "removed" in error
        await run.sink.reload()
        await run.pass_time(INTERVAL)
        await inbox.wait_for(1)
    assert "channel ops[0] cannot be reopened: OSError" in caplog.text


@in_time
async def test_channels_of_the_application_replace_those_of_the_file_also_after_a_reload(tmp_path, apprise):
    path, first, second = tmp_path / "alerts.yaml", Inbox(), Inbox()
    async with watching(path, routing(urls({})), {"ops": [first, second]}) as (run, _):
        write(path, routing(urls({}, {})))
        await run.sink.reload()
        await run.publish(fires("disk"))
        await run.pass_time(WAIT)
        for inbox in (first, second):
            assert await inbox.wait_for(1) == ["firing: disk"]
    assert apprise == {}


@in_time
async def test_a_file_that_is_half_written_is_not_taken(tmp_path):
    path, inbox = tmp_path / "alerts.yaml", Inbox()
    async with watching(path, routing(), {"ops": inbox}) as (run, audit):
        text = json.dumps(routing("ops", "more"))
        for size in (len(text) // 2, len(text)):  # in place
            path.write_text(text[:size])
            await run.pass_time(1)
            assert audit == []
        await run.pass_time(1)
        [event] = await audit.wait_for(1)
        assert event.data["receivers"] == ["ops", "more"]


@in_time
async def test_what_a_reload_removes_is_reported(tmp_path, caplog):
    path, inbox = tmp_path / "alerts.yaml", Inbox()
    route = {"routes": [{"receiver": "more", "matchers": ["a=b"]}]}
    async with watching(path, routing("ops", "more", route=route), {"ops": inbox}) as (run, audit):
        write(path, routing())
        await run.sink.reload()
        [event] = await audit.wait_for(1)
        assert event.data["removed"] == ["receiver more", 'route {}/{a="b"}']
    assert "sink alerts no longer has these parts of its configuration: receiver more, route" in caplog.text


@in_time
async def test_a_channel_that_hangs_and_is_replaced_delays_no_other_and_loses_nothing(tmp_path, apprise):
    path, inbox = tmp_path / "alerts.yaml", Inbox()
    apprise["ops[0]"] = old = Inbox(hangs=True)
    async with watching(path, routing(urls({"timeout": "1d"}), "quick"), {"quick": inbox}) as (run, audit):
        await run.publish(fires("disk"))
        await run.pass_time(WAIT)
        await until(lambda: old.attempts == 1)
        apprise["ops[0]"] = new = Inbox()
        config = routing(urls({"timeout": "5s"}), "quick")
        config["route"]["routes"] = [{"receiver": "quick", "matchers": ["alertname=cpu"]}]
        write(path, config)
        run.clock.advance(1)
        await until(lambda: new.calls == ["open", "close"])  # it is tried before the other is removed
        await run.publish(fires("cpu"), fires("ram"))
        await until(lambda: run.clock.advance(0.05) or any(each.topic == "alerts.reloaded" for each in audit))
        assert await new.wait_for(1) == ["firing: disk"]
        await run.pass_time(WAIT)
        assert sorted(await new.wait_for(2)) == ["firing: disk", "firing: ram"]
        assert await inbox.wait_for(1) == ["firing: cpu"]
    assert [event.topic for event in audit if event.topic == "alerts.failed"] == []
