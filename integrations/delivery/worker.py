"""`QueueWorker`: sends a sink its events from a bounded queue, in order and one batch at a time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import copy_context
from datetime import UTC, datetime

from codomyrmex.integrations.delivery.attempt import Failure, Item, Outcome, classify
from codomyrmex.integrations.delivery.dead_letters import DeadLetter
from codomyrmex.integrations.delivery.errors import DeliveryError, RetryableError
from codomyrmex.integrations.delivery.health import SinkHealth, SinkState, origin_for
from codomyrmex.integrations.delivery.ledger import Ledger
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.delivery.report import ABOUT_ITSELF, CLOSED, SinkReport
from codomyrmex.integrations.delivery.retry import Breaker, backoff
from codomyrmex.integrations.delivery.roles import Watcher
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.delivery.sink import Sink
from codomyrmex.integrations.delivery.waiting import GRACE, resolve
from codomyrmex.streaming import Clock, Event
from codomyrmex.streaming.buffers import BoundedQueue, PutLater
from codomyrmex.streaming.clock import Timer
from codomyrmex.streaming.provenance import LOGS, ORIGIN, cause, origin_of, stems_from_logs

# In a child process: tasks of its parent's loop. They are kept, as asyncio complains about pending tasks
# that are collected.
_of_parents: list[object] = []


class QueueWorker:
    """Sends a sink its events from a bounded queue, in order and one batch at a time."""

    def __init__(self, sink: Sink, policy: DeliveryPolicy, clock: Clock, watcher: Watcher) -> None:
        self.name = sink.name
        self.sink = sink
        self.policy = policy
        self.drain_timeout = policy.drain_timeout
        self._clock = clock
        self._watcher = watcher
        self._origin = origin_for(sink)
        self._batch_size = min(policy.batch_size, policy.queue_size)
        self._now = clock.monotonic
        self._reset()

    def _reset(self) -> None:
        self._queue: BoundedQueue[Item] = BoundedQueue(
            self.policy.queue_size, self.policy.overflow, self._dropped_at_queue
        )
        self._put: Callable[[Item], PutLater[Item] | None] = self._queue.put
        self._queue.reader_waits = True
        self._not_before = -math.inf  # what the sink has asked for
        self._breaker = Breaker(self.policy.breaker_failures, self.policy.breaker_reset)
        self._ledger = Ledger(self.name, lambda old: self._watcher.changed(self, old))
        self._in_flight: list[Item] = []
        self._opened = False
        self._task: asyncio.Task[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._napping: asyncio.Future[None] | None = None
        self._flush_to = 0
        self._logs_up_to = 0  # up to this place in the queue, what is logged must not come back
        self._flushing: list[tuple[int, asyncio.Future[None]]] = []
        self._deadline: float | None = None  # set while it drains
        self._cut = False  # no time is left
        self._ended = False
        self._over: asyncio.Future[None] | None = None  # done when the drain is

    # What the publisher pays for: looks for the rare origin and cause, the time, a tuple, the queue's put.
    def take(self, event: Event) -> PutLater[Item] | None:
        if (ORIGIN in event.metadata or cause.get() is not None) and not self._admits(event):
            return None
        return self._put((event, self._now()))

    def _admits(self, event: Event) -> bool:
        """Look at an event with an origin or a cause: one about this sink would lead round in a circle."""
        origin = origin_of(event) or ""
        if self._origin in origin.split():
            self._ledger.drop(ABOUT_ITSELF)
            return False
        if stems_from_logs(origin) or stems_from_logs(cause.get()):
            # As far as the queue goes now, deliveries come of a log record.
            self._logs_up_to = self._queue.place() + 1
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
        if not self._in_flight and self._left() >= target:
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
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            self._sending = None  # of a loop that has ended
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
        self._ledger.state = SinkState.CLOSED
        self._put = self._ledger.refuse_after_fork

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
        if self._queue.closed:
            raise RuntimeError(f"sink {self.name} is closed")
        self._put((event, self._now()))

    def _leave_to_parent(self) -> None:
        _of_parents.append((self._task, self._sending))
        self._reset()

    def report(self) -> SinkReport:
        waiting = 0 if self._ended else len(self._queue.items) + len(self._in_flight)
        ledger = self._ledger
        drops = ledger.drops(self._queue.evicted)
        return SinkReport(ledger.delivered, ledger.dead, drops, ledger.lost + waiting, ledger.retried)

    def health(self) -> SinkHealth:
        ledger, in_flight, queued = self._ledger, self._in_flight, self._queue.items
        try:
            oldest = (in_flight or queued)[0][1]
        except IndexError:  # nothing waits
            oldest = self._now()
        return SinkHealth(
            state=ledger.state,
            queued=len(queued),
            in_flight=len(in_flight),
            delivered=ledger.delivered,
            retried=ledger.retried,
            dropped=ledger.drops(self._queue.evicted),
            dead=ledger.dead,
            last_error=ledger.last_error,
            last_success=ledger.last_success,
            oldest_age=max(0.0, self._now() - oldest),
            capacity=self.policy.queue_size,
        )

    def _dropped_at_queue(self, _: Item, _reason: str | None) -> None:
        if self._queue.closed:
            self._ledger.drop(CLOSED)
        else:
            self._ledger.queue_is_full(self.policy.queue_size, self.policy.overflow, self._now())

    # The life of the worker

    async def _run(self) -> None:
        try:
            while (batch := await self._next_batch()) is not None:
                self._in_flight = batch
                # All that the delivery does has it as its cause: the sink, the observers, what is told.
                cause.set(LOGS if self._left() - len(batch) < self._logs_up_to else None)
                try:
                    if not await self._deliver():
                        return
                except Exception as error:  # noqa: BLE001 - a mistake of ours must not end the delivery for good
                    self._report_mistake(error)
                    self._ledger.dead += len(self._in_flight)
                    self._in_flight = []
                self._tell_flushers()
        except asyncio.CancelledError:
            if not self._cut:
                self._queue.close()
                message = "sink %s was cancelled from outside; %d events were not delivered"
                self._ledger.warn(message, self.report().lost)
                self._ledger.become(SinkState.CLOSED)
                self._let_flushers_go()
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
            asked = self._not_before - self._now()
            rest = max(asked, self._breaker.wait(self._now()))
            if rest > 0:
                if not await self._pause(rest, told=asked > 0):
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
            outcome = await self._attempt()
            if outcome.refused:
                self._bury(outcome.refused, attempts, first_attempt)
                self._in_flight = [failure.item for failure in outcome.failures]
            if not outcome.failures:
                return True
            if self._cut:
                return False
            asked = outcome.retry_after()
            if asked is not None:
                self._not_before = self._now() + asked
            wait = backoff(policy.backoff_initial, policy.backoff_max, attempts) if asked is None else asked
            wait = max(wait, self._breaker.wait(self._now()))
            if attempts >= policy.max_attempts or self._now() + wait - begun > policy.max_elapsed:
                self._in_flight = []
                self._bury(outcome.failures, attempts, first_attempt)
                return True
            if not await self._pause(wait, told=asked is not None):
                return False
            self._ledger.retried += len(outcome.failures)

    async def _attempt(self) -> Outcome:
        """Send once what is in flight, and leave there what is to be sent again."""
        batch = self._in_flight
        sending = self._sending = self._send(batch)
        timed_out: list[BaseException] = []

        def cut_off() -> None:
            timed_out.append(TimeoutError(f"no answer within {self.policy.timeout:g} s"))
            self._failed(timed_out[0])  # said now: what ignores its cancellation may never end
            sending.cancel()

        began = self._now()
        timer = self._clock.call_later(self.policy.timeout, cut_off)
        try:
            await asyncio.wait({sending})
        finally:
            timer.cancel()
        self._sending = None
        outcome = classify(batch, sending, timed_out[0] if timed_out else None)
        failures, refused, error = outcome
        self._in_flight = [failure.item for failure in (*failures, *refused)]
        self._ledger.took(len(batch) - len(failures) - len(refused))
        self._watcher.attempted(self, self._now() - began, None if error is None else type(error).__name__)
        if self._cut and sending.cancelled():
            return outcome  # we have cancelled it; that says nothing of the sink
        if error is not None:
            self._ledger.failed(error, len(failures) + len(refused), len(batch))
        if len(failures) < len(batch):
            self._breaker.answered()
            self._ledger.become(SinkState.OK)
        elif error is not None and not timed_out:
            self._failed(error)
        return outcome

    def _send(self, batch: list[Item]) -> asyncio.Task[None]:
        context = copy_context()
        if self._queue.blocks:  # so that a sink which publishes does not wait for itself
            context.run(self._queue.read_here)
        events = tuple([item[0] for item in batch])
        return asyncio.get_running_loop().create_task(self._call_send(events), context=context)

    async def _call_send(self, events: tuple[Event, ...]) -> None:
        try:
            await self.sink.send(events)
        except SystemExit as error:  # one sink must not end the loop that all run on
            raise RetryableError("the sink raised SystemExit") from error

    def _failed(self, error: BaseException) -> None:
        self._breaker.failed(self._now())
        self._ledger.last_error = describe(error)
        if self._breaker.is_open:
            reset = self.policy.breaker_reset
            self._ledger.warn("sink %s has failed so often that it is left alone for %g s", reset)
        self._ledger.become(SinkState.OPEN if self._breaker.is_open else SinkState.RETRYING)

    def _bury(self, failures: list[Failure], attempts: int, first_attempt: datetime) -> None:
        """Give events up, and tell the watcher of their letters."""
        self._ledger.gave_up(len(failures), attempts)
        now = datetime.now(UTC)
        reasons = {id(failure.error): failure.error for failure in failures}  # mostly one for all
        said = {key: describe(error) for key, error in reasons.items()}
        letters = [
            DeadLetter(failure.item[0], self.name, said[id(failure.error)], attempts, first_attempt, now)
            for failure in failures
        ]
        self._watcher.died(self, letters)

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
            self._ledger.warn("sink %s does not stop sending; it is left alone")
            task.cancel()
        elif not task.cancelled():
            self._report_mistake(task.exception())
        await self._close()

    async def _close(self) -> None:
        """Count what is left as lost, and close the sink if it is open."""
        if not self._ended:
            self._ledger.lost = self.report().lost
            self._ended = True
        self._task = None
        self._in_flight = []
        self._queue.close(discard=True)
        self._let_flushers_go()
        if not self._opened:
            return
        self._opened = False
        left = GRACE if self._deadline is None else max(self._deadline - self._now(), 0.0)
        closing = asyncio.ensure_future(self._call_close())
        try:
            await asyncio.wait({closing}, timeout=max(left, GRACE))
        finally:
            if not closing.done():
                closing.cancel()
                self._ledger.warn("sink %s does not close; it is left alone")
            elif not closing.cancelled() and (error := closing.exception()) is not None:
                self._ledger.warn("sink %s failed to close", error=error)
            self._ledger.become(SinkState.CLOSED)

    async def _call_close(self) -> None:
        await self.sink.close()

    def _let_flushers_go(self) -> None:
        for _, done in self._flushing:
            resolve(done)
        self._flushing = []

    def _report_mistake(self, error: BaseException | None) -> None:
        if error is not None:
            self._ledger.warn("the worker of sink %s made a mistake; a batch was given up", error=error)
