"""`InlineWorker`: how an inline sink gets its events, during publish."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from time import time

from codomyrmex.integrations.delivery.errors import DroppedError
from codomyrmex.integrations.delivery.health import SinkHealth, SinkState, origin_for
from codomyrmex.integrations.delivery.report import ABOUT_ITSELF, FORKED, INTERRUPTED, SinkReport
from codomyrmex.integrations.delivery.secrets import LazyTraceback, describe
from codomyrmex.integrations.delivery.sink import InlineSink
from codomyrmex.integrations.delivery.waiting import GRACE
from codomyrmex.streaming import Event
from codomyrmex.streaming.counters import Counter
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.provenance import ORIGIN, cause, marked, origin_of

_LAST = 5 * GRACE  # seconds for a sink that is told to stop closing

_log = Diagnostics(__name__)


class InlineWorker:
    """Calls an inline sink during publish."""

    def __init__(self, sink: InlineSink) -> None:
        self.name = sink.name
        self.sink = sink
        self._emit: Callable[[Event], None] = sink.emit
        self._origin = origin_for(sink)
        self.drain_timeout = sink.drain_timeout
        self._closed = False
        self._opened = False
        self._closing: asyncio.Task[None] | None = None
        self._last_error: str | None = None
        self.after_fork()

    def after_fork(self) -> None:
        """Count from the beginning: what was counted is the parent's."""
        self._taken = Counter()
        self._given_up = Counter()
        self._dropped: dict[str, Counter] = {}
        self._last_success = 0.0
        if self._opened and type(self.sink).open is not InlineSink.open:
            self._emit = _refuse  # what goes on behind it does so in the parent

    # The hot path: one look for the rare origin, one call, one count. What was not delivered is counted
    # besides and subtracted.
    def take(self, event: Event) -> None:
        try:
            next(self._taken.steps)
            if ORIGIN in event.metadata:
                self._emit_marked(event)
            else:
                self._emit(event)
            self._last_success = time()
        except DroppedError as error:
            self._drop(getattr(error, "reason", None) or type(error).__name__)
        except Exception as error:  # noqa: BLE001 - a sink's failure is its own
            self._given_up.tick()
            self._last_error = describe(error)
            _log.warning(
                self.name,
                "sink %s failed on event %s: %s\n%s",
                self.name,
                event.id,
                self._last_error,
                LazyTraceback(error),
            )
        except BaseException:
            self._drop(INTERRUPTED)
            raise

    def _drop(self, reason: object) -> None:
        self._dropped.setdefault(str(reason), Counter()).tick()

    def _emit_marked(self, event: Event) -> None:
        """Deliver an event that has an origin, so that what comes of it does not lead back to it."""
        origin = origin_of(event) or ""
        if self._origin in origin.split():
            raise DroppedError(ABOUT_ITSELF)
        token = cause.set(marked(origin) if origin else cause.get())
        try:
            self._emit(event)
        finally:
            cause.reset(token)

    def renew_after_fork(self, start: Callable[[], None]) -> None:
        """Begin anew in a child process; what has to be opened is opened with the first event."""
        self.after_fork()
        if not self._opened:
            return
        self._opened, self._closing = False, None

        def first_emit(event: Event) -> None:
            self._emit = self.sink.emit
            start()
            self._emit(event)

        self._emit = first_emit

    async def start(self) -> None:
        """Open the sink."""
        await self.sink.open()
        self._opened = True

    async def stop(self, timeout: float | None) -> None:  # noqa: ASYNC109 - part of one overall deadline
        self._closed = True
        if not self._opened:
            return
        self._opened = False
        limit = self.drain_timeout if timeout is None else timeout
        closing = self._closing = asyncio.ensure_future(self._call_close())
        try:
            await asyncio.wait({closing}, timeout=max(limit, GRACE))
            if not closing.done():
                closing.cancel()
                await asyncio.wait({closing}, timeout=_LAST)
        finally:
            if not closing.done():
                closing.cancel()
                _log.warning(self.name, "sink %s does not close; it is left alone", self.name)
            elif not closing.cancelled() and (error := closing.exception()) is not None:
                _log.warning(self.name, "sink %s failed to close", self.name, error=error)

    async def _call_close(self) -> None:
        await self.sink.close()

    def cut(self) -> None:
        if self._closing is not None:
            self._closing.cancel()

    def flush(self) -> asyncio.Future[None] | None:
        if not self._opened or type(self.sink).flush is InlineSink.flush:
            return None  # nothing waits
        return asyncio.ensure_future(self._call_flush())

    async def _call_flush(self) -> None:
        try:
            await self.sink.flush()
        except Exception as error:  # noqa: BLE001 - a sink's failure is its own
            _log.warning(f"{self.name} flush", "sink %s failed to flush", self.name, error=error)

    def report(self) -> SinkReport:
        dropped = {reason: counter.value() for reason, counter in list(self._dropped.items())}
        given_up = self._given_up.value()
        delivered = self._taken.value() - given_up - sum(dropped.values())
        return SinkReport(delivered, given_up, dropped, 0)

    def health(self) -> SinkHealth:
        report = self.report()
        return SinkHealth(
            state=SinkState.CLOSED if self._closed else SinkState.OK,
            queued=0,
            in_flight=0,
            delivered=report.delivered,
            retried=0,
            dropped=report.dropped,
            dead=report.given_up,
            last_error=self._last_error,
            last_success=datetime.fromtimestamp(self._last_success, UTC) if self._last_success else None,
            oldest_age=0.0,
            capacity=0,
        )


def _refuse(_: Event) -> None:
    raise DroppedError(FORKED)
