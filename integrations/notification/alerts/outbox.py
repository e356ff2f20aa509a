"""`Outbox`: appends the alerts of this process to the log of a shared state."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from codomyrmex.integrations.durable.entries import EventTooLargeError
from codomyrmex.integrations.notification.alerts.alert import Alert
from codomyrmex.integrations.notification.alerts.control import alert_event, post_event
from codomyrmex.integrations.notification.alerts.engine_runner import EngineRunner
from codomyrmex.integrations.notification.alerts.notifier import Parts
from codomyrmex.integrations.notification.alerts.shared_state import SharedState

_POSTED = 100  # alerts in an entry


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
        for start in range(0, len(alerts), _POSTED):
            await self._post(alerts[start : start + _POSTED])

    async def _post(self, alerts: Sequence[Alert]) -> None:
        try:
            await self._state.stream.publish_to_group(post_event(alerts), self._name)
        except EventTooLargeError:
            if len(alerts) == 1:
                raise
            middle = len(alerts) // 2
            await self._post(alerts[:middle])
            await self._post(alerts[middle:])

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
