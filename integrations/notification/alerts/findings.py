"""`Finding`: what `lint` finds in a configuration."""

from __future__ import annotations

from dataclasses import dataclass

from codomyrmex.integrations.configuration.problems import Problem

# Receivers that deliver nothing, and mistakes in settings that Alertmanager does not have.
_MISTAKES = frozenset({"delivers-nothing", "invalid-channel", "unknown-label", "useless-on-unmute"})


@dataclass(frozen=True, slots=True)
class Finding(Problem):
    """A setting that is probably not intended, or that differs from Alertmanager.

    Args:
        kind: its kind, such as `shadowed-route`; `note` for a setting that has another effect than in
            Alertmanager, or none.
    """

    kind: str = ""

    @property
    def is_mistake(self) -> bool:
        """Whether it is a mistake; other findings are allowed in Alertmanager."""
        return self.kind in _MISTAKES

    def __str__(self) -> str:
        return f"{Problem.__str__(self)} [{self.kind}]"

    def to_dict(self) -> dict[str, object]:
        return {**Problem.to_dict(self), "kind": self.kind}
