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
    """The base of all results; unknown fields are left out, so that a newer page can be read."""

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
    """A subscription that was made; `stream_read` returns what it received."""

    status: Literal["subscribed"] = "subscribed"
    subscription_id: str
    stream_name: str
    topic: str


class StreamInfo(Result):
    """A stream. `topics` are the busiest or newest ones; the buffer of a durable stream is its store."""

    name: str
    type: StreamType
    subscriber_count: int
    buffered_events: int
    buffer_capacity: int | None
    topics: list[str]


class StreamList(Result):
    """Streams, and how many there are."""

    streams: list[StreamInfo]
    total_streams: int


class EventItem(Result):
    """An event, and the cursor after it."""

    cursor: str
    id: str
    type: str
    topic: str | None
    timestamp: str
    data: Any
    metadata: dict[str, Any]


class EventPage(Result):
    """Events, oldest first.

    `cursor` is where the next page begins, `has_more` whether there are more events: later ones, or earlier
    ones if no cursor was given. `missed` is true if events after the given cursor are no longer kept.
    """

    events: list[EventItem]
    cursor: str
    has_more: bool
    missed: bool


# Alerts


class Suppression(Result):
    """Why an alert is suppressed, and by what: an alert's fingerprint, an interval's name, a silence's id."""

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

    `notified` has the time of each channel's last notification; `next_tick` is when the group is next checked
    for something to send.
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
    """Groups, firing ones first, with their alerts that match."""

    groups: list[GroupItem]
    total: int
    has_more: bool


class RouteStep(Result):
    """A route that was visited: whether it matches and why; for the one that decides, what it does.

    `matchers`, `settings` and `notes` are sentences: which matcher holds, where a setting comes from, what
    mutes, inhibits or silences such an alert, and what its group was notified about.
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
    """Where an alert with these labels is sent now, and the routes in the order in which they are visited."""

    labels: dict[str, str]
    at: str | None
    receivers: list[str]
    routes: list[RouteStep]
    has_more: bool


class Reason(Result):
    """A reason why a notification was not sent, or that it was.

    `code` is one of not_an_alert, resolved, silenced, inhibited, muted, not_active, group_wait,
    group_interval, in_flight, failed, rate_limited, deduplicated (already notified), no_channel. `by` is the
    silence, the inhibiting alert, or the interval; `channel` the channel; `until` and `at` are ISO 8601.
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
    """Why nobody was notified about alerts: one sentence, and the reasons for each alert."""

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
    """A silence that was added, or would be, and the firing alerts that it matches."""

    status: Literal["added", "preview"]
    silence: SilenceItem
    matching_groups: GroupPage


class ExpiredSilence(Result):
    """A silence that was expired."""

    status: Literal["expired"] = "expired"
    id: str


# Delivery


class SinkItem(Result):
    """The health of a sink, or of a channel of an alert sink, which is in `of`."""

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
    """Sinks, those in the worst state first."""

    sinks: list[SinkItem]
    total: int
    has_more: bool


class BreakerItem(Result):
    """The status of a circuit breaker; `summary` counts its processes if there are several."""

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
    """How many dead letters are delivered again."""

    status: Literal["replayed"] = "replayed"
    replayed: int
