"""Loading a configuration of alert routing: what it becomes, and what is said of each mistake."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.configuration.problems import Problem
from codomyrmex.integrations.configuration.rates import RateLimit
from codomyrmex.integrations.notification import AlertConfig, AlertConfigError, lint, load_alert_config
from codomyrmex.integrations.notification.alerts.config import StateConfig
from codomyrmex.integrations.notification.alerts.config_file import CHANNEL_TYPES
from codomyrmex.integrations.notification.channels import ChannelConfig
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st


def whole(snippet: str) -> str:
    """Add what a configuration needs; behind, so that no position changes."""
    needed = {"route:": "route: {receiver: a}", "receivers:": "receivers: [{name: a}]"}
    keys = {line.partition(" ")[0] for line in snippet.splitlines()}
    return "\n".join([snippet, *(line for key, line in needed.items() if key not in keys), ""])


def load(snippet: str, **environ: str) -> AlertConfig:
    return load_alert_config(whole(snippet), environ=environ)


def problems(source: Any, **environ: str) -> list[Problem]:
    """Load what is wrong and give what is said of it."""
    with pytest.raises(AlertConfigError) as caught:
        load_alert_config(source, environ=environ)
    assert all(str(problem) in str(caught.value) for problem in caught.value.problems)
    return list(caught.value.problems)


# What it becomes

EVERYTHING = """
global: {resolve_timeout: 2m, max_alerts: 500, trace_url: "https://traces/{trace_id}"}
labels: {service: service.name, topic: topic}
state: {url: "redis://:${STATE_PASSWORD:-p@ss}@127.0.0.1/1", name: shop, lease: 5s}
when_away: hold
route:
  receiver: mail
  group_by: [service]
  group_wait: 10s
  group_interval: 1m30s
  repeat_interval: 1d
  resolve_always: true
  labels: {team: ops}
  routes:
    - matchers: ['severity="critical", service=~"api-.*"', 'team != ""']
      match: {code: 500}
      match_re: {region: eu-.+}
      receiver: pager
      continue: true
      group_by: [...]
      mute_time_intervals: [nights]
      on_unmute: summary
    - matchers: ['severity="info"']
      active_time_intervals: [office, nights]
      labels: {team: web, page: "no"}
      resolve_always: false
receivers:
  - name: mail
    rate_limit: 6/1m
    apprise_configs:
      - url: mailto://${USER}:${PASSWORD:-none}@example.org
        send_resolved: false
        title: "{{ status }}"
        body: "<b>{{ status }}</b>"
        format: html
        tags: [a, b]
        timeout: 3s
        rate_limit: 1 / 500ms
      - url: json://127.0.0.1
  - name: pager
    fallback: mail
    apprise_configs: [{url: "json://127.0.0.1/p"}]
inhibit_rules:
  - source_matchers: ['severity="critical"']
    target_matchers: ['severity="warning"']
    equal: [service]
time_intervals:
  - name: nights
    time_intervals:
      - times: [{start_time: 22:00, end_time: 24:00}, {start_time: 00:00, end_time: "07:00"}]
        location: Europe/Vienna
mute_time_intervals:
  - name: office
    time_intervals:
      - {weekdays: ["monday:friday"], months: ["1:6", december], years: [2026], days_of_month: [-1]}
tests:
  - name: it works
    start: 2026-11-25T09:00:00Z
    until: 1h
    failing: [pager]
    events:
      - {labels: {severity: critical}}
      - {at: 1m, event: {topic: a}}
      - {at: 2m, silence: {matchers: ['a="b"'], duration: 1h}}
    expect: [{at: 10s, receiver: mail, status: firing, kind: group, firing: 1, resolved: []}]
"""


@pytest.fixture(scope="module")
def everything() -> AlertConfig:
    return load(EVERYTHING, USER="me")


def test_the_tree_has_its_own_settings_and_the_inherited_ones(everything: AlertConfig) -> None:
    root, pager, info = everything.route.walk()
    assert (root.group_by, root.group_wait, root.group_interval) == (("service",), 10, 90)
    assert (root.repeat_interval, root.on_unmute, root.resolve_always) == (86_400, "drop", True)
    assert [str(matcher) for matcher in pager.matchers] == [
        'severity="critical"',
        'service=~"api-.*"',
        'team!=""',
        'code="500"',
        'region=~"eu-.+"',
    ]
    assert (pager.receiver, pager.continues, pager.group_by, pager.group_wait) == ("pager", True, None, 10)
    assert ([each.name for each in pager.mute], pager.on_unmute) == (["nights"], "summary")
    assert (info.receiver, info.continues, info.mute, info.on_unmute) == ("mail", False, (), "drop")
    assert [each.name for each in info.active] == ["office", "nights"]
    assert (info.resolve_always, dict(info.labels)) == (False, {"team": "web", "page": "no"})
    assert dict(pager.labels) == {"team": "ops"}
    assert pager.origins["group_by"] == "route.routes[0]"
    assert pager.origins["group_wait"] == "route"


def test_the_channels_have_the_environment_in_their_urls_and_the_rate_of_their_receiver(
    everything: AlertConfig,
) -> None:
    first, second = everything.receivers["mail"].channels
    assert (first.name, str(first.url)) == ("mail[0]", "mailto://me:none@example.org")
    assert (first.send_resolved, first.format, first.tags, first.timeout) == (False, "html", ["a", "b"], 3)
    assert [
        (each.rate_limit.count, each.rate_limit.seconds) for each in (first, second) if each.rate_limit
    ] == [
        (1, 0.5),
        (6, 60),
    ]
    assert (second.name, second.send_resolved, second.timeout) == ("mail[1]", True, 10)
    assert everything.receivers["pager"].fallback == "mail"


def test_all_other_settings_are_loaded(everything: AlertConfig) -> None:
    assert (everything.resolve_timeout, everything.max_alerts, everything.when_away) == (120, 500, "hold")
    assert everything.state == StateConfig(Secret("redis://:p@ss@127.0.0.1/1"), "shop", 5.0)
    assert "p@ss" not in repr(everything.state)
    assert everything.label_rules.chosen == {"service": "service.name", "topic": "topic"}
    assert [(rule.equal, rule.path) for rule in everything.inhibit_rules] == [
        (("service",), "inhibit_rules[0]")
    ]
    assert everything.intervals["nights"].holds(datetime(2026, 11, 25, 21, 30, tzinfo=UTC))
    assert everything.tests[0].events[1].at == 60
    assert everything.notes == ()


def test_a_mapping_is_read_like_the_text_it_could_be() -> None:
    config = load_alert_config(
        {
            "route": {"receiver": "a", "routes": ({"match": {"code": 500}},)},
            "receivers": [{"name": "a"}],
        }
    )
    assert str(config.route.children[0].matchers[0]) == 'code="500"'
    assert config.line("route") is None


@pytest.mark.parametrize("state", ["alerts.db", "sqlite:///alerts.db", "{url: alerts.db}"])
def test_the_state_stands_beside_the_configuration(state: str, tmp_path: Path) -> None:
    file = tmp_path / "alerts.yaml"
    file.write_text(whole(f"state: {state}"))
    for path in (file, str(file)):
        config = load_alert_config(path)
        assert config.state == StateConfig(Secret(f"sqlite:///{tmp_path}/alerts.db"))
        assert config.when_away == "send"
    assert list(tmp_path.iterdir()) == [file]  # nothing was opened


@pytest.mark.parametrize(
    ("state", "path", "message"),
    [
        ("3", "state", "must be a path, the URL of a store or a mapping, got int"),
        ("''", "state", "the path or URL must not be empty"),
        ("{url: a.db, name: a b}", "state.name", "must be 1 to 64 of A-Z, a-z, 0-9, - and _, got 'a b'"),
        ("{url: a.db, lease: 0s}", "state.lease", "must be greater than 0, got 0s"),
        ("{url: '${NOWHERE}'}", "state.url", "NOWHERE"),
        ("ftp://host", "state", "the URL must start with sqlite:// or postgresql://"),
        ("{url: a.db, nam: b}", "state.nam", "unknown key nam"),
        ("{name: shop}", "state.url", "the path or URL must not be empty"),
        ("{}", "state.url", "the path or URL must not be empty"),
    ],
)
def test_what_is_wrong_with_a_state_is_said(state: str, path: str, message: str) -> None:
    [problem] = problems(whole(f"state: {state}"))
    assert problem.path == path
    assert message in problem.message


def test_a_text_in_yaml_is_the_text_that_was_written() -> None:
    match = load(
        "route: {receiver: a, routes: [{match: {a: 500, b: yes, c: 22:00, d: 1_000, e: 2026-01-01}}]}"
    )
    values = {each.name: each.value for each in match.route.children[0].matchers}
    assert values == {"a": "500", "b": "yes", "c": "22:00", "d": "1_000", "e": "2026-01-01"}


def test_anchors_and_merge_keys_are_followed_and_own_keys_win() -> None:
    config = load(
        "route:\n  receiver: a\n  routes:\n  - &x {match: {a: b}, group_wait: 1s, group_by: [c]}\n"
        "  - <<: *x\n    group_wait: 2s\n"
    )
    first, second = config.route.children
    assert (first.group_wait, second.group_wait, second.group_by) == (1, 2, ("c",))
    assert first.matchers == second.matchers


def test_a_key_without_a_value_is_the_same_as_no_key() -> None:
    config = load("global:\nroute:\n  receiver: a\n  group_wait:\n  routes:\ninhibit_rules:\n")
    assert (config.route.group_wait, config.route.children) == (30, ())


def test_a_url_can_be_all_from_the_environment() -> None:
    config = load("receivers: [{name: a, apprise_configs: [{url: '${TARGET}'}]}]", TARGET="json://h")
    assert str(config.receivers["a"].channels[0].url) == "json://h"


ALERTMANAGER = """
global:
  smtp_smarthost: 'localhost:25'
  smtp_auth_password: hunter2
  smtp_from: am@example.org
  slack_api_url: https://hooks.slack.com/services/hunter2
  resolve_timeout: 5m
templates: ['/etc/alertmanager/template/*.tmpl']
route:
  group_by: ['alertname', 'cluster']
  receiver: team-X-mails
  routes:
  - match_re: {service: ^(foo1|foo2|baz)$}
    receiver: team-X-pager
    routes:
    - match: {severity: critical}
      receiver: team-X-pager
  - matchers: [owner=~"team-.*"]
    mute_time_intervals: [offhours]
inhibit_rules:
- source_match: {severity: critical}
  target_match_re: {severity: warning|info}
  equal: [alertname]
receivers:
- name: team-X-mails
  email_configs: [{to: 'team-X+alerts@example.org'}]
- name: team-X-pager
  pagerduty_configs: [{routing_key: hunter2}]
  webhook_configs: [{url: 'http://u:hunter2@127.0.0.1/'}]
mute_time_intervals:
- name: offhours
  time_intervals: [{weekdays: ['saturday', sunday]}]
"""


def test_a_whole_alertmanager_yml_loads_and_the_notes_say_what_is_not_used() -> None:
    config = load(ALERTMANAGER)
    assert [route.receiver for route in config.route.walk()] == [
        "team-X-mails",
        "team-X-pager",
        "team-X-pager",
        "team-X-mails",
    ]
    assert [note.path for note in config.notes] == ["templates[0]"]
    [mail] = config.receivers["team-X-mails"].channels
    assert (mail.smarthost, mail.auth_password, mail.from_) == ("localhost:25", "hunter2", "am@example.org")
    pager, hook = config.receivers["team-X-pager"].channels
    assert pager.routing_key == "hunter2"
    assert hook.url == "http://u:hunter2@127.0.0.1/"
    assert "hunter2" not in repr(config)


class PagerConfig(ChannelConfig, kw_only=True, frozen=True):
    key: Secret = Secret()

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.key:
            yield "key", "a key is required"
        yield from super().problems()


@pytest.fixture
def pagers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHANNEL_TYPES, "pager_configs", PagerConfig)


PAGERS = """
receivers:
- name: a
  rate_limit: 6/1m
  pager_configs:
  - {key: "${KEY}", timeout: 3s}
  apprise_configs:
  - {url: json://h}
"""


@pytest.mark.usefixtures("pagers")
def test_another_channel_type_is_an_entry_of_the_registry() -> None:
    config = load(PAGERS, KEY="hunter2")
    pager, apprise = config.receivers["a"].channels
    assert isinstance(pager, PagerConfig)
    assert (pager.name, pager.key, pager.timeout) == ("a[0]", "hunter2", 3)
    assert pager.rate_limit == apprise.rate_limit == RateLimit(6, 60)
    assert apprise.name == "a[1]"
    assert "hunter2" not in repr(config)


@pytest.mark.usefixtures("pagers")
@pytest.mark.parametrize(
    ("channel", "path", "message"),
    [
        ("{key: a, timeout: 0s}", ".timeout", "must be greater than 0"),
        ("{key: a, body: '{{'}", ".body", "TemplateSyntaxError"),
        ("{key: ''}", ".key", "a key is required"),
        ("{key: '${KEY}'}", ".key", "KEY is not set"),
        ("{key: a, name: b}", ".name", "unknown key name"),
        ("3", "", "expected a mapping"),
    ],
)
def test_problems_of_another_channel_type_have_their_position(channel: str, path: str, message: str) -> None:
    (problem, *_) = problems(whole(f"receivers: [{{name: a, pager_configs: [{channel}]}}]"))
    assert problem.path == f"receivers[0].pager_configs[0]{path}"
    assert message in problem.message


@pytest.mark.usefixtures("pagers")
def test_a_receiver_with_only_another_channel_type_delivers() -> None:
    config = load("receivers: [{name: a, pager_configs: [{key: a}]}]")
    assert lint(config, 0) == []


def test_a_matcher_that_two_notations_read_differently_is_noted() -> None:
    (note,) = load("route: {receiver: a, routes: [{matchers: ['a=']}]}").notes
    assert (note.path, note.column) == ("route.routes[0].matchers[0]", 43)
    assert 'write a=""' in note.message


# What is wrong: the § in a text is where the problem stands

ROUTE = "route:\n  receiver: a\n  routes:\n  - "
CHANNEL = "receivers:\n- name: a\n  apprise_configs:\n  - "
TIME = "time_intervals:\n- name: n\n  time_intervals:\n  - "


def _route(text: str, path: str, message: str) -> tuple[str, str, str]:
    return f"{ROUTE}{text}", f"route.routes[0].{path}", message


def _channel(text: str, path: str, message: str) -> tuple[str, str, str]:
    return f"{CHANNEL}{text}", ".".join(filter(None, ("receivers[0].apprise_configs[0]", path))), message


def _time(text: str, path: str, message: str) -> tuple[str, str, str]:
    return f"{TIME}{text}", f"time_intervals[0].time_intervals[0].{path}", message


MISTAKES = {
    # keys and types
    "unknown key": ("§rout: {}\nroute: {receiver: a}", "rout", "unknown key rout; did you mean route?"),
    "unknown key, nothing near": _channel(
        "{url: 'json://h', §qqqqq: 1}", "qqqqq", "allowed here: body, format"
    ),
    "unknown global": ("global: {§smtp_smart_host: a}", "global.smtp_smart_host", "unknown key"),
    "own integration misspelled": (
        "receivers: [{name: a, §aprise_configs: []}]",
        "receivers[0].aprise_configs",
        "apprise_configs?",
    ),
    "list for a mapping": ("route: §[a]", "route", "expected a mapping, got a list"),
    "mapping for a list": ("inhibit_rules: §{name: a}", "inhibit_rules", "expected a list, got a mapping"),
    "text for a list": _route("group_by: §service", "group_by", "expected a list, got text"),
    "list for a text": _channel("{url: 'json://h', tags: [a, §[b]]}", "tags[1]", "expected text, got a list"),
    "text for a truth": _route('continue: §"yes"', "continue", "expected true or false, got text"),
    "number for a truth": _route("resolve_always: §1", "resolve_always", "got a whole number (1)"),
    "truth for a number": ("global: {max_alerts: §true}", "global.max_alerts", "expected a whole number"),
    "wrong choice": _route("on_unmute: §later", "on_unmute", "expected summary or drop"),
    "mapping for a matcher": _route(
        "matchers: [§{a: b}]", "matchers[0]", 'expected a matcher like severity="critical", got a mapping'
    ),
    "no receivers": ("route: {receiver: §x}\nreceivers: []", "route.receiver", "receiver 'x' is not defined"),
    "key twice": (
        "route:\n  receiver: a\n  §receiver: b",
        "route.receiver",
        "receiver is given twice, first on line 2",
    ),
    "key that is no text": ("route:\n  §[a]: b\n  receiver: a", "route", "a key must be text"),
    # names
    "receiver twice": (
        "receivers: [{name: a}, {name: §a}]",
        "receivers[1].name",
        "there are two receivers named 'a'",
    ),
    "receiver without a name": ("receivers: [{name: a}, §{}]", "receivers[1]", "a receiver must have a name"),
    "interval twice": (
        "time_intervals: [{name: n}]\nmute_time_intervals: [{name: §n}]",
        "mute_time_intervals[0].name",
        "two time intervals",
    ),
    "interval without a name": (
        "time_intervals: [§{time_intervals: []}]",
        "time_intervals[0]",
        "a time interval must have a name",
    ),
    "undefined receiver": (
        "route: {receiver: §pagr}\nreceivers: [{name: pager}]",
        "route.receiver",
        "receiver 'pagr' is not defined; did you mean pager?",
    ),
    "undefined interval": _route(
        "mute_time_intervals: [§night]\ntime_intervals: [{name: nights}]",
        "mute_time_intervals[0]",
        "time interval 'night' is not defined; did you mean nights?",
    ),
    "undefined active interval": _route(
        "active_time_intervals: [§x]", "active_time_intervals[0]", "time interval 'x' is not defined"
    ),
    "undefined fallback": (
        "receivers: [{name: a, fallback: §b}]",
        "receivers[0].fallback",
        "receiver 'b' is not defined",
    ),
    "fallback to itself": ("receivers: [{name: a, fallback: §a}]", "receivers[0].fallback", "cycle: a -> a"),
    "label twice": _route("group_by: [a, §a]", "group_by[1]", "a is given twice"),
    "label without a name": _route("group_by: [§'']", "group_by[0]", "the label name is empty"),
    "all labels and others": _route("group_by: §[..., a]", "group_by", "it must be the only item"),
    # durations and rates
    "fraction": _route("group_wait: §1.5s", "group_wait", "write 1500ms and not 1.5s"),
    "number": _route(
        "group_wait: §30", "group_wait", "'30' is not a duration like 30s, 5m or 1h30m; write 30s for seconds"
    ),
    "empty": _route("group_wait: §''", "group_wait", "'' is not a duration"),
    "wrong order": _route("group_wait: §1m1h", "group_wait", "'1m1h' is not a duration"),
    "negative": _route("group_wait: §-1s", "group_wait", "'-1s' is not a duration"),
    "400 digits": _route(f"group_wait: §{'9' * 400}y", "group_wait", "999y' is not a duration"),
    "too long": _route("group_wait: §300y", "group_wait", "longer than 292 years"),
    "zero group_interval": _route("group_interval: §0s", "group_interval", "greater than 0, got 0s"),
    "zero repeat_interval": _route("repeat_interval: §0", "repeat_interval", "greater than 0, got 0s"),
    "zero timeout": _channel("{url: 'json://h', timeout: §0s}", "timeout", "greater than 0, got 0s"),
    "zero resolve_timeout": (
        "global: {resolve_timeout: §0s}",
        "global.resolve_timeout",
        "greater than 0, got 0s",
    ),
    "no alerts at all": ("global: {max_alerts: §0}", "global.max_alerts", "must be at least 1, got 0"),
    "rate of nothing": (
        "receivers: [{name: a, rate_limit: §0/1m}]",
        "receivers[0].rate_limit",
        "'0/1m' is not a rate like 6/1m",
    ),
    "rate without a time": (
        "receivers: [{name: a, rate_limit: §6}]",
        "receivers[0].rate_limit",
        "'6' is not a rate",
    ),
    "rate over no time": (
        "receivers: [{name: a, rate_limit: §6/0s}]",
        "receivers[0].rate_limit",
        "the period must be greater than 0",
    ),
    # matchers: the column is inside
    "bad matcher": _route(
        "matchers:\n    - severity §critical", "matchers[0]", "expected =, !=, =~ or !~ after severity"
    ),
    "second matcher is bad": _route(
        "matchers: [a=b, '{a=b,§,c=d}']", "matchers[1]", "expected a label name, got ','"
    ),
    "regex of Perl": _route(
        'matchers:\n    - a=b, c=~§"(?!x)"', "matchers[0]", "RE2 has neither look-around"
    ),
    "regex that is none": _route("match_re: {a: §'('}", "match_re.a", "not a regular expression of RE2"),
    "label of a matcher without a name": _route("match: {'': §a}", "match.", "the label name is empty"),
    "inhibition": (
        "inhibit_rules: [{target_match_re: {a: §'['}}]",
        "inhibit_rules[0].target_match_re.a",
        "not a regular expression",
    ),
    # the root
    "no route": ("§receivers: [{name: a}]\nroute:", "route", "a root route with a receiver is required"),
    "root without a receiver": ("route: §{group_by: [a]}", "route", "the root needs a receiver"),
    "root with matchers": (
        "route: {receiver: a, matchers: §[a=b]}",
        "route.matchers",
        "root matches every alert",
    ),
    "root with match": (
        "route: {receiver: a, match: §{a: b}}",
        "route.match",
        "root matches every alert",
    ),
    "root that continues": ("route: {receiver: a, continue: §true}", "route.continue", "no siblings"),
    "root that is muted": (
        "route: {receiver: a, mute_time_intervals: §[n]}\ntime_intervals: [{name: n}]",
        "route.mute_time_intervals",
        "never muted",
    ),
    "root that is active": (
        "route: {receiver: a, active_time_intervals: §[n]}\ntime_intervals: [{name: n}]",
        "route.active_time_intervals",
        "never muted",
    ),
    # time
    "over midnight": _time(
        "times: [§{start_time: 22:00, end_time: 07:00}]", "times[0]", "22:00 to 24:00 and 00:00 to 07:00"
    ),
    "no time": _time("times: [§{start_time: 9:00, end_time: 10:00}]", "times[0]", "'9:00' is not a time"),
    "over the weekend": _time(
        "weekdays: [§'friday:monday']", "weekdays[0]", "friday:saturday and sunday:monday"
    ),
    "no day": _time("days_of_month: [§32]", "days_of_month[0]", "'32' is not a day"),
    "no zone": _time("location: §Europe/Vienne", "location", "'Europe/Vienne' is not a time zone"),
    # channels
    "no url": _channel("§{title: a}", "", "a url is required"),
    "no scheme": _channel("url: §example.org", "url", "not an Apprise URL"),
    "missing variable": _channel("url: §json://${HOST_X}/", "url", "variable HOST_X is not set"),
    "open variable": _channel("url: §json://${HOST", "url", "not followed by a name"),
    "template": _channel("{url: 'json://h', title: §'{{ a'}", "title", "line 1: TemplateSyntaxError"),
    # the rest
    "no labels": ("labels: §{}", "labels", "at least one label is required"),
    "labels as text": ("labels: §service", "labels", "expected a mapping, got text"),
    "test of nobody": (
        "tests: [{expect: [{receiver: §b}]}]",
        "tests[0].expect[0].receiver",
        "receiver 'b' is not defined",
    ),
    "test with an empty step": (
        "tests: [{events: [§{at: 1s}]}]",
        "tests[0].events[0]",
        "exactly one of labels, event and silence",
    ),
    "test at no time": ("tests: [{start: §today}]", "tests[0].start", "'today' is not a time like"),
    # no YAML
    "no YAML": ("route: {receiver: a\nreceivers§: []", "", "invalid YAML"),
    "undefined alias": ("route: §*nothing", "", "invalid YAML"),
    "only text": ("§just\ntext", "", "expected a mapping, got text"),
}


@pytest.mark.parametrize(("text", "path", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_problem_has_its_position(text: str, path: str, message: str) -> None:
    before, _, after = text.partition("§")
    raw = text.startswith("§just")
    found = problems(before + after if raw else whole(before + after))
    assert [each.path for each in found] == [path]
    assert message in found[0].message
    if path != "route" or message != "a root route with a receiver is required":
        assert (found[0].line, found[0].column) == (before.count("\n") + 1, len(before.split("\n")[-1]) + 1)


def test_a_cycle_of_fallbacks_is_a_problem_of_each_of_its_members_only() -> None:
    names = {"a": "b", "b": "c", "c": "b"}
    receivers = ", ".join(f"{{name: {name}, fallback: {to}}}" for name, to in names.items())
    found = problems(whole(f"receivers: [{receivers}]"))
    assert [(each.path, each.message.rpartition(": ")[2]) for each in found] == [
        ("receivers[1].fallback", "b -> c -> b"),
        ("receivers[2].fallback", "c -> b -> c"),
    ]


def test_all_problems_are_reported_at_once_in_the_order_of_the_file() -> None:
    found = problems(
        "route:\n  receiver: x\n  group_wait: 1\n  rutes: []\nreceivers: [{name: a, fallback: b}]\nx: 1\n"
    )
    assert [each.path for each in found] == [
        "route.receiver",
        "route.group_wait",
        "route.rutes",
        "receivers[0].fallback",
        "x",
    ]


def test_problems_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "alerts.yaml"
    file.write_text("route: {receiver: b}\nreceivers: [{name: a}]\n")
    (problem,) = problems(file)
    assert str(problem) == f"{file}:1:19: route.receiver: receiver 'b' is not defined"
    assert problem.to_dict() == {
        "message": "receiver 'b' is not defined",
        "path": "route.receiver",
        "file": str(file),
        "line": 1,
        "column": 19,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the configuration is empty"),
        (b"# nothing\n", "the configuration is empty"),
        (b"route: \xff\n", "not UTF-8 text, at byte 7"),
        (b"route: \x00\n", "invalid YAML: unacceptable character"),
        (None, "the file cannot be read: No such file"),
    ],
)
def test_an_unusable_file_is_reported(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "alerts.yaml"
    if content is not None:
        file.write_bytes(content)
    (problem,) = problems(file)
    assert message in problem.message
    assert problem.file == str(file)


@pytest.mark.parametrize("path", ["a\0b", "."])
def test_an_impossible_path_is_reported(path: str) -> None:
    (problem,) = problems(path)
    assert "the file cannot be read" in problem.message


def test_a_mapping_without_positions_gives_paths() -> None:
    found = problems({"route": {"receiver": "b", "group_wait": 1.5}, "receivers": [{"name": "a"}]})
    assert sorted(str(each) for each in found) == [
        "route.group_wait: '1.5' is not a duration like 30s, 5m or 1h30m",
        "route.receiver: receiver 'b' is not defined",
    ]


LAUGHS = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [
        f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]"
        for below, name in zip("abcdef", "bcdefg", strict=True)
    ]
)
DEEP = "\n".join(f"{' ' * depth}a:" for depth in range(1000))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "more than 500,000 values"),
        (DEEP, "nested too deep"),
        (f"route: {'[' * 1000}\n", "nested too deep"),
        ("route: &a\n  receiver: a\n  routes: [*a]\n", "nested too deep"),
    ],
    ids=["a billion laughs", "deep", "deep in brackets", "inside itself"],
)
def test_yaml_that_would_take_all_memory_is_refused(text: str, message: str) -> None:
    (problem,) = problems(text)
    assert message in problem.message


def test_a_tag_of_python_makes_nothing() -> None:
    found = problems(whole("route: !!python/object/apply:os.getcwd []"))
    assert found[0].path == "route"


# Secrets

SECRET = "hunter2"


@pytest.mark.parametrize(
    "snippet",
    [
        f"{CHANNEL}url: [slack://{SECRET}]",
        f"{CHANNEL}url: {{slack://{SECRET}: a}}",
        f"{CHANNEL}url: {SECRET}",
        f"{CHANNEL}url: slack://{SECRET}/${{",
        f"{CHANNEL}url: slack://{SECRET}/${{MISSING}}",
        f"{CHANNEL}{{url: 'slack://{SECRET}', timeout: 0s}}",
        f"{CHANNEL}url: slack://{SECRET}\n  - url: slack://{SECRET}: x",
        f"receivers: [{{name: a, slack_configs: [{{api_url: {SECRET}}}], fallback: b}}]",
        f"global: {{slack_api_url: 'https://{SECRET}', resolve_timeout: x}}",
    ],
)
def test_no_problem_shows_a_secret(snippet: str) -> None:
    with pytest.raises(AlertConfigError) as caught:
        load(snippet)
    error = caught.value
    shown = f"{error} {error!r} {error.problems} {error.__cause__} {error.__context__}"
    assert SECRET not in shown


def test_a_loaded_secret_is_kept_but_not_shown() -> None:
    config = load(f"{CHANNEL}url: slack://${{TOKEN}}/", TOKEN=SECRET)
    (channel,) = config.receivers["a"].channels
    assert SECRET not in repr(config) + repr(channel) + repr(channel.url) + f"{[channel.url]}"
    assert channel.url == f"slack://{SECRET}/"


def test_the_error_survives_being_sent_to_another_process() -> None:
    with pytest.raises(AlertConfigError) as caught:
        load("route: {receiver: b}")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.problems == caught.value.problems


# Durations


@given(st.integers(0, 292 * 31_536_000_000 - 1))
@example(8 * 86_400_000)
@example(31_536_000_000 + 1)
def test_a_duration_is_read_back_from_its_text(milliseconds: int) -> None:
    duration = Duration(milliseconds / 1000)
    assert Duration.parse(str(duration)) == pytest.approx(duration, abs=1e-4)


@given(st.text("0123456789ywdhms.- ", max_size=8))
def test_a_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        duration = Duration.parse(text)
    except ValueError as error:
        assert repr(text) in str(error)  # noqa: PT017 - either is right
    else:
        assert Duration.parse(str(duration)) == pytest.approx(duration, abs=1e-4)


# Whatever comes

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "route",
                    "receivers",
                    "name",
                    "receiver",
                    "routes",
                    "matchers",
                    "match",
                    "apprise_configs",
                    "url",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["route", "receivers", "labels", "tests", "global", "x"]), PLAIN))
def test_any_mapping_is_a_configuration_or_an_alert_config_error(data: dict[str, Any]) -> None:
    try:
        load_alert_config(data, environ={})
    except AlertConfigError as error:
        assert error.problems  # noqa: PT017 - either is right


@given(st.text("routecivs:{}[]-&*<>!|'\"\n #ab", max_size=60))
def test_any_text_is_a_configuration_or_an_alert_config_error(text: str) -> None:
    try:
        load_alert_config(f"{text}\n", environ={})
    except AlertConfigError as error:
        assert error.problems  # noqa: PT017 - either is right


ROUTES = """
route:
  receiver: a
  routes:
    - receiver: a
      {}
receivers: [{{name: a}}]
"""


def test_a_label_with_nothing_is_an_empty_label_as_in_alertmanager() -> None:
    route = load_alert_config(ROUTES.format("match: {team: }")).route.children[0]
    assert [str(matcher) for matcher in route.matchers] == ['team=""']


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("match_re: {team: }", "match_re.team", "expected a regular expression, got nothing"),
        ("matchers: [a=b, ~]", "matchers[1]", 'expected a matcher like severity="critical", got nothing'),
        ("group_by: [a, null]", "group_by[1]", "expected text, got nothing"),
        ("routes: [~]", "routes[0]", "expected a mapping, got nothing"),
    ],
)
def test_nothing_in_a_list_or_a_mapping_is_a_problem(text: str, path: str, message: str) -> None:
    with pytest.raises(AlertConfigError) as caught:
        load_alert_config(ROUTES.format(text))
    [problem] = caught.value.problems
    assert (problem.path, problem.message) == (f"route.routes[0].{path}", message)
    assert problem.line == 6


MANIFEST = "apiVersion: v1\nkind: {}\nmetadata: {{name: alertmanager}}\n{}\n"


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (
            MANIFEST.format("Secret", "data: {alertmanager.yaml: cm91dGU6}"),
            "4:8: data.alertmanager.yaml",
            "the configuration is in data[alertmanager.yaml]; save its text, decoded from base64, as a file",
        ),
        (
            MANIFEST.format("Secret", "stringData:\n  alertmanager.yaml: |\n    route: {}"),
            "5:3: stringData.alertmanager.yaml",
            "the configuration is in stringData[alertmanager.yaml]; save its text as a file",
        ),
        (
            MANIFEST.format("ConfigMap", "data:\n  config.yml: |\n    route: {}"),
            "5:3: data.config.yml",
            "the configuration is in data[config.yml]; save its text as a file",
        ),
        (MANIFEST.format("Secret", "type: Opaque"), "2:7: kind", "data[alertmanager.yaml]"),
        (MANIFEST.format("AlertmanagerConfig", "spec: {}"), "2:7: kind", "alertmanager-NAME-generated"),
        (MANIFEST.format("Alertmanager", "spec: {}"), "2:7: kind", "spec.configSecret"),
        (
            MANIFEST.format("Deployment", "spec: {}"),
            "2:7: kind",
            "save the text of the configuration as a file",
        ),
        (
            "alertmanager:\n  enabled: true\n  config:\n    route: {receiver: a}\n",
            "3:3: alertmanager.config",
            "the values of a Helm chart; save the part under alertmanager.config as a file",
        ),
        (
            "kps:\n  alertmanager:\n    config:\n      receivers: []\n",
            "3:5: kps.alertmanager.config",
            "Helm",
        ),
        ("replicas: 1\nconfig: {route: {}}\n", "2:1: config", "save the part under config as a file"),
        (
            "alertmanagerFiles:\n  alertmanager.yml:\n    route: {}\n",
            "2:3: alertmanagerFiles.alertmanager.yml",
            "Helm",
        ),
        ("scrape_configs: []\n", "1:1: ", "this is the configuration of Prometheus"),
        ("groups:\n- rules: []\n", "1:1: ", "these are rules of Prometheus"),
    ],
)
def test_a_file_of_another_program_is_recognized_with_the_place_of_the_configuration(
    text: str, place: str, message: str
) -> None:
    with pytest.raises(AlertConfigError) as caught:
        load_alert_config(text)
    [problem] = caught.value.problems
    assert str(problem).startswith(place)
    assert message in problem.message


# YAML as Go reads it


@pytest.mark.parametrize(
    "text",
    [
        "route: {receiver: a}\t# x\nreceivers: [{name: a}]\n",
        "route:\t{receiver:\ta,\tgroup_by: []\t}\nreceivers:\t\n- name: a\t# x\n",
        "route:\n  receiver: a\t\nreceivers: [{name: a}]\n",
    ],
)
def test_tabs_may_stand_between_words_and_at_the_end_of_a_line(text: str) -> None:
    assert load_alert_config(text).route.receiver == "a"


def test_a_tab_inside_of_a_text_belongs_to_it_and_one_for_indentation_is_a_problem() -> None:
    text = "route: {{receiver: a}}\nreceivers:\n- name: a\n- name: b\tc{}\n"
    assert set(load_alert_config(text.format("")).receivers) == {"a", "b\tc"}
    with pytest.raises(AlertConfigError, match="cannot start any token"):
        load_alert_config(text.format("\n\tfallback: a"))


@pytest.mark.parametrize("order", ["<<: *base, match: {y: '2'}", "match: {y: '2'}, <<: *base"])
def test_a_mapping_is_joined_with_the_one_that_is_merged(order: str) -> None:
    text = f"""
route:
  receiver: a
  routes:
    - &base {{receiver: b, match: {{x: '1', y: '1'}}, group_by: [x]}}
    - {{{order}, group_by: [y]}}
    - {{{order}}}
receivers: [{{name: a}}, {{name: b}}]
"""
    _, second, third = load_alert_config(text).route.children
    for route in (second, third):
        assert ([str(each) for each in route.matchers], route.receiver) == (['x="1"', 'y="2"'], "b")
    assert (second.group_by, third.group_by) == (("y",), ("x",))


# What follows is what amtool shows for these files.

ROUTES_OF_GO = """
receivers: [{{name: a}}, {{name: b}}, {{name: c}}]
route:
  receiver: a
  routes:
    - &base {{receiver: b, match: {{x: '1'}}, match_re: {{q: z.*}}, matchers: [m=1], group_by: [g]}}
    - {{{}}}
"""


@pytest.mark.parametrize(
    ("text", "matchers", "receiver", "group_by"),
    [
        ("<<: *base, match: {y: '2'}, matchers: [n=1]", "m n q x y", "b", "g"),
        ("matchers: [n=1], match_re: {r: z}, <<: *base", "m n q r x", "b", "g"),
        ("<<: *base, receiver: c, group_by: [h]", "m q x", "c", "h"),
        ("receiver: c, group_by: [h], <<: *base", "m q x", "b", "g"),
        ("receiver: c, <<: [*base, {receiver: c, matchers: [k=1]}]", "k m q x", "b", "g"),
    ],
)
def test_merged_keys_of_a_route_are_joined_or_override_as_in_alertmanager(
    text: str, matchers: str, receiver: str, group_by: str
) -> None:
    config = load_alert_config(ROUTES_OF_GO.format(text))
    _, route = config.route.children
    assert " ".join(sorted(each.name for each in route.matchers)) == matchers
    assert (route.receiver, route.group_by) == (receiver, (group_by,))
    replaced = text.startswith("receiver: c")
    assert replaced == any("the `<<` below overrides this" in str(note) for note in config.notes)


def test_only_mappings_can_be_merged() -> None:
    with pytest.raises(AlertConfigError, match="expected a mapping or a list of mappings for merging"):
        load_alert_config("route: {<<: 1, receiver: a}\nreceivers: [{name: a}]\n")


def test_only_the_first_document_is_used_and_that_is_noted() -> None:
    text = "route: {receiver: a}\nreceivers: [{name: a}]\n---\nroute: {}\n"
    [note] = load_alert_config(text).notes
    assert str(note) == "3:1: only the first document of the file is used, not the one that starts here"


def test_an_empty_receiver_of_a_child_is_inherited_and_one_of_the_root_is_missing() -> None:
    text = "route: {{receiver: {}, routes: [{{receiver: '', match: {{x: y}}}}]}}\nreceivers: [{{name: a}}]\n"
    assert load_alert_config(text.format("a")).route.children[0].receiver == "a"
    with pytest.raises(AlertConfigError, match="the root needs a receiver"):
        load_alert_config(text.format("''"))


def test_null_is_an_empty_label_and_not_a_regular_expression() -> None:
    text = "route: {{receiver: a, routes: [{{{}: {{x: }}}}]}}\nreceivers: [{{name: a}}]\n"
    [matcher] = load_alert_config(text.format("match")).route.children[0].matchers
    assert str(matcher) == 'x=""'
    with pytest.raises(AlertConfigError, match="expected a regular expression, got nothing"):
        load_alert_config(text.format("match_re"))


def test_an_equals_sign_is_text_and_y_is_true() -> None:
    routes = "[{match: {x: =}, continue: y}, {continue: N}]"
    text = f"route: {{receiver: a, routes: {routes}}}\nreceivers: [{{name: a}}]\n"
    first, second = load_alert_config(text).route.children
    assert (str(first.matchers[0]), first.continues, second.continues) == ('x="="', True, False)


def test_keys_of_newer_versions_are_accepted_and_those_without_an_effect_noted() -> None:
    text = (
        "route: {receiver: a, labels: {team: x}}\nreceivers: [{name: a, labels: {b: c}}]\n"
        "event_recorder: {outputs: []}\ntracing: {endpoint: 'h:1'}\n"
    )
    config = load_alert_config(text)
    assert config.route.labels == {"team": "x"}
    assert [str(note) for note in config.notes] == [
        "2:23: receivers[0].labels: accepted, but not used here",
        "3:1: event_recorder: accepted, but not used here",
        "4:1: tracing: accepted, but not used here",
    ]


# Values of the environment inside of URLs


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ("${PW:url}", "json://u:p%40ss%2F%23@h"),
        ("${PW}", "json://u:p@ss/#@h"),
        ("${NO:url:-a@b}", "json://u:a%40b@h"),
        ("${NO:url:-}", "json://u:@h"),
    ],
)
def test_a_value_is_encoded_for_a_url_where_the_reference_says_so(reference: str, url: str) -> None:
    receivers = [{"name": "a", "apprise_configs": [{"url": f"json://u:{reference}@h"}]}]
    config = load_alert_config({"route": {"receiver": "a"}, "receivers": receivers}, environ={"PW": "p@ss/#"})
    [channel] = config.receivers["a"].channels
    assert str(channel.url) == url  # type: ignore[attr-defined]
