"""What became of the events of each sink, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

# Reasons for which an event never came to a sink.
QUEUE_FULL = "queue_full"
CLOSED = "closed"  # it was published while the sink was being closed
FORKED = "forked"  # it was published in a child process, and the sink is its parent's
INTERRUPTED = "interrupted"  # something like KeyboardInterrupt came while it was emitted
ABOUT_ITSELF = "about_itself"  # it tells of this very sink

_LOSSES = (QUEUE_FULL, CLOSED, FORKED, INTERRUPTED)


class SinkReport(NamedTuple):
    """What became of the events that one sink was to get.

    Attributes:
        delivered: events that the sink took.
        given_up: events that the sink failed on.
        dropped: events that never came to it, by reason.
        lost: events that were still queued when the time to drain was over.
        retried: events sent again, each as often as it was.
    """

    delivered: int
    given_up: int
    dropped: Mapping[str, int]
    lost: int
    retried: int = 0

    @property
    def complete(self) -> bool:
        """Whether no event was lost; what an inline sink has left out on purpose is none."""
        return not (self.given_up or self.lost or any(self.dropped.get(reason) for reason in _LOSSES))

    def plus(self, other: SinkReport) -> SinkReport:
        """Add up two reports, of a sink that was removed and of one that came under its name."""
        reasons = {*self.dropped, *other.dropped}
        return SinkReport(
            self.delivered + other.delivered,
            self.given_up + other.given_up,
            {reason: self.dropped.get(reason, 0) + other.dropped.get(reason, 0) for reason in reasons},
            self.lost + other.lost,
            self.retried + other.retried,
        )


class DrainReport(NamedTuple):
    """The report of each sink, by its name."""

    sinks: Mapping[str, SinkReport]

    @property
    def complete(self) -> bool:
        """Whether no event was lost for any sink."""
        return all(report.complete for report in self.sinks.values())
