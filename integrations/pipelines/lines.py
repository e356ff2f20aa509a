"""Lines of text into events."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from codomyrmex.integrations.configuration.matchers import compile_re2
from codomyrmex.streaming import Event, EventDecodeError, EventType, create_event
from codomyrmex.streaming.events import new_id

MAX_LINE = 1 << 24  # bytes; more is no line, whatever it is

_decoder = msgspec.json.Decoder()
_MESSAGE = EventType.MESSAGE  # the members of an Enum are slow to look up


class LineSplitter:
    """Cuts bytes into lines; one that is longer than `MAX_LINE` is left out, and takes no memory.

    Attributes:
        too_long: lines that were left out.
    """

    def __init__(self) -> None:
        self.too_long = 0
        self._pieces: list[bytes] = []  # of the line that has no end yet
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes, and give the lines that they complete."""
        first, *lines = chunk.split(b"\n")
        if not lines:
            self._hold(first)
            return []
        lines.insert(0, first)
        last = lines.pop()
        if self._size:
            self._hold(lines.pop(0))
            lines[:0] = self.rest()
        self._hold(last)
        return lines

    def rest(self) -> list[bytes]:
        """Give the last line, if it has no end."""
        if self._size > MAX_LINE:
            self.too_long += 1
            self._pieces = []
        line = b"".join(self._pieces)
        self._pieces, self._size = [], 0
        return [line] if line else []

    def _hold(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > MAX_LINE:
            self._pieces = []
        elif piece:
            self._pieces.append(piece)


class LineReader:
    """Makes an event of a line.

    Args:
        format: `json`, a value is the payload; `event`, it is a whole event; `text`, the line is the payload.
        pattern: for text, a regular expression of RE2 with named groups; these are the payload then.
        unmatched: whether a line that the pattern does not match is kept as it is.
        topic: of events that bring none.
        metadata: likewise.

    Attributes:
        invalid: lines that are no JSON or no event; each is left out.
        unmatched: lines that the pattern does not match and that are left out.

    Raises:
        ValueError: the pattern is none.
    """

    def __init__(
        self,
        format: str,  # noqa: A002 - as in the file
        pattern: str | None,
        unmatched: str,
        topic: str,
        metadata: Mapping[str, Any],
    ) -> None:
        self._format = format
        self._pattern: Any = None
        if pattern is not None:
            if format != "text":
                raise ValueError("a pattern is for the format text")
            self._pattern = _compile(pattern)
        self._keeps = unmatched == "keep"
        self._metadata = {"topic": topic, **metadata}
        self.invalid = 0
        self.unmatched = 0

    # What many lines cost: one C call to decode them all, and one to make each event.
    def read(self, lines: list[bytes]) -> list[Event]:
        """Give the events of lines. What is none is counted and left out; blank lines are nothing."""
        if self._format == "text":
            texts = (line.decode("utf-8", "replace").rstrip("\r\n") for line in lines)
            return [event for text in texts if text and (event := self._text(text)) is not None]
        values = self._values(lines)
        if self._format == "json":
            metadata, now = self._metadata, datetime.now(UTC)
            return [Event(new_id(), _MESSAGE, value, dict(metadata), now) for value in values]
        return [event for value in values if (event := self._event(value)) is not None]

    def _values(self, lines: list[bytes]) -> list[Any]:
        try:
            return _decoder.decode_lines(b"\n".join(lines))
        except (msgspec.DecodeError, RecursionError):
            return [value for line in lines for value in self._value(line)]

    def _value(self, line: bytes) -> tuple[Any, ...]:
        try:
            return (_decoder.decode(line),)
        except (msgspec.DecodeError, RecursionError):
            if line.strip():
                self.invalid += 1
            return ()

    def _event(self, value: Any) -> Event | None:
        try:
            event = Event.from_dict(value)
        except EventDecodeError:
            self.invalid += 1
            return None
        return event.replace(metadata={**self._metadata, **event.metadata})

    def _text(self, line: str) -> Event | None:
        if self._pattern is None:
            return create_event({"line": line}, **self._metadata)
        match = self._pattern.search(line)
        if match is not None:
            return create_event({"line": line, **match.groupdict()}, **self._metadata)
        if self._keeps:
            return create_event({"line": line}, **self._metadata)
        self.unmatched += 1
        return None


def _compile(pattern: str) -> Any:
    try:
        compiled = compile_re2(pattern)
    except ValueError as error:
        raise ValueError(f"the pattern is no regular expression of RE2: {error}") from None
    if not compiled.groupindex:
        raise ValueError("the pattern has no named groups, such as (?P<status>[0-9]+)")
    return compiled
