"""`GroupStream`: what `attach` needs from a stream whose queued sinks read it themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Protocol

from codomyrmex.integrations.delivery.health import SinkHealth
from codomyrmex.integrations.delivery.observers import Observers
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.delivery.sink import Binding
from codomyrmex.integrations.delivery.worker import Worker
from codomyrmex.streaming import Clock, FilterFunction, Handler, Subscription


class HealthReport(Protocol):
    """The health that a process reports to the others, until it is closed."""

    def close(self) -> None:
        """Report it no longer. May be called repeatedly."""


class GroupStream(ABC):
    """A stream that keeps its events, from which each queued sink reads as a group of consumers."""

    @abstractmethod
    def subscribe_inline(self, handler: Handler, topic: str) -> Subscription:
        """Call a plain handler with each event during publish, in the publisher's context."""

    @abstractmethod
    def subscribe_newest(self, handler: Handler, topic: str, count: int) -> Subscription:
        """Call a handler with the events among the newest `count` entries, and with all that follow."""

    @abstractmethod
    def group_worker(
        self,
        binding: Binding,
        topic: str,
        filter_fn: FilterFunction | None,
        policy: DeliveryPolicy,
        clock: Clock,
        observers: Observers,
    ) -> Worker:
        """Return the delivery to a sink, which reads the stream's events itself."""

    @abstractmethod
    async def replay_for(self, worker: Worker) -> int:
        """Deliver the dead letters that the stream keeps for a sink again, and return their number."""

    @abstractmethod
    def report_health(self, read: Callable[[], Mapping[str, SinkHealth]]) -> HealthReport:
        """Report the health of sinks to the other processes that use the stream.

        Args:
            read: returns the health of each sink by name; called on any thread, and does not block.
        """
