"""`Worker`, the delivery to one sink, and helpers that wait with a limit."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.errors import DeliveryError, RetryableError
from codomyrmex.integrations.delivery.health import (
    FILTER_FAILED,
    LOSING_FOR,
    LOSSES,
    SinkHealth,
    SinkReport,
    SinkState,
    origin_for,
)
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.delivery.sink import InlineSink, Sink
from codomyrmex.streaming import Clock, Event, FilterFunction, Subscription
from codomyrmex.streaming.counters import Counter
from codomyrmex.streaming.errors import MUST_PASS

GRACE = 0.2  # seconds of real time for things that should take none
_CANCEL_GRACE = 5 * GRACE  # seconds for a `close()` that was cancelled

_LATEST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()

_log = Diagnostics(__name__)


class Worker(ABC):
    """The delivery of a stream's events to one sink, with its counters.

    `handle`, `drop`, `report` and `health` may be called from any thread, everything else on the event loop
    of the delivery.

    Attributes:
        group: on a durable stream, the group of consumers that reads the events; elsewhere empty.

    Args:
        sink: where the events go.
        drain_timeout: seconds that `stop` takes at most by default.
        policy: how it is opened, among others.
        clock: the source of time.
    """

    group = ""

    def __init__(
        self, sink: InlineSink | Sink, drain_timeout: float, policy: DeliveryPolicy, clock: Clock
    ) -> None:
        self.sink = sink
        self.name = sink.name
        self.drain_timeout = drain_timeout
        self.origin = origin_for(sink)
        self.capacity = 0
        self.opened = False
        self.closing: asyncio.Future[None] | None = None
        self._policy = policy
        self._clock = clock
        self._now = clock.monotonic
        self._missed = False
        self.reset()
        self.state = SinkState.NOT_STARTED

    def reset(self) -> None:
        """Set all counters to zero, as in a child process: the counts belong to its parent."""
        self.state = SinkState.OK
        self.last_error: str | None = None
        self.last_success = 0.0  # seconds since 1970
        self._last_loss: float | None = None  # in seconds of the clock
        self._next_attempt = -math.inf
        self._drops: dict[str, Counter] = {}

    @abstractmethod
    def handle(self, event: Event) -> object:
        """Deliver or queue an event of the stream; returns what an awaited publish waits for, or None."""

    def handler(self, filter_fn: FilterFunction | None) -> Callable[[Event], object]:
        """Return `handle`, behind a filter: an event whose filter raises counts as lost."""
        if filter_fn is None:
            return self.handle
        passes = Subscription(filter_fn=filter_fn).passes

        def handle_filtered(event: Event) -> object:
            try:
                passed = passes(event)
            except MUST_PASS:
                raise
            except BaseException as error:
                self.last_error = describe(error)
                self.drop_unhandled(FILTER_FAILED)
                raise
            return self.handle(event) if passed else None

        return handle_filtered

    def drop_unhandled(self, reason: str) -> None:
        """Count an event as dropped that `handle` was not called with."""
        self.drop(reason)

    async def start(self, *, retry: bool = False) -> None:
        """Open the sink and begin to deliver.

        Args:
            retry: open it again in the background if that fails, whatever the policy says.

        Raises:
            DeliveryError: it did not open within the timeout of the policy.
            Exception: raised by `open`, unless the policy is to retry.
        """
        self.state = SinkState.NOT_OPEN
        self._accept()
        try:
            await self._open()
        except MUST_PASS:
            raise
        except BaseException as error:
            if not (retry or self._policy.open == "retry"):
                error.add_note(f"sink {self.name}: open() failed")
                raise
            self.warn("sink %s: open() failed and will be retried", error=error)
        if self.state is SinkState.NOT_OPEN:  # it may have been stopped in the meantime
            self._begin()

    async def _open(self) -> None:
        timeout = self._policy.timeout
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                await without_exit("open", self.sink.open)
        except TimeoutError:
            if not limit.expired():
                raise  # the sink's own
            raise DeliveryError(f"sink {self.name}: open() did not finish within {timeout:g}s") from None
        self.opened = True

    @abstractmethod
    def _accept(self) -> None:
        """Hold the events that are published from now on until the sink is open."""

    @abstractmethod
    def _begin(self) -> None:
        """Begin to deliver, or to open the sink in the background if it is not open."""

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
            state=self.visible_state(),
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
            last_loss=None if self._last_loss is None else self._calendar(self._last_loss),
            next_attempt=self._calendar(until) if (until := self._until()) > self._now() else None,
        )

    def visible_state(self) -> SinkState:
        """Return the state, in which a loss shows even if the sink works."""
        if self.state is not SinkState.OK or self._last_loss is None:
            return self.state
        recent = self._now() - self._last_loss < LOSING_FOR
        return SinkState.LOSING if recent else SinkState.DEGRADED

    def _until(self) -> float:
        """Return until when the sink is not called, in seconds of the clock."""
        return self._next_attempt

    def _calendar(self, moment: float) -> datetime:
        """Return the calendar time of a moment in seconds of the clock."""
        seconds = self._clock.time() + moment - self._now()
        return datetime.fromtimestamp(min(seconds, _LATEST), UTC)  # a policy may wait for ever

    def drop(self, reason: str) -> None:
        """Count an event that does not reach the sink."""
        if reason in LOSSES:
            self._last_loss = (
                self._now()
            )  # before it is counted, so that no loss shows while the sink is `OK`
            if self.last_error is None:
                self.last_error = f"events are dropped: {reason}"
        self._drops.setdefault(reason, Counter()).tick()

    def _miss(self) -> None:
        """Log once that the attachment was not started."""
        if not self._missed:
            self._missed = True
            self.warn(
                "sink %s: events are dropped: not started; use `async with` (`with` for attach_blocking)"
            )

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
        closing = self.closing = asyncio.ensure_future(without_exit("close", self.sink.close))
        try:
            await asyncio.wait({closing}, timeout=max(limit, GRACE))
            if not closing.done():
                closing.cancel()
                await asyncio.wait({closing}, timeout=_CANCEL_GRACE)
        finally:
            if not closing.done():
                closing.cancel()
                closing.add_done_callback(retrieve_error)
                self.warn("sink %s: close() ignores its cancellation and is left running")
            elif not closing.cancelled() and (error := closing.exception()) is not None:
                self.warn("sink %s: close() failed", error=error)


async def without_exit(name: str, method: Callable[..., Awaitable[None]], *args: object) -> None:
    """Call a method of a sink: `sys.exit` is an error there, as one sink must not end the loop of all.

    Raises:
        RetryableError: it was called.
    """
    try:
        await method(*args)
    except SystemExit as error:
        raise RetryableError(f"{name}() raised SystemExit") from error


def retrieve_error(task: asyncio.Future[None]) -> None:
    """Retrieve the error of a task that nobody waits for, which asyncio would log with its secrets."""
    if not task.cancelled():
        task.exception()


async def done_within(future: asyncio.Future[Any], seconds: float | None, clock: Clock) -> bool:
    """Wait for a future without cancelling it, and return whether it is done.

    Args:
        future: a task or a future of the running loop.
        seconds: the limit; None waits forever.
        clock: measures the seconds.
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
