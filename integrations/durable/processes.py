"""`ProcessRegistry`: the processes that use a stream, and what each of them reports.

A process saves its report under a lease of its own. The names of these leases are numbers that are reused, so
that there are few even after many processes were killed. A process that finds a report with an expired lease
acquires that lease, so that it is the only one that settles the report of the process that is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from inspect import isawaitable

import msgspec
from codomyrmex.integrations.durable.reports import (
    GoneHandler,
    ProcessInfo,
    ProcessState,
    Report,
    Sections,
)
from codomyrmex.integrations.durable.store import (
    Lease,
    LeaseLostError,
    Store,
    StoreConfigError,
    StoreError,
    StoreUnavailableError,
)
from codomyrmex.streaming.clock import Clock
from codomyrmex.streaming.diagnostics import Diagnostics

_INTERVAL = 1.0  # seconds between two reports, unless the lease is short
_SHOWN_FOR = 300.0  # seconds for which a process that is gone is kept
_MAX_GONE = 20  # processes that are gone
_MAX_UNSETTLED = 100  # those for which something is left to do, and nobody who can do it
_MAX_PROCESSES = 1_000

RunHandler = Callable[[Coroutine[None, None, None]], "Future[None]"]

_log = Diagnostics(__name__)


async def load_processes(store: Store, stream: str) -> list[ProcessInfo]:
    """Return the processes that use a stream, and those that have recently gone, by name."""
    prefix = _prefix(stream)
    held = {lease.owner for lease in await store.leases(prefix)}
    reports = [report for _, report in _decode(prefix, await store.load(prefix))]
    held |= {lease.owner for lease in await store.leases(prefix)}  # those that came meanwhile
    found = []
    for report in reports:
        lost = report.state is ProcessState.RUNNING and report.id not in held
        found.append(report.info(ProcessState.GONE if lost else report.state))
    return sorted(found, key=lambda info: (info.name, info.started_at, info.id))


def _prefix(stream: str) -> str:
    return f"{stream}/process/"


def _decode(prefix: str, values: Mapping[str, bytes]) -> Iterator[tuple[str, Report]]:
    """Yield the names and the reports that are readable; those of a later version may not be."""
    for name, value in values.items():
        if name.startswith(prefix):
            with suppress(msgspec.MsgspecError):
                yield name, msgspec.json.decode(value, type=Report)


class ProcessRegistry:
    """Reports this process, and finds those that are gone. It is used on the thread of the store.

    Args:
        store: the store.
        stream: the name of the stream.
        name: the name of this process.
        owner: the owner of its lease, unique to this run.
        seconds: when a lease expires that is not renewed.
        sections: the sections of the report; without any, the process does not report.
        run_handler: runs a coroutine on a thread for handlers.
        clock: the source of time.
    """

    def __init__(
        self,
        store: Store,
        stream: str,
        name: str,
        owner: str,
        seconds: float,
        sections: Sections,
        run_handler: RunHandler,
        clock: Clock,
    ) -> None:
        self._store = store
        self._prefix = _prefix(stream)
        self._owner = owner
        self._seconds = seconds
        self._sections = sections
        self._run_handler = run_handler
        self._clock = clock
        self._lease: Lease | None = None
        self._until = 0.0  # in seconds of the clock, when it expires unless it is renewed
        self._started_at = clock.time()
        self._report = Report(owner, name, self._started_at, self._started_at)
        self._held: set[str] | None = None  # the leases at the last look
        self._looked = 0.0  # when that was
        self._gone: dict[str, float] = {}  # since when nobody was seen to hold the lease of a report, by id
        self._ended = False
        self._wake: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> None:
        """Report every few seconds while there is something to report, until cancelled."""
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        self._sections.on_change = self._changed
        while True:
            self._wake.clear()
            try:
                if self._sections and not self._ended:
                    await self.step()
                else:
                    await self._leave()
            except (StoreUnavailableError, StoreConfigError):
                pass  # the stream reports that
            except Exception as error:  # noqa: BLE001 - such as a bug in a store; the lease expires
                _log.warning("report", "the processes could not be read", error=error)
            pause = min(_INTERVAL, self._seconds / 3) if self._sections else None
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    def _changed(self) -> None:
        if self._loop is not None and self._wake is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._wake.set)

    async def step(self) -> None:
        """Report, and settle the reports of processes that are gone."""
        await self._keep()
        leases = {lease.name for lease in await self._store.leases(self._prefix)}
        if self._lease is None:
            await self._join(leases)
        now = self._clock.monotonic()
        # Also now and then, because a process may have come and gone between two looks.
        if leases != self._held or self._gone or now - self._looked >= self._seconds:
            await self._look(leases)
            self._held, self._looked = leases, now

    async def close(self) -> None:
        """Remove the report, or leave it to the others if it has to be settled."""
        self._ended = True
        await self._leave()

    async def _leave(self) -> None:
        lease, self._lease = self._lease, None
        if lease is None:
            return
        self._sections.write(self._report)
        ended = msgspec.structs.replace(self._report, state=ProcessState.ENDED)
        with suppress(StoreError):  # it expires
            await self._store.save(
                lease, {lease.name: msgspec.json.encode(ended) if ended.unsettled else None}
            )
            await self._store.release(lease)

    async def _keep(self) -> None:
        """Renew the lease in time, and report changes."""
        lease, now = self._lease, self._clock.monotonic()
        if lease is None:
            return
        try:
            if renew := self._until - now < self._seconds * 2 / 3:
                await self._store.renew(lease, self._seconds)
                self._until = now + self._seconds
            await self._save(lease, always=renew)
        except LeaseLostError:
            self._lease = None

    async def _save(self, lease: Lease, *, always: bool) -> None:
        before = self._report.sections
        self._sections.write(self._report)
        if always or self._report.sections != before:
            self._report.reported_at = self._clock.time()
            await self._store.save(lease, {lease.name: msgspec.json.encode(self._report)})

    async def _join(self, leases: set[str]) -> None:
        """Acquire the first lease that is free and under which no other process has a report."""
        values = await self._store.load(self._prefix)
        own = [name for name, report in _decode(self._prefix, values) if report.id == self._owner]
        numbered = [f"{self._prefix}{number}" for number in range(_MAX_PROCESSES)]
        now = self._clock.monotonic()
        for name in own + [name for name in numbered if name not in values and name not in leases]:
            lease = await self._store.acquire(name, self._owner, self._seconds)
            if lease is None:
                continue
            known = await self._load(name)
            if known is not None and known.id != self._owner:  # it has come and gone meanwhile
                await self._store.release(lease)
                continue
            self._lease, self._until = lease, now + self._seconds  # first: whoever cancels this calls `close`
            try:
                await self._save(lease, always=True)
            except LeaseLostError:  # this took too long; the next step tries again
                self._lease = None
                return
            leases.add(name)
            return
        _log.warning("full", "this process is not listed: %d others are", _MAX_PROCESSES)

    async def _load(self, name: str) -> Report | None:
        return dict(_decode(name, await self._store.load(name))).get(name)

    # Those that are gone

    async def _look(self, leases: set[str]) -> None:
        """Find the reports of processes that do not run, and settle or remove them."""
        now = self._clock.monotonic()
        values = await self._store.load(self._prefix)
        reports = dict(_decode(self._prefix, values))
        lost = [(name, reports[name]) for name in sorted(reports.keys() - leases)]
        self._gone = {report.id: self._gone.get(report.id, now) for _, report in lost}
        lost.sort(key=lambda each: self._gone[each[1].id])
        settled = [name for name, report in lost if not report.unsettled]
        unsettled = [name for name, report in lost if report.unsettled]
        surplus = {*settled[:-_MAX_GONE], *unsettled[:-_MAX_UNSETTLED]}
        for name, report in lost:
            old = now - self._gone[report.id] >= _SHOWN_FOR and not report.unsettled
            unmarked = report.state is ProcessState.RUNNING
            if name in surplus or old:
                await self._bury(name, report.id, remove=True)
            elif unmarked or any(self._sections.handlers(section) for section in report.unsettled):
                await self._bury(name, report.id)

    async def _bury(self, name: str, process: str, *, remove: bool = False) -> None:
        """Acquire the lease of a process that is gone, which only one process can, and settle its report."""
        lease = await self._store.acquire(name, self._owner, self._seconds)
        if lease is None:
            return
        try:
            report = await self._load(name)
            if report is None or report.id != process:  # another process was faster
                return
            if report.state is ProcessState.RUNNING:
                report.state = ProcessState.GONE
                await self._store.save(lease, {name: msgspec.json.encode(report)})
                _log.warning(process, "the process %s is gone: its lease has expired", report.name)
            for section in tuple(report.unsettled):
                if await self._settle(section, report.info(report.state)):
                    report.unsettled.remove(section)
                await self._store.renew(lease, self._seconds)
                await self._keep()
            ended = report.state is ProcessState.ENDED and not report.unsettled
            value = None if remove or ended else msgspec.json.encode(report)
            await self._store.save(lease, {name: value})
        except LeaseLostError:
            pass  # this took too long, and another process does it again
        finally:
            await self._store.release(lease)

    async def _settle(self, section: str, info: ProcessInfo) -> bool:
        """Call the handlers of a section, and return whether there is one and all have returned."""
        handlers = self._sections.handlers(section)
        calls = [asyncio.wrap_future(self._run_handler(_call(handler, info))) for handler in handlers]
        if calls:
            _, late = await asyncio.wait(calls, timeout=self._seconds / 2)
            for call in late:
                call.cancel()
        problems = [
            TimeoutError(f"no answer within {self._seconds / 2:g}s") if call.cancelled() else call.exception()
            for call in calls
        ]
        for problem in filter(None, problems):
            _log.warning(section, "a handler of processes that are gone has failed", error=problem)
        return bool(calls) and not any(problems)


async def _call(handler: GoneHandler, info: ProcessInfo) -> None:
    result = handler(info)
    if isawaitable(result):
        await result
