from __future__ import annotations

import pytest
from alerting import HOUR, MINUTE, config, fires, receiver, run
from codomyrmex.integrations.configuration.matcher_text import parse_matchers
from codomyrmex.integrations.notification import Alert, AlertEngine, Silence
from codomyrmex.integrations.notification.alerts.why import WhyNotNotified, why_not_notified

NOON = 12 * HOUR
RULE = {"source_matchers": ['n="circuit"'], "target_matchers": ['n="orders"'], "equal": ["service"]}


def engine_with(*alerts: Alert, until: float = NOON + 60, of=None, failing=(), steps=()) -> AlertEngine:
    engine = AlertEngine(of or config())
    run(
        engine.config,
        *((NOON, alert) for alert in alerts),
        *steps,
        until=until,
        failing=failing,
        engine=engine,
    )
    return engine


def codes(why: WhyNotNotified) -> list[str]:
    return [cause.code for verdict in why.alerts for cause in verdict.reasons]


def ask(engine: AlertEngine, now: float = NOON + 60, **labels: str) -> WhyNotNotified:
    return why_not_notified(engine, now, labels)


def test_an_inhibited_alert_names_the_alert_that_inhibits_it():
    engine = engine_with(
        fires("circuit", service="orders"), fires("orders", service="orders"), of=config(rules=[RULE])
    )
    why = ask(engine, n="orders")
    [cause] = why.alerts[0].reasons
    assert (cause.code, cause.by) == ("inhibited", "n=circuit service=orders")
    assert why.answer == (
        "a was not notified about n=orders service=orders: "
        "it is inhibited by the firing alert n=circuit service=orders."
    )
    assert not why.alerts[0].notified
    assert ask(engine, service="orders").total == 2  # at least these labels
    assert [verdict.notified for verdict in ask(engine, service="orders").alerts] == [False, True]


def test_labels_that_no_alert_has_are_not_an_alert_and_the_receiver_is_named():
    why = ask(engine_with(fires("disk")), n="cpu")
    assert codes(why) == ["not_an_alert"]
    assert (why.total, why.alerts[0].receiver, why.alerts[0].group) == (0, "a", None)
    assert why.answer.startswith("No alert has the labels n=cpu now")


def test_a_silenced_alert_names_the_silence():
    silence = Silence(parse_matchers('n="disk"'), 0, NOON + HOUR, "ana", "new disk", id="s1")
    engine = AlertEngine(config())
    engine.add_silence(silence)
    run(engine.config, (NOON, fires("disk")), until=NOON + 60, engine=engine)
    [cause] = ask(engine, n="disk").alerts[0].reasons
    assert (cause.code, cause.by, cause.until) == ("silenced", "s1", "1970-01-01T13:00:00.000Z")
    assert cause.text == "it is silenced by ana until 1970-01-01T13:00:00.000Z (new disk): s1"


@pytest.mark.parametrize(
    ("option", "code", "by"),
    [("mute_time_intervals", "muted", "night"), ("active_time_intervals", "not_active", "night")],
)
def test_an_alert_of_a_muted_route_names_the_interval(option: str, code: str, by: str):
    of = config(routes=[{"matchers": ['n="disk"'], option: ["night"]}])
    at = HOUR if code == "muted" else NOON
    engine = AlertEngine(of)
    run(of, (at, fires("disk")), until=at + 60, engine=engine)
    [cause] = ask(engine, at + 60, n="disk").alerts[0].reasons
    assert (cause.code, cause.by) == (code, by)


def test_before_the_group_wait_is_over_its_end_is_named():
    engine = engine_with(fires("disk"), until=NOON + 5)
    [cause] = ask(engine, NOON + 5, n="disk").alerts[0].reasons
    assert (cause.code, cause.until) == ("group_wait", "1970-01-01T12:00:10.000Z")


def test_after_an_inhibition_has_ended_the_next_evaluation_is_named():
    end = Alert({"n": "circuit", "service": "orders"}, ends_at=NOON + 30)
    engine = engine_with(
        fires("circuit", service="orders"),
        fires("orders", service="orders"),
        of=config(rules=[RULE], group_by=["n"]),
        steps=[(NOON + 30, end)],
        until=NOON + 35,
    )
    [cause] = ask(engine, NOON + 35, n="orders").alerts[0].reasons
    assert (cause.code, cause.until) == ("group_interval", "1970-01-01T12:01:10.000Z")
    assert cause.text.endswith("; at the last evaluation, the alert was inhibited")


def test_a_notified_alert_says_when_and_when_it_is_repeated():
    why = ask(engine_with(fires("disk")), n="disk")
    [cause] = why.alerts[0].reasons
    assert why.alerts[0].notified
    assert (cause.code, cause.channel, cause.at, cause.until) == (
        "deduplicated",
        "a[0]",
        "1970-01-01T12:00:10.000Z",
        "1970-01-01T13:00:10.000Z",
    )
    assert why.answer.startswith("Notifications were sent about all of these alerts, such as n=disk: a[0]: ")


def test_a_channel_that_failed_and_its_error_are_named():
    engine = engine_with(fires("disk"), failing=["a"])
    why = why_not_notified(engine, NOON + 60, {"n": "disk"}, errors={"a[0]": "HTTP 500"})
    [cause] = why.alerts[0].reasons
    assert (cause.code, cause.channel) == ("failed", "a[0]")
    assert cause.text == (
        "a[0]: the last notification failed: HTTP 500; the next attempt is at 1970-01-01T12:01:10.000Z"
    )
    assert not why.alerts[0].notified


def test_a_fallback_that_was_notified_counts():
    of = config(receivers=[receiver("a", fallback="b"), receiver("b")])
    why = ask(engine_with(fires("disk"), of=of, failing=["a"]), n="disk")
    assert why.alerts[0].notified
    assert [(cause.code, cause.channel) for cause in why.alerts[0].reasons] == [
        ("failed", "a[0]"),
        ("deduplicated", "b[0]"),
    ]


def test_a_notification_in_flight_and_a_rate_limit_are_named():
    engine = AlertEngine(config())
    engine.observe([fires("disk")], NOON)
    engine.due(NOON + 10)
    assert codes(ask(engine, NOON + 11, n="disk")) == ["in_flight"]

    channel = {"url": "json://127.0.0.1", "rate_limit": "1/1h"}
    of = config(receivers=[receiver("a", channel)], group_by=["n"])
    engine = engine_with(fires("disk"), fires("cpu"), of=of)
    assert sorted(codes(ask(engine, n="disk")) + codes(ask(engine, n="cpu"))) == [
        "deduplicated",
        "rate_limited",
    ]


def test_a_receiver_without_channels_is_named():
    engine = engine_with(fires("disk"), of=config(receivers=[{"name": "nobody"}]))
    assert codes(ask(engine, n="disk")) == ["no_channel"]


def test_a_resolved_alert_says_when_it_was_resolved():
    engine = engine_with(
        fires("disk"), steps=[(NOON + 20, Alert({"n": "disk"}, ends_at=NOON + 20))], until=NOON + 30
    )
    assert codes(ask(engine, NOON + 30, n="disk"))[0] == "resolved"


def test_all_alerts_of_a_group_are_explained_up_to_a_limit():
    alerts = [fires("disk", host=str(number)) for number in range(30)]
    engine = engine_with(*alerts, fires("cpu"), of=config(group_by=["n"]), until=NOON + 5)
    [key] = [group.key for group in engine.groups() if group.labels == {"n": "disk"}]
    why = why_not_notified(engine, NOON + 5, {}, key, limit=4)
    assert (len(why.alerts), why.total, why.to_dict()["has_more"]) == (4, 30, True)
    assert why.answer.endswith(" There was no notification about 30 of 30 alerts: 30 group_wait.")
    assert "No group {}:{x} has an alert" in why_not_notified(engine, NOON, {}, "{}:{x}").answer
    with pytest.raises(ValueError, match="at least one label, or a group, is required"):
        why_not_notified(engine, MINUTE, {"n": ""})
