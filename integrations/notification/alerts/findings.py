"""`Finding`: what `lint` says about a configuration."""

from __future__ import annotations

from dataclasses import dataclass

from codomyrmex.integrations.configuration.problems import Problem

# What Alertmanager does not accept either, or cannot have: what is not delivered, and settings of our own.
_MISTAKES = frozenset({"delivers-nothing", "invalid-channel", "unknown-label", "useless-on-unmute"})


@dataclass(frozen=True, slots=True)
class Finding(Problem):
    """A setting that is probably unintended, or that does something else than in Alertmanager.

    Args:
        kind: its kind, such as `shadowed-route`; `note` for what is accepted but not used.
    """

    kind: str = ""

    @property
    def is_mistake(self) -> bool:
        """Whether it is a mistake; others are legal in Alertmanager."""
        return self.kind in _MISTAKES

    def __str__(self) -> str:
        return f"{Problem.__str__(self)} [{self.kind}]"

    def to_dict(self) -> dict[str, object]:
        return {**Problem.to_dict(self), "kind": self.kind}
