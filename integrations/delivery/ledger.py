"""What became of the events of one queued sink, how it is, and what the log says of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime

from codomyrmex.integrations.delivery.errors import DeliveryError
from codomyrmex.integrations.delivery.health import SinkState
from codomyrmex.integrations.delivery.report import FORKED, QUEUE_FULL
from codomyrmex.integrations.delivery.secrets import LazyTraceback, describe
from codomyrmex.streaming import Overflow
from codomyrmex.streaming.counters import Counter
from codomyrmex.streaming.diagnostics import Diagnostics

_FULL_LINE_EVERY = 10.0  # seconds between lines about a full queue

_log = Diagnostics(__name__)


class Ledger:
    """The counts and the state of one queued sink.

    Drops are counted from any thread; all else on the loop of the delivery.

    Args:
        name: the name of the sink.
        changed: called with the state before, when it is another one.

    Attributes:
        delivered: events that the sink took.
        retried: events sent again.
        dead: events given up.
        lost: events that were left at the end.
        state: what the sink is doing.
        last_error: what went wrong last, without secrets.
        last_success: when it last took something.
    """

    def __init__(self, name: str, changed: Callable[[SinkState], None]) -> None:
        self.delivered = self.retried = self.dead = self.lost = 0
        self.state = SinkState.OK
        self.last_error: str | None = None
        self.last_success: datetime | None = None
        self._name = name
        self._changed = changed
        self._dropped: dict[str, Counter] = {}
        self._next_full_line = -math.inf

    def took(self, events: int) -> None:
        """Note how many events of an attempt were delivered."""
        if events:
            self.delivered += events
            self.last_success = datetime.now(UTC)

    def become(self, state: SinkState) -> None:
        """Note what the sink is doing now."""
        old, self.state = self.state, state
        if old is not state:
            self._changed(old)

    def failed(self, error: BaseException, failed: int, size: int) -> None:
        """Note and log that an attempt has not delivered so many events of a batch of some size."""
        self.last_error = describe(error)
        message = "sink %s: an attempt did not deliver %d of %d events: %s"
        if isinstance(error, (DeliveryError, OSError)):
            _log.warning(self._name, message, self._name, failed, size, self.last_error)
        else:  # perhaps a mistake in the sink
            message += "\n%s"
            trace = LazyTraceback(error)
            _log.warning(self._name, message, self._name, failed, size, self.last_error, trace)

    def gave_up(self, events: int, attempts: int) -> None:
        """Note and log that events will not be tried again."""
        self.dead += events
        self.warn("sink %s: %d events were given up, after %d attempts", events, attempts)

    def warn(self, message: str, *args: object, error: BaseException | None = None) -> None:
        """Log something about the sink: a %-format whose first value is its name."""
        if error is not None:
            self.last_error = describe(error)
            message, args = f"{message}: %s", (*args, self.last_error)
        _log.warning(f"{self._name}: {message}", message, self._name, *args)

    def drop(self, reason: str) -> None:
        """Count an event that never came to the sink."""
        self._dropped.setdefault(reason, Counter()).tick()

    def drops(self, evicted: int) -> dict[str, int]:
        """Give what was dropped by reason, with what the queue itself has evicted."""
        drops = {reason: counter.value() for reason, counter in list(self._dropped.items())}
        if evicted:
            drops[QUEUE_FULL] = drops.get(QUEUE_FULL, 0) + evicted
        return drops

    # What a publisher pays for where a sink hangs, so it does little; the queue counts what it evicts.
    def queue_is_full(self, size: int, overflow: Overflow, now: float) -> None:
        """Count, and now and then log, an event for which there was no room."""
        if overflow is not Overflow.DROP_OLDEST:
            self.drop(QUEUE_FULL)
        if now >= self._next_full_line:
            self._next_full_line = now + _FULL_LINE_EVERY
            self.warn("sink %s: its queue of %d is full, events are dropped (%s)", size, overflow.value)

    def refuse_after_fork(self, _: object, /) -> None:
        """Count an event that was published in a child process, where the sink is its parent's."""
        self.drop(FORKED)
        self.warn(
            "sink %s belongs to the process that this one was forked from; its events are dropped here. "
            "Attach again in the child process, or use attach_blocking"
        )
