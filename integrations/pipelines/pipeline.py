"""`Pipeline`: sources, steps and sinks that run together, until the sources end or it is stopped."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable
from typing import Any

from codomyrmex.integrations.delivery.attachment import Attachment, attach
from codomyrmex.integrations.delivery.report import DrainReport
from codomyrmex.integrations.delivery.secrets import LazyTraceback, describe
from codomyrmex.integrations.pipelines.file import Dashboard
from codomyrmex.integrations.pipelines.loading import Named, PipelineConfig
from codomyrmex.integrations.pipelines.pages import serve_page
from codomyrmex.integrations.pipelines.processors import Step, as_events, make_step
from codomyrmex.integrations.pipelines.served import Served
from codomyrmex.integrations.pipelines.sinks import Built, make_sink
from codomyrmex.integrations.pipelines.sources import HttpSource, Source, StdinSource, make_source
from codomyrmex.integrations.pipelines.standard_input import StandardInput
from codomyrmex.integrations.service_mesh.board import CircuitBoard
from codomyrmex.streaming import Event, InMemoryStream
from codomyrmex.streaming.diagnostics import Diagnostics

_QUIET = 5.0  # seconds for what sources are just pushing
_TO_END = 2.0  # seconds for a source that is cancelled

_logger = logging.getLogger(__name__)
_log = Diagnostics(__name__)


@dataclass(slots=True)
class Report:
    """What became of the events of a pipeline.

    They add up: `came + added` is what was left out, failed, cut off, and `passed`; each sink gets those of
    the last that have its topic and meet its conditions.

    Args:
        came: events that sources gave.
        added: events that steps made besides, where they give several for one.
        left_out: those that steps let through to nothing, by step.
        failed: those that steps failed on, by step; they are lost.
        cut_off: those that there was no time for at the end; they are lost.
        passed: those that came to the sinks.
        unread: lines that were no events, by source and reason, and what else a source tells.
        sources: what went wrong with a source, by its name.
        delivery: what became of the others at each sink.
        not_exported: what a sink took and could not bring to where it belongs, by sink.
    """

    came: int
    added: int
    left_out: Counter[str]
    failed: Counter[str]
    cut_off: int
    passed: int
    unread: Counter[str]
    sources: dict[str, str]
    delivery: DrainReport
    not_exported: dict[str, int]

    @property
    def complete(self) -> bool:
        """Whether nothing was lost and every source did what it should."""
        lost = self.failed or self.cut_off or self.sources or self.not_exported
        return self.delivery.complete and not lost


class _Running:
    """A source that runs, and what it is just pushing."""

    def __init__(self, part: Named, source: Source) -> None:
        self.part = part
        self.source = source
        self.task: asyncio.Task[None] | None = None
        self.pushing = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.stopping = False

    @property
    def under_way(self) -> bool:
        return self.task is not None and not self.task.done()


class Pipeline:
    """Sources, steps and sinks that run together.

    Args:
        config: what they are.
    """

    def __init__(self, config: PipelineConfig) -> None:
        self.config = config
        self.stream = InMemoryStream(buffer_size=1)
        self.audit = InMemoryStream(buffer_size=1_000)
        self.board: CircuitBoard | None = None
        self.came = 0
        self._added = 0
        self._passed = 0
        self._left_out: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._unread: Counter[str] = Counter()
        self._unfinished = 0
        self._not_exported: Counter[str] = Counter()
        self._broken: dict[str, str] = {}
        self._steps: list[tuple[Named, Step]] = []
        self._built: dict[str, tuple[Named, Built]] = {}
        self._servers: dict[str, tuple[Any, Served]] = {}  # with the alerts that a page shows
        self._sources: list[_Running] = []
        self._stdin = StandardInput()
        self._changing = asyncio.Lock()
        self._open = asyncio.Event()  # while sinks are changed, sources wait
        self._open.set()
        self._nobody_reads = asyncio.Event()
        self._attachment: Attachment = attach(self.stream)

    @property
    def attachment(self) -> Attachment:
        """The sinks, with their health and report."""
        return self._attachment

    @property
    def addresses(self) -> dict[str, str]:
        """Where something is served or taken, by the name of the sink or source."""
        posts = {
            each.part.name: each.source.url for each in self._sources if isinstance(each.source, HttpSource)
        }
        return {name: server.url for name, (_, server) in self._servers.items()} | posts

    async def start(self) -> None:
        """Open the sinks, then the sources, and begin.

        Raises:
            Exception: what the part has raised that cannot be opened; all others are closed again.
        """
        try:
            await self._attachment.start()
            self._steps = self._make_steps(self.config)
            for part in self.config.sinks:
                await self._add_sink(part)
            await self._serve_pages()
            opened = [await self._open_source(part) for part in self.config.sources]
        except BaseException:
            await self.stop(0)
            raise
        for running in opened:  # not before all are open
            self._begin(running)

    async def wait(self) -> None:
        """Wait until every source has ended, or nobody reads the standard output any more."""
        gone = asyncio.create_task(self._nobody_reads.wait())
        try:
            while not gone.done():
                async with self._changing:  # in the midst of it there may be none
                    tasks = {each.task for each in self._sources if each.task and each.under_way}
                if not tasks:
                    return
                await asyncio.wait({*tasks, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()

    async def stop(self, timeout: float | None = None) -> Report:  # noqa: ASYNC109 - a deadline
        """Stop the sources, deliver what is under way, and close the sinks.

        Cancelled, it gives up what is under way, closes all the same, and then raises.

        Args:
            timeout: seconds for the sources to push what they have taken, and for the sinks; those of the
                policies of the sinks if left out.
        """
        self._open.set()
        limit = max(self._attachment.drain_limit(None), _QUIET) if timeout is None else timeout
        try:
            stopping = (self._stop_source(running, limit) for running in tuple(self._sources))
            await asyncio.gather(*stopping)
            await self._attachment.aclose(timeout)
        finally:
            for running in tuple(self._sources):
                await self._stop_source(running, 0)
            await self._attachment.aclose(0)
            await asyncio.gather(*(server.stop() for _, server in self._servers.values()))
            self._servers.clear()
        return self.report()

    async def reload(self, config: PipelineConfig) -> None:
        """Go on with another configuration: parts that are the same in both go on undisturbed.

        Sources that stay wait while the sinks are changed, so that no event misses one.

        Args:
            config: the new one; that it can be made was tried when it was loaded.

        Raises:
            Exception: what a part has raised that cannot be opened; the rest is as the new one says, and
                the next call tries that part again.
        """
        async with self._changing:
            steps = self._make_steps(config)
            self.config = config
            failures: list[Exception] = []
            for running in [each for each in self._sources if each.part not in config.sources]:
                await self._remove_source(running)
            self._open.clear()
            try:
                await self._quiet()
                for name in [n for n, (part, _) in self._built.items() if part not in config.sinks]:
                    await self._remove_sink(name)
                self._steps = steps
                there = [part for part, _ in self._built.values()]
                for part in config.sinks:
                    if part not in there:
                        await _try(self._add_sink(part), failures)
                await _try(self._serve_pages(), failures)
            finally:
                self._open.set()
            there = [each.part for each in self._sources]
            for part in config.sources:
                if part not in there:
                    await _try(self._add_source(part), failures)
        if failures:
            raise failures[0]

    def report(self) -> Report:
        """Tell what became of the events up to now."""
        unread, unfinished = self._unread.copy(), self._unfinished
        for running in self._sources:
            unread.update(_counts(running.source))
            unfinished += running.source.unfinished
        not_exported = self._not_exported.copy()
        for name, (_, built) in self._built.items():
            not_exported[name] += _lost(built)
        came = self.came + unfinished
        rest = came + self._added - self._left_out.total() - self._failed.total() - self._passed
        return Report(
            came,
            self._added,
            self._left_out.copy(),
            self._failed.copy(),
            rest,
            self._passed,
            +unread,
            dict(self._broken),
            self._attachment.report(),
            dict(+not_exported),
        )

    # Events

    # What each event costs here: one call of each step, and a publish without a coroutine of its own.
    async def push(self, events: list[Event]) -> None:
        """Take events through the steps to the sinks."""
        self.came += len(events)
        for part, step in self._steps:
            events = await self._through(part.name, step, events)
        publish = self.stream._start_publish  # noqa: SLF001 - as `publish` does
        for event in events:
            rest = publish(event)
            if rest is not None:
                await rest
            self._passed += 1

    async def _push_of(self, running: _Running, events: list[Event]) -> None:
        while not self._open.is_set():
            await self._open.wait()
        if running.stopping and not running.source.finishes:  # it is cancelled between two pushes
            await asyncio.get_running_loop().create_future()
        running.pushing += 1
        running.idle.clear()
        try:
            await self.push(events)
        finally:
            running.pushing -= 1
            if not running.pushing:
                running.idle.set()

    async def _through(self, name: str, step: Step, events: list[Event]) -> list[Event]:
        passed: list[Event] = []
        left_out = 0
        for event in events:
            try:
                result = step(event)
                if result is None:
                    left_out += 1
                elif result.__class__ is Event:
                    passed.append(result)
                else:
                    given = as_events(await result if isawaitable(result) else result)
                    passed += given
                    left_out += not given
                    self._added += max(len(given) - 1, 0)
            except Exception as error:  # noqa: BLE001 - a step may be somebody's function
                self._failed[name] += 1
                message = "%s failed on event %s: %s\n%s"
                _log.warning(name, message, name, event.id, describe(error), LazyTraceback(error))
        if left_out:
            self._left_out[name] += left_out
        return passed

    async def _quiet(self) -> None:
        """Wait until no source is in the midst of a push; not for ever, as a sink may hold it up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_QUIET):
                for running in tuple(self._sources):
                    await running.idle.wait()

    # Parts

    def _make_steps(self, config: PipelineConfig) -> list[tuple[Named, Step]]:
        """Make the steps; those that there are already go on, with their buckets and the like."""
        there = list(self._steps)

        def step_of(part: Named) -> Step:
            for number, (old, step) in enumerate(there):
                if old.file == part.file:
                    del there[number]
                    return step
            return make_step(part.file, config.folder)

        return [(part, step_of(part)) for part in config.processors]

    async def _add_sink(self, part: Named) -> None:
        built = make_sink(part.file, part.name, self.config.folder, self.audit, self._nobody_reads.set)
        await self._attachment.add(built.binding)
        self._built[part.name] = part, built

    async def _serve_pages(self) -> None:
        """Serve what is not served yet, and anew what shows other alerts than there are now."""
        alerts = self.alert_sink()
        for name, (part, built) in self._built.items():
            shows = alerts if isinstance(part.file, Dashboard) else None
            if built.page is None or (name in self._servers and self._servers[name][0] is shows):
                continue
            if name in self._servers:
                await self._servers.pop(name)[1].stop()
            if self.board is None:  # it looks at each event, so only where somebody looks at it
                self.board = CircuitBoard(self.stream)
            server = serve_page(self, built.page)
            await server.start()
            self._servers[name] = shows, server

    async def _remove_sink(self, name: str) -> None:
        if name in self._servers:
            await self._servers.pop(name)[1].stop()
        await self._attachment.remove(name)
        self._not_exported[name] += _lost(self._built.pop(name)[1])

    async def _open_source(self, part: Named) -> _Running:
        source = make_source(part.file, part.name, self.config.folder)
        if isinstance(source, StdinSource):
            source.stdin = self._stdin
        await source.open()
        running = _Running(part, source)
        self._sources.append(running)
        return running

    def _begin(self, running: _Running) -> None:
        running.task = asyncio.create_task(self._run(running), name=running.part.name)

    async def _add_source(self, part: Named) -> None:
        self._broken.pop(part.name, None)
        self._begin(await self._open_source(part))

    async def _run(self, running: _Running) -> None:
        source = running.source
        try:
            await source.run(partial(self._push_of, running))
        except Exception as error:  # noqa: BLE001 - one source must not end the others
            self._broken[source.name] = describe(error)
            _logger.warning("source %s ended: %s", source.name, describe(error))

    async def _stop_source(self, running: _Running, limit: float) -> None:
        """Let a source push what it has taken, within a time, and end."""
        running.stopping = True
        running.source.stop()
        task = running.task
        if task is None:
            await running.source.close()
            return
        if limit and running.source.finishes:
            await asyncio.wait({task}, timeout=limit)
        elif limit:
            idle = asyncio.create_task(running.idle.wait())
            await asyncio.wait({task, idle}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
        task.cancel()
        await asyncio.wait({task}, timeout=_TO_END)

    async def _remove_source(self, running: _Running) -> None:
        await self._stop_source(running, _QUIET)
        self._sources.remove(running)
        counts = _counts(running.source)
        self._unread.update(counts)
        self._unfinished += running.source.unfinished

    def alert_sink(self) -> Any:
        """Give the first sink that routes alerts, for the page; None if there is none."""
        return next((built.alerts for _, built in self._built.values() if built.alerts is not None), None)


async def _try(change: Coroutine[Any, Any, None], failures: list[Exception]) -> None:
    try:
        await change
    except Exception as error:  # noqa: BLE001 - a part that cannot be opened must not keep the others back
        failures.append(error)


def _lost(built: Built) -> int:
    return 0 if built.lost is None else built.lost()


def _counts(source: Source) -> dict[str, int]:
    return {f"{source.name}: {reason}": count for reason, count in source.counts().items() if count}
