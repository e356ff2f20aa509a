"""`Inhibitor`: finds the firing alert that inhibits others."""

from __future__ import annotations

from collections.abc import Sequence

from codomyrmex.integrations.configuration.matchers import Labels, matches_all
from codomyrmex.integrations.notification.alerts.config import InhibitRule
from codomyrmex.integrations.notification.alerts.group import ActiveAlert


class Inhibitor:
    """The alerts that match the source side of each rule, by the values of the rule's `equal` labels.

    All sources of such a value are kept, not only one: a source that does not count for a target must not
    hide one that does (prometheus/alertmanager#5162).

    Args:
        rules: the inhibition rules.
    """

    def __init__(self, rules: Sequence[InhibitRule]) -> None:
        self._rules = rules
        self._sources: list[dict[tuple[str, ...], dict[str, ActiveAlert]]] = [{} for _ in rules]

    def add(self, alert: ActiveAlert) -> None:
        for rule, sources in zip(self._rules, self._sources, strict=True):
            if matches_all(rule.source, alert.labels):
                sources.setdefault(_equal(rule, alert.labels), {})[alert.fingerprint] = alert

    def remove(self, alert: ActiveAlert) -> None:
        for rule, sources in zip(self._rules, self._sources, strict=True):
            key = _equal(rule, alert.labels)
            if key in sources and sources[key].pop(alert.fingerprint, None) is not None and not sources[key]:
                del sources[key]

    def inhibitor_of(self, labels: Labels, now: float) -> ActiveAlert | None:
        """Return the firing alert that inhibits one with these labels.

        If the target matches the source side of a rule too, alerts that match both sides do not count, so
        that no alert inhibits itself and no two inhibit each other.
        """
        for rule, sources in zip(self._rules, self._sources, strict=True):
            if not sources or not matches_all(rule.target, labels):
                continue
            both = matches_all(rule.source, labels)
            for source in sources.get(_equal(rule, labels), {}).values():
                if source.fires(now) and not (both and matches_all(rule.target, source.labels)):
                    return source
        return None


def _equal(rule: InhibitRule, labels: Labels) -> tuple[str, ...]:
    return tuple([labels.get(name, "") for name in rule.equal])
