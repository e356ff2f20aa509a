"""`simplify`: translates simple regular expressions, which most of those in configurations are, to `re`.

A call of RE2 takes 5 us and one of `re` 0.2 us, but `re` backtracks and can take hours. An expression is only
translated if it never backtracks: a repetition is followed by nothing that it could have matched itself, no
word in parentheses is a prefix of another, and what follows `.*` is only searched for at its first place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise, product
from typing import NamedTuple

_TOKEN = re.compile(
    r"""(?:
        (?P<text>    [^\\.+*?()|\[\]{}^$] | \\[!-/:-@\[-`{-~] )
      | (?P<any>     \. )
      | (?P<class>   \[\^?+ (?: \\[dw!-/:-@\[-`{-~] | [^\\\[\]&|~] )+ \] | \\[dw] )
      | (?P<between> \^ (?![*+?{]) | \$ (?![*+?{]) | \| )
      | \( (?:\?:)? (?P<words> [^\\.+*?()\[\]{}^$]* ) \)
    ) (?P<times>[*+?]?) \??""",
    re.VERBOSE,
)
_ANY = tuple(chr(code) for code in range(128) if chr(code) != "\n")
_MAX_TEXTS = 100  # of one alternative
_MAX_LENGTH = 250  # of a translated expression, as a search takes its length times that of the value


class Simple(NamedTuple):
    """The analysis of an expression, which has to match a whole value.

    Attributes:
        texts: all texts that it matches; None if there are too many or infinitely many.
        prefixes: the prefixes, one of which each matching text has.
        pattern: an equivalent pattern for values for which `is_plain` is true; None if it could backtrack.
    """

    texts: frozenset[str] | None
    prefixes: frozenset[str]
    pattern: re.Pattern[str] | None


class _Item(NamedTuple):
    """A part of an expression: one of some words, with a quantifier.

    Attributes:
        words: the words; of a class, its ASCII characters.
        times: the quantifier `*`, `+` or `?`; empty for exactly once.
        is_complete: whether `words` has all of them, as a class can match other characters too.
    """

    words: tuple[str, ...]
    times: str
    is_complete: bool = True

    @property
    def first(self) -> frozenset[str]:
        return frozenset(word[0] for word in self.words)

    @property
    def is_wild(self) -> bool:
        return self.words is _ANY and self.times in {"*", "+"}


def is_plain(value: str) -> bool:
    """Return whether the patterns of `simplify` can be used for a value: it is ASCII without line breaks."""
    return value.isascii() and "\n" not in value


@lru_cache(4096)
def simplify(pattern: str) -> Simple:
    """Analyse an expression that RE2 accepts."""
    try:
        branches = list(_branches(pattern))
        texts = _texts(branches)
        prefixes = frozenset(map(_prefix, branches))
    except _NotSimpleError:
        return Simple(None, frozenset({""}), None)
    if len(pattern) > _MAX_LENGTH:
        return Simple(texts, prefixes, None)
    try:
        return Simple(texts, prefixes, re.compile("|".join(map(_translate, branches))))
    except _NotSimpleError:
        return Simple(texts, prefixes, None)


class _NotSimpleError(Exception):
    pass


def _branches(pattern: str) -> Iterator[list[_Item]]:
    """Yield the alternatives of an expression, each as a list of its parts."""
    branch: list[_Item] = []
    end = 0
    while end < len(pattern):
        token = _TOKEN.match(pattern, end)
        if token is None:
            raise _NotSimpleError
        end = token.end()
        if token["between"] == "|":
            yield branch
            branch = []
        elif not token["between"]:
            branch += _items(token)
        elif branch if token["between"] == "^" else pattern[end : end + 1] not in {"", "|"}:
            raise _NotSimpleError
    yield branch


def _items(token: re.Match[str]) -> Iterator[_Item]:
    times = token["times"]
    if token["text"]:
        yield _Item((token["text"][-1],), times)
    elif token["any"]:
        yield _Item(_ANY, times, is_complete=False)
    elif token["class"]:
        if "--" in token["class"]:  # reserved in `re`
            raise _NotSimpleError
        matches = re.compile(token["class"], re.ASCII).fullmatch
        yield _Item(tuple(filter(matches, _ANY)), times, is_complete=False)
    else:
        words = set(token["words"].split("|"))
        if times in {"*", "+"}:
            raise _NotSimpleError
        if words - {""}:
            yield _Item(tuple(sorted(words - {""})), "?" if "" in words else times)


def _texts(branches: Sequence[Sequence[_Item]]) -> frozenset[str] | None:
    texts = set[str]()
    for branch in branches:
        choices = [("", *item.words) if item.times else item.words for item in branch]
        if not all(item.is_complete and item.times in {"", "?"} for item in branch):
            return None
        if math.prod(map(len, choices)) > _MAX_TEXTS:
            return None
        texts.update(map("".join, product(*choices)))
    # RE2 gets values in which surrogates are replaced by question marks.
    return None if any("?" in text for text in texts) else frozenset(texts)


def _prefix(branch: Sequence[_Item]) -> str:
    prefix = ""
    for item in branch:
        if len(item.words) != 1 or item.times:
            break
        prefix += item.words[0]
    return prefix


def _translate(branch: Sequence[_Item]) -> str:
    """Return a pattern for `re` that does not backtrack, except into the last `.*`.

    The parts before the first `.*` match in one way only. The parts between two `.*` are searched for, and
    kept where they are first found, in an atomic group: as all their words have the same length, no later
    place could match more. The last `.*` is greedy, and is shortened until the parts after it match.
    """
    wild = [number for number, item in enumerate(branch) if item.is_wild]
    begin, *ends = [*wild, len(branch)]
    ends_open = wild == [len(branch) - 1] and branch[-1].times == "*"
    text = _in_one_way(branch[:begin], frozenset(_ANY) if wild and not ends_open else frozenset())
    for start, end in pairwise([begin, *ends]):
        rest = branch[start + 1 : end]
        is_last = end == len(branch)
        if any(item.times or not (is_last or len(set(map(len, item.words))) == 1) for item in rest):
            raise _NotSimpleError
        found = "".join(map(_once, rest))
        text += f".{branch[start].times}{found}" if is_last else f"(?>.{branch[start].times}?{found})"
    return text


def _in_one_way(items: Sequence[_Item], follow: frozenset[str]) -> str:
    """Return the pattern for parts that can match in one way only.

    Args:
        items: the parts.
        follow: the characters that can come after them.

    Raises:
        _NotSimpleError: a repetition could also match what follows it.
    """
    parts = []
    for item in reversed(items):
        if item.times and not follow.isdisjoint(item.first):
            raise _NotSimpleError
        parts.append(f"{_once(item)}{item.times}{'+' if item.times else ''}")
        follow = item.first | follow if item.times in {"?", "*"} else item.first
    return "".join(reversed(parts))


def _once(item: _Item) -> str:
    words = item.words
    if words is _ANY:
        return "."
    if not words or any(longer.startswith(word) for word, longer in pairwise(words)):
        raise _NotSimpleError
    escaped = list(map(re.escape, words))
    if all(len(word) == 1 for word in words):
        return escaped[0] if len(words) == 1 else f"[{''.join(escaped)}]"
    return f"(?:{'|'.join(escaped)})"
