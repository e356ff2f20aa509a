"""The notification pipeline: the stages that a group passes at each tick, in Alertmanager's order.

The stages of a group suppress alerts; those of a channel decide whether the remaining ones are sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from codomyrmex.integrations.configuration.matchers import Labels
from codomyrmex.integrations.configuration.rates import TokenBucket
from codomyrmex.integrations.notification.alerts.engine_state import EngineState
from codomyrmex.integrations.notification.alerts.group import Group, reason_to_notify
from codomyrmex.integrations.notification.alerts.intervals import TimeInterval
from codomyrmex.integrations.notification.alerts.notification import Part, Reason, Status, moment_of
from codomyrmex.integrations.notification.channels import ChannelConfig


@dataclass(slots=True)
class Flush:
    """A group on its way through the stages.

    Attributes:
        group: the group.
        now: seconds since 1970.
        alerts: the labels of the alerts that no stage has suppressed, by fingerprint.
        suppressed: for the others, what suppressed them: `inhibited`, `not active`, `muted` or `silenced`,
            and the fingerprint of the inhibiting alert, the names of the intervals, or the id of the silence.
        is_muted: whether a time interval mutes the route.
        channel: the channel, in the stages of a channel.
        part: what is sent through the channel; None if nothing is.
    """

    group: Group
    now: float
    alerts: dict[str, Labels]
    suppressed: dict[str, tuple[str, str]] = field(default_factory=dict)
    is_muted: bool = False
    channel: ChannelConfig | None = None
    part: Part | None = None

    @classmethod
    def of(cls, group: Group, now: float) -> Self:
        """Return a flush with all alerts of a group."""
        return cls(group, now, {key: alert.labels for key, alert in group.alerts.items()})

    def is_in(self, interval: TimeInterval) -> bool:
        """Return whether the time is in an interval."""
        return interval.holds(moment_of(self.now))

    def suppress(self, key: str, reason: str, by: str) -> None:
        del self.alerts[key]
        self.suppressed[key] = reason, by

    def mute(self, reason: str, by: str) -> None:
        """Suppress all alerts."""
        self.is_muted = True
        for key in list(self.alerts):
            self.suppress(key, reason, by)


Stage = Callable[[EngineState, Flush], None]


def inhibition(state: EngineState, flush: Flush) -> None:
    """Suppress alerts that a firing alert inhibits."""
    for key, labels in list(flush.alerts.items()):
        inhibitor = state.inhibitor.inhibitor_of(labels, flush.now)
        if inhibitor is not None:
            flush.suppress(key, "inhibited", inhibitor.fingerprint)


def active_intervals(_: EngineState, flush: Flush) -> None:
    """Suppress all alerts outside the active intervals of the route, if it has any."""
    intervals = flush.group.route.active
    if intervals and not any(map(flush.is_in, intervals)):
        flush.mute("not active", ", ".join(interval.name for interval in intervals))


def mute_intervals(_: EngineState, flush: Flush) -> None:
    """Suppress all alerts in a mute interval of the route."""
    muting = next(filter(flush.is_in, flush.group.route.mute), None)
    if muting is not None:
        flush.mute("muted", muting.name)


def silences(state: EngineState, flush: Flush) -> None:
    """Suppress alerts that an active silence matches."""
    for key, labels in list(flush.alerts.items()):
        silence = state.silenced_by(labels, flush.now)
        if silence is not None:
            flush.suppress(key, "silenced", silence.id)


def deduplication(state: EngineState, flush: Flush) -> None:
    """Build the part to send, unless the notification log shows that the channel has nothing to send.

    With `resolve_always`, suppression does not end what the channel has delivered: such alerts are still
    firing for it, and their resolution is sent.
    """
    group, channel, now = flush.group, flush.channel, flush.now
    assert channel is not None  # noqa: S101 - it is a stage of a channel
    entry = state.log.get((group.key, channel.name))
    firing = group.firing(now) & flush.alerts.keys()
    resolved = frozenset(flush.alerts) - firing
    still_firing = frozenset[str]()
    if group.route.resolve_always:
        delivered = state.delivered(group, channel.name) & flush.suppressed.keys()
        still_firing = delivered & group.firing(now)
        resolved |= delivered - still_firing
    reason = Reason.NONE
    if firing or resolved:
        reason = reason_to_notify(entry, firing | still_firing, resolved, now, channel, group.route)
    if reason is Reason.REPEAT and not firing:
        reason = Reason.NONE  # everything that is repeated is suppressed
    if reason is Reason.NONE and channel.name in group.unsure:
        reason = Reason.FIRST if firing else Reason.ALL_RESOLVED if resolved else Reason.NONE
    shown = firing | resolved if channel.send_resolved else firing
    if reason is Reason.NONE or not shown:
        if reason is not Reason.NONE:
            state.record(group.key, channel.name, still_firing, resolved, now)
        group.failed.discard(channel.name)
        return
    alerts = [group.alerts[key].as_notified(now) for key in shown]
    alerts.sort(key=lambda each: (each.status is not Status.FIRING, each.starts_at, each.fingerprint))
    flush.part = Part(group.key, group.labels, reason, tuple(alerts), firing | still_firing, resolved)


def rate_limit(state: EngineState, flush: Flush) -> None:
    """Keep the part for later if the channel has reached its rate limit."""
    channel, part = flush.channel, flush.part
    assert channel is not None  # noqa: S101 - it is a stage of a channel
    if part is None or channel.rate_limit is None:
        return
    if channel.name in state.over_limit or not bucket_of(state, channel).try_acquire(flush.now):
        flush.group.rate_limited[channel.name] = part
        state.over_limit.setdefault(channel.name, set()).add(flush.group.key)
        flush.part = None


GROUP_STAGES: Sequence[Stage] = (inhibition, active_intervals, mute_intervals, silences)
CHANNEL_STAGES: Sequence[Stage] = (deduplication, rate_limit)
UNMUTED_STAGES: Sequence[Stage] = (inhibition, silences)  # for what waits for the end of a mute


def bucket_of(state: EngineState, channel: ChannelConfig) -> TokenBucket:
    """Return the token bucket of a channel; a reload may have removed the rate limit it had."""
    bucket = state.buckets.get(channel.name)
    if bucket is None:
        limit = channel.rate_limit
        bucket = TokenBucket(1, 0.001) if limit is None else TokenBucket(limit.count, limit.seconds)
        state.buckets[channel.name] = bucket
    return bucket
