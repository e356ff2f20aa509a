"""`FileTail`: the new lines of a file, across rotation, truncation and restarts, like `tail -F`."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1 << 18
_MAX_LINE = 1 << 24


class FileTail:
    """Reads the lines that are appended to a file. Not thread-safe.

    A file that exists at the start is read from its end, one that is created later from its beginning. After
    a rotation the old file is read to its end first; after a truncation the file is read from its
    beginning. A line is returned once its line break is written.

    Args:
        path: the file.
        position: a file in which the position is saved, so that nothing is lost in a restart. If it does not
            exist yet, the file is read from its beginning.
        from_start: read an existing file from its beginning.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, position: str | os.PathLike[str] | None, from_start: bool
    ) -> None:
        self._path = Path(path)
        self._position = None if position is None else Path(position)
        self._file: BinaryIO | None = None
        self._inode = 0
        self._offset = 0  # of the end of the last complete line
        self._partial = b""
        self._open(first=True, from_start=from_start or position is not None)

    def lines(self) -> list[bytes]:
        """Return the lines that were written since the last call, at most a few thousand at once."""
        if self._file is None and not self._open(first=False, from_start=True):
            return []
        lines = self._read()
        if lines:
            return lines
        if self._was_rotated():  # and the old file has been read completely
            if self._partial:  # its last line was never terminated
                lines = [self._partial]
            self.close()
            self._open(first=False, from_start=True)
            return lines or self._read()
        return []

    def unterminated_line(self) -> bytes:
        """Return the last line of a file that is no longer written, if it has no line break."""
        line, self._partial = self._partial, b""
        self._offset += len(line)
        return line

    def save(self) -> None:
        """Save the position: the lines returned so far have been processed."""
        if self._position is None:
            return
        text = json.dumps({"inode": self._inode, "offset": self._offset})
        temporary = self._position.with_name(f"{self._position.name}.new")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self._position)

    def _open(self, *, first: bool, from_start: bool) -> bool:
        try:
            file = self._path.open("rb")
        except OSError:  # it does not exist yet, or is being rotated
            return False
        status = os.fstat(file.fileno())
        self._file, self._inode, self._partial = file, status.st_ino, b""
        self._offset = 0 if from_start else status.st_size
        if first:
            inode, offset = self._load_position()
            if inode == status.st_ino and offset <= status.st_size:
                self._offset = offset
        file.seek(self._offset)
        return True

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file, self._partial = None, b""

    def _read(self) -> list[bytes]:
        file = self._file
        if file is None:
            return []
        if os.fstat(file.fileno()).st_size < self._offset + len(self._partial):  # truncated
            self._offset, self._partial = 0, b""
            file.seek(0)
        lines: list[bytes] = []
        while not lines and (chunk := file.read(_CHUNK)):
            *lines, self._partial = (self._partial + chunk).split(b"\n")
            self._offset += sum(map(len, lines)) + len(lines)
            if len(self._partial) > _MAX_LINE:  # not a line of text
                self._offset += len(self._partial)
                lines.append(self._partial)
                self._partial = b""
        return lines

    def _was_rotated(self) -> bool:
        try:
            return self._path.stat().st_ino != self._inode
        except OSError:
            return False

    def _load_position(self) -> tuple[int, int]:
        if self._position is not None:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                position = json.loads(self._position.read_text(encoding="utf-8"))
                return int(position["inode"]), int(position["offset"])
        return -1, 0
