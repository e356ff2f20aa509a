"""`attach`: ties sinks to a stream for the life of an application."""

from __future__ import annotations

import asyncio
import logging
from inspect import iscoroutinefunction
from types import TracebackType
from typing import Self

from codomyrmex.integrations.delivery.report import DrainReport
from codomyrmex.integrations.delivery.sink import InlineSink, Sink
from codomyrmex.integrations.delivery.worker import InlineWorker, QueueWorker, Worker
from codomyrmex.streaming import FilterFunction, Stream, Subscription

_DRAIN_TIMEOUT = 5.0

_logger = logging.getLogger(__name__)


def attach(
    stream: Stream,
    *sinks: InlineSink | Sink,
    topic: str = "*",
    filter_fn: FilterFunction | None = None,
) -> Attachment:
    """Deliver a stream's events to sinks for as long as a context lasts.

    `async with attach(stream, StructlogSink(), AppriseChannel("ops", url)):`; on the way out what is
    queued is still delivered, for at most five seconds, and what was lost is logged.

    Args:
        stream: where the events come from.
        *sinks: where they go. A failing or slow one disturbs neither the publisher nor another sink.
        topic: a topic or a pattern.
        filter_fn: only the events it is true for are delivered.

    Raises:
        ValueError: two sinks have the same name.
        TypeError: something is not a stream or a sink, `emit` is async, or `send` is not.
    """
    if not isinstance(stream, Stream):
        raise TypeError(f"attach takes a stream and then sinks, not {type(stream).__name__}")
    return Attachment(stream, sinks, topic, filter_fn)


class Attachment:
    """Sinks tied to a stream; made by `attach`."""

    def __init__(
        self,
        stream: Stream,
        sinks: tuple[InlineSink | Sink, ...],
        topic: str,
        filter_fn: FilterFunction | None,
    ) -> None:
        self._stream = stream
        self._topic = topic
        self._filter_fn = filter_fn
        self._workers = [_worker(sink) for sink in sinks]
        self._started: list[Worker] = []
        self._used = False
        self._drain_task: asyncio.Task[None] | None = None
        self._subscriptions: list[Subscription] = []
        names = [worker.name for worker in self._workers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sinks are named {name!r}; give one of them another name")

    async def start(self) -> Self:
        """Open the sinks and begin. If one cannot be opened, the others are closed again.

        Raises:
            RuntimeError: it was started before.
            Exception: what the sink that cannot be opened has raised.
        """
        if self._used:
            raise RuntimeError("an attachment is started once; call `attach` again for another one")
        self._used = True
        try:
            for worker in self._workers:
                await worker.start()
                self._started.append(worker)
                self._subscriptions.append(
                    await self._stream._subscribe_listener(  # noqa: SLF001 - a worker has its own queue
                        worker.take, self._topic, self._filter_fn
                    )
                )
        except BaseException:
            await self.aclose(0)
            raise
        return self

    async def aclose(self, timeout: float | None = None) -> DrainReport:  # noqa: ASYNC109 - a deadline for all
        """Take no more events, deliver what is queued, and close the sinks. May be called twice.

        Args:
            timeout: seconds for all sinks together; five if left out.

        Returns:
            What became of the events of each sink. If any was lost, that is also logged once.
        """
        for subscription in self._subscriptions:
            subscription.cancel()
        if self._drain_task is not None:  # somebody else is at it
            await asyncio.shield(self._drain_task)
            return self.report()
        limit = _DRAIN_TIMEOUT if timeout is None else timeout
        self._drain_task = asyncio.create_task(self._drain(limit))
        try:
            await asyncio.shield(self._drain_task)
        except asyncio.CancelledError:
            self._drain_task.cancel()  # deliver no more, but still close the sinks
            await asyncio.wait({self._drain_task})
            raise
        return self.report()

    async def _drain(self, limit: float) -> None:
        try:
            await asyncio.gather(*(worker.stop(limit) for worker in self._started))
        finally:
            report = self.report()
            if self._started and not report.complete:
                lines = [f"{name}: {sink}" for name, sink in report.sinks.items() if not sink.complete]
                _logger.warning("events were not delivered: %s", "; ".join(lines))

    def report(self) -> DrainReport:
        """Give the numbers up to now; what is still queued counts as lost until it is delivered."""
        return DrainReport({worker.name: worker.report() for worker in self._workers})

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def _worker(sink: InlineSink | Sink) -> Worker:
    if isinstance(sink, InlineSink):
        if iscoroutinefunction(sink.emit):
            raise TypeError(f"emit of {type(sink).__name__} is async; a Sink is what may wait")
        return InlineWorker(sink)
    if isinstance(sink, Sink):
        if not iscoroutinefunction(sink.send):
            raise TypeError(f"send of {type(sink).__name__} is not async: `async def send(self, events)`")
        return QueueWorker(sink)
    raise TypeError(f"a sink is an InlineSink or a Sink, not {type(sink).__name__}")
