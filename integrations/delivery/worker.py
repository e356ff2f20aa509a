"""How one sink gets its events: inline during publish, or by a worker of its own."""

from __future__ import annotations

import asyncio
from typing import Protocol

from codomyrmex.integrations.delivery.errors import DroppedError, PartialDeliveryError
from codomyrmex.integrations.delivery.report import QUEUE_FULL, SinkReport
from codomyrmex.integrations.delivery.sink import InlineSink, Sink
from codomyrmex.streaming import Event, Overflow
from codomyrmex.streaming.buffers import BoundedQueue
from codomyrmex.streaming.counters import Counter
from codomyrmex.streaming.diagnostics import Diagnostics

_QUEUE_SIZE = 2_048
_BATCH_SIZE = 512
_GRACE = 0.2  # seconds beyond the deadline, for what should take none

_log = Diagnostics(__name__)


class Worker(Protocol):
    """What an attachment knows of each sink."""

    name: str

    def take(self, event: Event) -> None:
        """Take an event from the stream; never raises, never waits."""

    async def start(self) -> None:
        """Open the sink."""

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109 - part of one overall deadline
        """Deliver what is queued within `timeout` seconds, and close the sink."""

    def report(self) -> SinkReport:
        """Give the numbers up to now."""


class InlineWorker:
    """Calls an inline sink during publish."""

    def __init__(self, sink: InlineSink) -> None:
        self.name = sink.name
        self._emit = sink.emit
        self._delivered = Counter()
        self._given_up = Counter()
        self._dropped: dict[str, Counter] = {}

    def take(self, event: Event) -> None:
        try:
            self._emit(event)
        except DroppedError as error:
            self._dropped.setdefault(error.reason, Counter()).tick()
        except Exception as error:  # noqa: BLE001 - a sink's failure is its own
            self._given_up.tick()
            _log.warning(self.name, "sink %s failed on event %s", self.name, event.id, error=error)
        else:
            self._delivered.tick()

    async def start(self) -> None:
        """Nothing to open."""

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109
        """Nothing to wait for."""

    def report(self) -> SinkReport:
        dropped = {reason: counter.value() for reason, counter in list(self._dropped.items())}
        return SinkReport(self._delivered.value(), self._given_up.value(), dropped, 0)


class QueueWorker:
    """Sends a sink its events from a bounded queue, in order and one batch at a time."""

    def __init__(self, sink: Sink) -> None:
        self.name = sink.name
        self._sink = sink
        self._queue: BoundedQueue[Event] = BoundedQueue(
            _QUEUE_SIZE, Overflow.DROP_OLDEST, self._dropped_at_queue
        )
        self._task: asyncio.Task[None] | None = None
        self._dropped = Counter()
        self._in_flight = 0
        self._delivered = 0
        self._given_up = 0
        self._lost = 0

    def take(self, event: Event) -> None:
        self._queue.put(event)

    async def start(self) -> None:
        await self._sink.open()
        self._task = asyncio.create_task(self._run(), name=f"sink {self.name}")

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109
        self._queue.close()
        if self._task is None:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        try:
            await asyncio.wait({self._task}, timeout=timeout)
        finally:
            await self._end(self._task, max(deadline - loop.time(), _GRACE))

    def report(self) -> SinkReport:
        waiting = 0 if self._task is None else len(self._queue.items) + self._in_flight
        dropped = self._dropped.value()
        return SinkReport(
            self._delivered,
            self._given_up,
            {QUEUE_FULL: dropped} if dropped else {},
            self._lost + waiting,
        )

    async def _run(self) -> None:
        queue = self._queue
        while queue.items or not queue.closed:
            if not queue.items:
                news = queue.waiting(asyncio.get_running_loop())
                if news is not None:
                    await news
                continue
            batch: list[Event] = []
            while queue.items and len(batch) < _BATCH_SIZE:
                batch.append(queue.take())
            self._in_flight = len(batch)
            failed = await self._send(batch)
            self._in_flight = 0
            self._given_up += failed
            self._delivered += len(batch) - failed

    async def _send(self, batch: list[Event]) -> int:
        """Send a batch and tell how many of it failed."""
        try:
            await self._sink.send(tuple(batch))
        except PartialDeliveryError as error:
            failed = sum(event.id in error.failed for event in batch)
            _log.warning(self.name, "sink %s, batch of %d: %s", self.name, len(batch), error)
            return failed
        except Exception as error:  # noqa: BLE001 - a sink's failure is its own
            _log.warning(self.name, "sink %s failed on %d events", self.name, len(batch), error=error)
            return len(batch)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Not ours: the sink has let out what it cancelled inside.
            _log.warning(self.name, "sink %s failed on %d events", self.name, len(batch), error=error)
            return len(batch)
        return 0

    async def _end(self, task: asyncio.Task[None], limit: float) -> None:
        """Stop the worker and close the sink; neither may take for ever."""
        task.cancel()
        await asyncio.wait({task}, timeout=_GRACE)
        if not task.done():
            _log.warning(self.name, "sink %s does not stop sending; it is left alone", self.name)
        self._lost = self.report().lost
        self._task = None
        self._queue.close(discard=True)
        closing = asyncio.ensure_future(self._sink.close())
        await asyncio.wait({closing}, timeout=limit)
        if not closing.done():
            closing.cancel()
            _log.warning(self.name, "sink %s does not close; it is left alone", self.name)
        elif not closing.cancelled() and closing.exception() is not None:
            error = closing.exception()
            _log.warning(self.name, "sink %s failed to close", self.name, error=error)

    def _dropped_at_queue(self, event: Event, reason: str | None) -> None:  # noqa: ARG002
        self._dropped.tick()
        _log.warning(f"{self.name} full", "sink %s: its queue is full, the oldest event goes", self.name)
