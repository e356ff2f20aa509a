"""`alerts check`, `show`, `route` and `explain`: what a configuration says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from codomyrmex.integrations.cli.arguments import (
    AsJson,
    ConfigPath,
    Labels,
    StatePath,
    read_labels,
    read_time,
)
from codomyrmex.integrations.cli.output import (
    PROBLEMS,
    counted,
    out,
    print_json,
    print_problems,
    say,
    shown,
    telling,
)
from codomyrmex.integrations.cli.route_tree import route_as_dict, tree_as_dict, tree_of
from codomyrmex.integrations.configuration.problems import ConfigError, Problem
from codomyrmex.integrations.notification import (
    AlertEngine,
    AlertRouter,
    StateFile,
    load_alert_config,
)
from codomyrmex.integrations.notification import lint as lint_config
from codomyrmex.integrations.notification.alerts.explain import explain as explain_labels
from rich.text import Text

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE", help="Configurations.", show_default=False, exists=True, dir_okay=False),
]


def check(
    files: Files,
    *,
    lint: Annotated[bool, typer.Option(help="Look for what is allowed and can hardly be meant.")] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Notes count as problems too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check configurations.

    Shows all errors with file, line and column, then what lint finds (routes that are never reached,
    receivers that nothing uses, ...), then notes on what is accepted and not used. Errors and findings of
    lint give exit code 1; notes do not, but with --strict.
    """
    errors: list[Problem] = []
    findings: list[Problem] = []
    notes: list[Problem] = []
    with telling(as_json=as_json):
        for file in files:
            try:
                config = load_alert_config(file)
            except ConfigError as error:
                errors += error.problems
                continue
            for found in lint_config(config, time.time()):
                (notes if found.kind == "note" else findings).append(found)
    if not lint:
        findings = []
    good = not errors and not findings and not (strict and notes)
    if as_json:
        groups = {"errors": errors, "findings": findings, "notes": notes}
        print_json(
            {"ok": good} | {name: [each.to_dict() for each in group] for name, group in groups.items()}
        )
    else:
        print_problems(out(), errors, "error", "red")
        print_problems(out(), findings, "lint", "yellow")
        print_problems(out(), notes, "note", "cyan")
        counts = [
            counted(len(errors), "error"),
            counted(len(findings), "finding"),
            counted(len(notes), "note"),
        ]
        what = shown(", ".join(map(str, files)))
        say(f"{what}: {'good' if good else 'not good'} ({', '.join(counts)})", "green" if good else "red")
    if not good:
        raise typer.Exit(PROBLEMS)


def show(file: ConfigPath, *, as_json: AsJson = False) -> None:
    """Show the routing tree.

    Each route has its matchers, its receiver, and the settings that differ from those of the route above.
    """
    with telling(as_json=as_json):
        config = load_alert_config(file)
    if as_json:
        print_json(tree_as_dict(config, config.route))
    else:
        out().print(tree_of(config.route))


def route(
    file: ConfigPath,
    labels: Labels = None,
    *,
    tree: Annotated[bool, typer.Option("--tree", help="Show the routes that match, too.")] = False,
    verify: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="The receivers expected, in order; others give exit code 1."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the receivers of an alert with some labels, separated by commas, as amtool does.

    Time intervals, inhibition and silences do not count; see explain.
    """
    given = read_labels(labels)
    with telling(as_json=as_json):
        config = load_alert_config(file)
    matches = AlertRouter(config).match(given)
    receivers = [match.receiver for match in matches]
    verified = None if verify is None else [each.strip() for each in verify.split(",")] == receivers
    if as_json:
        routes = [
            route_as_dict(config, match.route)
            | {"group_labels": dict(match.group_labels), "group_key": match.group_key}
            for match in matches
        ]
        print_json({"labels": given, "receivers": receivers, "verified": verified, "routes": routes})
    else:
        if tree:
            taking = {match.path for match in matches}
            entered = {
                each.path
                for each in config.route.walk()
                if any(path == each.path or path.startswith(f"{each.path}.") for path in taking)
            }
            out().print(tree_of(config.route, entered, taking))
        out().print(shown(",".join(receivers)), soft_wrap=True)
    if verified is False:
        say(shown(f"expected {verify}, found {','.join(receivers)}"), "red")
        raise typer.Exit(PROBLEMS)


def explain(
    file: ConfigPath,
    labels: Labels = None,
    *,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="A moment in ISO 8601, UTC unless it has an offset, for intervals."
        ),
    ] = None,
    state: StatePath = None,
    as_json: AsJson = False,
) -> None:
    """Explain where an alert goes and why: each route visited, each matcher, where each setting comes from.

    With a state file, silences, inhibition and groups are as they are there; then the moment is now unless
    it is given.
    """
    given = read_labels(labels)
    moment = None if at is None else read_time(at, "--at")
    if state is not None and not state.exists():
        raise typer.BadParameter(f"there is no state file {state}", param_hint="--state")
    with telling(as_json=as_json):
        config = load_alert_config(file)
        engine = None
        if state is not None:
            moment = time.time() if moment is None else moment
            kept = StateFile(state)
            try:
                engine = AlertEngine(config, kept.load())
            finally:
                kept.close()
        explanation = explain_labels(config, given, moment, engine)
    if as_json:
        print_json(explanation.to_dict())
        return
    console = out()
    for line in str(explanation).splitlines():
        begin = line.lstrip()
        style = "bold green" if begin.startswith("=>") else "dim" if begin.startswith("- ") else ""
        console.print(Text(shown(line), style=style), soft_wrap=True)
