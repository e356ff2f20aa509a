"""`Outbox`: appends the alerts of this process to the log of a shared state."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.durable.entries import EventTooLargeError
from codomyrmex.integrations.notification.alerts.alert import Alert
from codomyrmex.integrations.notification.alerts.control import alert_event, log_event, post_event
from codomyrmex.integrations.notification.alerts.engine_runner import EngineRunner
from codomyrmex.integrations.notification.alerts.notification import LogEntry
from codomyrmex.integrations.notification.alerts.notifier import Parts
from codomyrmex.integrations.notification.alerts.shared_state import SharedState
from codomyrmex.streaming import Event

T = TypeVar("T")

_log = Diagnostics(__name__)

_ITEMS = 100  # in an entry


class Outbox:
    """Appends the alerts of this process to the log from which the process that notifies reads them.

    Args:
        parts: the parts of the notifier.
        runner: converts events to alerts, on its thread.
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
        """Append the alerts of `AlertSink.post`.

        Raises:
            EventTooLargeError: an alert is too large; the others are appended.
            StoreUnavailableError: the store is not available.
        """
        for error in await self._append(alerts, post_event):
            raise error

    async def add_to_log(self, entries: Mapping[str, LogEntry]) -> None:
        """Append entries of the notification log. One that is too large is left out, with a warning.

        Raises:
            StoreUnavailableError: the store is not available.
        """
        for error in await self._append([*entries.items()], lambda items: log_event(dict(items))):
            message = "sink %s: other processes may repeat a notification, as its log entry is too large: %s"
            _log.warning("too large", message, self._name, error)

    async def _append(
        self, items: Sequence[T], event_of: Callable[[Sequence[T]], Event]
    ) -> list[EventTooLargeError]:
        """Append items, as many in one entry as fit, and return the errors of items that are too large."""
        errors = []
        parts = deque(items[start : start + _ITEMS] for start in range(0, len(items), _ITEMS))
        while parts:
            part = parts.popleft()
            try:
                await self._state.stream.publish_to_group(event_of(part), self._name)
            except EventTooLargeError as error:
                middle = len(part) // 2
                if middle:
                    parts.extendleft((part[middle:], part[:middle]))
                else:
                    errors.append(error)
        return errors

    async def publish(self) -> bool:
        """Append the events of the buffer; return False if the log does not have room for all of them yet."""
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
