"""`InlineWorker`: calls an inline sink during publish."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from itertools import count
from time import time

from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.errors import DroppedError
from codomyrmex.integrations.delivery.health import (
    ABOUT_ITSELF,
    FORKED,
    INTERRUPTED,
    NOT_OPEN,
    NOT_STARTED,
    SinkHealth,
    SinkProblem,
    SinkReport,
    SinkState,
    worst,
)
from codomyrmex.integrations.delivery.policy import DeliveryPolicy, backoff
from codomyrmex.integrations.delivery.secrets import clean, describe
from codomyrmex.integrations.delivery.sink import InlineSink
from codomyrmex.integrations.delivery.worker import GRACE, Worker, done_within, without_exit
from codomyrmex.streaming import Clock, Event
from codomyrmex.streaming.counters import Counter
from codomyrmex.streaming.errors import MUST_PASS
from codomyrmex.streaming.provenance import ORIGIN, cause, marked, origin_of

_HELD = "held"  # counts events that are emitted once the sink is open

_log = Diagnostics(__name__)


class InlineWorker(Worker):
    """Calls an inline sink during publish."""

    sink: InlineSink

    def __init__(self, sink: InlineSink, policy: DeliveryPolicy, clock: Clock) -> None:
        self._emit: Callable[[Event], None] = self._refuse_unstarted
        super().__init__(sink, sink.drain_timeout, policy, clock)

    def reset(self) -> None:
        super().reset()
        self._held: deque[tuple[Event, Context, float]] = deque()
        self._opening: asyncio.Task[None] | None = None
        self._handled = Counter()
        self._failed = Counter()

    # The hot path: one check for the rare origin, one call, one count. Events that were not delivered are
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
        except MUST_PASS:
            self.drop(INTERRUPTED)
            raise
        except BaseException as error:  # noqa: BLE001 - a failing sink must not affect the publisher
            self._last_loss = self._now()
            self._failed.tick()
            self.last_error = describe(error)
            message = "sink %s: event %s was not delivered: %s"
            _log.warning(self.name, message, self.name, clean(event.id), self.last_error, error=error)

    def drop_unhandled(self, reason: str) -> None:
        next(self._handled.steps)
        self.drop(reason)

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

    # Until the sink is open, events are held together with the context of their publisher.

    def _refuse_unstarted(self, _: Event) -> None:
        self._miss()
        raise DroppedError(NOT_STARTED)

    def _hold(self, event: Event) -> None:
        if len(self._held) >= self._policy.queue_size:
            raise DroppedError(NOT_OPEN)
        self._held.append((event, copy_context(), self._now()))
        if self._emit != self._hold:  # in the meantime the sink was opened, or closed
            self._emit_held()
        raise DroppedError(_HELD)

    def _emit_held(self) -> None:
        with suppress(IndexError):  # none is left, also if two threads emit them
            while True:
                event, context, _ = self._held.popleft()
                context.run(self.handle, event)

    def _accept(self) -> None:
        self._emit = self._hold if type(self.sink).open is not InlineSink.open else self.sink.emit

    def _begin(self) -> None:
        if self.opened:
            self.state = SinkState.OK
            self._emit_held_by(self.sink.emit)
        else:
            self._opening = asyncio.create_task(self._keep_opening(), name=f"sink {self.name}")

    def _emit_held_by(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        self._emit_held()

    async def _keep_opening(self) -> None:
        policy = self._policy
        for failures in count(1):
            wait = backoff(policy.backoff_initial, policy.backoff_max, failures)
            self._next_attempt = self._now() + wait
            await done_within(asyncio.get_running_loop().create_future(), wait, self._clock)
            try:
                await self._open()
            except MUST_PASS:
                raise
            except BaseException as error:  # noqa: BLE001 - it is in the log and in `last_error`
                self.warn("sink %s: open() failed and will be retried", error=error)
            else:
                self._begin()
                return

    def flush(self) -> asyncio.Future[None] | None:
        if not self.opened or type(self.sink).flush is InlineSink.flush:
            return None
        return asyncio.ensure_future(self._flush())

    async def _flush(self) -> None:
        try:
            await without_exit("flush", self.sink.flush)
        except MUST_PASS:
            raise
        except BaseException as error:  # noqa: BLE001 - as above
            self.warn("sink %s: flush() failed", error=error)

    async def stop(self, timeout: float | None) -> None:  # noqa: ASYNC109 - as above
        self.state = SinkState.CLOSED
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening}, timeout=GRACE)
        if not self.opened:
            self._emit_held_by(_refuse_unopened)
        await self.close_sink(self.drain_timeout if timeout is None else timeout)

    def abort(self) -> None:
        if self.closing is not None:
            self.closing.cancel()

    def after_fork(self) -> None:
        self.reset()
        if type(self.sink).open is not InlineSink.open:
            self._emit = _refuse  # whatever runs behind the sink runs in the parent

    def restart_after_fork(self, start: Callable[[], None]) -> None:
        attached = self.state not in {SinkState.NOT_STARTED, SinkState.CLOSED}
        self.reset()
        if not attached:
            return
        self.opened, self.closing = False, None

        def first_emit(event: Event) -> None:
            self._accept()
            start()
            self._emit(event)

        self._emit = first_emit

    def report(self) -> SinkReport:
        drops, failed = self.drops(), self._failed.value()
        delivered = self._handled.value() - failed - sum(drops.values())
        drops.pop(_HELD, None)  # counted again when they are emitted or dropped
        return SinkReport(delivered, failed, drops, len(self._held))

    def health(self) -> SinkHealth:
        health, problem = super().health(), None
        if health.state is SinkState.CLOSED:
            return health
        try:
            problem = self.sink.problem()
        except MUST_PASS:
            raise
        except BaseException as error:  # noqa: BLE001 - as above; health must not fail
            problem = SinkProblem(SinkState.DEGRADED, describe(error))
        if problem is None:
            return health
        return health._replace(state=worst(health.state, problem.state), last_error=problem.reason)

    def waiting(self) -> tuple[int, int, float]:
        held = tuple(self._held)
        return len(held), 0, self._now() - held[0][2] if held else 0.0


def _refuse(_: Event) -> None:
    raise DroppedError(FORKED)


def _refuse_unopened(_: Event) -> None:
    raise DroppedError(NOT_OPEN)
