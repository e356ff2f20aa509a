"""The tools that read: streams and their events, alerts, sinks and circuit breakers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from codomyrmex.integrations.mcp.access import require_everything
from codomyrmex.integrations.mcp.backend import DEFAULT_STREAM, Backend, BackendError
from codomyrmex.integrations.mcp.results import (
    AlertState,
    BreakerList,
    EventPage,
    GroupPage,
    RouteExplanation,
    SilencePage,
    SilenceState,
    SinkList,
    StreamList,
    Subscribed,
    WhyNotNotified,
)
from codomyrmex.integrations.mcp.shaping import shaped, shaped_events
from codomyrmex.integrations.mcp.subscriptions import Subscriptions
from codomyrmex.streaming import Clock
from codomyrmex.streaming.topics import check_pattern
from pydantic import Field

MAX_LIMIT = 50
MAX_WAIT = 30.0  # seconds
MAX_WAITING = 100  # calls at once
_MAX_LABELS = 100

Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="The maximum number of items.")]
Name = Annotated[str, Field(min_length=1, max_length=200, description="The name of the stream.")]
Topic = Annotated[
    str,
    Field(
        max_length=500,
        description='A topic or pattern: "*" is one token, ">" at the end one or more, "*" alone everything.',
    ),
]
Timeout = Annotated[
    float, Field(ge=0, le=MAX_WAIT, description="How many seconds to wait if there is no event yet.")
]
Cursor = Annotated[str, Field(max_length=200, description="The `cursor` of an earlier result.")]
Matchers = Annotated[
    str,
    Field(
        max_length=4_000, description='Alertmanager matchers, such as `service="orders", severity=~"c.*"`.'
    ),
]
Labels = Annotated[dict[str, str], Field(max_length=_MAX_LABELS, description="Labels with their values.")]


class ReadTools:
    """The tools that read; each public method is a tool, and its docstring the tool's description.

    Args:
        backend: what the tools read.
        clock: measures how long subscriptions are idle.
    """

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend = backend
        self._subscriptions = Subscriptions(clock)
        self._waiting = 0

    # Streams

    async def stream_status(
        self, stream_name: Annotated[Name | None, Field(description="null for all streams.")] = None
    ) -> StreamList:
        """Return the streams with their type, subscribers, buffer and recent topics.

        The result is empty if there is no stream with the name.
        """
        streams = [
            each.model_copy(
                update={"subscriber_count": each.subscriber_count + self._subscriptions.count(each.name)}
            )
            for each in await self._backend.streams(stream_name)
        ]
        return shaped(StreamList(streams=streams, total_streams=len(streams)))

    async def stream_subscribe(self, stream_name: Name, topic: Topic = "*") -> Subscribed:
        """Subscribe to events that are published from now on. Use stream_read to read them.

        A subscription that is not read for ten minutes expires.
        """
        _check_topic(topic)
        page = await self._backend.events(stream_name, topic, None, 1, 0)
        id_ = self._subscriptions.add(stream_name, topic, page.cursor)
        return Subscribed(subscription_id=id_, stream_name=stream_name, topic=topic)

    async def stream_read(
        self,
        subscription_id: Annotated[str, Field(max_length=100, description="From stream_subscribe.")],
        limit: Limit = 10,
        timeout: Timeout = 0,  # noqa: ASYNC109 - a parameter of the tool
    ) -> EventPage:
        """Return the next events of a subscription, oldest first. Each event is returned once."""
        subscription = self._subscriptions.get(subscription_id)
        subscription.reading = True
        try:
            page = await self._events(
                subscription.stream_name, subscription.topic, subscription.cursor, limit, timeout
            )
        finally:
            subscription.reading = False
        subscription.cursor = page.cursor
        return page

    async def recent_events(
        self,
        topic: Topic = "*",
        since_cursor: Annotated[Cursor | None, Field(description="null for the newest events.")] = None,
        limit: Limit = 10,
        stream_name: Name = DEFAULT_STREAM,
    ) -> EventPage:
        """Return the newest events, oldest first, or those after a cursor."""
        return await self._events(stream_name, topic, since_cursor, limit, 0)

    async def wait_for_events(
        self,
        topic: Topic = "*",
        cursor: Annotated[Cursor | None, Field(description="null for events from now on.")] = None,
        timeout: Timeout = MAX_WAIT,  # noqa: ASYNC109 - a parameter of the tool
        limit: Limit = 10,
        stream_name: Name = DEFAULT_STREAM,
    ) -> EventPage:
        """Wait for events after a cursor, and return them; the result is empty after the timeout.

        Pass the cursor of the result to the next call so that no event is missed. On a durable stream, the
        cursor remains valid when the server restarts.
        """
        if cursor is None:
            _check_topic(topic)
            cursor = (await self._backend.events(stream_name, topic, None, 1, 0)).cursor
        return await self._events(stream_name, topic, cursor, limit, timeout)

    async def _events(
        self, stream_name: str, topic: str, cursor: str | None, limit: int, wait: float
    ) -> EventPage:
        _check_topic(topic)
        with self._waits() if wait else _no_wait():
            page = await self._backend.events(stream_name, topic, cursor, limit, wait)
        return shaped_events(page, newest=cursor is None or page.missed)

    @contextmanager
    def _waits(self) -> Iterator[None]:
        if self._waiting >= MAX_WAITING:
            raise BackendError(f"already {MAX_WAITING} calls are waiting for events; try again soon")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    # Alerts

    async def alert_groups(
        self,
        state: Annotated[
            AlertState | None, Field(description="suppressed: silenced, inhibited or muted. null for any.")
        ] = None,
        matchers: Matchers = "",
        limit: Limit = 10,
    ) -> GroupPage:
        """Return groups of alerts, firing ones first, with those of their alerts that match all matchers."""
        require_everything()
        return shaped(await self._backend.groups(matchers, state, limit))

    async def explain_route(self, labels: Labels) -> RouteExplanation:
        """Return where an alert with exactly these labels would be sent now, and why routes match or not."""
        require_everything()
        return shaped(await self._backend.explain(labels))

    async def why_not_notified(
        self,
        group: Annotated[
            str | None, Field(max_length=8_000, description="The `key` of a group, from alert_groups.")
        ] = None,
        labels: Annotated[Labels | None, Field(description="Labels that each alert must have.")] = None,
        limit: Limit = 10,
    ) -> WhyNotNotified:
        """Return why nobody was notified about the alerts of a group, or the alerts that have these labels.

        The reasons for each alert: there is no such alert, it is resolved, silenced, inhibited (by which
        alert) or muted, its group_wait is not over, the notification is in flight, the channel failed or is
        rate limited, the receiver was already notified (when), or the receiver has no channel. Use it for
        questions such as "why was nobody paged for orders?", with `{"service": "orders"}`.
        """
        require_everything()
        if not labels and not group:
            raise BackendError("labels: at least one label, or a group, is required")
        return shaped(await self._backend.why_not_notified(labels or {}, group or None, limit))

    async def silences(
        self,
        state: Annotated[SilenceState | None, Field(description="null for any.")] = None,
        limit: Limit = 10,
    ) -> SilencePage:
        """Return the silences, active ones first."""
        require_everything()
        return shaped(await self._backend.silences(state, limit))

    # Delivery

    async def sinks(self, limit: Limit = MAX_LIMIT) -> SinkList:
        """Return the health of the sinks and the alert channels: state, queue, dropped events, last error."""
        require_everything()
        return shaped(await self._backend.sinks(limit))

    async def breakers(self, limit: Limit = MAX_LIMIT) -> BreakerList:
        """Return the circuit breakers, open ones first, with the reason for their state."""
        require_everything()
        return shaped(await self._backend.breakers(limit))


@contextmanager
def _no_wait() -> Iterator[None]:
    yield


def _check_topic(topic: str) -> None:
    try:
        check_pattern(topic)
    except ValueError as error:
        raise BackendError(str(error)) from None
