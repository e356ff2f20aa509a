"""`AlertRouter`: the routes that match labels, in Alertmanager's order."""

from __future__ import annotations

from codomyrmex.integrations.configuration.matchers import Labels, RegexSets
from codomyrmex.integrations.notification.alerts.config import AlertConfig, Route, check_config
from codomyrmex.integrations.notification.alerts.explain import Explanation, explain
from codomyrmex.integrations.notification.alerts.group import RouteMatch, route_matches
from codomyrmex.integrations.notification.alerts.matcher_index import MatcherIndex

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
        self._cache: dict[tuple[str, ...], list[RouteMatch]] = {}
        self._seen = set[int]()  # hashes of labels that have been matched once

    # A hit costs one tuple and one lookup. The same labels in another order are cached a second time. Labels
    # that are matched once, as most are, are not cached; keeping them would take as long as finding routes.
    def match(self, labels: Labels) -> list[RouteMatch]:
        """Return the routes that match labels, in Alertmanager's order; there is always at least one.

        Args:
            labels: a missing label is equal to an empty one.
        """
        key = (*labels, *labels.values())
        cached = self._cache.get(key)
        if cached is not None:
            return cached.copy()
        matches = self.match_once(labels)
        number = hash(key)
        if number in self._seen:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            self._cache[key] = matches.copy()
        else:
            if len(self._seen) >= _CACHE_SIZE:
                self._seen.clear()
            self._seen.add(number)
        return matches

    def match_once(self, labels: Labels) -> list[RouteMatch]:
        """Return the same as `match`, without the cache: for labels that are matched once."""
        found: list[Route] = []
        self._root.collect(labels, found)
        return route_matches(found, labels)

    def explain(self, labels: Labels, at: float | None = None) -> Explanation:
        """Explain which routes match labels, and why; as text it is a tree.

        Args:
            labels: the labels of an alert.
            at: a time in seconds since 1970, for the time intervals.
        """
        return explain(self.config, labels, at)


class _Node:
    """A route with an index of its children."""

    __slots__ = ("_children", "_index", "_route", "continues")

    def __init__(self, route: Route, regexes: RegexSets) -> None:
        self._route = route
        self.continues = route.continues
        self._children = [_Node(child, regexes) for child in route.children]
        self._index = MatcherIndex([child.matchers for child in route.children], regexes)

    def collect(self, labels: Labels, found: list[Route]) -> None:
        """Add the matching routes below this one, or this one if none does. The labels match this one."""
        matched = False
        if self._children:
            for number in self._index.matching(labels):
                child = self._children[number]
                child.collect(labels, found)
                matched = True
                if not child.continues:
                    break
        if not matched:
            found.append(self._route)
