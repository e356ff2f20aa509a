"""A route that takes some labels, and the group they make there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from codomyrmex.integrations.configuration.matchers import Labels, quote_group
from codomyrmex.integrations.notification.alerts.config import Route


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """A route that takes some labels, and the group they belong to there.

    Args:
        route: the node of the tree, with its settings.
        group_labels: those of the labels that make the group.
        group_key: what names the group in the notification log.
    """

    route: Route
    group_labels: Mapping[str, str]
    group_key: str

    @property
    def receiver(self) -> str:
        """The name of the receiver."""
        return self.route.receiver

    @property
    def path(self) -> str:
        """Where the route stands in the file."""
        return self.route.path


def route_match(route: Route, labels: Labels) -> RouteMatch:
    """Give the group of labels at a route."""
    names = sorted(labels) if route.group_names is None else route.group_names
    group = {name: value for name in names if (value := labels.get(name))}
    text = ", ".join([f"{name}={quote_group(value)}" for name, value in group.items()])
    return RouteMatch(route, group, f"{route.key}:{{{text}}}")
