"""`Matcher`: a condition on one label, with Alertmanager's semantics; the adapter of RE2."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from re import Pattern
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.configuration.simple_regex import is_plain, simplify

try:
    import re2  # type: ignore[import-untyped] # it has no stubs
except ImportError as error:
    raise MissingExtraError("alert routing", "google-re2", "alerts") from error

Labels = Mapping[str, str]

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False  # to stderr; the exception has the same message
_SPECIAL_IN_NAMES = frozenset("{}!=~,\\\"'`")
_GO_ESCAPES = dict(zip('\a\b\f\n\r\t\v\\"', ("\\" + each for each in 'abfnrtv\\"'), strict=True))
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

    Attributes:
        holds: returns whether a value of the label meets the condition.
        is_simple: whether `holds` is fast, as it needs RE2 for unusual values at most.
        choices: the values that match, if there are few and the empty one is not among them; otherwise None.

    Raises:
        MatcherError: the name is empty, or RE2 does not accept the expression.
    """

    __slots__ = ("choices", "holds", "is_simple", "name", "op", "regex", "value")

    def __init__(self, name: str, op: Op | str, value: str) -> None:
        if not name:
            raise MatcherError("the label name is empty")
        self.name = name
        self.op = Op(op)
        self.value = value
        self.regex: Any = None
        texts: frozenset[str] | None = frozenset({value})
        plain: Pattern[str] | None = None
        if self.op in {Op.REGEX, Op.NOT_REGEX}:
            self.regex = compile_regex(value)
            texts, _, plain = simplify(value)
        negative = self.op in {Op.NOT_EQUAL, Op.NOT_REGEX}
        self.is_simple = texts is not None or plain is not None
        self.choices = None if negative or texts is None or "" in texts else texts
        self.holds = _check(texts, plain, self.regex, negative=negative)

    def matches(self, labels: Labels) -> bool:
        """Return whether labels meet the condition."""
        return self.holds(labels.get(self.name, ""))

    def __str__(self) -> str:
        return f"{quote_name(self.name)}{self.op}{quote(self.value)}"

    def __repr__(self) -> str:
        return f"Matcher({self})"

    def __reduce__(self) -> tuple[type[Matcher], tuple[str, Op, str]]:
        return Matcher, (self.name, self.op, self.value)

    def _key(self) -> tuple[str, str, int]:
        return (self.name, self.value, _ORDER.index(self.op))

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Matcher) else NotImplemented

    def __lt__(self, other: Matcher) -> bool:
        return self._key() < other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def _check(
    texts: frozenset[str] | None, plain: Pattern[str] | None, regex: Any, *, negative: bool
) -> Callable[[str], bool]:
    """Return a function that checks a value, the fastest for the condition."""
    if texts is not None:
        return (lambda value: value not in texts) if negative else texts.__contains__

    def matches(value: str) -> bool:
        return (regex.fullmatch(_for_re2(value)) is not None) is not negative

    if plain is None:
        return matches
    fullmatch = plain.fullmatch

    def matches_plain(value: str) -> bool:
        if value.isascii() and "\n" not in value:  # `is_plain` inlined: a call takes as long as the match
            return (fullmatch(value) is not None) is not negative
        return matches(value)

    return matches_plain


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


class RegexSet:
    """Finds which of many expressions match a value, and caches the result.

    A plain value is matched against the simple expressions with the same prefix. For all other values and
    expressions, RE2 matches a set in one pass: a call takes 5 us, for one expression as well as a thousand.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._all = list(dict.fromkeys(patterns))
        self._cache: dict[str, frozenset[str]] = {}
        self._by_prefix: dict[int, dict[str, list[tuple[str, Pattern[str]]]]] = {}
        others = []
        for pattern in self._all:
            _, prefixes, plain = simplify(pattern)
            if plain is None:
                others.append(pattern)
                continue
            for prefix in prefixes:
                self._by_prefix.setdefault(len(prefix), {}).setdefault(prefix, []).append((pattern, plain))
        self._others = _Automaton(others) if others else None
        self._automaton: _Automaton | None = None  # of all

    def matching(self, value: str) -> frozenset[str]:
        """Return the expressions that match a value."""
        matching = self._cache.get(value)
        if matching is None:
            if len(self._cache) >= _MAX_CACHED_VALUES:
                self._cache.clear()
            matching = self._cache[value] = frozenset(self._match(value))
        return matching

    def _match(self, value: str) -> list[str]:
        if not is_plain(value):
            self._automaton = self._automaton or _Automaton(self._all)
            return self._automaton.matching(value)
        matching = [] if self._others is None else self._others.matching(value)
        for length, by_prefix in self._by_prefix.items():
            for pattern, plain in by_prefix.get(value[:length], ()):
                if plain.fullmatch(value) is not None:
                    matching.append(pattern)
        return matching


class _Automaton:
    """RE2's set of expressions."""

    def __init__(self, patterns: list[str]) -> None:
        self._patterns = patterns
        options = re2.Options()
        options.log_errors = False
        options.max_mem = _SET_MEMORY
        self._set = re2.Set.FullMatchSet(options)
        for pattern in [*patterns, _ANYTHING]:
            self._set.Add(anchored(pattern))
        try:
            self._set.Compile()
        except re2.error:  # too large for its memory
            self._set = None

    def matching(self, value: str) -> list[str]:
        value = _for_re2(value)
        numbers = None if self._set is None else self._set.Match(value)
        if numbers:
            anything = len(self._patterns)
            return [self._patterns[number] for number in numbers if number != anything]
        return [each for each in self._patterns if compile_regex(each).fullmatch(value) is not None]


class RegexSets:
    """A `RegexSet` for each label that is matched with regular expressions."""

    def __init__(self, matchers: Iterable[Matcher]) -> None:
        patterns: dict[str, list[str]] = {}
        for matcher in matchers:
            if matcher.regex is not None:
                patterns.setdefault(matcher.name, []).append(matcher.value)
        self._sets = {name: RegexSet(values) for name, values in patterns.items()}

    def __getitem__(self, name: str) -> RegexSet:
        """Return the expressions on a label."""
        return self._sets[name]


def quote(value: str) -> str:
    """Return a value in double quotes, as Alertmanager prints it and `parse_matchers` reads it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def quote_name(name: str) -> str:
    """Return the name of a label, in double quotes if it could not be parsed without them."""
    is_special = any(char.isspace() or char in _SPECIAL_IN_NAMES for char in name) or name.endswith(
        ("<", ">")
    )
    return quote(name) if is_special else name


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
