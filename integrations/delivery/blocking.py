"""`attach_blocking`: sinks for programs without an event loop, delivered on a separate thread."""

from __future__ import annotations

import asyncio
import atexit
import logging
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from codomyrmex.integrations.delivery.attachment import Attachment
from codomyrmex.integrations.delivery.dead_letters import DeadLetter, DeadLetters
from codomyrmex.integrations.delivery.forks import keep_in_children
from codomyrmex.integrations.delivery.health import DrainReport, SinkHealth, SinkReport, SinkState
from codomyrmex.integrations.delivery.loop_thread import LoopThread, call_at_exit
from codomyrmex.integrations.delivery.observers import AttemptObserver, SendHook
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.delivery.queued import QueuedWorker
from codomyrmex.integrations.delivery.sink import AttachOptions, Binding, InlineSink, Sink
from codomyrmex.integrations.delivery.worker import GRACE
from codomyrmex.streaming import FilterFunction, Stream
from codomyrmex.streaming.forks import renew_in_children

T = TypeVar("T")

_THREADS = "codomyrmex delivery"  # the name of the thread, and the beginning of those of its pool
_THREAD_GRACE = 10 * GRACE  # seconds beyond a deadline before the thread is left running

_logger = logging.getLogger(__name__)

# What drains at the end of the program.
_running: set[BlockingAttachment] = set()


def attach_blocking(
    stream: Stream,
    *sinks: InlineSink | Sink | Binding,
    topic: str = "*",
    filter_fn: FilterFunction | None = None,
    policy: DeliveryPolicy | None = None,
    dead_letters: DeadLetters | Stream | None = None,
    health_stream: Stream | None = None,
) -> BlockingAttachment:
    """Deliver a stream's events to sinks as `attach` does, without a loop: Flask, Django, Celery, scripts.

    `with attach_blocking(stream, AppriseChannel("ops", url)):`, and publish with
    `stream.publish_nowait(event)`; or call `start()` and `close()`. An attachment that is not closed is
    drained when the interpreter exits. Queued sinks run on a separate thread, inline sinks in the thread that
    publishes.

    After a fork, the child process has its own queues and opens the sinks again when it publishes its first
    event. Events that the parent has queued are sent by the parent only; the child logs this once. On a
    durable stream, parent and children share the events, and one of them at a time delivers to a sink.

    Args:
        stream: where the events come from.
        *sinks: where they go, as for `attach`.
        topic: as for `attach`.
        filter_fn: as for `attach`.
        policy: as for `attach`.
        dead_letters: as for `attach`.
        health_stream: as for `attach`.

    Raises:
        ValueError: as for `attach`.
        TypeError: as for `attach`.
    """
    options = AttachOptions(
        topic=topic,
        filter_fn=filter_fn,
        policy=policy,
        dead_letters=dead_letters,
        health_stream=health_stream,
    )
    return BlockingAttachment(_ThreadedAttachment(stream, sinks, options))


class _ThreadedAttachment(Attachment):
    """An attachment whose delivery starts again in a child process."""

    def after_fork(self) -> None:
        """Do nothing: `BlockingAttachment` restarts it."""

    def unsubscribe(self) -> None:
        """Accept no more events and no more sinks."""
        self._unsubscribe()

    def restart_after_fork(self, start: Callable[[], None]) -> int | None:
        """Begin again in a child process; the first event calls `start`.

        Returns:
            How many events are queued in the parent process, which delivers them; None if there are no
            queues, because the events are in a durable stream.
        """
        workers = [member.worker for member in self._members.values()]
        queues = [worker for worker in workers if isinstance(worker, QueuedWorker)]
        queued = sum(worker.report().lost for worker in queues) if queues else None
        self._removed = {}
        self._drain_task = None
        for member in self._members.values():
            member.worker.restart_after_fork(start)
        return queued

    async def resume(self) -> None:
        """Open the sinks again in a child process; one that cannot be opened is opened again later."""
        self._resuming = asyncio.current_task()
        keep_in_children(asyncio.get_running_loop())
        for member in tuple(self._members.values()):
            await member.worker.start(retry=True)

    def fail_to_resume(self, error: BaseException) -> None:
        """Note that there is no thread that could open the sinks in a child process."""
        for member in tuple(self._members.values()):
            member.worker.state = SinkState.NOT_OPEN
            member.worker.warn("sink %s: it has no thread in this process; events stay queued", error=error)


class BlockingAttachment:
    """Sinks that are attached to a stream, with a thread that delivers; returned by `attach_blocking`."""

    def __init__(self, attachment: _ThreadedAttachment) -> None:
        self._attachment = attachment
        self._lock = threading.Lock()
        self._closing = threading.Lock()
        self._thread: LoopThread | None = None
        self._running = False
        self._queued_in_parent: int | None = None

    def start(self) -> Self:
        """Start the thread, open the sinks and begin to deliver; errors as for `Attachment.start`.

        Raises:
            RuntimeError: it was started before.
        """
        with self._lock:
            self._start_thread()
        try:
            self._call(self._attachment.start())
        except BaseException:
            self._end_thread()
            raise
        self._running = True
        renew_in_children(self, last=True)
        self._close_at_exit()
        return self

    def close(self, timeout: float | None = None) -> DrainReport:
        """Accept no more events, deliver what is queued, close the sinks and end the thread.

        May be called repeatedly.

        Args:
            timeout: seconds for all sinks together; by default the drain timeout of each policy.

        Returns:
            The balance of each sink.

        Raises:
            RuntimeError: it was called by a sink, on the thread that would end.
        """
        self._check_thread()
        with self._closing:  # a second caller waits for the first
            atexit.unregister(self.close)
            _running.discard(self)
            self._running = False
            if self._thread is None:
                self._attachment.unsubscribe()
                return self.report()
            limit = (self._attachment.drain_timeout if timeout is None else timeout) + _THREAD_GRACE
            try:
                self._call(self._attachment.aclose(timeout), limit)
            except TimeoutError:
                _logger.warning("the delivery thread did not end and is left running: a sink blocks it")
            finally:
                self._end_thread()
            return self.report()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all events published so far are delivered or given up, and return whether they are."""
        if self._thread is None:
            return True
        try:
            return self._call(self._attachment.flush(timeout), None if timeout is None else timeout + GRACE)
        except TimeoutError:  # a sink blocks the thread
            return False

    def add(self, sink: InlineSink | Sink | Binding) -> None:
        """Attach another sink; errors as for `Attachment.add`."""
        self._ensure_thread()
        self._call(self._attachment.add(sink))

    def remove(self, sink: InlineSink | Sink | str, timeout: float | None = None) -> SinkReport:
        """Detach a sink; arguments, result and errors as for `Attachment.remove`."""
        self._ensure_thread()
        return self._call(self._attachment.remove(sink, timeout))

    def replay(self, dead_letters: DeadLetters | Stream | Iterable[DeadLetter] | None = None) -> int:
        """Queue dead letters again; arguments, result and errors as for `Attachment.replay`."""
        self._ensure_thread()
        return self._call(self._attachment.replay(dead_letters))

    def report(self) -> DrainReport:
        """Return the balance up to now; queued events count as lost until they are delivered."""
        return self._attachment.report()

    def health(self) -> Mapping[str, SinkHealth]:
        """Return the current health of each sink by name. May be called from any thread."""
        return self._attachment.health()

    def reports_to(self, stream: Stream) -> bool:
        """Return whether the health of the sinks is reported, as `Attachment.reports_to`."""
        return self._attachment.reports_to(stream)

    def on_attempt(self, observer: AttemptObserver) -> None:
        """Call a function after each attempt, on the delivery thread; see `Attachment.on_attempt`."""
        self._attachment.on_attempt(observer)

    def on_send(self, hook: SendHook) -> None:
        """Enter a context manager around each `sink.send(events)`; see `Attachment.on_send`."""
        self._attachment.on_send(hook)

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

    def _start_thread(self) -> LoopThread:
        """Start the thread and its event loop; the caller holds the lock."""
        if self._thread is not None:
            raise RuntimeError("attachment: it can be started only once; attach again")
        self._thread = LoopThread(_THREADS)
        return self._thread

    def _end_thread(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop(_THREAD_GRACE)

    def _call(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine on the thread, and wait for its result."""
        thread = self._thread
        try:
            self._check_thread()
            if thread is None:
                raise RuntimeError("attachment: it is not running; call start() or attach again")  # noqa: TRY301
        except BaseException:
            coroutine.close()
            raise
        future = thread.submit(coroutine)
        try:
            return future.result(None if timeout is None or timeout > threading.TIMEOUT_MAX else timeout)
        except BaseException:
            future.cancel()
            raise

    def _check_thread(self) -> None:
        if self._thread is not None and self._thread.is_current():
            raise RuntimeError("attachment: a sink cannot wait for the thread that it runs on")

    # Forks

    def after_fork(self) -> None:
        """Begin again in a child process, with empty queues and without a thread."""
        self._lock, self._closing = threading.Lock(), threading.Lock()
        self._thread = None
        if self._running:
            self._queued_in_parent = self._attachment.restart_after_fork(self._ensure_thread)

    def _ensure_thread(self) -> None:
        """Start the thread in a child process when there is something to deliver."""
        with self._lock:
            if self._thread is not None or not self._running:
                return
            try:
                thread = self._start_thread()
            except Exception as error:  # noqa: BLE001 - such as too many open files; health has it
                self._attachment.fail_to_resume(error)
                return
        if self._queued_in_parent is not None:
            _logger.warning(
                "this process was forked while sinks were attached: it has its own, empty queues; the %d "
                "events that were queued are sent by the parent process",
                self._queued_in_parent,
            )
        thread.submit(self._attachment.resume())
        processes = sys.modules.get("multiprocessing.util")
        if processes is not None:  # its children exit without calling `atexit` functions
            processes.Finalize(None, self.close, exitpriority=100)

    # The end of the program

    def _close_at_exit(self) -> None:
        _running.add(self)
        atexit.register(self.close)

    def drain_at_exit(self, *, last: bool) -> None:
        """Deliver what is queued when the main thread has ended, and close if no other thread publishes."""
        if last:
            self.close()
        else:
            self.flush(self._attachment.drain_timeout)


def _drain_at_exit() -> None:
    me = threading.current_thread()
    others = [thread for thread in threading.enumerate() if not (thread.daemon or thread is me)]
    last = all(thread.name.startswith(_THREADS) for thread in others)
    for attachment in tuple(_running):
        attachment.drain_at_exit(last=last)


call_at_exit(_drain_at_exit)
