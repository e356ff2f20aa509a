"""`Worker`, the delivery to one sink, and `InlineWorker`, which calls its sink during publish."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from time import time
from typing import Any

from codomyrmex.integrations.delivery.errors import DroppedError
from codomyrmex.integrations.delivery.health import (
    ABOUT_ITSELF,
    FORKED,
    INTERRUPTED,
    SinkHealth,
    SinkReport,
    SinkState,
    origin_for,
)
from codomyrmex.integrations.delivery.secrets import LazyTraceback, describe
from codomyrmex.integrations.delivery.sink import InlineSink, Sink
from codomyrmex.streaming import Clock, Event
from codomyrmex.streaming.counters import Counter
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.provenance import ORIGIN, cause, marked, origin_of

GRACE = 0.2  # seconds of real time for things that should take none
_CANCEL_GRACE = 5 * GRACE  # seconds for a `close()` that was cancelled

_log = Diagnostics(__name__)


class Worker(ABC):
    """The delivery of a stream's events to one sink, with its counters.

    `handle`, `drop`, `report` and `health` may be called from any thread, everything else on the event loop
    of the delivery.

    Args:
        sink: where the events go.
        drain_timeout: seconds that `stop` takes at most by default.
    """

    def __init__(self, sink: InlineSink | Sink, drain_timeout: float) -> None:
        self.sink = sink
        self.name = sink.name
        self.drain_timeout = drain_timeout
        self.origin = origin_for(sink)
        self.capacity = 0
        self.opened = False
        self.closing: asyncio.Future[None] | None = None
        self.reset()

    def reset(self) -> None:
        """Set all counters to zero, as in a child process: the counts belong to its parent."""
        self.state = SinkState.OK
        self.last_error: str | None = None
        self.last_success = 0.0  # seconds since 1970
        self._drops: dict[str, Counter] = {}

    @abstractmethod
    def handle(self, event: Event) -> object:
        """Deliver or queue an event of the stream; returns what an awaited publish waits for, or None."""

    @abstractmethod
    async def start(self) -> None:
        """Open the sink and begin to deliver."""

    @abstractmethod
    def flush(self) -> asyncio.Future[None] | None:
        """Deliver without waiting for full batches; returns a future unless there is nothing to do."""

    @abstractmethod
    async def stop(self, timeout: float | None) -> None:  # noqa: ASYNC109 - counted by the clock
        """Deliver what is queued, for at most `timeout` or `drain_timeout` seconds, and close the sink."""

    @abstractmethod
    def abort(self) -> None:
        """End the delivery now: `stop`, running or called later, only closes the sink."""

    @abstractmethod
    def after_fork(self) -> None:
        """Disable itself in a child process, where the sink and its event loop are the parent's."""

    @abstractmethod
    def restart_after_fork(self, start: Callable[[], None]) -> None:
        """Begin again in a child process; the first event calls `start`."""

    @abstractmethod
    def report(self) -> SinkReport:
        """Return the balance up to now; queued events count as lost."""

    def waiting(self) -> tuple[int, int, float]:
        """Return the number of events queued and in flight, and the age of the oldest in seconds."""
        return 0, 0, 0.0

    def health(self) -> SinkHealth:
        """Return the current health."""
        report = self.report()
        queued, in_flight, oldest_age = self.waiting()
        return SinkHealth(
            state=self.state,
            queued=queued,
            in_flight=in_flight,
            delivered=report.delivered,
            retried=report.retried,
            dropped=report.dropped,
            dead=report.given_up,
            last_error=self.last_error,
            last_success=datetime.fromtimestamp(self.last_success, UTC) if self.last_success else None,
            oldest_age=oldest_age,
            capacity=self.capacity,
        )

    def drop(self, reason: str) -> None:
        """Count an event that does not reach the sink."""
        self._drops.setdefault(reason, Counter()).tick()

    def drops(self) -> dict[str, int]:
        """Return the dropped events by reason."""
        return {reason: counter.value() for reason, counter in list(self._drops.items())}

    def warn(self, message: str, *args: object, error: BaseException | None = None) -> None:
        """Log a warning, rate-limited by message.

        Args:
            message: a %-format whose first value is the name of the sink.
            *args: its other values.
            error: an exception to describe at the end and to keep as `last_error`.
        """
        if error is not None:
            self.last_error = describe(error)
            message, args = f"{message}: %s", (*args, self.last_error)
        _log.warning(f"{self.name}: {message}", message, self.name, *args)

    async def close_sink(self, limit: float) -> None:
        """Close the sink if it is open, within about `limit` seconds."""
        if not self.opened:
            return
        self.opened = False
        closing = self.closing = asyncio.ensure_future(self.sink.close())
        try:
            await asyncio.wait({closing}, timeout=max(limit, GRACE))
            if not closing.done():
                closing.cancel()
                await asyncio.wait({closing}, timeout=_CANCEL_GRACE)
        finally:
            if not closing.done():
                closing.cancel()
                self.warn("sink %s: close() ignores its cancellation and is left running")
            elif not closing.cancelled() and (error := closing.exception()) is not None:
                self.warn("sink %s: close() failed", error=error)


class InlineWorker(Worker):
    """Calls an inline sink during publish."""

    sink: InlineSink

    def __init__(self, sink: InlineSink) -> None:
        self._emit: Callable[[Event], None] = sink.emit
        super().__init__(sink, sink.drain_timeout)

    def reset(self) -> None:
        super().reset()
        self._handled = Counter()
        self._failed = Counter()

    # The hot path: one look for the rare origin, one call, one count. Events that were not delivered are
    # counted in addition and subtracted.
    def handle(self, event: Event) -> None:
        try:
            next(self._handled.steps)
            if ORIGIN in event.metadata:
                self._emit_caused(event)
            else:
                self._emit(event)
            self.last_success = time()
        except DroppedError as error:
            self.drop(str(getattr(error, "reason", None) or type(error).__name__))
        except Exception as error:  # noqa: BLE001 - a failing sink must not affect the publisher
            self._failed.tick()
            self.last_error = describe(error)
            message = "sink %s: event %s was not delivered: %s\n%s"
            _log.warning(self.name, message, self.name, event.id, self.last_error, LazyTraceback(error))
        except BaseException:
            self.drop(INTERRUPTED)
            raise

    def _emit_caused(self, event: Event) -> None:
        """Emit an event that has an origin, so that its consequences do not lead back to it."""
        origin = origin_of(event) or ""
        if self.origin in origin.split():
            raise DroppedError(ABOUT_ITSELF)
        token = cause.set(marked(origin) if origin else cause.get())
        try:
            self._emit(event)
        finally:
            cause.reset(token)

    async def start(self) -> None:
        await self.sink.open()
        self.opened = True

    def flush(self) -> asyncio.Future[None] | None:
        if not self.opened or type(self.sink).flush is InlineSink.flush:
            return None
        return asyncio.ensure_future(self._flush())

    async def _flush(self) -> None:
        try:
            await self.sink.flush()
        except Exception as error:  # noqa: BLE001 - as above
            self.warn("sink %s: flush() failed", error=error)

    async def stop(self, timeout: float | None) -> None:  # noqa: ASYNC109 - as above
        self.state = SinkState.CLOSED
        await self.close_sink(self.drain_timeout if timeout is None else timeout)

    def abort(self) -> None:
        if self.closing is not None:
            self.closing.cancel()

    def after_fork(self) -> None:
        self.reset()
        if self.opened and type(self.sink).open is not InlineSink.open:
            self._emit = _refuse  # whatever runs behind the sink runs in the parent

    def restart_after_fork(self, start: Callable[[], None]) -> None:
        self.reset()
        if not self.opened:
            return
        self.opened, self.closing = False, None

        def first_emit(event: Event) -> None:
            self._emit = self.sink.emit
            start()
            self._emit(event)

        self._emit = first_emit

    def report(self) -> SinkReport:
        drops, failed = self.drops(), self._failed.value()
        return SinkReport(self._handled.value() - failed - sum(drops.values()), failed, drops, 0)


def _refuse(_: Event) -> None:
    raise DroppedError(FORKED)


async def done_within(future: asyncio.Future[Any], seconds: float | None, clock: Clock) -> bool:
    """Wait for a future without cancelling it, and return whether it is done.

    Args:
        future: a task or a future of the running loop.
        seconds: the limit; None waits forever.
        clock: what measures the seconds.
    """
    if seconds is not None and seconds <= 0:
        await asyncio.sleep(0)
        return future.done()
    over = asyncio.get_running_loop().create_future()

    def stop_waiting(_: object = None) -> None:
        resolve(over)

    future.add_done_callback(stop_waiting)
    timer = None if seconds is None else clock.call_later(seconds, stop_waiting)
    try:
        await over
    finally:
        if timer is not None:
            timer.cancel()
        future.remove_done_callback(stop_waiting)
    return future.done()


def resolve(future: asyncio.Future[None]) -> None:
    """Complete a future unless it is done already."""
    with suppress(RuntimeError):  # its loop is closed, so nothing waits for it
        if not future.done():
            future.set_result(None)
