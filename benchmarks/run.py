"""Measure everything, print the table, and write `benchmarks/results.md`; `--help` lists the options."""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import alert_api
import alerts
import assistants
import breakers
import durable
import pipelines
import shared_alerts
import sinks
import streams
import web
from measure import Result
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).with_name("results.md")
GROUPS = (streams, sinks, breakers, alerts, alert_api, shared_alerts, web, assistants, pipelines, durable)
COLUMNS = ("work", "against", "ratio", "bar", "", "in this run")


def cells(result: Result) -> tuple[str, ...]:
    better = "≥" if result.rate else "≤"
    bar = "" if result.bar is None else f"{better} {result.bar:.2f} x"
    mark = "" if result.bar is None else "kept" if result.kept else "MISSED"
    ratio = "" if math.isnan(result.ratio) else f"{result.ratio:.2f} x"
    return result.work, result.against, ratio, bar, mark, result.detail


def markdown(results: Sequence[Result], seconds: float) -> str:
    lines = [
        "# Benchmark results",
        "",
        (
            f"{datetime.now(UTC):%Y-%m-%d}, {platform.python_implementation()} "
            f"{platform.python_version()}, {os.cpu_count()} cores, {seconds:.0f} s. Made by `make bench`."
        ),
        "",
        "Candidate and baseline run in turn in the same process; the ratio is the median over the rounds.",
        "Where a bar is `≤` the ratio is of times, where it is `≥` of rates. Rows without a bar are for",
        "information: an empty handler shows what publishing itself costs, of which the coroutine that",
        "`await publish()` needs is the largest part.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "| --- | --- | ---: | ---: | --- | --- |",
        *("| " + " | ".join(cells(result)) + " |" for result in results),
        "",
    ]
    return "\n".join(lines)


def new_console() -> Console:
    console = Console()
    if not console.is_terminal:  # a file: no line is wrapped
        console.width = 400
    return console


def print_table(console: Console, results: Sequence[Result]) -> None:
    table = Table(*COLUMNS)
    for result in results:
        table.add_row(*cells(result), style="" if result.kept else "bold red")
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition(",")[0] + " and print the table.")
    names = [group.__name__ for group in GROUPS]
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"{', '.join(names)}; all by default")
    parser.add_argument("--no-write", action="store_true", help="keep results.md, as with a GROUP")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is missed")
    options = parser.parse_args()
    unknown = sorted(set(options.groups) - {*names})
    if unknown:
        parser.error(f"there is no group {', '.join(unknown)}; there are {', '.join(names)}")
    groups = [group for group in GROUPS if group.__name__ in (options.groups or names)]
    console = new_console()
    start = time.monotonic()
    results = []
    with console.status("measuring") as status:
        for group in groups:
            for result in group.measure():
                results.append(result)
                status.update(f"{len(results)} measured, last: {result.work}")
    print_table(console, results)
    if not options.no_write and not options.groups:
        RESULTS.write_text(markdown(results, time.monotonic() - start), encoding="utf-8")
        console.print(f"written to {RESULTS.parent.name}/{RESULTS.name}")
    missed = [result.work for result in results if not result.kept]
    for work in missed:
        console.print(f"missed: {work}", style="bold red")
    return 1 if missed and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
