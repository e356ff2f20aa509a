"""`attach_blocking`: sinks for programs without an event loop, on a thread of their own."""

from __future__ import annotations

import asyncio
import atexit
import logging
import sys
import threading
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from codomyrmex.integrations.delivery.attachment import Attachment, AttemptObserver
from codomyrmex.integrations.delivery.dead_letters import DeadLetter, DeadLetters
from codomyrmex.integrations.delivery.health import SinkHealth
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.delivery.report import DrainReport, SinkReport
from codomyrmex.integrations.delivery.sink import Binding, InlineSink, Sink
from codomyrmex.integrations.delivery.waiting import GRACE
from codomyrmex.streaming import FilterFunction, Stream
from codomyrmex.streaming.forks import renew_in_children

T = TypeVar("T")

_SLACK = 10 * GRACE  # beyond the deadline, before the thread is left alone

_logger = logging.getLogger(__name__)

# A child process has copies of its parent's loops. They are kept, as to collect one would close what it
# shares with the parent.
_parents_loops: list[asyncio.AbstractEventLoop] = []


def attach_blocking(
    stream: Stream,
    *sinks: InlineSink | Sink | Binding,
    topic: str = "*",
    filter_fn: FilterFunction | None = None,
    policy: DeliveryPolicy | None = None,
    dead_letters: DeadLetters | Stream | None = None,
    health_stream: Stream | None = None,
) -> BlockingAttachment:
    """Do what `attach` does, for programs without an event loop: Flask, Django, Celery, scripts.

    `with attach_blocking(stream, AppriseChannel("ops", url)):`, and publish with
    `stream.publish_nowait(event)`. Queued sinks run on a thread of their own, inline sinks in the thread
    that publishes. Where no `with` fits, `start()` and `close()`; what is then not closed is drained when
    the interpreter ends.

    After a fork the child process has queues of its own and opens the sinks again when it publishes. What
    the parent has queued is sent by the parent only; the child says so once.

    Args:
        stream: where the events come from.
        *sinks: where they go, as for `attach`.
        topic: as for `attach`, like all that follows.
        filter_fn: as there.
        policy: as there.
        dead_letters: as there.
        health_stream: as there.

    Raises:
        ValueError: as for `attach`.
        TypeError: as for `attach`.
    """
    return BlockingAttachment(
        Attachment(
            stream,
            sinks,
            topic=topic,
            filter_fn=filter_fn,
            policy=policy,
            dead_letters=dead_letters,
            health_stream=health_stream,
            clock=None,
        )
    )


class BlockingAttachment:
    """Sinks tied to a stream, with a thread that delivers; made by `attach_blocking`."""

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._lock = threading.Lock()
        self._closing = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._running = False
        self._waiting_in_parent = 0

    def start(self) -> Self:
        """Open the sinks and begin; errors as for `Attachment.start`.

        Raises:
            RuntimeError: it was started before.
        """
        with self._lock:
            self._run_thread()
        try:
            self._call(self._attachment.start())
        except BaseException:
            self._end_thread()
            raise
        self._running = True
        renew_in_children(self, last=True)
        atexit.register(self.close)
        return self

    def close(self, timeout: float | None = None) -> DrainReport:
        """Take no more events, deliver what is queued, close the sinks, end the thread.

        May be called twice.

        Args:
            timeout: seconds for all sinks together; those of their policies if left out.

        Returns:
            What became of the events of each sink.

        Raises:
            RuntimeError: a sink has called it, on the thread that it would end.
        """
        self._refuse_own_thread()
        with self._closing:  # a second caller waits for the first
            atexit.unregister(self.close)
            self._running = False
            if self._thread is None:
                self._attachment.take_no_more()
                return self._attachment.report()
            limit = self._attachment.drain_limit(timeout) + _SLACK
            try:
                self._call(self._attachment.aclose(timeout), limit)
            except TimeoutError:
                _logger.warning("the thread that delivers does not end; it is left alone: a sink blocks it")
            finally:
                self._end_thread()
            return self._attachment.report()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was published before is delivered or given up; tell whether it is."""
        if self._thread is None:
            return True
        try:
            limit = None if timeout is None else timeout + GRACE
            return self._call(self._attachment.flush(timeout), limit)
        except TimeoutError:  # a sink blocks the thread
            return False

    def add(self, sink: InlineSink | Sink | Binding) -> None:
        """Attach another sink; errors as for `Attachment.add`."""
        self._ensure_thread()
        self._call(self._attachment.add(sink))

    def remove(self, sink: InlineSink | Sink | str, timeout: float | None = None) -> SinkReport:
        """Take a sink out; arguments, result and errors as for `Attachment.remove`."""
        self._ensure_thread()
        return self._call(self._attachment.remove(sink, timeout))

    def replay(self, dead_letters: DeadLetters | Stream | Iterable[DeadLetter]) -> int:
        """Queue dead letters again; arguments, result and errors as for `Attachment.replay`."""
        self._ensure_thread()
        return self._call(self._attachment.replay(dead_letters))

    def report(self) -> DrainReport:
        """Give the numbers up to now; what is still queued counts as lost until it is delivered."""
        return self._attachment.report()

    def health(self) -> Mapping[str, SinkHealth]:
        """Tell, for each sink by its name, how it is now."""
        return self._attachment.health()

    def on_attempt(self, observer: AttemptObserver) -> None:
        """Have a function called after each attempt, on the thread that delivers."""
        self._attachment.on_attempt(observer)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # The thread

    def _run_thread(self) -> None:
        """Start the thread with its loop; the caller holds the lock."""
        ready: Future[asyncio.AbstractEventLoop] = Future()

        def run() -> None:
            try:
                runner = asyncio.Runner()
                loop = runner.get_loop()
            except Exception as error:  # noqa: BLE001 - too many open files, say; told where it is waited for
                ready.set_exception(error)
                return
            with runner:
                ready.set_result(loop)
                loop.run_forever()

        if self._thread is not None:
            raise RuntimeError("an attachment is started once; attach again for another one")
        self._thread = threading.Thread(target=run, name="codomyrmex delivery", daemon=True)
        try:
            self._thread.start()
            self._loop = ready.result()
        except BaseException:
            self._thread = None
            raise

    def _end_thread(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
            loop, self._loop = self._loop, None
        if thread is None or loop is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_SLACK)

    def _call(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run something on the thread that delivers, and wait for it."""
        loop = self._loop
        try:
            self._refuse_own_thread()
            if loop is None:
                raise RuntimeError("the attachment does not run: it was not started, or it is closed")  # noqa: TRY301
            future: Future[T] = asyncio.run_coroutine_threadsafe(work, loop)
        except BaseException:
            work.close()
            raise
        try:
            return future.result(None if timeout is None or timeout > threading.TIMEOUT_MAX else timeout)
        except BaseException:
            future.cancel()
            raise

    def _refuse_own_thread(self) -> None:
        if self._thread is threading.current_thread():
            raise RuntimeError("a sink cannot wait for the thread that it runs on")

    # Forks

    def after_fork(self) -> None:
        """Begin anew in a child process, with empty queues and without a thread."""
        if self._loop is not None:
            _parents_loops.append(self._loop)
        self._lock, self._closing = threading.Lock(), threading.Lock()
        self._loop = self._thread = None
        if self._running:
            self._waiting_in_parent = self._attachment.renew_after_fork(self._ensure_thread)

    def _ensure_thread(self) -> None:
        """Start the thread in a child process, where the first event wants to be delivered."""
        with self._lock:
            if self._thread is not None or not self._running:
                return
            try:
                self._run_thread()
            except Exception:
                _logger.exception("no thread could be started in this process; what is queued waits")
                return
            loop = self._loop
        _logger.warning(
            "this process was forked from one with attached sinks: its queues are empty and its own; the %d "
            "events that waited then are sent by the parent process",
            self._waiting_in_parent,
        )
        if loop is not None:
            asyncio.run_coroutine_threadsafe(self._attachment.resume(), loop)
        processes = sys.modules.get("multiprocessing.util")
        if processes is not None:  # its children end without what `atexit` has
            processes.Finalize(None, self.close, exitpriority=100)
