"""`alerts test` and `alerts replay`: what a configuration does, in virtual time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from codomyrmex.integrations.cli.arguments import YEARS, AsJson
from codomyrmex.integrations.cli.output import (
    PROBLEMS,
    Row,
    counted,
    err,
    labels_shown,
    out,
    print_json,
    print_problems,
    print_table,
    say,
    shown,
    telling,
)
from codomyrmex.integrations.configuration.problems import ConfigError, Problem
from codomyrmex.integrations.notification import Sent, load_alert_config
from codomyrmex.integrations.notification.alerts.notification import Kind, Status, iso
from codomyrmex.integrations.notification.alerts.replay import Comparison, compare, read_events, sent_as_dict
from codomyrmex.integrations.notification.alerts.replay import replay as run_replay
from codomyrmex.integrations.notification.alerts.scenarios import TestResult, run_tests
from codomyrmex.streaming import Event
from rich.text import Text

_SIGNS = {"-": "red", "+": "green", " ": ""}


def run(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE", help="Configurations.", show_default=False, exists=True, dir_okay=False
        ),
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Run the `tests:` of configurations in virtual time.

    Of a test that fails all notifications are shown: `-` was expected and not sent, `+` was sent and not
    expected. Exit code 1 if one fails, or if there are none.
    """
    results: list[tuple[Path, TestResult]] = []
    errors: list[Problem] = []
    with telling(as_json=as_json):
        for file in files:
            try:
                results += [(file, result) for result in run_tests(load_alert_config(file))]
            except ConfigError as error:
                errors += error.problems
    failed = sum(not result.passed for _, result in results)
    good = bool(results) and not failed and not errors
    if as_json:
        tests = [{"file": str(file)} | result.to_dict() for file, result in results]
        print_json({"ok": good, "errors": [each.to_dict() for each in errors], "tests": tests})
    else:
        print_problems(err(), errors, "error", "red")
        for file, result in results:
            _print_result(file, result)
        counts = f"{len(results) - failed} passed, {failed} failed" if results else "there are no tests"
        say(f"{counts}, {counted(len(errors), 'error')}" if errors else counts, "green" if good else "red")
    if not good:
        raise typer.Exit(PROBLEMS)


def _print_result(file: Path, result: TestResult) -> None:
    line = Text("passed  " if result.passed else "FAILED  ", style="green" if result.passed else "bold red")
    place = f"{file}:{result.line}" if result.line else str(file)
    line.append(shown(f"{place}  {result.name}"), style="default not bold")
    console = out()
    console.print(line, soft_wrap=True)
    if not result.passed:
        for text in result.report.splitlines():
            console.print(Text(f"        {shown(text)}", style=_SIGNS.get(text[:1], "")), soft_wrap=True)


def replay(
    old: Annotated[
        Path, typer.Argument(help="The configuration.", show_default=False, exists=True, dir_okay=False)
    ],
    new: Annotated[
        Path | None,
        typer.Argument(help="Another one to compare with.", show_default=False, exists=True, dir_okay=False),
    ] = None,
    *,
    events: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Recorded events, one as JSON in each line.",
            show_default=False,
            exists=True,
            dir_okay=False,
        ),
    ],
    changes: Annotated[bool, typer.Option("--changes", help="Show only what differs.")] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit code 1 if there is a difference.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what would have been sent for recorded events, in virtual time.

    With two configurations `-` is what only OLD would have sent, and `+` what only NEW would.
    """
    with telling(as_json=as_json):
        configs = [load_alert_config(path) for path in (old, new) if path is not None]
        recorded = _read_events(events)
        runs = [run_replay(config, recorded) for config in configs]
    if len(runs) == 1:
        if as_json:
            print_json({"sent": [sent_as_dict(sent) for sent in runs[0]]})
        else:
            _print_sent([(" ", sent) for sent in runs[0]])
            say(f"{counted(len(recorded), 'event')}, {counted(len(runs[0]), 'notification')}")
        return
    comparison = compare(*runs)
    differs = bool(comparison.only_old or comparison.only_new)
    if as_json:
        print_json(comparison.to_dict())
    else:
        _print_sent(_rows(comparison, changes=changes))
        say(
            f"{counted(len(recorded), 'event')}: {counted(len(comparison.same), 'notification')} the same, "
            f"{len(comparison.only_old)} only by {shown(str(old))} (-), "
            f"{len(comparison.only_new)} only by {shown(str(new))} (+)"
        )
    if differs and exit_code:
        raise typer.Exit(PROBLEMS)


def _read_events(path: Path) -> list[Event]:
    found = read_events(path)
    if found and found[-1].timestamp.year >= YEARS[1]:  # what follows may be after the last year there is
        message = f"the event {found[-1].id} is of the year {found[-1].timestamp.year}"
        raise ConfigError([Problem(f"{message}; they are replayed up to {YEARS[1]}", file=str(path))])
    return found


def _rows(comparison: Comparison, *, changes: bool) -> list[tuple[str, Sent]]:
    rows = [
        *((" ", sent) for sent in comparison.same if not changes),
        *(("-", sent) for sent in comparison.only_old),
        *(("+", sent) for sent in comparison.only_new),
    ]
    return sorted(rows, key=lambda row: row[1].at)


def _print_sent(rows: list[tuple[str, Sent]]) -> None:
    signs = any(sign != " " for sign, _ in rows)
    names = [*([""] if signs else []), "time", "receiver", "alerts", "reason", "group"]
    print_table(names, [_row(sign, sent, signs=signs) for sign, sent in rows])


def _row(sign: str, sent: Sent, *, signs: bool) -> Row:
    notification = sent.notification
    counts = Counter(alert.status for alert in notification.alerts)
    told = ", ".join(f"{status.value} {counts[status]}" for status in Status if counts[status])
    kind = "" if notification.kind is Kind.GROUP else f" ({notification.kind.value})"
    cells = [
        iso(sent.at).replace(".000Z", "Z"),
        shown(notification.receiver),
        told,
        f"{notification.reason.value}{kind}",
    ]
    group = labels_shown(notification.group_labels.items())
    return Row([*([sign] if signs else []), *cells], [group], _SIGNS[sign])
