"""`Outbox`: appends the alerts of this process to the log of a shared state."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from codomyrmex.integrations.durable.entries import EventTooLargeError
from codomyrmex.integrations.notification.alerts.alert import Alert
from codomyrmex.integrations.notification.alerts.control import alert_event, log_event, post_event
from codomyrmex.integrations.notification.alerts.engine_runner import EngineRunner
from codomyrmex.integrations.notification.alerts.notification import LogEntry
from codomyrmex.integrations.notification.alerts.notifier import Parts
from codomyrmex.integrations.notification.alerts.shared_state import SharedState
from codomyrmex.streaming import Event

T = TypeVar("T")

_ITEMS = 100  # in an entry


class Outbox:
    """Appends the alerts of this process to the log from which the process that notifies reads them.

    Args:
        parts: what the notifier works with.
        runner: makes alerts of events, on its thread.
        state: the shared state.
    """

    def __init__(self, parts: Parts, runner: EngineRunner, state: SharedState) -> None:
        self._name, self._buffer = parts.name, parts.buffer
        self._runner = runner
        self._state = state
        self._alerts: deque[Alert] = deque()  # for which the log had no room yet

    def __len__(self) -> int:
        return len(self._alerts) + len(self._buffer)

    async def post(self, alerts: Sequence[Alert]) -> None:
        """Append alerts of `AlertSink.post`.

        Raises:
            StoreUnavailableError: the store is not available.
        """
        await self._append(alerts, post_event)

    async def add_to_log(self, entries: Mapping[str, LogEntry]) -> None:
        """Append what was sent.

        Raises:
            StoreUnavailableError: the store is not available.
        """
        await self._append([*entries.items()], lambda items: log_event(dict(items)))

    async def _append(self, items: Sequence[T], event_of: Callable[[Sequence[T]], Event]) -> None:
        for start in range(0, len(items), _ITEMS):
            await self._append_part(items[start : start + _ITEMS], event_of)

    async def _append_part(self, items: Sequence[T], event_of: Callable[[Sequence[T]], Event]) -> None:
        try:
            await self._state.stream.publish_to_group(event_of(items), self._name)
        except EventTooLargeError:
            if len(items) == 1:
                raise
            middle = len(items) // 2
            await self._append_part(items[:middle], event_of)
            await self._append_part(items[middle:], event_of)

    async def publish(self) -> bool:
        """Append what is in the buffer; return False if the log has no room for all of it yet."""
        if not self._alerts:
            batch = self._buffer.get_all()
            if not batch.events and not batch.dropped:
                return True
            self._alerts += await self._runner.alerts_of(batch)
        stream = self._state.stream
        while self._alerts:
            if not stream.publish_to_group_nowait(alert_event(self._alerts[0]), self._name):
                return False
            self._alerts.popleft()
        return True
