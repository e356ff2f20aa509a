"""`DryRunChannel`: takes the place of a channel in a dry run of an alert sink."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from codomyrmex.integrations.delivery.sink import Sink
from codomyrmex.streaming import Event

_logger = logging.getLogger(__name__)


class DryRunChannel(Sink):
    """Logs notifications instead of sending them.

    Args:
        sink: the name of the alert sink.
        name: the name of the channel.
        report: called with each rendered event.
    """

    def __init__(self, sink: str, name: str, report: Callable[[Event], None]) -> None:
        self.name = name
        self._sink = sink
        self._report = report

    async def send(self, events: Sequence[Event]) -> None:
        for event in events:
            _logger.info("sink %s would send to %s: %s", self._sink, self.name, event.metadata["title"])
            self._report(event)
