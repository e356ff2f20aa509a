"""`Backend`: what the tools read and change, in this process or in another one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from codomyrmex.integrations.mcp.results import (
    AlertState,
    BreakerList,
    CreatedStream,
    EventPage,
    ExpiredSilence,
    GroupPage,
    PublishedEvent,
    Replayed,
    RouteExplanation,
    SilenceItem,
    SilencePage,
    SilenceState,
    SinkList,
    StreamInfo,
    StreamType,
    WhyNotNotified,
)

DEFAULT_STREAM = "default"
"""The name of the stream that a backend is created with."""


class BackendError(Exception):
    """A call of a tool failed; the message is one sentence that names the value and contains no secrets."""


class Backend(ABC):
    """What the tools read and change.

    The tools check the bounds of numbers and texts, keep the subscriptions, and shorten long results. If a
    call fails, methods raise BackendError and no other exception.
    """

    # Streams

    @abstractmethod
    async def create_stream(self, name: str, stream_type: StreamType, buffer_size: int) -> CreatedStream:
        """Create a stream of the type `in_memory`, `sse` or `topic`."""

    @abstractmethod
    async def publish(
        self,
        stream_name: str,
        data: Any,
        event_type: str,
        topic: str | None,
        metadata: Mapping[str, Any],
    ) -> PublishedEvent:
        """Publish an event."""

    @abstractmethod
    async def streams(self, name: str | None) -> list[StreamInfo]:
        """Return all streams, or the one with a name if it exists.

        The subscriber counts do not include the subscriptions of the tools.
        """

    @abstractmethod
    async def events(
        self, stream_name: str, topic: str, cursor: str | None, limit: int, wait: float
    ) -> EventPage:
        """Return the newest events, oldest first, or the first ones after a cursor.

        If there are none after the cursor, wait up to `wait` seconds for one. The call can be cancelled.
        """

    # Alerts

    @abstractmethod
    async def groups(self, matchers: str, state: AlertState | None, limit: int) -> GroupPage:
        """Return groups with those of their alerts that match all matchers, in Alertmanager's syntax."""

    @abstractmethod
    async def explain(self, labels: Mapping[str, str]) -> RouteExplanation:
        """Return where an alert with these labels would be sent."""

    @abstractmethod
    async def why_not_notified(
        self, labels: Mapping[str, str], group: str | None, limit: int
    ) -> WhyNotNotified:
        """Return why nobody was notified about the alerts of a group, or the alerts with these labels."""

    @abstractmethod
    async def silences(self, state: SilenceState | None, limit: int) -> SilencePage:
        """Return silences."""

    @abstractmethod
    async def add_silence(
        self, matchers: str, seconds: float, created_by: str, comment: str, *, dry_run: bool
    ) -> SilenceItem:
        """Add a silence that starts now, and return it; with `dry_run`, only return it."""

    @abstractmethod
    async def expire_silence(self, silence_id: str) -> ExpiredSilence:
        """Expire a silence now."""

    # Delivery

    @abstractmethod
    async def sinks(self, limit: int) -> SinkList:
        """Return the health of the sinks, and of the channels of the alert sink."""

    @abstractmethod
    async def breakers(self, limit: int) -> BreakerList:
        """Return the circuit breakers."""

    @abstractmethod
    async def replay_dead_letters(self) -> Replayed:
        """Queue the dead letters again."""

    async def aclose(self) -> None:
        """End the calls that wait, and release all resources."""
        return
