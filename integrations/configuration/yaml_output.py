"""`write_yaml`: writes built-in types as YAML with comments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from codomyrmex.integrations.configuration.problems import at

_PLAIN = re.compile(r"[A-Za-z_/][\w./-]*(?: [\w./-]+)*|(?:[0-9]+(?:ms|[smhdwy]))+", re.ASCII)
_NOT_TEXT = re.compile(r"(?:y|yes|n|no|true|false|on|off|null)", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_BLOCK = re.compile(r"[^\s#].*\n.*[^\n]\n?", re.DOTALL)  # several lines, and at most one break at the end


class Omitted:
    """A value that is left out; its comments remain."""


class Literal(str):
    """A value as it is written in YAML, such as `022`."""

    __slots__ = ()


def write_yaml(data: Any, comments: Mapping[str, Sequence[str]]) -> str:
    """Return data as YAML.

    Args:
        data: mappings, lists, text, `Literal` and `Omitted`.
        comments: the comments above values, by the paths of the values.
    """
    lines = [f"# {text}" for text in comments.get("", ())]
    lines += _Writer(comments).body(data, "", 0)
    return "".join(f"{line}\n" for line in lines)


class _Writer:
    def __init__(self, comments: Mapping[str, Sequence[str]]) -> None:
        self._comments = comments

    def body(self, data: Any, path: str, indent: int) -> Iterator[str]:
        """Yield the lines of a mapping or a list that is not empty."""
        if isinstance(data, Mapping):
            for key, value in data.items():
                where = at(path, key)
                yield from self._above(where, indent)
                if not isinstance(value, Omitted):
                    yield from self._entry(f"{' ' * indent}{_scalar(key)}:", value, where, indent)
        else:
            for number, value in enumerate(data):
                where = at(path, number)
                yield from self._above(where, indent)
                if not isinstance(value, Omitted):
                    yield from self._item(value, where, indent)

    def _above(self, path: str, indent: int) -> Iterator[str]:
        return (f"{' ' * indent}# {text}" for text in self._comments.get(path, ()))

    def _entry(self, start: str, value: Any, path: str, indent: int) -> Iterator[str]:
        nested = [] if isinstance(value, str) else list(self.body(value, path, indent + 2))
        if any(not line.lstrip().startswith("#") for line in nested):
            yield start
            yield from nested
        else:
            yield from (line.removeprefix("  ") for line in nested)
            yield f"{start} {_value(value, indent + 2)}"

    def _item(self, value: Any, path: str, indent: int) -> Iterator[str]:
        if isinstance(value, Mapping):
            lines = list(self.body(value, path, indent + 2))
            first = next((n for n, line in enumerate(lines) if not line.lstrip().startswith("#")), None)
            if first is not None:
                yield from (line.removeprefix("  ") for line in lines[:first])
                yield f"{' ' * indent}- {lines[first][indent + 2 :]}"
                yield from lines[first + 1 :]
                return
            yield from lines
            yield f"{' ' * indent}- {{}}"
        else:
            yield from self._entry(f"{' ' * indent}-", value, path, indent)


def _value(value: Any, indent: int) -> str:
    if isinstance(value, Mapping):
        return "{}"
    return _scalar(value, indent) if isinstance(value, str) else "[]"


def _scalar(text: str, indent: int | None = None) -> str:
    """Return text as a scalar, as a block if it has several lines and an indentation is given."""
    if isinstance(text, Literal) or (_PLAIN.fullmatch(text) and not _NOT_TEXT.fullmatch(text)):
        return str(text)
    is_plain = all(each.isprintable() or each == "\n" for each in text)
    if indent is not None and is_plain and _BLOCK.fullmatch(text):
        lines = [f"{' ' * indent}{line}" if line else "" for line in text.removesuffix("\n").split("\n")]
        return "\n".join(["|" if text.endswith("\n") else "|-", *lines])
    if '"' in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    quoted = json.dumps(text, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", quoted)
