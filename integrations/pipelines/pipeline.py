"""`Pipeline`: sources, steps and sinks that run together."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, BinaryIO, Self

from codomyrmex.integrations.configuration.problems import Problem
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.delivery.sink import InlineSink, Sink
from codomyrmex.integrations.pipelines.config import (
    Part,
    PipelineConfig,
    PipelineConfigError,
    load_pipeline_config,
)
from codomyrmex.integrations.pipelines.parts import Context, Source
from codomyrmex.integrations.pipelines.report import PipelineHealth, PipelineReport
from codomyrmex.integrations.pipelines.steps import Steps
from codomyrmex.streaming import Event

_PUSH_TIMEOUT = 5.0  # seconds to finish the pushes in progress
_CANCEL_TIMEOUT = 2.0  # seconds for a source that was cancelled

_logger = logging.getLogger(__name__)
_outgoing: ContextVar[list[Event]] = ContextVar("outgoing")  # the events of a push, after the steps


@dataclass(eq=False)
class _Running:
    """A source, and the task that runs it."""

    part: Part
    source: Source
    task: asyncio.Task[None] | None = None


class Pipeline:
    """Sources, steps and sinks that run together.

    `async with Pipeline.from_file("pipeline.yaml") as pipeline:` runs it for as long as the context lasts;
    `await pipeline.run()` until its sources end. A failing source or sink does not affect the others.

    Args:
        config: the parts; `from_file` loads them.
        stdin: what the source `stdin` reads, a binary file with a descriptor; `sys.stdin` by default.

    Attributes:
        config: the configuration in force.
        received: how many events were received so far.
    """

    def __init__(self, config: PipelineConfig, *, stdin: BinaryIO | None = None) -> None:
        if not isinstance(config, PipelineConfig):
            raise TypeError(
                f"config: must be a PipelineConfig, got {type(config).__name__}; "
                "for the path of a file use Pipeline.from_file"
            )
        self.config = config
        self.received = 0
        spool = None if config.spool is None else config.spool.build(config.path.parent)
        self._context = Context(config.path.parent, stdin, spool)
        self._spool = spool
        self._attachment = self._context.attachment
        self._sources: list[_Running] = []
        self._steps = Steps(self._context.stream.start_publish if spool is None else _collect)
        self._sinks: list[Part] = []
        self._unfinished = 0
        self._skipped: Counter[str] = Counter()
        self._not_exported: Counter[str] = Counter()
        self._source_errors: dict[str, str] = {}
        self._reloading = asyncio.Lock()
        self._pushes = 0
        self._idle = asyncio.Event()  # set while nothing is pushed
        self._idle.set()
        self._open = asyncio.Event()  # cleared while sinks are replaced: pushes wait
        self._open.set()

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        environ: Mapping[str, str] | None = None,
        stdin: BinaryIO | None = None,
    ) -> Self:
        """Return the pipeline that a file describes.

        Args:
            path: the file.
            environ: the values of `${NAME}`; the environment of the process by default.
            stdin: as for the class.

        Raises:
            PipelineConfigError: the file is invalid; lists every problem with file, line and column.
            MissingExtraError: a package that a part needs is not installed.
        """
        return cls(load_pipeline_config(path, environ=environ), stdin=stdin)

    async def start(self) -> Self:
        """Open the sinks, then the sources, and begin to read.

        Raises:
            Exception: raised by a part that cannot be opened; the others are closed again.
        """
        try:
            if self._spool is not None:
                await self._spool.open()
            await self._attachment.start()
            self._steps.use(self._steps.build(self.config.steps, self._context))
            for part in _in_opening_order(self.config.sinks):
                await self._add_sink(part)
            sources = [await self._open_source(part) for part in self.config.sources]
        except BaseException:
            await self.aclose(0)
            raise
        for running in sources:  # not before all are open
            self._begin(running)
        return self

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def run(self) -> PipelineReport:
        """Run until every source has ended, deliver what is queued, and return the report.

        Raises:
            Exception: as `start`.
        """
        async with self:
            await self.wait()
        return self.report()

    async def wait(self) -> None:
        """Wait until every source has ended, or the reader of the standard output has gone away."""
        closed = asyncio.create_task(self._context.stdout_closed.wait())
        try:
            while not closed.done():
                async with self._reloading:  # meanwhile there may be no source
                    tasks = {each.task for each in self._sources if each.task and not each.task.done()}
                if not tasks:
                    break
                await asyncio.wait({*tasks, closed}, return_when=asyncio.FIRST_COMPLETED)
            if self._spool is not None and not closed.done():
                await self._spool.wait_for_lease(self._attachment.health)
        finally:
            closed.cancel()

    async def aclose(self, timeout: float | None = None) -> PipelineReport:  # noqa: ASYNC109 - a deadline
        """Stop reading, deliver what was read, close the sinks, and return the report. May be called twice.

        If it is cancelled, it delivers no more but still closes everything.

        Args:
            timeout: seconds for the sources and again for the sinks; by default 5 for the sources, or as
                many as the policies of the sinks allow if that is more.
        """
        self._open.set()
        spool = self._spool  # with which sources do not wait for sinks
        drain = self._attachment.drain_timeout if spool is None else 0.0
        limit = max(drain, _PUSH_TIMEOUT) if timeout is None else timeout
        try:
            await asyncio.gather(*(self._stop(running, limit) for running in tuple(self._sources)))
            delivery = await self._attachment.aclose(timeout if spool is None else spool.limit(timeout))
            lost = any(sink.lost for sink in delivery.sinks.values()) or self._count_not_exported().total()
            if spool is not None or not lost:
                await self._acknowledge(*self._sources)
        finally:
            for running in tuple(self._sources):
                await self._stop(running, 0)
            await self._attachment.aclose(0)
            if spool is not None:
                await spool.aclose()
        return self.report()

    async def reload(self, config: PipelineConfig | None = None) -> None:
        """Change to another configuration. Parts that are equal in both are left alone.

        While sinks are replaced, pushes of the remaining sources wait, so that no event misses a sink.

        Args:
            config: the new configuration; by default the file is reloaded.

        Raises:
            PipelineConfigError: the file is invalid, or has another spool; nothing has changed.
            MissingExtraError: a package is not installed; nothing has changed.
            Exception: raised by a part that cannot be opened. All other parts are as the new
                configuration says, and the next call retries that part.
        """
        if config is None:
            config = await asyncio.to_thread(load_pipeline_config, self.config.path)
        if config.spool != self.config.spool:
            message = "cannot be changed while the pipeline runs; start it again"
            raise PipelineConfigError([Problem(message, "spool", str(config.path))])
        failures: list[Exception] = []
        async with self._reloading:
            steps = self._steps.build(config.steps, self._context)
            self.config = config
            for running in [each for each in self._sources if each.part not in config.sources]:
                await self._remove_source(running)
            self._open.clear()
            try:
                with suppress(TimeoutError):  # a slow sink may block a push
                    await asyncio.wait_for(self._idle.wait(), _PUSH_TIMEOUT)
                for part in [part for part in self._sinks if part not in config.sinks]:
                    await self._remove_sink(part)
                self._steps.use(steps)
                for part in _in_opening_order(config.sinks):
                    if part not in self._sinks:
                        await _attempt(self._add_sink(part), failures)
            finally:
                self._open.set()
            for part in config.sources:
                if all(each.part != part for each in self._sources):
                    await _attempt(self._add_source(part), failures)
        if failures:
            raise failures[0]

    def urls(self) -> dict[str, str]:
        """Return the addresses that are served, by the name of the sink or source."""
        parts = [*self._context.sinks.values(), *(each.source for each in self._sources)]
        return {part.name: part.server.url for part in parts if hasattr(part, "server")}

    def report(self) -> PipelineReport:
        """Return what became of the events so far."""
        skipped, received = self._skipped.copy(), self.received + self._unfinished
        for running in self._sources:
            skipped.update(_skipped(running.source))
            received += _unfinished(running.source)
        steps = self._steps
        failed, published, delivery = steps.failed.copy(), steps.published, self._attachment.report()
        if self._spool is not None:
            failed["spool"] += self._spool.refused
            published, delivery = self._spool.stored, self._spool.complete(delivery)
        dropped = steps.filtered.total() + failed.total()
        return PipelineReport(
            received=received,
            added=steps.added,
            filtered=steps.filtered.copy(),
            failed=+failed,
            lost=received + steps.added - dropped - published,
            published=published,
            skipped=+skipped,
            source_errors=dict(self._source_errors),
            delivery=delivery,
            not_exported=+self._count_not_exported(),
        )

    def _count_not_exported(self) -> Counter[str]:
        not_exported = self._not_exported.copy()
        for name, sink in self._context.sinks.items():
            not_exported[name] += _not_exported(sink)
        return not_exported

    def health(self) -> PipelineHealth:
        """Return the present state of the sources, the sinks and the spool."""
        sources = {
            each.part.name: self._source_errors.get(each.part.name)
            or ("running" if each.task and not each.task.done() else "ended")
            for each in self._sources
        }
        spool = None if self._spool is None else self._spool.stream.health()
        return PipelineHealth(sources, self._attachment.health(), spool)

    # Events

    async def _push(self, source: Source, events: list[Event]) -> bool:
        """Send events through the steps to the sinks, or into the spool; return whether it took all."""
        while not self._open.is_set():
            await self._open.wait()
        self._pushes += 1
        self._idle.clear()
        done, outgoing = 0, list[Event]()
        _outgoing.set(outgoing)
        try:
            self.received += len(events)
            apply = self._steps.apply
            for event in events:
                unfinished = apply(event)
                if unfinished is not None:
                    await unfinished
                done += 1
            return self._spool is None or await self._spool.publish(outgoing)
        except BaseException:
            if source.keeps:
                self.received -= len(events) - done + len(outgoing)
            raise
        finally:
            self._pushes -= 1
            if not self._pushes:
                self._idle.set()

    # Parts

    async def _add_sink(self, part: Part) -> None:
        binding = part.config.bind(part.name, self._context)
        await self._attachment.add(binding)
        self._context.sinks[part.name] = binding.sink
        self._sinks.append(part)

    async def _remove_sink(self, part: Part) -> None:
        await self._attachment.remove(part.name)
        self._sinks.remove(part)
        self._context.failing.discard(part.name)
        self._not_exported[part.name] += _not_exported(self._context.sinks.pop(part.name))

    async def _add_source(self, part: Part) -> None:
        self._source_errors.pop(part.name, None)
        self._begin(await self._open_source(part))

    async def _open_source(self, part: Part) -> _Running:
        source = part.config.build(part.name, self._context)
        await source.open()
        running = _Running(part, source)
        self._sources.append(running)
        return running

    def _begin(self, running: _Running) -> None:
        running.task = asyncio.create_task(self._run(running.source), name=running.part.name)

    async def _run(self, source: Source) -> None:
        try:
            await source.run(partial(self._push, source))
        except Exception as error:  # noqa: BLE001 - a failing source must not end the others
            self._source_errors[source.name] = describe(error)
            _logger.warning("source %s ended: %s", source.name, describe(error))
        finally:
            await source.aclose()

    async def _stop(self, running: _Running, limit: float) -> None:
        """End a source: let it push what it has read for some seconds, then cancel it."""
        running.source.finishing.set()
        task = running.task
        if task is None:
            await running.source.aclose()
            return
        if limit:
            await asyncio.wait({task}, timeout=limit)
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_TIMEOUT)

    async def _acknowledge(self, *sources: _Running) -> None:
        """Let sources save their positions, unless a sink fails and may have lost their events."""
        if self._spool is not None or not (self._context.failing or self._context.stdout_closed.is_set()):
            await asyncio.gather(*(running.source.delivered() for running in sources))

    async def _remove_source(self, running: _Running) -> None:
        await self._stop(running, _PUSH_TIMEOUT)
        if await self._context.settle(_PUSH_TIMEOUT):  # a new source on the same file continues there
            await self._acknowledge(running)
        self._sources.remove(running)
        self._skipped.update(_skipped(running.source))
        self._unfinished += _unfinished(running.source)


def _collect(event: Event) -> None:
    _outgoing.get().append(event)


async def _attempt(change: Coroutine[Any, Any, None], failures: list[Exception]) -> None:
    try:
        await change
    except Exception as error:  # noqa: BLE001 - the other parts are still changed
        failures.append(error)


def _in_opening_order(sinks: tuple[Part, ...]) -> list[Part]:
    return sorted(sinks, key=lambda part: bool(part.shows))


def _not_exported(sink: InlineSink | Sink) -> int:
    count = getattr(sink, "not_exported", None)
    return 0 if count is None else count()


def _unfinished(source: Source) -> int:
    return 0 if source.keeps else source.unfinished


def _skipped(source: Source) -> dict[str, int]:
    return {f"{source.name}: {reason}": count for reason, count in source.skipped().items() if count}
