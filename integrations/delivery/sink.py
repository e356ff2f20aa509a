"""The two kinds of destination: one that takes microseconds, and one that may be slow or absent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from codomyrmex.streaming import Event


class InlineSink(ABC):
    """A destination that takes microseconds and needs the publisher's context, such as a logger.

    Attributes:
        name: what it is called in reports and logs; one name for each sink of an attachment.
    """

    name: str

    @abstractmethod
    def emit(self, event: Event) -> None:
        """Take an event, during publish and in the publisher's own context.

        What it raises is counted and logged, and never reaches the publisher.

        Raises:
            DroppedError: it leaves this event out; counted by reason, and not logged.
        """


class Sink(ABC):
    """A destination that may be slow or absent, such as a network. It runs behind a bounded queue.

    Attributes:
        name: what it is called in reports and logs; one name for each sink of an attachment.
    """

    name: str

    async def open(self) -> None:  # noqa: B027 - most sinks have nothing to open
        """Get ready; called once before the first `send`."""

    @abstractmethod
    async def send(self, events: Sequence[Event]) -> None:
        """Deliver events, in order; one call at a time.

        Raises:
            PartialDeliveryError: only the events that it names were not delivered.
            Exception: none of them was.
        """

    async def close(self) -> None:  # noqa: B027 - as above
        """Give back what `open` took; called once, also after failures."""
