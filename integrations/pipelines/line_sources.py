"""The sources `stdin` and `file`: lines of text that become events."""

from __future__ import annotations

import asyncio
import logging
import stat
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.matchers import compile_re2
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.secrets import SecretPatterns, describe
from codomyrmex.integrations.pipelines.parts import (
    Context,
    FieldError,
    PartConfig,
    Push,
    Source,
    Topic,
)
from codomyrmex.integrations.service_mesh.tail import FileTail
from codomyrmex.streaming import Event, EventType
from codomyrmex.streaming.events import new_id
from codomyrmex.streaming.external import decode_external

_BATCH = 500  # events that are pushed at once
_SHOWN = 3  # invalid lines of a source that are logged
_WIDTH = 100  # characters of them

_log = Diagnostics(__name__)
_logger = logging.getLogger(__name__)
_secrets = SecretPatterns()

_MESSAGE = EventType.MESSAGE  # the members of an Enum are slow to look up

ToEvent = Callable[[bytes], Event | None]

_decode = msgspec.json.Decoder().decode


class Lines(PartConfig, frozen=True):
    """The settings of a source of lines.

    Attributes:
        format: `json`, a line is the payload; `event`, it is a whole event; `text`, the payload holds it.
        pattern: with `text`, a regular expression of RE2 whose named groups become fields of the payload.
        unmatched: what happens to lines that the pattern does not match.
        topic: of events without a topic.
        metadata: entries that events get unless they have them.
    """

    format: Literal["json", "event", "text"] = "json"
    pattern: str | None = None
    unmatched: Literal["drop", "keep"] = "drop"
    topic: Topic = Topic("lines")
    metadata: dict[str, Any] = {}


class LineReader:
    """Converts lines to events. A line that cannot be read is counted, and the first few are logged.

    Args:
        config: the settings.
        name: the source, for log lines.
        to_event: converts a line to an event, instead of the format in the configuration.

    Attributes:
        invalid: how many lines were not JSON or not an event.
        unmatched: how many lines the pattern did not match.

    Raises:
        FieldError: the pattern is wrong.
    """

    def __init__(self, config: Lines, name: str = "lines", to_event: ToEvent | None = None) -> None:
        self._name = name
        self._pattern = _compile(config)
        self._keep_unmatched = config.unmatched == "keep"
        self._metadata = {"topic": str(config.topic), **config.metadata}
        formats: dict[str, ToEvent] = {"json": self._payload, "event": self._event, "text": self._text}
        self._to_event = to_event or formats[config.format]
        self._lines = 0
        self._now = datetime.min.replace(tzinfo=UTC)
        self.invalid = 0
        self.unmatched = 0

    def read(self, lines: list[bytes]) -> list[Event]:
        """Return the events of lines; blank lines are ignored."""
        self._now = datetime.now(UTC)  # once, as it takes longer than to decode a line
        events: list[Event | None] = []
        to_event, add = self._to_event, events.append
        for number, line in enumerate(lines, self._lines + 1):
            try:
                add(to_event(line))
            except Exception as error:  # noqa: BLE001 - whatever is in a line, the others are still read
                add(self._unusual(line, number, error))
        self._lines += len(lines)
        return [event for event in events if event is not None]

    def _unusual(self, line: bytes, number: int, error: Exception) -> Event | None:
        """Read a line that begins with a byte order mark; count any other that is not blank as invalid."""
        if not line.strip():
            return None
        if line.startswith(BOM_UTF8):
            try:
                return self._to_event(line.removeprefix(BOM_UTF8))
            except Exception as second:  # noqa: BLE001 - as above
                error = second
        self.invalid += 1
        if self.invalid <= _SHOWN:
            text = _shorten(_secrets.redact(line[: 10 * _WIDTH].decode("utf-8", "replace")))
            _logger.warning("source %s, line %d: skipped, %s: %s", self._name, number, describe(error), text)
        elif self.invalid == _SHOWN + 1:
            _logger.warning("source %s: more lines are invalid; they are only counted", self._name)
        return None

    def _payload(self, line: bytes) -> Event | None:
        data = _decode(line)
        return Event(new_id(), _MESSAGE, data, self._metadata.copy(), self._now)

    def _event(self, line: bytes) -> Event | None:
        event = decode_external(_decode(line))
        return event.replace(metadata={**self._metadata, **event.metadata})

    def _text(self, line: bytes) -> Event | None:
        text = line.decode("utf-8", "replace").removeprefix("\ufeff").rstrip("\r\n")
        if not text.strip():
            return None
        fields: dict[str, Any] = {}
        if self._pattern is not None:
            match = self._pattern.search(text)
            if match is not None:
                fields = match.groupdict()
            elif not self._keep_unmatched:
                self.unmatched += 1
                return None
        return Event(new_id(), _MESSAGE, {"line": text, **fields}, self._metadata.copy(), self._now)


def _shorten(text: str) -> str:
    shown = text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."
    return shown if shown.isprintable() else ascii(shown)[1:-1]


def _compile(config: Lines) -> Any:
    if config.pattern is None:
        return None
    if config.format != "text":
        raise FieldError("pattern", f"requires the format text, got {config.format}")
    try:
        compiled = compile_re2(config.pattern)
    except ValueError as error:
        raise FieldError("pattern", f"not a regular expression of RE2: {error}") from None
    if not compiled.groupindex:
        raise FieldError("pattern", "has no named groups; add some, such as (?P<status>[0-9]+)")
    return compiled


class _LineSource(Source):
    """A source of lines."""

    def __init__(self, name: str, config: Lines, to_event: ToEvent | None = None) -> None:
        super().__init__(name)
        self._reader = LineReader(config, name, to_event)

    def skipped(self) -> dict[str, int]:
        return {"invalid lines": self._reader.invalid, "unmatched lines": self._reader.unmatched}

    async def _push(self, lines: list[bytes], push: Push) -> None:
        self.unfinished = len(lines)
        for first in range(0, len(lines), _BATCH):
            batch = lines[first : first + _BATCH]
            events = self._reader.read(batch)
            self.unfinished -= len(batch)
            if events:
                await push(events)
            self._note_pushed(lines[first + len(batch) :])

    def _note_pushed(self, rest: list[bytes]) -> None:
        """Note that all lines but the rest were pushed."""


class Stdin(Lines, frozen=True):
    """Lines of the standard input."""

    topic: Topic = Topic("stdin")

    def build(self, name: str, context: Context) -> Source:
        return _StdinSource(name, self, context)


class _StdinSource(_LineSource):
    def __init__(self, name: str, config: Stdin, context: Context) -> None:
        super().__init__(name, config)
        self._stdin = context.stdin

    async def open(self) -> None:
        self._stdin.open()

    async def run(self, push: Push) -> None:
        while not self.finishing.is_set():
            lines = await self.unless_finishing(self._stdin.lines())
            if lines is None:
                break
            await self._push(lines, push)
        await self._push(self._stdin.lines_nowait(), push)

    def skipped(self) -> dict[str, int]:
        return {**super().skipped(), "lines that are too long": self._stdin.too_long}


class File(Lines, frozen=True):
    """Lines of a file.

    Attributes:
        path: the file.
        from_start: whether to read what the file holds at the start.
        follow: whether to wait for more lines, as `tail -F` does.
        position: a file that keeps how much was delivered, or is in the spool, so that a restart continues
            there. It is not written while a sink fails, unless there is a spool.
        interval: seconds between two checks of the file.
    """

    format: Literal["json", "event", "text"] = "text"
    topic: Topic = Topic("file")
    path: str = ""
    from_start: bool = False
    follow: bool = True
    position: str | None = None
    interval: Duration = Duration(0.25)

    def build(self, name: str, context: Context) -> Source:
        return FileSource(name, self, context)

    def reads(self, context: Context) -> Iterable[tuple[str, Path]]:
        yield "path", context.folder / self.path

    def writes(self, context: Context) -> Iterable[tuple[str, Path]]:
        if self.position is not None:
            yield "position", context.folder / self.position


class FileSource(_LineSource):
    """Reads a file, and saves the position up to which its lines were delivered."""

    def __init__(self, name: str, config: File, context: Context, to_event: ToEvent | None = None) -> None:
        super().__init__(name, config, to_event)
        self._config = config
        self._context = context
        self._path = _file_path(config.path, context)
        self._position = _position_path(config.position, context)
        self.keeps = context.spool is not None and self._position is not None
        self._tail: FileTail | None = None
        self._pushed: Any = None  # the position up to which lines were pushed
        self._saved: Any = None
        self._saving: asyncio.Task[None] | None = None

    async def open(self) -> None:
        _check_files(self._path, self._position, must_exist=not self._config.follow)
        if not self._path.exists():
            _log.warning(self.name, "source %s: waiting for %s, which does not exist", self.name, self._path)
        # Opened here: lines that are written from now on are new.
        from_start = self._config.from_start or not self._config.follow
        self._tail = FileTail(self._path, position=self._position, from_start=from_start)

    async def aclose(self) -> None:
        self.finishing.set()
        if self._saving is not None:
            await asyncio.wait({self._saving})
        if self._tail is not None:
            self._tail.close()

    async def run(self, push: Push) -> None:
        tail = self._tail
        assert tail is not None  # noqa: S101 - open was called
        while not self.finishing.is_set():
            lines = await asyncio.to_thread(tail.lines, self.finishing.is_set)
            if not lines and self.finishing.is_set():
                return  # perhaps in the middle of a line
            at_end = not lines
            if at_end and self._config.follow:
                await self.unless_finishing(asyncio.sleep(self._config.interval))
                continue
            await self._push([tail.unterminated_line()] if at_end else lines, push)
            self._save_soon(tail, tail.position())
            if at_end:
                return

    def _note_pushed(self, rest: list[bytes]) -> None:
        if self.keeps and rest and self._tail is not None:
            self._save_soon(self._tail, self._tail.position(sum(map(len, rest)) + len(rest)))

    def _save_soon(self, tail: FileTail, position: Any) -> None:
        self._pushed = position
        if self._position is not None and (self._saving is None or self._saving.done()):
            self._saving = asyncio.create_task(self._save_delivered(tail))

    async def _save_delivered(self, tail: FileTail) -> None:
        """Save the position up to which lines were delivered, until that is everything that was pushed."""
        while self._pushed != self._saved:
            pushed = self._pushed
            if not await self.unless_finishing(self._context.settle()):
                return
            await self._save(tail, pushed)

    async def _save(self, tail: FileTail, position: Any) -> None:
        try:
            await asyncio.to_thread(tail.save, position)
            self._saved = position
        except OSError as error:
            message = "source %s: the position cannot be saved: %s"
            _log.warning(self.name, message, self.name, describe(error))

    def skipped(self) -> dict[str, int]:
        too_long = 0 if self._tail is None else self._tail.too_long
        return {**super().skipped(), "lines that are too long": too_long}

    async def delivered(self) -> None:
        if self._position is not None and self._tail is not None and self._pushed != self._saved:
            await self._save(self._tail, self._pushed)


def _file_path(path: str, context: Context) -> Path:
    if not path:
        raise FieldError("path", "is required")
    return context.folder / path


def _position_path(position: str | None, context: Context) -> Path | None:
    if position is None:
        return None
    if not position:
        raise FieldError("position", "must be the path of a file, got ''")
    return context.folder / position


def _check_files(path: Path, position: Path | None, *, must_exist: bool) -> None:
    """Raise an `OSError` unless a file can be read and its position can be kept."""
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a pipe would wait for a writer
            message = "is not a regular file; read a pipe or a device with the source stdin: < "
            raise OSError(f"{path}: {message}{path}")
        path.open("rb").close()
    except FileNotFoundError:
        if must_exist:
            raise
    if position is not None and not position.parent.is_dir():
        raise FileNotFoundError(f"the folder {position.parent} of the position does not exist")
