"""What a process reports about itself to the others that use a stream."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
from codomyrmex.integrations.delivery.secrets import clean
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.encoding import to_builtins, to_json_bytes
from codomyrmex.streaming.errors import shorten

_MAX_BYTES = 32_768  # of a section
_MAX_TEXT = 1_000  # characters
_MAX_ITEMS = 100  # of a list or mapping inside an item
_SECTION = re.compile(r"[a-z][a-z0-9_]{0,31}")

_log = Diagnostics(__name__)

ReadSection = Callable[[], Mapping[str, Any]]
"""Returns the items of a section by name."""
GoneHandler = Callable[["ProcessInfo"], Any]
"""A plain or an async function that is called with a process that is gone."""


class ProcessState(StrEnum):
    """The state of a process.

    `RUNNING`: it holds its lease. `GONE`: its lease has expired: it was killed, is suspended, or cannot reach
    the store. `ENDED`: it has ended in order, and another process has something left to do for it.
    """

    RUNNING = "running"
    GONE = "gone"
    ENDED = "ended"


class ProcessInfo(NamedTuple):
    """What a process that uses a stream has reported.

    Attributes:
        name: its name: `CODOMYRMEX_PROCESS`, or the host and the process id.
        id: unique to this run of it.
        state: whether it runs.
        started_at: when it began to use the stream, by its own clock.
        reported_at: when it reported last, by its own clock.
        sections: what it reported: items by name, by section; those of attached sinks are in `sinks`.
        omitted: how many items of a section were left out, because it was too large.
    """

    name: str
    id: str
    state: ProcessState
    started_at: datetime
    reported_at: datetime
    sections: Mapping[str, Mapping[str, Any]]
    omitted: Mapping[str, int]


class Report(msgspec.Struct):
    """A report as it is saved.

    Attributes:
        id: the owner of the lease under which it was saved.
        unsettled: the sections that have a handler to be called once the process is gone.
    """

    id: str
    name: str
    started_at: float
    reported_at: float
    state: ProcessState = ProcessState.RUNNING
    unsettled: list[str] = []
    sections: dict[str, dict[str, Any]] = {}
    omitted: dict[str, int] = {}

    def info(self, state: ProcessState) -> ProcessInfo:
        started_at = datetime.fromtimestamp(self.started_at, UTC)
        reported_at = datetime.fromtimestamp(self.reported_at, UTC)
        return ProcessInfo(self.name, self.id, state, started_at, reported_at, self.sections, self.omitted)


class Registration:
    """A part of a section, until it is closed."""

    def __init__(self, sections: Sections, section: str, read: ReadSection, gone: GoneHandler | None) -> None:
        self.section, self.read, self.gone = section, read, gone
        self._sections = sections

    def close(self) -> None:
        """Report it no longer. May be called repeatedly."""
        self._sections.remove(self)


class Sections:
    """What this process reports; thread-safe. A child process reports it as well.

    Args:
        own: the sections that are reported beside others, but are no reason to report.

    Attributes:
        on_change: called when a part was added or removed.
    """

    def __init__(self, own: Mapping[str, ReadSection]) -> None:
        self._own = tuple(Registration(self, section, read, None) for section, read in own.items())
        self._parts: tuple[Registration, ...] = ()
        self.after_fork()

    def __bool__(self) -> bool:
        return bool(self._parts)

    def after_fork(self) -> None:
        """Renew the lock in a child process, and forget who reports in the parent."""
        self._lock = threading.Lock()
        self.on_change: Callable[[], None] = lambda: None

    def add(self, section: str, read: ReadSection, gone: GoneHandler | None = None) -> Registration:
        """Add a part of a section; the items of all its parts are reported together.

        Raises:
            TypeError: an argument is not a function.
            ValueError: the name of the section is not valid.
        """
        if not isinstance(section, str) or not _SECTION.fullmatch(section):
            raise ValueError(f"section: must be 1 to 32 characters of a-z, 0-9 and _, got {shorten(section)}")
        if not callable(read):
            raise TypeError(f"read: must be a function, got {shorten(read)}")
        if gone is not None and not callable(gone):
            raise TypeError(f"on_gone: must be a function, got {shorten(gone)}")
        part = Registration(self, section, read, gone)
        with self._lock:
            self._parts += (part,)
        self.on_change()
        return part

    def remove(self, part: Registration) -> None:
        """Remove a part; do nothing if it was removed before."""
        with self._lock:
            self._parts = tuple(other for other in self._parts if other is not part)
        self.on_change()

    def handlers(self, section: str) -> list[GoneHandler]:
        """Return the functions to call for a section of a process that is gone."""
        return [part.gone for part in self._parts if part.section == section and part.gone is not None]

    def write(self, report: Report) -> None:
        """Write all sections into a report, within their bounds and without secrets."""
        report.unsettled = sorted({part.section for part in self._parts if part.gone is not None})
        report.sections, report.omitted = {}, {}
        for part in (*self._own, *self._parts):
            try:
                self._write_part(part, report)
            except Exception as error:  # noqa: BLE001 - the other sections are reported
                _log.warning(part.section, "the section %s could not be reported", part.section, error=error)

    def _write_part(self, part: Registration, report: Report) -> None:
        section = part.section
        items = report.sections.setdefault(section, {})
        room = _MAX_BYTES - len(to_json_bytes(items))
        found = part.read()
        for number, (name, value) in enumerate(found.items()):
            item = _bounded(to_builtins(value))
            free = _free(clean(str(name)[:_MAX_TEXT]), items)
            room -= len(to_json_bytes({free: item}))
            if room < 0:
                report.omitted[section] = report.omitted.get(section, 0) + len(found) - number
                return
            items[free] = item


def _bounded(value: Any) -> Any:
    """Return a value of JSON with long texts and lists cut, and without secrets."""
    if isinstance(value, str):
        return clean(value[: 2 * _MAX_TEXT])[:_MAX_TEXT]  # as a secret may be where it is cut
    if isinstance(value, dict):
        return {
            clean(key[:_MAX_TEXT]): _bounded(item)
            for key, item in itertools.islice(value.items(), _MAX_ITEMS)
        }
    if isinstance(value, list):
        return [_bounded(item) for item in value[:_MAX_ITEMS]]
    return value


def _free(name: str, taken: Mapping[str, Any]) -> str:
    names = itertools.chain([name], (f"{name}#{number}" for number in itertools.count(2)))
    return next(each for each in names if each not in taken)
