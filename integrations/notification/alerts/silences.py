"""`Silence`: suppresses matching alerts for some time."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

import msgspec
from codomyrmex.integrations.configuration.matchers import Labels, Matcher, Op, RegexSets, matches_all
from codomyrmex.integrations.notification.alerts.alert import MAX_TIME
from codomyrmex.integrations.notification.alerts.matcher_index import MatcherIndex
from codomyrmex.streaming.events import new_id

_POSITIVE = frozenset({Op.EQUAL, Op.REGEX})
KEPT_FOR = 120 * 3600.0  # seconds that an expired silence is kept, as by Alertmanager


class SilenceState(StrEnum):
    """The state of a silence at some time."""

    PENDING = "pending"
    ACTIVE = "active"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Silence:
    """Suppresses the alerts that match all matchers of one of its sets while it is active.

    Args:
        matchers: the first set. In each set, at least one matcher must be negative or not match an empty
            value, as in Alertmanager; any other silence would match every alert.
        starts_at: seconds since 1970.
        ends_at: seconds since 1970.
        created_by: the person who has created it.
        comment: the reason.
        id: generated if left out.
        other_matchers: further sets, as in Alertmanager since 0.32.
        updated_at: when it was last changed, in seconds since 1970; None if not known.
        annotations: additional information, as in Alertmanager since 0.33.

    Raises:
        TypeError: the matchers are not `Matcher` objects.
        ValueError: it would match every alert, ends before it starts, or has an impossible time.
    """

    matchers: Sequence[Matcher]
    starts_at: float
    ends_at: float
    created_by: str = ""
    comment: str = ""
    id: str = field(default_factory=new_id)
    other_matchers: Sequence[Sequence[Matcher]] = ()
    updated_at: float | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, matchers in (
            ("matchers", self.matchers),
            *(("other_matchers", each) for each in self.other_matchers),
        ):
            if not isinstance(matchers, Sequence) or not all(isinstance(each, Matcher) for each in matchers):
                raise TypeError(f"{name}: must be matchers, as parse_matchers returns them, got {matchers!r}")
            if all(each.op in _POSITIVE and each.holds("") for each in matchers):
                problem = "must not match every alert; add a matcher that an empty value does not match"
                raise ValueError(f"{name}: {problem}")
        for name, time in (("starts_at", self.starts_at), ("ends_at", self.ends_at)):
            if not abs(time) <= MAX_TIME:
                raise ValueError(f"{name}: must be before the year 3000, got {time:g} seconds")
        if not self.starts_at < self.ends_at:
            raise ValueError("ends_at: must be after starts_at")

    def state(self, now: float) -> SilenceState:
        if now < self.starts_at:
            return SilenceState.PENDING
        return SilenceState.ACTIVE if now < self.ends_at else SilenceState.EXPIRED

    def silences(self, labels: Labels, now: float) -> bool:
        """Return whether it is active and matches."""
        return self.starts_at <= now < self.ends_at and any(
            matches_all(matchers, labels) for matchers in (self.matchers, *self.other_matchers)
        )

    def condition(self) -> str:
        """Return the matchers as text: `a="1", b="2" or c="3"`."""
        return " or ".join(", ".join(map(str, each)) for each in (self.matchers, *self.other_matchers))

    def ended(self, now: float) -> Self:
        """Return a copy that ends now; if it has not started yet, the copy starts a second ago."""
        return replace(self, starts_at=min(self.starts_at, now - 1), ends_at=now, updated_at=now)

    def to_dict(self) -> dict[str, Any]:
        """Return built-in types, from which `from_dict` creates an equal silence."""
        return {
            "id": self.id,
            "matchers": _to_lists(self.matchers),
            "starts_at": self.starts_at,
            "ends_at": self.ends_at,
            "created_by": self.created_by,
            "comment": self.comment,
            **(
                {"other_matchers": [_to_lists(each) for each in self.other_matchers]}
                if self.other_matchers
                else {}
            ),
            **({} if self.updated_at is None else {"updated_at": self.updated_at}),
            **({"annotations": dict(self.annotations)} if self.annotations else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the silence from which `to_dict` created the data.

        Raises:
            ValueError: the data are not those of a silence.
        """
        try:
            record = msgspec.convert(data, _Record)
            others = tuple(_from_lists(each) for each in record.other_matchers)
            return cls(**{**data, "matchers": _from_lists(record.matchers), "other_matchers": others})
        except (msgspec.ValidationError, TypeError) as error:
            raise ValueError(f"not a silence: {error}") from None


class Silences(UserDict[str, Silence]):
    """Silences by id, with an index of their matchers."""

    def __init__(self) -> None:
        super().__init__()
        self._index: tuple[MatcherIndex, list[Silence]] | None = None

    def __setitem__(self, key: str, silence: Silence) -> None:
        super().__setitem__(key, silence)
        self._index = None

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self._index = None

    def active_for(self, labels: Labels, now: float) -> Silence | None:
        """Return the first active silence that matches the labels."""
        index, silences = self._index = self._index or self._make_index()
        for number in index.matching(labels):
            if silences[number].state(now) is SilenceState.ACTIVE:
                return silences[number]
        return None

    def _make_index(self) -> tuple[MatcherIndex, list[Silence]]:
        sets = [
            (matchers, silence)
            for silence in self.values()
            for matchers in (silence.matchers, *silence.other_matchers)
        ]
        regexes = RegexSets(matcher for matchers, _ in sets for matcher in matchers)
        return MatcherIndex([matchers for matchers, _ in sets], regexes), [silence for _, silence in sets]


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    matchers: list[tuple[str, str, str]]
    starts_at: float
    ends_at: float
    created_by: str
    comment: str
    other_matchers: list[list[tuple[str, str, str]]] = []
    updated_at: float | None = None
    annotations: dict[str, str] = {}


def successor(old: Silence | None, new: Silence, now: float) -> Silence:
    """Return the silence that results from a change, by the rules of Alertmanager's API.

    An active silence can be changed in its end and its texts; a pending one also in its start, unless that is
    in the past. Then the result has the id of the old silence and replaces it. Otherwise it is a new silence,
    which starts now at the earliest, and the caller has to expire the old one.
    """
    if old is not None and _may_become(old, new, now):
        return replace(new, id=old.id)
    return replace(new, starts_at=max(new.starts_at, now))


def _may_become(old: Silence, new: Silence, now: float) -> bool:
    same = sorted(old.matchers) == sorted(new.matchers) and not old.other_matchers
    match old.state(now):
        case SilenceState.ACTIVE:
            return same and int(new.starts_at) == int(old.starts_at)
        case SilenceState.PENDING:
            return same and new.starts_at >= now
        case _:
            return False


def _to_lists(matchers: Iterable[Matcher]) -> list[list[str]]:
    return [[each.name, each.op.value, each.value] for each in matchers]


def _from_lists(matchers: Iterable[Sequence[Any]]) -> tuple[Matcher, ...]:
    return tuple(Matcher(*each) for each in matchers)
