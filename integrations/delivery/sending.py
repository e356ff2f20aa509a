"""`SendingWorker`: sends batches to a sink, with timeouts, retries, a circuit breaker and dead letters."""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from datetime import UTC, datetime
from time import time

from codomyrmex.integrations.delivery.dead_letters import DeadLetter
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.errors import DeliveryError, PartialDeliveryError, RetryableError
from codomyrmex.integrations.delivery.health import SinkState
from codomyrmex.integrations.delivery.observers import Observers
from codomyrmex.integrations.delivery.policy import Breaker, DeliveryPolicy, Failure, Item, Outcome, backoff
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.delivery.sink import Sink
from codomyrmex.integrations.delivery.worker import (
    GRACE,
    Worker,
    done_within,
    resolve,
    retrieve_error,
    without_exit,
)
from codomyrmex.streaming import Clock, Event
from codomyrmex.streaming.buffers import complete
from codomyrmex.streaming.provenance import LOGS, cause

PATIENCE = 1.0  # seconds from the start of an attempt, during which publishers wait for it

_log = Diagnostics(__name__)


class SendingWorker(Worker):
    """A worker that sends batches, each until it is delivered or given up."""

    sink: Sink

    def __init__(self, sink: Sink, policy: DeliveryPolicy, clock: Clock, observers: Observers) -> None:
        self._observers = observers
        super().__init__(sink, policy.drain_timeout, policy, clock)

    def reset(self) -> None:
        super().reset()
        self._reported = SinkState.OK
        self._delivered = self._retried = self._dead = 0
        self._breaker = Breaker(self._policy.breaker_failures, self._policy.breaker_reset)
        self._in_flight: list[Item] = []
        self._task: asyncio.Task[None] | None = None
        self._stopped: asyncio.Future[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._pausing: asyncio.Future[None] | None = None
        self._not_before = -math.inf  # the sink requested not to be called before
        self._deadline: float | None = None  # of the drain
        self._aborted = False
        # Until when publishers wait for a batch to be completed: infinity while the sink is idle, minus
        # infinity while it fails.
        self._patient_until = math.inf
        self._waiting_publishers: set[asyncio.Future[None]] = set()

    @abstractmethod
    def _set_sending(self, task: asyncio.Task[None] | None) -> None:
        """Note which task runs `send` now."""

    @abstractmethod
    async def _run(self) -> None:
        """Send batches until the end."""

    @abstractmethod
    async def resend(self, event: Event) -> None:
        """Queue an event that was given up before, once there is room for it.

        Raises:
            RuntimeError: the worker was stopped.
        """

    @abstractmethod
    def _begin_drain(self) -> None:
        """Accept no more events: `_run` ends when the remaining ones are sent."""

    @abstractmethod
    async def _close(self) -> None:
        """Count what was not delivered, and close the sink."""

    # From start to stop

    def _begin(self) -> None:
        self._set_state(SinkState.OK if self.opened else SinkState.NOT_OPEN)
        self._stopped = stopped = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name=f"sink {self.name}")
        self._task.add_done_callback(lambda _: resolve(stopped))

    async def stop(self, timeout: float | None) -> None:  # noqa: ASYNC109 - counted by the clock
        timeout = self.drain_timeout if timeout is None else timeout
        self._begin_drain()
        self._resume_publishers(-math.inf)
        task, stopped = self._task, self._stopped
        if task is None or stopped is None or task.get_loop() is not asyncio.get_running_loop():
            self._sending = None  # its loop has ended
            await self._close()
            return
        self._deadline = self._now() + timeout
        self._breaker.allow_one(self._now())  # there may be no later chance
        self._end_pause()
        try:
            await done_within(stopped, timeout, self._clock)
        finally:
            self.abort()
            await asyncio.wait({task}, timeout=GRACE)
            if not task.done():
                self.warn("sink %s: send() ignores its cancellation and is left running")
                task.cancel()
            elif not task.cancelled() and (error := task.exception()) is not None:
                self.warn("sink %s: internal error in the delivery", error=error)
            await self._close()

    def abort(self) -> None:
        self._aborted = True
        self._end_pause()
        if self._sending is not None:
            self._sending.cancel()
        if self._stopped is not None:
            resolve(self._stopped)

    # Attempts

    async def _deliver_batch(self, *, from_logs: bool) -> None:
        """Deliver the events in flight; an internal error gives them up.

        Args:
            from_logs: whether there are events among them that stem from log records.
        """
        # Everything that the delivery does has it as its cause: the sink, observers, log lines.
        cause.set(LOGS if from_logs else None)
        try:
            await self._deliver()
        except Exception as error:  # noqa: BLE001 - an internal error must not end the delivery
            self.warn("sink %s: internal error, a batch was given up", error=error)
            self._count_dead(len(self._in_flight))
            self._in_flight = []

    async def _deliver(self) -> None:
        """Send the events in flight until none is left or the time is over."""
        policy = self._policy
        begun, first_attempt = self._now(), datetime.now(UTC)
        attempts = 0
        while True:
            attempts += 1
            outcome = await self._attempt()
            if outcome.refused:
                self._give_up(outcome.refused, attempts, first_attempt)
                self._in_flight = [failure.item for failure in outcome.retryable]
            if not outcome.retryable or self._aborted:
                return
            requested, now = self._requested(outcome), self._now()
            if requested is None:
                wait = backoff(policy.backoff_initial, policy.backoff_max, attempts)
            else:
                wait = requested
                self._not_before = now + requested
            wait = max(wait, self._breaker.wait(now))
            if attempts >= policy.max_attempts or now + wait - begun > policy.max_elapsed:
                self._in_flight = []
                self._give_up(outcome.retryable, attempts, first_attempt)
                return
            if not await self._pause(wait, requested=requested is not None):
                return
            self._retried += len(outcome.retryable)

    def _requested(self, outcome: Outcome) -> float | None:
        """Return the wait that a sink requests, in seconds, within the limit of the policy."""
        requested, longest = outcome.retry_after, self._policy.retry_after_max
        if requested is None or requested <= self._policy.backoff_max:
            return requested
        message = "sink %s: it requests a wait of %gs, and is called again in %gs"
        self.warn(message, requested, min(requested, longest))
        return min(requested, longest)

    def _until(self) -> float:
        now = self._now()
        return max(self._next_attempt, self._not_before, now + self._breaker.wait(now))

    async def _keep_opening(self) -> bool:
        """Retry opening the sink; return False if the time is over."""
        policy, failures = self._policy, 0
        while not self.opened:
            failures += 1
            wait = backoff(policy.backoff_initial, policy.backoff_max, failures)
            if not await self._pause(wait, requested=False):
                return False
            opening = asyncio.create_task(self._open())
            opening.add_done_callback(retrieve_error)  # it may ignore its cancellation, and be left running
            self._set_sending(opening)
            await asyncio.wait({opening})
            self._set_sending(None)
            if opening.cancelled():
                if self._aborted:
                    return False
            elif (error := opening.exception()) is not None:
                self.warn("sink %s: open() failed and will be retried", error=error)
        self._set_state(SinkState.OK)
        self._resume_publishers(math.inf)
        return True

    async def _attempt(self) -> Outcome:
        """Send the events in flight once; those that were not delivered stay in flight."""
        batch, timeout, began = self._in_flight, self._policy.timeout, self._now()
        if self.state is SinkState.OK:
            self._patient_until = began + PATIENCE
        sending = asyncio.create_task(self._send(tuple([item[0] for item in batch])))
        sending.add_done_callback(retrieve_error)  # as above
        self._set_sending(sending)
        timed_out = None
        if not await done_within(sending, timeout, self._clock):
            timed_out = TimeoutError(f"send() did not finish within {timeout:g}s")
            self._failed(timed_out)  # now, as a task that ignores its cancellation may never end
            sending.cancel()
            await asyncio.wait({sending})
        self._set_sending(None)
        if sending.cancelled():
            error: BaseException | None = timed_out or RetryableError("send() cancelled itself")
        else:
            error = sending.exception()
        outcome = Outcome.of(batch, error)
        error, failures = outcome.error, [*outcome.retryable, *outcome.refused]
        self._in_flight = [failure.item for failure in failures]
        if len(failures) < len(batch):
            self._delivered += len(batch) - len(failures)
            self.last_success = time()
        error_type = None if error is None else type(error).__name__
        self._observers.attempted(self.name, self._now() - began, error_type)
        if self._aborted and sending.cancelled():
            return Outcome([], [], None)  # the sink has not failed: the events stay in flight and are lost
        if error is not None:
            self._log_failure(error, len(failures), len(batch))
        if len(outcome.retryable) < len(batch):
            self._breaker.succeed()
            self._set_state(SinkState.OK)
        elif error is not None and timed_out is None:
            self._failed(error)
        return outcome

    async def _send(self, events: tuple[Event, ...]) -> None:
        with self._observers.sending(self.sink, events):
            await without_exit("send", self.sink.send, events)

    def _failed(self, error: BaseException) -> None:
        self._breaker.fail(self._now())
        self.last_error = describe(error)
        self._resume_publishers(-math.inf)
        if self._breaker.is_open:
            message = "sink %s: the circuit breaker is open, the next attempt is in %gs"
            self.warn(message, self._policy.breaker_reset)
        self._set_state(SinkState.OPEN if self._breaker.is_open else SinkState.RETRYING)

    def _log_failure(self, error: BaseException, failed: int, size: int) -> None:
        example = (
            next(iter(error.failed.values()), error) if isinstance(error, PartialDeliveryError) else error
        )
        self.last_error = describe(example)
        message = "sink %s: %d of %d events were not delivered: %s"
        bug = None if isinstance(error, (DeliveryError, OSError)) else error  # it may be one in the sink
        _log.warning(self.name, message, self.name, failed, size, self.last_error, error=bug)

    def _set_state(self, state: SinkState) -> None:
        self.state = state
        old, self._reported = self._reported, self.visible_state()
        if old is not self._reported:
            self._observers.state_changed(self.sink, old, self.health(), self.report())

    def _give_up(self, failures: list[Failure], attempts: int, first_attempt: datetime) -> None:
        """Count events as dead, and report their dead letters."""
        self._count_dead(len(failures))
        self.warn("sink %s: %d events were given up after %d attempts", len(failures), attempts)
        now = datetime.now(UTC)
        errors = {id(failure.error): failure.error for failure in failures}  # mostly one for all
        reasons = {key: describe(error) for key, error in errors.items()}
        letters = [
            DeadLetter(failure.item[0], self.name, reasons[id(failure.error)], attempts, first_attempt, now)
            for failure in failures
        ]
        self._observers.gave_up(self.sink, letters)

    def _count_dead(self, number: int) -> None:
        self._last_loss = self._now()
        self._dead += number
        self._set_state(self.state)

    async def _pause(self, seconds: float, *, requested: bool) -> bool:
        """Wait before an attempt, and return whether there is time for it.

        A drain that begins in the meantime ends the pause, as there may be no later chance. Only a wait that
        the sink itself has requested continues.
        """
        self._resume_publishers(-math.inf)
        until = self._next_attempt = self._now() + seconds
        try:
            return await self._pause_for_attempt(until, requested=requested)
        finally:
            self._next_attempt = -math.inf

    async def _pause_for_attempt(self, until: float, *, requested: bool) -> bool:
        if self._deadline is None:
            await self._pause_until(until)
            if self._deadline is None or not requested:
                return not self._aborted
        if until >= self._deadline:
            return False
        await self._pause_until(until)
        return not self._aborted

    async def _pause_until(self, until: float) -> None:
        if not self._aborted:
            self._pausing = asyncio.get_running_loop().create_future()
            await done_within(self._pausing, until - self._now(), self._clock)
            self._pausing = None

    def _end_pause(self) -> None:
        if self._pausing is not None:
            resolve(self._pausing)

    def _resume_publishers(self, patient_until: float) -> None:
        """Resume the publishers that wait for a batch, and set until when later ones wait."""
        self._patient_until = patient_until
        for batch_done in tuple(self._waiting_publishers):
            complete(batch_done)
