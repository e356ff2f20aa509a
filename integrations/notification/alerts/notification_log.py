"""The notification log: what each channel was last told of each group, and so what it has to be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from codomyrmex.integrations.notification.alerts.notification import Reason

_NOBODY: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What a channel was told of a group.

    Args:
        firing: the fingerprints it knows as firing.
        resolved: the same of those it knows as resolved.
        at: when, in seconds since 1970.
        expires: when it is forgotten.
    """

    firing: frozenset[str]
    resolved: frozenset[str]
    at: float
    expires: float

    def to_dict(self) -> dict[str, Any]:
        """Give it as built-in types."""
        return {
            "firing": sorted(self.firing),
            "resolved": sorted(self.resolved),
            "at": self.at,
            "expires": self.expires,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Read it back."""
        return cls(frozenset(data["firing"]), frozenset(data["resolved"]), data["at"], data["expires"])


def reason_to_notify(
    entry: LogEntry | None,
    firing: frozenset[str],
    resolved: frozenset[str],
    now: float,
    *,
    send_resolved: bool,
    repeat_interval: float,
) -> Reason:
    """Tell why a channel is to be notified now, in Alertmanager's order of questions.

    `ALL_RESOLVED` is also given where `send_resolved` is off: nothing is sent then, but the log is written.

    Args:
        entry: what it was told last.
        firing: the fingerprints of what fires in the group.
        resolved: the same of what is resolved.
        now: seconds since 1970.
        send_resolved: whether the channel is told of resolved alerts.
        repeat_interval: seconds after which it is told again.
    """
    if entry is None:
        return Reason.FIRST if firing else Reason.NONE
    if not firing <= entry.firing:
        return Reason.NEW_ALERTS
    if not firing:
        return Reason.ALL_RESOLVED if entry.firing else Reason.NONE
    if send_resolved and not resolved <= entry.resolved:
        return Reason.SOME_RESOLVED
    return Reason.REPEAT if entry.at < now - repeat_interval else Reason.NONE
