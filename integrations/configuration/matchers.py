"""`Matcher`: a condition on one label, with Alertmanager's semantics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError

try:
    import re2  # type: ignore[import-untyped] # it has no stubs
except ImportError as error:
    raise MissingExtraError("alert routing", "google-re2", "alerts") from error

Labels = Mapping[str, str]

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False  # to stderr; the exception says it too
_NOT_IN_NAMES = frozenset("{}!=~,\\\"'`")
_GO_ESCAPES = dict(zip('\a\b\f\n\r\t\v\\"', ("\\" + each for each in 'abfnrtv\\"'), strict=True))
_NO_META = frozenset("\\.+*?()|[]{}^$")


class MatcherError(ValueError):
    """A matcher cannot be read.

    Args:
        message: what is wrong.
        column: where in the text, from 0 on.
    """

    def __init__(self, message: str, column: int = 0) -> None:
        super().__init__(message)
        self.column = column


class Op(StrEnum):
    """How a label is compared."""

    EQUAL = "="
    NOT_EQUAL = "!="
    REGEX = "=~"
    NOT_REGEX = "!~"


_ORDER = list(Op)


class Matcher:
    """A condition on one label; a missing label is the same as an empty one.

    Regular expressions are those of RE2 (linear time, no look-around) and match the whole value.

    Args:
        name: the label's name.
        op: how it is compared.
        value: with what; for `=~` and `!~` a regular expression.

    Raises:
        MatcherError: the expression is none that RE2 takes.
    """

    __slots__ = ("_negative", "_wanted", "name", "op", "regex", "value")

    def __init__(self, name: str, op: Op | str, value: str) -> None:
        if not name:
            raise MatcherError("a label has a name")
        self.name = name
        self.op = Op(op)
        self.value = value
        self._negative = self.op in {Op.NOT_EQUAL, Op.NOT_REGEX}
        self.regex: Any = None
        self._wanted: frozenset[str] | None = frozenset({value})
        if self.op in {Op.REGEX, Op.NOT_REGEX}:
            self.regex = compile_regex(value)
            self._wanted = literal_choices(value)

    def matches(self, labels: Labels) -> bool:
        """Tell whether labels meet the condition."""
        return self.holds(labels.get(self.name, ""))

    def holds(self, value: str) -> bool:
        """Tell whether a value of the label meets the condition."""
        if self._wanted is not None:
            return (value in self._wanted) is not self._negative
        return (self.regex.fullmatch(value) is not None) is not self._negative

    @property
    def choices(self) -> frozenset[str] | None:
        """The values that a positive matcher takes, where these can be listed; without the empty one."""
        return None if self._negative or self._wanted is None or "" in self._wanted else self._wanted

    def __str__(self) -> str:
        return f"{quote_name(self.name)}{self.op}{quote(self.value)}"

    def __repr__(self) -> str:
        return f"Matcher({self})"

    def _key(self) -> tuple[str, str, int]:
        return (self.name, self.value, _ORDER.index(self.op))

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Matcher) else NotImplemented

    def __lt__(self, other: Matcher) -> bool:
        return self._key() < other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def matches_all(matchers: Iterable[Matcher], labels: Labels) -> bool:
    """Tell whether labels meet all conditions; none is met by all labels."""
    return all(matcher.matches(labels) for matcher in matchers)


@lru_cache(4096)
def compile_regex(pattern: str) -> Any:
    """Compile an expression of RE2 that matches the whole text.

    Raises:
        MatcherError: it is none; the message says why.
    """
    try:
        return compile_re2(anchored(pattern))
    except ValueError as error:
        why = str(error)
        perl = why.startswith(("invalid perl operator", "invalid escape"))
        hint = "; RE2 has neither look-around nor back-references" if perl else ""
        raise MatcherError(f"{pattern!r} is no regular expression of RE2: {why}{hint}") from None


def compile_re2(pattern: str) -> Any:
    """Compile an expression of RE2 as it is written.

    Raises:
        ValueError: it is none; the message is what RE2 says.
    """
    try:
        return re2.compile(pattern, _OPTIONS)
    except re2.error as error:
        said = error.args[0] if error.args else ""
        raise ValueError(said.decode(errors="replace") if isinstance(said, bytes) else str(said)) from None


def anchored(pattern: str) -> str:
    """Give the expression as Alertmanager compiles it."""
    return f"^(?:{pattern})$"


def literal_choices(pattern: str) -> frozenset[str] | None:
    """Give the texts that an expression without anything special matches: `a|b`; None for any other."""
    if _NO_META.isdisjoint(pattern.replace("|", "")):
        return frozenset(pattern.split("|"))
    return None


def quote(value: str) -> str:
    """Give a value in double quotes, as Alertmanager prints it and `parse_matchers` reads it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def quote_name(name: str) -> str:
    """Give a label's name, in quotes if it needs them."""
    return quote(name) if any(char.isspace() or char in _NOT_IN_NAMES for char in name) else name


# On the way of each new alert: hardly any value needs an escape.
def quote_group(value: str) -> str:
    """Give a value in double quotes as group keys have it: with the escapes of a Go string."""
    if value.isprintable() and '"' not in value and "\\" not in value:
        return f'"{value}"'
    return f'"{"".join([_escape(char) for char in value])}"'


def _escape(char: str) -> str:
    if char in _GO_ESCAPES:
        return _GO_ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:  # noqa: PLR2004 - ASCII
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # noqa: PLR2004 - two forms of Go
