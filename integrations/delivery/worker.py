"""`QueueWorker`: sends a sink its events from a bounded queue, in order and one batch at a time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import copy_context
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from codomyrmex.integrations.delivery.dead_letters import DeadLetter
from codomyrmex.integrations.delivery.errors import (
    DeliveryError,
    PartialDeliveryError,
    PermanentError,
    RetryableError,
)
from codomyrmex.integrations.delivery.health import SinkHealth, SinkState, origin_for
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.delivery.report import ABOUT_ITSELF, CLOSED, FORKED, QUEUE_FULL, SinkReport
from codomyrmex.integrations.delivery.retry import Breaker, backoff
from codomyrmex.integrations.delivery.secrets import LazyTraceback, describe
from codomyrmex.integrations.delivery.sink import Sink
from codomyrmex.integrations.delivery.waiting import resolve
from codomyrmex.streaming import Clock, Event, Overflow
from codomyrmex.streaming.buffers import BoundedQueue, PutLater
from codomyrmex.streaming.causes import LOGS, ORIGIN, cause, origin_of
from codomyrmex.streaming.clock import Timer
from codomyrmex.streaming.counters import Counter
from codomyrmex.streaming.diagnostics import Diagnostics

_FULL_LINE_EVERY = 10.0  # seconds between lines about a full queue
GRACE = 0.2  # seconds of real time beyond a deadline, for what should take none

_log = Diagnostics(__name__)

# In a child process: tasks of its parent's loop. They are kept, as asyncio complains about pending tasks
# that are collected.
_of_parents: list[object] = []


class Worker(Protocol):
    """What an attachment knows of each sink."""

    @property
    def name(self) -> str:
        """The name of the sink."""

    def take(self, event: Event) -> object:
        """Take an event from the stream; never raises. With BLOCK it may give what to await."""

    async def start(self) -> None:
        """Open the sink."""

    def flush(self) -> asyncio.Future[None] | None:
        """Send at once, and give what is done when all taken before is delivered or given up."""

    async def stop(self, timeout: float | None) -> None:  # noqa: ASYNC109 - part of one overall deadline
        """Deliver what is queued within `timeout` seconds, or those of its policy; close the sink."""

    def cut(self) -> None:
        """Deliver no more: a `stop` that goes on, or is to come, ends at once."""

    def after_fork(self) -> None:
        """Forget, in a child process, what is the parent's."""

    def report(self) -> SinkReport:
        """Give the numbers up to now."""

    def health(self) -> SinkHealth:
        """Tell how the sink is."""


class Watcher(Protocol):
    """What a worker tells as it happens. None of these raises or waits."""

    def died(self, worker: QueueWorker, letters: list[DeadLetter]) -> None:
        """Events were given up."""

    def changed(self, worker: QueueWorker, old: SinkState) -> None:
        """The state of the sink is another one."""

    def attempted(self, worker: QueueWorker, seconds: float, error: str | None) -> None:
        """An attempt has ended; `error` is the class of what went wrong."""


# An event and since when it waits, by the clock. A plain tuple: one is made for each event.
Item = tuple[Event, float]


class _Failure(NamedTuple):
    """An event that an attempt did not deliver, and why."""

    item: Item
    error: BaseException


class QueueWorker:
    """Sends a sink its events from a bounded queue, in order and one batch at a time."""

    def __init__(self, sink: Sink, policy: DeliveryPolicy, clock: Clock, watcher: Watcher) -> None:
        self.name = sink.name
        self.sink = sink
        self.policy = policy
        self._clock = clock
        self._watcher = watcher
        self._origin = origin_for(sink)
        self._batch_size = min(policy.batch_size, policy.queue_size)
        self._now = clock.monotonic
        self._carries_logs = False  # what its delivery logs must not come back
        self._reset()

    def _reset(self) -> None:
        self._queue: BoundedQueue[Item] = BoundedQueue(
            self.policy.queue_size, self.policy.overflow, self._dropped_at_queue
        )
        self._put = self._queue.put
        self._breaker = Breaker(self.policy.breaker_failures, self.policy.breaker_reset)
        self._dropped: dict[str, Counter] = {}
        self._in_flight: list[Item] = []
        self._delivered = self._retried = self._dead = self._lost = 0
        self._state = SinkState.OK
        self._last_error: str | None = None
        self._last_success: datetime | None = None
        self._opened = False
        self._task: asyncio.Task[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._napping: asyncio.Future[None] | None = None
        self._flush_to = 0
        self._flushing: list[tuple[int, asyncio.Future[None]]] = []
        self._deadline: float | None = None  # set while it drains
        self._cut = False  # no time is left
        self._next_full_line = -math.inf
        self._ended = False
        self._over: asyncio.Future[None] | None = None  # done when the drain is

    # What the publisher pays for: one look for the rare origin, the time, a tuple, and the queue's put.
    def take(self, event: Event) -> PutLater[Item] | None:
        if ORIGIN in event.metadata and not self._admits(event):
            return None
        return self._put((event, self._now()))

    def _admits(self, event: Event) -> bool:
        """Look at an event that has an origin: one about this sink would lead round in a circle."""
        origin = origin_of(event)
        self._carries_logs |= origin == LOGS
        if origin == self._origin:
            self._drop(ABOUT_ITSELF)
            return False
        return True

    async def start(self) -> None:
        """Open the sink and begin.

        Raises:
            DeliveryError: it did not open within the timeout of the policy.
        """
        limit = asyncio.timeout(self.policy.timeout)
        try:
            async with limit:
                await self.sink.open()
        except TimeoutError:
            if not limit.expired():
                raise  # the sink's own
            raise DeliveryError(f"sink {self.name} did not open within {self.policy.timeout:g} s") from None
        self._opened = True
        self._task = asyncio.create_task(self._run(), name=f"sink {self.name}")
        self._queue.reader = self._task  # from now on there is someone to wait for

    def flush(self) -> asyncio.Future[None] | None:
        target = self._queue.place()
        if self._task is None or (not self._in_flight and self._left() >= target):
            return None
        self._flush_to = max(self._flush_to, target)
        done = asyncio.get_running_loop().create_future()
        self._flushing.append((target, done))
        self._queue.wake()
        return done

    async def stop(self, timeout: float | None) -> None:  # noqa: ASYNC109
        timeout = self.policy.drain_timeout if timeout is None else timeout
        self._queue.close()
        task = self._task
        if task is None:
            await self._close()
            return
        if self._over is None:
            self._over = asyncio.get_running_loop().create_future()
        over = self._over
        task.add_done_callback(lambda _: resolve(over))
        self._deadline = self._now() + timeout
        self._breaker.allow_one(self._now())  # there may be no later time to see
        self._wake()
        timer = self._clock.call_later(timeout, self.cut) if timeout > 0 else None
        try:
            if timer is None:
                self.cut()
            await over
        finally:
            if timer is not None:
                timer.cancel()
            await self._end(task)

    def cut(self) -> None:
        self._cut = True
        self._wake()
        self._queue.wake()
        if self._sending is not None:
            self._sending.cancel()
        if self._over is not None:
            resolve(self._over)

    def after_fork(self) -> None:
        """Take nothing in a child process: the sink and its loop are the parent's."""
        self._leave_to_parent()
        self._queue.close()
        self._state = SinkState.CLOSED
        self._put = self._refuse_after_fork

    def renew_after_fork(self, start: Callable[[], None]) -> None:
        """Begin anew in a child process, and call `start` once there is something to deliver."""
        self._leave_to_parent()

        def first_put(item: Item) -> PutLater[Item] | None:
            self._put = self._queue.put
            start()
            return self._put(item)

        self._put = first_put

    async def resend(self, event: Event) -> None:
        """Take an event that was given up before, once there is room for it."""
        while len(self._queue.items) >= self.policy.queue_size and (room := self.flush()) is not None:
            await room
        self._put((event, self._now()))

    def _leave_to_parent(self) -> None:
        _of_parents.append((self._task, self._sending))
        self._reset()

    def report(self) -> SinkReport:
        waiting = 0 if self._ended else len(self._queue.items) + len(self._in_flight)
        return SinkReport(self._delivered, self._dead, self._drops(), self._lost + waiting)

    def health(self) -> SinkHealth:
        in_flight, queued = self._in_flight, self._queue.items
        try:
            oldest = (in_flight or queued)[0][1]
        except IndexError:  # nothing waits
            oldest = self._now()
        return SinkHealth(
            state=self._state,
            queued=len(queued),
            in_flight=len(in_flight),
            delivered=self._delivered,
            retried=self._retried,
            dropped=self._drops(),
            dead=self._dead,
            last_error=self._last_error,
            last_success=self._last_success,
            oldest_age=max(0.0, self._now() - oldest),
            capacity=self.policy.queue_size,
        )

    # The life of the worker

    async def _run(self) -> None:
        try:
            while (batch := await self._next_batch()) is not None:
                self._in_flight = batch
                if not await self._deliver():
                    return
                self._tell_flushers()
        except asyncio.CancelledError:
            waiting = self.report().lost
            if waiting and not self._cut:
                message = "sink %s was cancelled from outside; %d events were not delivered"
                _log.warning(self.name, message, self.name, waiting)
            raise
        finally:
            if self._sending is not None:
                self._sending.cancel()

    async def _next_batch(self) -> list[Item] | None:
        """Wait for a batch: full, of age, or wanted now. None when there will be none."""
        queue = self._queue
        while not self._cut:
            if not queue.items:
                if queue.closed:
                    return None
                queue.enough = 1
                await self._news()
                continue
            if not self._batch_is_due():
                continue_in = queue.items[0][1] + self.policy.batch_age - self._now()
                if continue_in > 0:
                    queue.enough = self._batch_size
                    await self._news(continue_in)
                    continue
            rest = self._breaker.wait(self._now())
            if rest > 0:
                if not await self._pause(rest):
                    return None
                continue
            return queue.take_many(self._batch_size)
        return None

    def _batch_is_due(self) -> bool:
        queue = self._queue
        return len(queue.items) >= self._batch_size or queue.closed or self._left() < self._flush_to

    def _left(self) -> int:
        return self._queue.taken + self._queue.evicted

    async def _deliver(self) -> bool:
        """Deliver what is in flight, whatever it takes; False if there is no time for it any more."""
        policy = self.policy
        begun, first_attempt = self._now(), datetime.now(UTC)
        attempts = 0
        while True:
            attempts += 1
            failures, refused = await self._attempt()
            if refused:
                self._bury(refused, attempts, first_attempt)
            if not failures:
                return True
            if self._cut:
                return False
            wait, told = self._wait_before_next(attempts, failures)
            if attempts >= policy.max_attempts or self._now() + wait - begun > policy.max_elapsed:
                self._in_flight = []
                self._bury(failures, attempts, first_attempt)
                return True
            if not await self._pause(wait, told=told):
                return False
            self._retried += len(failures)

    def _wait_before_next(self, attempts: int, failures: list[_Failure]) -> tuple[float, bool]:
        """Give the seconds to wait, and whether the sink itself asked for them."""
        asked = [f.error.retry_after for f in failures if isinstance(f.error, RetryableError)]
        retry_after = max((seconds for seconds in asked if seconds is not None), default=None)
        if retry_after is None:
            wait = backoff(self.policy.backoff_initial, self.policy.backoff_max, attempts)
        else:
            wait = retry_after
        return max(wait, self._breaker.wait(self._now())), retry_after is not None

    async def _attempt(self) -> tuple[list[_Failure], list[_Failure]]:
        """Send what is in flight once; give what is to be sent again and what is refused for good."""
        batch = self._in_flight
        context = copy_context()
        if self._carries_logs:
            context.run(cause.set, LOGS)
        if self._queue.blocks:  # so that a sink which publishes does not wait for itself
            context.run(self._queue.read_here)
        began = self._now()
        sending = asyncio.get_running_loop().create_task(
            self.sink.send(tuple([item[0] for item in batch])), context=context
        )
        self._sending = sending
        timed_out: list[BaseException] = []

        def cut_off() -> None:
            timed_out.append(TimeoutError(f"no answer within {self.policy.timeout:g} s"))
            self._failed(timed_out[0])  # said now: what ignores its cancellation may never end
            sending.cancel()

        timer = self._clock.call_later(self.policy.timeout, cut_off)
        try:
            await asyncio.wait({sending})
        finally:
            timer.cancel()
        self._sending = None
        failures, refused, error = _classify(batch, sending, timed_out[0] if timed_out else None)
        taken = len(batch) - len(failures) - len(refused)
        self._delivered += taken
        self._in_flight = [failure.item for failure in failures]
        if taken:
            self._last_success = datetime.now(UTC)
        seconds = self._now() - began
        self._watcher.attempted(self, seconds, None if error is None else type(error).__name__)
        if self._cut and sending.cancelled():
            return failures, refused  # we have cancelled it; that says nothing of the sink
        if error is not None:
            self._note(error, len(failures) + len(refused), len(batch))
        if len(failures) < len(batch):
            self._answered()
        elif not timed_out and error is not None:
            self._failed(error)
        return failures, refused

    async def _pause(self, seconds: float, *, told: bool = False) -> bool:
        """Wait before an attempt; False if there is no time for it.

        A drain that begins meanwhile ends the wait: the attempt is made at once, as there may be no
        later one. Only what the sink itself has asked for is waited for all the same.
        """
        until = self._now() + seconds
        if self._deadline is None:
            await self._nap(seconds)
            if self._deadline is None or not told:
                return not self._cut
        if until >= self._deadline:
            return False
        await self._nap(until - self._now())
        return not self._cut

    async def _nap(self, seconds: float) -> None:
        if seconds <= 0 or self._cut:
            return
        self._napping = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(seconds, self._wake)
        try:
            await self._napping
        finally:
            timer.cancel()
            self._napping = None

    def _wake(self) -> None:
        if self._napping is not None:
            resolve(self._napping)

    async def _news(self, seconds: float | None = None) -> None:
        """Wait until the queue has something to say, at most so long."""
        queue = self._queue
        news = queue.waiting(asyncio.get_running_loop())
        if news is None:
            return
        timer: Timer | None = None
        if seconds is not None:
            timer = self._clock.call_later(seconds, queue.wake)
        try:
            await news
        finally:
            if timer is not None:
                timer.cancel()

    def _tell_flushers(self) -> None:
        left = self._left()
        for waiting in tuple(self._flushing):
            target, done = waiting
            if left >= target:
                self._flushing.remove(waiting)
                resolve(done)

    # The end

    async def _end(self, task: asyncio.Task[None]) -> None:
        """Stop the worker and close the sink; neither may take for ever."""
        self.cut()
        await asyncio.wait({task}, timeout=GRACE)
        if not task.done():
            _log.warning(self.name, "sink %s does not stop sending; it is left alone", self.name)
            task.cancel()
        elif not task.cancelled() and task.exception() is not None:
            self._note_bug(task.exception())
        await self._close()

    async def _close(self) -> None:
        """Count what is left as lost, and close the sink if it is open."""
        if not self._ended:
            self._lost = self.report().lost
            self._ended = True
        self._task = None
        self._in_flight = []
        self._queue.close(discard=True)
        for _, done in self._flushing:
            resolve(done)
        self._flushing = []
        if not self._opened:
            return
        self._opened = False
        left = GRACE if self._deadline is None else max(self._deadline - self._now(), 0.0)
        closing = asyncio.ensure_future(self.sink.close())
        try:
            await asyncio.wait({closing}, timeout=max(left, GRACE))
        finally:
            if not closing.done():
                closing.cancel()
                _log.warning(self.name, "sink %s does not close; it is left alone", self.name)
            elif not closing.cancelled() and (error := closing.exception()) is not None:
                _log.warning(self.name, "sink %s failed to close: %s", self.name, describe(error))
            self._become(SinkState.CLOSED)

    # What is counted and told

    def _bury(self, failures: list[_Failure], attempts: int, first_attempt: datetime) -> None:
        self._dead += len(failures)
        now = datetime.now(UTC)
        self._watcher.died(
            self,
            [
                DeadLetter(f.item[0], self.name, describe(f.error), attempts, first_attempt, now)
                for f in failures
            ],
        )

    def _answered(self) -> None:
        self._breaker.answered()
        self._become(SinkState.OK)

    def _failed(self, error: BaseException) -> None:
        self._breaker.failed(self._now())
        self._last_error = describe(error)
        self._become(SinkState.OPEN if self._breaker.is_open else SinkState.RETRYING)

    def _become(self, state: SinkState) -> None:
        old, self._state = self._state, state
        if old is not state:
            self._watcher.changed(self, old)

    def _note(self, error: BaseException, failed: int, size: int) -> None:
        self._last_error = describe(error)
        message = "sink %s did not deliver %d of %d events: %s"
        if isinstance(error, (DeliveryError, OSError)):
            _log.warning(self.name, message, self.name, failed, size, self._last_error)
        else:  # perhaps a mistake in the sink
            message += "\n%s"
            _log.warning(self.name, message, self.name, failed, size, self._last_error, LazyTraceback(error))

    def _note_bug(self, error: BaseException | None) -> None:
        if error is not None:
            self._last_error = describe(error)
            _log.warning(self.name, "the worker of sink %s ended", self.name, error=error)

    def _drops(self) -> dict[str, int]:
        drops = {reason: counter.value() for reason, counter in list(self._dropped.items())}
        if self._queue.evicted:
            drops[QUEUE_FULL] = drops.get(QUEUE_FULL, 0) + self._queue.evicted
        return drops

    def _drop(self, reason: str) -> None:
        self._dropped.setdefault(reason, Counter()).tick()

    # What the publisher pays for where the sink hangs: the queue itself counts what it evicts.
    def _dropped_at_queue(self, item: Item, reason: str | None) -> None:  # noqa: ARG002
        queue = self._queue
        if queue.closed:
            self._drop(CLOSED)
            return
        if self.policy.overflow is not Overflow.DROP_OLDEST:
            self._drop(QUEUE_FULL)
        now = self._now()
        if now >= self._next_full_line:
            self._next_full_line = now + _FULL_LINE_EVERY
            _log.warning(
                f"{self.name} full",
                "sink %s: its queue of %d is full, events are dropped (%s)",
                self.name,
                self.policy.queue_size,
                self.policy.overflow.value,
            )

    def _refuse_after_fork(self, item: Item) -> None:  # noqa: ARG002
        self._drop(FORKED)
        _log.warning(
            f"{self.name} forked",
            "sink %s belongs to the process that this one was forked from; its events are dropped here. "
            "Attach again in the child process, or use attach_blocking",
            self.name,
        )


def _classify(
    batch: list[Item], sending: asyncio.Task[None], timed_out: BaseException | None
) -> tuple[list[_Failure], list[_Failure], BaseException | None]:
    """Read what became of an attempt: what to send again, what is refused for good, and the error."""
    if sending.cancelled():
        error: BaseException | None = timed_out or RetryableError("the sink cancelled its own send")
    else:
        error = sending.exception()
    if error is None:
        return [], [], None
    if isinstance(error, PartialDeliveryError):
        by_id = error.failed
        found = [_Failure(item, by_id[item[0].id]) for item in batch if item[0].id in by_id]
        failures = [failure for failure in found if not isinstance(failure.error, PermanentError)]
        refused = [failure for failure in found if isinstance(failure.error, PermanentError)]
        return failures, refused, error if found else None
    all_failed = [_Failure(item, error) for item in batch]
    if isinstance(error, PermanentError):
        return [], all_failed, error
    return all_failed, [], error
