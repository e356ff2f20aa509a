"""What the processes of a durable stream know of each other's circuit breakers.

A process reports its breakers to the others. So a board that is made later knows those that publish nothing,
and when the process has ended, another one resolves the alerts of those that were open.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary, ref

import msgspec
from codomyrmex.integrations.configuration.process import process_name
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.durable import (
    CursorError,
    DurableStream,
    ProcessInfo,
    ProcessState,
    StoreError,
)
from codomyrmex.integrations.durable.entries import decode_events, format_cursor
from codomyrmex.integrations.service_mesh.breaker_event import (
    NOT_CLOSED,
    BreakerState,
    CircuitBreakerEvent,
    topic_of,
)
from codomyrmex.integrations.service_mesh.breaker_table import BreakerTable, Row
from codomyrmex.streaming import Event, Stream, StreamClosedError
from codomyrmex.streaming.forks import renew_in_children
from codomyrmex.streaming.topics import matches

_BREAKERS, _POSITION = "breakers", "breakers_until"  # the sections of a report
_REFRESH = 2.0  # seconds between two looks at the processes
_MAX_ROWS = 1_000  # of this process, and as many of meshes
_MAX_OPENINGS = 100  # in a report
_MAX_ENTRIES = 100_000  # of the log, that are read to find out what was open
_PAGE = 1_000
_MAX_GONE = 1_000  # names that are remembered
_READ_TIMEOUT = 30.0  # seconds
_REDACTED = "[redacted]"

_log = Diagnostics(__name__)


class BreakerReports:
    """The circuit breakers of this process, which it reports to the others.

    Args:
        stream: the stream that their events are published to.
    """

    def __init__(self, stream: DurableStream) -> None:
        self._stream = ref(stream)
        self._own, self._shared = BreakerTable(_MAX_ROWS), BreakerTable(_MAX_ROWS)
        # In this order: an event that is not after the position is known when the breakers are read.
        stream.report_section(_POSITION, self._read_position)
        stream.report_section(_BREAKERS, self._read, self._settle)

    def update(self, change: CircuitBreakerEvent, now: datetime) -> None:
        """Note an event that is about to be published."""
        (self._shared if change.shared else self._own).update(change, now)

    def _read_position(self) -> Mapping[str, str]:
        stream = self._stream()
        if stream is None or stream.tail.last is None:
            return {}
        return {stream.name: format_cursor(stream.tail.epoch, stream.tail.last)}

    def _read(self) -> Mapping[str, Any]:
        """Return the breakers, those with an alert and those with the newest events first."""
        own, shared = [table.rows()[::-1] for table in (self._own, self._shared)]
        for row in own:
            row.instance = process_name()  # that of a child process, if the breaker is older than it
        rows = sorted([*own, *shared], key=lambda row: not row.firing)
        for row in rows:
            row.openings = row.openings[-_MAX_OPENINGS:]
        return {str(number): msgspec.to_builtins(row) for number, row in enumerate(rows)}

    async def _settle(self, process: ProcessInfo) -> None:
        """Resolve the alerts of the breakers of a process that has ended."""
        stream = self._stream()
        if stream is None:
            return
        table = BreakerTable(_MAX_ENTRIES)
        for row in _rows_of(process):
            table.merge(row)
        async for change, event in _changes(stream, _read_until(process)):
            if change.instance == process.name:
                table.update(change, event.timestamp)
        alive = {
            row.key
            for other in await stream.processes()
            if other.state is ProcessState.RUNNING and other.name == process.name
            for row in _rows_of(other)
            if row.firing
        }
        for row in table.rows():
            if row.firing and not row.shared and row.key not in alive:
                await stream.publish(row.end().to_event())


_reports: WeakKeyDictionary[DurableStream, BreakerReports] = WeakKeyDictionary()


def reports_of(stream: Stream) -> BreakerReports | None:
    """Return what this process reports about its breakers on a stream; None if the stream is not durable."""
    if not isinstance(stream, DurableStream):
        return None
    reports = _reports.get(stream)
    if reports is None:
        reports = _reports[stream] = BreakerReports(stream)
    return reports


def circuits_left(stream: Stream, source: str, instance: str | None) -> list[Row]:
    """Return the circuits of an instance that are open as far as the end of the log says.

    A process that begins to read a mesh learns so what the one before it has published. Nothing is known of
    a stream that is not durable. Not to be called on an event loop.
    """
    if not isinstance(stream, DurableStream):
        return []
    try:
        return stream.runtime.run_handler(_circuits_left(stream, source, instance)).result(_READ_TIMEOUT)
    except Exception as error:  # noqa: BLE001 - the feed can do without it
        text = "the circuits of %s that were open before are not known"
        _log.warning(source, text, instance, error=error)
        return []


async def _circuits_left(stream: DurableStream, source: str, instance: str | None) -> list[Row]:
    table = BreakerTable(_MAX_ENTRIES)
    async for change, event in _changes(stream, None):
        if (change.source, change.instance) == (source, instance):
            table.update(change, event.timestamp)
    left = [row for row in table.rows() if row.firing]
    for row in left:
        if row.state not in NOT_CLOSED:  # it was read again as closed, and its alert is not resolved yet
            row.state = BreakerState.OPEN
    return left


class ProcessFollower:
    """Keeps a table in line with the processes that run, from its start on.

    Args:
        stream: the stream that the processes use.
        table: gets the breakers that running processes report, and loses those of processes that have ended.
        topic: the topic or pattern of the events about these breakers.
    """

    def __init__(self, stream: DurableStream, table: BreakerTable, topic: str) -> None:
        self._stream = stream
        self._table = table
        self._topic = topic
        self._running: set[str] = set()
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._closed = False
        self._start()
        renew_in_children(self, last=True)

    def _start(self) -> None:
        if not self._closed:
            self._stream.runtime.start()
            self._following: Future[None] = self._stream.runtime.run_handler(self._follow())

    def after_fork(self) -> None:
        """Follow in the child process too, from its first use of the stream on."""
        self._stream.runtime.call_when_used(self._start)

    def has_ended(self, change: CircuitBreakerEvent) -> bool:
        """Return whether an event is about a breaker of a process that has ended."""
        return change.instance in self._gone and not change.shared

    def close(self) -> None:
        """Stop following. Closing twice is allowed."""
        self._closed = True
        self._following.cancel()

    async def _follow(self) -> None:
        while not self._closed:
            try:
                self._update(await self._stream.processes())
            except StreamClosedError:
                return
            except StoreError:
                pass  # the stream reports that
            except Exception as error:  # noqa: BLE001 - a bug must not leave the board as it is for ever
                _log.warning("processes", "the processes of a board could not be read", error=error)
            await asyncio.sleep(_REFRESH)

    def _update(self, processes: list[ProcessInfo]) -> None:
        running = {process.name for process in processes if process.state is ProcessState.RUNNING}
        for name in self._running.union(process.name for process in processes) - running:
            self._gone[name] = None
            self._gone.move_to_end(name)
            if len(self._gone) > _MAX_GONE:
                self._gone.popitem(last=False)
        for name in running:
            self._gone.pop(name, None)
        self._running = running
        for process in processes:
            for row in _rows_of(process):
                lives = row.shared or process.state is ProcessState.RUNNING
                if lives and matches(self._topic, topic_of(row.source, row.breaker)):
                    self._table.merge(row)
        self._table.remove_processes(tuple(self._gone))


def _rows_of(process: ProcessInfo) -> Iterator[Row]:
    """Yield the breakers that a process has reported; those of a later version may not be readable."""
    for value in process.sections.get(_BREAKERS, {}).values():
        with suppress(msgspec.ValidationError):
            row = msgspec.convert(value, Row)
            if _REDACTED not in str(row.key):  # events name it in another way
                yield row


def _read_until(process: ProcessInfo) -> str | None:
    """Return the cursor up to which a report has all breakers of the process; None if it has not."""
    rows = process.sections.get(_BREAKERS, {})
    if process.omitted.get(_BREAKERS) or len(list(_rows_of(process))) < len(rows):
        return None
    return next(iter(process.sections.get(_POSITION, {}).values()), None)


async def _changes(
    stream: DurableStream, after: str | None
) -> AsyncIterator[tuple[CircuitBreakerEvent, Event]]:
    """Yield the events about breakers after a cursor, from the last entries of the log only."""
    last = await stream.resolve(None)
    position = max(last - _MAX_ENTRIES, 0)
    if after is not None:
        with suppress(CursorError):  # it is no longer kept, or the log has lost its end
            position = max(position, await stream.resolve(after))
    while position < last and (entries := await stream.read_entries(position, _PAGE)):
        for _, _, event in decode_events(entries, b'"breaker"'):
            change = None if event is None else CircuitBreakerEvent.from_event(event)
            if event is not None and change is not None:
                yield change, event
        position = entries[-1].position
