"""`StreamHealth`: whether a durable stream works, and what it has lost."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from codomyrmex.integrations.delivery.health import SinkHealth
from codomyrmex.streaming import Stream

_NONE: Mapping[str, SinkHealth] = MappingProxyType({})


class StreamHealth(NamedTuple):
    """The health of a durable stream in this process.

    Attributes:
        store: the URL of the store, without a password.
        available: whether the store answered last time.
        unavailable_for: seconds since it stopped answering; 0 if it is available.
        last_error: why it is not available, in one line without secrets.
        pending: events that are not in the store yet: what would be lost if the process were killed.
        dropped: events of `publish_nowait` that are not in the store and never will be, by reason.
        unconfirmed: events whose `publish` timed out while they were being stored; they may be in the store.
        missed: events that the retention removed before a subscription of this process received them.
        undecodable: entries of the log that are not events.
        warnings: what the engine, as it is configured, will not preserve.
        groups: the health of the handlers of this process that belong to a group, by the name of the group;
            attached sinks are not among them.
    """

    store: str
    available: bool
    unavailable_for: float
    last_error: str | None
    pending: int
    dropped: dict[str, int]
    unconfirmed: int
    missed: int
    undecodable: int
    warnings: tuple[str, ...]
    groups: Mapping[str, SinkHealth] = _NONE

    @property
    def ok(self) -> bool:
        """Whether the store is available, and nothing was lost in this process."""
        return self.available and not (any(self.dropped.values()) or self.missed or self.undecodable)

    def reported(self) -> dict[str, object]:
        """Return what other processes are shown; they know the store, and groups are among the sinks."""
        hidden = {"store", "warnings", "groups"}
        return {k: v for k, v in self._asdict().items() if k not in hidden} | {"problems": self.problems}

    @property
    def problems(self) -> list[str]:
        """What is wrong now, and what was lost in this process, as sentences."""
        found = []
        if not self.available:
            found.append(f"The store has not answered for {self.unavailable_for:.0f} s: {self.last_error}")
            if self.pending:
                found.append(f"Not stored yet, and lost if this process is killed: {_events(self.pending)}")
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in self.dropped.items())
        for number, what in (
            (sum(self.dropped.values()), f"never stored ({reasons})"),
            (self.unconfirmed, "perhaps stored, as the store did not answer in time"),
            (self.missed, "removed by the retention before they were received here"),
            (self.undecodable, "not readable"),
        ):
            if number:
                found.append(f"{_events(number)} {'was' if number == 1 else 'were'} {what}")
        return found


def _events(number: int) -> str:
    return "1 event" if number == 1 else f"{number:,} events"


def health_of(stream: Stream | None) -> StreamHealth | None:
    """Return the health of a stream, None if it is not a durable one."""
    read = getattr(stream, "health", None)
    health = read() if callable(read) else None
    return health if isinstance(health, StreamHealth) else None


def with_groups(sinks: Mapping[str, SinkHealth], stream: StreamHealth | None) -> dict[str, SinkHealth]:
    """Return the health of sinks together with that of the groups of a stream; equal names get a number."""
    together = dict(sinks)
    for name, health in (_NONE if stream is None else stream.groups).items():
        together[free_name(name, together)] = health
    return together


def free_name(name: str, taken: Mapping[str, object]) -> str:
    """Return a name, with a number if it is taken."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    return free
