"""`StandardInput`: the lines of the standard input, read on a thread so that the event loop never waits."""

from __future__ import annotations

import asyncio
import os
import select
import sys
import threading
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import BinaryIO

from codomyrmex.integrations.service_mesh.lines import LineSplitter

_CHUNK = 1 << 17
_READ_AHEAD = 4  # chunks


class StandardInput:
    """The lines of the standard input.

    They are read on a daemon thread, because a read that waits for a terminal cannot be cancelled. What was
    read ahead stays here, so that a source that replaces another one misses nothing.

    Args:
        stdin: a binary file with a descriptor; `sys.stdin` by default.
    """

    def __init__(self, stdin: BinaryIO | None = None) -> None:
        self._stdin = stdin
        self._chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue(_READ_AHEAD)
        self._splitter = LineSplitter()
        self._started = False
        self._ended = False

    @property
    def too_long(self) -> int:
        """How many lines were skipped because they are too long."""
        return self._splitter.too_long

    def open(self) -> None:
        """Start to read.

        Raises:
            OSError: there is no standard input.
        """
        if self._started:
            return
        stdin = self._stdin or sys.stdin
        try:
            descriptor = -1 if stdin is None else stdin.fileno()
        except (OSError, ValueError):
            descriptor = -1
        if descriptor < 0:
            raise OSError("the standard input is closed")
        self._started = True
        arguments = (descriptor, asyncio.get_running_loop())
        threading.Thread(target=self._read, args=arguments, name="stdin", daemon=True).start()

    def _read(self, descriptor: int, loop: asyncio.AbstractEventLoop) -> None:
        chunk: bytes | OSError = b"-"
        while chunk and not isinstance(chunk, OSError):
            try:
                chunk = os.read(descriptor, _CHUNK)
            except BlockingIOError:  # another program has made the descriptor non-blocking
                select.select([descriptor], [], [])
                continue
            except OSError as error:
                chunk = error
            putting = self._chunks.put(chunk)
            try:
                asyncio.run_coroutine_threadsafe(putting, loop).result()
            except (RuntimeError, CancelledError):  # the loop is closed
                putting.close()
                return

    async def lines(self) -> list[bytes] | None:
        """Wait for lines and return them; None at the end.

        Raises:
            OSError: the standard input cannot be read.
        """
        if self._ended:
            return None
        return self._split(await self._chunks.get())

    def lines_nowait(self) -> list[bytes]:
        """Return the lines that were read ahead."""
        lines: list[bytes] = []
        while not (self._ended or self._chunks.empty()):
            with suppress(OSError):
                lines += self._split(self._chunks.get_nowait())
        return lines

    def _split(self, chunk: bytes | OSError) -> list[bytes]:
        if isinstance(chunk, OSError):
            self._ended = True
            raise chunk
        if chunk:
            return self._splitter.feed(chunk)
        self._ended = True
        return self._splitter.flush()
