"""`FileTail`: the new lines of a file, across rotation, truncation and restarts, like `tail -F`."""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
from codecs import BOM_UTF8
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.service_mesh.lines import LineSplitter

_CHUNK = 1 << 18
_SAMPLE = 1_024  # bytes of the beginning, and before the position, by which a file is recognized
_ROTATED = re.compile(r"[-._]\d[\dTZ:._-]*")  # .1 or -20261127, but not .1.gz

_log = Diagnostics(__name__)


class Position(msgspec.Struct, frozen=True):
    """How far a file was read.

    Args:
        inode: the inode of the file, which another file may get after it.
        offset: the bytes that were read.
        checksum: identifies the content up to there; empty if it was saved by an older version.
    """

    inode: int
    offset: Annotated[int, msgspec.Meta(ge=0)]
    checksum: str = ""


class FileTail:
    """Reads the lines that are appended to a file. Not thread-safe.

    A file that exists at the start is read from its end, one that is created later from its beginning. A
    line is returned once its line break is written. A byte-order mark at the beginning is left out, and so is
    a line of more than 16 MiB.

    A file is recognized by its inode and its content, so nothing is lost when it is renamed, truncated or
    replaced, once or several times between two reads or while no one reads it: rotated files beside it
    (`name.1`, `name-20261127`) are read from the position to the end, in the order of their times, before the
    file itself. This is impossible for files that are compressed or removed; that is logged.

    Args:
        path: the file.
        position: a file in which the position is saved, so that nothing is lost in a restart. If it does not
            exist yet, the file is read from its beginning.
        from_start: read an existing file from its beginning.

    Attributes:
        too_long: how many lines were left out because they are too long.

    Raises:
        OSError: the file exists and cannot be read, or is not a regular file.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, position: str | os.PathLike[str] | None, from_start: bool
    ) -> None:
        self._path = Path(path)
        self._saved = None if position is None else Path(position)
        self._file: BinaryIO | None = None
        self._inode = 0
        self._offset = 0  # of the end of the last complete line
        self._checksum = ""
        self._seen = (-1, -1)  # size and time of the last change, when the content was last compared
        self._lines = LineSplitter()
        self._too_long = 0  # in files that were read before
        saved = self._load_position()
        if saved is not None:
            self._resume(saved)
        elif self._open(self._path) and not (from_start or position is not None):
            self._seek(self._status().st_size)

    @property
    def too_long(self) -> int:
        return self._too_long + self._lines.too_long

    def position(self, remaining: int = 0) -> Position:
        """Return the position after the last line returned: `save` it once that line has been processed.

        Args:
            remaining: the size of the last lines returned that have not been processed yet.
        """
        if not remaining:
            return Position(self._inode, self._offset, self._checksum)
        offset = self._offset - remaining
        return Position(self._inode, offset, self._checksum_at(offset))

    def lines(self, stop: Callable[[], bool] = lambda: False) -> list[bytes]:
        """Return the lines that were written since the last call, at most a few thousand at once.

        Args:
            stop: returns whether to end early; called while a long line is read.
        """
        while True:
            if self._file is None and not self._reopen():
                return []
            if self._was_overwritten():
                self._resume(self.position())
                continue
            if (lines := self._read(stop)) or stop():
                return lines
            if not self._was_rotated():
                return []
            # The old file has been read completely; its last line may not have been terminated.
            following, lines = self._next_file(), self._lines.flush()
            self.close()
            if following != self._path:
                with contextlib.suppress(OSError):
                    self._open(following)
            if lines:
                return lines

    def unterminated_line(self) -> bytes:
        """Return the last line of a file that is no longer written, if it has no line break."""
        size = self._lines.pending
        lines = self._lines.flush()
        self._advance(size)
        return lines[0] if lines else b""

    def save(self, position: Position | None = None) -> None:
        """Save a position: the lines up to there have been processed.

        Args:
            position: what `position` returned earlier; by default that of all lines returned so far.
        """
        if self._saved is None:
            return
        temporary = self._saved.with_name(f"{self._saved.name}.new")
        temporary.write_bytes(msgspec.json.encode(position or self.position()))
        temporary.replace(self._saved)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file = None
        self._forget_line()

    def _forget_line(self) -> None:
        self._too_long = self.too_long
        self._lines = LineSplitter()

    # Opening

    def _reopen(self) -> bool:
        try:
            return self._open(self._path)
        except OSError as error:  # it may be readable again later
            _log.warning(str(self._path), "%s cannot be read: %s", self._path, error.strerror or error)
            return False

    def _open(self, path: Path) -> bool:
        """Open a file at its beginning; return False if there is none."""
        try:  # without waiting for the other end of a named pipe
            file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")
        except FileNotFoundError:
            return False
        except IsADirectoryError:
            raise io.UnsupportedOperation(f"{path}: must be a regular file, is a directory") from None
        self.close()
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            file.close()
            raise io.UnsupportedOperation(f"{path}: must be a regular file, is a pipe or a device")
        self._file, self._inode = file, status.st_ino
        self._seek(0)
        return True

    def _seek(self, offset: int) -> None:
        assert self._file is not None  # noqa: S101 - it was opened
        self._file.seek(offset)
        self._offset, self._seen = offset, (-1, -1)
        self._forget_line()
        self._checksum = self._checksum_at(offset)

    def _advance(self, size: int) -> None:
        self._offset += size
        self._checksum = self._checksum_at(self._offset)

    def _status(self) -> os.stat_result:
        assert self._file is not None  # noqa: S101 - it was opened
        return os.fstat(self._file.fileno())

    # Reading

    def _read(self, stop: Callable[[], bool]) -> list[bytes]:
        assert self._file is not None  # noqa: S101 - it was opened
        lines: list[bytes] = []
        size = 0
        while not lines and not stop() and (chunk := self._file.read(_CHUNK)):
            size += self._lines.pending + len(chunk)
            lines = self._lines.feed(chunk)
            size -= self._lines.pending
        if size:
            if self._offset == 0 and lines:
                lines[0] = lines[0].removeprefix(BOM_UTF8)
            self._advance(size)
        return lines

    def _was_overwritten(self) -> bool:
        """Return whether the content that was read has disappeared, as after `copytruncate`."""
        status = self._status()
        if status.st_size < self._offset + self._lines.pending:
            return True
        change = status.st_size, status.st_mtime_ns
        if change == self._seen:
            return False
        self._seen = change
        return self._checksum_at(self._offset) != self._checksum

    def _was_rotated(self) -> bool:
        try:
            return self._path.stat().st_ino != self._inode
        except OSError:
            return False

    # Recognizing files

    def _checksum_at(self, offset: int) -> str:
        """Return a checksum of the beginning of the file, and of the bytes before `offset`."""
        assert self._file is not None  # noqa: S101 - it was opened
        number = self._file.fileno()
        start = os.pread(number, min(offset, _SAMPLE), 0)
        before = os.pread(number, min(offset, _SAMPLE), max(0, offset - _SAMPLE))
        return blake2b(start + before, digest_size=16).hexdigest()

    def _resume(self, position: Position) -> None:
        """Continue at a position: in the file that has this content, else at the beginning."""
        candidates = [self._path, *(path for path, _ in reversed(self._rotated_files()))]
        # A file without the inode may be a copy of the one that was truncated.
        for is_copy in (False, True) if position.offset and position.checksum else (False,):
            for path in candidates:
                with contextlib.suppress(OSError):
                    if self._open(path) and self._continues(position, is_copy=is_copy):
                        return
        if position.offset:
            text = "%s is not the file that was read before, and the rest of the previous one was not found"
            _log.warning(str(self._path), text, self._path)
        self.close()
        self._open(self._path)

    def _continues(self, position: Position, *, is_copy: bool) -> bool:
        """Move to a position and return True if the open file has the content that was read."""
        if not is_copy and self._inode != position.inode:
            return False
        if self._status().st_size < position.offset or (
            position.checksum and self._checksum_at(position.offset) != position.checksum
        ):
            return False
        self._seek(position.offset)
        return True

    def _rotated_files(self) -> list[tuple[Path, os.stat_result]]:
        """Return the rotated files beside the path, the oldest first."""
        name = self._path.name
        found: list[tuple[int, int, str, os.stat_result]] = []
        try:
            names = [path.name for path in self._path.parent.iterdir()]
        except OSError:
            return []
        for other in names:
            suffix = other.removeprefix(name)
            if suffix == other or not _ROTATED.fullmatch(suffix):
                continue
            with contextlib.suppress(OSError):
                status = (self._path.parent / other).stat()
                number = -int(suffix[1:]) if suffix[1:].isdecimal() else 0  # .1 is newer than .2
                found.append((status.st_mtime_ns, number, other, status))
        return [(self._path.parent / other, status) for _, _, other, status in sorted(found)]

    def _next_file(self) -> Path:
        """Return the rotated file that follows the open one, or the path if there is none."""
        rotated, changed = self._rotated_files(), self._status().st_mtime_ns
        inodes = [status.st_ino for _, status in rotated]
        if self._inode in inodes:
            newer = rotated[inodes.index(self._inode) + 1 :]
        else:
            newer = [file for file in rotated if file[1].st_mtime_ns > changed]
        return newer[0][0] if newer else self._path

    def _load_position(self) -> Position | None:
        if self._saved is not None:
            with contextlib.suppress(OSError, msgspec.DecodeError, RecursionError):
                return msgspec.json.decode(self._saved.read_bytes(), type=Position)
        return None
