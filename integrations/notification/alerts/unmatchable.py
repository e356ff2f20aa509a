"""Regular expressions of RE2 that match no text at all, and the range of the texts that others match."""

from __future__ import annotations

import re
from functools import lru_cache

import re2  # type: ignore[import-untyped] # it has no stubs
from codomyrmex.integrations.configuration.matchers import MatcherError, anchored, compile_regex

# One way in which an expression can match: whether it takes characters, and whether it wants the text to
# begin where it begins, and to end where it ends.
_Way = tuple[bool, bool, bool]
_Ways = frozenset[_Way]

_IMPOSSIBLE: _Ways = frozenset()
_NOTHING: _Ways = frozenset({(False, False, False)})
_CHARACTER: _Ways = frozenset({(True, False, False)})
_BEGIN: _Ways = frozenset({(False, True, False)})
_END: _Ways = frozenset({(False, False, True)})
_MOST_REPEATS = 1_000  # RE2 takes no more
_RANGE_BYTES = 64

_TOKEN = re.compile(
    r"""
      \\Q (?P<quoted> .*?) (?: \\E | \Z )
    | (?P<escape> \\ (?: x\{[0-9a-fA-F]*\} | x.. | [pP]\{[^}]*\} | [pP]. | [0-7]{1,3} | . ) )
    | (?P<set> \[ \^? \]? (?: \[:[a-z^]+:\] | \\. | [^\]\\] )* \] )
    | (?P<flags> \(\? [a-zA-Z-]* \) )
    | (?P<open> \( (?: \? (?: P?<[^>]*> | [a-zA-Z-]*: ) )? )
    | (?P<repeat> (?: [*+?] | \{ (?P<least>[0-9]+) (?P<more> , (?P<most>[0-9]*) )? \} ) \?? )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_ASSERTS = re.compile(r"[\^$]|\\[bBAz]|\(\?[a-zA-Z]*m")  # perhaps in a set, where it asserts nothing
_LINES = re.compile(r"\(\?[a-zA-Z]*m")  # `^` and `$` may stand at the lines of a text
_NO_CHARACTER_TAKEN = {"A": _BEGIN, "z": _END, "b": _NOTHING, "B": _NOTHING}


@lru_cache(4096)
def matches_nothing(pattern: str) -> bool:
    r"""Tell whether an expression surely matches no text: `[^\s\S]`, `a^b`, `x$y`. A no may be wrong.

    Args:
        pattern: an expression that RE2 takes.
    """
    compiled = compile_regex(pattern)
    if compiled.programsize == 1:  # nothing but "fail": RE2 has seen it itself
        return True
    ways = _ways(anchored(pattern))
    if any(takes for takes, _, _ in ways):
        return False
    return compiled.fullmatch("") is None  # and every other text is too long


@lru_cache(65_536)
def match_range(pattern: str) -> tuple[bytes, bytes] | None:
    """Give a range that holds all texts that an expression matches, or None where that is not sure."""
    if _ASSERTS.search(pattern) is not None:  # there RE2 gives ranges that are too narrow
        return None
    try:
        low, high = compile_regex(pattern).possiblematchrange(_RANGE_BYTES)
    except re2.error:
        return None
    return low, high


def _ways(pattern: str) -> _Ways:
    """Read an expression; what is not understood is taken for something that can match."""
    free = _LINES.search(pattern) is not None
    anchors = dict.fromkeys("^$", _NOTHING) if free else {"^": _BEGIN, "$": _END}
    outer: list[tuple[_Ways, list[_Ways]]] = []
    others, row = _IMPOSSIBLE, list[_Ways]()  # the branches before this one, and what it has so far
    for token in _TOKEN.finditer(pattern):
        text = token[0]
        if token["quoted"] is not None:
            row += [_CHARACTER] * len(token["quoted"])
        elif token["escape"]:
            row.append(_NO_CHARACTER_TAKEN.get(text[1:]) or _one_of(text))
        elif token["set"]:
            row.append(_one_of(text))
        elif token["open"]:
            outer.append((others, row))
            others, row = _IMPOSSIBLE, []
        elif token["repeat"]:
            row[-1] = _repeated(row[-1], token)
        elif text == "|":
            others, row = others | _in_a_row(row), []
        elif text == ")":
            group = others | _in_a_row(row)
            others, row = outer.pop()
            row.append(group)
        elif token["other"]:
            row.append(anchors.get(text, _CHARACTER))
    return others | _in_a_row(row)


def _one_of(text: str) -> _Ways:
    try:
        return _IMPOSSIBLE if compile_regex(text).programsize == 1 else _CHARACTER
    except MatcherError:
        return _CHARACTER


def _in_a_row(row: list[_Ways]) -> _Ways:
    ways = _NOTHING
    for each in row:
        ways = _then(ways, each)
    return ways


def _then(first: _Ways, second: _Ways) -> _Ways:
    return frozenset(
        (takes or takes_too, begin or begin_too, end or end_too)
        for takes, begin, end in first
        for takes_too, begin_too, end_too in second
        if not (takes and begin_too) and not (end and takes_too)
    )


def _repeated(ways: _Ways, token: re.Match[str]) -> _Ways:
    text = token["repeat"]
    if token["least"] is None:
        least, most = int(text[0] == "+"), 1 if text[0] == "?" else None
    else:
        least = int(token["least"])
        most = least if token["more"] is None else int(token["most"]) if token["most"] else None
    needed = _power(ways, least, _NOTHING)
    more = _MOST_REPEATS if most is None else most - least
    return _then(needed, _power(ways | _NOTHING, more, _NOTHING))


def _power(ways: _Ways, times: int, start: _Ways) -> _Ways:
    result = start
    for _ in range(times):
        longer = _then(result, ways)
        if longer == result:
            break
        result = longer
    return result
