"""`alerts import`: the result is equivalent to the file, and has a comment for each change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from codomyrmex.integrations.cli.app import app
from codomyrmex.integrations.configuration.yaml_output import write_yaml
from codomyrmex.integrations.configuration.yaml_text import read_yaml
from codomyrmex.integrations.notification import (
    AlertConfig,
    AlertConfigError,
    AlertRouter,
    lint,
    load_alert_config,
)
from codomyrmex.integrations.notification.alerts.importing import import_config
from codomyrmex.integrations.notification.channels import UndeliverableChannel
from hypothesis import given, settings
from hypothesis import strategies as st
from receiver_cases import RECEIVERS
from typer.testing import CliRunner

FILE = """# the file of an Alertmanager
global: {smtp_from: a@example.org, smtp_smarthost: 'mail:587', jira_api_url: 'http://h'}
tracing: {endpoint: x}
route:
  receiver: ops
  routes:
    - &db {match: {team: db, zone: }, matchers: [n!=1], receiver: '', mute_time_intervals: [nights]}
    - {<<: *db, match: {y: 012}, continue: y}
    - {matchers: [foo = bar], receiver: tickets, group_wait: 010s}
receivers:
  - name: ops
    labels: {a: b}
    slack_configs:
      - {api_url: 'https://h/', title: "a\\tb", text: "{{ range .Alerts }}\\n  {{ .Status }}\\n{{ end }}\\n"}
  - name: tickets
    jira_configs: [{api_url: 'http://h', project: p, issue_type: t}]
inhibit_rules:
  - {source_match: {a: b}, target_match_re: {c: 'd|e'}, equal: [x]}
time_intervals: [{name: days, time_intervals: [{weekdays: [monday]}]}]
mute_time_intervals:
  - {name: nights, time_intervals: [{times: [{start_time: 00:00, end_time: 06:00}], years: [2030]}]}
---
more: than one document
"""
IMPORTED = """# Converted from alertmanager.yml, without its comments; each change has a comment.
# only the first document of the file is used, not the one that starts here
global:
  smtp_from: "a@example.org"
  smtp_smarthost: "mail:587"
  # `jira_api_url` is left out: accepted, but not used here
# `tracing` is left out: accepted, but not used here
route:
  receiver: ops
  routes:
    # was `match`
    - matchers:
        - 'n!="1"'
        - 'team="db"'
        - 'zone=""'
      # `receiver` is left out: empty, so it is inherited from the parent route
      mute_time_intervals:
        - nights
    # was `match`
    - matchers:
        - 'n!="1"'
        - 'team="db"'
        - 'zone=""'
        - 'y="012"'
      # `receiver` is left out: empty, so it is inherited from the parent route
      mute_time_intervals:
        - nights
      continue: "y"
    - matchers:
        - "foo = bar"
      receiver: tickets
      group_wait: 010s
receivers:
  - name: ops
    # `labels` is left out: accepted, but not used here
    slack_configs:
      - api_url: "https://h/"
        title: "a\\tb"
        text: |
          {{ range .Alerts }}
            {{ .Status }}
          {{ end }}
  - name: tickets
    # left out: jira_configs deliver nothing here; send to JSM with apprise_configs and jira://
    jira_configs: []
inhibit_rules:
  # was `source_match`
  - source_matchers:
      - 'a="b"'
    # was `target_match_re`
    target_matchers:
      - 'c=~"d|e"'
    equal:
      - x
time_intervals:
  - name: days
    time_intervals:
      - weekdays:
          - monday
  # was in `mute_time_intervals`
  - name: nights
    time_intervals:
      - times:
          - start_time: "00:00"
            end_time: "06:00"
        years:
          - 2030
"""


GLOBAL = """global:
  slack_api_url: http://h
  smtp_from: a@example.org
  smtp_smarthost: mail:587
  opsgenie_api_key: k
  telegram_bot_token: 123456789:abcdefghijklmno
"""


def invoke(*args: str) -> Any:
    return CliRunner().invoke(app, ["alerts", *args], env={"COLUMNS": "200", "NO_COLOR": "1"})


def routing_of(config: AlertConfig) -> list[Any]:
    """Return everything that decides how alerts are routed; matchers in any order."""
    names = ("path", "continues", "receiver", "group_by", "group_wait", "repeat_interval", "key", "labels")
    routes: list[Any] = [
        [
            *(getattr(route, name) for name in names),
            sorted(map(str, route.matchers)),
            [each.name for each in route.mute],
        ]
        for route in config.route.walk()
    ]
    rules = [
        (sorted(map(str, each.source)), sorted(map(str, each.target)), each.equal)
        for each in config.inhibit_rules
    ]
    return [routes, rules, list(config.receivers), sorted(config.intervals)]


def imported(folder: Path, text: str) -> tuple[AlertConfig, AlertConfig, str]:
    path = folder / "alertmanager.yml"
    path.write_text(text, encoding="utf-8")
    result = import_config(path, 0)
    return load_alert_config(path), load_alert_config(result), result


def test_import_converts_a_file_with_a_comment_for_each_change(tmp_path: Path) -> None:
    path = tmp_path / "alertmanager.yml"
    path.write_text(FILE, encoding="utf-8")
    result = invoke("import", str(path))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == IMPORTED


def test_an_imported_file_passes_the_check_and_routes_the_same(tmp_path: Path) -> None:
    before, after, text = imported(tmp_path, FILE)
    assert routing_of(after) == routing_of(before)
    own = tmp_path / "own.yaml"
    own.write_text(text, encoding="utf-8")
    result = invoke("check", str(own))
    assert result.exit_code == 0, result.output
    assert "error" not in result.stdout
    assert "lint" not in result.stdout


def with_receivers(cases: list[str]) -> str:
    """Return a file with a receiver for each case, in one line."""
    lines = []
    for number, case in enumerate(cases):
        kind, _, options = case.partition(": ")
        lines.append(f"- {{name: r{number}, {kind}_configs: [{options}]}}\n")
    return f"{GLOBAL}route: {{receiver: r0}}\nreceivers:\n{''.join(lines)}"


def test_every_receiver_is_the_same_after_an_import_and_all_notes_have_a_place(tmp_path: Path) -> None:
    cases = RECEIVERS.strip().splitlines()
    with pytest.raises(AlertConfigError) as caught:
        load_alert_config(with_receivers(cases))
    wrong = {problem.path.partition("]")[0] for problem in caught.value.problems}
    valid = [case for number, case in enumerate(cases) if f"receivers[{number}" not in wrong]
    before, _, result = imported(tmp_path, with_receivers(valid))
    own = tmp_path / "own.yaml"
    own.write_text(result, encoding="utf-8")
    after = load_alert_config(own)
    assert len(after.receivers) == len(before.receivers) > 40
    for name, receiver in before.receivers.items():
        channels = [each for each in receiver.channels if not isinstance(each, UndeliverableChannel)]
        assert list(after.receivers[name].channels) == channels
    found = lint(before, 0)
    assert len(found) > len(valid)
    assert all(each.line is not None and each.column is not None for each in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("route: {receiver: x}\nreceivers: []\n", "receiver 'x' is not defined"),
        ("", "the configuration is empty"),
        ("kind: Secret\napiVersion: v1\n", "Kubernetes manifest"),
        ("a: [", "invalid YAML"),
    ],
)
def test_an_invalid_file_is_not_imported(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.yml"
    path.write_text(text, encoding="utf-8")
    result = invoke("import", str(path))
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.sampled_from(["", "x", "y", "no", "01", "a: b", '"q"', "it's", "#", "\ttab", "ü", "\x7f"])
EXPRESSIONS = st.sampled_from(["x|y", ".*", "[a-z]+", "x.?", ""])
MATCHERS = st.lists(st.sampled_from(["a=x", 'b!="y"', "c =~ x|y", 'a!~"",b=""']), max_size=2)


def routes(children: st.SearchStrategy[list[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"routes": children},
        optional={
            "match": st.dictionaries(NAMES, VALUES, max_size=2),
            "match_re": st.dictionaries(NAMES, EXPRESSIONS, max_size=2),
            "matchers": MATCHERS,
            "receiver": st.sampled_from(["", "a: 1", "no", "two"]),
            "continue": st.sampled_from([True, False, None]),
            "group_by": st.sampled_from([["..."], [], ["a", "b"], None]),
            "group_wait": st.sampled_from(["0s", "1m30s"]),
            "labels": st.dictionaries(NAMES, VALUES, max_size=1),
        },
    )


TREES = st.recursive(st.just([]), lambda children: st.lists(routes(children), max_size=3), max_leaves=8)


@settings(max_examples=20)
@given(tree=TREES, alerts=st.lists(st.dictionaries(NAMES, VALUES), min_size=3, max_size=3))
def test_alerts_take_the_same_routes_after_an_import(
    tmp_path_factory: pytest.TempPathFactory, tree: list[Any], alerts: list[dict[str, str]]
) -> None:
    receivers = [{"name": name} for name in ("a: 1", "no", "two")]
    data = {"route": {"receiver": "two", "routes": tree}, "receivers": receivers}
    text = json.dumps(data, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON is YAML
    before, after, _ = imported(tmp_path_factory.getbasetemp(), text)
    assert routing_of(after) == routing_of(before)
    routers = AlertRouter(before), AlertRouter(after)
    for labels in alerts:
        was, now = (
            [(each.path, each.receiver, each.group_key) for each in router.match(labels)]
            for router in routers
        )
        assert now == was


PLAIN = st.recursive(
    st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=30)
@given(data=st.lists(PLAIN, min_size=1) | st.dictionaries(st.text(), PLAIN, min_size=1))
def test_written_yaml_is_read_as_the_same_data(data: Any) -> None:
    written = write_yaml(data, {"": ["a comment"]})
    yaml = read_yaml(written)
    assert (yaml.problems, yaml.data) == ([], data)
