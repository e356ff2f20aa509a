"""What is wrong with a configuration, and where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

Positions = Mapping[str, tuple[int, int]]  # from the path of a value to its line and column


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a configuration.

    Args:
        message: what is wrong, and what would be right.
        path: where in the data, such as `route.routes[2].matchers[0]`; empty for the whole.
        file: the file, or None where the configuration is no file.
        line: from 1 on; None where it is not known.
        column: from 1 on.
    """

    message: str
    path: str = ""
    file: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        place = [str(part) for part in (self.file, self.line, self.column) if part is not None]
        return ": ".join(part for part in (":".join(place), self.path, self.message) if part)

    def to_dict(self) -> dict[str, object]:
        """Give it as built-in types, for JSON."""
        return {name: getattr(self, name) for name in ("message", "path", "file", "line", "column")}


class ConfigError(Exception):
    """A configuration cannot be used; `problems` has everything that was found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        title = (
            "the configuration has one problem" if count == 1 else f"the configuration has {count} problems"
        )
        super().__init__("\n".join([f"{title}:", *(f"  {problem}" for problem in self.problems)]))


class ProblemList:
    """Collects problems, each with its position.

    Args:
        file: what the file is called, if it is one.
        positions: where each value stands; found by the path, or that of what holds it.
    """

    def __init__(self, file: str | None, positions: Positions) -> None:
        self.file = file
        self.positions = positions
        self.found: list[Problem] = []

    def add(self, path: str, message: str, column: int | None = None, *, key: bool = False) -> None:
        """Note a problem.

        Args:
            path: where in the data.
            message: what is wrong, and what would be right.
            column: from 0 on, within a value that is text.
            key: whether it is the key that is wrong, not its value.
        """
        line, start = self.positions.get(key_of(path)) or self.position(path) if key else self.position(path)
        if column is not None:
            line, start = self.positions.get(inside(path), (line, start))
        if start is not None and column is not None:
            start += column
        self.found.append(Problem(message, path, self.file, line, start))

    def position(self, path: str) -> tuple[int, int] | tuple[None, None]:
        """Give the line and column of a value, or of the nearest one that holds it."""
        while path and path not in self.positions:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.positions.get(path, (None, None))

    def in_order(self) -> list[Problem]:
        """Give the problems in the order of the file."""
        return sorted(self.found, key=lambda problem: (problem.line or 0, problem.column or 0))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Give ` (did you mean x?)` for the nearest known word, or nothing."""
    near = get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def at(path: str, step: str | int) -> str:
    """Give the path of what a value holds: `route` and `receiver` give `route.receiver`."""
    if isinstance(step, int):
        return f"{path}[{step}]"
    return f"{path}.{step}" if path else step


def key_of(path: str) -> str:
    """Give the name under which the position of a key is kept, beside that of its value."""
    return f"{path}:"


def inside(path: str) -> str:
    """Give the name under which the position of what is in quotes is kept, beside that of the value."""
    return f'{path}"'
