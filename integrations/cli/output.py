"""What the commands say: results on stdout, messages on stderr, colours only in a terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import typer
from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.configuration.problems import ConfigError, Problem
from codomyrmex.integrations.delivery.errors import DeliveryError
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

_PIPE_WIDTH = 1_000  # nobody wants lines that are broken in what another program reads
PROBLEMS = 1
USED_WRONGLY = 2


def out() -> Console:
    """Give the console for results."""
    return _console(stderr=False)


def err() -> Console:
    """Give the console for messages."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPE_WIDTH
    return console


def say(text: str | Text, style: str = "") -> None:
    """Write a message to stderr."""
    err().print(text, style=style, soft_wrap=True)


def print_json(data: Any) -> None:
    """Write a result for another program."""
    typer.echo(json.dumps(data, indent=2))


def shown(text: str) -> str:
    """Give text from outside as it can be printed: no control characters."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def labels_shown(labels: Iterable[tuple[str, str]]) -> str:
    """Give labels in one line."""
    return shown(" ".join(f"{name}={value}" for name, value in labels))


def print_problems(console: Console, problems: Iterable[Problem], word: str, style: str) -> None:
    """Write problems, one in a line that editors and CI can read: `file:line:column: word: message`."""
    for problem in problems:
        place = ":".join(
            str(part) for part in (problem.file, problem.line, problem.column) if part is not None
        )
        line = Text(shown(place), style="bold")
        line.append(": " if place else "", style="not bold")
        line.append(word, style=f"not bold {style}")
        path = f"{problem.path}: " if problem.path else ""
        line.append(shown(f": {path}{problem.message}"), style="not bold")
        kind = getattr(problem, "kind", "note")
        line.append("" if kind == "note" else f" [{kind}]", style="not bold dim")
        console.print(line, soft_wrap=True)


def counted(number: int, what: str) -> str:
    """Give a number with the word for it: `1 error`, `2 errors`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


class Row(NamedTuple):
    """A line of a table, and what may stand in lines of its own below it."""

    cells: Sequence[str]
    details: Sequence[str]
    style: str = ""


def print_table(names: Sequence[str], rows: Sequence[Row]) -> None:
    """Write a table to stdout.

    Where the terminal is too narrow for it, the details stand below, indented, so that nothing is cut off
    and no column is a few characters wide.

    Args:
        names: those of all columns, details last.
        rows: their lines.
    """
    if not rows:
        return
    console = out()
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
def telling(*, as_json: bool) -> Iterator[None]:
    """Turn what is wrong with files into messages and exit codes."""
    try:
        yield
    except ConfigError as error:
        if as_json:
            print_json({"ok": False, "errors": [problem.to_dict() for problem in error.problems]})
        else:
            print_problems(err(), error.problems, "error", "red")
        raise typer.Exit(PROBLEMS) from None
    except DeliveryError as error:
        fail(str(error), as_json=as_json)
    except MissingExtraError as error:
        say(str(error))
        raise typer.Exit(USED_WRONGLY) from None


def fail(message: str, *, as_json: bool) -> None:
    """Tell of a problem that has no place in a file, and end.

    Raises:
        typer.Exit: always.
    """
    if as_json:
        print_json({"ok": False, "errors": [Problem(message).to_dict()]})
    else:
        say(shown(message), "red")
    raise typer.Exit(PROBLEMS)
