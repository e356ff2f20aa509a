"""`MatcherIndex`: finds which of many lists of matchers match labels, without checking each list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from codomyrmex.integrations.configuration.matchers import Labels, Matcher, Op, RegexSet, RegexSets

_FEW = 4  # expressions on a label, which are checked one by one instead of being indexed

_MAX_VALUES = 1_000  # of a label, cached in each index

Check = tuple[str, Callable[[str], bool]]
_Numbers = dict[str | None, list[int]]
_Lookup = Callable[[str | None], list[int] | None]


class MatcherIndex:
    """An index of lists of matchers by one matcher of each, its key.

    The key is a matcher that does not match an empty value. So a list can only match labels that have a value
    for the label of its key, and is found by that value. Lists without a key are checked each time.

    Args:
        lists: the lists of matchers.
        regexes: the expressions of all matchers.
    """

    __slots__ = ("_always", "_checks", "_lookups")

    def __init__(self, lists: Sequence[Sequence[Matcher]], regexes: RegexSets) -> None:
        self._always: list[int] = []
        self._checks: list[list[Check]] = []
        by_value: dict[str, _Numbers] = {}
        by_regex: dict[str, _Numbers] = {}
        keys = [_key(matchers) for matchers in lists]
        many = Counter(key.name for key in keys if key is not None and key.choices is None)
        for number, (matchers, key) in enumerate(zip(lists, keys, strict=True)):
            rest = [matcher for matcher in matchers if matcher is not key]
            if key is not None and key.choices is not None:
                for value in key.choices:
                    by_value.setdefault(key.name, {}).setdefault(value, []).append(number)
            elif key is not None and many[key.name] > _FEW:
                by_regex.setdefault(key.name, {}).setdefault(key.value, []).append(number)
            else:
                self._always.append(number)
                rest = [*matchers]
            self._checks.append(checks(rest, regexes))
        self._lookups: list[tuple[str, _Lookup]] = []
        for name in by_value | by_regex:
            lookup: _Lookup = by_value.get(name, {}).get
            if name in by_regex:
                lookup = _Table(by_value.get(name, {}), by_regex[name], regexes[name]).__getitem__
            self._lookups.append((name, lookup))

    def matching(self, labels: Labels) -> Iterator[int]:
        """Yield the indexes of the lists whose matchers all match, in ascending order."""
        get, numbers = labels.get, self._always
        for name, lookup in self._lookups:
            if found := lookup(get(name)):
                numbers = numbers + found
        for number in sorted(numbers):
            for name, holds in self._checks[number]:  # `all_hold` inlined, for speed
                if not holds(get(name, "")):
                    break
            else:
                yield number


class _Table(_Numbers):
    """The indexes of the lists whose key matches a value of a label; filled in as values occur."""

    def __init__(self, by_value: _Numbers, by_regex: _Numbers, regexes: RegexSet) -> None:
        super().__init__()
        self._by_value = by_value
        self._by_regex = by_regex
        self._regexes = regexes

    def __missing__(self, value: str | None) -> list[int]:
        if len(self) >= _MAX_VALUES:
            self.clear()
        numbers = self[value] = self._find(value) if value else []
        return numbers

    def _find(self, value: str) -> list[int]:
        numbers = [*self._by_value.get(value, ())]
        for pattern in self._regexes.matching(value):
            numbers += self._by_regex.get(pattern, ())
        return numbers


def _key(matchers: Sequence[Matcher]) -> Matcher | None:
    """Return the key of a list: a matcher with few values, otherwise an expression; None if there is none."""
    with_choices = (matcher for matcher in matchers if matcher.choices is not None)
    others = (matcher for matcher in matchers if matcher.op is Op.REGEX and not matcher.holds(""))
    return next(with_choices, None) or next(others, None)


def checks(matchers: Iterable[Matcher], regexes: RegexSets) -> list[Check]:
    """Return the label of each matcher, and a function that checks a value, with one call of RE2 at most."""
    return [(matcher.name, _check(matcher, regexes)) for matcher in matchers]


def _check(matcher: Matcher, regexes: RegexSets) -> Callable[[str], bool]:
    if matcher.is_simple:
        return matcher.holds
    regex_set, pattern, negative = regexes[matcher.name], matcher.value, matcher.op is Op.NOT_REGEX
    return lambda value: (pattern in regex_set.matching(value)) is not negative


# `all` with a generator takes three times as long.
def all_hold(checks: Iterable[Check], labels: Labels) -> bool:
    """Return whether labels pass all checks."""
    for name, holds in checks:  # noqa: SIM110 - see above
        if not holds(labels.get(name, "")):
            return False
    return True
