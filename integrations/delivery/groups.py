"""`GroupStream`: what `attach` needs from a stream whose queued sinks read it themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod

from codomyrmex.integrations.delivery.observers import Observers
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.delivery.sink import Binding
from codomyrmex.integrations.delivery.worker import Worker
from codomyrmex.streaming import Clock, FilterFunction, Handler, Subscription


class GroupStream(ABC):
    """A stream that keeps its events, from which each queued sink reads as a group of consumers."""

    @abstractmethod
    def subscribe_inline(self, handler: Handler, topic: str) -> Subscription:
        """Call a plain handler with each event during publish, in the publisher's context."""

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
