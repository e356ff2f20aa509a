"""`Known`: what is sure of the labels of any alert that comes to a place in the tree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

from codomyrmex.integrations.configuration.matchers import Matcher, Op, literal_choices
from codomyrmex.integrations.notification.alerts.unmatchable import match_range, matches_nothing

_OPPOSITE = {
    Op.EQUAL: Op.NOT_EQUAL,
    Op.NOT_EQUAL: Op.EQUAL,
    Op.REGEX: Op.NOT_REGEX,
    Op.NOT_REGEX: Op.REGEX,
}


class Fact:
    """A matcher that holds, with what there is to know of it.

    Args:
        matcher: the matcher.
    """

    def __init__(self, matcher: Matcher) -> None:
        self.matcher = matcher
        self.name = matcher.name
        self.key = str(matcher)  # in sets: faster than the matcher
        self.holds = matcher.holds
        pattern = matcher.value if matcher.op is Op.REGEX else None
        self.values = _values(matcher)
        self.never = (
            not self.values if self.values is not None else pattern is not None and matches_nothing(pattern)
        )
        self.span = None if pattern is None else match_range(pattern)

    @cached_property
    def opposite(self) -> Fact:
        """What holds where this does not."""
        return Fact(Matcher(self.name, _OPPOSITE[self.matcher.op], self.matcher.value))


@dataclass(frozen=True, slots=True)
class Condition:
    """A fact, and why it is one.

    Args:
        fact: the fact.
        path: where its matcher stands.
        taken: whether its opposite stands there: the route at the path took what met that.
    """

    fact: Fact
    path: str
    taken: bool = False

    def __str__(self) -> str:
        return self.fact.key


@dataclass(slots=True)
class _Label:
    conditions: list[Condition] = field(default_factory=list)
    keys: dict[str, Condition] = field(default_factory=dict)
    listed: Condition | None = None  # the first one that leaves only some values
    values: frozenset[str] | None = None  # those

    def copy(self) -> _Label:
        return _Label(list(self.conditions), dict(self.keys), self.listed, self.values)

    def leaves(self, values: Iterable[str]) -> frozenset[str]:
        """Give those of some values that meet all conditions."""
        return frozenset(value for value in values if all(each.fact.holds(value) for each in self.conditions))


class Known:
    """Facts that hold together, and what follows from them."""

    def __init__(self) -> None:
        self._labels: dict[str, _Label] = {}
        self._shared: set[str] = set()  # labels that another one knows too, so they are copied on change

    def copy(self) -> Self:
        """Give another one that can be added to."""
        other = type(self)()
        other._labels = dict(self._labels)  # noqa: SLF001 - of the same class
        other._shared = set(self._labels)  # noqa: SLF001 - of the same class
        self._shared = set(self._labels)
        return other

    def add(self, condition: Condition) -> tuple[Condition, ...]:
        """Add a condition, or give those that contradict each other if it can never hold with the others."""
        fact = condition.fact
        if self.refuses(fact):
            return tuple(dict.fromkeys(self._against(condition)))
        label = self._labels.get(fact.name, _Label())
        if fact.key in label.keys:
            return ()
        if fact.name in self._shared:
            label = label.copy()
            self._shared.discard(fact.name)
        self._labels[fact.name] = label
        label.conditions.append(condition)
        label.keys[fact.key] = condition
        values = fact.values if label.values is None else label.values
        if values is not None:
            label.listed = label.listed or condition
            label.values = label.leaves(values)
        return ()

    def add_all(self, conditions: Iterable[Condition]) -> tuple[Condition, ...]:
        """Add conditions up to the first that can never hold with the others; give what contradicts."""
        return next(filter(None, map(self.add, conditions)), ())

    def implies(self, fact: Fact) -> bool:
        """Tell whether a fact surely holds too."""
        return self.refuses(fact.opposite)

    def refuses(self, fact: Fact) -> bool:
        """Tell whether a fact surely does not hold; a line break in a value aside (`.*` is anything)."""
        if fact.never:
            return True
        label = self._labels.get(fact.name)
        if label is None:
            return False
        if label.values is not None:
            return not any(map(fact.holds, label.values))
        if fact.values is not None:
            return not label.leaves(fact.values)
        return fact.opposite.key in label.keys or any(True for _ in _without_common(label, fact))

    def _against(self, new: Condition) -> Iterator[Condition]:
        """Give what contradicts, together with what is new."""
        fact = new.fact
        label = self._labels.get(fact.name)
        if label is not None and not fact.never:
            if fact.opposite.key in label.keys:
                yield label.keys[fact.opposite.key]
            elif label.listed is not None or fact.values is not None:
                yield from _refusals(label, label.listed or new, new)
            else:
                yield from _without_common(label, fact)
        yield new


def _without_common(label: _Label, fact: Fact) -> Iterator[Condition]:
    """Give the expressions that match nothing that this one matches."""
    if fact.span is not None:
        low, high = fact.span
        for each in label.conditions:
            span = each.fact.span
            if span is not None and (span[1] < low or high < span[0]):
                yield each
                return


def _refusals(label: _Label, listed: Condition, new: Condition) -> Iterator[Condition]:
    """Give the condition that lists values and one that refuses them all, or else one for each of them."""
    yield listed
    values = sorted(listed.fact.values or ())
    others = (*label.conditions, new)
    alone = next((each for each in others if not any(map(each.fact.holds, values))), None)
    if alone is not None:
        yield alone
        return
    for value in values:
        yield next(each for each in others if not each.fact.holds(value))


def _values(matcher: Matcher) -> frozenset[str] | None:
    """Give the values that a matcher takes, where they are some few."""
    if matcher.op is Op.EQUAL:
        return frozenset({matcher.value})
    if matcher.op is Op.REGEX:
        return literal_choices(matcher.value)
    if matcher.op is Op.NOT_REGEX:
        return {".*": frozenset[str](), ".+": frozenset({""})}.get(matcher.value)
    return None
