"""`AlertSink.post`: alerts whose state another program tracks, by the rules of Alertmanager's API."""

from __future__ import annotations

import asyncio
import math
import re
from typing import Any

import pytest
from alert_channels import INTERVAL, WAIT, Inbox, ends, fires, routing, running
from codomyrmex.integrations import attach
from codomyrmex.integrations.notification import AlertSink, NotifierRole, load_alert_config
from codomyrmex.integrations.notification.alerts.alert import MAX_TIME, Alert
from codomyrmex.integrations.notification.alerts.engine import AlertEngine
from codomyrmex.streaming import InMemoryStream
from helpers import in_time
from hypothesis import given
from hypothesis import strategies as st

DISK = {"alertname": "disk"}
NOW = 1_795_608_000.0
TIMEOUT = 300.0


def engine_with(*posts: tuple[float, Alert]) -> AlertEngine:
    """Return an engine that has observed alerts at some times."""
    engine = AlertEngine(load_alert_config({"route": {"receiver": "a"}, "receivers": [{"name": "a"}]}))
    for at, alert in posts:
        engine.observe([alert], NOW + at)
    return engine


@in_time
async def test_an_alert_with_an_end_in_the_future_fires_until_then():
    inbox = Inbox()
    async with running(routing(), {"ops": inbox}) as run:
        await run.sink.post([Alert(DISK, {"summary": "full"}, ends_at=run.clock.time() + 2 * INTERVAL)])
        await run.pass_time(WAIT)
        assert inbox.summaries == ["firing: disk"]
        await run.pass_time(INTERVAL)
        assert inbox.summaries == ["firing: disk"]
        await run.pass_time(INTERVAL)
        await run.pass_time(INTERVAL)
        assert inbox.summaries == ["firing: disk", "resolved: disk"]
        assert inbox.received[1].data["alerts"][0]["annotations"] == {"summary": "full"}


@in_time
async def test_an_alert_that_is_posted_again_keeps_its_first_start():
    async with running(routing(), {"ops": Inbox()}) as run:
        started = run.clock.time() - 100
        await run.sink.post([Alert(DISK, starts_at=started + 50)])
        await run.sink.post([Alert(DISK, starts_at=started)])
        await run.sink.post([Alert(DISK)])
        [group] = await run.sink.groups()
        assert [alert.starts_at for alert in group.alerts] == [started]


@in_time
async def test_an_alert_that_was_never_active_and_has_ended_is_ignored():
    async with running(routing(), {"ops": Inbox()}) as run:
        await run.sink.post([Alert(DISK, ends_at=run.clock.time() - 1)])
        assert await run.sink.groups() == []


@in_time
async def test_an_event_resolves_a_posted_alert_with_the_same_labels():
    inbox = Inbox()
    config = routing(labels={"alertname": "alertname"})
    async with running(config, {"ops": inbox}) as run:
        await run.sink.post([Alert(DISK, ends_at=run.clock.time() + 10 * INTERVAL)])
        await run.pass_time(WAIT)
        await run.publish(ends("disk"))
        await run.pass_time(INTERVAL)
        assert inbox.summaries == ["firing: disk", "resolved: disk"]


@pytest.mark.parametrize(
    ("alert", "problem"),
    [
        (Alert({}), "labels: must not be empty"),
        (Alert({"a": ""}), "labels: must not be empty"),
        (Alert(DISK, starts_at=20.0, ends_at=10.0), "ends_at: must not be before starts_at, got 10 and 20"),
    ],
)
@in_time
async def test_a_post_with_an_invalid_alert_changes_nothing(alert, problem):
    async with running(routing(), {"ops": Inbox()}) as run:
        with pytest.raises(ValueError, match=problem):
            await run.sink.post([Alert(DISK), alert])
        assert await run.sink.groups() == []


WRONG: dict[str, Any] = {
    "alert: must be an Alert, got dict": {"labels": DISK},
    "labels: must be a mapping of texts, got {'alertname': 5}": Alert({"alertname": 5}),
    "labels: must be a mapping of texts, got {5: 'disk'}": Alert({5: "disk"}),
    "labels: must be a mapping of texts, got [('a', 'b')]": Alert([("a", "b")]),
    "annotations: must be a mapping of texts, got {'value': 0}": Alert(DISK, {"value": 0}),
    "url: must be text or None, got 7": Alert(DISK, url=7),
    "trace_id: must be text or None, got b'x'": Alert(DISK, trace_id=b"x"),
    "starts_at: must be in seconds since 1970 and before the year 3000, got '2026'": Alert(
        DISK, starts_at="2026"
    ),
    "starts_at: must be in seconds since 1970 and before the year 3000, got nan": Alert(
        DISK, starts_at=math.nan
    ),
    "ends_at: must be in seconds since 1970 and before the year 3000, got inf": Alert(DISK, ends_at=math.inf),
    "ends_at: must be in seconds since 1970 and before the year 3000, got True": Alert(DISK, ends_at=True),
    "alert: must have at most 131,072 characters, got 131,094": Alert(DISK, {"x": "y" * 131_080}),
}


@pytest.mark.parametrize("shared", [False, True])
@in_time
async def test_an_alert_of_the_wrong_types_is_refused_and_affects_no_other(shared, tmp_path):
    config = routing(**({"state": str(tmp_path / "a.db")} if shared else {}))
    async with running(config, {"ops": Inbox()}) as run:
        for problem, alert in WRONG.items():
            with pytest.raises((TypeError, ValueError), match=f"^{re.escape(problem)}"):
                await run.sink.post([Alert(DISK), alert])
        await run.sink.flush()
        assert await run.sink.groups() == []
        await run.sink.post([Alert(DISK, starts_at=-1e12, ends_at=MAX_TIME), Alert({"alertname": "cpu"})])
        await run.sink.flush()
        assert len(await run.sink.alerts()) == 2


@in_time
async def test_empty_labels_and_annotations_are_removed():
    async with running(routing(), {"ops": Inbox()}) as run:
        await run.sink.post([Alert({**DISK, "host": ""}, {"summary": "full", "link": ""})])
        [group] = await run.sink.groups()
        assert group.alerts[0].labels == DISK
        assert group.alerts[0].annotations == {"summary": "full"}


@in_time
async def test_a_sink_that_is_not_open_refuses_posts():
    sink = AlertSink(routing(), {"ops": Inbox()})
    with pytest.raises(RuntimeError, match="it is not open; attach it first"):
        await sink.post([Alert(DISK)])


@in_time
async def test_processes_with_a_shared_state_notify_once_about_what_is_posted_to_both(tmp_path):
    inbox = Inbox()
    config = routing(state=str(tmp_path / "a.db"), route={"group_wait": "20ms"})
    sinks = [AlertSink(config, {"ops": inbox}) for _ in range(2)]
    async with attach(InMemoryStream(), sinks[0]), attach(InMemoryStream(), sinks[1]):
        assert [sink.role for sink in sinks] == [NotifierRole.HOLDER, NotifierRole.STANDBY]
        await asyncio.gather(*(sink.post([Alert(DISK), Alert({"alertname": "cpu"})]) for sink in sinks))
        assert sorted(await inbox.wait_for(2)) == ["firing: cpu", "firing: disk"]
        for sink in sinks:
            await sink.flush()
            assert len(await sink.groups()) == 2
    assert len(inbox.received) == 2


# Merging, by the rules of Alertmanager


def test_an_end_that_is_later_than_the_new_one_is_kept_while_the_alert_fires() -> None:
    engine = engine_with((0, Alert(DISK, ends_at=NOW + 240)), (10, Alert(DISK, ends_at=NOW + 100)))
    assert [alert.ends_at for alert in engine.alerts()] == [NOW + 240]


def test_a_given_end_is_kept_if_it_is_later_than_the_timeout() -> None:
    engine = engine_with((0, Alert(DISK, ends_at=NOW + 2 * TIMEOUT)), (10, Alert(DISK)))
    assert [alert.ends_at for alert in engine.alerts()] == [NOW + 2 * TIMEOUT]


def test_an_end_in_the_past_resolves_at_once() -> None:
    engine = engine_with((0, Alert(DISK, ends_at=NOW + 240)), (20, Alert(DISK, ends_at=NOW + 10)))
    assert [alert.fires(NOW + 20) for alert in engine.alerts()] == [False]


def test_a_new_start_is_used_once_the_alert_has_ended() -> None:
    engine = engine_with(
        (0, Alert(DISK)), (10, Alert(DISK, ends_at=NOW + 10)), (60, Alert(DISK, starts_at=NOW + 55))
    )
    assert [alert.starts_at for alert in engine.alerts()] == [NOW + 55]


def test_a_given_end_survives_a_restart() -> None:
    engine = engine_with((0, Alert(DISK, ends_at=NOW + 7200)), (0, Alert({"alertname": "cpu"})))
    engine.mark_all()
    again = AlertEngine(engine.config, engine.pop_changes())
    again.resume(NOW + 3600, NOW)
    ends_at = {alert.labels["alertname"]: alert.ends_at for alert in again.alerts()}
    assert ends_at == {"disk": NOW + 7200, "cpu": NOW + 3600 + TIMEOUT}


def test_an_alert_of_prometheus_gets_the_time_to_be_posted_again_after_an_outage() -> None:
    engine = engine_with((0, Alert(DISK, ends_at=NOW + 240)))
    engine.mark_all()
    again = AlertEngine(engine.config, engine.pop_changes())
    again.resume(NOW + 3600, NOW)
    assert [alert.ends_at for alert in again.alerts()] == [NOW + 3600 + 240]


@given(
    st.lists(
        st.tuples(
            st.floats(0, 600),
            st.one_of(st.none(), st.floats(-600, 600)),
            st.one_of(st.none(), st.floats(0, 900)),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_while_an_alert_fires_its_start_never_gets_later(posts) -> None:
    engine, now, known = engine_with(), NOW, math.inf
    for pause, start, length in posts:
        now += pause
        [active] = engine.alerts() or [None]
        fired = active is not None and active.fires(now)
        starts_at = None if start is None else now + start
        ends_at = None if length is None else (now if starts_at is None else starts_at) + length
        engine.observe([Alert(DISK, {}, starts_at, ends_at)], now)
        for active in engine.alerts():
            assert active.starts_at <= now
            assert not fired or active.starts_at <= known
            known = active.starts_at


# What identifies a group for other programs


@in_time
async def test_routes_with_equal_matchers_have_the_group_key_of_alertmanager():
    inboxes = {"ops": Inbox(), "log": Inbox()}
    twins = [
        {"receiver": name, "matchers": ['alertname=~"disk}#2/"'], "continue": True} for name in ("ops", "log")
    ]
    config = routing("ops", "log", route={"routes": twins})
    async with running(config, inboxes) as run:
        await run.publish(fires("disk}#2/"))
        await run.pass_time(WAIT)
        keys = {inbox.received[0].data["groupKey"] for inbox in inboxes.values()}
    assert keys == {'{}/{alertname=~"disk}#2/"}:{alertname="disk}#2/"}'}
