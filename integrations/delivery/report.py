"""What became of the events of each sink, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

QUEUE_FULL = "queue_full"


class SinkReport(NamedTuple):
    """What became of the events that one sink was to get.

    Attributes:
        delivered: events that the sink took.
        given_up: events that the sink failed on.
        dropped: events that never came to it, by reason.
        lost: events that were still queued when the time to drain was over.
    """

    delivered: int
    given_up: int
    dropped: Mapping[str, int]
    lost: int

    @property
    def complete(self) -> bool:
        """Whether no event was lost; what an inline sink has left out on purpose is none."""
        return not (self.given_up or self.lost or self.dropped.get(QUEUE_FULL))


class DrainReport(NamedTuple):
    """The report of each sink, by its name."""

    sinks: Mapping[str, SinkReport]

    @property
    def complete(self) -> bool:
        """Whether no event was lost for any sink."""
        return all(report.complete for report in self.sinks.values())
