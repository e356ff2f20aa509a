"""`Trimmer`: removes what a log need not keep, in one process at a time."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

from codomyrmex.integrations.durable.store import Retention, StoreConfigError, StoreUnavailableError
from codomyrmex.integrations.durable.tail import Tail
from codomyrmex.streaming.diagnostics import Diagnostics

if TYPE_CHECKING:
    from codomyrmex.integrations.durable.admin import StreamAdmin

UNREAD_LIMIT = Retention(max_events=inf)
"""How much more is kept, by default, while a group has not read it: 1 GiB and 7 days."""

_INTERVAL = 5.0  # seconds between two looks at the log
_EXCESS = 0.1  # of `max_events`: trimmed earlier if the log has grown by this part
_LOOK = 0.25  # seconds between two looks at how much the log has grown

_log = Diagnostics(__name__)


class Trimmer:
    """Trims the log of a stream, and that of its dead letters.

    Args:
        admin: the stream.
        retention: how much is kept.
        unread_limit: how much more is kept while a group has not read it.
        owner: who holds the lease.
        lease: seconds until another process takes over.
        tail: the newest entries.
    """

    def __init__(
        self,
        admin: StreamAdmin,
        retention: Retention,
        unread_limit: Retention,
        owner: str,
        lease: float,
        tail: Tail,
    ) -> None:
        self._admin = admin
        self._retention = retention
        self._unread = Retention(
            max_events=retention.max_events + unread_limit.max_events,
            max_bytes=retention.max_bytes + unread_limit.max_bytes,
            max_age=retention.max_age + unread_limit.max_age,
        )
        self._owner = owner
        self._lease = lease
        self._tail = tail

    async def run(self) -> None:
        """Trim now and then, until cancelled."""
        while True:
            await self._wait()
            try:
                lease = await self._admin.store.acquire(
                    f"{self._admin.name}/retention", self._owner, max(self._lease, _INTERVAL)
                )
                if lease is not None:
                    await self.trim()
            except (StoreUnavailableError, StoreConfigError):
                pass  # the stream reports that
            except Exception as error:  # noqa: BLE001 - a bug in a store must not end the trimming
                _log.warning("trim", "%s: the log could not be trimmed", self._admin.name, error=error)

    async def _wait(self) -> None:
        """Wait for the next time, or until the log has grown considerably."""
        start = self._tail.last or 0
        excess = max(self._retention.max_events * _EXCESS, 1)
        for _ in range(round(_INTERVAL / _LOOK)):
            await asyncio.sleep(_LOOK)
            if (self._tail.last or 0) - start > excess:
                return

    async def trim(self) -> int:
        """Remove what need not be kept, and return how many events that were."""
        store, admin = self._admin.store, self._admin
        bounds = await store.bounds(admin.name)
        if bounds is None:
            return 0
        positions = [group.position(bounds.epoch) for group in await admin.saved_groups()]
        unread = min([*positions, bounds.last])
        removed = await store.trim(admin.name, self._retention, unread)
        removed += await store.trim(admin.name, self._unread, bounds.last)
        await store.trim(admin.dead_log, self._retention, 2**62)
        return removed
