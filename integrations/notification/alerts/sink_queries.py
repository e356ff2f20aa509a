"""`SinkQueries`: the methods of an alert sink that query alerts, groups and silences, or change silences."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TypeVar

from codomyrmex.integrations.notification.alerts.alert_views import (
    EVERYTHING,
    AlertFigures,
    AlertFilter,
    AlertGroupView,
    AlertView,
    alert_groups_of,
    alerts_of,
    figures_of,
)
from codomyrmex.integrations.notification.alerts.engine import AlertEngine
from codomyrmex.integrations.notification.alerts.explain import Explanation, explain
from codomyrmex.integrations.notification.alerts.notifier import Notifier
from codomyrmex.integrations.notification.alerts.silences import Silence
from codomyrmex.integrations.notification.alerts.views import GroupView, views_of
from codomyrmex.integrations.notification.alerts.why import WhyNotNotified, why_not_notified

T = TypeVar("T")


class SinkQueries(ABC):
    """The queries of `AlertSink`; all raise a RuntimeError while it is not open.

    They read the engine of this process. With a shared state, it follows that of the process that notifies.
    """

    async def flush(self) -> None:
        """Wait until the engine has all events published so far, and the channels all due notifications."""
        await self._open_notifier().flush()

    async def explain(self, labels: Mapping[str, str]) -> Explanation:
        """Explain where an alert with these labels would be sent now, and why."""
        now = self.now()
        return await self._query(lambda engine: explain(engine.config, labels, now, engine))

    async def why_not_notified(
        self, labels: Mapping[str, str], group: str | None = None, limit: int = 20
    ) -> WhyNotNotified:
        """Return why receivers were not notified about alerts, or when they were.

        Args:
            labels: labels that the alerts must have; may be empty if a group is passed.
            group: the key of the group of the alerts; None for all groups.
            limit: the maximum number of alerts in the result.

        Raises:
            ValueError: neither labels nor a group are passed.
        """
        health, now = self._open_notifier().health(), self.now()
        errors = {name: part.last_error for name, part in health.items() if part.last_error}
        return await self._query(lambda engine: why_not_notified(engine, now, labels, group, limit, errors))

    async def groups(self) -> list[GroupView]:
        """Return the current groups."""
        now = self.now()
        return await self._query(lambda engine: views_of(engine, now))

    async def alerts(self, chosen: AlertFilter = EVERYTHING) -> list[AlertView]:
        """Return the firing alerts, sorted by fingerprint."""
        now = self.now()
        return await self._query(lambda engine: alerts_of(engine, now, chosen))

    async def alert_groups(self, chosen: AlertFilter = EVERYTHING) -> list[AlertGroupView]:
        """Return the groups that have firing alerts, sorted by labels and receiver."""
        now = self.now()
        return await self._query(lambda engine: alert_groups_of(engine, now, chosen))

    async def figures(self) -> AlertFigures:
        """Return the values of Alertmanager's metrics."""
        notifier, now = self._open_notifier(), self.now()
        counted = await self._query(lambda engine: figures_of(engine, now))
        members = len(await notifier.members())
        return counted._replace(counts=notifier.dispatcher.counts, members=members)

    async def members(self) -> list[str]:
        """Return the names of the processes that share their alerts, including this one."""
        return await self._open_notifier().members()

    async def silences(self) -> list[Silence]:
        """Return the silences, including those that expired within five days."""
        return await self._query(lambda engine: list(engine.silences.values()))

    async def add_silence(self, silence: Silence) -> None:
        """Add a silence, or replace the one with its id; within a second it is in force in all processes.

        Raises:
            StoreUnavailableError: the store of the shared state is not available.
        """
        await self._open_notifier().put_silence(silence)

    async def expire_silence(self, silence_id: str) -> None:
        """Expire a silence now.

        Raises:
            KeyError: no silence has this id.
            StoreUnavailableError: the store of the shared state is not available.
        """
        notifier, now = self._open_notifier(), self.now()
        silence = await self._query(lambda engine: engine.silences[silence_id])
        if now < silence.ends_at:
            await notifier.put_silence(silence.ended(now))

    def now(self) -> float:
        """Return the time of the engine, in seconds since 1970; the sink must be open."""
        return self._open_notifier().now()

    async def _query(self, function: Callable[[AlertEngine], T]) -> T:
        return await self._open_notifier().query(function)

    @abstractmethod
    def _open_notifier(self) -> Notifier:
        """Return the notifier, or raise a RuntimeError if the sink is not open."""
