"""`LineOutput`: whole lines to a pipe, a terminal or a socket whose other end may be slow or gone."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from codomyrmex.integrations.delivery.errors import (
    DeliveryError,
    PartialDeliveryError,
    PermanentError,
    RetryableError,
)
from codomyrmex.streaming import Event

_CHUNK = 4_096  # bytes that a pipe takes at once or not at all, if it takes any (`PIPE_BUF`)
_LOOK = 100  # milliseconds between two checks for `abort`
_ABORT_TIMEOUT = 1.0  # seconds


class LineOutput:
    """Writes lines to a file descriptor, waiting for the other end without ever blocking in a write.

    The descriptor may be shared with other processes, and one of them may have made it non-blocking, so its
    flags are neither trusted nor changed. If a write ends within a line, its end is written first the next
    time, and the line is not repeated.

    Args:
        descriptor: is closed by `close`.

    Attributes:
        written: how many lines the last `write` has written.
    """

    def __init__(self, descriptor: int) -> None:
        self.written = 0
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._rest = b""  # the unwritten part of an incomplete line
        self._begun = ""  # the key of that line
        self._sent = 0
        self._aborted = threading.Event()

    def write(self, lines: Sequence[tuple[str, bytes]]) -> None:
        """Write lines, each with its line break, until `abort` is called.

        Args:
            lines: each with a key that identifies it if it is written again.

        Raises:
            OSError: a write has failed; `written` lines were written before.
        """
        if self._rest:
            try:
                if not self._send(self._rest):
                    return
            finally:
                self._rest = self._rest[self._sent :]
            self.written = int(bool(lines) and lines[0][0] == self._begun)
        missing = lines[self.written :]
        try:
            self._send(b"".join([line for _, line in missing]))
        finally:
            self._count(missing)

    def _send(self, data: bytes) -> bool:
        self._sent = 0
        while self._sent < len(data):
            if self._aborted.is_set():
                return False
            if self._poll.poll(_LOOK):
                with suppress(BlockingIOError):
                    self._sent += os.write(self._descriptor, data[self._sent : self._sent + _CHUNK])
        return True

    def _count(self, lines: Sequence[tuple[str, bytes]]) -> None:
        sent = self._sent
        for key, line in lines:
            if sent < len(line):
                if sent:
                    self._begun, self._rest = key, line[sent:]
                return
            sent -= len(line)
            self.written += 1

    def begin(self) -> None:
        """Prepare for `write`: an earlier `abort` no longer counts."""
        self.written = 0
        self._aborted.clear()

    def abort(self) -> None:
        """End the write that another thread has begun, or is about to."""
        self._aborted.set()

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


async def write_lines(
    output: LineOutput,
    name: str,
    events: Sequence[Event],
    encode: Callable[[Event], bytes],
    on_broken_pipe: Callable[[], None] | None,
) -> None:
    """Write a line for each event, in a thread.

    Args:
        output: where to write.
        name: its name, for errors.
        events: the events.
        encode: returns the line of an event.
        on_broken_pipe: called if there is no reader.

    Raises:
        PermanentError: there is no reader.
        RetryableError: a write has failed, or was cancelled before the first line was written.
        PartialDeliveryError: likewise, after the first line was written.
    """
    output.begin()
    writing = asyncio.ensure_future(
        in_daemon_thread(lambda: output.write([(event.id, encode(event)) for event in events]))
    )
    error: DeliveryError
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        output.abort()
        await asyncio.wait({writing}, timeout=_ABORT_TIMEOUT)
        if not writing.done() or not output.written:
            raise
        error = RetryableError(f"{name} has no reader")
    except BrokenPipeError:
        if on_broken_pipe is not None:
            on_broken_pipe()
        error = PermanentError(f"the reader of {name} is gone")
    except OSError as problem:
        error = RetryableError(f"{name} cannot be written: {problem.strerror}")
    else:
        return
    if not output.written:
        raise error
    if output.written < len(events):
        raise PartialDeliveryError({event.id: error for event in events[output.written :]})


def in_daemon_thread(call: Callable[[], object]) -> asyncio.Future[None]:
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

    threading.Thread(target=run, name="lines", daemon=True).start()
    return done
