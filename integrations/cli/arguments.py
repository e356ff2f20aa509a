"""The arguments that several commands have, and functions that parse them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from codomyrmex.integrations.cli.output import printable
from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.matchers import Op
from codomyrmex.integrations.notification import Matcher, MatcherError, parse_matchers

YEARS = (1970, 3000)


def existing_file(help: str, metavar: str | None = None) -> Any:  # noqa: A002 - as typer calls it
    """Return the definition of an argument that is the path of a file."""
    return typer.Argument(metavar=metavar, help=help, show_default=False, exists=True, dir_okay=False)


ConfigPath = Annotated[Path, existing_file("The configuration.", "FILE")]
ConfigPaths = Annotated[list[Path], existing_file("The configurations.", "FILE")]
Labels = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME=VALUE", help="The labels of the alert.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def finite(seconds: float | None) -> float | None:
    """Return the value of an option, or raise a `typer.BadParameter` if it is not a finite number."""
    if seconds is not None and not math.isfinite(seconds):
        raise typer.BadParameter(f"must be a number of seconds, got {seconds}")
    return seconds


def read_labels(texts: list[str] | None) -> dict[str, str]:
    """Parse `name=value` arguments; a value may be in double quotes, as with amtool.

    Raises:
        typer.BadParameter: an argument is not a label.
    """
    labels: dict[str, str] = {}
    for text in texts or ():
        name, value = _label(text)
        if name in labels:
            raise typer.BadParameter(f"the label {name} was given twice")
        labels[name] = value
    return labels


def _label(text: str) -> tuple[str, str]:
    try:
        matchers = parse_matchers(text)
    except MatcherError as error:
        plain = re.fullmatch(r"""([^\s{}!=~,\\"'`]+)=(?!~)([^"]*)""", text, re.DOTALL)
        if plain is None:
            problem = printable(str(error))
            raise typer.BadParameter(f"expected name=value, got {text!r} ({problem})") from None
        return plain[1], plain[2]
    if len(matchers) > 1:
        raise typer.BadParameter(
            f"{text!r} has several labels; separate them with spaces, and put values with commas in quotes"
        )
    if not matchers or matchers[0].op is not Op.EQUAL:
        raise typer.BadParameter(f"expected name=value, got {text!r}")
    return matchers[0].name, matchers[0].value


def read_matchers(texts: list[str]) -> tuple[Matcher, ...]:
    """Parse matchers; each argument may hold several.

    Raises:
        typer.BadParameter: a matcher is malformed.
    """
    matchers: list[Matcher] = []
    for text in texts:
        try:
            matchers += parse_matchers(text)
        except MatcherError as error:
            problem = printable(str(error))
            raise typer.BadParameter(f"{text!r}, column {error.column + 1}: {problem}") from None
    return tuple(matchers)


def read_time(text: str, option: str) -> float:
    """Parse a time in ISO 8601, UTC unless it has an offset, to seconds since 1970.

    Raises:
        typer.BadParameter: it is malformed.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        message = f"expected a time in ISO 8601, such as 2026-11-25T09:00:00Z, got {text!r}"
        raise typer.BadParameter(message, param_hint=option) from None
    if not YEARS[0] <= moment.year < YEARS[1]:
        message = f"the year must be from {YEARS[0]} to {YEARS[1] - 1}, got {text!r}"
        raise typer.BadParameter(message, param_hint=option)
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).timestamp()


def read_duration(text: str, option: str) -> float:
    """Parse a duration to seconds.

    Raises:
        typer.BadParameter: it is malformed, or 0.
    """
    try:
        seconds = Duration.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
    if seconds <= 0:
        raise typer.BadParameter(f"must be greater than 0, got {text}", param_hint=option)
    return seconds
