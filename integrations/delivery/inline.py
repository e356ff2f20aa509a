"""`InlineWorker`: how an inline sink gets its events, during publish."""

from __future__ import annotations

from datetime import UTC, datetime
from time import time

from codomyrmex.integrations.delivery.errors import DroppedError
from codomyrmex.integrations.delivery.health import SinkHealth, SinkState, origin_for
from codomyrmex.integrations.delivery.report import ABOUT_ITSELF, INTERRUPTED, SinkReport
from codomyrmex.integrations.delivery.secrets import LazyTraceback, describe
from codomyrmex.integrations.delivery.sink import InlineSink
from codomyrmex.streaming import Event
from codomyrmex.streaming.causes import ORIGIN, cause, marked, origin_of
from codomyrmex.streaming.counters import Counter
from codomyrmex.streaming.diagnostics import Diagnostics

_log = Diagnostics(__name__)


class InlineWorker:
    """Calls an inline sink during publish."""

    def __init__(self, sink: InlineSink) -> None:
        self.name = sink.name
        self.sink = sink
        self._emit = sink.emit
        self._origin = origin_for(sink)
        self._closed = False
        self._last_error: str | None = None
        self.after_fork()

    def after_fork(self) -> None:
        """Count from the beginning: what was counted is the parent's."""
        self._taken = Counter()
        self._given_up = Counter()
        self._dropped: dict[str, Counter] = {}
        self._last_success = 0.0

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

    async def start(self) -> None:
        """Nothing to open."""

    async def stop(self, timeout: float | None) -> None:  # noqa: ASYNC109, ARG002 - nothing is queued
        self._closed = True

    def cut(self) -> None:
        """Nothing to end."""

    def flush(self) -> None:
        """Nothing to wait for."""

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
