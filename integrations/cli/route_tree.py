"""A routing tree as rich shows it and as JSON."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from codomyrmex.integrations.cli.output import labels_shown, shown
from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.notification import AlertConfig
from codomyrmex.integrations.notification.alerts.config import Route
from rich.text import Text
from rich.tree import Tree

_TIMERS = {"group_wait": "wait", "group_interval": "interval", "repeat_interval": "repeat"}


def tree_of(root: Route, only: Collection[str] | None = None, taking: Collection[str] = ()) -> Tree:
    """Make the tree, each route with what it sets other than the one above it.

    Args:
        root: the root.
        only: the paths of the routes to show; all if None.
        taking: the paths of those to show as the ones that take an alert.
    """
    tree = Tree(_label(root, None, root.path in taking))
    _add_below(tree, root, only, taking)
    return tree


def _add_below(tree: Tree, parent: Route, only: Collection[str] | None, taking: Collection[str]) -> None:
    for child in parent.children:
        if only is None or child.path in only:
            _add_below(tree.add(_label(child, parent, child.path in taking)), child, only, taking)


def _label(route: Route, parent: Route | None, takes: bool) -> Text:  # noqa: FBT001 - private
    matchers = ", ".join(str(matcher) for matcher in route.matchers)
    first = "everything" if parent is None else matchers or "all the rest"
    label = Text(shown(first), style="cyan" if matchers else "")
    label.append(" -> ", style="default not bold")
    label.append(shown(route.receiver), style=f"{'green' if takes else 'default'} bold")
    if route.continues:
        label.append("  continue", style="yellow not bold")
    settings = "  ".join(_settings(route, parent))
    label.append(f"\n  {settings}" if settings else "", style="default not bold dim")
    return label


def _settings(route: Route, parent: Route | None) -> Iterator[str]:
    if parent is None or route.group_by != parent.group_by:
        names = "all labels" if route.group_by is None else ", ".join(route.group_by) or "nothing"
        yield f"group by {shown(names)}"
    for name, word in _TIMERS.items():
        if parent is None or getattr(route, name) != getattr(parent, name):
            yield f"{word} {Duration(getattr(route, name))}"
    if route.mute:
        yield f"muted in {shown(', '.join(interval.name for interval in route.mute))}"
    if route.active:
        yield f"active in {shown(', '.join(interval.name for interval in route.active))}"
    for name in ("on_unmute", "resolve_always"):
        if (
            getattr(route, name) != (None if parent is None else getattr(parent, name))
            and name in route.origins
        ):
            yield f"{name}: {str(getattr(route, name)).lower()}"
    if route.labels and (parent is None or route.labels != parent.labels):
        yield f"labels {labels_shown(route.labels.items())}"


def route_as_dict(config: AlertConfig, route: Route) -> dict[str, Any]:
    """Give a route as built-in types, with what it inherits; times are in seconds."""
    return {
        "path": route.path,
        "line": config.line(route.path),
        "matchers": [str(matcher) for matcher in route.matchers],
        "continue": route.continues,
        "receiver": route.receiver,
        "group_by": ["..."] if route.group_by is None else list(route.group_by),
        **{name: getattr(route, name) for name in _TIMERS},
        "mute_time_intervals": [interval.name for interval in route.mute],
        "active_time_intervals": [interval.name for interval in route.active],
        "on_unmute": route.on_unmute,
        "resolve_always": route.resolve_always,
        "labels": dict(route.labels),
    }


def tree_as_dict(config: AlertConfig, route: Route) -> dict[str, Any]:
    """Give a route and all below it as built-in types."""
    return {
        **route_as_dict(config, route),
        "routes": [tree_as_dict(config, child) for child in route.children],
    }
