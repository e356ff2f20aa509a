"""`codomyrmex-streaming alerts test` and `replay`: a configuration in virtual time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from codomyrmex.integrations.cli.arguments import AsJson, ConfigPaths, existing_file
from codomyrmex.integrations.cli.output import (
    PROBLEMS,
    Row,
    format_labels,
    plural,
    print_json,
    print_message,
    print_problems,
    print_table,
    printable,
    reporting_errors,
    stderr,
    stdout,
)
from codomyrmex.integrations.configuration.problems import ConfigError, Problem
from codomyrmex.integrations.notification import Sent, load_alert_config
from codomyrmex.integrations.notification.alerts.notification import Kind, Status, iso
from codomyrmex.integrations.notification.alerts.replay import Comparison, compare, read_events, sent_as_dict
from codomyrmex.integrations.notification.alerts.replay import replay as run_replay
from codomyrmex.integrations.notification.alerts.simulation import TestResult, run_tests
from rich.text import Text

_SIGNS = {"-": "red", "+": "green", " ": ""}


def run(files: ConfigPaths, *, as_json: AsJson = False) -> None:
    """Run the `tests:` of configurations in virtual time.

    All notifications of a test that fails are shown: `-` was expected but not sent, `+` was sent but not
    expected. Exit code 1 if a test fails, or if there are none.
    """
    results: list[tuple[Path, TestResult]] = []
    errors: list[Problem] = []
    with reporting_errors(as_json=as_json):
        for file in files:
            try:
                results += [(file, result) for result in run_tests(load_alert_config(file))]
            except ConfigError as error:
                errors += error.problems
    failed = sum(not result.passed for _, result in results)
    ok = bool(results) and not failed and not errors
    if as_json:
        tests = [{"file": str(file)} | result.to_dict() for file, result in results]
        print_json({"ok": ok, "errors": [each.to_dict() for each in errors], "tests": tests})
    else:
        print_problems(stderr(), errors, "error", "red")
        for file, result in results:
            _print_result(file, result)
        counts = f"{len(results) - failed} passed, {failed} failed" if results else "no tests found"
        print_message(
            f"{counts}, {plural(len(errors), 'error')}" if errors else counts, "green" if ok else "red"
        )
    if not ok:
        raise typer.Exit(PROBLEMS)


def _print_result(file: Path, result: TestResult) -> None:
    line = Text("passed  " if result.passed else "FAILED  ", style="green" if result.passed else "bold red")
    position = f"{file}:{result.line}" if result.line else str(file)
    line.append(printable(f"{position}  {result.name}"), style="default not bold")
    console = stdout()
    console.print(line, soft_wrap=True)
    if not result.passed:
        for text in result.report.splitlines():
            console.print(Text(f"        {printable(text)}", style=_SIGNS.get(text[:1], "")), soft_wrap=True)


def replay(
    old: Annotated[Path, existing_file("The configuration.", "OLD")],
    new: Annotated[Path | None, existing_file("A configuration to compare with.", "NEW")] = None,
    *,
    events: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Recorded events, a line of JSON for each.",
            show_default=False,
            exists=True,
            dir_okay=False,
        ),
    ],
    changes: Annotated[bool, typer.Option("--changes", help="Show only the differences.")] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with code 1 if there are differences.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the notifications for recorded events, in virtual time.

    With two configurations, `-` marks the notifications that only OLD sends, and `+` those that only NEW
    sends.
    """
    with reporting_errors(as_json=as_json):
        configs = [load_alert_config(path) for path in (old, new) if path is not None]
        recorded = read_events(events)
        runs = [run_replay(config, recorded) for config in configs]
    if len(runs) == 1:
        if as_json:
            print_json({"sent": [sent_as_dict(sent) for sent in runs[0]]})
        else:
            _print_sent([(" ", sent) for sent in runs[0]])
            print_message(f"{plural(len(recorded), 'event')}, {plural(len(runs[0]), 'notification')}")
        return
    comparison = compare(*runs)
    differs = bool(comparison.only_old or comparison.only_new)
    if as_json:
        print_json(comparison.to_dict())
    else:
        _print_sent(_rows(comparison, changes=changes))
        print_message(
            f"{plural(len(recorded), 'event')}: {plural(len(comparison.same), 'notification')} in both, "
            f"{len(comparison.only_old)} only with {printable(str(old))} (-), "
            f"{len(comparison.only_new)} only with {printable(str(new))} (+)"
        )
    if differs and exit_code:
        raise typer.Exit(PROBLEMS)


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
    alerts = ", ".join(f"{status.value} {counts[status]}" for status in Status if counts[status])
    kind = "" if notification.kind is Kind.GROUP else f" ({notification.kind.value})"
    cells = [
        iso(sent.at).replace(".000Z", "Z"),
        printable(notification.receiver),
        alerts,
        f"{notification.reason.value}{kind}",
    ]
    group = format_labels(notification.group_labels.items())
    return Row([*([sign] if signs else []), *cells], [group], _SIGNS[sign])
