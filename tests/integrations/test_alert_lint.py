"""What `lint` finds in a configuration, and that what it says of matchers is true."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest
from codomyrmex.integrations.notification import lint, load_alert_config
from codomyrmex.integrations.notification.alerts.config import Route
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = datetime(2026, 11, 25, tzinfo=UTC).timestamp()
CHANNEL = [{"url": "json://127.0.0.1/"}]


def of_tree(*routes: dict[str, Any], **more: Any) -> list[tuple[str, str]]:
    return [(each.kind, each.path) for each in lint(load_alert_config(tree(*routes, **more)), NOW)]


def tree(*routes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "route": {"receiver": "default", "routes": list(routes)},
        "receivers": [
            {"name": name, "apprise_configs": CHANNEL} for name in ("default", *more.pop("names", ()))
        ],
        **more,
    }


def node(*matchers: str, **more: Any) -> dict[str, Any]:
    return {"matchers": list(matchers), **more}


def shadowed(*routes: dict[str, Any]) -> list[str]:
    return [path.removeprefix("route.") for kind, path in of_tree(*routes) if kind == "shadowed-route"]


def contradictory(*routes: dict[str, Any]) -> list[str]:
    return [
        path.removeprefix("route.") for kind, path in of_tree(*routes) if kind == "contradictory-matchers"
    ]


def test_nothing_is_found_in_a_sound_configuration():
    assert of_tree(node('a="x"'), node('a="y"', routes=[node('b=~"p.*"'), node('b!=""')])) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([], ['a="x"']),
        ([], []),
        (['a="x"'], ['a="x"']),
        (['a="x"'], ['a="x"', 'b="y"']),
        (['a=~"x|y"'], ['a="x"']),
        (['a=~"x|y|z"'], ['a=~"x|y"']),
        (['a!=""'], ['a="x"']),
        (['a!=""'], ['a=~"x.+"']),
        (['a!=""'], ['a=~".+"']),
        (['a=~".+"'], ['a!=""']),
        (['a=~".*"'], ['b="y"']),
        (['a=~"x.*"'], ['a="xy"']),
        (['a!="y"'], ['a="x"']),
        (['a!~"y.*"'], ['a="x"']),
        (['a=~"|x"'], ['a=""']),
    ],
)
def test_a_route_that_matches_everything_a_later_one_does_shadows_it(first, second):
    assert shadowed(node(*first), node(*second)) == ["routes[1]"]
    assert shadowed(node(*first, **{"continue": True}), node(*second)) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (['a="x"'], ['a=~"x|y"']),
        (['a="x"', 'b="y"'], ['a="x"']),
        (['a=~"x.*"'], ['a=~"x|y"']),
        (['a!="x"'], ['b="y"']),
        (['a!=""'], ['a=~"x.*|"']),
        (['a=~".+"'], ['b="y"']),
        (['a="x"'], ['b="x"']),
        (['a=~"(?i)x"'], ['a=~"x|y"']),
    ],
)
def test_a_route_that_matches_only_a_part_shadows_nothing(first, second):
    assert shadowed(node(*first), node(*second)) == []


def test_a_route_shadows_the_children_of_a_later_one_too():
    found = shadowed(node('severity="critical"'), node('team="db"', routes=[node('severity="critical"')]))
    assert found == ["routes[1].routes[0]"]


def test_nothing_is_reported_below_a_route_that_is_never_reached():
    assert shadowed(node(), node(routes=[node(), node('a="x"')])) == ["routes[1]"]


@pytest.mark.parametrize(
    ("above", "below"),
    [
        ('a="x"', 'a="y"'),
        ('a="x"', 'a!="x"'),
        ('a="x"', 'a=~"z.*"'),
        ('a="x"', 'a!~"x.*"'),
        ('a="x"', 'a=""'),
        ('a=~"x|y"', 'a=~"z|w"'),
        ('a=~"x.*"', 'a!~"x.*"'),
        ('a!=""', 'a=""'),
        ('a=~"x.+"', 'a=""'),
    ],
)
def test_matchers_that_cannot_hold_together_are_found_along_the_path_and_in_one_route(above, below):
    assert contradictory(node(above, routes=[node(below)])) == ["routes[0].routes[0]"]
    assert contradictory(node(above, below)) == ["routes[0]"]
    assert contradictory(node(below, above)) == ["routes[0]"]


@pytest.mark.parametrize(
    ("above", "below"),
    [
        ('a=~"x|y"', 'a!="x"'),
        ('a=~"api-.*"', 'a=~".*-db"'),
        ('a!="x"', 'a!="y"'),
        (r'a=~"x\\by.*"', 'a=~"x.*"'),
        ('a=~"(?i)x.*"', 'a=~"X.*"'),
    ],
)
def test_matchers_that_can_hold_together_are_not_a_contradiction(above, below):
    assert contradictory(node(above, routes=[node(below)])) == []


def test_a_contradiction_is_reported_with_its_matchers():
    [found] = lint(load_alert_config(tree(node('a="x"', routes=[node('a="y"')]))), NOW)
    assert 'a="x" and a="y" on the way here cannot all hold' in found.message


LABELS = ("a", "b")
VALUES = ("", "x", "y", "xy", "z")
MATCHERS = st.builds(
    "{}{}{}".format,
    st.sampled_from(LABELS),
    st.sampled_from(["=", "!="]),
    st.sampled_from([f'"{value}"' for value in VALUES]),
) | st.builds(
    '{}{}"{}"'.format,
    st.sampled_from(LABELS),
    st.sampled_from(["=~", "!~"]),
    st.sampled_from(["x|y", ".*", ".+", "x.*", "y.*", "|x", "[xy]", "x|y|z|xy|", "a^b", "x?y?", "z"]),
)
ROUTES = st.recursive(
    st.fixed_dictionaries({"matchers": st.lists(MATCHERS, max_size=2), "continue": st.booleans()}),
    lambda below: st.fixed_dictionaries(
        {
            "matchers": st.lists(MATCHERS, max_size=2),
            "continue": st.booleans(),
            "routes": st.lists(below, max_size=4),
        }
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ROUTES, min_size=1, max_size=4))
def test_no_alert_comes_to_a_route_of_which_it_says_so(routes):
    config = load_alert_config(tree(*routes))
    dead = {
        each.path for each in lint(config, NOW) if each.kind in {"shadowed-route", "contradictory-matchers"}
    }
    for values in itertools.product(VALUES, repeat=len(LABELS)):
        labels = dict(zip(LABELS, values, strict=True))
        assert dead.isdisjoint(entered(config.route, labels))


def entered(route: Route, labels: dict[str, str]) -> list[str]:
    """Walk the tree plainly, and give all nodes that an alert enters."""
    found = [route.path]
    for child in route.children:
        if all(matcher.matches(labels) for matcher in child.matchers):
            found += entered(child, labels)
            if not child.continues:
                break
    return found


# Typos


@pytest.mark.parametrize(
    ("matcher", "kind"),
    [
        ('severity="crtical"', "misspelled-value"),
        ('severity=~"critical|warnng"', "misspelled-value"),
        ('severity="Critical"', "misspelled-value"),
        ('severity="waring"', "misspelled-value"),
        ('region="eurpoe"', "misspelled-value"),
        ('region!="europee"', "misspelled-value"),
        ('serverity="critical"', "misspelled-label"),
        ('alertnmae="x"', "misspelled-label"),
        ('Severity="critical"', "misspelled-label"),
        ('regoin="europe"', "misspelled-label"),
        ('severity="critical|warning"', "literal-regex"),
        ('host="web-.*"', "literal-regex"),
        ('host!="^web1$"', "literal-regex"),
    ],
)
def test_a_probable_typo_is_found(matcher, kind):
    regions = [node('region="europe"', 'alertname="y"'), node('region="europe"')]
    assert of_tree(node(matcher, "x=1"), *regions) == [(kind, "route.routes[0]")]


@pytest.mark.parametrize(
    "matcher",
    [
        'severity="critical"',
        'severity="page"',
        'severity="major"',
        'region="asia"',
        'region=~"eu.*"',
        'regions="a"',
        'team="web-1"',
        'team="db"',
    ],
)
def test_a_merely_different_word_is_not_a_typo(matcher):
    regions = [node('region="europe"', 'alertname="y"'), node('region="europe"')]
    teams = [node('team="web-2"', 'alertname="z"'), node('team="web-2"')]
    assert of_tree(node(matcher, "x=1"), *regions, *teams) == []


def test_a_typo_is_also_found_against_the_labels_of_tests_and_in_inhibition_rules():
    events = [{"labels": {"component": "storage"}}] * 2
    rule = {"source_matchers": ['component="storge"'], "target_matchers": ['componant="x"'], "equal": ["a"]}
    assert of_tree(tests=[{"events": events}], inhibit_rules=[rule]) == [
        ("misspelled-value", "inhibit_rules[0]"),
        ("misspelled-label", "inhibit_rules[0]"),
    ]


def test_a_typo_is_reported_at_its_matcher_with_what_was_probably_meant():
    text = """
route:
  receiver: default
  routes:
    - matchers: ['a="x"', 'severity="crtical"']
    - match_re: {severity: 'critcal|x'}
      match: {d: e}
    - matchers: ['a="y", severity="ciritical"']
receivers: [{name: default, apprise_configs: [{url: 'json://127.0.0.1'}]}]
"""
    found = lint(load_alert_config(text), NOW)
    assert [(each.kind, each.path, each.line, each.column) for each in found] == [
        ("misspelled-value", "route.routes[0].matchers[1]", 5, 27),
        ("misspelled-value", "route.routes[1].match_re.severity", 6, 28),
        ("misspelled-value", "route.routes[2].matchers", 8, 17),
    ]
    assert "'crtical' of severity is used nowhere else; did you mean 'critical'?" in found[0].message


# What is named


def test_receivers_that_nothing_uses_are_found_also_those_that_are_only_the_fallback_of_such():
    config = tree(node('a="x"', receiver="used"))
    config["receivers"] += [
        {"name": "used", "apprise_configs": CHANNEL, "fallback": "takes-over"},
        {"name": "takes-over", "apprise_configs": CHANNEL},
        {"name": "unused", "apprise_configs": CHANNEL, "fallback": "unused-too"},
        {"name": "unused-too", "apprise_configs": CHANNEL},
    ]
    found = lint(load_alert_config(config), NOW)
    assert [(each.kind, each.path) for each in found] == [
        ("unused-receiver", "receivers[3].name"),
        ("unused-receiver", "receivers[4].name"),
    ]


def test_a_receiver_that_delivers_nothing_is_found_unless_its_name_says_so():
    config = tree(*(node(f'a="{name}"', receiver=name) for name in ("quiet", "null", "jira")))
    config["receivers"] += [{"name": "quiet"}, {"name": "null"}, {"name": "jira", "jira_configs": [{}]}]
    found = lint(load_alert_config(config), NOW)
    assert [(each.kind, each.path) for each in found] == [
        ("no-channel", "receivers[1].name"),
        ("delivers-nothing", "receivers[3].jira_configs[0]"),
    ]


def test_a_receiver_with_an_empty_list_of_channels_means_it():
    text = "{route: {receiver: quiet},\n receivers: [{name: quiet, apprise_configs: []}]}"
    assert lint(load_alert_config(text), NOW) == []


def test_intervals_that_nothing_uses_or_that_are_never_active_are_found():
    text = """
route:
  receiver: default
  routes:
    - matchers: ['a="1"']
      mute_time_intervals: [past, always]
    - matchers: ['a="2"']
      active_time_intervals: [feb30]
    - matchers: ['a="3"']
      mute_time_intervals: [nights]
receivers: [{name: default, apprise_configs: [{url: 'json://127.0.0.1'}]}]
time_intervals:
  - {name: past, time_intervals: [{years: ['2020']}]}
  - {name: nights, time_intervals: [{times: [{start_time: '00:00', end_time: '06:00'}]}]}
  - {name: unused, time_intervals: [{years: ['2020']}]}
  - {name: always, time_intervals: [{location: Europe/Vienna}]}
mute_time_intervals:
  - {name: feb30, time_intervals: [{months: ['2'], days_of_month: ['30']}]}
"""
    found = lint(load_alert_config(text), NOW)
    assert [(each.kind, each.path, each.line) for each in found] == [
        ("always-muted", "route.routes[0].mute_time_intervals", 6),
        ("never-active", "time_intervals[0].name", 13),
        ("unused-interval", "time_intervals[2].name", 15),
        ("never-active", "mute_time_intervals[0].name", 18),
    ]
    assert "never mutes" in found[1].message
    assert "route.routes[1] (line 7) never notifies" in found[3].message


def test_an_interval_that_is_over_later_is_active_now():
    spec = [{"name": "year", "time_intervals": [{"years": ["2026"]}]}]
    routes = node('a="x"', mute_time_intervals=["year"])
    assert of_tree(routes, time_intervals=spec) == []
    assert (
        lint(load_alert_config(tree(routes, time_intervals=spec)), NOW + 366 * 86_400)[0].kind
        == "never-active"
    )


# Settings


def test_siblings_that_alertmanager_could_not_tell_apart_are_found():
    twice = [node('a="x"', receiver="one", **{"continue": True}), node('a="x"', receiver="one")]
    assert of_tree(*twice, names=["one"]) == [("shared-key", "route.routes[1]")]


def test_siblings_with_the_same_matchers_and_different_receivers_are_fine():
    twice = [node('a="x"', receiver="one", **{"continue": True}), node('a="x"', receiver="two")]
    assert of_tree(*twice, names=["one", "two"]) == []


def test_a_repeat_interval_shorter_than_the_group_interval_is_found_where_it_is_set():
    inner = node('b="y"')
    routes = node('a="x"', group_interval="10m", repeat_interval="5m", routes=[inner])
    assert of_tree(routes) == [("short-repeat", "route.routes[0].repeat_interval")]
    assert of_tree(node('a="x"', group_interval="5h")) == [("short-repeat", "route.routes[0].group_interval")]


def test_continue_on_the_last_sibling_has_no_effect():
    last = node('a="y"', **{"continue": True})
    assert of_tree(node('a="x"', **{"continue": True}), last) == [
        ("useless-continue", "route.routes[1].continue")
    ]


def test_on_unmute_where_nothing_is_ever_muted_has_no_effect():
    assert of_tree(node('a="x"', on_unmute="summary")) == [("useless-on-unmute", "route.routes[0].on_unmute")]
    nights = [
        {"name": "nights", "time_intervals": [{"times": [{"start_time": "00:00", "end_time": "06:00"}]}]}
    ]
    below = node('a="x"', on_unmute="summary", routes=[node('b="y"', mute_time_intervals=["nights"])])
    assert of_tree(below, time_intervals=nights) == []


def test_a_matcher_on_a_label_that_is_never_made_is_found():
    found = of_tree(node('team="x"'), node('severity="x"', 'topic="y"'), labels=["topic"])
    assert found == [("unknown-label", "route.routes[0]")]


@pytest.mark.parametrize(
    ("rule", "kinds"),
    [
        ({"source_matchers": ['s="c"'], "target_matchers": ['s="w"'], "equal": ["team"]}, []),
        ({"source_matchers": ['s="c"'], "target_matchers": ['s="w"']}, ["no-equal"]),
        ({"source_matchers": ['s="c"'], "equal": ["team"]}, ["inhibits-all"]),
        ({"target_matchers": ['s="c"'], "equal": ["team"]}, ["inhibits-all"]),
        ({"equal": ["team"]}, ["inhibits-nothing"]),
        ({"source_matchers": ['s="c"'], "target_matchers": ['s="w"'], "equal": ["s"]}, ["inhibits-nothing"]),
        (
            {"source_matchers": ['s="c"'], "target_matchers": ['s=~"c"'], "equal": ["team"]},
            ["inhibits-nothing"],
        ),
        ({"source_matchers": ['s="c"', 's="w"'], "target_matchers": ['s="w"']}, ["inhibits-nothing"]),
        ({"source_matchers": ['s="c"'], "target_matchers": ['s=~"c|w"'], "equal": ["team"]}, []),
        ({"source_matchers": ['s=~"c|w"'], "target_matchers": ['s="c"'], "equal": ["team"]}, []),
    ],
)
def test_inhibition_rules_that_inhibit_nothing_or_too_much_are_found(rule, kinds):
    assert [kind for kind, _ in of_tree(inhibit_rules=[rule])] == kinds


def test_a_rule_with_an_empty_equal_means_it():
    text = """
route: {receiver: default}
receivers: [{name: default, apprise_configs: [{url: 'json://127.0.0.1'}]}]
inhibit_rules:
  - {source_matchers: [a="x"], target_matchers: [a="y"], equal: []}
"""
    assert lint(load_alert_config(text), NOW) == []


def test_notes_of_the_configuration_are_returned_too():
    [found] = lint(load_alert_config(tree(templates=["a.tmpl"])), NOW)
    assert found.kind == "note"
    assert found.to_dict()["kind"] == "note"
    assert str(found).endswith("[note]")


def test_findings_stand_in_the_order_of_the_file():
    text = """
receivers:
  - {name: default}
  - {name: unused}
route:
  receiver: default
  repeat_interval: 1m
"""
    assert [each.line for each in lint(load_alert_config(text), NOW)] == [3, 4, 7]


def test_a_url_that_apprise_does_not_know_is_found_with_its_position():
    text = """
route: {receiver: a}
receivers:
  - name: a
    apprise_configs:
      - url: json://127.0.0.1
      - url: foo://secret@x
"""
    [finding] = lint(load_alert_config(text), NOW)
    assert (finding.kind, finding.path) == ("invalid-channel", "receivers[0].apprise_configs[1].url")
    assert (finding.line, finding.column) == (7, 14)
    assert "Apprise does not support this URL: foo://..." in finding.message
    assert "secret" not in str(finding)
