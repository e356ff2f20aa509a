"""`Matcher`: a condition on one label, with Alertmanager's semantics; the adapter of RE2."""

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
_OPTIONS.log_errors = False  # to stderr; the exception has the same message
_SPECIAL_IN_NAMES = frozenset("{}!=~,\\\"'`")
_GO_ESCAPES = dict(zip('\a\b\f\n\r\t\v\\"', ("\\" + each for each in 'abfnrtv\\"'), strict=True))
_METACHARACTERS = frozenset("\\.+*?()|[]{}^$")
_MAX_CACHED_VALUES = 20_000  # per label
_ANYTHING = "(?s:.*)"  # in each set: if not even this matches, the automaton has exceeded its memory
_SET_MEMORY = 64 << 20  # bytes per label


class MatcherError(ValueError):
    """A matcher cannot be parsed; `column` is the position in the text, from 0."""

    def __init__(self, message: str, column: int = 0) -> None:
        super().__init__(message)
        self.column = column


class Op(StrEnum):
    """The operator of a matcher."""

    EQUAL = "="
    NOT_EQUAL = "!="
    REGEX = "=~"
    NOT_REGEX = "!~"


_ORDER = list(Op)


class Matcher:
    """A condition on one label; a missing label is the same as an empty one.

    Regular expressions are RE2's (linear time, no look-around) and match the whole value.

    Args:
        name: the name of the label.
        op: the operator.
        value: the value, or the regular expression for `=~` and `!~`.

    Raises:
        MatcherError: the name is empty, or RE2 does not accept the expression.
    """

    __slots__ = ("_literals", "_negative", "name", "op", "regex", "value")

    def __init__(self, name: str, op: Op | str, value: str) -> None:
        if not name:
            raise MatcherError("the label name is empty")
        self.name = name
        self.op = Op(op)
        self.value = value
        self._negative = self.op in {Op.NOT_EQUAL, Op.NOT_REGEX}
        self.regex: Any = None
        self._literals: frozenset[str] | None = frozenset({value})
        if self.op in {Op.REGEX, Op.NOT_REGEX}:
            self.regex = compile_regex(value)
            self._literals = literal_choices(value)

    def matches(self, labels: Labels) -> bool:
        """Return whether labels meet the condition."""
        return self.holds(labels.get(self.name, ""))

    def holds(self, value: str) -> bool:
        """Return whether a value of the label meets the condition."""
        if self._literals is not None:
            return (value in self._literals) is not self._negative
        return (self.regex.fullmatch(_for_re2(value)) is not None) is not self._negative

    @property
    def choices(self) -> frozenset[str] | None:
        """The values that match, if the matcher is positive, has a finite list, and does not match empty."""
        literals = self._literals
        return None if self._negative or literals is None or "" in literals else literals

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


def _for_re2(value: str) -> str:
    """Return a value that RE2 accepts: a lone surrogate, as JSON may contain, is replaced."""
    return value if value.isascii() else value.encode(errors="replace").decode()


def matches_all(matchers: Iterable[Matcher], labels: Labels) -> bool:
    """Return whether labels meet all conditions."""
    return all(matcher.matches(labels) for matcher in matchers)


@lru_cache(4096)
def compile_regex(pattern: str) -> Any:
    """Compile an RE2 expression that matches a whole text, or raise a `MatcherError`."""
    try:
        return compile_re2(anchored(pattern))
    except ValueError as error:
        reason = str(error)
        is_perl = reason.startswith(("invalid perl operator", "invalid escape"))
        hint = "; RE2 has neither look-around nor back-references" if is_perl else ""
        raise MatcherError(f"{pattern!r} is not a regular expression of RE2: {reason}{hint}") from None


def compile_re2(pattern: str) -> Any:
    """Compile an RE2 expression as it is, or raise a `ValueError` with RE2's message."""
    try:
        return re2.compile(pattern, _OPTIONS)
    except re2.error as error:
        message = error.args[0] if error.args else ""
        text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
        raise ValueError(text) from None


def anchored(pattern: str) -> str:
    """Return the expression that Alertmanager compiles."""
    return f"^(?:{pattern})$"


def literal_choices(pattern: str) -> frozenset[str] | None:
    """Return the texts that an expression like `a|b` matches; None if it has other metacharacters."""
    if _METACHARACTERS.isdisjoint(pattern.replace("|", "")):
        return frozenset(pattern.split("|"))
    return None


class RegexSet:
    """Finds which of many expressions match a value in one pass, and caches the result.

    RE2's binding takes 5 us for a match, for one expression as well as for a set of a thousand.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = list(dict.fromkeys(patterns))
        self._cache: dict[str, frozenset[str]] = {}
        options = re2.Options()
        options.log_errors = False
        options.max_mem = _SET_MEMORY
        self._set = re2.Set.FullMatchSet(options)
        for pattern in [*self._patterns, _ANYTHING]:
            self._set.Add(anchored(pattern))
        try:
            self._set.Compile()
        except re2.error:  # too large for its memory
            self._set = None

    def matching(self, value: str) -> frozenset[str]:
        """Return the expressions that match a value."""
        matching = self._cache.get(value)
        if matching is None:
            if len(self._cache) >= _MAX_CACHED_VALUES:
                self._cache.clear()
            matching = self._cache[value] = self._match(value)
        return matching

    def _match(self, value: str) -> frozenset[str]:
        value = _for_re2(value)
        numbers = None if self._set is None else self._set.Match(value)
        if numbers:
            anything = len(self._patterns)
            return frozenset(self._patterns[number] for number in numbers if number != anything)
        return frozenset(each for each in self._patterns if compile_regex(each).fullmatch(value) is not None)


class RegexSets:
    """A `RegexSet` for each label that is matched with regular expressions."""

    def __init__(self, matchers: Iterable[Matcher]) -> None:
        patterns: dict[str, list[str]] = {}
        for matcher in matchers:
            if matcher.regex is not None:
                patterns.setdefault(matcher.name, []).append(matcher.value)
        self._sets = {name: RegexSet(values) for name, values in patterns.items()}

    def matching(self, name: str, value: str) -> frozenset[str]:
        """Return the expressions on a label that match a value."""
        return self._sets[name].matching(value)


def quote(value: str) -> str:
    """Return a value in double quotes, as Alertmanager prints it and `parse_matchers` reads it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def quote_name(name: str) -> str:
    """Return the name of a label, in double quotes if it needs them."""
    return quote(name) if any(char.isspace() or char in _SPECIAL_IN_NAMES for char in name) else name


# Called for each new alert; hardly any value needs escaping.
def quote_group(value: str) -> str:
    """Return a value in double quotes with the escapes of a Go string, as in Alertmanager's group keys."""
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
