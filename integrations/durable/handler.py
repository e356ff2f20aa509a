"""`HandlerSink`: the handler of a group, delivered to like a sink."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from inspect import isawaitable

from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.delivery.sink import Sink
from codomyrmex.streaming import Event, Handler


class HandlerSink(Sink):
    """The handler of a subscription with a group, as a sink that takes one event at a time."""

    def __init__(self, name: str, handler: Handler) -> None:
        self.name = name
        self._handler = handler

    async def send(self, events: Sequence[Event]) -> None:
        """Call the handler."""
        for event in events:
            result = self._handler(event)
            if isawaitable(result):
                awaitable: Awaitable[object] = result
                await awaitable


HANDLER_POLICY = DeliveryPolicy(batch_size=1, batch_age=0)
"""The policy of a group's handler by default: each event by itself, at once."""
