"""The alert engine as Alertmanager is: groups and timers, the log, inhibition, silences, time intervals."""

from __future__ import annotations

import math
from typing import Any

import pytest
from alerting import DAY, HOUR, MINUTE, channel, config, ends, fires, receiver, run
from codomyrmex.integrations.notification import Alert, AlertEngine, Silence, parse_matchers
from codomyrmex.integrations.notification.alerts.group import reason_to_notify
from codomyrmex.integrations.notification.alerts.notification import LogEntry, Reason
from codomyrmex.integrations.notification.alerts.simulation import Step

# Groups and timers


def test_a_group_is_sent_as_a_whole_after_its_group_wait() -> None:
    assert run(config(), (0, fires("x")), (5, fires("y")), until=30) == ["10 a: first notification: x y"]


def test_a_later_alert_is_sent_with_the_whole_group_at_the_next_tick() -> None:
    sent = run(config(), (0, fires("x")), (11, fires("y")), (75, ends("x")), until=200)
    assert sent == [
        "10 a: first notification: x",
        "70 a: new alerts added: x y",
        "130 a: some alerts resolved: y, end of x",
    ]


def test_groups_are_made_of_the_labels_that_group_by_names() -> None:
    steps = [(0, fires("x", app="1")), (0, fires("y", app="2")), (0, fires("z", app="1")), (0, fires("w"))]
    sent = run(config(group_by=["app"]), *steps, until=30)
    assert sent == [f"10 a: first notification: {names}" for names in ("x z", "y", "w")]
    assert len(run(config(group_by=["..."]), *steps, until=30)) == 4
    assert len(run(config(), *steps, until=30)) == 1


def test_an_alert_that_started_before_the_group_wait_is_sent_at_once() -> None:
    assert run(config(), (100, fires("x", since=80)), until=100) == ["100 a: first notification: x"]
    assert run(config(), (100, fires("x", since=95)), until=109) == []
    assert run(config(), (100, fires("x")), (102, fires("y", since=1)), until=102) == [
        "102 a: first notification: x y"
    ]
    assert run(config(), (100, fires("x")), (102, fires("x", since=1)), until=102) == [
        "102 a: first notification: x"
    ]


def test_an_alert_that_is_resolved_during_the_group_wait_is_never_sent() -> None:
    engine = AlertEngine(config())
    assert run(engine.config, (0, fires("x")), (5, ends("x")), until=200, engine=engine) == []
    assert (engine.alerts(), engine.groups()) == ([], [])


def test_a_repetition_comes_only_at_a_tick() -> None:
    sent = run(config(group_wait="0s", group_interval="3s", repeat_interval="5s"), (0, fires("x")), until=14)
    assert sent == [
        "0 a: first notification: x",
        "6 a: repeat interval elapsed: x",
        "12 a: repeat interval elapsed: x",
    ]


def test_a_group_starts_over_after_its_end() -> None:
    sent = run(config(), (0, fires("x")), (20, ends("x")), (100, fires("x")), until=200)
    assert sent == [
        "10 a: first notification: x",
        "70 a: all alerts resolved: end of x",
        "110 a: first notification: x",
    ]


def test_an_alert_that_fires_and_ends_between_two_ticks_is_only_sent_with_something_else() -> None:
    steps = [(0, fires("x")), (20, fires("y")), (30, ends("y"))]
    assert run(config(), *steps, until=100)[1:] == ["70 a: some alerts resolved: x, end of y"]


def test_changed_annotations_send_nothing() -> None:
    other = Alert({"n": "x"}, {"summary": "worse"})
    assert run(config(), (0, fires("x")), (20, other), until=HOUR) == ["10 a: first notification: x"]


def test_the_last_annotations_and_the_earliest_start_are_sent() -> None:
    engine = AlertEngine(config())
    engine.observe([Alert({"n": "x"}, {"summary": "bad"}, starts_at=5)], 5)
    engine.observe([Alert({"n": "x"}, {"summary": "worse"}, starts_at=7), Alert({"n": "x"}, starts_at=3)], 8)
    (alert,) = engine.due(15)[0].alerts
    assert (alert.annotations, alert.starts_at, alert.ends_at) == ({"summary": "worse"}, 3, None)


def test_an_alert_without_further_events_is_resolved_after_the_timeout() -> None:
    steps = [(0, fires("x")), (100, fires("x"))]
    sent = run(config(resolve_timeout="5m"), *steps, until=HOUR)
    assert sent == ["10 a: first notification: x", "430 a: all alerts resolved: end of x"]


def test_the_end_is_that_of_the_event_or_the_time_of_the_last_one() -> None:
    engine = AlertEngine(config(resolve_timeout="5m"))
    engine.observe([fires("x", since=0), fires("y", since=0)], 0)
    engine.delivered(engine.due(10)[0], 10)
    engine.observe([Alert({"n": "x"}, ends_at=50)], 60)
    ends_at = {each.labels["n"]: (each.starts_at, each.ends_at) for each in engine.due(300)[0].alerts}
    assert ends_at == {"x": (0, 50), "y": (0, 300)}


def test_the_resolution_of_an_unknown_alert_is_ignored() -> None:
    engine = AlertEngine(config())
    assert run(engine.config, (0, ends("x")), until=100, engine=engine) == []
    assert engine.alerts() == []


def test_an_alert_goes_to_each_of_its_routes_with_the_timers_of_each() -> None:
    routes = [
        {
            "matchers": ['n="x"'],
            "receiver": "b",
            "continue": True,
            "group_wait": "1s",
            "group_interval": "20s",
        },
        {"group_interval": "5m"},
    ]
    both = config(receivers=[receiver("a"), receiver("b")], routes=routes)
    sent = run(both, (0, fires("x")), (15, ends("x")), (30, fires("x")), (45, ends("x")), until=HOUR)
    assert sent == [
        "1 b: first notification: x",
        "10 a: first notification: x",
        "21 b: all alerts resolved: end of x",
        "31 b: first notification: x",
        "51 b: all alerts resolved: end of x",
        "310 a: all alerts resolved: end of x",
    ]


def test_an_alert_fires_again_in_a_group_that_has_sent_its_resolution_while_another_has_not() -> None:
    routes = [{"receiver": "b", "continue": True, "group_interval": "20s"}, {"group_interval": "1h"}]
    both = config(receivers=[receiver("a"), receiver("b")], routes=routes)
    engine = AlertEngine(both)
    sent = run(both, (0, fires("x")), (15, ends("x")), (100, fires("x")), until=200, engine=engine)
    assert sent[2:] == ["30 b: all alerts resolved: end of x", "110 b: first notification: x"]
    assert (
        run(both, (201, ends("x")), until=2 * HOUR, engine=engine)[-1]
        == "3610 a: all alerts resolved: end of x"
    )
    assert (engine.alerts(), engine.groups()) == ([], [])


def test_each_channel_of_a_receiver_has_its_own_log() -> None:
    two = config(receivers=[receiver("a", channel(), channel(send_resolved=False))])
    assert run(two, (0, fires("x")), (20, ends("x")), (80, fires("x")), until=100) == [
        "10 a: first notification: x",
        "10 a[1]: first notification: x",
        "70 a: all alerts resolved: end of x",
        "90 a: first notification: x",
        "90 a[1]: first notification: x",
    ]


# The log

A, B, AB, NO = frozenset("a"), frozenset("b"), frozenset("ab"), frozenset[str]()


def entry(firing: frozenset[str], resolved: frozenset[str] = NO) -> LogEntry:
    return LogEntry(firing, resolved, 0, 200)


@pytest.mark.parametrize(
    ("entry_", "firing", "resolved", "now", "with_resolved", "without"),
    [
        (None, A, NO, 0, Reason.FIRST, Reason.FIRST),
        (None, NO, A, 0, Reason.NONE, Reason.NONE),
        (None, A, B, 0, Reason.FIRST, Reason.FIRST),
        (entry(A), AB, NO, 1, Reason.NEW_ALERTS, Reason.NEW_ALERTS),
        (entry(A), B, A, 1, Reason.NEW_ALERTS, Reason.NEW_ALERTS),
        (entry(NO, A), A, NO, 1, Reason.FIRST, Reason.FIRST),
        (entry(A), NO, A, 1, Reason.ALL_RESOLVED, Reason.ALL_RESOLVED),
        (entry(NO, A), NO, A, 999, Reason.NONE, Reason.NONE),
        (entry(AB), A, B, 1, Reason.SOME_RESOLVED, Reason.NONE),
        (entry(AB), A, B, 101, Reason.SOME_RESOLVED, Reason.REPEAT),
        (entry(A, B), A, B, 1, Reason.NONE, Reason.NONE),
        (entry(A), A, NO, 100, Reason.NONE, Reason.NONE),
        (entry(A), A, NO, 101, Reason.REPEAT, Reason.REPEAT),
        (entry(AB), A, NO, 101, Reason.REPEAT, Reason.REPEAT),
    ],
)
def test_the_log_decides_as_alertmanager_does(
    entry_: LogEntry | None,
    firing: frozenset[str],
    resolved: frozenset[str],
    now: float,
    with_resolved: Reason,
    without: Reason,
) -> None:
    both = receiver("a", channel(), channel(send_resolved=False))
    settings = config(receivers=[both], repeat_interval="100s")
    channels = settings.receivers["a"].channels
    reasons = [reason_to_notify(entry_, firing, resolved, now, each, settings.route) for each in channels]
    assert reasons == [with_resolved, without]


def test_without_send_resolved_a_resolution_is_logged_but_not_sent() -> None:
    silent = config(receivers=[receiver("a", channel(send_resolved=False))])
    sent = run(
        silent,
        (0, fires("x")),
        (20, ends("x")),
        (80, fires("x")),
        (85, fires("y")),
        (95, ends("y")),
        until=400,
    )
    assert sent == ["10 a: first notification: x", "90 a: first notification: x y"]


# Inhibition


def rule(source: str, target: str, *equal: str) -> dict[str, Any]:
    return {"source_matchers": [source], "target_matchers": [target], "equal": equal}


CRITICAL = rule("severity=critical", "severity=warning", "app")


def first(*alerts: Alert, **options: Any) -> list[str]:
    """Return the names of the alerts in the first notification."""
    sent = run(config(**options), *((0, alert) for alert in alerts), until=10)
    return sent[0].partition(": first notification: ")[2].split() if sent else []


@pytest.mark.parametrize(
    ("alerts", "sent"),
    [
        ([fires("w", severity="warning", app="1")], ["w"]),
        ([fires("w", severity="warning", app="1"), fires("c", severity="critical", app="1")], ["c"]),
        ([fires("w", severity="warning", app="1"), fires("c", severity="critical", app="2")], ["c", "w"]),
        ([fires("w", severity="warning", app="1"), fires("c", severity="critical")], ["c", "w"]),
        ([fires("w", severity="warning"), fires("c", severity="critical")], ["c"]),
        ([fires("i", severity="info", app="1"), fires("c", severity="critical", app="1")], ["c", "i"]),
    ],
)
def test_a_firing_source_inhibits_targets_with_equal_labels_and_missing_equals_missing(
    alerts: list[Alert], sent: list[str]
) -> None:
    assert first(*alerts, rules=[CRITICAL]) == sent


def test_without_equal_any_source_inhibits_every_target() -> None:
    anywhere = [rule("severity=critical", "severity=warning")]
    assert first(
        fires("w", severity="warning", app="1"), fires("c", severity="critical"), rules=anywhere
    ) == ["c"]


def test_no_alert_inhibits_itself_or_one_like_it() -> None:
    same = [rule("severity=~'.+'".replace("'", '"'), 'severity=~".+"')]
    assert first(fires("x", severity="1"), fires("y", severity="2"), rules=same) == ["x", "y"]


def test_an_inhibited_alert_inhibits_others_but_inhibition_is_not_transitive() -> None:
    chain = [rule("n=x", "n=y"), rule("n=y", "n=z")]
    assert first(fires("x"), fires("y"), fires("z"), rules=chain) == ["x"]
    assert first(fires("x"), fires("z"), rules=chain) == ["x", "z"]


def test_a_source_of_one_side_is_not_hidden_by_one_of_both_sides() -> None:
    # prometheus/alertmanager#5162: both sources have the same equal labels, only one counts for the target.
    both = [rule('kind=~"s|b"', 'kind=~"t|b"', "app")]
    target, one_sided = fires("target", kind="b", app="1"), fires("source", kind="s", app="1")
    two_sided = fires("both", kind="b", app="1", x="1")
    for order in (
        [one_sided, two_sided, target],
        [two_sided, one_sided, target],
        [target, two_sided, one_sided],
    ):
        assert first(*order, rules=both) == ["source"]
    assert first(two_sided, target, rules=both) == ["both", "target"]


def test_the_target_is_sent_at_the_next_tick_after_the_source_has_ended() -> None:
    steps = [
        (0, fires("w", severity="warning")),
        (0, fires("c", severity="critical")),
        (20, ends("c", severity="critical")),
    ]
    assert run(config(rules=[CRITICAL], group_by=["n"]), *steps, until=100) == [
        "10 a: first notification: c",
        "70 a: first notification: w",
        "70 a: all alerts resolved: end of c",
    ]


def test_a_target_that_ends_while_it_is_inhibited_is_not_sent_as_resolved() -> None:
    steps = [
        (0, fires("w", severity="warning")),
        (20, fires("c", severity="critical")),
        (80, ends("w", severity="warning")),
    ]
    sent = run(config(rules=[CRITICAL], group_by=["n"]), *steps, until=HOUR - 1)
    assert sent == ["10 a: first notification: w", "30 a: first notification: c"]


# Silences


def silence(matchers: str, start: float, end: float, **options: str) -> Silence:
    return Silence(tuple(parse_matchers(matchers)), start, end, **options)


def silenced(matchers: str, start: float, end: float) -> Step:
    return lambda engine, _: engine.add_silence(silence(matchers, start, end))


def test_a_silence_suppresses_while_it_is_active_and_no_longer() -> None:
    steps = [(0, silenced("n=x", 5, 100)), (0, fires("x")), (0, fires("y"))]
    sent = run(config(group_by=["n"]), *steps, until=200)
    assert sent == ["10 a: first notification: y", "130 a: first notification: x"]


def test_a_silence_that_is_pending_or_expired_suppresses_nothing() -> None:
    steps = [(0, silenced("n=x", 11, 100)), (0, silenced("n=x", -5, 10)), (0, fires("x"))]
    assert run(config(), *steps, until=10) == ["10 a: first notification: x"]


@pytest.mark.parametrize("matchers", ['n=~".*"', 'n=""', 'a="", n=~"x|"'])
def test_a_silence_that_matches_every_alert_is_refused(matchers: str) -> None:
    with pytest.raises(ValueError, match="must not match every alert"):
        silence(matchers, 0, 1)


def test_a_silence_that_ends_before_it_starts_or_has_no_matchers_is_refused() -> None:
    with pytest.raises(ValueError, match="must be after starts_at"):
        silence("n=x", 2, 1)
    with pytest.raises(ValueError, match="must not match every alert"):
        Silence((), 0, 1)


@pytest.mark.parametrize("now", [0, 10, 20, 30])
def test_an_expired_silence_silences_nothing_any_more_whenever_that_was(now: float) -> None:
    engine = AlertEngine(config())
    engine.add_silence(silence("n=x", 10, 30))
    (key,) = engine.silences
    engine.expire_silence(key, now)
    engine.expire_silence(key, now) if key in engine.silences else None
    assert all(engine.silenced_by({"n": "x"}, at) is None for at in (now, now + 1, 100))
    with pytest.raises(KeyError):
        engine.expire_silence("none", now)


def test_an_expired_silence_is_deleted_after_five_days() -> None:
    engine = AlertEngine(config())
    engine.add_silence(silence("n=x", 0, 10))
    engine.due(5 * DAY)
    assert len(engine.silences) == 1
    engine.due(5 * DAY + HOUR)
    assert engine.silences == {}


def test_a_silence_survives_a_round_trip_through_to_dict() -> None:
    one = silence('n=~"a|b", m!="c"', 0, 1, created_by="me", comment="it hurts")
    assert Silence.from_dict(one.to_dict()) == one
    with pytest.raises(ValueError, match="not a silence"):
        Silence.from_dict({"id": "x"})


# Time intervals: the second 0 is midnight, in the night that lasts to 07:00


def nightly(**options: Any) -> dict[str, Any]:
    return {"routes": [{"mute_time_intervals": ["night"], **options}]}


def test_a_muted_route_sends_nothing_until_the_first_tick_after_the_end() -> None:
    sent = run(config(**nightly(group_interval="7m")), (HOUR, fires("x")), until=8 * HOUR)
    assert sent == ["25450 a: first notification: x"]  # 07:00 is 25200; the ticks are 420 from 3610 on


def test_an_active_interval_is_the_inverse() -> None:
    office = {"routes": [{"active_time_intervals": ["night"]}]}
    assert run(config(**office), (HOUR, fires("x")), until=2 * HOUR) == ["3610 a: first notification: x"]
    assert run(config(**office), (8 * HOUR, fires("x")), until=9 * HOUR) == []


def test_a_mute_holds_also_for_the_time_of_an_active_interval() -> None:
    both = {"routes": [{"active_time_intervals": ["night"], "mute_time_intervals": ["night"]}]}
    assert run(config(**both), (HOUR, fires("x")), (9 * HOUR, fires("y")), until=DAY / 2) == []


def test_a_muted_route_still_consumes_the_alert() -> None:
    routes = [{"mute_time_intervals": ["night"], "matchers": ["n=x"]}, {"matchers": ["n=x"]}]
    assert run(config(routes=routes), (HOUR, fires("x")), until=2 * HOUR) == []


def test_a_mute_is_not_inherited() -> None:
    routes = [{"mute_time_intervals": ["night"], "routes": [{"matchers": ["n=x"]}]}]
    sent = run(config(routes=routes), (HOUR, fires("x")), (HOUR, fires("y")), until=HOUR + MINUTE)
    assert sent == ["3610 a: first notification: x"]


# resolve_always

KEPT_BACK = {
    "inhibition": ((100.0, fires("c", severity="critical")), {"rules": [CRITICAL]}),
    "silence": ((100.0, silenced("n=w", 0, DAY)), {}),
    "mute": ((100.0, fires("o", severity="info")), {}),
}


@pytest.mark.parametrize("how", KEPT_BACK)
@pytest.mark.parametrize("always", [True, False])
def test_the_resolution_of_a_suppressed_alert_is_sent_with_resolve_always_only(
    how: str, always: bool
) -> None:
    step, options = KEPT_BACK[how]
    start = 22 * HOUR - 120 if how == "mute" else 8 * HOUR  # two minutes before the night, or far from it
    routes = [{"matchers": ["severity=warning"], "mute_time_intervals": ["night"]}, {"matchers": ["n=x"]}]
    steps = [(0, fires("w", severity="warning")), step, (300, ends("w", severity="warning"))]
    sent = run(
        config(routes=routes, resolve_always=always, **options),
        *((start + at, what) for at, what in steps),
        until=start + 900,
    )
    assert sent[0].endswith("a: first notification: w")
    assert [each for each in sent if "end of w" in each] == (
        [f"{start + 310:g} a: all alerts resolved: end of w"] if always else []
    )


def test_with_resolve_always_a_suppressed_alert_is_neither_repeated_nor_sent_as_new() -> None:
    steps = [
        (0, fires("x")),
        (0, fires("y")),
        (20, silenced("n=x", 0, 3 * HOUR)),
        (50, ends("y")),
        (4 * HOUR, ends("x")),
    ]
    sent = run(config(resolve_always=True), *steps, until=5 * HOUR)
    assert sent == [
        "10 a: first notification: x y",
        "70 a: some alerts resolved: end of y",
        "10810 a: repeat interval elapsed: x",
        "14410 a: all alerts resolved: end of x",
    ]


def test_with_resolve_always_the_resolution_is_sent_however_long_the_alert_was_suppressed() -> None:
    steps = [(0, fires("x")), (20, silenced("n=x", 0, 2 * DAY)), (DAY, ends("x"))]
    sent = run(config(resolve_always=True), *steps, until=2 * DAY)
    assert sent == ["10 a: first notification: x", "86410 a: all alerts resolved: end of x"]


def test_a_suppressed_alert_is_reported_once_with_the_reason() -> None:
    engine = AlertEngine(config(rules=[CRITICAL], group_by=["n"]))
    engine.observe([fires("w", severity="warning"), fires("c", severity="critical"), fires("s")], 0)
    engine.add_silence(silence("n=s", 0, 100))
    seen = []
    for now in (10, 70, 130, 190):
        for notification in engine.due(now):
            engine.delivered(notification, now)
        seen += [(now, each.labels["n"], each.reason) for each in engine.pop_suppressed()]
        if now == 70:
            engine.observe([Alert({"n": "c", "severity": "critical"}, ends_at=75)], 75)
    assert seen == [(10, "w", "inhibited"), (10, "s", "silenced")]


# Deadlines


def test_without_alerts_nothing_is_due() -> None:
    engine = AlertEngine(config())
    assert (engine.next_deadline(), engine.due(0)) == (None, [])


def test_the_deadline_is_the_next_tick() -> None:
    engine = AlertEngine(config(group_by=["n"]))
    engine.observe([fires("x")], 0)
    engine.observe([fires("y")], 3)
    assert engine.next_deadline() == 10
    engine.due(10)
    assert engine.next_deadline() == 13


def test_a_notification_in_flight_is_not_sent_again() -> None:
    engine = AlertEngine(config())
    engine.observe([fires("x")], 0)
    (notification,) = engine.due(10)
    engine.observe([fires("y")], 20)
    assert engine.due(1000) == []
    engine.delivered(notification, 1010)
    (later,) = engine.due(1060)
    assert (later.reason, len(later.alerts)) == (Reason.NEW_ALERTS, 2)


def test_an_alert_that_ends_while_its_notification_is_in_flight_for_over_a_tick_is_sent_as_resolved() -> None:
    engine = AlertEngine(config(receivers=[receiver("a", channel(), channel())]))
    engine.observe([fires("x")], 0)
    quick, slow = engine.due(10)
    engine.delivered(quick, 11)
    engine.observe([Alert({"n": "x"}, ends_at=20)], 20)
    for end in engine.due(70):
        engine.delivered(end, 71)
    engine.delivered(slow, 80)
    (end,) = engine.due(130)
    assert (end.channel, end.reason, end.status) == ("a[1]", Reason.ALL_RESOLVED, "resolved")


def test_an_alert_that_fires_again_while_its_resolution_is_in_flight_is_not_deleted() -> None:
    engine = AlertEngine(config())
    engine.observe([fires("x")], 0)
    engine.delivered(engine.due(10)[0], 10)
    engine.observe([Alert({"n": "x"}, ends_at=70)], 70)
    (end,) = engine.due(70)
    engine.observe([fires("x")], 70)  # in the same moment
    engine.delivered(end, 70)
    (again,) = engine.due(130)
    assert (again.reason, again.status) == (Reason.FIRST, "firing")


@pytest.mark.parametrize("text", ['alertname!="Watchdog"', 'a!~"b|c"', 'a=~".+"', 'a="", b="c"'])
def test_a_silence_is_accepted_as_in_alertmanager(text):
    Silence(tuple(parse_matchers(text)), 0, 1)


@pytest.mark.parametrize("times", [(5, 1e300), (0, math.inf), (math.nan, 5)])
def test_a_silence_has_times_that_can_be(times):
    with pytest.raises(ValueError, match="must be"):
        Silence(tuple(parse_matchers("a=b")), *times)
