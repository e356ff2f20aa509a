"""`FileTail`: gives the new lines of a file as `tail -F` does: over rotation, truncation and restarts."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1 << 18
_MAX_LINE = 1 << 24


class FileTail:
    """Gives the lines that are appended to a file. Not thread-safe.

    A file that is there at the beginning is read from its end, one that comes later from its beginning.
    When the file is renamed and made anew, the old one is read to its end first; when it is truncated, it
    is read from its beginning. A line is given when its end is there.

    Args:
        path: the file.
        position: a file where it is kept how far was read, so that after a restart nothing is lost; where
            that says nothing yet, the file is read from its beginning.
        from_start: read a file that is there at the beginning from its beginning.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, position: str | os.PathLike[str] | None, from_start: bool
    ) -> None:
        self._path = Path(path)
        self._position = None if position is None else Path(position)
        self._file: BinaryIO | None = None
        self._inode = 0
        self._offset = 0  # up to the end of the last whole line
        self._partial = b""
        self._open(first=True, from_start=from_start or position is not None)

    def lines(self) -> list[bytes]:
        """Give the lines that have come since the last call, at most some thousand at once."""
        if self._file is None and not self._open(first=False, from_start=True):
            return []
        found = self._read()
        if found:
            return found
        if self._is_another():  # all of the old one is read
            if self._partial:  # its last line never got an end
                found = [self._partial]
            self.close()
            self._open(first=False, from_start=True)
            return found or self._read()
        return []

    def rest(self) -> bytes:
        """Give the last line of a file that nobody writes to any more, if it has no end."""
        rest, self._partial = self._partial, b""
        self._offset += len(rest)
        return rest

    def save(self) -> None:
        """Keep how far was read; what `lines` gave is dealt with."""
        if self._position is None:
            return
        text = json.dumps({"inode": self._inode, "offset": self._offset})
        beside = self._position.with_name(f"{self._position.name}.new")
        beside.write_text(text, encoding="utf-8")
        beside.replace(self._position)

    def _open(self, *, first: bool, from_start: bool) -> bool:
        try:
            file = self._path.open("rb")
        except OSError:  # not there yet, or just being rotated
            return False
        status = os.fstat(file.fileno())
        self._file, self._inode, self._partial = file, status.st_ino, b""
        self._offset = 0 if from_start else status.st_size
        if first:
            saved = self._saved()
            if saved is not None and saved[0] == status.st_ino and saved[1] <= status.st_size:
                self._offset = saved[1]
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
            if len(self._partial) > _MAX_LINE:  # no line at all, whatever it is
                self._offset += len(self._partial)
                lines.append(self._partial)
                self._partial = b""
        return lines

    def _is_another(self) -> bool:
        """Tell whether another file stands under the name now."""
        try:
            return self._path.stat().st_ino != self._inode
        except OSError:
            return False

    def _saved(self) -> tuple[int, int] | None:
        if self._position is None:
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            saved = json.loads(self._position.read_text(encoding="utf-8"))
            return int(saved["inode"]), int(saved["offset"])
        return None
