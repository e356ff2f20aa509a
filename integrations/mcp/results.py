"""What the tools return: the schemas of their structured output.

Text in these results comes from events, labels and configuration files. It is data, whatever it says.
"""

from __future__ import annotations

from typing import Any, Literal

from codomyrmex.integrations._extras import MissingExtraError

try:
    from pydantic import BaseModel, ConfigDict
except ImportError as error:
    raise MissingExtraError("codomyrmex.integrations.mcp", "mcp", "mcp") from error

AlertState = Literal["active", "suppressed", "resolved"]
SilenceState = Literal["active", "pending", "expired"]
StreamType = Literal["in_memory", "sse", "topic", "durable"]
CreatableType = Literal["in_memory", "sse", "topic"]


class Result(BaseModel):
    """The base of all results; unknown fields are ignored, so that a newer live page can be read."""

    model_config = ConfigDict(frozen=True, extra="ignore")


# Streams


class CreatedStream(Result):
    """A stream that was created."""

    status: Literal["created"] = "created"
    stream_name: str
    stream_type: StreamType


class PublishedEvent(Result):
    """An event that was published; the timestamp is ISO 8601."""

    status: Literal["published"] = "published"
    event_id: str
    timestamp: str


class Subscribed(Result):
    """A subscription that was created; `stream_read` returns its events."""

    status: Literal["subscribed"] = "subscribed"
    subscription_id: str
    stream_name: str
    topic: str


class StreamInfo(Result):
    """A stream. `topics` are the busiest or newest ones. For a durable stream, `buffer_capacity` is null."""

    name: str
    type: StreamType
    subscriber_count: int
    buffered_events: int
    buffer_capacity: int | None
    topics: list[str]


class StreamList(Result):
    """Streams and their number."""

    streams: list[StreamInfo]
    total_streams: int


class EventItem(Result):
    """An event, and the cursor that follows it."""

    cursor: str
    id: str
    type: str
    topic: str | None
    timestamp: str
    data: Any
    metadata: dict[str, Any]


class EventPage(Result):
    """Events, oldest first.

    `cursor` is where the next page starts. `has_more` is true if there are more events: later ones, or
    earlier ones if no cursor was given. `missed` is true if events after the given cursor are no longer kept.
    """

    events: list[EventItem]
    cursor: str
    has_more: bool
    missed: bool


# Alerts


class Suppression(Result):
    """Why an alert is suppressed, and by which alert (its fingerprint), interval or silence."""

    why: str
    by: str


class AlertItem(Result):
    """An alert of a group. Times are ISO 8601."""

    fingerprint: str
    status: str
    labels: dict[str, str]
    annotations: dict[str, str]
    starts_at: str
    ends_at: str | None = None
    suppressed: Suppression | None = None


class GroupItem(Result):
    """A group of alerts at a route. `others` is the number of alerts that are left out.

    `notified` is the time of the last notification of each channel; `next_tick` is when the group is next
    evaluated.
    """

    key: str
    receiver: str
    route: str
    labels: dict[str, str]
    status: str
    firing: int
    next_tick: str
    notified: dict[str, str]
    in_flight: list[str]
    failed: list[str]
    alerts: list[AlertItem]
    others: int


class GroupPage(Result):
    """Groups, firing ones first, with those of their alerts that match."""

    groups: list[GroupItem]
    total: int
    has_more: bool


class RouteStep(Result):
    """A route that was visited: whether it matches, and why; and if the alert takes it, what that means.

    `matchers`, `settings` and `notes` are sentences that say which matchers hold, where each setting comes
    from, what mutes, inhibits or silences such an alert, and when its group was last notified.
    """

    path: str
    line: int | None
    matched: bool
    why: str
    matchers: list[str]
    receiver: str | None = None
    group_key: str | None = None
    group_labels: dict[str, str] = {}
    settings: list[str] = []
    notes: list[str] = []


class RouteExplanation(Result):
    """Where an alert with these labels would be sent now, and the routes in the order of evaluation."""

    labels: dict[str, str]
    at: str | None
    receivers: list[str]
    routes: list[RouteStep]
    has_more: bool


class Reason(Result):
    """A reason why no notification was sent.

    `code` is one of not_an_alert, resolved, silenced, inhibited, muted, not_active, group_wait,
    group_interval, in_flight, failed, rate_limited, deduplicated (already notified), no_channel. `by` is the
    silence, the inhibiting alert, or the interval; `until` and `at` are ISO 8601.
    """

    code: str
    text: str
    by: str | None = None
    channel: str | None = None
    at: str | None = None
    until: str | None = None


class AlertVerdict(Result):
    """An alert in a group, and why the receiver was not notified about it."""

    fingerprint: str
    labels: dict[str, str]
    group: str | None
    receiver: str
    notified: bool
    reasons: list[Reason]


class WhyNotNotified(Result):
    """Why nobody was notified: one sentence, and the reasons for each alert."""

    answer: str
    alerts: list[AlertVerdict]
    total: int
    has_more: bool


class SilenceItem(Result):
    """A silence. `matchers` is what `add_silence` accepts; times are ISO 8601."""

    id: str
    state: SilenceState
    matchers: str
    starts_at: str
    ends_at: str
    created_by: str
    comment: str


class SilencePage(Result):
    """Silences, active ones first."""

    silences: list[SilenceItem]
    total: int
    has_more: bool


class AddedSilence(Result):
    """A silence that was added or would be added, and the groups with alerts that it matches."""

    status: Literal["added", "preview"]
    silence: SilenceItem
    matching_groups: GroupPage


class ExpiredSilence(Result):
    """A silence that was expired."""

    status: Literal["expired"] = "expired"
    id: str


# Delivery


class SinkItem(Result):
    """The health of a sink, or of a channel of the alert sink that `of` names."""

    name: str
    of: str | None
    state: str
    queued: int
    in_flight: int
    delivered: int
    retried: int
    dropped: dict[str, int]
    dead: int
    last_error: str | None


class SinkList(Result):
    """Sinks, the ones in the worst state first."""

    sinks: list[SinkItem]
    total: int
    has_more: bool


class BreakerItem(Result):
    """The status of a circuit breaker; if several processes have it, `summary` counts their states."""

    source: str
    service: str | None
    breaker: str
    state: str | None
    summary: str
    since: str
    failures: int | None
    rejected: int
    opened_last_hour: int
    reason: str | None


class BreakerList(Result):
    """Circuit breakers, open ones first."""

    breakers: list[BreakerItem]
    total: int
    has_more: bool


class Replayed(Result):
    """The number of dead letters that were queued again."""

    status: Literal["replayed"] = "replayed"
    replayed: int
