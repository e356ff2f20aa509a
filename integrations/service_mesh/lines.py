"""`LineSplitter`: the lines in bytes that come in chunks."""

from __future__ import annotations

MAX_LINE = 1 << 24  # bytes; a longer line is skipped


class LineSplitter:
    """Splits bytes into lines, the same ones however the bytes are cut into chunks.

    A line longer than the maximum is skipped and takes no memory.

    Args:
        max_line: the maximum in bytes, without the line break.

    Attributes:
        pending: bytes since the last line break.
        too_long: how many lines were skipped.
    """

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self._max_line = max_line
        self._partial = bytearray()  # grows in place, however small the chunks are
        self.pending = 0
        self.too_long = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that a chunk completes."""
        first, *lines = chunk.split(b"\n")
        self._extend(first)
        if not lines:
            return []
        last = lines.pop()
        completed = [*self._end(), *lines]
        self._extend(last)
        if len(chunk) > self._max_line:
            found = len(completed)
            completed = [line for line in completed if len(line) <= self._max_line]
            self.too_long += found - len(completed)
        return completed

    def flush(self) -> list[bytes]:
        """Return the last line, if it has no end."""
        return self._end() if self.pending else []

    def _extend(self, part: bytes) -> None:
        fits = self.pending <= self._max_line
        self.pending += len(part)
        if self.pending <= self._max_line:
            self._partial += part
        elif fits:
            self.too_long += 1
            self._partial.clear()

    def _end(self) -> list[bytes]:
        line = [bytes(self._partial)] if self.pending <= self._max_line else []
        self._partial.clear()
        self.pending = 0
        return line
