"""`codomyrmex-streaming alerts check`, `show`, `route` and `explain`."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from typing import Annotated, Any

import typer
from codomyrmex.integrations.cli.alert_state import (
    SinkName,
    StatePlace,
    StreamName,
    place_of,
    read_state,
)
from codomyrmex.integrations.cli.arguments import (
    AsJson,
    ConfigPath,
    ConfigPaths,
    Labels,
    read_labels,
    read_time,
)
from codomyrmex.integrations.cli.output import (
    PROBLEMS,
    format_labels,
    plural,
    print_json,
    print_message,
    print_problems,
    printable,
    reporting_errors,
    stdout,
)
from codomyrmex.integrations.cli.store_access import run
from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.problems import ConfigError, Problem
from codomyrmex.integrations.notification import (
    AlertConfig,
    AlertEngine,
    AlertRouter,
    load_alert_config,
)
from codomyrmex.integrations.notification import lint as lint_config
from codomyrmex.integrations.notification.alerts.config import Route
from codomyrmex.integrations.notification.alerts.explain import explain as explain_labels
from codomyrmex.integrations.notification.alerts.state_config import VARIABLE
from rich.text import Text
from rich.tree import Tree

_TIMERS = {"group_wait": "wait", "group_interval": "interval", "repeat_interval": "repeat"}


def check(
    files: ConfigPaths,
    *,
    lint: Annotated[
        bool,
        typer.Option(
            help="Also look for receivers that deliver nothing, and settings that are probably not intended."
        ),
    ] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 1 if there are notes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check alert configurations.

    Prints, with file, line and column: errors; findings, such as a receiver that delivers nothing; and notes
    on settings that are allowed but probably not intended (routes that are never reached, receivers that no
    route uses, ...) and on options of an alertmanager.yml that have another effect here.

    Exit code 1 if there are errors or findings, or notes with --strict.
    """
    errors: list[Problem] = []
    findings: list[Problem] = []
    notes: list[Problem] = []
    with reporting_errors(as_json=as_json):
        for file in files:
            try:
                config = load_alert_config(file)
            except ConfigError as error:
                errors += error.problems
                continue
            for finding in lint_config(config, time.time()):
                if lint or finding.kind == "note":
                    (findings if finding.is_mistake else notes).append(finding)
    ok = not errors and not findings and not (strict and notes)
    if as_json:
        groups = {"errors": errors, "findings": findings, "notes": notes}
        print_json({"ok": ok} | {name: [each.to_dict() for each in group] for name, group in groups.items()})
    else:
        print_problems(stdout(), errors, "error", "red")
        print_problems(stdout(), findings, "lint", "yellow")
        print_problems(stdout(), notes, "note", "cyan")
        groups = {"error": errors, "finding": findings, "note": notes}
        counts = ", ".join(plural(len(found), word) for word, found in groups.items())
        result = f"{'ok' if ok else 'not ok'} ({counts})"
        print_message(f"{printable(', '.join(map(str, files)))}: {result}", "green" if ok else "red")
    if not ok:
        raise typer.Exit(PROBLEMS)


def show(file: ConfigPath, *, as_json: AsJson = False) -> None:
    """Show the routing tree.

    Each route is shown with its matchers, its receiver, and the settings that differ from its parent's.
    """
    with reporting_errors(as_json=as_json):
        config = load_alert_config(file)
    if as_json:
        print_json(_tree_to_dict(config, config.route))
    else:
        stdout().print(_tree(config.route))


def route(
    file: ConfigPath,
    labels: Labels = None,
    *,
    tree: Annotated[bool, typer.Option("--tree", help="Also show the routes that match.")] = False,
    verify: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="The expected receivers, in order; exit code 1 if they differ."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the receivers of an alert.

    They are separated by commas, as amtool does. Time intervals, inhibition and silences are ignored; see
    explain.
    """
    alert_labels = read_labels(labels)
    expected = None if verify is None else [each.strip() for each in verify.split(",")]
    if expected is not None and not all(expected):
        message = f"must be names of receivers, separated by commas, got {verify!r}"
        raise typer.BadParameter(message, param_hint="--verify")
    with reporting_errors(as_json=as_json):
        config = load_alert_config(file)
    matches = AlertRouter(config).match(alert_labels)
    receivers = [match.receiver for match in matches]
    verified = None if expected is None else expected == receivers
    if as_json:
        routes = [
            _route_to_dict(config, match.route)
            | {"group_labels": dict(match.group_labels), "group_key": match.group_key}
            for match in matches
        ]
        print_json({"labels": alert_labels, "receivers": receivers, "verified": verified, "routes": routes})
    else:
        if tree:
            matching = {match.path for match in matches}
            entered = {
                each.path
                for each in config.route.walk()
                if any(path == each.path or path.startswith(f"{each.path}.") for path in matching)
            }
            stdout().print(_tree(config.route, entered, matching))
        stdout().print(printable(",".join(receivers)), soft_wrap=True)
    if verified is False:
        print_message(printable(f"expected {verify}, got {','.join(receivers)}"), "red")
        raise typer.Exit(PROBLEMS)


def explain(
    file: ConfigPath,
    labels: Labels = None,
    *,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="The time for intervals, in ISO 8601; UTC unless it has an offset."
        ),
    ] = None,
    state: StatePlace = None,
    stream: StreamName = None,
    sink: SinkName = None,
    as_json: AsJson = False,
) -> None:
    """Explain which receivers an alert reaches, and why.

    Shows each route visited, each matcher, and where each setting comes from. With a state, its
    silences, active alerts and groups are taken into account, and --at defaults to now.
    """
    alert_labels = read_labels(labels)
    moment = None if at is None else read_time(at, "--at")
    saved = None
    if state is not None or os.environ.get(VARIABLE):
        place = place_of(state, None, stream, sink, as_json=as_json)
        saved = run(lambda: read_state(place), as_json=as_json)
    with reporting_errors(as_json=as_json):
        config = load_alert_config(file)
        engine = None
        if saved is not None:
            moment = time.time() if moment is None else moment
            engine = AlertEngine(config, saved)
        explanation = explain_labels(config, alert_labels, moment, engine)
    if as_json:
        print_json(explanation.to_dict())
        return
    console = stdout()
    for line in str(explanation).splitlines():
        text = line.lstrip()
        style = "bold green" if text.startswith("=>") else "dim" if text.startswith("- ") else ""
        console.print(Text(printable(line), style=style), soft_wrap=True)


# The routing tree


def _tree(root: Route, only: Collection[str] | None = None, matching: Collection[str] = ()) -> Tree:
    """Return the tree of routes.

    Args:
        root: the root.
        only: the paths of the routes to show; all by default.
        matching: the paths of the routes to highlight.
    """
    tree = Tree(_describe_route(root, None, root.path in matching))
    _add_children(tree, root, only, matching)
    return tree


def _add_children(tree: Tree, parent: Route, only: Collection[str] | None, matching: Collection[str]) -> None:
    for child in parent.children:
        if only is None or child.path in only:
            subtree = tree.add(_describe_route(child, parent, child.path in matching))
            _add_children(subtree, child, only, matching)


def _describe_route(route: Route, parent: Route | None, highlight: bool) -> Text:  # noqa: FBT001 - private
    matchers = ", ".join(str(matcher) for matcher in route.matchers)
    condition = "all alerts" if parent is None else matchers or "all other alerts"
    text = Text(printable(condition), style="cyan" if matchers else "")
    text.append(" -> ", style="default not bold")
    text.append(printable(route.receiver), style=f"{'green' if highlight else 'default'} bold")
    if route.continues:
        text.append("  continue", style="yellow not bold")
    settings = "  ".join(_settings(route, parent))
    text.append(f"\n  {settings}" if settings else "", style="default not bold dim")
    return text


def _settings(route: Route, parent: Route | None) -> Iterator[str]:
    if parent is None or route.group_by != parent.group_by:
        names = "all labels" if route.group_by is None else ", ".join(route.group_by) or "nothing"
        yield f"group by {printable(names)}"
    for name, word in _TIMERS.items():
        if parent is None or getattr(route, name) != getattr(parent, name):
            yield f"{word} {Duration(getattr(route, name))}"
    if route.mute:
        yield f"muted in {printable(', '.join(interval.name for interval in route.mute))}"
    if route.active:
        yield f"active in {printable(', '.join(interval.name for interval in route.active))}"
    for name in ("on_unmute", "resolve_always"):
        if (
            getattr(route, name) != (None if parent is None else getattr(parent, name))
            and name in route.origins
        ):
            yield f"{name}: {str(getattr(route, name)).lower()}"
    if route.labels and (parent is None or route.labels != parent.labels):
        yield f"labels {format_labels(route.labels.items())}"


def _route_to_dict(config: AlertConfig, route: Route) -> dict[str, Any]:
    """Return a route with the settings that it inherits as built-in types; durations are in seconds."""
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


def _tree_to_dict(config: AlertConfig, route: Route) -> dict[str, Any]:
    """Return a route and its children as built-in types."""
    return {
        **_route_to_dict(config, route),
        "routes": [_tree_to_dict(config, child) for child in route.children],
    }
