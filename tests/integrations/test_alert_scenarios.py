"""`tests:` of a configuration, replays and comparisons, and explanations."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from codomyrmex.integrations.configuration.problems import ConfigError
from codomyrmex.integrations.notification import (
    Alert,
    AlertConfig,
    AlertEngine,
    Silence,
    load_alert_config,
    parse_matchers,
)
from codomyrmex.integrations.notification.alerts.explain import explain
from codomyrmex.integrations.notification.alerts.replay import compare, read_events, replay
from codomyrmex.integrations.notification.alerts.simulation import TestResult, run_tests
from codomyrmex.streaming import Event, EventType

CONFIG = """\
route:
  receiver: ops
  group_by: [alertname]
  group_wait: 30s
  group_interval: 5m
  repeat_interval: 1h
  routes:
    - receiver: db
      matchers: [team="db"]
      routes:
        - matchers: [severity="info"]
          receiver: nobody
          mute_time_intervals: [night]
          on_unmute: summary
    - receiver: pager
      matchers: [severity="critical"]
      continue: true
    - matchers: [severity=~"critical|error"]
      group_by: [alertname, host]
      group_wait: 10s
receivers:
  - name: ops
    apprise_configs: [{url: "json://127.0.0.1:1"}]
  - name: db
    apprise_configs: [{url: "json://127.0.0.1:2"}]
    fallback: ops
  - name: pager
    apprise_configs: [{url: "json://127.0.0.1:3", rate_limit: 1/10m}]
  - name: nobody
    apprise_configs: [{url: "json://127.0.0.1:4"}]
inhibit_rules:
  - source_matchers: [alertname="down"]
    target_matchers: [severity="info"]
    equal: [host]
time_intervals:
  - name: night
    time_intervals: [{times: [{start_time: "22:00", end_time: "24:00"}]}]
global:
  resolve_timeout: 1d
"""


def configured(*tests: dict[str, Any]) -> AlertConfig:
    return load_alert_config(f"{CONFIG}tests: {json.dumps(tests)}\n")


def result(events: list[Any], expect: list[Any], **more: Any) -> TestResult:
    [each] = run_tests(configured({"events": events, "expect": expect, **more}))
    return each


def fires(at: str = "0s", status: str = "firing", **labels: str) -> dict[str, Any]:
    return {"at": at, "status": status, "labels": {"alertname": "disk", **labels}}


# The tests of a file


@pytest.mark.parametrize(
    "expected",
    [
        {},
        {"receiver": "ops"},
        {"status": "firing"},
        {"reason": "first notification"},
        {"kind": "group"},
        {"group": {"alertname": "disk"}},
        {"firing": 1},
        {"firing": [{"host": "a"}]},
        {"firing": [{"host": "a", "alertname": "disk"}], "resolved": 0},
        {"resolved": []},
    ],
)
def test_a_test_holds_where_what_it_names_is_so(expected):
    assert result([fires(host="a")], [{"at": "30s", **expected}]).passed


@pytest.mark.parametrize(
    "expected",
    [
        {"at": "31s"},
        {"receiver": "db"},
        {"status": "resolved"},
        {"reason": "new alerts added"},
        {"kind": "rate_limit"},
        {"group": {}},
        {"group": {"alertname": "disk", "host": "a"}},
        {"firing": 2},
        {"firing": []},
        {"firing": [{"host": "b"}]},
        {"firing": [{"host": "a"}, {}]},
        {"resolved": [{}]},
    ],
)
def test_a_test_does_not_hold_where_anything_is_otherwise(expected):
    failed = result([fires(host="a")], [{"at": "30s", **expected}])
    assert not failed.passed
    assert "+ at 30s: ops firing (first notification) group alertname=disk firing 1" in failed.report
    assert "- at 3" in failed.report


def test_the_report_has_what_is_missing_and_what_was_not_expected_in_the_order_of_time():
    failed = result(
        [fires(), fires("6m", "resolved"), fires("1s", alertname="cpu")],
        [
            {"at": "30s", "receiver": "ops", "status": "firing", "firing": [{"alertname": "disk"}]},
            {
                "at": "2m",
                "receiver": "db",
                "group": {"alertname": "x"},
                "reason": "new alerts added",
                "kind": "group",
            },
            {"at": "10m30s", "status": "resolved", "resolved": 1},
        ],
    )
    assert failed.report.splitlines() == [
        "  at 30s: ops firing (first notification) group alertname=disk firing 1 resolved 0",
        "+ at 31s: ops firing (first notification) group alertname=cpu firing 1 resolved 0",
        "- at 2m: db (new alerts added) kind group group alertname=x",
        "  at 10m30s: ops resolved (all alerts resolved) group alertname=disk firing 0 resolved 1",
    ]
    assert failed.to_dict() == {
        "name": "test 1",
        "passed": False,
        "line": failed.line,
        "report": failed.report,
    }


def test_a_notification_that_matches_several_expectations_leaves_each_its_own():
    events = [fires(host="a", rack="1"), fires(host="b"), fires(alertname="cpu")]
    assert result(
        events,
        [
            {"at": "30s"},
            {"at": "30s", "group": {"alertname": "disk"}, "firing": [{}, {"host": "a"}]},
        ],
    ).passed
    assert result(
        [fires(host="a", rack="1"), fires(host="a"), fires(rack="1")],
        [{"at": "30s", "firing": [{"host": "a"}, {"rack": "1"}, {"host": "a", "rack": "1"}]}],
    ).passed


def test_nothing_expected_and_nothing_sent_passes():
    calm = result([fires(), fires("10s", "resolved")], [], until="1h")
    assert (calm.passed, calm.report) == (True, "  nothing was expected, and nothing was sent")


def test_a_test_goes_up_to_its_last_line_or_as_far_as_it_says():
    assert result([fires()], [{"at": "30s"}]).passed
    failed = result([fires()], [{"at": "30s"}], until="1h10m")
    assert failed.report.splitlines()[-1].startswith("+ at 1h5m30s: ops firing (repeat interval elapsed)")


def test_events_silences_failing_receivers_and_the_start_are_respected():
    event = {"type": "error", "metadata": {"topic": "jobs", "team": "db", "labels": {"alertname": "slow"}}}
    assert result([{"event": event}], [{"at": "30s", "receiver": "db", "firing": [{"topic": "jobs"}]}]).passed
    silence = {"silence": {"matchers": ["alertname=disk"], "duration": "4m"}}
    assert result([silence, fires()], [{"at": "5m30s", "receiver": "ops"}]).passed
    tried = result(
        [fires(team="db")],
        [{"at": "30s", "receiver": "db"}, {"at": "30s", "receiver": "ops"}],
        failing=["db"],
    )
    assert tried.passed
    assert "NOT DELIVERED" in tried.report
    night = {"start": "2026-01-05T21:59:00", "until": "3h"}
    held = result(
        [fires("50s", team="db", severity="info", host="a")],
        [{"at": "2h1m", "receiver": "nobody", "kind": "quiet_hours"}],
        **night,
    )
    assert held.passed, held.report
    inhibited = [fires(alertname="down", host="a"), fires(team="db", severity="info", host="a")]
    assert result(inhibited, [{"at": "30s", "receiver": "ops"}]).passed
    limited = [fires(severity="critical"), fires("1s", severity="critical", alertname="cpu")]
    assert "kind rate_limit" not in result(limited, [], until="5m").report


def test_the_order_of_the_steps_in_the_file_does_not_matter():
    assert result(
        [fires("6m", "resolved"), fires()], [{"at": "10m30s", "status": "resolved"}, {"at": "30s"}]
    ).passed


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ({"event": {"type": "bogus"}}, "type: must be one of"),
        ({"silence": {"matchers": []}}, "matchers: must not match every alert"),
        ({"silence": {"matchers": ["a=b"], "duration": "0s"}}, "ends_at: must be after starts_at"),
    ],
)
def test_a_step_that_cannot_be_made_is_a_failed_test(step, why):
    failed = result([step], [])
    assert not failed.passed
    assert why in failed.report


def test_each_test_has_its_name_and_its_line(tmp_path):
    path = tmp_path / "x.alerts.yaml"
    path.write_text(f"{CONFIG}tests:\n  - name: calm\n  - events: []\n")
    lines = CONFIG.count("\n")
    shown = [(each.name, each.line) for each in run_tests(load_alert_config(path))]
    assert shown == [("calm", lines + 2), ("test 2", lines + 3)]


# Replays


START = datetime(2026, 1, 5, 12, tzinfo=UTC)


def happened(seconds: float, name: str, **metadata: Any) -> Event:
    labels = {"alertname": name}
    return Event(
        type=EventType.ERROR,
        metadata={"labels": labels, **metadata},
        timestamp=START + timedelta(seconds=seconds),
    )


def recorded(path: Path, *events: Event | str) -> Path:
    path.write_text("\n".join(e if isinstance(e, str) else json.dumps(e.to_dict()) for e in events))
    return path


def test_recorded_events_are_read_in_the_order_of_their_time(tmp_path):
    late, early = happened(60, "late"), happened(0, "early")
    assert read_events(recorded(tmp_path / "e.jsonl", late, "", "  ", early)) == [early, late]


def test_every_line_that_is_not_an_event_is_named(tmp_path):
    path = recorded(
        tmp_path / "e.jsonl",
        '{"type": "error"',
        happened(0, "x"),
        "[]",
        '{"type": "odd"}',
        "1" * 5_000,
        "[" * 100_000,
    )
    with pytest.raises(ConfigError) as caught:
        read_events(path)
    problems = caught.value.problems
    assert [problem.line for problem in problems] == [1, 3, 4, 5, 6]
    assert (problems[0].column, problems[0].file) == (17, str(path))
    assert str(problems[2]).startswith(f"{path}:4: this is not an event: type: must be one of")


@pytest.mark.parametrize("name", ["nowhere.jsonl", "", "latin.jsonl"])
def test_a_file_that_cannot_be_read_is_a_problem(name, tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"the file (cannot be read|is not UTF-8)"):
        read_events(tmp_path / name)


def test_a_replay_returns_what_would_have_been_sent_until_everything_is_resolved():
    config = load_alert_config(CONFIG.replace("1d", "10m"))
    sent = replay(config, [happened(0, "disk"), happened(5, "cpu", status="resolved"), happened(60, "ram")])
    shown = [
        (s.at - START.timestamp(), s.notification.group_labels["alertname"], s.notification.status)
        for s in sent
    ]
    assert shown == [
        (30, "disk", "firing"),
        (90, "ram", "firing"),
        (630, "disk", "resolved"),
        (690, "ram", "resolved"),
    ]
    assert replay(config, []) == []


def test_a_comparison_shows_what_only_one_configuration_would_have_sent():
    old, new = load_alert_config(CONFIG), load_alert_config(CONFIG.replace('team="db"', 'alertname="ram"'))
    events = [happened(0, "disk"), happened(1, "ram")]
    found = compare(replay(old, events), replay(new, events)).to_dict()
    shown = {
        name: {(s["receiver"], s["group_labels"]["alertname"]) for s in sent} for name, sent in found.items()
    }
    assert shown == {"same": {("ops", "disk")}, "only_old": {("ops", "ram")}, "only_new": {("db", "ram")}}
    assert json.loads(json.dumps(found))["only_new"][0]["alerts"] == [{"type": "error", "alertname": "ram"}]
    same = compare(replay(old, events), replay(old, events))
    assert (same.only_old, same.only_new) == ([], [])


# Explanations


def test_an_explanation_is_a_tree_of_all_nodes_with_what_was_seen_and_where_settings_come_from():
    explanation = explain(
        load_alert_config(CONFIG), {"alertname": "disk", "severity": "critical", "host": ""}
    )
    assert explanation.receivers == ["pager", "ops"]
    text = str(explanation)
    assert text.splitlines()[0] == "alertname=disk severity=critical -> pager, ops"
    for line in (
        "+  route, line 2: routes below it match",
        "   -  route.routes[0], line 8: a matcher does not hold",
        '        team="db" does not hold: the label is missing, which is the same as empty',
        "   => route.routes[1], line 15: it matches",
        "        severity=\"critical\" holds: got 'critical'",
        "        group_wait: 30s (from route, line 4)",
        "        group_by: alertname, host (from route.routes[2], line 19)",
        "        resolve_always: false (default)",
    ):
        assert line in text


def test_a_route_behind_one_that_does_not_continue_is_not_visited():
    text = str(explain(load_alert_config(CONFIG), {"team": "db"}))
    assert "not visited: route.routes[0] matches and does not continue" in text
    assert "it matches, and no route below it does" in text


def test_no_labels_at_all_are_explained_too():
    explanation = explain(load_alert_config(CONFIG), {})
    assert str(explanation).startswith("(no labels) -> ops\n")


def test_intervals_are_explained_for_a_time():
    config, labels = load_alert_config(CONFIG), {"team": "db", "severity": "info"}
    notes = {hour: str(explain(config, labels, START.replace(hour=hour).timestamp())) for hour in (12, 23)}
    assert "muted in the interval night, which is off then" in notes[12]
    assert "muted in the interval night, which is on then" in notes[23]
    assert "! muted in the interval night\n" in str(explain(config, labels))


def test_suppression_is_explained():
    config = load_alert_config(CONFIG)
    engine, now = AlertEngine(config), START.timestamp()
    labels = {"alertname": "slow", "severity": "info", "host": "a"}
    engine.observe([Alert({"alertname": "down", "host": "a"}), Alert(labels)], now)
    engine.add_silence(Silence(tuple(parse_matchers("host=a")), now, now + 60, "me", "repairs"))
    text = str(explain(config, labels, now, engine))
    assert 'inhibited by inhibit_rules[0], line 32 while an alert fires that matches alertname="down"' in text
    assert "INHIBITED now by the firing alert alertname=down host=a" in text
    assert "SILENCED now until 2026-01-05T12:01:00.000Z by me (repairs)" in text
    assert "1 of 1 alerts of the group are firing; its next tick is at 2026-01-05T12:00:30.000Z" in text
    for notification in engine.due(now + 30):
        engine.delivered(notification, now + 30)
    later = str(explain(config, {"alertname": "down", "host": "a"}, now + 100, engine))
    assert "ops[0]: not notified about this group yet" in later
    assert "no such group yet" in str(explain(config, {"alertname": "new"}, now, engine))


def test_the_state_of_the_group_is_explained():
    config = load_alert_config(CONFIG)
    engine, now = AlertEngine(config), START.timestamp()
    labels = {"alertname": "disk"}
    engine.observe([Alert(labels)], now)
    [notification] = engine.due(now + 30)
    assert "! ops[0]: a notification is in flight" in str(explain(config, labels, now + 30, engine))
    engine.delivered(notification, now + 31)
    text = str(explain(config, labels, now + 40, engine))
    assert "! ops[0]: last notified at 2026-01-05T12:00:31.000Z; at the next tick: none" in text
    engine.observe([Alert({**labels, "host": "a"})], now + 50)
    assert "at the next tick: new alerts added" in str(explain(config, labels, now + 50, engine))


def test_an_explanation_is_data_too():
    explanation = explain(load_alert_config(CONFIG), {"severity": "critical"}, START.timestamp())
    data = json.loads(json.dumps(explanation.to_dict()))
    assert data["receivers"] == ["pager", "ops"]
    assert data["at"] == "2026-01-05T12:00:00.000Z"
    [db, pager, _] = data["root"]["children"]
    assert db["matchers"] == [{"matcher": 'team="db"', "value": "", "missing": True, "holds": False}]
    assert pager["match"]["settings"][2] == {"name": "group_wait", "value": "30s", "path": "route", "line": 4}
