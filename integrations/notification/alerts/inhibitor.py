"""`Inhibitor`: finds the firing alert that inhibits others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from codomyrmex.integrations.configuration.matchers import Labels, RegexSets
from codomyrmex.integrations.notification.alerts.config import InhibitRule
from codomyrmex.integrations.notification.alerts.group import ActiveAlert
from codomyrmex.integrations.notification.alerts.matcher_index import Check, MatcherIndex, all_hold, checks


class _Sources(NamedTuple):
    """Alerts that match the source side of a rule, by fingerprint.

    Attributes:
        one_sided: the alerts that do not match the target side.
        two_sided: the alerts that also match the target side; they do not inhibit others that match both.
    """

    one_sided: dict[str, ActiveAlert]
    two_sided: dict[str, ActiveAlert]


class _Rule(NamedTuple):
    equal: Sequence[str]
    source: list[Check]
    target: list[Check]


class Inhibitor:
    """The alerts that match the source side of each rule, by the values of the rule's `equal` labels.

    All sources of such a value are kept, not only one: a source that does not count for a target must not
    hide one that does (prometheus/alertmanager#5162).

    Args:
        rules: the inhibition rules.
    """

    def __init__(self, rules: Sequence[InhibitRule]) -> None:
        regexes = RegexSets(matcher for rule in rules for matcher in (*rule.source, *rule.target))
        self._rules = [
            _Rule(rule.equal, checks(rule.source, regexes), checks(rule.target, regexes)) for rule in rules
        ]
        self._by_source = MatcherIndex([rule.source for rule in rules], regexes)
        # The sources of each rule, by the names and the values of the labels that have to be equal.
        self._sources: dict[Sequence[str], dict[tuple[str, ...], dict[int, _Sources]]] = {}

    def add(self, alert: ActiveAlert) -> None:
        for number in self._by_source.matching(alert.labels):
            rule = self._rules[number]
            by_values = self._sources.setdefault(rule.equal, {})
            by_rule = by_values.setdefault(_values(rule.equal, alert.labels), {})
            sources = by_rule.setdefault(number, _Sources({}, {}))
            sources[all_hold(rule.target, alert.labels)][alert.fingerprint] = alert

    def remove(self, alert: ActiveAlert) -> None:
        for equal, by_values in self._sources.items():
            values = _values(equal, alert.labels)
            by_rule = by_values.get(values, {})
            for number, sources in list(by_rule.items()):
                for each in sources:
                    each.pop(alert.fingerprint, None)
                if not any(sources):
                    del by_rule[number]
            if not by_rule:
                by_values.pop(values, None)

    def inhibitor_of(self, labels: Labels, now: float) -> ActiveAlert | None:
        """Return the firing alert that inhibits one with these labels.

        If the target matches the source side of a rule too, alerts that match both sides do not count, so
        that no alert inhibits itself and no two inhibit each other.
        """
        found: dict[int, _Sources] = {}
        for equal, by_values in self._sources.items():
            found |= by_values.get(_values(equal, labels), {})
        for number in sorted(found):
            rule, sources = self._rules[number], found[number]
            if not all_hold(rule.target, labels):
                continue
            for source in sources.one_sided.values():
                if source.fires(now):
                    return source
            if sources.two_sided and not all_hold(rule.source, labels):
                for source in sources.two_sided.values():
                    if source.fires(now):
                        return source
        return None


def _values(names: Sequence[str], labels: Labels) -> tuple[str, ...]:
    return tuple([labels.get(name, "") for name in names])
