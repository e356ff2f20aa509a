"""`simplify`: the regular expressions that need no RE2, which most of those in configurations are.

A call of RE2 takes 5 us, one of `re` 0.2 us; but `re` backtracks, and can take hours. What is translated here
never tries a part of a value in more than one way: after a repetition comes nothing that it could have
matched, words in parentheses do not begin alike, and after `.*` the first place counts where the rest is.
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
_MAX_LENGTH = (
    250  # of an expression that is translated; a search for a text takes its length times that of the value
)


class Simple(NamedTuple):
    """What is known about a simple expression, which has to match a whole value.

    Attributes:
        texts: all texts that it matches; None if there are too many.
        prefixes: what it matches begins with one of these.
        pattern: matches the same as RE2 if the value `is_plain`; None if `re` would backtrack.
    """

    texts: frozenset[str] | None
    prefixes: frozenset[str]
    pattern: re.Pattern[str] | None


class _Item(NamedTuple):
    """A part of an expression: one of these words, as often as `times` says.

    Attributes:
        is_complete: whether there are no other words; of a class, they are the ASCII characters.
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
    """Return whether the patterns of `simplify` apply: a value in ASCII without line breaks."""
    return value.isascii() and "\n" not in value


@lru_cache(4096)
def simplify(pattern: str) -> Simple:
    """Return what is known about an expression that RE2 accepts."""
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
    """Yield the parts of each alternative."""
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
    return None if any("?" in text for text in texts) else frozenset(texts)  # RE2 gets one for a surrogate


def _prefix(branch: Sequence[_Item]) -> str:
    prefix = ""
    for item in branch:
        if len(item.words) != 1 or item.times:
            break
        prefix += item.words[0]
    return prefix


def _translate(branch: Sequence[_Item]) -> str:
    """Return an expression for `re` that does not backtrack, except from the last `.*`."""
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
    """Return the expression for parts that can match in one way only, if one of some characters follows."""
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
