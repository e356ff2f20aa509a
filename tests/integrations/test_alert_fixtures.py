"""Dry runs of an alert sink, and the fixtures `alert_sink` and `sent`, which use them."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from alert_channels import WAIT, Inbox, ends, fires, routing, running, urls
from codomyrmex.integrations import attach
from codomyrmex.integrations.notification import AlertConfigError, AlertSink, NotifierRole
from codomyrmex.streaming import InMemoryStream
from codomyrmex.streaming.testing import FakeClock, collect
from helpers import in_time, until

PAGE = Path(__file__).parents[2] / "docs/guides/alerts.md"
HOOK = {"api_url": "http://127.0.0.1:9/hook", "channel": "#ops", "send_resolved": True}
SLACK = {"name": "ops", "slack_configs": [HOOK]}


@in_time
async def test_a_dry_run_logs_and_audits_what_it_would_send(caplog):
    caplog.set_level(logging.INFO)
    inbox, audit = Inbox(), InMemoryStream()
    config = routing("ops", urls({}, name="chat"), route={"routes": [{"receiver": "chat", "continue": True}]})
    with collect(audit) as decisions:
        async with running(config, {"ops": inbox}, audit=audit, dry_run=True) as run:
            assert repr(run.sink) == "<AlertSink alerts: 2 receivers, dry run>"
            await run.publish(fires("disk"))
            await run.pass_time(WAIT)
            await until(lambda: [event for event in decisions if event.topic == "alerts.notified"])
    assert inbox.received == []
    [would] = [event.data for event in decisions if event.topic == "alerts.would_notify"]
    assert (would["receiver"], would["channel"], would["status"]) == ("chat", "chat[0]", "firing")
    assert would["notification"]["alerts"][0]["labels"]["alertname"] == "disk"
    assert "sink alerts: this is a dry run, nothing is sent" in caplog.messages
    assert f"sink alerts would send to chat[0]: {would['title']}" in caplog.messages


@in_time
async def test_a_receiver_that_delivers_nothing_fails_in_a_dry_run_too():
    audit = InMemoryStream()
    jira = {
        "name": "ops",
        "jira_configs": [{"api_url": "http://127.0.0.1:9", "project": "OPS", "issue_type": "Bug"}],
    }
    with collect(audit, "alerts.failed") as failed:
        async with running(routing(jira), {}, audit=audit, dry_run=True) as run:
            await run.publish(fires("disk"))
            await run.pass_time(WAIT)
            await until(lambda: failed)
    assert failed[0].data["channel"] == "ops[0]"


@in_time
async def test_a_dry_run_takes_no_part_in_a_shared_state(tmp_path):
    config, inbox = routing(state=str(tmp_path / "a.db"), route={"group_wait": "10ms"}), Inbox()
    dry = AlertSink(config, {"ops": inbox}, dry_run=True)
    real = AlertSink(config, {"ops": inbox})
    stream = InMemoryStream()
    async with attach(stream, dry), attach(InMemoryStream(), real):
        assert (dry.role, real.role) == (NotifierRole.ALONE, NotifierRole.HOLDER)
        await stream.publish(fires("disk"))
        await dry.flush()
        assert await real.groups() == []
    assert inbox.received == []


async def test_the_fixtures_show_what_would_be_sent(alert_sink, sent):
    async with alert_sink(routing(SLACK)) as alerts:
        await alerts.publish(fires("disk"), fires("cpu"))
        assert sent == []
        await alerts.advance(WAIT)
        assert sorted(each.data["groupLabels"]["alertname"] for each in sent) == ["cpu", "disk"]
        assert {(each.receiver, each.channel, each.status) for each in sent} == {("ops", "ops[0]", "firing")}
        assert all(each.payload["attachments"] for each in sent)
        sent.clear()
        await alerts.publish(ends("disk"))
        await alerts.advance(3600)
        assert [each.status for each in sent] == ["resolved"]


async def test_the_fixture_stops_at_the_tick_of_each_group(alert_sink, sent):
    config = routing(route={"repeat_interval": "1h"})
    async with alert_sink(config, channels={"ops": Inbox()}) as alerts:
        await alerts.publish(fires("disk"))
        await alerts.advance(24 * 3600)
        assert 20 <= len(sent) <= 24
        assert sent[0].body


async def test_the_fixture_reads_a_stream_of_the_application(alert_sink, sent):
    stream = InMemoryStream()
    async with alert_sink(routing(SLACK), stream) as alerts:
        await stream.publish(fires("disk"))
        await alerts.advance(WAIT)
        assert len(sent) == 1
        await stream.publish(fires("waits"))
    assert len(sent) == 1  # what was still waiting at the end does not count


async def test_a_configuration_with_problems_fails_the_test(alert_sink):
    with pytest.raises(AlertConfigError, match="a root route with a receiver is required"):
        alert_sink({"receivers": []})


def test_the_fixture_has_a_clock_of_its_own(alert_sink):
    with pytest.raises(TypeError, match="clock"):
        alert_sink(routing(SLACK), clock=FakeClock())


async def test_the_example_of_the_documentation_passes(alert_sink, sent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alerts.yml").write_text(
        "route: {receiver: payments}\n"
        "receivers: [{name: payments, apprise_configs: [{url: 'json://127.0.0.1:9'}]}]\n",
        encoding="utf-8",
    )
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    [source] = [block for block in blocks if "alert_sink" in block]
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    await namespace["test_a_failing_payment_reaches_the_team"](alert_sink, sent)
