"""How the messages of a command are written.

`patient_messages` ensures that a stalled reader of stderr does not block a command. `without_log` suppresses
log messages that the command shows in its own way.
"""

from __future__ import annotations

import io
import logging
import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PATIENCE = 1.0  # seconds that a reader may take
_CHUNK = 4_096  # bytes that a pipe takes at once or not at all, if it takes any (`PIPE_BUF`)


class _Messages(io.RawIOBase):
    """Writes to a descriptor; what a stalled reader does not take in time is dropped and counted."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._patience = _PATIENCE
        self._dropped = 0

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Write everything, or drop the rest; return the number of bytes of `data`."""
        deadline = time.monotonic() + self._patience
        rest = bytes(data)
        if self._dropped and self._poll.poll(0):
            rest = b"[%d bytes of messages were dropped: nobody read them]\n" % self._dropped + rest
            self._patience, self._dropped = _PATIENCE, 0
        while rest:
            if not self._poll.poll(max(0.0, deadline - time.monotonic()) * 1_000):
                self._patience = 0.0  # once is enough
                self._dropped += len(rest)
                break
            try:
                rest = rest[os.write(self._descriptor, rest[:_CHUNK]) :]
            except BlockingIOError:  # another program has made the descriptor non-blocking
                time.sleep(0.001)
        return len(data)


@contextmanager
def patient_messages() -> Iterator[None]:
    """Let `sys.stderr` drop messages of this command rather than wait for a reader that has stalled."""
    original = sys.stderr
    if not hasattr(select, "poll"):  # Windows
        yield
        return
    try:
        messages = _Messages(original.fileno())
    except (OSError, ValueError):  # a test has replaced it
        yield
        return
    original.flush()
    buffer: Any = messages
    sys.stderr = io.TextIOWrapper(buffer, "utf-8", errors="backslashreplace", write_through=True)
    try:
        yield
    finally:
        sys.stderr.detach()
        sys.stderr = original


@contextmanager
def without_log(module: str, *beginnings: str) -> Iterator[None]:
    """Suppress the log messages of a module that begin with these texts; the command shows them itself."""

    def is_other(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(beginnings)

    logger = logging.getLogger(f"codomyrmex.integrations.{module}")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
