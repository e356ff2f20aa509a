"""Plain data into typed structs: every problem is found, none stops the reading."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from codomyrmex.integrations.configuration.problems import ProblemList, at, did_you_mean

S = TypeVar("S", bound=msgspec.Struct)

_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
}


class Unreadable(ValueError):  # noqa: N818 - it is about the text
    """A text is not what it should be.

    Args:
        message: what is wrong and what would be right.
        column: where in the text, from 0 on.
    """

    def __init__(self, message: str, column: int | None = None) -> None:
        super().__init__(message)
        self.column = column


class FromText(Protocol):
    """A type that is written as text in a configuration."""

    expects: ClassVar[str]  # such as `a duration like 30s`

    @classmethod
    def parse(cls, text: str) -> Any:
        """Read it.

        Raises:
            ValueError: the text is none; `Unreadable` says where in it.
        """


class Reader:
    """Makes structs of plain data and collects what is wrong.

    A struct may have `__ignored__`, keys that are accepted and not used, with the reason for the notes.

    Args:
        problems: where mistakes go.
        notes: where keys go that are accepted and not used.
        words: how values that are no text were written, by path.

    Attributes:
        unreadable: the paths of what is not of the type that it should be.
    """

    def __init__(self, problems: ProblemList, notes: ProblemList, words: Mapping[str, str]) -> None:
        self._problems = problems
        self._notes = notes
        self.unreadable: set[str] = set()
        self._words = words
        self._hints: dict[type, dict[str, Any]] = {}

    def struct(self, data: object, kind: type[S], path: str = "") -> S:
        """Read a mapping; what cannot be read is left at its default, and is a problem.

        Args:
            data: what should be a mapping.
            kind: the struct; each field has a default.
            path: where the data stand.
        """
        if not isinstance(data, Mapping):
            if data is not None:
                self._wrong(path, "a mapping", data)
            return kind()
        hints = self._hints_of(kind)
        ignored: Mapping[str, str] = getattr(kind, "__ignored__", {})
        names = {field.encode_name: field.name for field in msgspec.structs.fields(kind)}
        values: dict[str, Any] = {}
        for key, value in data.items():
            where = at(path, str(key))
            if key in names:
                read = self.value(value, hints[names[key]], where)
                if read is not _NOTHING:
                    values[names[key]] = read
            elif key in ignored:
                self._notes.add(where, ignored[key], key=True)
            else:
                near = did_you_mean(str(key), names)
                known = near or f"; known here: {', '.join(sorted(names))}"
                self._problems.add(where, f"unknown key {key}{known}", key=True)
        return kind(**values)

    def tagged(self, data: object, kinds: Mapping[str, type[Any]], path: str) -> list[tuple[str, Any]]:
        """Read a list of mappings whose `type` says what each is; give each with its path.

        Args:
            data: what should be a list; None is none.
            kinds: the struct for each type.
            path: where the data stand.
        """
        if data is None:
            return []
        if not isinstance(data, (list, tuple)):
            self._wrong(path, "a list", data)
            return []
        found = []
        for number, item in enumerate(data):
            where = at(path, number)
            if not isinstance(item, Mapping):
                self._wrong(where, "a mapping with a type", item)
                continue
            name = item.get("type")
            kind = kinds.get(name) if isinstance(name, str) else None
            if kind is None:
                said = "it has no type" if name is None else f"there is no type {name!r}"
                near = did_you_mean(str(name), kinds)
                known = near or f"; there are {', '.join(sorted(kinds))}"
                self._problems.add(where if name is None else at(where, "type"), f"{said}{known}")
                continue
            found.append((where, self.struct({k: v for k, v in item.items() if k != "type"}, kind, where)))
        return found

    def value(self, value: object, kind: Any, path: str) -> Any:  # noqa: PLR0911 - one for each kind of type
        """Read a value of any type; `_NOTHING` if it cannot be read, or is null where nothing may be."""
        origin, args = get_origin(kind), get_args(kind)
        if origin is types.UnionType or origin is Union:  # T | None
            return None if value is None else self._either(value, args, path)
        if origin is Annotated:  # the type that it becomes, and the one that reads it
            return self.value(value, args[1], path)
        if value is None:
            return _NOTHING  # `key:` with nothing behind it is as if left out
        if kind is Any:
            return value
        if origin is list:
            return self._list(value, args[0], path)
        if origin is dict:
            return self._dict(value, args[1], path)
        if kind is str or hasattr(kind, "parse"):
            return self._text(value, kind, path)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self.struct(value, kind, path)
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError:
            self._wrong(path, _name(kind), value)
            return _NOTHING

    def _either(self, value: object, kinds: tuple[Any, ...], path: str) -> Any:
        """Read one of two types: the first, or a number where that is the second."""
        if int in kinds and isinstance(value, int):
            return self.value(value, int, path)
        return self.value(value, kinds[0], path)

    def _list(self, value: object, kind: Any, path: str) -> Any:
        if not isinstance(value, (list, tuple)):
            self._wrong(path, "a list", value)
            return _NOTHING
        items = [self.value(item, kind, at(path, number)) for number, item in enumerate(value)]
        return [item for item in items if item is not _NOTHING]

    def _dict(self, value: object, kind: Any, path: str) -> Any:
        if not isinstance(value, Mapping):
            self._wrong(path, "a mapping", value)
            return _NOTHING
        items = {str(key): self.value(item, kind, at(path, str(key))) for key, item in value.items()}
        return {key: item for key, item in items.items() if item is not _NOTHING}

    def _text(self, value: object, kind: Any, path: str) -> Any:
        text = self._words.get(path) if not isinstance(value, str) else value
        if text is None and not isinstance(value, (dict, list, tuple)) and self._words == {}:
            text = str(value)  # from a mapping in Python: a number is as good as its text
        if text is None:
            self._wrong(path, "text" if kind is str else kind.expects, value)
            return _NOTHING
        if kind is str:
            return text
        try:
            read = kind.parse(text)
        except ValueError as error:
            self._problems.add(path, str(error), getattr(error, "column", None))
            return _NOTHING
        warning = getattr(read, "warning", None)
        if warning is not None:
            self._notes.add(path, warning)
        return read

    def _hints_of(self, kind: type) -> dict[str, Any]:
        hints = self._hints.get(kind)
        if hints is None:
            hints = self._hints[kind] = get_type_hints(kind, include_extras=True)
        return hints

    def _wrong(self, path: str, expected: str, value: object) -> None:
        got = "nothing" if value is None else _NAMES.get(type(value), type(value).__name__)
        shown = f" ({value})" if isinstance(value, (int, float, bool)) else ""
        self.unreadable.add(path)
        self._problems.add(path, f"expected {expected}, found {got}{shown}")


def _name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(str(choice) for choice in get_args(kind))
    return _NAMES.get(kind, str(kind))


_NOTHING: Any = object()
