"""The problems of a configuration, with their positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches

Positions = Mapping[str, tuple[int, int]]  # the line and column of a value by its path


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a configuration.

    Args:
        message: what is wrong, and the remedy.
        path: where in the data, such as `route.routes[2].matchers[0]`; empty for all of it.
        file: the file, or None if the configuration is not a file.
        line: from 1; None if unknown.
        column: from 1; None if unknown.
    """

    message: str
    path: str = ""
    file: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        position = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        return ": ".join(part for part in (position, self.path, self.message) if part)

    def to_dict(self) -> dict[str, object]:
        """Return the problem as built-in types, for JSON."""
        return asdict(self)


class ConfigError(Exception):
    """A configuration cannot be used; `problems` holds everything that is wrong, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        noun = "one problem" if count == 1 else f"{count} problems"
        super().__init__(
            f"the configuration has {noun}:\n" + "\n".join(f"  {each}" for each in self.problems)
        )


class SourceMap:
    """The positions of all values of a file, or of none if the configuration is a mapping."""

    def __init__(self, file: str | None, positions: Positions) -> None:
        self.file = file
        self.positions = positions

    def position(self, path: str) -> tuple[int, int] | tuple[None, None]:
        """Return the line and column of a value, or of the nearest value that contains it."""
        while path and path not in self.positions:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.positions.get(path, (None, None))


class ProblemList(SourceMap):
    """Collects problems, and adds their positions."""

    def __init__(self, file: str | None, positions: Positions) -> None:
        super().__init__(file, positions)
        self.found: list[Problem] = []

    def add(self, path: str, message: str, column: int | None = None, *, key: bool = False) -> None:
        """Add a problem.

        Args:
            path: where in the data.
            message: what is wrong, and the remedy.
            column: the offset within a text value, from 0.
            key: whether the problem is the key and not its value.
        """
        line, start = (self.positions.get(key_of(path)) if key else None) or self.position(path)
        if column is not None:
            line, start = self.positions.get(inside(path), (line, start))
            start = None if start is None else start + column
        self.found.append(Problem(message, path, self.file, line, start))

    def add_undefined(self, path: str, kind: str, name: str, defined: Iterable[str]) -> None:
        """Add the problem that a name is not defined, with the nearest one that is."""
        self.add(path, f"{kind} {name!r} is not defined{did_you_mean(name, defined)}")

    def in_order(self) -> list[Problem]:
        """Return the problems in the order of the file."""
        return sorted(self.found, key=lambda problem: (problem.line or 0, problem.column or 0))


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return `; did you mean x?` with the most similar candidate, or an empty text."""
    near = get_close_matches(word, list(candidates), 1)
    return f"; did you mean {near[0]}?" if near else ""


def at(path: str, *steps: str | int) -> str:
    """Return the path of a nested value: `at("route", "routes", 2)` is `route.routes[2]`."""
    for step in steps:
        path = f"{path}[{step}]" if isinstance(step, int) else f"{path}.{step}" if path else step
    return path


def key_of(path: str) -> str:
    """Return the name under which `positions` holds the position of a key."""
    return f"{path}:"


def inside(path: str) -> str:
    """Return the name under which `positions` holds the position after an opening quote."""
    return f'{path}"'
