"""`JsonlSink`: writes events as lines of JSON to a file that is rotated."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

from codomyrmex.integrations.delivery.errors import PermanentError, RetryableError
from codomyrmex.integrations.delivery.sink import Sink
from codomyrmex.streaming import Event
from codomyrmex.streaming.encoding import to_json

_STDOUT = 1


class JsonlSink(Sink):
    """Appends each event as a line of JSON to a file.

    A batch is a single write: the file contains all of it or nothing. A full disk is retried, a missing
    folder is created again, and a line that a killed process left incomplete is terminated before the next
    one is written.

    Args:
        path: the file; `-` is the standard output.
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
        self._stdout = str(path) == "-"
        self._file: IO[bytes] | None = None
        self._incomplete = False  # the last line of the file has no line break
        self.on_broken_pipe: Callable[[], None] | None = None

    async def open(self) -> None:
        await _in_daemon_thread(self._open)

    async def send(self, events: Sequence[Event]) -> None:
        # A write is never abandoned: half a batch that is written twice is worse than a late batch.
        writing = asyncio.ensure_future(_in_daemon_thread(lambda: self._write(events)))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait({writing})
            if writing.cancelled() or writing.exception() is not None:
                raise
        except PermanentError:
            if self.on_broken_pipe is not None:
                self.on_broken_pipe()
            raise

    async def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            await _in_daemon_thread(file.close)

    def _open(self) -> IO[bytes]:
        if (
            self._stdout
        ):  # a duplicate: the interpreter must not wait for the lock of sys.stdout when it exits
            self._file = file = os.fdopen(os.dup(_STDOUT), "wb", buffering=0)
            return file
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = file = self._path.open("ab", buffering=0)
        if file.tell():
            with self._path.open("rb") as existing:
                existing.seek(-1, os.SEEK_END)
                self._incomplete = existing.read(1) != b"\n"
        return file

    def _write(self, events: Sequence[Event]) -> None:
        lines = "\n".join(map(self._encode, events))
        batch = f"{lines}\n".encode("utf-8", "replace")
        try:
            self._rotate(len(batch))
            file = self._file or self._open()
            if self._stdout:
                _write_all(file, batch)
            else:
                self._append(file, b"\n" + batch if self._incomplete else batch)
        except BrokenPipeError:
            raise PermanentError("the reader of the standard output is gone") from None
        except OSError as error:
            name = "the standard output" if self._stdout else self._path.name
            raise RetryableError(f"{name} cannot be written: {error.strerror}") from None

    def _append(self, file: IO[bytes], batch: bytes) -> None:
        """Write all of a batch or nothing; if that is impossible, the next batch ends the incomplete line."""
        size = os.fstat(file.fileno()).st_size
        try:
            _write_all(file, batch)
        except OSError:
            self._incomplete = self._incomplete or not _truncate(file, size)
            raise
        self._incomplete = False

    def _rotate(self, size: int) -> None:
        """Rename the file if `size` more bytes do not fit; open a new one if someone else has renamed it."""
        file = self._file
        if file is None or self._stdout:
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


def _write_all(file: IO[bytes], data: bytes) -> None:
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


def _in_daemon_thread(call: Callable[[], object]) -> asyncio.Future[None]:
    """Run a call in a daemon thread, which does not keep the program from exiting, as an executor does."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def resolve(error: Exception | None) -> None:
        if done.done():  # cancelled
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        result: Exception | None = None
        try:
            call()
        except Exception as error:  # noqa: BLE001 - it is raised where the call is awaited
            result = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(resolve, result)

    threading.Thread(target=run, name="jsonl", daemon=True).start()
    return done
