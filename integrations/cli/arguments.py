"""What the commands are given: the types of their arguments, and how each is read."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.matchers import Op
from codomyrmex.integrations.notification import Matcher, MatcherError, parse_matchers

YEARS = (1970, 3000)
_EXISTING = {"exists": True, "dir_okay": False, "readable": True}

ConfigPath = Annotated[
    Path, typer.Argument(metavar="FILE", help="The configuration.", show_default=False, **_EXISTING)
]
Labels = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME=VALUE", help="The labels of an alert.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
StatePath = Annotated[
    Path | None, typer.Option("--state", metavar="FILE", help="A state file.", dir_okay=False)
]


def read_labels(texts: list[str] | None) -> dict[str, str]:
    """Read `name=value` arguments; a value may be in double quotes, as amtool takes it.

    Raises:
        typer.BadParameter: one is none.
    """
    labels: dict[str, str] = {}
    for text in texts or ():
        name, value = _label(text)
        if name in labels:
            raise typer.BadParameter(f"the label {name} is given twice")
        labels[name] = value
    return labels


def _label(text: str) -> tuple[str, str]:
    try:
        found = parse_matchers(text)
    except MatcherError as error:
        plain = re.fullmatch(r"""([^\s{}!=~,\\"'`]+)=(?!~)([^"]*)""", text, re.DOTALL)
        if plain is None:
            raise typer.BadParameter(f"{text!r} is no label; one is name=value ({error})") from None
        return plain[1], plain[2]
    if len(found) > 1:
        raise typer.BadParameter(
            f"{text!r} has several labels; separate them by spaces, and put a value with commas in quotes"
        )
    if not found or found[0].op is not Op.EQUAL:
        raise typer.BadParameter(f"{text!r} is no label; one is name=value")
    return found[0].name, found[0].value


def read_matchers(texts: list[str]) -> tuple[Matcher, ...]:
    """Read matchers; each argument may hold several.

    Raises:
        typer.BadParameter: one cannot be read.
    """
    found: list[Matcher] = []
    for text in texts:
        try:
            found += parse_matchers(text)
        except MatcherError as error:
            raise typer.BadParameter(
                f"{text!r} cannot be read, at column {error.column + 1}: {error}"
            ) from None
    return tuple(found)


def read_time(text: str, option: str) -> float:
    """Read a moment, in seconds since 1970; UTC where no offset is given.

    Raises:
        typer.BadParameter: it is none.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        message = f"{text!r} is no time of ISO 8601, such as 2026-11-25T09:00:00Z"
        raise typer.BadParameter(message, param_hint=option) from None
    if not YEARS[0] <= moment.year < YEARS[1]:
        raise typer.BadParameter(f"{text!r} is not from {YEARS[0]} to {YEARS[1]}", param_hint=option)
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).timestamp()


def read_duration(text: str, option: str) -> float:
    """Read a duration, in seconds.

    Raises:
        typer.BadParameter: it is none, or 0.
    """
    try:
        seconds = Duration.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
    if seconds <= 0:
        raise typer.BadParameter("it is longer than 0 seconds", param_hint=option)
    return seconds
