"""The handlers of a durable stream that belong to a group: each is delivered to like a sink."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from inspect import isawaitable

from codomyrmex.integrations.delivery.health import SinkHealth
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.delivery.sink import Sink
from codomyrmex.integrations.durable.health import free_name
from codomyrmex.integrations.durable.worker import GroupWorker
from codomyrmex.streaming import Event, FilterFunction, Handler, Subscription


def make_subscription(handler: Handler | None, topic: str, filter_fn: FilterFunction | None) -> Subscription:
    """Return the subscription of a handler; errors as for `Stream.subscribe`."""
    if handler is None:
        raise TypeError("handler: must be a function of one event, got None")
    return Subscription(None, topic, handler, filter_fn)


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


class GroupHandlers:
    """The running groups of handlers, by the id of their subscription."""

    def __init__(self) -> None:
        self._workers: dict[str, GroupWorker] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._workers)

    def health(self) -> Mapping[str, SinkHealth]:
        """Return the health of each, by the name of its group; from any thread."""
        groups: dict[str, SinkHealth] = {}
        for worker in tuple(self._workers.values()):
            groups[free_name(worker.group, groups)] = worker.health()
        return groups

    def add(self, subscription: Subscription, worker: GroupWorker) -> None:
        """Add a group, which stops when its subscription is cancelled."""
        self._workers[subscription.id] = worker
        subscription.on_end(lambda ended: self._stop_soon(self._workers.pop(ended.id, None)))

    async def stop(self, subscription_id: str, timeout: float | None) -> bool:  # noqa: ASYNC109 - as for a sink
        """Stop a group, and return whether there is one with this id."""
        worker = self._workers.pop(subscription_id, None)
        if worker is None:
            return False
        if worker.loop() is asyncio.get_running_loop():
            try:
                await worker.stop(timeout)
            except BaseException:  # the caller is cancelled
                self._stop_soon(worker)
                raise
        else:
            self._stop_soon(worker)
        return True

    async def stop_all(self, timeout: float) -> None:  # noqa: ASYNC109 - as for a sink
        """Stop all groups, and wait for those whose subscriptions were cancelled just now."""
        await asyncio.gather(
            asyncio.sleep(0),  # for those cancelled in other threads
            *[self.stop(subscription_id, timeout) for subscription_id in tuple(self._workers)],
        )
        loop = asyncio.get_running_loop()
        if stopping := {task for task in tuple(self._stopping) if task.get_loop() is loop}:
            await asyncio.wait(stopping, timeout=timeout)

    def _stop_soon(self, worker: GroupWorker | None) -> None:
        """Stop a worker when its event loop gets to it, from any thread."""
        if worker is not None and (loop := worker.loop()) is not None:
            with suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(self._begin_to_stop, worker)

    def _begin_to_stop(self, worker: GroupWorker) -> None:
        task = asyncio.create_task(worker.stop(0))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
