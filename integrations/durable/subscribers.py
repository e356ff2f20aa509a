"""`Subscribers`: the handlers of a durable stream in this process, each with a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from typing import Any

from codomyrmex.integrations.durable.runtime import Runtime
from codomyrmex.integrations.durable.subscriber import Failed, ReadLog, Subscriber
from codomyrmex.streaming import Subscription


class Subscribers:
    """Runs a `Subscriber` for each handler, on the event loop that it was subscribed on.

    Args:
        runtime: the thread that uses the store, and the newest entries.
        read: reads entries from the store.
        failed: called with each exception of a handler.
    """

    def __init__(self, runtime: Runtime, read: ReadLog, failed: Failed) -> None:
        self._runtime = runtime
        self._read = read
        self._failed = failed
        self._reset()

    def _reset(self) -> None:
        self._running: dict[str, tuple[Subscriber, asyncio.Future[None] | Future[None]]] = {}
        self._missed = self._undecodable = 0  # of those that have ended

    def __len__(self) -> int:
        return len(self._running)

    def get(self, subscription_id: str) -> Subscription | None:
        """Return a subscription by its id."""
        entry = self._running.get(subscription_id)
        return None if entry is None else entry[0].subscription

    def losses(self) -> tuple[int, int]:
        """Return the number of entries that were removed before they were read, and that are not events."""
        running = [subscriber for subscriber, _ in tuple(self._running.values())]
        return (
            self._missed + sum(subscriber.missed for subscriber in running),
            self._undecodable + sum(subscriber.undecodable for subscriber in running),
        )

    def add(
        self,
        subscription: Subscription,
        call: Callable[[Any], object],
        position: int | None,
        *,
        newest: int = 0,
        records: bool = False,
    ) -> None:
        """Call a handler with the events after a position; arguments as for `Subscriber`."""
        tail, failed = self._runtime.tail, self._failed
        self._run(
            Subscriber(subscription, call, tail, self._read, failed, position, newest=newest, records=records)
        )

    def _run(self, subscriber: Subscriber) -> None:
        """Run a subscriber on the running event loop, or on a thread for handlers without one."""
        subscription = subscriber.subscription
        self._runtime.start()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            task: asyncio.Future[None] | Future[None] = self._runtime.run_handler(subscriber.run())
        else:
            task = loop.create_task(subscriber.run(), context=copy_context())
        self._running[subscription.id] = (subscriber, task)
        subscription.on_end(self._ended)
        task.add_done_callback(lambda _: subscription.cancel())  # its loop has ended, for example

    def _ended(self, subscription: Subscription) -> None:
        subscriber, _ = self._running.pop(subscription.id, (None, None))
        if subscriber is not None:
            self._missed += subscriber.missed
            self._undecodable += subscriber.undecodable
            self._runtime.tail.bell.ring()

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - several tasks share it
        """Let the handlers receive what is in the log now, and end the subscriptions."""
        running = tuple(self._running.values())
        end, waiting = self._runtime.tail.last or 0, set()
        for subscriber, task in running:
            subscriber.end_at(end)
            if isinstance(task, Future):
                waiting.add(asyncio.ensure_future(asyncio.wrap_future(task)))
            elif task.get_loop() is asyncio.get_running_loop():
                waiting.add(task)
        if waiting and asyncio.current_task() not in waiting:
            await asyncio.wait(waiting, timeout=timeout)
        for subscriber, _ in running:
            subscriber.subscription.cancel()

    def after_fork(self) -> None:
        """Call the handlers without an event loop in the child as well, from its first use of the stream on.

        Those on an event loop of the parent are not called in the child.
        """
        running = list(self._running.values())
        self._reset()
        for subscriber, task in running:
            if isinstance(task, Future):
                self._runtime.call_when_used(partial(self._run_again, subscriber))

    def _run_again(self, subscriber: Subscriber) -> None:
        if subscriber.subscription.active:
            self._run(subscriber.for_child(self._runtime.tail))
