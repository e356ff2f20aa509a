"""`JsonlSink`: writes events as lines of JSON to a file that is rotated."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Literal

from codomyrmex.integrations.delivery.errors import RetryableError
from codomyrmex.integrations.delivery.sink import Sink
from codomyrmex.integrations.logging_monitoring.line_output import (
    LineOutput,
    in_daemon_thread,
    write_lines,
)
from codomyrmex.streaming import Event
from codomyrmex.streaming.encoding import to_json

_STDOUT = 1


class JsonlSink(Sink):
    """Appends each event as a line of JSON to a file.

    A batch is a single write: the file contains all of it or nothing. A full disk is retried, a missing
    folder is created again, and a line that a killed process left incomplete is terminated before the next
    one is written. To anything but a file, such as a pipe, whole lines are written as it accepts them.

    Args:
        path: the file, or a named pipe; `-` is the standard output.
        data: write the whole `event`, as `Event.to_dict` returns it, or its `payload` only.
        max_size: bytes after which the file is renamed to `path.1`, that one to `path.2`, and so on.
        keep: the number of renamed files to keep.
        name: the name of the sink in reports.

    Attributes:
        on_broken_pipe: called when the reader of the standard output is gone.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        data: Literal["event", "payload"] = "event",
        max_size: int | None = None,
        keep: int = 5,
        name: str = "jsonl",
    ) -> None:
        if max_size is not None and max_size < 1:
            raise ValueError(f"max_size: must be at least 1 byte, got {max_size}")
        if keep < 1:
            raise ValueError(f"keep: must be at least 1, got {keep}")
        self.name = name
        self._path = Path(path)
        self._encode: Callable[[Event], str] = to_json if data == "event" else _payload
        self._max_size = max_size
        self._keep = keep
        self._shown = self._path.name
        self._file: IO[bytes] | None = None
        self._output: LineOutput | None = None  # for what is not a regular file
        self._incomplete = False  # the last line of the file has no line break
        self.on_broken_pipe: Callable[[], None] | None = None

    async def open(self) -> None:
        await in_daemon_thread(self._open)

    async def send(self, events: Sequence[Event]) -> None:
        if self._output is None and self._file is None:
            try:
                await in_daemon_thread(self._open)
            except OSError as error:
                raise self._failure(error) from None
        if self._output is not None:
            await write_lines(self._output, self._shown, events, self._line, self.on_broken_pipe)
            return
        # A write is never abandoned: half a batch that is written twice is worse than a late batch.
        writing = asyncio.ensure_future(in_daemon_thread(lambda: self._write(events)))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait({writing})
            if writing.cancelled() or writing.exception() is not None:
                raise

    async def close(self) -> None:
        for closing in (self._file, self._output):
            if closing is not None:
                await in_daemon_thread(closing.close)
        self._file = self._output = None

    def _open(self) -> None:
        if self._is_stdout():  # a duplicate: closing it does not close the standard output
            self._output, self._shown = LineOutput(os.dup(_STDOUT)), "the standard output"
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # A named pipe without a reader raises an error, instead of waiting for one.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
        file = os.fdopen(os.open(self._path, flags, 0o666), "ab", buffering=0)
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            self._output = LineOutput(os.dup(file.fileno()))
            file.close()
            return
        self._file = file
        if file.tell():
            with self._path.open("rb") as existing:
                existing.seek(-1, os.SEEK_END)
                self._incomplete = existing.read(1) != b"\n"

    def _is_stdout(self) -> bool:
        """Return whether the path is that of the standard output, which is not a regular file."""
        if str(self._path) == "-":
            return True
        try:
            path, stdout = self._path.stat(), os.fstat(_STDOUT)
        except OSError:
            return False
        return os.path.samestat(path, stdout) and not stat.S_ISREG(path.st_mode)

    def _line(self, event: Event) -> bytes:
        return f"{self._encode(event)}\n".encode("utf-8", "replace")

    def _failure(self, error: OSError) -> RetryableError:
        return RetryableError(f"{self._shown} cannot be written: {error.strerror}")

    def _write(self, events: Sequence[Event]) -> None:
        batch = b"".join(map(self._line, events))
        try:
            self._rotate(len(batch))
            if self._file is None:
                self._open()
            if self._file is not None:
                self._append(self._file, b"\n" + batch if self._incomplete else batch)
        except OSError as error:
            raise self._failure(error) from None

    def _append(self, file: IO[bytes], batch: bytes) -> None:
        """Write all of a batch or nothing; if that is impossible, the next batch ends the incomplete line."""
        size = os.fstat(file.fileno()).st_size
        try:
            write_all(file, batch)
        except OSError:
            self._incomplete = self._incomplete or not _truncate(file, size)
            raise
        self._incomplete = False

    def _rotate(self, size: int) -> None:
        """Rename the file if `size` more bytes do not fit; open a new one if someone else has renamed it."""
        file = self._file
        if file is None:
            return
        opened = os.fstat(file.fileno())
        try:
            current = self._path.stat()
            same = (current.st_ino, current.st_dev) == (opened.st_ino, opened.st_dev)
        except OSError:
            same = False
        if same and (self._max_size is None or not opened.st_size or opened.st_size + size <= self._max_size):
            return
        file.close()
        self._file = None
        if same:
            for number in range(self._keep - 1, 0, -1):
                older = self._numbered(number)
                if older.exists():
                    older.replace(self._numbered(number + 1))
            self._path.replace(self._numbered(1))
        self._incomplete = False
        self._open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def write_all(file: IO[bytes], data: bytes) -> None:
    """Write all of the data, in as many writes as it takes."""
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[file.write(remaining) :]


def _truncate(file: IO[bytes], size: int) -> bool:
    """Remove what was written of a batch; return False if the file cannot be truncated."""
    try:
        if os.fstat(file.fileno()).st_size > size:
            os.ftruncate(file.fileno(), size)
    except OSError:
        return False
    return True


def _payload(event: Event) -> str:
    return to_json(event.data)
