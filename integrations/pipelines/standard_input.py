"""`StandardInput`: its lines, read on a thread that holds nothing up."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import BinaryIO

from codomyrmex.integrations.pipelines.lines import LineSplitter

_CHUNK = 1 << 17
_AHEAD = 4  # chunks that are read before they are wanted


class StandardInput:
    """The lines of the standard input; one for a process, whichever source reads it.

    The thread is a daemon, as a read that waits for a terminal cannot be cancelled. What it has read stays
    here, so that a source that takes over from another one loses nothing.

    Args:
        stdin: what is read; that of the process if left out.
    """

    def __init__(self, stdin: BinaryIO | None = None) -> None:
        self._stdin = stdin
        self._chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue(_AHEAD)
        self._splitter = LineSplitter()
        self._begun = False
        self._ended = False

    @property
    def too_long(self) -> int:
        """Lines that were too long, and left out."""
        return self._splitter.too_long

    def open(self) -> None:
        """Begin to read.

        Raises:
            OSError: there is no standard input.
        """
        if self._begun:
            return
        stdin = self._stdin or sys.stdin
        try:
            descriptor = -1 if stdin is None else stdin.fileno()
        except (OSError, ValueError):
            descriptor = -1
        if descriptor < 0:
            raise OSError("the standard input is closed")
        self._begun = True
        arguments = (descriptor, asyncio.get_running_loop())
        threading.Thread(target=self._read, args=arguments, name="stdin", daemon=True).start()

    def _read(self, descriptor: int, loop: asyncio.AbstractEventLoop) -> None:
        chunk: bytes | OSError = b"-"
        while chunk and not isinstance(chunk, OSError):
            try:
                chunk = os.read(descriptor, _CHUNK)
            except OSError as error:
                chunk = error
            putting = self._chunks.put(chunk)
            try:
                asyncio.run_coroutine_threadsafe(putting, loop).result()
            except (RuntimeError, CancelledError):  # the loop is closed: nobody reads any more
                putting.close()
                return

    async def lines(self) -> list[bytes] | None:
        """Give the lines that have come, waiting for some; None at the end.

        Raises:
            OSError: it cannot be read any more.
        """
        if self._ended:
            return None
        return self._lines_of(await self._chunks.get())

    def lines_read(self) -> list[bytes]:
        """Give the lines that were read before they were wanted, without waiting."""
        lines: list[bytes] = []
        while not (self._ended or self._chunks.empty()):
            with suppress(OSError):
                lines += self._lines_of(self._chunks.get_nowait())
        return lines

    def _lines_of(self, chunk: bytes | OSError) -> list[bytes]:
        if isinstance(chunk, OSError):
            self._ended = True
            raise chunk
        if chunk:
            return self._splitter.feed(chunk)
        self._ended = True
        return self._splitter.rest()
