"""`QueuedWorker`: sends a sink its events from a bounded queue, in order and one batch at a time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Generator
from typing import Any

from codomyrmex.integrations.delivery.health import (
    ABOUT_ITSELF,
    CLOSED,
    FORKED,
    NOT_STARTED,
    QUEUE_FULL,
    SinkReport,
    SinkState,
)
from codomyrmex.integrations.delivery.observers import Observers
from codomyrmex.integrations.delivery.policy import DeliveryPolicy, Item
from codomyrmex.integrations.delivery.sending import PATIENCE, SendingWorker
from codomyrmex.integrations.delivery.sink import Sink
from codomyrmex.integrations.delivery.worker import GRACE, done_within, resolve
from codomyrmex.streaming import Clock, Event, Overflow
from codomyrmex.streaming.buffers import BoundedQueue, PublishWait
from codomyrmex.streaming.provenance import ORIGIN, cause, origin_of, stems_from_logs

_FULL_WARNING_INTERVAL = 10.0  # seconds


class QueuedWorker(SendingWorker):
    """Sends a sink its events from a bounded queue, in order and one batch at a time."""

    def __init__(self, sink: Sink, policy: DeliveryPolicy, clock: Clock, observers: Observers) -> None:
        self._batch_size = min(policy.batch_size, policy.queue_size)
        # With more events than this in the queue, publishers wait for a batch, and so one is due.
        waits = policy.max_wait > 0 and policy.overflow is not Overflow.BLOCK
        self._half = policy.queue_size // 2 if waits else policy.queue_size
        self._due_size = min(self._batch_size, self._half + 1)
        self._batch_wait = _BatchWait(self)
        super().__init__(sink, policy, clock, observers)
        self._put: Callable[[Item], PublishWait | None] = self._refuse_unstarted
        self.capacity = policy.queue_size

    def reset(self) -> None:
        super().reset()
        policy = self._policy
        self._queue: BoundedQueue[Item] = BoundedQueue(
            policy.queue_size,
            policy.overflow,
            self._on_drop,
            block_timeout=policy.block_timeout,
            clock=self._clock,
        )
        self._put = self._queue.put
        self._lost = 0
        self._next_full_warning = -math.inf
        # Positions in the queue: `flush` sends everything before the first one at once, and before the second
        # one there are events that stem from log records.
        self._flush_to = self._logs_up_to = 0
        self._flushes: list[tuple[int, asyncio.Future[None]]] = []

    # Publishing: a check for the rare origin or cause, the time, a tuple, the queue's put, and a comparison.

    def handle(self, event: Event) -> PublishWait | None:
        if (ORIGIN in event.metadata or cause.get() is not None) and not self._admits(event):
            return None
        now = self._now()
        waiting = self._put((event, now))
        if len(self._queue.items) > self._half and now < self._patient_until:
            return self._batch_wait
        return waiting

    def _admits(self, event: Event) -> bool:
        """Return whether an event with an origin or a cause may be queued: not if it is about this sink."""
        origin = origin_of(event) or ""
        if self.origin in origin.split():
            self.drop(ABOUT_ITSELF)
            return False
        if stems_from_logs(origin) or stems_from_logs(cause.get()):
            self._logs_up_to = self._queue.position() + 1
        return True

    async def wait_for_batch(self) -> None:
        """Wait, as a publisher, until a batch is completed, for at most `max_wait`."""
        if len(self._queue.items) <= self._half:
            return
        now = self._now()
        if self._patient_until == math.inf:  # the sink is idle, and is about to begin as a batch is due
            self._patient_until = now + PATIENCE
        if now >= self._patient_until or asyncio.current_task() is self._queue.reader:
            return  # it hangs, or the publisher is the sink itself
        batch_done = asyncio.get_running_loop().create_future()
        self._waiting_publishers.add(batch_done)
        try:
            await done_within(batch_done, self._policy.max_wait, self._clock)
        finally:
            self._waiting_publishers.discard(batch_done)

    def _refuse_unstarted(self, _: Item) -> None:
        self.drop(NOT_STARTED)
        self._miss()

    def _on_drop(self, _: Item, _reason: str | None) -> None:
        if self._queue.closed:
            self.drop(CLOSED)
            return
        policy, now = self._policy, self._now()
        self._last_loss = now
        if policy.overflow is not Overflow.DROP_OLDEST:  # evictions are counted by the queue
            self.drop(QUEUE_FULL)
        if now >= self._next_full_warning:  # cheap, as a hanging sink must not slow down publishers
            self._next_full_warning = now + _FULL_WARNING_INTERVAL
            message = "sink %s: events are dropped: the queue of %d is full (%s)"
            self.warn(message, policy.queue_size, policy.overflow.value)

    async def resend(self, event: Event) -> None:
        while len(self._queue.items) >= self._policy.queue_size and (flushed := self.flush()) is not None:
            await flushed
        if self._queue.closed:
            raise RuntimeError(f"sink {self.name}: it is closed")
        self._put((event, self._now()))

    def drops(self) -> dict[str, int]:
        drops = super().drops()
        if evicted := self._queue.evicted:
            drops[QUEUE_FULL] = drops.get(QUEUE_FULL, 0) + evicted
        return drops

    def report(self) -> SinkReport:
        waiting = len(self._queue.items) + len(self._in_flight)
        return SinkReport(self._delivered, self._dead, self.drops(), self._lost + waiting, self._retried)

    def waiting(self) -> tuple[int, int, float]:
        queued, in_flight, now = self._queue.items, self._in_flight, self._now()
        try:
            oldest = (in_flight or queued)[0][1]
        except IndexError:  # empty
            oldest = now
        return len(queued), len(in_flight), max(0.0, now - oldest)

    # From start to stop

    def _accept(self) -> None:
        self._put = self._queue.put
        self._queue.reader = asyncio.current_task()  # it does not wait for room if it publishes

    def _begin(self) -> None:
        super()._begin()
        self._queue.reader = self._task

    def _set_sending(self, task: asyncio.Task[None] | None) -> None:
        self._sending = task
        self._queue.reader = self._task if task is None else task

    def flush(self) -> asyncio.Future[None] | None:
        position = self._queue.position()
        if not self._in_flight and self._processed() >= position:
            return None
        self._flush_to = max(self._flush_to, position)
        done = asyncio.get_running_loop().create_future()
        self._flushes.append((position, done))
        self._queue.wake()
        return done

    def _begin_drain(self) -> None:
        self._queue.close()

    def abort(self) -> None:
        super().abort()
        self._queue.wake()

    async def _close(self) -> None:
        """Count the remaining events as lost, and close the sink."""
        self._lost = self.report().lost
        self._task = None
        self._in_flight = []
        self._queue.close(discard=True)
        self._complete_flushes(all_of_them=True)
        await self.close_sink(GRACE if self._deadline is None else self._deadline - self._now())
        self._set_state(SinkState.CLOSED)

    # Forks

    def after_fork(self) -> None:
        self._leave_to_parent()
        self._queue.close()
        self.state = SinkState.CLOSED
        self._put = self._refuse

    def restart_after_fork(self, start: Callable[[], None]) -> None:
        attached = self.state not in {SinkState.NOT_STARTED, SinkState.CLOSED}
        self._leave_to_parent()
        if not attached:
            return

        def first_put(item: Item) -> PublishWait | None:
            self._put = self._queue.put
            start()
            return self._put(item)

        self._put = first_put

    def _leave_to_parent(self) -> None:
        self.opened = False
        self.reset()

    def _refuse(self, _: Item) -> None:
        self.drop(FORKED)
        self.warn(
            "sink %s: events are dropped: it belongs to the parent process; "
            "attach again in the child process, or use attach_blocking"
        )

    # The task

    async def _run(self) -> None:
        try:
            if not self.opened and not await self._keep_opening():
                return
            while (batch := await self._next_batch()) is not None:
                self._in_flight = batch
                await self._deliver_batch(from_logs=self._processed() - len(batch) < self._logs_up_to)
                if self._in_flight:
                    return  # the time to drain is over
                self._complete_flushes()
                self._resume_publishers(math.inf if self.state is SinkState.OK else -math.inf)
        except asyncio.CancelledError:
            if not self._aborted:
                self._queue.close()
                self.warn("sink %s: its task was cancelled; %d events were not delivered", self.report().lost)
                self._set_state(SinkState.CLOSED)
                self._complete_flushes(all_of_them=True)
                self._resume_publishers(-math.inf)
            raise
        finally:
            if self._sending is not None:
                self._sending.cancel()

    async def _next_batch(self) -> list[Item] | None:
        """Wait until a batch is due and the sink may be called, and return it; None at the end."""
        queue = self._queue
        while not self._aborted:
            if not queue.items:
                if queue.closed:
                    return None
                await self._wait_for_items(1)
                continue
            now = self._now()
            due_in = 0.0 if self._is_due() else queue.items[0][1] + self._policy.batch_age - now
            if due_in > 0:
                await self._wait_for_items(self._due_size, due_in)
                continue
            requested = self._not_before - now
            pause = max(requested, self._breaker.wait(now))
            if pause <= 0:
                return queue.get_many(self._batch_size)
            if not await self._pause(pause, requested=requested > 0):
                return None
        return None

    def _is_due(self) -> bool:
        queue = self._queue
        return len(queue.items) >= self._due_size or queue.closed or self._processed() < self._flush_to

    def _processed(self) -> int:
        """Return the position up to which events have left the queue."""
        return self._queue.read_count + self._queue.evicted

    async def _wait_for_items(self, count: int, seconds: float | None = None) -> None:
        """Wait until the queue has `count` items or changes otherwise, for at most some seconds."""
        self._queue.wake_size = count
        changed = self._queue.wait(asyncio.get_running_loop())
        if changed is not None and not await done_within(changed, seconds, self._clock):
            self._queue.wake()

    def _complete_flushes(self, *, all_of_them: bool = False) -> None:
        processed = math.inf if all_of_them else self._processed()
        for flush in tuple(self._flushes):
            position, done = flush
            if processed >= position:
                self._flushes.remove(flush)
                resolve(done)


class _BatchWait(PublishWait):
    """What `publish` awaits when the queue is more than half full; the event is queued already."""

    __slots__ = ("_worker",)

    def __init__(self, worker: QueuedWorker) -> None:
        self._worker = worker

    def __await__(self) -> Generator[Any, None, None]:
        return self._worker.wait_for_batch().__await__()
