"""The wire format of server-sent events: an encoder of frames and an incremental decoder.

Source: WHATWG HTML, section 9.2 "Server-sent events".
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from codomyrmex.streaming.encoding import replace_surrogates, to_json
from codomyrmex.streaming.errors import StreamingError

_LINE_END = re.compile(rb"\r\n|\n|\r")
_MAX_RETRY_DIGITS = 18
_BOM = b"\xef\xbb\xbf"
# NUL, and everything that clients which split lines like Python take for a line end.
_REMOVED_FROM_ID = str.maketrans("", "", "\0\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029")


def wire_id(event_id: str) -> str:
    """Return an event's id as it is sent: without NUL, line ends and lone surrogates."""
    if event_id.isprintable():  # one pass in C; nearly all ids are UUIDs
        return event_id
    return replace_surrogates(event_id.translate(_REMOVED_FROM_ID))


def encode_frame(event_id: str | None, event_type: str, data: Any) -> str:
    """Return one frame; without an id it leaves the client's `Last-Event-ID` unchanged."""
    id_line = "" if event_id is None else f"id: {wire_id(event_id)}\n"
    return f"{id_line}event: {event_type}\ndata: {to_json(data)}\n\n"


class SSERecord(NamedTuple):
    """An event as a client dispatches it.

    Attributes:
        event: the type; `message` if the frame has none.
        data: the data lines, joined by LF.
        id: its own id or the last one before it.
        retry: the reconnection time in milliseconds that came with this event, if any.
    """

    event: str
    data: str
    id: str
    retry: int | None


class SSEDecodeError(StreamingError, ValueError):
    """An event of an event stream is larger than the decoder allows.

    Attributes:
        records: the events that the same call had decoded before the error.
    """

    def __init__(self, message: str, records: list[SSERecord]) -> None:
        super().__init__(message)
        self.records = records


class SSEDecoder:
    """An incremental decoder of event streams; chunks may be split anywhere.

    Args:
        max_event_size: the maximum number of bytes of the lines of one event.

    Attributes:
        last_event_id: what a client sends as `Last-Event-ID` when it reconnects.
        retry: the last reconnection time received, in milliseconds.

    Raises:
        ValueError: the maximum is below 1.
    """

    def __init__(self, max_event_size: int = 1024 * 1024) -> None:
        if max_event_size < 1:
            raise ValueError(f"max_event_size: must be at least 1, got {max_event_size}")
        self.last_event_id = ""
        self.retry: int | None = None
        self._max_event_size = max_event_size
        self._line = bytearray()  # the line in progress
        self._after_cr = False  # an LF that comes next belongs to the CR
        self._at_start = True
        self._failed: str | None = None
        self._id = ""
        self._reset()

    def _reset(self) -> None:
        self._event = ""
        self._data: list[str] = []
        self._event_retry: int | None = None
        self._size = 0

    def feed(self, chunk: bytes) -> list[SSERecord]:
        """Decode any number of bytes and return the events that they complete.

        Raises:
            SSEDecodeError: an event is larger than `max_event_size`; every later call raises too.
            TypeError: the chunk is not bytes.
        """
        records: list[SSERecord] = []
        if self._failed is not None:
            raise SSEDecodeError(self._failed, records)
        if not isinstance(chunk, (bytes, bytearray, memoryview)):
            raise TypeError(f"chunk: must be bytes, got {type(chunk).__name__}; encode text as UTF-8")
        if not chunk:
            return records
        position = 1 if self._after_cr and chunk.startswith(b"\n") else 0
        self._after_cr = False
        for end in _LINE_END.finditer(chunk, position):
            self._line += chunk[position : end.start()]
            position = end.end()
            self._end_line(records)
        self._after_cr = chunk.endswith(b"\r")
        self._line += chunk[position:]
        begin = len(_BOM) if self._at_start and self._line.startswith(_BOM) else 0
        if self._line.startswith(b":", begin):
            del self._line[begin + 1 :]  # comments are ignored, so a long one needs no memory
        elif not (self._at_start and _BOM.startswith(self._line)):
            self._check_size(len(self._line) - begin, records)
        return records

    def _end_line(self, records: list[SSERecord]) -> None:
        line = bytes(self._line)
        self._line.clear()
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            self._dispatch(records)
        elif not line.startswith(b":"):
            self._check_size(len(line), records)
            self._size += len(line)
            self._set_field(line.decode("utf-8", "replace"))

    def _set_field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id":
            if "\0" not in value:
                self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = self._event_retry = int(value.lstrip("0")[:_MAX_RETRY_DIGITS] or "0")

    def _dispatch(self, records: list[SSERecord]) -> None:
        self.last_event_id = self._id  # even without data: an id alone counts
        if self._data:
            event = self._event or "message"
            records.append(SSERecord(event, "\n".join(self._data), self._id, self._event_retry))
        self._reset()

    def _check_size(self, more: int, records: list[SSERecord]) -> None:
        if self._size + more > self._max_event_size:
            self._failed = (
                f"event: more than {self._max_event_size} bytes (max_event_size); "
                f"the last complete event has the id {self.last_event_id!r}"
            )
            self._line.clear()
            self._reset()
            raise SSEDecodeError(self._failed, records)
