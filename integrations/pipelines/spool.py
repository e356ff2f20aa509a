"""`Spool`: keeps the events of a pipeline in a store until its sinks have received them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.health import DrainReport, SinkHealth, SinkState
from codomyrmex.integrations.durable.store import (
    StoreConfigError,
    StoreError,
    StoreUnavailableError,
    UnconfirmedError,
)
from codomyrmex.integrations.durable.stream import DurableStream
from codomyrmex.streaming import Event

_AWAY_LIMIT = 2.0  # seconds for each step of the end, if the store is not available
_LOOK = 0.1  # seconds between looks at a state that changes now and then
_LEASE_MARGIN = 2.0  # seconds until the end of a lease has been noticed

_log = Diagnostics(__name__)


class Spool:
    """Keeps the events of a pipeline in a store until its sinks have received them.

    Args:
        stream: the events.
        lease: seconds after which another process takes over from one that was killed.

    Attributes:
        stored: how many events were stored.
        refused: how many the store refused, such as one that is too large.
    """

    def __init__(self, stream: DurableStream, lease: float) -> None:
        self.stream = stream
        self.stored = self.refused = 0
        self._lease = lease
        self._opened = False
        self._left: dict[str, int] = {}

    async def open(self) -> None:
        """Connect to the store.

        Raises:
            StoreError: it is not available, or cannot be used as it is.
        """
        await self.stream.open()
        self._opened = True

    async def publish(self, events: list[Event]) -> bool:
        """Store events in order; while the store is not available, wait for it.

        Args:
            events: those that are stored or refused are removed from the list.

        Returns:
            Whether all are stored; others were refused, and are counted.
        """
        refused = self.refused
        while events:
            publishing = (self.stream.publish(event) for event in events)
            results = await asyncio.gather(*publishing, return_exceptions=True)
            again: list[Event] = []
            stored = 0
            for event, result in zip(events, results, strict=True):
                if result is None or isinstance(result, UnconfirmedError):
                    stored += 1
                elif isinstance(result, StoreUnavailableError | StoreConfigError):
                    again.append(event)
                elif isinstance(result, StoreError):
                    self.refused += 1
                    _log.warning("refused", "spool: an event was refused: %s", result)
                else:
                    raise result
            if any(isinstance(result, UnconfirmedError) for result in results):
                await self.stream.flush()  # they are stored when the store is available again
            self.stored += stored
            events[:] = again
            if again:
                await self._available()
        return self.refused == refused

    async def _available(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            if self.stream.health().available:
                return

    async def wait_for_lease(self, health: Callable[[], Mapping[str, SinkHealth]]) -> None:
        """Wait while another process, which may have been killed, holds the lease of a sink."""
        end = time.monotonic() + self._lease + _LEASE_MARGIN
        while time.monotonic() < end:
            if all(sink.state is not SinkState.STANDBY for sink in health().values()):
                return
            await asyncio.sleep(_LOOK)

    def limit(self, timeout: float | None) -> float | None:
        """Return the limit for delivering what is left: a shorter one if the store is not available."""
        if self.stream.health().available:
            return timeout
        return _AWAY_LIMIT if timeout is None else min(timeout, _AWAY_LIMIT)

    async def aclose(self) -> None:
        """Note what is left, and close the store."""
        if self._opened and self.stream.health().available:
            with suppress(StoreError):
                self._left = {group.name: group.lag for group in await self.stream.groups()}
        self._opened = False
        with suppress(TimeoutError):
            async with asyncio.timeout(self.limit(None)):
                await self.stream.aclose()

    def complete(self, report: DrainReport) -> DrainReport:
        """Return a report with what is left for each sink, whichever process delivers it."""
        sinks = report.sinks.items()
        return DrainReport(
            {name: sink._replace(left=self._left.get(name, sink.left)) for name, sink in sinks}
        )

    def health(self) -> SinkHealth:
        """Return the health of the store as if it was a sink."""
        health = self.stream.health()
        dropped = {"refused": self.refused} if self.refused else {}
        return SinkHealth(
            state=SinkState.RETRYING
            if not health.available
            else SinkState.DEGRADED
            if dropped
            else SinkState.OK,
            queued=health.pending,
            in_flight=0,
            delivered=self.stored,
            retried=0,
            dropped=dropped,
            dead=0,
            last_error=health.last_error,
            last_success=None,
            oldest_age=health.unavailable_for,
            capacity=0,
        )
