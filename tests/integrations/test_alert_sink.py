"""`AlertSink`: events of a stream become notifications; what is sent when, and what it tells."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from datetime import datetime
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
    summary_of,
    until,
    urls,
)
from codomyrmex.integrations import DroppedError, PermanentError, RetryableError, attach
from codomyrmex.integrations.logging_monitoring import StreamLogHandler
from codomyrmex.integrations.notification import (
    AlertConfigError,
    AlertEngine,
    AlertSink,
    Silence,
    parse_matchers,
)
from codomyrmex.integrations.notification.alerts.engine_runner import EngineRunner
from codomyrmex.integrations.notification.alerts.messages import NotificationRenderer
from codomyrmex.integrations.notification.alerts.planner import NotificationPlanner
from codomyrmex.streaming import Event, EventType, InMemoryStream, create_event
from codomyrmex.streaming.testing import FakeClock, collect
from helpers import in_time, settle


@pytest.fixture
def apprise(monkeypatch) -> dict[str, Inbox]:
    return instead_of_apprise(monkeypatch)


# What is sent, and when


@in_time
async def test_an_alert_is_notified_after_group_wait_and_again_when_it_is_resolved():
    inbox = Inbox()
    async with running(routing(), {"ops": inbox}) as run:
        await run.publish(fires("disk"))
        await run.pass_time(WAIT - 1)
        assert inbox.received == []
        await run.pass_time(1)
        assert await inbox.wait_for(1) == ["firing: disk"]
        await run.publish(ends("disk"))
        await run.pass_time(INTERVAL)
        assert await inbox.wait_for(2) == ["firing: disk", "resolved: disk"]
        assert await run.sink.groups() == []
    assert inbox.calls == ["open", "close"]


@in_time
async def test_alerts_of_a_group_go_out_together_and_other_groups_apart():
    inbox = Inbox()
    async with running(routing(), {"ops": inbox}) as run:
        await run.publish(*(fires("disk", host=host) for host in "abc"), fires("cpu", host="a"))
        await run.pass_time(WAIT)
        assert sorted(await inbox.wait_for(2)) == ["firing: cpu", "firing: disk disk disk"]
        await run.publish(fires("disk", host="d"))
        await run.pass_time(INTERVAL)
        assert (await inbox.wait_for(3))[2] == "firing: disk disk disk disk"


@in_time
async def test_an_alert_that_is_not_repeated_is_resolved_and_one_that_continues_is_notified_again():
    inbox = Inbox()
    config = routing(route={"repeat_interval": "1h"}, **{"global": {"resolve_timeout": "10m"}})
    async with running(config, {"ops": inbox}) as run:
        for _ in range(14):
            await run.publish(fires("disk"))
            await run.pass_time(INTERVAL)
        assert inbox.summaries == ["firing: disk"] * 2
        for _ in range(3):
            await run.pass_time(INTERVAL)
        assert inbox.summaries[2:] == ["resolved: disk"]


@in_time
async def test_the_event_of_a_channel_has_the_data_of_a_webhook_and_a_stable_title():
    inbox = Inbox()
    async with running(routing(), {"ops": inbox}) as run:
        await run.publish(fires("disk", "9 % left", host="a", severity="critical"))
        await run.pass_time(WAIT)
        await run.publish(ends("disk", host="a", severity="critical"))
        await run.pass_time(INTERVAL)
        await inbox.wait_for(2)
    first, last = inbox.received
    assert first.data["groupLabels"] == {"alertname": "disk"}
    assert first.data["version"] == "4"
    assert first.data["alerts"][0]["annotations"] == {"summary": "9 % left"}
    assert first.metadata["title"] == last.metadata["title"] == "disk"
    assert (first.type, first.metadata["notify_type"]) == (EventType.ERROR, "failure")
    assert (last.type, last.metadata["notify_type"]) == (EventType.MESSAGE, "success")
    assert {last.metadata[name] for name in ("status", "receiver", "channel")} == {
        "resolved",
        "ops",
        "ops[0]",
    }
    assert last.metadata["body"].startswith("1 RESOLVED\n\nRESOLVED at 2026-01-05 12:00:30 UTC, after 30s")


@in_time
async def test_a_channel_that_wants_no_resolved_notices_gets_none(apprise):
    async with running(routing(urls({"send_resolved": False}, {})), None) as run:
        await run.publish(fires("disk"))
        await run.pass_time(WAIT)
        await run.publish(ends("disk"))
        await run.pass_time(INTERVAL)
        await apprise["ops[1]"].wait_for(2)
        assert apprise["ops[0]"].summaries == ["firing: disk"]


@in_time
async def test_notifications_beyond_the_rate_limit_are_combined_into_a_summary(apprise):
    async with running(routing(urls({"rate_limit": "2/1m"})), None) as run:
        await run.publish(*(fires(f"disk{number}") for number in range(5)))
        await run.pass_time(WAIT)
        assert await apprise["ops[0]"].wait_for(2) == ["firing: disk0", "firing: disk1"]
        await run.pass_time(WAIT)
        assert (await apprise["ops[0]"].wait_for(3))[2] == "firing: disk2 disk3 disk4"
    assert apprise["ops[0]"].received[2].metadata["title"] == "ops: several groups of alerts"
    assert apprise["ops[0]"].received[2].data["kind"] == "rate_limit"


@in_time
async def test_each_channel_has_its_own_templates_and_one_that_fails_gives_the_default(apprise, caplog):
    broken = {"title": "{{ 1 // 0 }}", "body": "x", "format": "html"}
    html = {"title": "{{ alerts[0].labels.x }}", "body": "<i>{{ alerts[0].labels.x }}</i>", "format": "html"}
    async with running(routing(urls({}, html, broken)), None) as run:
        await run.publish(fires("disk", labels={"x": "<b> & \n"}))
        await run.pass_time(WAIT)
        for inbox in apprise.values():
            await inbox.wait_for(1)
    plain, own, failed = (inbox.received[0].metadata for _, inbox in sorted(apprise.items()))
    assert (own["title"], own["body"], own["format"]) == ("<b> &", "<i>&lt;b&gt; &amp; \n</i>", "html")
    assert (failed["title"], failed["format"]) == (plain["title"], "text")
    assert failed["body"].startswith(f"{plain['body']}\n\n(a template of this channel failed: ")
    assert "a template of channel ops[2] failed" in caplog.text


# Intake


@in_time
async def test_a_storm_of_one_alert_occupies_one_entry_with_its_start_and_its_latest_state():
    inbox = Inbox()
    async with running(routing(), {"ops": inbox}, buffer_size=1) as run:
        for number in range(1_000):
            run.stream.publish_nowait(fires("disk", f"the {number}."))
        await run.sink.flush()
        await run.pass_time(WAIT)
        await inbox.wait_for(1)
    [event] = inbox.received
    assert [alert["annotations"]["summary"] for alert in event.data["alerts"]] == ["the 999."]
    assert run.attachment.report().sinks["alerts"].dropped == {}


@pytest.mark.parametrize(
    ("story", "end"), [("f r f", ["firing: disk"]), ("f r f r", []), ("r f", ["firing: disk"]), ("f f r", [])]
)
@in_time
async def test_the_last_event_wins_even_if_the_resolving_one_has_another_type(story, end):
    inbox = Inbox()
    async with running(routing(), {"ops": inbox}) as run:
        for step in story.split():
            run.stream.publish_nowait(fires("disk") if step == "f" else ends("disk"))
        await run.sink.flush()
        await run.pass_time(WAIT)
        await run.pass_time(0)
        assert inbox.summaries == end


@in_time
async def test_events_that_do_not_fit_are_counted_and_are_themselves_an_alert():
    inbox = Inbox()
    async with running(routing(), {"ops": inbox}, buffer_size=10) as run:
        for number in range(25):
            run.stream.publish_nowait(fires("disk", host=str(number)))
        await run.sink.flush()
        await run.pass_time(WAIT)
        assert sorted(await inbox.wait_for(2)) == ["firing: AlertsDropped", f"firing:{' disk' * 10}"]
    assert run.attachment.report().sinks["alerts"].dropped == {"queue_full": 15}
    [dropped] = [event for event in inbox.received if event.metadata["title"] == "AlertsDropped"]
    assert "dropped 15 events" in dropped.metadata["body"]


@in_time
async def test_publishers_on_many_threads_lose_nothing():
    inbox = Inbox()

    def publish(who: int) -> None:
        for number in range(200):
            run.stream.publish_nowait(fires("disk", host=f"{who}-{number}"))

    async with running(routing(), {"ops": inbox}) as run:
        threads = [threading.Thread(target=publish, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        await run.sink.flush()
        await run.pass_time(WAIT)
        await until(lambda: sum(len(event.data["alerts"]) for event in inbox.received) == 800)


@in_time
async def test_control_events_and_events_about_the_sink_are_not_alerts():
    inbox = Inbox()
    async with running(routing(), {"ops": inbox}) as run:
        await run.publish(create_event(None, EventType.HEARTBEAT), create_event(None, EventType.CONNECT))
        assert await run.sink.groups() == []


@in_time
async def test_an_event_that_cannot_become_an_alert_delays_no_other(monkeypatch, caplog):
    inbox = Inbox()
    bad = {"starts_at": 1e300, "ends_at": "never", "trace_id": "\ud800", "annotations": {"x": float("nan")}}
    async with running(routing(), {"ops": inbox}) as run:
        await run.publish(fires("odd", object(), **bad), fires("even\ud800\nline"), fires("good"))
        await run.pass_time(WAIT)
        assert len(await inbox.wait_for(3)) == 3
        assert all("\n" not in event.metadata["title"] for event in inbox.received)
        rules = type(run.sink.config.label_rules)
        whole = rules.alert_of
        monkeypatch.setattr(
            rules, "alert_of", lambda self, event: 1 / 0 if event.data == 1 else whole(self, event)
        )
        await run.publish(fires("mistaken", 1), fires("sound"))
        await run.pass_time(WAIT)
        assert (await inbox.wait_for(4))[3] == "firing: sound"
    assert "cannot become an alert: ZeroDivisionError" in caplog.text


@in_time
async def test_a_notification_that_cannot_be_rendered_is_sent_with_what_can_be_rendered(monkeypatch, caplog):
    inbox = Inbox()
    async with running(routing(), {"ops": inbox}) as run:
        whole = NotificationRenderer.message

        def message(renderer: Any, notification: Any, channel: Any) -> Any:
            assert notification.group_labels != {"alertname": "odd"}
            return whole(renderer, notification, channel)

        monkeypatch.setattr(NotificationRenderer, "message", message)
        await run.publish(fires("odd"), fires("good"))
        await run.pass_time(WAIT)
        assert sorted(await inbox.wait_for(2)) == ["firing: good", "firing: odd"]
        [body] = [each.metadata["body"] for each in inbox.received if "cannot be" in each.metadata["body"]]
        assert "FIRING topic=jobs type=error alertname=odd" in body
        assert run.sink.statistics()[:3] == (0, 1, 0)
    assert "cannot render a notification" in caplog.text


@in_time
async def test_a_bug_in_a_step_does_not_end_the_sink(monkeypatch, caplog):
    inbox = Inbox()
    async with running(routing(), {"ops": inbox}) as run:
        await run.publish(fires("disk"))
        steps = []

        def broken(*_: Any) -> None:
            steps.append(1)
            raise ZeroDivisionError

        monkeypatch.setattr(EngineRunner, "step", broken)
        run.clock.advance(WAIT)
        await until(lambda: steps)
        await settle()
        assert len(steps) < 5  # not again and again
        monkeypatch.undo()
        await run.pass_time(1)
        assert await inbox.wait_for(1) == ["firing: disk"]
    assert "sink alerts failed: ZeroDivisionError" in caplog.text


def test_a_sink_shows_its_name_and_no_secrets():
    config = routing({"name": "ops", "apprise_configs": [{"url": "json://user:s3cret@127.0.0.1"}]})
    sink = AlertSink(config, name="mine")
    assert repr(sink) == "<AlertSink mine: 1 receivers>"
    assert "s3cret" not in repr(sink.config)


# Channels


@in_time
async def test_a_hanging_channel_delays_no_other():
    hanging, inbox = Inbox(hangs=True), Inbox()
    async with running(routing(), {"ops": [hanging, inbox]}, drain_timeout=0) as run:
        for number in range(20):
            await run.publish(fires(f"disk{number}"))
        await run.pass_time(WAIT)
        await inbox.wait_for(20)
        assert run.sink.health()["ops[0]"].queued == 19
        [first, *_] = await run.sink.groups()
        assert list(first.in_flight) == ["ops[0]"]


@in_time
async def test_what_does_not_fit_into_the_queue_of_a_channel_has_failed_and_is_sent_again_later(monkeypatch):
    monkeypatch.setattr("codomyrmex.integrations.notification.alerts.channel_dispatcher._QUEUE_SIZE", 2)
    inbox, audit = Inbox(hangs=True), InMemoryStream()
    with collect(audit, "alerts.failed") as failed:
        async with running(routing(), {"ops": inbox}, audit=audit) as run:
            await run.publish(*(fires(f"disk{number}") for number in range(3)))
            await run.pass_time(WAIT)
            await until(lambda: inbox.attempts)
            [event] = await failed.wait_for(1)
            assert event.data["error"] == "the queue of the channel is full: 2 notifications"
            inbox.hangs = False
            # The attempt that hangs has a timeout, and the one without room is sent at the next tick.
            await until(lambda: run.clock.advance(1) or len(inbox.received) >= 3)
            assert sorted(inbox.summaries) == ["firing: disk0", "firing: disk1", "firing: disk2"]


@in_time
async def test_the_fallback_is_notified_when_all_channels_of_a_receiver_have_failed():
    first, second, boss = Inbox(PermanentError("gone")), Inbox(PermanentError("gone")), Inbox()
    config = routing({"name": "ops", "fallback": "boss"}, "boss")
    async with running(config, {"ops": [first, second], "boss": boss}) as run:
        await run.publish(fires("disk"))
        await run.pass_time(WAIT)
        assert await boss.wait_for(1) == ["firing: disk"]
        assert "sent here because ops could not be reached" in boss.received[0].metadata["body"]
        await run.publish(ends("disk"))
        await run.pass_time(INTERVAL)
        assert (await boss.wait_for(2))[1] == "resolved: disk"


@in_time
async def test_one_channel_of_a_receiver_that_delivers_is_enough():
    gone, inbox, boss = Inbox(PermanentError("gone")), Inbox(), Inbox()
    config = routing({"name": "ops", "fallback": "boss"}, "boss")
    async with running(config, {"ops": [gone, inbox], "boss": boss}) as run:
        await run.publish(fires("disk"))
        await run.pass_time(WAIT)
        await inbox.wait_for(1)
        await run.pass_time(0)
        assert boss.received == []


@in_time
async def test_a_channel_that_fails_for_a_while_is_tried_again():
    inbox = Inbox(RetryableError("later"))
    async with running(routing(), {"ops": inbox}) as run:
        await run.publish(fires("disk"))
        await run.pass_time(WAIT)
        await until(lambda: inbox.attempts == 1)
        inbox.error = None
        await run.pass_time(15)
        assert await inbox.wait_for(1) == ["firing: disk"]


@pytest.mark.parametrize("channels", [{"ops": "no sink"}, {"ops": [Inbox(), None]}])
def test_a_channel_that_is_not_a_sink_is_an_error(channels):
    with pytest.raises(TypeError, match=r"channels: 'ops' must have a Sink, got"):
        AlertSink(routing(), channels)


def test_channels_for_an_unknown_receiver_are_an_error():
    with pytest.raises(AlertConfigError, match=r"unknown receiver 'opps'; did you mean ops"):
        AlertSink(routing(), {"opps": Inbox()})


@pytest.mark.parametrize(
    "data",
    [
        "x" * 2**20,
        {"text": ["x" * 2**19] * 2},
        [[]] * 2**14,
        {"x" * 2**19: {"a": "x" * 2**19}},
        [{str(number): number for number in range(2**14)}],
    ],
    ids=["text", "texts", "values", "keys", "mapping"],
)
def test_events_that_wait_for_the_engine_are_bounded_in_bytes(data):
    sink = AlertSink(routing())
    event = create_event(data, labels={"number": 0})
    for _ in range(1_000):
        sink.emit(event)  # takes the place of the one before
    accepted = 1
    with pytest.raises(DroppedError, match="queue_full"):
        while True:
            sink.emit(event.replace(metadata={"labels": {"number": accepted}}))
            accepted += 1
    assert 128 + 20 <= accepted <= 128 + 128  # those that are not weighed, and about 64 MiB


@pytest.mark.parametrize("options", [{"buffer_size": 0}, {"buffer_size": True}, {"drain_timeout": -1}])
def test_numbers_out_of_range_are_errors(options):
    with pytest.raises((ValueError, TypeError)):
        AlertSink(routing(), **options)


def test_an_audit_that_is_not_a_stream_is_an_error():
    with pytest.raises(TypeError, match="audit: must be a Stream"):
        AlertSink(routing(), audit="stream")  # type: ignore[arg-type]


@in_time
async def test_what_a_channel_logs_does_not_become_the_next_alert():
    class Logging(Inbox):
        async def send(self, events: Sequence[Event]) -> None:
            logging.getLogger("somebody").error("notified somebody of %s", summary_of(events[0].data))
            await super().send(events)

    inbox = Logging()
    logger = logging.getLogger("somebody")
    async with running(routing(route={"group_by": []}), {"ops": inbox}) as run:
        handler = StreamLogHandler(run.stream)
        logger.addHandler(handler)
        try:
            logger.error("disk full")
            await run.sink.flush()
            await run.pass_time(WAIT)
            await inbox.wait_for(1)
        finally:
            logger.removeHandler(handler)
    assert (handler.published, handler.suppressed) == (1, 1)


# What it tells


@in_time
async def test_the_audit_has_what_was_notified_suppressed_and_failed():
    inbox, gone, audit = Inbox(), Inbox(PermanentError("no such room")), InMemoryStream()
    inhibit = {"source_matchers": ["alertname=down"], "target_matchers": ["alertname=disk"]}
    config = routing("ops", "other", inhibit_rules=[inhibit])
    config["route"]["routes"] = [{"receiver": "other", "matchers": ["alertname=other"]}]
    with collect(audit) as events:
        async with running(config, {"ops": inbox, "other": gone}, audit=audit) as run:
            await run.publish(fires("down"), fires("disk"), fires("other"))
            await run.pass_time(WAIT)
            await events.wait_for(3)
            for _ in range(3):
                await run.pass_time(INTERVAL)
    audited = {event.topic: event for event in events}
    assert sorted(event.topic or "" for event in events)[-2:] == ["alerts.notified", "alerts.suppressed"]
    assert audited["alerts.notified"].data["group_labels"] == {"alertname": "down"}
    assert audited["alerts.notified"].data["firing"] == 1
    assert audited["alerts.suppressed"].data["reason"] == "inhibited"
    assert audited["alerts.suppressed"].data["labels"]["alertname"] == "disk"
    assert audited["alerts.failed"].data["error"].endswith("no such room")
    assert audited["alerts.failed"].type is EventType.ERROR


@in_time
async def test_a_suppression_is_published_once_per_change_of_its_reason():
    audit = InMemoryStream()
    with collect(audit, "alerts.suppressed") as events:
        async with running(routing(), {"ops": Inbox()}, audit=audit) as run:
            await run.sink.add_silence(silence(run.clock.time() + 3 * INTERVAL))
            await run.publish(fires("disk"))
            await run.pass_time(WAIT)
            await run.pass_time(INTERVAL)
            await run.sink.add_silence(silence(run.clock.time() + 3 * INTERVAL, starts_at=run.clock.time()))
            for _ in range(4):
                await run.pass_time(INTERVAL)
    assert [event.data["reason"] for event in events] == ["silenced"] * 2
    assert len({event.data["by"] for event in events}) == 2


@in_time
async def test_an_audit_into_the_same_stream_does_not_loop():
    inbox, stream = Inbox(), InMemoryStream()
    clock = FakeClock()
    sink = AlertSink(routing(route={"group_by": []}), {"ops": inbox}, clock, audit=stream)
    with collect(stream, "alerts.*") as audit:
        async with attach(stream, sink) as attachment:
            stream.publish_nowait(fires("disk"))
            await sink.flush()
            clock.advance(WAIT)
            await audit.wait_for(1)
            await sink.flush()
            [group] = await sink.groups()
            assert len(group.alerts) == 1
    assert attachment.report().sinks["alerts"].dropped == {"about_itself": 1}


@in_time
async def test_a_running_sink_explains_shows_its_groups_and_its_silences():
    inbox = Inbox()
    async with running(routing(), {"ops": inbox}) as run:
        await run.publish(fires("disk", host="a"))
        explanation = await run.sink.explain({"alertname": "disk"})
        assert explanation.receivers == ["ops"]
        assert "1 of 1 alerts of the group are firing" in str(explanation)
        assert "not notified about this group yet" in str(explanation)
        await run.pass_time(WAIT)
        await inbox.wait_for(1)
        [group] = await run.sink.groups()
        shown = group.to_dict()
        assert shown["notified"] == {"ops[0]": "2026-01-05T12:00:30.000Z"}
        assert shown["next_tick"] == "2026-01-05T12:05:30.000Z"
        assert (shown["status"], shown["labels"]) == ("firing", {"alertname": "disk"})
        assert await run.sink.silences() == []
        assert set(run.sink.health()) == {"ops[0]"}


# Silences


def silence(ends_at: float, matchers: str = "alertname=disk", starts_at: float = 0.0) -> Silence:
    return Silence(tuple(parse_matchers(matchers)), starts_at, ends_at, "me", "maintenance")


@in_time
async def test_a_silence_suppresses_alerts_until_it_is_expired():
    inbox = Inbox()
    async with running(routing(), {"ops": inbox}) as run:
        mine = silence(run.clock.time() + 3_600)
        await run.sink.add_silence(mine)
        await run.publish(fires("disk"), fires("cpu"))
        await run.pass_time(WAIT)
        assert await inbox.wait_for(1) == ["firing: cpu"]
        assert "SILENCED now until" in str(await run.sink.explain({"alertname": "disk"}))
        await run.sink.expire_silence(mine.id)
        await run.pass_time(INTERVAL)
        assert (await inbox.wait_for(2))[1] == "firing: disk"
        with pytest.raises(KeyError):
            await run.sink.expire_silence("unknown")


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999+00:00"])
@in_time
async def test_an_alert_with_an_extreme_time_does_not_suppress_its_group(time):
    inbox = Inbox()
    async with running(routing(route={"group_by": []}), {"ops": inbox}) as run:
        await run.stream.publish(fires("odd", starts_at=time))
        odd = fires("odder").replace(timestamp=datetime.fromisoformat(time.replace("+14", "+00")))
        await run.stream.publish(odd)
        await run.publish(fires("sound"))
        await run.pass_time(WAIT)
        assert await inbox.wait_for(1) == ["firing: odd odder sound"]
        assert run.sink.statistics()[:3] == (0, 0, 0)
        [group] = await run.sink.groups()
        assert all(alert["startsAt"].startswith("2026-01-05T12:00:00") for alert in group.to_dict()["alerts"])


@in_time
async def test_a_receiver_that_delivers_nothing_is_reported_at_the_start_and_at_each_loss(caplog):
    jira = {"project": "P", "issue_type": "Bug"}
    config = routing({"name": "ops", "jira_configs": [jira], "fallback": "boss"}, "boss")
    audit, boss = InMemoryStream(), Inbox()
    with collect(audit) as decisions:
        async with running(config, {"boss": boss}, audit=audit) as run:
            assert "jira_configs deliver nothing here" in caplog.text
            await run.publish(fires("disk"))
            await run.pass_time(WAIT)
            assert await boss.wait_for(1) == ["firing: disk"]
            health = run.sink.health()["ops[0]"]
            assert health.dead == 1
            assert "jira_configs deliver nothing here" in (health.last_error or "")
    [failed] = [event for event in decisions if event.topic == "alerts.failed"]
    assert (failed.data["receiver"], failed.type) == ("ops", EventType.ERROR)


@in_time
async def test_questions_never_delay_a_step():
    async with running(routing(), {"ops": Inbox()}) as run:
        order: list[str] = []
        questions = [asyncio.create_task(run.sink.groups()) for _ in range(50)]
        for task in questions:
            task.add_done_callback(lambda _: order.append("question"))
        await asyncio.sleep(0)
        await run.publish(fires("disk"))
        order.append("step")
        await asyncio.gather(*questions)
        assert order.index("step") < 5


# A clock that is set


class SetClock(FakeClock):
    """A clock that can be set, unlike the time that elapses."""

    offset = 0.0

    def time(self) -> float:
        return super().time() + self.offset


@pytest.mark.parametrize("by", [-86_400.0, 3600.0, 86_400.0])
@in_time
async def test_a_clock_that_is_set_ends_and_delays_nothing(by, caplog, tmp_path):
    inbox, clock = Inbox(), SetClock()
    config = routing(route={"repeat_interval": "1h"}, state=str(tmp_path / "state.db"))
    config["global"]["resolve_timeout"] = "10m"
    async with running(config, {"ops": inbox}, clock=clock) as run:
        await run.publish(fires("disk"))
        await run.pass_time(WAIT)
        assert await inbox.wait_for(1) == ["firing: disk"]
        clock.offset = by
        await run.publish(fires("cpu"))
        await run.pass_time(WAIT)
        assert (await inbox.wait_for(2))[1:] == ["firing: cpu"]  # after its group_wait; disk is still firing
        for _ in range(8):
            await run.publish(fires("disk"))
            await run.pass_time(INTERVAL)
        assert len(inbox.received) == 3  # cpu was not repeated
        assert inbox.summaries[2] == "resolved: cpu"
        [group] = await run.sink.groups()
        assert group.alerts[0].starts_at <= clock.time()
        assert group.next_tick <= clock.time() + INTERVAL
    direction = "back" if by < 0 else "forward"
    assert (
        f"sink alerts: the clock was set {direction} by {abs(by) / 3600:.0f}h".replace("24h", "1d")
        in caplog.text
    )


@in_time
async def test_a_silence_lasts_no_longer_because_the_clock_is_set_back():
    inbox, clock = Inbox(), SetClock()
    async with running(routing(), {"ops": inbox}, clock=clock) as run:
        silence = Silence(tuple(parse_matchers("alertname=disk")), clock.time() - 1, clock.time() + 3600)
        await run.sink.add_silence(silence)
        clock.offset = -86_400.0
        await run.publish(fires("disk"))
        await run.pass_time(WAIT)
        assert inbox.received == []
        await run.pass_time(3600)
        assert await inbox.wait_for(1) == ["firing: disk"]


@in_time
async def test_a_clock_that_is_set_back_between_two_processes_delays_nothing(tmp_path):
    inbox, clock = Inbox(), SetClock()
    config = routing(route={"repeat_interval": "1h"}, state=str(tmp_path / "state.db"))
    config["global"]["resolve_timeout"] = "10m"
    async with running(config, {"ops": inbox}, clock=clock) as run:
        await run.publish(fires("disk"))
        await run.pass_time(WAIT)
        await inbox.wait_for(1)
    clock.offset = -86_400.0
    async with running(config, {"ops": inbox}, clock=clock) as run:
        await run.pass_time(INTERVAL)
        await run.pass_time(INTERVAL)
        assert (await inbox.wait_for(2))[1:] == ["resolved: disk"]


# One alert or group that fails


@in_time
async def test_a_label_that_is_not_unicode_loses_no_other_alert():
    inbox = Inbox()
    route = {"routes": [{"receiver": "ops", "matchers": ['host=~"a.*"']}]}
    async with running(routing(route=route), {"ops": inbox}) as run:
        await run.publish(fires("odd", labels={"host": "a\ud800"}), fires("good", labels={"host": "b"}))
        await run.pass_time(WAIT)
        assert sorted(await inbox.wait_for(2)) == ["firing: good", "firing: odd"]
        assert run.sink.statistics()[:3] == (0, 0, 0)


@in_time
async def test_a_group_or_an_alert_that_fails_affects_no_other(monkeypatch, caplog):
    tick, observe = NotificationPlanner.tick, AlertEngine.observe

    def failing_tick(planner: NotificationPlanner, group: Any, now: float) -> Any:
        due = tick(planner, group, now)
        assert group.labels != {"alertname": "odd group"}
        return due

    def failing_observe(engine: AlertEngine, alerts: Any, now: float) -> None:
        assert alerts[0].labels["alertname"] != "odd alert"
        observe(engine, alerts, now)

    monkeypatch.setattr(NotificationPlanner, "tick", failing_tick)
    monkeypatch.setattr(AlertEngine, "observe", failing_observe)
    inbox = Inbox()
    async with running(routing(), {"ops": inbox}) as run:
        await run.publish(*map(fires, ("first", "odd group", "odd alert", "last")))
        await run.pass_time(WAIT)
        assert sorted(await inbox.wait_for(2)) == ["firing: first", "firing: last"]
        assert run.sink.statistics()[:3] == (0, 0, 2)
    assert "the engine failed with one alert or group, and continues: AssertionError" in caplog.text
