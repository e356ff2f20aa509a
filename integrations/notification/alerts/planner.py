"""`NotificationPlanner`: what is due at a tick, when a mute ends, or when a rate limit allows it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from codomyrmex.integrations.configuration.matchers import Labels
from codomyrmex.integrations.notification.alerts.engine_state import EngineState
from codomyrmex.integrations.notification.alerts.group import Group
from codomyrmex.integrations.notification.alerts.notification import Kind, Notification, Part, Reason, Status
from codomyrmex.integrations.notification.alerts.stages import (
    CHANNEL_STAGES,
    GROUP_STAGES,
    UNMUTED_STAGES,
    Flush,
    Stage,
    bucket_of,
)
from codomyrmex.integrations.notification.channels import ChannelConfig

_MAX_SUPPRESSED = 10_000  # not returned by `pop_suppressed` yet


@dataclass(frozen=True, slots=True)
class Suppressed:
    """An alert for which no notification is sent at the moment.

    Args:
        labels: the labels of the alert.
        group_key: the group in which it is suppressed.
        route_path: the position in the file of the group's route.
        reason: `inhibited`, `silenced`, `muted` or `not active`.
        by: the fingerprint of the inhibiting alert, the id of the silence, or the names of the intervals.
    """

    labels: Mapping[str, str]
    group_key: str
    route_path: str
    reason: str
    by: str


class NotificationPlanner:
    """Creates notifications from the state of an engine."""

    def __init__(self, state: EngineState, id_prefix: str) -> None:
        self._state = state
        self.number_from(id_prefix)
        self._suppressed: deque[Suppressed] = deque(maxlen=_MAX_SUPPRESSED)
        self._with_pending = {key for key, group in state.groups.items() if group.pending}
        self._check_mutes_at = -math.inf

    def number_from(self, id_prefix: str) -> None:
        """Begin the ids of further notifications in another way."""
        self._ids = (f"{id_prefix}{number}" for number in count(1))

    # A tick of a group

    def tick(self, group: Group, now: float) -> list[Notification]:
        """Return what is due at a tick of a group, and schedule its next one."""
        state, route = self._state, group.route
        group.flushed = True
        state.schedule(group, now + route.group_interval)
        flush = self._flush(group, now)
        due: list[Notification] = []
        if route.on_unmute == "summary":
            if flush.is_muted:
                self._hold(group, now)
            elif group.pending:
                due += self._send_pending([group], now)
        group.resolved_at_tick = {
            key: alert.updated_at for key, alert in sorted(group.alerts.items()) if not alert.fires(now)
        }
        channels = state.own_channels(route)
        group.failed &= {channel.name for channel in channels}  # fallbacks are retried if these fail
        for channel in channels:
            due += self._notify(flush, channel)
        for channel in state.fallback_channels(route):
            due += self._notify_fallback_of_resolved(flush, channel)
        state.settle(group, now)
        return due

    def _flush(self, group: Group, now: float) -> Flush:
        """Pass a group through the stages that suppress alerts."""
        flush = self._run(GROUP_STAGES, Flush.of(group, now))
        for key, alert in group.alerts.items():
            if not alert.fires(now):
                continue
            suppressed = flush.suppressed.get(key)
            if suppressed is None:
                group.suppressed.pop(key, None)
            elif group.suppressed.get(key) != (text := " ".join(suppressed)):  # reported once, not each tick
                group.suppressed[key] = text
                self._suppressed.append(Suppressed(alert.labels, group.key, group.route.path, *suppressed))
        return flush

    def _run(self, stages: Sequence[Stage], flush: Flush) -> Flush:
        for stage in stages:
            stage(self._state, flush)
        return flush

    def _notify(
        self, flush: Flush, channel: ChannelConfig, fallback_for: str | None = None
    ) -> list[Notification]:
        """Pass a group through the stages of a channel."""
        if channel.name in flush.group.in_flight:
            return []
        flush.group.rate_limited.pop(channel.name, None)
        flush = self._run(CHANNEL_STAGES, replace(flush, channel=channel, part=None))
        if flush.part is None:
            return []
        return [self._create(Kind.GROUP, channel, [flush.part], flush.now, fallback_for)]

    def _notify_fallback_of_resolved(self, flush: Flush, channel: ChannelConfig) -> list[Notification]:
        """Notify a fallback about the resolution of alerts it was notified about, and nothing else."""
        group, now = flush.group, flush.now
        if channel.name not in group.in_flight:
            group.rate_limited.pop(channel.name, None)  # it gets a new one if the receiver fails again
        delivered = self._state.delivered(group, channel.name)
        if not delivered:
            return []
        firing = group.firing(now)
        keys = flush.alerts.keys() | ((group.alerts.keys() - firing) if group.route.resolve_always else ())
        keys &= delivered
        if keys <= firing or (keys & firing and not channel.send_resolved):
            return []
        labels = {key: group.alerts[key].labels for key in keys}
        return self._notify(Flush(group, now, labels), channel, group.route.receiver)

    def _create(
        self, kind: Kind, channel: ChannelConfig, parts: Sequence[Part], now: float, fallback_for: str | None
    ) -> Notification:
        """Create a notification, which is in flight from now on."""
        route = self._state.groups[parts[0].group_key].route
        receiver = self._state.channels[channel.name][0]
        id_ = next(self._ids)
        for part in parts:
            group = self._state.groups[part.group_key]
            group.in_flight[channel.name] = id_
            group.failed.discard(channel.name)
            self._state.mark("group", group.key)
        return Notification(
            id_, kind, receiver, channel.name, route.path, route.labels, tuple(parts), now, fallback_for
        )

    def _create_summary(
        self, kind: Kind, channel: ChannelConfig, parts: Sequence[Part], now: float
    ) -> list[Notification]:
        """Create a notification about several groups; or one for each, if each has its own incident."""
        summaries = [[part] for part in parts] if channel.sends_groups_separately() else [parts]
        if kind is Kind.RATE_LIMIT and len(summaries[0]) == 1:
            kind = Kind.GROUP
        return [self._create(kind, channel, each, now, None) for each in summaries]

    # A receiver that failed

    def fall_back(self, group: Group, receiver_name: str, now: float) -> list[Notification]:
        """Return what is due for the fallback of a receiver, once all its channels have failed."""
        receiver = self._state.config.receivers.get(receiver_name)
        if receiver is None or receiver.fallback is None:
            return []
        if not all(channel.name in group.failed for channel in receiver.channels):
            return []
        flush = self._flush(group, now)
        channels = self._state.config.receivers[receiver.fallback].channels
        return [each for channel in channels for each in self._notify(flush, channel, receiver.name)]

    # Rate limits

    def next_release(self) -> float:
        """Return when a rate limit allows sending again; infinity if none delays anything."""
        return min(map(self._ready_at, self._state.over_limit), default=math.inf)

    def release(self, now: float) -> list[Notification]:
        """Return one notification for each channel whose rate limit allows it, with all that it delayed."""
        due: list[Notification] = []
        for name in [name for name in self._state.over_limit if self._ready_at(name) <= now]:
            channel, parts = self._state.channels[name][1], []
            for key in sorted(self._state.over_limit.pop(name) & self._state.groups.keys()):
                group = self._state.groups[key]
                part = group.rate_limited.pop(name, None)
                if part is not None and self._may_send(group, part, now):
                    parts.append(part)
            if parts and bucket_of(self._state, channel).try_acquire(now):
                due += self._create_summary(Kind.RATE_LIMIT, channel, parts, now)
        return due

    def _ready_at(self, channel: str) -> float:
        return bucket_of(self._state, self._state.channels[channel][1]).ready_at()

    def _may_send(self, group: Group, part: Part, now: float) -> bool:
        """Return whether no firing alert has been suppressed since; otherwise the next tick decides."""
        labels: dict[str, Labels] = {
            alert.fingerprint: alert.labels for alert in part.alerts if alert.status is Status.FIRING
        }
        return not self._run(GROUP_STAGES, Flush(group, now, labels)).suppressed

    # Mutes: routes with `on_unmute: summary` keep what would have been sent, and send it when they end

    def next_mute_check(self) -> float:
        """Return when to check whether a mute has ended; infinity if nothing is pending.

        Time intervals have a resolution of a minute, so it is checked every minute.
        """
        return self._check_mutes_at if self._with_pending else math.inf

    def check_mutes(self) -> None:
        """Check at the next opportunity whether a mute has ended, because the clock was set."""
        self._check_mutes_at = -math.inf

    def end_mutes(self, now: float) -> list[Notification]:
        """Return one summary for each channel of the routes that are not muted any more."""
        self._check_mutes_at = _next_minute(now)
        groups_of: dict[str, list[Group]] = {}
        for key in sorted(self._with_pending):
            group = self._state.groups[key]
            if not group.failed and not self._run(GROUP_STAGES, Flush(group, now, {})).is_muted:
                groups_of.setdefault(group.route.path, []).append(group)
        due: list[Notification] = []
        for groups in groups_of.values():
            due += self._send_pending(groups, now)
            for group in groups:
                self._state.settle(group, now)
        return due

    def _hold(self, group: Group, now: float) -> None:
        """Add the alerts that would have been sent to the pending alerts of a muted group."""
        channels = self._state.own_channels(group.route)
        entries = (self._state.log.get((group.key, channel.name)) for channel in channels)
        delivered = frozenset[str]().union(*(entry.firing for entry in entries if entry is not None))
        for key in self._run(UNMUTED_STAGES, Flush.of(group, now)).alerts:
            alert = group.alerts[key]
            if alert.fires(now):
                is_new = key not in delivered
            else:  # with `resolve_always`, the end of what was delivered is not held
                is_new = key in group.pending or (key in delivered and not group.route.resolve_always)
            if is_new:
                group.hold(alert.as_notified(now))
        if group.pending:
            self._check_mutes_at = min(self.next_mute_check(), _next_minute(now))
            self._with_pending.add(group.key)
            self._state.mark("group", group.key)

    def _send_pending(self, groups: list[Group], now: float) -> list[Notification]:
        due: list[Notification] = []
        for channel in self._state.own_channels(groups[0].route):
            ready = (group for group in groups if channel.name not in group.in_flight)
            parts = [part for group in ready if (part := self._pending_part(group, channel, now)) is not None]
            if parts:
                if channel.rate_limit is not None:  # a summary is never delayed, but it counts
                    bucket_of(self._state, channel).spend(now)
                due += self._create_summary(Kind.QUIET_HOURS, channel, parts, now)
        for group in groups:
            if not group.in_flight:
                self._clear_pending(group)
        return due

    def _pending_part(self, group: Group, channel: ChannelConfig, now: float) -> Part | None:
        alerts = {alert.fingerprint: alert for alert in group.pending_now(now)}
        labels: dict[str, Labels] = {key: alert.labels for key, alert in alerts.items()}
        kept = self._run(UNMUTED_STAGES, Flush(group, now, labels)).alerts
        firing = frozenset(key for key in kept if alerts[key].status is Status.FIRING)
        resolved = frozenset(kept) - firing
        shown = [alerts[key] for key in kept if channel.send_resolved or key in firing]
        if not shown:
            return None
        entry = self._state.log.get((group.key, channel.name))
        delivered = frozenset() if entry is None else entry.firing - resolved
        if entry is None or (firing and not entry.firing):
            reason = Reason.FIRST
        else:
            reason = Reason.NEW_ALERTS if firing else Reason.ALL_RESOLVED
        return Part(
            group.key, group.labels, reason, shown, firing | (delivered & group.firing(now)), resolved
        )

    def pending_delivered(self, group: Group, part: Part) -> None:
        """Remove from the pending alerts of a group those that a channel has delivered."""
        for alert in part.alerts:
            group.pending.pop(alert.fingerprint, None)
        if not group.in_flight:
            self._clear_pending(group)
        self._state.mark("group", group.key)

    def pending_failed(self, group: Group, now: float) -> None:
        """Remove from the pending alerts of a group those that ended longer than a repeat interval ago."""
        repeat = group.route.repeat_interval
        for key, alert in list(group.pending.items()):
            if key not in group.alerts and (alert.ends_at is None or now - alert.ends_at >= repeat):
                del group.pending[key]
        if not group.pending:
            self._clear_pending(group)

    def _clear_pending(self, group: Group) -> None:
        group.pending.clear()
        self._with_pending.discard(group.key)
        self._state.mark("group", group.key)

    # Others

    def pop_suppressed(self) -> list[Suppressed]:
        """Return what was suppressed since the last call."""
        suppressed = list(self._suppressed)
        self._suppressed.clear()
        return suppressed

    def reload(self) -> None:
        """Continue with groups that have changed, because of a new configuration or another process."""
        self._with_pending = {key for key, group in self._state.groups.items() if group.pending}


def _next_minute(now: float) -> float:
    return (now // 60 + 1) * 60
