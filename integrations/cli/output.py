"""What the commands print: results on stdout, messages on stderr, colours only on a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import typer
from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.configuration.problems import ConfigError, Problem
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

_PIPE_WIDTH = 1_000  # lines for another program are not wrapped
PROBLEMS = 1
WRONG_USAGE = 2


def stdout() -> Console:
    """Return the console for results."""
    return _console(stderr=False)


def stderr() -> Console:
    """Return the console for messages."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPE_WIDTH
    return console


def print_message(text: str | Text, style: str = "") -> None:
    """Print a message to stderr."""
    stderr().print(text, style=style, soft_wrap=True)


def print_json(data: Any) -> None:
    """Print a result for another program."""
    typer.echo(json.dumps(data, indent=2))


def printable(text: str) -> str:
    """Return text with its control characters escaped."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def format_labels(labels: Iterable[tuple[str, str]]) -> str:
    """Return labels as one line."""
    return printable(" ".join(f"{name}={value}" for name, value in labels))


def print_problems(console: Console, problems: Iterable[Problem], word: str, style: str) -> None:
    """Print problems in the format that editors and CI read: `file:line:column: word: message`."""
    for problem in problems:
        position = [str(part) for part in (problem.file, problem.line, problem.column) if part is not None]
        line = Text(printable(":".join(position)), style="bold")
        line.append(": " if position else "", style="not bold")
        line.append(word, style=f"not bold {style}")
        path = f"{problem.path}: " if problem.path else ""
        line.append(printable(f": {path}{problem.message}"), style="not bold")
        kind = getattr(problem, "kind", "note")
        line.append("" if kind == "note" else f" [{kind}]", style="not bold dim")
        console.print(line, soft_wrap=True)


def plural(number: int, word: str) -> str:
    """Return a number with a word: `1 error`, `2 errors`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        cells: the first columns.
        details: the last columns, which may be printed below the row.
        style: how the row is printed.
    """

    cells: Sequence[str]
    details: Sequence[str]
    style: str = ""


def print_table(names: Sequence[str], rows: Sequence[Row]) -> None:
    """Print a table to stdout.

    If the terminal is too narrow, the details are printed below their row, indented, so that nothing is cut
    off.

    Args:
        names: of all columns, those of the details last.
        rows: the rows; nothing is printed if there are none.
    """
    if not rows:
        return
    console = stdout()
    in_line = [[*row.cells, *row.details] for row in rows]
    widths = [max(cell_len(cell) for cell in column) for column in zip(names, *in_line, strict=True)]
    lines: list[tuple[list[str], list[str], str]]
    if sum(widths) + 2 * len(widths) <= console.width:
        lines = [(cells, [], row.style) for cells, row in zip(in_line, rows, strict=True)]
    else:
        names = names[: len(rows[0].cells)]
        lines = [(list(row.cells), list(filter(None, row.details)), row.style) for row in rows]
    for cells, details, style in [(list(names), list[str](), "bold"), *lines]:
        padded = (set_cell_size(cell, width) for cell, width in zip(cells, widths, strict=False))
        console.print(Text("  ".join(padded).rstrip(), style=style), soft_wrap=True)
        for detail in details:
            console.print(Text(f"    {detail}", style=style), soft_wrap=True)


@contextmanager
def reporting_errors(*, as_json: bool) -> Iterator[None]:
    """Print the errors of files and exit with the right code."""
    from codomyrmex.integrations.delivery.errors import DeliveryError

    try:
        yield
    except ConfigError as error:
        if as_json:
            print_json({"ok": False, "errors": [problem.to_dict() for problem in error.problems]})
        else:
            print_problems(stderr(), error.problems, "error", "red")
        raise typer.Exit(PROBLEMS) from None
    except DeliveryError as error:
        fail(str(error), as_json=as_json)
    except MissingExtraError as error:
        print_message(str(error))
        raise typer.Exit(WRONG_USAGE) from None


def reason_of(error: Exception) -> str:
    """Return one sentence that says why a part could not be opened, and which sink is affected."""
    from codomyrmex.integrations.delivery.errors import DeliveryError
    from codomyrmex.integrations.delivery.secrets import describe
    from codomyrmex.integrations.durable.store import StoreError

    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        text = reason if error.filename is None else f"{error.filename}: {reason}"
    elif isinstance(error, (MissingExtraError, DeliveryError, StoreError)):
        text = str(error)
    else:
        return describe(error)  # with its notes
    notes = ", ".join(getattr(error, "__notes__", ()))
    return f"{text} ({notes})" if notes else text


def fail(message: str, *, as_json: bool) -> None:
    """Print a problem that has no position in a file, and exit.

    Raises:
        typer.Exit: always.
    """
    if as_json:
        print_json({"ok": False, "errors": [Problem(message).to_dict()]})
    else:
        print_message(printable(message), "red")
    raise typer.Exit(PROBLEMS)


def discard_stdout() -> None:
    """Discard the rest of stdout, so that Python does not report a broken pipe when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
