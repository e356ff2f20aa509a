"""`AlertRouter`: the routes that match labels, in Alertmanager's order."""

from __future__ import annotations

from collections.abc import Callable

from codomyrmex.integrations.configuration.matchers import Labels, Matcher, Op, RegexSets
from codomyrmex.integrations.notification.alerts.config import AlertConfig, Route, check_config
from codomyrmex.integrations.notification.alerts.explain import Explanation, explain
from codomyrmex.integrations.notification.alerts.group import RouteMatch, route_match

_CACHE_SIZE = 10_000  # label sets


class AlertRouter:
    """Finds the routes of labels.

    Args:
        config: the configuration.
    """

    def __init__(self, config: AlertConfig) -> None:
        check_config(config)
        self.config = config
        routes = config.route.walk()
        regexes = RegexSets(matcher for route in routes for matcher in route.matchers)
        self._root = _Node(config.route, regexes)
        self._cache: dict[tuple[str, ...], tuple[RouteMatch, ...]] = {}

    # A hit costs one tuple and one lookup. The same labels in another order are cached a second time.
    def match(self, labels: Labels) -> list[RouteMatch]:
        """Return the routes that match labels, in Alertmanager's order; there is always at least one.

        Args:
            labels: a missing label is equal to an empty one.
        """
        key = (*labels, *labels.values())
        matches = self._cache.get(key)
        if matches is None:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            matches = self._cache[key] = tuple(self.match_once(labels))
        return list(matches)

    def match_once(self, labels: Labels) -> list[RouteMatch]:
        """Return the same as `match`, without the cache: for labels that are matched once."""
        found: list[Route] = []
        self._root.collect(labels, found)
        return [route_match(route, labels) for route in found]

    def explain(self, labels: Labels, at: float | None = None) -> Explanation:
        """Explain which routes match labels, and why; as text it is a tree.

        Args:
            labels: the labels of an alert.
            at: a time in seconds since 1970, for the time intervals.
        """
        return explain(self.config, labels, at)


class _Node:
    """A route with an index of its children, by their first matcher that needs a value.

    A child with such a matcher, a list of values or an expression that does not match the empty text, can
    only match if the label has such a value. The other children are checked each time.
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
        for number, child in enumerate(route.children):
            self._index(number, child.matchers)

    def _index(self, number: int, matchers: tuple[Matcher, ...]) -> None:
        for matcher in matchers:
            if matcher.choices is not None:
                numbers = self._by_value.setdefault(matcher.name, {})
                for value in matcher.choices:
                    numbers.setdefault(value, []).append(number)
                return
        for matcher in matchers:
            if matcher.op is Op.REGEX and not matcher.holds(""):
                self._by_regex.setdefault(matcher.name, {}).setdefault(matcher.value, []).append(number)
                return
        self._always.append(number)

    def collect(self, labels: Labels, found: list[Route]) -> bool:
        """Add the routes that match labels; return False if this one does not."""
        for check in self._checks:
            if not check(labels):
                return False
        matched = False
        for number in self._candidates(labels):
            if self._children[number].collect(labels, found):
                matched = True
                if not self._route.children[number].continues:
                    break
        if not matched:
            found.append(self._route)
        return True

    def _candidates(self, labels: Labels) -> list[int]:
        numbers = list(self._always)
        for name, by_value in self._by_value.items():
            value = labels.get(name)
            if value:
                numbers += by_value.get(value, ())
        for name, by_regex in self._by_regex.items():
            value = labels.get(name)
            if value:
                for pattern in self._regexes.matching(name, value):
                    numbers += by_regex.get(pattern, ())
        numbers.sort()
        return numbers


def _check(matcher: Matcher, regexes: RegexSets) -> Callable[[Labels], bool]:
    """Return a check of a matcher that asks RE2 at most once for a value."""
    name, value, negative = matcher.name, matcher.value, matcher.op in {Op.NOT_EQUAL, Op.NOT_REGEX}
    if matcher.regex is None:
        return lambda labels: (labels.get(name, "") == value) is not negative
    return lambda labels: (value in regexes.matching(name, labels.get(name, ""))) is not negative
