"""`JsonlSink`: events as lines of JSON in a file that is rotated."""

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

    A batch is one write, and is in the file as a whole or not at all. When the disk is full, it is tried
    again; a folder that is gone is made anew. A line that a process left unfinished when it died is ended
    before the next one.

    Args:
        path: the file; `-` is the standard output.
        data: the whole `event` as `Event.to_dict` gives it, or its `payload`.
        max_size: bytes after which the file is renamed to `path.1`, that to `path.2` and so on.
        keep: how many of these are kept.
        name: what it is called in reports.

    Attributes:
        on_nobody_reads: called when who has read the standard output is gone.

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
            raise ValueError(f"max_size is a number of bytes from 1 on, not {max_size}")
        if keep < 1:
            raise ValueError(f"keep is a number of files from 1 on, not {keep}")
        self.name = name
        self._path = Path(path)
        self._encode: Callable[[Event], str] = to_json if data == "event" else _payload
        self._max_size = max_size
        self._keep = keep
        self._stdout = str(path) == "-"
        self._file: IO[bytes] | None = None
        self._broken = False  # the file ends in the midst of a line
        self.on_nobody_reads: Callable[[], None] | None = None

    async def open(self) -> None:
        await _on_daemon(self._open)

    async def send(self, events: Sequence[Event]) -> None:
        # On a thread, and not cut off: half a batch written twice would be worse than a batch that is late.
        writing = asyncio.ensure_future(_on_daemon(lambda: self._write(events)))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait({writing})
            if writing.cancelled() or writing.exception() is not None:
                raise
        except PermanentError:
            if self.on_nobody_reads is not None:
                self.on_nobody_reads()
            raise

    async def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            await _on_daemon(file.close)

    def _open(self) -> None:
        if self._stdout:  # not Python's own: nothing waits for its lock at the end
            self._file = os.fdopen(os.dup(_STDOUT), "wb", buffering=0)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab", buffering=0)
        if self._file.tell():  # a process that died may have left half a line
            with self._path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                self._broken = file.read(1) != b"\n"

    def _write(self, events: Sequence[Event]) -> None:
        encode = self._encode
        text = "\n".join([encode(event) for event in events])
        batch = f"{text}\n".encode("utf-8", "replace")
        try:
            self._rotate(len(batch))
            file = self._file
            if file is None:
                self._open()
                file = self._file
            assert file is not None  # noqa: S101 - it was opened
            if self._stdout:
                _write_all(file, batch)
            else:
                self._append(file, b"\n" + batch if self._broken else batch)
        except BrokenPipeError:
            raise PermanentError("nobody reads the standard output any more") from None
        except OSError as error:
            name = "the standard output" if self._stdout else self._path.name
            raise RetryableError(f"{name} cannot be written: {error.strerror}") from None

    def _append(self, file: IO[bytes], batch: bytes) -> None:
        """Write all of a batch or nothing; where that cannot be, its half line is ended by the next one."""
        size = os.fstat(file.fileno()).st_size
        try:
            _write_all(file, batch)
        except OSError:
            self._broken = self._broken or not _cut_back(file, size)
            raise
        self._broken = False

    def _rotate(self, more: int) -> None:
        """Rename the file if it would get too large; one that was renamed by others is made anew."""
        file = self._file
        if file is None or self._stdout:
            return
        there = os.fstat(file.fileno())
        try:
            now = self._path.stat()
            same = (now.st_ino, now.st_dev) == (there.st_ino, there.st_dev)
        except OSError:
            same = False
        if same and (self._max_size is None or not there.st_size or there.st_size + more <= self._max_size):
            return
        file.close()
        self._file = None
        if same:
            for number in range(self._keep - 1, 0, -1):
                older = self._numbered(number)
                if older.exists():
                    older.replace(self._numbered(number + 1))
            self._path.replace(self._numbered(1))
        self._broken = False
        self._open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def _write_all(file: IO[bytes], data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _cut_back(file: IO[bytes], size: int) -> bool:
    """Take back what was written of a batch; False where the file cannot be shortened."""
    try:
        if os.fstat(file.fileno()).st_size > size:
            os.ftruncate(file.fileno(), size)
    except OSError:
        return False
    return True


def _payload(event: Event) -> str:
    return to_json(event.data)


# A write to a pipe that nobody reads, or to a disk that is away, must not keep the program from ending, as
# the threads of an executor would.
def _on_daemon(call: Callable[[], None]) -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def tell(error: BaseException | None) -> None:
        if done.done():  # cancelled
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        failed: BaseException | None = None
        try:
            call()
        except Exception as error:  # noqa: BLE001 - it is raised where it is awaited
            failed = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, failed)

    threading.Thread(target=run, name="jsonl", daemon=True).start()
    return done
