"""Many regular expressions on the values of one label, in one pass."""

from __future__ import annotations

from collections.abc import Iterable

import re2  # type: ignore[import-untyped] # it has no stubs
from codomyrmex.integrations.configuration.matchers import Matcher, anchored, compile_regex

_MAX_KEPT = 20_000  # values of a label
_ANYTHING = "(?s:.*)"  # in each set: where not even this is found, the automaton has become too large
_MEMORY = 64 << 20  # bytes for the automaton of a label


class RegexSet:
    """Tells which of some regular expressions a value matches, and remembers it.

    RE2 takes 5 us for a match through its binding, for one expression as for a thousand in a set.

    Args:
        patterns: the expressions.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = list(dict.fromkeys(patterns))
        self._known: dict[str, frozenset[str]] = {}
        options = re2.Options()
        options.log_errors = False
        options.max_mem = _MEMORY
        self._set = re2.Set.FullMatchSet(options)
        for pattern in [*self._patterns, _ANYTHING]:
            self._set.Add(anchored(pattern))
        try:
            self._set.Compile()
        except re2.error:  # too large for the memory it may have
            self._set = None

    def matching(self, value: str) -> frozenset[str]:
        """Give the expressions that match a value."""
        known = self._known.get(value)
        if known is None:
            if len(self._known) >= _MAX_KEPT:
                self._known.clear()
            known = self._known[value] = self._match(value)
        return known

    def _match(self, value: str) -> frozenset[str]:
        found = None if self._set is None else self._set.Match(value)
        if found:
            last = len(self._patterns)
            return frozenset(self._patterns[number] for number in found if number != last)
        return frozenset(each for each in self._patterns if compile_regex(each).fullmatch(value) is not None)


class RegexSets:
    """A `RegexSet` for each label that some matchers ask about with an expression."""

    def __init__(self, matchers: Iterable[Matcher]) -> None:
        patterns: dict[str, list[str]] = {}
        for matcher in matchers:
            if matcher.regex is not None:
                patterns.setdefault(matcher.name, []).append(matcher.value)
        self._sets = {name: RegexSet(values) for name, values in patterns.items()}

    def matching(self, name: str, value: str) -> frozenset[str]:
        """Give the expressions on this label that match a value."""
        return self._sets[name].matching(value)
