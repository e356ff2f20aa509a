"""The routing tree: which routes match labels, in which order, and into which groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import re2  # type: ignore[import-untyped]
from codomyrmex.integrations.notification import (
    AlertConfigError,
    AlertRouter,
    Matcher,
    load_alert_config,
    parse_matchers,
)
from codomyrmex.integrations.notification.alerts.config import AlertConfig, Route
from hypothesis import given, settings
from hypothesis import strategies as st


def receivers_of(router: AlertRouter, labels: str) -> list[str]:
    return [match.receiver for match in router.match(labels_of(labels))]


def labels_of(text: str) -> dict[str, str]:
    return {matcher.name: matcher.value for matcher in parse_matchers(text)}


def tree(**root: Any) -> AlertConfig:
    """Load a configuration of this root; its receivers are those that it names."""

    def names(route: Mapping[str, Any]) -> set[str]:
        return {route.get("receiver", "root")}.union(*map(names, route.get("routes", ())))

    route = {"receiver": "root", **root}
    return load_alert_config({"route": route, "receivers": [{"name": name} for name in sorted(names(route))]})


def below(config: AlertConfig, *places: int) -> Route:
    route = config.route
    for place in places:
        route = route.children[place]
    return route


def keys(config: AlertConfig, **labels: str) -> list[str]:
    return [match.group_key for match in AlertRouter(config).match(labels)]


# The tables that were made with amtool

C1 = r"""
route:
  receiver: default
  routes:
    - matchers: ['service=~"mysql|cassandra"']
      receiver: db-pager
      continue: true
    - matchers: [team="a"]
      receiver: team-a
      routes:
        - {matchers: [severity="critical"], receiver: team-a-crit, continue: true}
        - {matchers: ['env=~"prod.*"'], receiver: team-a-prod}
        - {matchers: [env="test"]}
    - {matchers: [team=""], receiver: no-team}
    - {matchers: [team!="b"], receiver: not-b}
receivers: [{name: default}, {name: db-pager}, {name: team-a}, {name: team-a-crit}, {name: team-a-prod},
            {name: no-team}, {name: not-b}]
"""

C2 = r"""
route:
  receiver: default
  routes:
    - {receiver: r-quoted-comma, matchers: ['{path="/a,b", code=~"5..",}']}
    - {receiver: r-unquoted, matchers: ['region = eu-west-1', 'tier!=gold']}
    - {receiver: r-escape, matchers: ['msg="say \"hi\" C:\\temp"']}
    - {receiver: r-backslash-d, matchers: ['num=~"\d+"']}
    - {receiver: r-empty, matchers: ['kind=', 'x="1"']}
    - {receiver: r-neg-regex, matchers: ['zone!~"us-.+|"']}
receivers: [{name: default}, {name: r-quoted-comma}, {name: r-unquoted}, {name: r-escape},
            {name: r-backslash-d}, {name: r-empty}, {name: r-neg-regex}]
"""

C3 = r"""
route:
  receiver: default
  group_by: [alertname]
  routes:
    - {receiver: pager, matchers: [severity="critical"], group_by: ['...'], continue: true}
    - {receiver: web, matchers: [app="web"], mute_time_intervals: [always], continue: true}
    - {receiver: digest, matchers: [severity="info"], active_time_intervals: [never]}
receivers: [{name: default}, {name: pager}, {name: web}, {name: digest}]
time_intervals:
  - {name: always, time_intervals: [{}]}
  - {name: never, time_intervals: [{years: ['1970']}]}
"""


@pytest.mark.parametrize(
    ("config", "labels", "receivers"),
    [
        (C1, "team=a, severity=critical, env=production", "team-a-crit team-a-prod"),
        (C1, "team=a, env=preprod", "team-a"),
        (C1, "team=a, env=test", "team-a"),
        (C1, "service=mysql", "db-pager no-team"),
        (C1, "service=mysql2", "no-team"),
        (C1, "team=b", "default"),
        (C1, "team=c", "not-b"),
        (C1, "", "no-team"),
        (C2, 'path="/a,b", code=503', "r-quoted-comma"),
        (C2, 'path="/a,b", code=5035', "default"),
        (C2, "region=eu-west-1", "r-unquoted"),
        (C2, "region=eu-west-1, tier=gold", "default"),
        (C2, r'msg="say \"hi\" C:\\temp"', "r-escape"),
        (C2, "num=42", "r-backslash-d"),
        (C2, "num=42x", "default"),
        (C2, "x=1", "r-empty"),
        (C2, "x=1, kind=k", "default"),
        (C2, "zone=eu-1", "r-neg-regex"),
        (C2, "zone=us-1", "default"),
        (C2, "zone=", "default"),
        (C3, "severity=info, app=web", "web digest"),
        (C3, "severity=critical, app=web", "pager web"),
    ],
)
def test_labels_reach_the_receivers_that_amtool_names_in_its_order(config, labels, receivers):
    assert receivers_of(AlertRouter(load_alert_config(config)), labels) == receivers.split()


# The walk


def test_labels_that_no_route_matches_go_to_the_root_only():
    router = AlertRouter(tree(routes=[{"receiver": "x", "matchers": ["a=1"]}]))
    assert receivers_of(router, "a=2") == ["root"]
    assert receivers_of(router, "a=1") == ["x"]
    assert receivers_of(router, "") == ["root"]


def test_a_child_that_continues_uses_up_its_parent_too():
    config = tree(
        routes=[{"receiver": "up", "matchers": ["a=1"], "routes": [{"receiver": "down", "continue": True}]}]
    )
    assert receivers_of(AlertRouter(config), "a=1") == ["down"]


def test_continue_is_about_the_siblings_of_a_route_not_about_those_of_its_parent():
    inner = {"receiver": "inner", "matchers": ["a=1"], "continue": True}
    config = tree(
        routes=[
            {"receiver": "first", "matchers": ["a=1"], "routes": [inner, {"receiver": "second"}]},
            {"receiver": "later"},
        ]
    )
    assert receivers_of(AlertRouter(config), "a=1") == ["inner", "second"]


def test_a_route_without_matchers_hides_those_after_it_unless_it_continues():
    later = {"receiver": "later", "matchers": ["a=1"]}
    hides = AlertRouter(tree(routes=[{"receiver": "all"}, later]))
    continues = AlertRouter(tree(routes=[{"receiver": "all", "continue": True}, later]))
    assert receivers_of(hides, "a=1") == ["all"]
    assert receivers_of(continues, "a=1") == ["all", "later"]


def test_a_receiver_that_two_routes_name_is_named_twice():
    config = tree(routes=[{"receiver": "x", "continue": True}, {"receiver": "x"}])
    assert receivers_of(AlertRouter(config), "a=1") == ["x", "x"]


def test_match_and_match_re_hold_together_with_the_matchers():
    config = tree(
        routes=[{"receiver": "x", "matchers": ["a=1"], "match": {"b": "2"}, "match_re": {"c": "3|4"}}]
    )
    assert receivers_of(AlertRouter(config), "a=1, b=2, c=4") == ["x"]
    for missing in ("b=2, c=4", "a=1, c=4", "a=1, b=2", "a=1, b=2, c=34"):
        assert receivers_of(AlertRouter(config), missing) == ["root"]


def test_an_empty_label_is_routed_as_a_missing_one_and_makes_no_group():
    config = tree(group_by=["a", "b"], routes=[{"receiver": "x", "matchers": ['a=""']}])
    router = AlertRouter(config)
    assert router.match({"a": "", "b": "1"})[0].group_labels == {"b": "1"}
    assert keys(config, a="", b="1") == keys(config, b="1")
    assert [match.receiver for match in router.match({"a": ""})] == ["x"]


def test_a_match_has_the_route_and_its_path_and_the_caller_may_change_the_list():
    router = AlertRouter(tree(routes=[{"matchers": ["a=1"], "routes": [{"matchers": ["b=1"]}]}]))
    (match,) = router.match({"a": "1", "b": "1"})
    assert match.path == match.route.path == "route.routes[0].routes[0]"
    router.match({"a": "1", "b": "1"}).clear()
    assert router.match({"a": "1", "b": "1"}) == [match]


# What is inherited

SETTINGS = {
    "receiver": "team",
    "group_by": ["a"],
    "group_wait": "1s",
    "group_interval": "2s",
    "repeat_interval": "3s",
    "on_unmute": "summary",
    "resolve_always": True,
}


def test_the_root_has_the_defaults_of_alertmanager():
    root = tree().route
    assert (root.group_wait, root.group_interval, root.repeat_interval) == (30, 300, 14_400)
    assert (root.group_by, root.on_unmute, root.resolve_always, root.labels) == ((), "drop", False, {})
    assert root.origins == {"receiver": "route"}


def test_a_route_inherits_the_settings_of_its_parent_and_knows_where_each_comes_from():
    config = tree(routes=[{**SETTINGS, "routes": [{"routes": [{"group_wait": "9s"}]}]}])
    parent, child, grandchild = (below(config, *[0] * depth) for depth in (1, 2, 3))
    assert (parent.group_by, parent.group_wait, parent.resolve_always) == (("a",), 1, True)
    for name in SETTINGS:
        assert getattr(child, name) == getattr(parent, name)
        assert child.origins[name] == "route.routes[0]"
    assert (grandchild.group_wait, grandchild.group_interval) == (9, 2)
    assert grandchild.origins["group_wait"] == "route.routes[0].routes[0].routes[0]"


def test_matchers_continue_and_time_intervals_are_not_inherited():
    own = {"matchers": ["a=1"], "continue": True}
    config = load_alert_config(
        {
            "route": {
                "receiver": "r",
                "routes": [
                    {**own, "mute_time_intervals": ["t"], "active_time_intervals": ["t"], "routes": [{}]}
                ],
            },
            "receivers": [{"name": "r"}],
            "time_intervals": [{"name": "t", "time_intervals": [{"years": ["2026"]}]}],
        }
    )
    parent, child = below(config, 0), below(config, 0, 0)
    assert (parent.continues, len(parent.matchers), len(parent.mute), len(parent.active)) == (True, 1, 1, 1)
    assert (child.continues, child.matchers, child.mute, child.active) == (False, (), (), ())


def test_the_labels_of_a_route_are_added_to_those_of_its_parent():
    config = tree(
        labels={"team": "a", "tier": "1"}, routes=[{"labels": {"tier": "2", "x": "y"}, "routes": [{}]}]
    )
    assert below(config, 0).labels == below(config, 0, 0).labels == {"team": "a", "tier": "2", "x": "y"}
    assert config.route.labels == {"team": "a", "tier": "1"}


@pytest.mark.parametrize(
    ("parent", "child", "grouped"),
    [
        (["a"], None, ("a",)),
        (["a"], ["b"], ("b",)),
        (["..."], None, None),
        (["..."], ["b"], ("b",)),
        (["a"], ["..."], None),
        (["a"], [], ()),  # Alertmanager from 0.31 on
        (["..."], [], ()),
        (None, None, ()),
    ],
)
def test_a_group_by_replaces_that_of_the_parent(parent, child, grouped):
    config = tree(
        **{} if parent is None else {"group_by": parent},
        routes=[{} if child is None else {"group_by": child}],
    )
    assert below(config, 0).group_by == grouped


# Groups


@pytest.mark.parametrize(
    ("group_by", "labels", "group", "key"),
    [
        (
            ["cluster", "alertname", "app"],
            {"alertname": "DiskFull", "app": "db", "cluster": "c1", "x": "y"},
            {"alertname": "DiskFull", "app": "db", "cluster": "c1"},
            '{}:{alertname="DiskFull", app="db", cluster="c1"}',
        ),
        (["alertname", "app"], {"app": "db"}, {"app": "db"}, '{}:{app="db"}'),
        ([], {"app": "db"}, {}, "{}:{}"),
        (["..."], {"b": "2", "a": "1"}, {"a": "1", "b": "2"}, '{}:{a="1", b="2"}'),
        (["..."], {}, {}, "{}:{}"),
        (["a"], {"a": 'say "hi"\nC:\\'}, {"a": 'say "hi"\nC:\\'}, r'{}:{a="say \"hi\"\nC:\\"}'),
        (["a"], {"a": "tab\tand é"}, {"a": "tab\tand é"}, r'{}:{a="tab\tand é"}'),
    ],
)
def test_a_group_is_named_as_alertmanager_names_it(group_by, labels, group, key):
    (match,) = AlertRouter(tree(group_by=group_by)).match(labels)
    assert (match.group_labels, match.group_key) == (group, key)


def test_the_path_of_matchers_in_a_group_key_is_sorted_and_as_in_alertmanager():
    config = tree(
        routes=[{"matchers": ["b=2, a=1"], "routes": [{"matchers": ["d!~x.*"], "match": {"c": 'q"'}}]}]
    )
    assert keys(config, a="1", b="2", c='q"') == [r'{}/{a="1",b="2"}/{c="q\"",d!~"x.*"}:{}']
    assert keys(config, a="1", b="2") == ['{}/{a="1",b="2"}:{}']


def test_a_label_name_with_a_colon_needs_no_quotes_in_a_group_key():
    assert keys(tree(routes=[{"matchers": ["a:b=1"]}]), **{"a:b": "1"}) == ['{}/{a:b="1"}:{}']


def test_siblings_with_the_same_matchers_have_groups_of_their_own():
    twin = {"matchers": ["a=1"], "continue": True}
    other = {"matchers": ["a=2"], "continue": True}
    config = tree(routes=[twin, other, twin, {**twin, "matchers": ['{a="1"}']}])
    found = keys(config, a="1")
    assert found == ['{}/{a="1"}:{}', '{}/{a="1"}#2:{}', '{}/{a="1"}#3:{}']
    assert len({route.key for route in config.route.walk()}) == 5


def test_twins_are_siblings_not_cousins():
    config = tree(
        routes=[
            {"matchers": ["a=1"], "continue": True, "routes": [{"matchers": ["b=1"]}]},
            {"matchers": ["a=2"], "routes": [{"matchers": ["b=1"]}]},
        ]
    )
    assert [route.key for route in config.route.walk()][2::2] == [
        '{}/{a="1"}/{b="1"}',
        '{}/{a="2"}/{b="1"}',
    ]


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ({"matchers": ["a=1"]}, "the root matches every alert; move the matchers"),
        ({"continue": True}, "the root has no siblings to continue with"),
        ({"group_by": ["a", "a"]}, "a is given twice"),
        ({"group_by": ["...", "a"]}, "`...` means all labels, so it must be the only item"),
        ({"group_interval": "0s"}, "must be greater than 0, got 0s"),
        ({"repeat_interval": "0"}, "must be greater than 0, got 0s"),
        ({"routes": [{"matchers": ['a=~"("']}]}, "'(' is not a regular expression of RE2"),
    ],
)
def test_a_tree_that_alertmanager_would_not_load_is_an_error(root, message):
    with pytest.raises(AlertConfigError) as raised:
        tree(**root)
    (problem,) = raised.value.problems
    assert problem.message.startswith(message)


# Against a plain walk


def walk(route: Route, labels: Mapping[str, str]) -> list[Route]:
    if not all(holds(matcher, labels.get(matcher.name, "")) for matcher in route.matchers):
        return []
    found: list[Route] = []
    for child in route.children:
        taken = walk(child, labels)
        found += taken
        if taken and not child.continues:
            break
    return found or [route]


def holds(matcher: Matcher, value: str) -> bool:
    if "~" in matcher.op:
        value = value.encode(errors="replace").decode()
        return (re2.search(f"^(?:{matcher.value})$", value) is not None) is (matcher.op == "=~")
    return (value == matcher.value) is (matcher.op == "=")


NAMES = ["a", "b", "c"]
VALUES = ["", "x", "y", "xy", "X1"]
PATTERNS = [
    "x|y",
    "x.*",
    ".*",
    ".+",
    "|x",
    "x?",
    "(?i)x.*",
    r".\d",
    "[^x]+",
    "nothing",
    "(x|xy)",
    "x[0-9]*",
    ".*y",
]
matchers = st.builds(
    lambda name, matcher: f'{name}{matcher[0]}"{matcher[1]}"',
    st.sampled_from(NAMES),
    st.tuples(st.sampled_from(["=", "!="]), st.sampled_from(VALUES))
    | st.tuples(st.sampled_from(["=~", "!~"]), st.sampled_from([*PATTERNS, *VALUES])),
)
group_bys = st.one_of(st.none(), st.just(["..."]), st.lists(st.sampled_from(NAMES), unique=True, max_size=2))
nodes = st.recursive(
    st.just([]),
    lambda below: st.lists(
        st.fixed_dictionaries(
            {
                "matchers": st.lists(matchers, max_size=2),
                "continue": st.booleans(),
                "group_by": group_bys,
                "routes": below,
            }
        ),
        max_size=5,
    ),
    max_leaves=12,
)
label_sets = st.dictionaries(st.sampled_from(NAMES), st.sampled_from([*VALUES, "z"]))


@settings(deadline=None, max_examples=60)
@given(nodes, st.lists(label_sets, min_size=1, max_size=8))
def test_the_router_finds_what_a_plain_walk_of_the_tree_finds(routes, some_labels):
    config = tree(routes=routes)
    router = AlertRouter(config)
    for labels in [*some_labels, *some_labels]:  # the second time from memory
        found = router.match(labels)
        assert [match.route for match in found] == walk(config.route, labels)
        for match in found:
            names = labels if match.route.group_by is None else match.route.group_by
            assert match.group_labels == {name: labels[name] for name in names if labels.get(name)}
            assert match.group_key.startswith(f"{match.route.key}:{{")


needed = st.sampled_from(
    ["x.+", "x[0-9]*", "(?i)x.*", ".+y", "[^x]+", "X1|x.", ".", "xy+", "y.*|x", "x", "(x|y)1?"]
)
needing = st.builds('{}=~"{}"'.format, st.sampled_from("ab"), needed)
odd_values = st.text("xy1X\n\u00e9\ud800", max_size=3)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(needing | matchers, min_size=1, max_size=2), min_size=5, max_size=25),
    st.lists(label_sets | st.dictionaries(st.sampled_from(NAMES), odd_values), min_size=1, max_size=8),
)
def test_the_router_finds_all_of_many_siblings_that_match_in_order(children, some_labels):
    config = tree(routes=[{"matchers": each, "continue": True} for each in children])
    router = AlertRouter(config)
    for labels in [*some_labels, *some_labels]:
        found = [match.route for match in router.match(labels)]
        assert found == walk(config.route, labels)


@settings(deadline=None, max_examples=60)
@given(nodes, label_sets, label_sets)
def test_two_label_sets_share_a_group_where_their_group_labels_are_the_same(routes, one, other):
    router = AlertRouter(tree(routes=routes, group_by=["a"]))

    def groups(labels: Mapping[str, str]) -> set[tuple[str, frozenset[tuple[str, str]]]]:
        return {(match.path, frozenset(match.group_labels.items())) for match in router.match(labels)}

    same = {match.group_key for match in router.match(one)} & {
        match.group_key for match in router.match(other)
    }
    assert len(groups(one) & groups(other)) == len(same)


def test_the_router_stays_right_after_more_label_sets_than_it_remembers():
    config = tree(
        routes=[
            {"receiver": "ends", "matchers": ['n=~".*7"'], "continue": True},
            {"receiver": "list", "matchers": ['n=~"1|12|123|9999"'], "continue": True},
            {"receiver": "not", "matchers": ['n!~"1.*"', "even=yes"], "continue": True},
            {"receiver": "value", "matchers": ["n=12345"], "group_by": ["n"], "continue": True},
            *(
                {"receiver": "five", "matchers": [f'n=~"{each}.*55"'], "continue": True}
                for each in range(1, 6)
            ),
        ]
    )
    router = AlertRouter(config)
    for number in [*range(21_000), 12_345, 7, 1_155]:
        labels = {"n": str(number), "even": "yes" if number % 2 == 0 else "no"}
        expected = [
            *["ends"] * (number % 10 == 7),
            *["list"] * (number in {1, 12, 123, 9999}),
            *["not"] * (number % 2 == 0 and not labels["n"].startswith("1")),
            *["value"] * (number == 12_345),
            *["five"] * (number % 100 == 55 and number > 100 and labels["n"][0] in "12345"),
        ]
        for _ in range(2):  # the second time it remembers them
            assert [match.receiver for match in router.match(labels)] == (expected or ["root"])
