"""Inhibition: while one alert fires, others are not notified of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from codomyrmex.integrations.configuration.matchers import Labels, matches_all
from codomyrmex.integrations.notification.alerts.config import InhibitRule


class Source(Protocol):
    """What inhibition knows of an alert."""

    @property
    def fingerprint(self) -> str:
        """What identifies it."""

    @property
    def labels(self) -> Labels:
        """Its labels."""

    def fires(self, now: float) -> bool:
        """Tell whether it fires."""


class Inhibitor:
    """Knows which alerts can inhibit others, by rule and by the values of the labels that must be equal.

    All sources of a place are kept, not one of them: a source that does not count for a target must not
    hide one that does.

    Args:
        rules: the rules.
    """

    def __init__(self, rules: Sequence[InhibitRule]) -> None:
        self._rules = rules
        self._sources: list[dict[tuple[str, ...], dict[str, Source]]] = [{} for _ in rules]

    def add(self, alert: Source) -> None:
        """Take an alert into account."""
        for rule, sources in zip(self._rules, self._sources, strict=True):
            if matches_all(rule.source, alert.labels):
                sources.setdefault(_equal(rule, alert.labels), {})[alert.fingerprint] = alert

    def remove(self, alert: Source) -> None:
        """Forget an alert."""
        for rule, sources in zip(self._rules, self._sources, strict=True):
            place = _equal(rule, alert.labels)
            there = sources.get(place)
            if there is not None and there.pop(alert.fingerprint, None) is not None and not there:
                del sources[place]

    def inhibitor_of(self, labels: Labels, now: float) -> tuple[Source, InhibitRule] | None:
        """Give the firing alert that keeps one with these labels back, and by which rule.

        Where the target matches the source side of a rule too, alerts that match both sides do not count,
        so that no alert inhibits itself and no two each other.
        """
        for rule, sources in zip(self._rules, self._sources, strict=True):
            if not sources or not matches_all(rule.target, labels):
                continue
            there = sources.get(_equal(rule, labels))
            if there is None:
                continue
            both = matches_all(rule.source, labels)
            for source in there.values():
                if source.fires(now) and not (both and matches_all(rule.target, source.labels)):
                    return source, rule
        return None

    def rules_on(self, labels: Labels) -> Iterable[InhibitRule]:
        """Give the rules that could keep an alert with these labels back."""
        return (rule for rule in self._rules if matches_all(rule.target, labels))


def _equal(rule: InhibitRule, labels: Labels) -> tuple[str, ...]:
    return tuple([labels.get(name, "") for name in rule.equal])
