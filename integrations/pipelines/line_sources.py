"""The sources `stdin` and `file`: lines of text that become events."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Literal

import msgspec
from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.matchers import compile_re2
from codomyrmex.integrations.pipelines.parts import Context, FieldError, PartConfig, Push, Source, Topic
from codomyrmex.integrations.service_mesh.tail import FileTail
from codomyrmex.streaming import Event, EventDecodeError

_BATCH = 500  # events that are pushed at once

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
    """Makes events of lines.

    Args:
        config: how.

    Attributes:
        invalid: how many lines were not JSON or not an event.
        unmatched: how many lines the pattern did not match.

    Raises:
        FieldError: the pattern is wrong.
    """

    def __init__(self, config: Lines) -> None:
        self._pattern = _compile(config)
        self._keep_unmatched = config.unmatched == "keep"
        self._metadata = {"topic": str(config.topic), **config.metadata}
        self._to_event = {"json": self._payload, "event": self._event, "text": self._text}[config.format]
        self.invalid = 0
        self.unmatched = 0

    def read(self, lines: list[bytes]) -> list[Event]:
        """Return the events of lines; blank lines are ignored."""
        to_event = self._to_event
        return [event for line in lines if line.strip() and (event := to_event(line)) is not None]

    def _payload(self, line: bytes) -> Event | None:
        try:
            data = _decode(line)
        except (msgspec.DecodeError, RecursionError):
            self.invalid += 1
            return None
        return Event(data=data, metadata=dict(self._metadata))

    def _event(self, line: bytes) -> Event | None:
        try:
            event = Event.from_dict(_decode(line))
        except (msgspec.DecodeError, RecursionError, EventDecodeError):
            self.invalid += 1
            return None
        return event.replace(metadata={**self._metadata, **event.metadata})

    def _text(self, line: bytes) -> Event | None:
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        fields: dict[str, Any] = {}
        if self._pattern is not None:
            match = self._pattern.search(text)
            if match is not None:
                fields = match.groupdict()
            elif not self._keep_unmatched:
                self.unmatched += 1
                return None
        return Event(data={"line": text, **fields}, metadata=dict(self._metadata))


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

    def __init__(self, name: str, config: Lines) -> None:
        super().__init__(name)
        self._reader = LineReader(config)

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
        position: a file that keeps how much was read, so that a restart continues there.
        interval: seconds between two looks at the file.
    """

    format: Literal["json", "event", "text"] = "text"
    topic: Topic = Topic("file")
    path: str = ""
    from_start: bool = False
    follow: bool = True
    position: str | None = None
    interval: Duration = Duration(0.25)

    def build(self, name: str, context: Context) -> Source:
        return _FileSource(name, self, context)


class _FileSource(_LineSource):
    def __init__(self, name: str, config: File, context: Context) -> None:
        super().__init__(name, config)
        self._config = config
        self._path = file_path(config.path, context)
        self._position = position_path(config.position, self._path, context)
        self._tail: FileTail | None = None

    async def open(self) -> None:
        check_files(self._path, self._position, must_exist=not self._config.follow)
        # Opened here: lines that are written from now on are new.
        from_start = self._config.from_start or not self._config.follow
        self._tail = FileTail(self._path, position=self._position, from_start=from_start)

    async def aclose(self) -> None:
        if self._tail is not None:
            self._tail.close()

    async def run(self, push: Push) -> None:
        tail = self._tail
        assert tail is not None  # noqa: S101 - open was called
        while not self.finishing.is_set():
            lines = await asyncio.to_thread(tail.lines)
            at_end = not lines
            if at_end and self._config.follow:
                await self.unless_finishing(asyncio.sleep(self._config.interval))
                continue
            await self._push([tail.unterminated_line()] if at_end else lines, push)
            if self._position is not None:
                await asyncio.to_thread(tail.save)
            if at_end:
                return


def file_path(path: str, context: Context) -> Path:
    """Return the path of a file that a source reads.

    Raises:
        FieldError: there is none.
    """
    if not path:
        raise FieldError("path", "is required")
    return context.folder / path


def position_path(position: str | None, path: Path, context: Context) -> Path | None:
    """Return the path of the file that keeps how much of another file was read.

    Raises:
        FieldError: the path is empty, or that of the file that is read.
    """
    if position is None:
        return None
    if not position:
        raise FieldError("position", "must be the path of a file, got ''")
    if context.folder / position == path:
        raise FieldError("position", f"must not be the file that is read, {path}")
    return context.folder / position


def check_files(path: Path, position: Path | None, *, must_exist: bool) -> None:
    """Raise unless a file can be read and its position can be kept.

    Args:
        path: the file.
        position: the file that keeps the position.
        must_exist: whether the file has to exist already.

    Raises:
        OSError: the file cannot be read, or the folder of the position does not exist.
    """
    try:
        path.open("rb").close()
    except FileNotFoundError:
        if must_exist:
            raise
    if position is not None and not position.parent.is_dir():
        raise FileNotFoundError(f"the folder {position.parent} of the position does not exist")
