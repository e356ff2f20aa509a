"""`Reader`: converts plain data to typed structs, and collects every problem on the way."""

from __future__ import annotations

import types
from collections.abc import Collection, Mapping
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

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
_BOOLEANS = {"y": True, "Y": True, "n": False, "N": False}  # of YAML 1.1; PyYAML reads them as text
_MAX_SHOWN = 50  # characters of a value
_INVALID: Any = object()


@cache
def fields_of(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Return the fields of a struct; msgspec evaluates its annotations anew with each call."""
    return msgspec.structs.fields(kind)


@cache
def _hints_of(kind: type[msgspec.Struct]) -> Mapping[str, Any]:
    return get_type_hints(kind, include_extras=True)


class Reader:
    """Converts plain data to structs whose fields all have defaults.

    A struct may have `__ignored__`: keys that are accepted but not used, with the note about each;
    `__internal__`: fields that are not keys; and `__plugins__`: keys that hold lists of other structs, which
    are collected in its field `plugins`, each with its path. A type that is written as text has a
    classmethod `parse(text)` that raises a ValueError, perhaps with a `column`, and an attribute `expects`,
    such as `a duration like 30s`.

    Args:
        problems: collects what is wrong.
        notes: collects the keys that are accepted but not used.
        words: the source text of values that are not text, by path.

    Attributes:
        unreadable: the paths of values of the wrong type.
    """

    def __init__(self, problems: ProblemList, notes: ProblemList, words: Mapping[str, str]) -> None:
        self._problems = problems
        self._notes = notes
        self.unreadable: set[str] = set()
        self._words = words

    def struct(self, data: object, kind: type[S], path: str = "") -> S:
        """Return a struct from a mapping; a field that cannot be read keeps its default and is a problem."""
        if not isinstance(data, Mapping):
            if data is not None:
                self._wrong_type(path, "a mapping", data)
            return kind()
        hints = _hints_of(kind)
        ignored: Mapping[str, str] = getattr(kind, "__ignored__", {})
        internal: Collection[str] = getattr(kind, "__internal__", ())
        fields = fields_of(kind)
        names = {field.encode_name: field.name for field in fields if field.name not in internal}
        plugins: Mapping[str, type[msgspec.Struct]] = getattr(kind, "__plugins__", {})
        values: dict[str, Any] = {"plugins": []} if plugins else {}
        for key, value in data.items():
            where = at(path, str(key))
            if key in names:
                parsed = self.value(value, hints[names[key]], where)
                if parsed is not _INVALID:
                    values[names[key]] = parsed
            elif key in plugins:
                items = self.value(value, list[plugins[key]], where)  # type: ignore[valid-type]
                if items is not _INVALID:
                    values["plugins"] += [(at(where, number), item) for number, item in enumerate(items)]
            elif key in ignored:
                self._notes.add(where, ignored[key], key=True)
            else:
                allowed = [*names, *plugins]
                hint = did_you_mean(str(key), allowed) or f"; allowed here: {', '.join(sorted(allowed))}"
                self._problems.add(where, f"unknown key {key}{hint}", key=True)
        return kind(**values)

    def tagged(self, data: object, kinds: Mapping[str, type[Any]], path: str) -> list[tuple[str, Any]]:
        """Return the structs of a list of mappings, each with its path; the key `type` selects the struct."""
        if data is None:
            return []
        if not isinstance(data, (list, tuple)):
            self._wrong_type(path, "a list", data)
            return []
        structs = []
        for number, item in enumerate(data):
            where = at(path, number)
            if not isinstance(item, Mapping):
                self._wrong_type(where, "a mapping with a type", item)
                continue
            name = item.get("type")
            kind = kinds.get(name) if isinstance(name, str) else None
            if kind is None:
                problem = "a type is required" if name is None else f"unknown type {name!r}"
                hint = did_you_mean(str(name), kinds) or f"; use one of {', '.join(sorted(kinds))}"
                self._problems.add(where if name is None else at(where, "type"), f"{problem}{hint}")
                continue
            structs.append((where, self.struct({k: v for k, v in item.items() if k != "type"}, kind, where)))
        return structs

    def value(self, value: object, kind: Any, path: str) -> Any:  # noqa: PLR0911 - one per kind of type
        """Return a value of any type, or a sentinel if it is invalid or is null where that is not allowed."""
        origin, args = get_origin(kind), get_args(kind)
        if origin is types.UnionType or origin is Union:
            return None if value is None else self._union(value, args, path)
        if origin is Annotated:  # the type of the result, and the one that parses it
            return self.value(value, args[1], path)
        if kind is Any:
            return value
        if value is None:
            return _INVALID  # `key:` without a value is the same as no key
        if origin is list:
            return self._list(value, args[0], path)
        if origin is dict:
            return self._dict(value, args[1], path)
        if kind is str or hasattr(kind, "parse"):
            return self._text(value, kind, path)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self.struct(value, kind, path)
        try:
            return msgspec.convert(_boolean(value) if kind is bool else value, kind)
        except (msgspec.ValidationError, UnicodeEncodeError):  # the latter for a lone surrogate
            expected = " or ".join(map(str, args)) if origin is Literal else _NAMES.get(kind, str(kind))
            return self._wrong_type(path, expected, value, is_choice=origin is Literal)

    def _union(self, value: object, kinds: tuple[Any, ...], path: str) -> Any:
        """Return a value of `T | None` or `T | int`."""
        return self.value(value, int if int in kinds and isinstance(value, int) else kinds[0], path)

    def _list(self, value: object, kind: Any, path: str) -> Any:
        if not isinstance(value, (list, tuple)):
            return self._wrong_type(path, "a list", value)
        items = [self._item(item, kind, at(path, number)) for number, item in enumerate(value)]
        return [item for item in items if item is not _INVALID]

    def _dict(self, value: object, kind: Any, path: str) -> Any:
        if not isinstance(value, Mapping):
            return self._wrong_type(path, "a mapping", value)
        if kind is str:  # as in Go, where nothing is an empty text
            value = {key: "" if item is None else item for key, item in value.items()}
        items = {str(key): self._item(item, kind, at(path, str(key))) for key, item in value.items()}
        return {key: item for key, item in items.items() if item is not _INVALID}

    def _item(self, value: object, kind: Any, path: str) -> Any:
        """Return a value in a list or a mapping, where nothing is not the same as no item."""
        item = self.value(value, kind, path)
        if value is None and item is _INVALID:
            is_struct = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
            expected = "a mapping" if is_struct else _NAMES.get(get_origin(kind) or kind, "a value")
            return self._wrong_type(path, getattr(kind, "expects", expected), None)
        return item

    def _text(self, value: object, kind: Any, path: str) -> Any:
        text = value if isinstance(value, str) else self._words.get(path)
        if text is None and not isinstance(value, (dict, list, tuple)) and not self._words:
            text = str(value)  # a mapping in Python may hold numbers
        if text is None:
            return self._wrong_type(path, "text" if kind is str else kind.expects, value)
        if kind is str:
            return text
        try:
            parsed = kind.parse(text)
        except ValueError as error:
            self._problems.add(path, str(error), getattr(error, "column", None))
            return _INVALID
        warning = getattr(parsed, "warning", None)
        if warning is not None:
            self._notes.add(path, warning)
        return parsed

    def _wrong_type(self, path: str, expected: str, value: object, *, is_choice: bool = False) -> Any:
        actual = "nothing" if value is None else _NAMES.get(type(value), type(value).__name__)
        if is_choice and isinstance(value, str):  # the type is right; the list may even contain `text`
            actual = ascii(value[:_MAX_SHOWN])
        shown = f" ({value})" if isinstance(value, (int, float, bool)) else ""
        self.unreadable.add(path)
        self._problems.add(path, f"expected {expected}, got {actual}{shown}")
        return _INVALID


def _boolean(value: object) -> object:
    return _BOOLEANS.get(value, value) if isinstance(value, str) else value
