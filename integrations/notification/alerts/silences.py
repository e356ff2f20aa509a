"""Silences: what is not notified of for some time, because somebody says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from codomyrmex.integrations.configuration.matchers import Labels, Matcher, matches_all
from codomyrmex.streaming.events import new_id

KEPT_FOR = 120 * 3600.0  # seconds that an expired silence is kept, as by Alertmanager


class SilenceState(StrEnum):
    """What a silence does at a moment."""

    PENDING = "pending"
    ACTIVE = "active"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Silence:
    """While it is active, alerts that match all of its matchers are not notified of.

    Args:
        matchers: at least one of them does not take an empty label.
        starts_at: seconds since 1970.
        ends_at: the same.
        created_by: who says so.
        comment: why.
        id: made automatically.

    Raises:
        ValueError: it would match everything, or ends before it starts.
    """

    matchers: Sequence[Matcher]
    starts_at: float
    ends_at: float
    created_by: str = ""
    comment: str = ""
    id: str = field(default_factory=new_id)

    def __post_init__(self) -> None:
        if all(matcher.holds("") for matcher in self.matchers):
            raise ValueError(
                "a silence has a matcher that an empty label does not meet, else it takes every alert"
            )
        if not self.starts_at < self.ends_at:
            raise ValueError("a silence ends after it starts")

    def state(self, now: float) -> SilenceState:
        """Tell what it does now."""
        if now < self.starts_at:
            return SilenceState.PENDING
        return SilenceState.ACTIVE if now < self.ends_at else SilenceState.EXPIRED

    def silences(self, labels: Labels, now: float) -> bool:
        """Tell whether it is active and matches."""
        return self.starts_at <= now < self.ends_at and matches_all(self.matchers, labels)

    def ended(self, now: float) -> Self:
        """Give it as one that ends now; of one that has not begun, a moment of it is left."""
        start = min(self.starts_at, now - 1)
        return replace(self, starts_at=start, ends_at=now)

    def to_dict(self) -> dict[str, Any]:
        """Give it as built-in types; `from_dict` is the inverse."""
        return {
            "id": self.id,
            "matchers": [[each.name, each.op.value, each.value] for each in self.matchers],
            "starts_at": self.starts_at,
            "ends_at": self.ends_at,
            "created_by": self.created_by,
            "comment": self.comment,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read it back.

        Raises:
            ValueError: it is none.
        """
        try:
            fields = {**data, "matchers": tuple(Matcher(*each) for each in data["matchers"])}
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no silence: {error}") from None
