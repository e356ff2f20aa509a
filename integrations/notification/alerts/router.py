"""`AlertRouter`: from labels to the routes that take them, in Alertmanager's order."""

from __future__ import annotations

from collections.abc import Callable

from codomyrmex.integrations.configuration.matchers import Labels, Matcher, Op
from codomyrmex.integrations.configuration.regex_sets import RegexSets
from codomyrmex.integrations.notification.alerts.config import AlertConfig, Route
from codomyrmex.integrations.notification.alerts.explain import Explanation, explain
from codomyrmex.integrations.notification.alerts.group_key import RouteMatch, route_match

_MAX_KEPT = 10_000  # label sets whose routes are remembered


class AlertRouter:
    """Finds the routes of labels.

    Args:
        config: the configuration.
    """

    def __init__(self, config: AlertConfig) -> None:
        self.config = config
        routes = config.route.walk()
        self._regexes = RegexSets(matcher for route in routes for matcher in route.matchers)
        self._root = _Node(config.route, self._regexes)
        self._known: dict[tuple[str, ...], tuple[RouteMatch, ...]] = {}

    # Seen before: one tuple and one lookup. The same labels in another order take a second place, no more.
    def match(self, labels: Labels) -> list[RouteMatch]:
        """Give the routes that take labels, in Alertmanager's order: never none.

        Args:
            labels: a missing label is the same as an empty one.
        """
        key = (*labels, *labels.values())
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MAX_KEPT:
                self._known.clear()
            known = self._known[key] = tuple(self.match_once(labels))
        return list(known)

    # A walk that looks only at the children which an index over their first positive matcher gives, and
    # asks RE2 once for each label, not for each route.
    def match_once(self, labels: Labels) -> list[RouteMatch]:
        """Give the same as `match`, for labels that are not asked for again: nothing is remembered."""
        found: list[Route] = []
        self._root.collect(labels, found)
        return [route_match(route, labels) for route in found]

    def explain(self, labels: Labels, at: float | None = None) -> Explanation:
        """Explain which routes take labels, and why; printed, it is a tree.

        Args:
            labels: the labels of an alert.
            at: a moment, in seconds since 1970, for the time intervals.
        """
        return explain(self.config, labels, at)


class _Node:
    """A route, with an index of its children.

    A child that has a matcher with an expression or a list of values which does not take the empty one can
    only match if the label has such a value. All others are looked at each time.
    """

    __slots__ = ("_always", "_by_regex", "_by_value", "_checks", "_children", "_regexes", "_route")

    def __init__(self, route: Route, regexes: RegexSets) -> None:
        self._route = route
        self._regexes = regexes
        self._children = [_Node(child, regexes) for child in route.children]
        self._checks = [_check(matcher, regexes) for matcher in route.matchers]
        self._always: list[int] = []
        self._by_value: dict[str, dict[str, list[int]]] = {}
        self._by_regex: dict[str, dict[str, list[int]]] = {}
        for place, child in enumerate(route.children):
            self._index(place, child.matchers)

    def _index(self, place: int, matchers: tuple[Matcher, ...]) -> None:
        for matcher in matchers:
            if matcher.choices is not None:
                places = self._by_value.setdefault(matcher.name, {})
                for value in matcher.choices:
                    places.setdefault(value, []).append(place)
                return
        for matcher in matchers:
            if matcher.op is Op.REGEX and not matcher.holds(""):
                self._by_regex.setdefault(matcher.name, {}).setdefault(matcher.value, []).append(place)
                return
        self._always.append(place)

    def collect(self, labels: Labels, found: list[Route]) -> bool:
        """Add the routes that take labels; False if this one does not."""
        for check in self._checks:
            if not check(labels):
                return False
        taken = False
        for place in self._candidates(labels):
            if self._children[place].collect(labels, found):
                taken = True
                if not self._route.children[place].continues:
                    break
        if not taken:
            found.append(self._route)
        return True

    def _candidates(self, labels: Labels) -> list[int]:
        places = list(self._always)
        for name, by_value in self._by_value.items():
            value = labels.get(name)
            if value:
                places += by_value.get(value, ())
        for name, by_regex in self._by_regex.items():
            value = labels.get(name)
            if value:
                for pattern in self._regexes.matching(name, value):
                    places += by_regex.get(pattern, ())
        places.sort()
        return places


def _check(matcher: Matcher, regexes: RegexSets) -> Callable[[Labels], bool]:
    """Make a test of a matcher that asks RE2 no more than once for a value."""
    name, value, negative = matcher.name, matcher.value, matcher.op in {Op.NOT_EQUAL, Op.NOT_REGEX}
    if matcher.regex is None:
        return lambda labels: (labels.get(name, "") == value) is not negative
    return lambda labels: (value in regexes.matching(name, labels.get(name, ""))) is not negative
