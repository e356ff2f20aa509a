"""What the alert engine does beyond Alertmanager: quiet hours, rates, fallbacks, bounds, reloading."""

from __future__ import annotations

from typing import Any

import pytest
from alerting import DAY, HOUR, MINUTE, channel, config, ends, fires, line, lines, receiver, run
from codomyrmex.integrations.notification import (
    Alert,
    AlertConfig,
    AlertConfigError,
    AlertEngine,
    Notification,
    Sent,
    Silence,
    load_alert_config,
    parse_matchers,
    simulate,
)
from codomyrmex.integrations.notification.alerts.simulation import Step

SEVEN = 7 * HOUR  # when the night ends; second 0 is midnight


def night(on_unmute: str = "summary", **options: Any) -> AlertConfig:
    route = {"mute_time_intervals": ["night"], "on_unmute": on_unmute, "group_by": ["app"]}
    return config(routes=[route], **options)


def silenced(matchers: str, until: float) -> Step:
    return lambda engine, now: engine.add_silence(Silence(tuple(parse_matchers(matchers)), now, until))


def gone(engine: AlertEngine) -> bool:
    """Return whether nothing is kept but the log."""
    return not engine.alerts() and not engine.groups() and engine.next_deadline() is None


def test_a_rate_limited_alert_is_not_sent_once_it_is_silenced():
    receiver = {"name": "x", "rate_limit": "1/1m", "apprise_configs": [{"url": "json://127.0.0.1:9/"}]}
    config = load_alert_config(
        {"route": {"receiver": "x", "group_by": ["..."], "group_wait": "0s"}, "receivers": [receiver]}
    )
    steps = [
        (0.0, Alert({"n": "1"})),
        (1.0, Alert({"n": "2"})),
        (2.0, silenced('n="2"', 10_000)),
    ]
    assert [sent.notification.group_labels["n"] for sent in simulate(config, steps, 290)] == ["1"]


# Quiet hours


def test_one_summary_for_the_route_comes_when_the_quiet_hours_end() -> None:
    steps = [
        (HOUR, fires("x", app="1")),
        (2 * HOUR, fires("y", app="2")),
        (3 * HOUR, fires("z", app="3")),
        (4 * HOUR, ends("z", app="3")),
    ]
    engine = AlertEngine(night())
    sent = run(engine.config, *steps, until=8 * HOUR - 1, engine=engine)
    assert sent[0] == "25200 a (quiet_hours): first notification: x y, end of z"
    assert all("repeat" in each for each in sent[1:])
    sent = run(
        engine.config,
        (8 * HOUR, ends("x", app="1")),
        (8 * HOUR, ends("y", app="2")),
        until=9 * HOUR,
        engine=engine,
    )
    assert [each.partition(": ")[2] for each in sent if "end" in each] == [
        "all alerts resolved: end of x",
        "all alerts resolved: end of y",
    ]
    assert gone(engine)


def test_it_is_one_summary_also_where_a_group_ticks_at_the_very_end() -> None:
    steps = [(HOUR, fires("x", app="1")), (HOUR + 5, fires("y", app="2"))]
    sent = run(night(group_wait="0s"), *steps, until=SEVEN + 30)
    assert sent == ["25200 a (quiet_hours): first notification: x y"]


@pytest.mark.parametrize("late", [0.0, 3.0, 45.0])
def test_it_is_one_summary_also_if_due_is_called_late(late: float) -> None:
    engine = AlertEngine(night())
    run(
        engine.config,
        (HOUR, fires("x", app="1")),
        (HOUR + 5, fires("y", app="2")),
        until=SEVEN - 70,
        engine=engine,
    )
    sent = lines(Sent(SEVEN + late, each) for each in engine.due(SEVEN + late))
    assert sent == [f"{SEVEN + late:g} a (quiet_hours): first notification: x y"]


def test_with_drop_only_what_still_fires_is_sent_at_the_next_tick() -> None:
    steps = [(HOUR, fires("x", app="1")), (2 * HOUR, fires("z", app="3")), (3 * HOUR, ends("z", app="3"))]
    assert run(night("drop"), *steps, until=SEVEN + MINUTE) == ["25210 a: first notification: x"]


def test_an_alert_sent_before_the_night_is_resolved_in_the_summary() -> None:
    evening = 22 * HOUR - MINUTE
    steps = [(evening, fires("x")), (23 * HOUR, ends("x"))]
    assert run(night(), *steps, until=DAY + SEVEN + HOUR) == [
        "79150 a: first notification: x",
        "111600 a (quiet_hours): all alerts resolved: end of x",
    ]


def test_an_alert_already_sent_that_still_fires_is_not_in_the_summary() -> None:
    steps = [(22 * HOUR - MINUTE, fires("x")), (23 * HOUR, fires("y"))]
    sent = run(night(), *steps, until=DAY + SEVEN)
    assert sent[1:] == ["111600 a (quiet_hours): new alerts added: y"]


def test_with_resolve_always_a_resolution_sent_during_a_mute_is_not_sent_again() -> None:
    steps = [(22 * HOUR - MINUTE, fires("x")), (23 * HOUR, ends("x")), (23 * HOUR, fires("y", app="2"))]
    assert run(night(resolve_always=True), *steps, until=DAY + SEVEN + MINUTE) == [
        "79150 a: first notification: x",
        "82810 a: all alerts resolved: end of x",
        "111600 a (quiet_hours): first notification: y",
    ]


def test_what_was_silenced_in_the_meantime_is_not_part_of_the_summary() -> None:
    steps = [(HOUR, fires("x")), (HOUR, fires("y")), (2 * HOUR, silenced("n=x", 8 * HOUR))]
    assert run(night(), *steps, until=8 * HOUR)[0] == "25200 a (quiet_hours): first notification: y"
    assert run(night(), *steps[::2], until=8 * HOUR + MINUTE) == ["28810 a: first notification: x"]


def test_without_send_resolved_a_summary_has_no_resolved_alerts() -> None:
    silent = [receiver("a", channel(send_resolved=False))]
    steps = [(HOUR, fires("x")), (HOUR, fires("y")), (2 * HOUR, ends("x"))]
    engine = AlertEngine(night(receivers=silent))
    assert run(engine.config, *steps, until=SEVEN, engine=engine) == [
        "25200 a (quiet_hours): first notification: y"
    ]
    engine = AlertEngine(night(receivers=silent))
    assert run(engine.config, *steps[::2], until=SEVEN + HOUR, engine=engine) == []
    assert gone(engine)


def test_a_summary_that_is_lost_is_tried_again_at_the_ticks_and_not_for_ever() -> None:
    engine = AlertEngine(night(repeat_interval="10m", group_interval="5m"))
    late = [(SEVEN - 600, fires("y")), (SEVEN - 360, ends("y"))]
    steps = [(HOUR, fires("x")), (2 * HOUR, ends("x")), *late]
    assert run(engine.config, *steps, until=DAY / 2, engine=engine, failing=["a"]) == [
        "25200 a (quiet_hours): first notification: end of x y, lost",
        "25210 a (quiet_hours): first notification: end of y, lost",  # x is over for longer than a repetition
        "25510 a (quiet_hours): first notification: end of y, lost",
    ]
    assert gone(engine)


def test_a_summary_that_is_lost_and_then_silenced_leaves_nothing() -> None:
    engine = AlertEngine(night())
    steps = [(HOUR, fires("x")), (SEVEN - 600, ends("x")), (SEVEN + 5, silenced("n=x", DAY))]
    sent = run(engine.config, *steps, until=DAY / 2, engine=engine, failing=["a"])
    assert sent == ["25200 a (quiet_hours): first notification: end of x, lost"]
    assert gone(engine)


def test_a_reload_during_a_mute_keeps_pending_alerts() -> None:
    steps = [
        (HOUR, fires("x")),
        (2 * HOUR, ends("x")),
        (3 * HOUR, lambda engine, now: engine.reload(night(), now)),
    ]
    assert run(night(), *steps, until=SEVEN) == ["25200 a (quiet_hours): first notification: end of x"]


# Rates


def limited(rate: str = "2/1m", **options: Any) -> AlertConfig:
    return config(receivers=[receiver("a", channel(rate_limit=rate))], group_by=["n"], **options)


def test_what_is_over_the_rate_becomes_one_summary_and_is_noted_in_the_log() -> None:
    engine = AlertEngine(limited())
    steps = [(0, fires(name)) for name in "vwxyz"]
    assert run(engine.config, *steps, until=60, engine=engine) == [
        "10 a: first notification: v",
        "10 a: first notification: w",
        "40 a (rate_limit): first notification: x y z",
    ]
    assert run(engine.config, *((60, ends(name)) for name in "vwxyz"), until=HOUR, engine=engine) == [
        "70 a: all alerts resolved: end of v",
        "100 a (rate_limit): all alerts resolved: end of w x y z",
    ]
    assert gone(engine)


def test_one_rate_limited_group_is_sent_as_a_group() -> None:
    sent = run(limited("1/1m"), (0, fires("x")), (0, fires("y")), until=100)
    assert sent == ["10 a: first notification: x", "70 a: first notification: y"]


def test_nothing_overtakes_what_is_rate_limited() -> None:
    steps = [(0, fires("x")), (0, fires("y")), (60, fires("z"))]  # z is due when the next turn comes
    sent = run(limited("1/1m"), *steps, until=200)
    assert sent == ["10 a: first notification: x", "70 a (rate_limit): first notification: y z"]


def test_an_alert_that_ends_while_it_is_rate_limited_is_never_sent() -> None:
    engine = AlertEngine(limited("1/10m"))
    sent = run(
        engine.config, (0, fires("x")), (0, fires("y")), (20, ends("y")), until=HOUR - 1, engine=engine
    )
    assert sent == ["10 a: first notification: x"]


def test_the_rate_of_one_channel_holds_no_other_back() -> None:
    both = config(receivers=[receiver("a", channel(rate_limit="1/1m"), channel())], group_by=["n"])
    sent = run(both, (0, fires("x")), (0, fires("y")), until=69)
    assert sent == [
        "10 a: first notification: x",
        "10 a[1]: first notification: x",
        "10 a[1]: first notification: y",
    ]


def test_the_rate_of_a_new_configuration_holds() -> None:
    engine = AlertEngine(limited("1/1h"))
    run(engine.config, (0, fires("x")), until=20, engine=engine)
    engine.reload(limited("1/1s"), 20)
    assert run(engine.config, (20, fires("y")), until=31, engine=engine) == ["30 a: first notification: y"]


# Failures and fallbacks


def chain(**options: Any) -> AlertConfig:
    names = {"a": "b", "b": "c"}
    receivers = [receiver(name, fallback=names[name]) if name in names else receiver(name) for name in "abc"]
    return config(receivers=receivers, **options)


def test_what_was_lost_is_tried_again_at_the_next_tick() -> None:
    engine = AlertEngine(config())
    assert run(engine.config, (0, fires("x")), until=60, failing=["a"], engine=engine) == [
        "10 a: first notification: x, lost"
    ]
    assert run(engine.config, until=100, engine=engine) == ["70 a: first notification: x"]


def test_a_channel_that_always_fails_does_not_keep_resolved_alerts_for_ever() -> None:
    engine = AlertEngine(config(repeat_interval="10m"))
    run(engine.config, (0, fires("x")), until=60, engine=engine)
    sent = run(engine.config, (65, ends("x")), until=HOUR, failing=["a"], engine=engine)
    assert sent == [f"{at} a: all alerts resolved: end of x, lost" for at in range(70, 671, 60)]
    assert gone(engine)


def test_a_channel_that_never_delivered_is_not_sent_the_resolution() -> None:
    engine = AlertEngine(config())
    assert (
        len(run(engine.config, (0, fires("x")), (20, ends("x")), until=HOUR, failing=["a"], engine=engine))
        == 1
    )
    assert gone(engine)


def test_a_fallback_is_notified_once_and_of_the_resolution() -> None:
    steps = [(0, fires("x")), (200, ends("x"))]
    engine = AlertEngine(chain())
    sent = run(engine.config, *steps, until=HOUR, failing=["a"], engine=engine)
    assert [each for each in sent if "lost" not in each] == [
        "10 b: first notification: x",
        "250 b: all alerts resolved: end of x",
    ]
    assert [each for each in sent if "lost" in each] == [
        f"{at} a: first notification: x, lost" for at in (10, 70, 130, 190)
    ]
    assert gone(engine)


def test_fallbacks_have_fallbacks() -> None:
    steps = [(0, fires("x")), (100, ends("x"))]
    sent = run(chain(), *steps, until=HOUR, failing=["a", "b"])
    assert [each for each in sent if " c: " in each] == [
        "10 c: first notification: x",
        "130 c: all alerts resolved: end of x",
    ]


def test_a_fallback_names_the_receiver_that_failed() -> None:
    sent = simulate(chain(), [(0, fires("x"))], 10, failing=["a", "b"])
    assert [(each.notification.receiver, each.notification.fallback_for) for each in sent] == [
        ("a", None),
        ("b", "a"),
        ("c", "b"),
    ]


def test_a_recovered_receiver_is_notified_and_the_fallback_gets_only_the_resolution_of_what_it_was_sent() -> (
    None
):
    engine = AlertEngine(chain())
    run(engine.config, (0, fires("x")), until=60, failing=["a"], engine=engine)
    sent = run(engine.config, (80, fires("y")), (150, ends("x")), (255, ends("y")), until=HOUR, engine=engine)
    assert sent == [
        "70 a: first notification: x",
        "130 a: new alerts added: x y",
        "190 a: some alerts resolved: y, end of x",
        "190 b: all alerts resolved: end of x",
        "310 a: all alerts resolved: end of y",
    ]
    assert gone(engine)


def test_a_fallback_that_was_lost_too_keeps_nothing_once_the_receiver_is_back() -> None:
    engine = AlertEngine(chain())
    run(engine.config, (0, fires("x")), until=60, failing=["a", "b"], engine=engine)
    sent = run(engine.config, (80, fires("y")), (150, ends("x")), (200, fires("z")), until=260, engine=engine)
    assert sent == [
        "70 a: first notification: x",
        "130 a: new alerts added: x y",
        "190 a: some alerts resolved: y, end of x",
        "190 c: all alerts resolved: end of x",
        "250 a: new alerts added: y z",
    ]


def test_a_fallback_without_send_resolved_is_not_notified_again_by_a_resolution() -> None:
    receivers = [receiver("a", fallback="b"), receiver("b", channel(send_resolved=False))]
    engine = AlertEngine(config(receivers=receivers, repeat_interval="2m"))
    run(engine.config, (0, fires("x")), (0, fires("y")), until=60, failing=["a"], engine=engine)
    sent = run(engine.config, (300, ends("x")), until=HOUR, engine=engine)
    assert [each for each in sent if " b: " in each] == []


def test_a_fallback_takes_over_only_when_all_channels_have_failed() -> None:
    engine = AlertEngine(config(receivers=[receiver("a", channel(), channel(), fallback="b"), receiver("b")]))
    engine.observe([fires("x")], 0)
    one, two = engine.due(10)
    engine.failed(one, 11)
    assert engine.due(11) == []
    engine.failed(two, 12)
    assert [each.receiver for each in engine.due(12)] == ["b"]


def test_a_channel_that_is_tried_again_has_not_given_up() -> None:
    engine = AlertEngine(config(receivers=[receiver("a", channel(), channel(), fallback="b"), receiver("b")]))
    engine.observe([fires("x")], 0)
    one, two = engine.due(10)
    engine.failed(one, 11)
    engine.delivered(two, 12)
    engine.observe([fires("y")], 20)
    one, two = engine.due(70)
    engine.failed(two, 71)
    assert engine.due(71) == []
    engine.delivered(one, 72)
    assert engine.due(72) == []


def test_what_the_rate_limit_of_a_fallback_holds_is_not_sent_once_it_has_ended() -> None:
    receivers = [receiver("a", fallback="b"), receiver("b", channel(rate_limit="1/10m"))]
    engine = AlertEngine(config(receivers=receivers, group_by=["n"]))
    steps = [(0, fires("x")), (0, fires("y")), (30, ends("x")), (30, ends("y"))]
    sent = run(engine.config, *steps, until=HOUR, failing=["a"], engine=engine)
    assert [each for each in sent if " b" in each] == [
        "10 b: first notification: x",
        "610 b: all alerts resolved: end of x",
    ]
    assert gone(engine)


# Bounds


def test_alerts_beyond_max_alerts_are_refused_and_that_is_an_alert() -> None:
    engine = AlertEngine(config(max_alerts=2, group_by=["alertname"]))
    sent = simulate(engine.config, [(0, fires(name)) for name in "vwxyz"], 10, engine=engine)
    assert lines(sent) == ["10 a: first notification: v w", "10 a: first notification: -"]
    (dropped,) = sent[1].notification.alerts
    assert dropped.labels["alertname"] == "AlertsDropped"
    assert dropped.annotations["summary"] == "3 new alerts were refused: more than 2 are active (max_alerts)"
    assert (engine.refused, len(engine.alerts())) == (3, 3)


def test_an_active_alert_is_never_refused() -> None:
    engine = AlertEngine(config(max_alerts=1))
    run(engine.config, (0, fires("x")), (1, fires("x")), (2, ends("x")), until=10, engine=engine)
    assert (engine.refused, engine.alerts()) == (0, [])


# A new configuration


def reloaded(new: AlertConfig, *after: tuple[float, Step], until: float = HOUR) -> list[str]:
    """Let x fire at 0, reload another configuration at 30, and go on."""
    return run(
        config(), (0, fires("x")), (30, lambda engine, now: engine.reload(new, now)), *after, until=until
    )


def test_what_a_rate_limit_holds_back_is_sent_once_a_reload_removes_the_limit() -> None:
    engine = AlertEngine(config(group_by=["n"], receivers=[receiver("a", channel(rate_limit="1/1h"))]))
    steps = [(0, fires("x")), (0, fires("y")), (20, lambda engine, now: engine.reload(unlimited, now))]
    unlimited = config(group_by=["n"])
    sent = run(engine.config, *steps, until=60, engine=engine)
    assert sent == ["10 a: first notification: x", "20 a: first notification: y"]


def test_timers_and_the_log_are_kept() -> None:
    assert reloaded(config(), (40, fires("y"))) == [
        "10 a: first notification: x",
        "70 a: new alerts added: x y",
    ]
    early = [(0, fires("x")), (5, lambda engine, now: engine.reload(config(), now))]
    assert run(config(), *early, until=100) == ["10 a: first notification: x"]


def test_a_shorter_interval_holds_at_once() -> None:
    assert reloaded(config(group_interval="5s"), (31, fires("y")), until=60)[1:] == [
        "35 a: new alerts added: x y"
    ]


def test_other_groups_are_notified_as_new_ones() -> None:
    sent = reloaded(config(group_by=["n"]), until=50)
    assert len(sent) == 2
    assert sent[1].endswith("a: first notification: x")


def test_another_receiver_is_notified_of_what_fires_and_the_old_one_of_nothing() -> None:
    new = config(receivers=[receiver("b")])
    assert reloaded(new, (100, ends("x"))) == [
        "10 a: first notification: x",
        "70 b: first notification: x",
        "130 b: all alerts resolved: end of x",
    ]


def test_a_notification_in_flight_counts_when_it_is_delivered_and_is_not_sent_twice() -> None:
    engine = AlertEngine(config())
    engine.observe([fires("x")], 0)
    (notification,) = engine.due(10)
    engine.reload(config(), 20)
    assert engine.due(70) == []
    engine.delivered(notification, 80)
    assert engine.due(140) == []
    assert run(engine.config, (150, ends("x")), until=HOUR, engine=engine) == [
        "200 a: all alerts resolved: end of x"
    ]
    assert gone(engine)


def test_a_notification_in_flight_to_a_removed_channel_changes_nothing() -> None:
    engine = AlertEngine(config())
    engine.observe([fires("x")], 0)
    (notification,) = engine.due(10)
    engine.reload(config(receivers=[receiver("b")]), 20)
    engine.failed(notification, 21)
    assert lines(Sent(70, each) for each in engine.due(70)) == ["70 b: first notification: x"]


def test_a_removed_fallback_is_not_notified() -> None:
    engine = AlertEngine(chain())
    engine.observe([fires("x")], 0)
    engine.failed(engine.due(10)[0], 11)
    engine.reload(config(), 12)
    assert engine.due(12) == []


def test_inhibition_follows_the_new_rules() -> None:
    rules = [{"source_matchers": ["n=x"], "target_matchers": ["n=y"]}]
    assert reloaded(config(rules=rules), (31, fires("y"))) == ["10 a: first notification: x"]


def test_a_bad_configuration_changes_nothing_because_there_is_none() -> None:
    def bad(engine: AlertEngine, now: float) -> None:
        with pytest.raises(AlertConfigError):
            engine.reload(load_alert_config({"route": {"receiver": "x"}}), now)

    assert run(config(), (0, fires("x")), (30, bad), (40, ends("x")), until=HOUR) == [
        "10 a: first notification: x",
        "70 a: all alerts resolved: end of x",
    ]


# Restarts


def test_a_pause_resolves_nothing() -> None:
    engine = AlertEngine(config(resolve_timeout="5m"))
    engine.observe([fires("x"), fires("y")], 0)
    engine.observe([Alert({"n": "y"}, ends_at=5)], 5)
    for pause in (HOUR, 2 * HOUR):  # twice, with nothing heard of x between them
        engine.resume(pause)
    assert {each.labels["n"]: each.fires(2 * HOUR + 1) for each in engine.alerts()} == {"x": True, "y": False}


def killed_while_sending(*before: tuple[float, Step]) -> AlertEngine:
    """Return the engine that continues at second 12 where another one was killed, which had sent at 10."""
    engine = AlertEngine(config(), None)
    for at, step in before:
        step(engine, at) if callable(step) else engine.observe([step], at)
    assert engine.due(10)
    restored = AlertEngine(config(), engine.pop_changes())
    restored.resume(12, 11)
    return restored


def test_what_was_resolved_before_another_process_took_over_is_resolved() -> None:
    engine = killed_while_sending((0, fires("x")))
    assert run(engine.config, (12, ends("x")), until=HOUR, engine=engine) == [
        "12 a: all alerts resolved: end of x"
    ]


def test_what_was_being_sent_is_sent_again_even_if_it_was_sent_before() -> None:
    engine = AlertEngine(config())
    run(engine.config, (0, fires("x")), (20, ends("x")), until=69, engine=engine)
    assert [line.reason for line in engine.due(70)] == ["all alerts resolved"]  # and it is killed
    restored = AlertEngine(config(), engine.pop_changes())
    restored.resume(75, 71)
    assert run(restored.config, (75, fires("x")), until=HOUR, engine=restored) == [
        "75 a: first notification: x",
    ]


def test_the_pending_alerts_of_a_restored_engine_are_sent_when_the_night_ends() -> None:
    engine = AlertEngine(night())
    run(engine.config, (HOUR, fires("x")), (2 * HOUR, ends("x")), until=3 * HOUR, engine=engine)
    restored = AlertEngine(night(), engine.pop_changes())
    assert run(night(), (4 * HOUR, fires("y", app="2")), until=SEVEN, engine=restored) == [
        "25200 a (quiet_hours): first notification: y, end of x"
    ]


def test_a_state_of_another_configuration_is_restored_where_it_applies_and_deleted_elsewhere() -> None:
    engine = AlertEngine(config(routes=[{"matchers": ["n=x"]}], group_by=["n"]))
    run(engine.config, (0, fires("x")), (0, fires("y")), until=20, engine=engine)
    kept = engine.pop_changes()
    restored = AlertEngine(config(group_by=["n"]), kept)
    changes = restored.pop_changes()
    old = next(key for key in kept if key[0] == "group" and "n=" in key[1].partition(":")[0])
    assert changes[old] is None
    assert sorted(key[0] for key, value in changes.items() if value) == ["group"]
    sent = run(restored.config, (30, ends("y")), until=HOUR, engine=restored)
    assert [each.partition(" ")[2] for each in sent] == [
        "a: first notification: x",
        "a: all alerts resolved: end of y",
    ]


def test_after_skip_waits_nothing_waits() -> None:
    engine = AlertEngine(limited("1/1h"))
    engine.observe([fires("x"), fires("y")], 0)
    engine.skip_waits(1)
    sent: list[Notification] = engine.due(1)
    engine.skip_waits(2)
    sent += engine.due(2)
    assert sorted(line(Sent(0, each)) for each in sent) == [
        "0 a: first notification: x",
        "0 a: first notification: y",
    ]
