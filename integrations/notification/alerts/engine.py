"""`AlertEngine`: alerts and the time in, notifications out. No I/O, no clock, no threads.

The rules are those of Prometheus Alertmanager: groups and their timers, inhibition, silences, time
intervals, and the notification log that says what each channel was told. `docs/alerts.md` tells where it
does more.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from sys import intern
from typing import Any

from codomyrmex.integrations.notification.alerts.alert import Alert, fingerprint
from codomyrmex.integrations.notification.alerts.config import AlertConfig, ChannelConfig, Route
from codomyrmex.integrations.notification.alerts.group import ActiveAlert, Group
from codomyrmex.integrations.notification.alerts.group_key import RouteMatch
from codomyrmex.integrations.notification.alerts.inhibition import Inhibitor
from codomyrmex.integrations.notification.alerts.notification import (
    Kind,
    Notification,
    NotifiedAlert,
    Part,
    Reason,
    Status,
)
from codomyrmex.integrations.notification.alerts.notification_log import LogEntry, reason_to_notify
from codomyrmex.integrations.notification.alerts.router import AlertRouter
from codomyrmex.integrations.notification.alerts.silences import KEPT_FOR, Silence
from codomyrmex.integrations.notification.alerts.token_bucket import TokenBucket

State = Mapping[tuple[str, str], Any]  # what is kept, by its kind and key

_SWEEP_EVERY = 600.0  # seconds
_MAX_TOLD = 10_000  # suppressions that nobody has asked for yet
_DROPPED = {"alertname": "AlertsDropped", "severity": "warning", "source": "codomyrmex-streaming"}
_SEPARATOR = "\n"


@dataclass(frozen=True, slots=True)
class Suppressed:
    """An alert that is not notified of for now.

    Args:
        labels: those of the alert.
        group_key: the group it is kept back in.
        route_path: where the route of the group stands in the file.
        why: `inhibited`, `silenced`, `muted` or `not active`.
        by: the fingerprint of the other alert, the id of the silence, or the names of the intervals.
    """

    labels: Mapping[str, str]
    group_key: str
    route_path: str
    why: str
    by: str


@dataclass(slots=True)
class _Seen:
    """The alerts of a group at a moment, by fingerprint."""

    firing: set[str]
    resolved: set[str]
    hidden_firing: set[str]
    hidden_resolved: set[str]
    muted: bool


class AlertEngine:
    """Decides what is notified, to whom and when. The same calls give the same notifications.

    Call `observe` with what happens and `due` at the times that `next_deadline` gives, and say of each
    notification that `due` gave whether it was `delivered` or has `failed`. All times are in seconds since
    1970 and do not go back.

    Args:
        config: the configuration.
        state: what `take_changes` gave before, all of it put together.
    """

    def __init__(self, config: AlertConfig, state: State | None = None) -> None:
        self.config = config
        self.router = AlertRouter(config)
        self.silences: dict[str, Silence] = {}
        self.refused = 0
        self._inhibitor = Inhibitor(config.inhibit_rules)
        self._channels = _channels(config)
        self._alerts: dict[str, ActiveAlert] = {}
        self._groups: dict[str, Group] = {}
        self._log: dict[tuple[str, str], LogEntry] = {}
        self._buckets: dict[str, TokenBucket] = {}
        self._over: dict[str, set[str]] = {}  # channel -> groups that its rate does not let through yet
        self._holding: set[str] = set()  # groups that hold something for the end of their quiet hours
        self._quiet_check = math.inf
        self._ticks: list[tuple[float, int, Group]] = []
        self._order = count()
        self._numbers = count(1)
        self._ready: list[Notification] = []
        self._sweep_at = -math.inf
        self._changed: dict[tuple[str, str], None] = {}
        self._suppressed: deque[Suppressed] = deque(maxlen=_MAX_TOLD)
        if state:
            self._restore(state)

    # What happens

    # An alert that is known costs its fingerprint and one lookup; a new one its routes too.
    def observe(self, alerts: Iterable[Alert], now: float) -> None:
        """Take in what happened.

        Args:
            alerts: in the order in which it happened.
            now: seconds since 1970.
        """
        for alert in alerts:
            key = fingerprint(alert.labels)
            active = self._alerts.get(key)
            if active is None and alert.ends_at is not None:
                active = self._of_other_type(alert.labels)
                if active is None:
                    continue  # nobody was told that it fires
                key = active.fingerprint
            if active is None:
                if len(self._alerts) >= self.config.max_alerts and alert.labels != _DROPPED:
                    self._refuse(now)
                    continue
                active = self._alerts[key] = ActiveAlert(key, _shared(alert.labels))
                active.update(alert, now, self.config.resolve_timeout)
                self._inhibitor.add(active)
                self._enter(active, now)
            else:
                active.update(alert, now, self.config.resolve_timeout)
                if active.left and active.fires(now):  # some groups have done with it
                    active.left = ()
                    self._enter(active, now)
            self._changed["alert", key] = None

    def _of_other_type(self, labels: Mapping[str, str]) -> ActiveAlert | None:
        """Give the alert that differs only in its `type`: an event that resolves is seldom an ERROR."""
        if "type" not in labels:
            return None
        others = (self._alerts.get(fingerprint({**labels, "type": each})) for each in ("error", "message"))
        return next((alert for alert in others if alert is not None), None)

    def _refuse(self, now: float) -> None:
        self.refused += 1
        most = self.config.max_alerts
        summary = f"more than {most} alerts are active; {self.refused} new ones were refused"
        self.observe([Alert(_DROPPED, {"summary": summary}, now)], now)

    def _enter(self, alert: ActiveAlert, now: float) -> None:
        for match in self.router.match_once(alert.labels):
            if match.group_key in alert.left:
                continue
            group = self._groups.get(match.group_key)
            if group is None:
                group = self._new_group(match, now)
            if alert.fingerprint in group.alerts:
                continue
            group.alerts[alert.fingerprint] = alert
            alert.groups = (*alert.groups, group)
            if not group.flushed and alert.starts_at + group.route.group_wait < now:
                self._schedule(group, now)  # it has waited long enough before it came

    def _new_group(self, match: RouteMatch, now: float) -> Group:
        group = Group(match.group_key, match.route, match.group_labels, math.inf)
        self._groups[group.key] = group
        self._schedule(group, now + match.route.group_wait)
        for channel in self._chain(match.route):
            entry = self._log.get((group.key, channel.name))
            if entry is not None and entry.expires <= now:  # whether or not it was swept
                self._forget_log(group.key, channel.name)
        return group

    def _chain(self, route: Route) -> list[ChannelConfig]:
        """Give the channels of a route, and of all that take over from them."""
        receiver = self.config.receivers[route.receiver]
        channels = list(receiver.channels)
        while receiver.fallback is not None:
            receiver = self.config.receivers[receiver.fallback]
            channels += receiver.channels
        return channels

    def _schedule(self, group: Group, at: float) -> None:
        group.next_tick = at
        heapq.heappush(self._ticks, (at, next(self._order), group))
        self._changed["group", group.key] = None

    # What is due

    def next_deadline(self) -> float | None:
        """Give the moment at which `due` has something to do; None if there is none."""
        while self._ticks and not self._is_current(*self._ticks[0]):
            heapq.heappop(self._ticks)
        moments = [self._ticks[0][0]] if self._ticks else []
        moments += [self._bucket(channel).ready_at() for channel in self._over]
        if self._holding:
            moments.append(self._quiet_check)
        if self._ready:
            moments.append(-math.inf)
        return min(moments, default=None)

    def _is_current(self, at: float, _: int, group: Group) -> bool:
        return group.next_tick == at and self._groups.get(group.key) is group

    # With nothing due: a look at the top of the heap.
    def due(self, now: float) -> list[Notification]:
        """Give what is to be sent now; each stays under way until it is `delivered` or has `failed`."""
        due, self._ready = self._ready, []
        if self._holding and now >= self._quiet_check:  # before a tick tells of one group alone
            due += self._end_quiet_hours(now)
        while self._ticks and self._ticks[0][0] <= now:
            tick = heapq.heappop(self._ticks)
            if self._is_current(*tick):
                due += self._tick(tick[2], now)
        for channel in [name for name in self._over if self._bucket(name).ready_at() <= now]:
            due += self._release(channel, now)
        if now >= self._sweep_at:
            self._sweep(now)
        return due

    def _tick(self, group: Group, now: float) -> list[Notification]:
        group.flushed = True
        self._schedule(group, now + group.route.group_interval)
        seen = self._look(group, now)
        due: list[Notification] = []
        if group.route.on_unmute == "summary":
            if seen.muted:
                self._hold(group, now)
            elif group.held:
                due += self._tell_held(group.route, [group], now)
        group.resolved_at_tick = {
            key: group.alerts[key].updated_at for key in sorted(seen.resolved | seen.hidden_resolved)
        }
        own = self.config.receivers[group.route.receiver].channels
        group.given_up &= {channel.name for channel in own}  # the others are asked again if these fail
        for channel in own:
            due += self._decide(group, channel, seen, now)
        for channel in self._chain(group.route)[len(own) :]:
            due += self._tell_fallback_of_end(group, channel, seen, now)
        self._settle(group, now)
        return due

    def _look(self, group: Group, now: float) -> _Seen:
        """Sort the alerts of a group: what fires, what is resolved, and what of each is kept back."""
        muted = self.muted(group.route, now)
        seen = _Seen(set(), set(), set(), set(), muted is not None)
        for key, alert in group.alerts.items():
            why = self._why_suppressed(alert.labels, muted, now)
            if alert.fires(now):
                (seen.firing if why is None else seen.hidden_firing).add(key)
                self._tell_suppressed(group, alert, why)
            else:
                (seen.resolved if why is None else seen.hidden_resolved).add(key)
        return seen

    def muted(self, route: Route, now: float) -> tuple[str, str] | None:
        """Tell whether the time intervals of a route mute it now: `muted` or `not active`, and the names."""
        if not route.mute and not route.active:
            return None
        moment = datetime.fromtimestamp(now, UTC)
        if route.active and not any(interval.holds(moment) for interval in route.active):
            return "not active", ", ".join(interval.name for interval in route.active)
        muting = next((interval.name for interval in route.mute if interval.holds(moment)), None)
        return None if muting is None else ("muted", muting)

    def _why_suppressed(
        self, labels: Mapping[str, str], muted: tuple[str, str] | None, now: float
    ) -> tuple[str, str] | None:
        found = self._inhibitor.inhibitor_of(labels, now)
        if found is not None:
            return "inhibited", found[0].fingerprint
        if muted is not None:
            return muted
        silence = self.silenced_by(labels, now)
        return None if silence is None else ("silenced", silence.id)

    def silenced_by(self, labels: Mapping[str, str], now: float) -> Silence | None:
        """Give the silence that keeps an alert with these labels back."""
        return next((silence for silence in self.silences.values() if silence.silences(labels, now)), None)

    def _tell_suppressed(self, group: Group, alert: ActiveAlert, why: tuple[str, str] | None) -> None:
        """Tell once that and why an alert is kept back, not at each tick."""
        if why is None:
            group.suppressed.pop(alert.fingerprint, None)
            return
        text = " ".join(why)
        if group.suppressed.get(alert.fingerprint) != text:
            group.suppressed[alert.fingerprint] = text
            self._suppressed.append(Suppressed(alert.labels, group.key, group.route.path, *why))

    def _decide(
        self, group: Group, channel: ChannelConfig, seen: _Seen, now: float, fallback_for: str | None = None
    ) -> list[Notification]:
        """Ask the log whether a channel is to be told of a group now."""
        if channel.name in group.under_way:
            return []
        group.rolled_up.pop(channel.name, None)
        entry = self._log.get((group.key, channel.name))
        firing, resolved, kept = frozenset(seen.firing), frozenset(seen.resolved), frozenset[str]()
        if group.route.resolve_always and entry is not None:
            # What it was told of is told of to the end: to it, what is kept back still fires.
            resolved |= seen.hidden_resolved & entry.firing
            kept = frozenset(seen.hidden_firing & entry.firing)
        reason = Reason.NONE
        if firing or resolved:  # with all of them kept back there is nothing to ask
            reason = reason_to_notify(
                entry,
                firing | kept,
                resolved,
                now,
                send_resolved=channel.send_resolved,
                repeat_interval=group.route.repeat_interval,
            )
            if not firing and reason is Reason.REPEAT:
                reason = Reason.NONE
        if reason is Reason.NONE:
            group.given_up.discard(channel.name)
            return []
        if not firing and not channel.send_resolved:
            self._write_log(group, channel.name, kept, resolved, now)
            group.given_up.discard(channel.name)
            return []
        shown = sorted(firing) + (sorted(resolved) if channel.send_resolved else [])
        alerts = _in_order(group.alerts[key].as_notified(now) for key in shown)
        part = Part(group.key, group.labels, reason, alerts, firing | kept, resolved)
        return self._send(group, channel, part, now, fallback_for)

    def _tell_fallback_of_end(
        self, group: Group, channel: ChannelConfig, seen: _Seen, now: float
    ) -> list[Notification]:
        """Tell a channel that took over that what it was told of is resolved, and nothing else."""
        if channel.name not in group.under_way:
            group.rolled_up.pop(channel.name, None)  # asked for again if the receiver gives up again
        entry = self._log.get((group.key, channel.name))
        if entry is None or not entry.firing:
            return []
        gone = (seen.resolved | seen.hidden_resolved) if group.route.resolve_always else seen.resolved
        firing = seen.firing & entry.firing
        if not gone & entry.firing or (firing and not channel.send_resolved):
            return []
        known = _Seen(firing, gone & entry.firing, set(), set(), seen.muted)
        return self._decide(group, channel, known, now, group.route.receiver)

    def _send(
        self, group: Group, channel: ChannelConfig, part: Part, now: float, fallback_for: str | None
    ) -> list[Notification]:
        if channel.rate_limit is not None and (
            channel.name in self._over or not self._bucket(channel.name).take(now)
        ):
            group.rolled_up[channel.name] = part
            self._over.setdefault(channel.name, set()).add(group.key)
            return []
        return [self._notification(Kind.GROUP, channel, [part], now, fallback_for)]

    def _notification(
        self,
        kind: Kind,
        channel: ChannelConfig,
        parts: list[Part],
        now: float,
        fallback_for: str | None = None,
    ) -> Notification:
        route = self._groups[parts[0].group_key].route
        number = f"n{next(self._numbers)}"
        receiver = self._channels[channel.name][0]
        for part in parts:
            group = self._groups[part.group_key]
            group.under_way[channel.name] = number
            group.given_up.discard(channel.name)
        return Notification(
            number, kind, receiver, channel.name, route.path, route.labels, tuple(parts), now, fallback_for
        )

    # What became of it

    def delivered(self, notification: Notification, now: float) -> None:
        """Note that a notification was delivered: that channel now knows."""
        for part in notification.parts:
            group = self._groups.get(part.group_key)
            self._note(part.group_key, group, notification.channel, part.firing, part.resolved, now)
            if group is None or not self._concludes(group, notification):
                continue
            for key in part.firing:  # what ended while it was under way: the next tick tells of that
                group.resolved_at_tick.pop(key, None)
            if notification.kind is Kind.QUIET_HOURS:
                self._let_go(group, part)
            self._settle(group, now)

    def failed(self, notification: Notification, now: float) -> None:
        """Note that a channel has given a notification up.

        The log does not change, so the next tick tries again. If all channels of the receiver have given
        up, the fallback of the receiver is told at once.
        """
        for part in notification.parts:
            group = self._groups.get(part.group_key)
            if group is None or not self._concludes(group, notification):
                continue
            group.given_up.add(notification.channel)
            self._changed["group", group.key] = None
            if notification.kind is Kind.QUIET_HOURS:
                self._forget_held(group, now)
            self._ready += self._fall_back(group, notification, now)
            self._settle(group, now)

    def _concludes(self, group: Group, notification: Notification) -> bool:
        if group.under_way.get(notification.channel) != notification.id:
            return False  # of before a reload
        del group.under_way[notification.channel]
        return True

    def _fall_back(self, group: Group, notification: Notification, now: float) -> list[Notification]:
        receiver = self.config.receivers.get(notification.receiver)
        if receiver is None or receiver.fallback is None:
            return []
        if not all(channel.name in group.given_up for channel in receiver.channels):
            return []
        seen = self._look(group, now)
        due: list[Notification] = []
        for channel in self.config.receivers[receiver.fallback].channels:
            due += self._decide(group, channel, seen, now, fallback_for=receiver.name)
        return due

    def _settle(self, group: Group, now: float) -> None:
        """Forget what is resolved once every channel knows, and a group of which nothing is left."""
        if group.under_way or group.rolled_up:
            return
        for key, updated_at in group.resolved_at_tick.items():
            alert = group.alerts.get(key)
            if alert is None or alert.updated_at != updated_at or alert.fires(now):
                continue  # it fires again
            if not group.given_up or now - alert.ends_at >= group.route.repeat_interval:
                self._leave(alert, group)
        group.resolved_at_tick = {
            key: at for key, at in group.resolved_at_tick.items() if key in group.alerts
        }
        if not group.alerts and not group.waits:
            self._drop_group(group)

    def _leave(self, alert: ActiveAlert, group: Group) -> None:
        del group.alerts[alert.fingerprint]
        group.suppressed.pop(alert.fingerprint, None)
        alert.groups = tuple(other for other in alert.groups if other is not group)
        alert.left = (*alert.left, group.key)
        if not alert.groups:
            self._forget(alert)
        self._changed["alert", alert.fingerprint] = None

    def _forget(self, alert: ActiveAlert) -> None:
        del self._alerts[alert.fingerprint]
        self._inhibitor.remove(alert)
        self._changed["alert", alert.fingerprint] = None

    def _drop_group(self, group: Group) -> None:
        del self._groups[group.key]
        self._holding.discard(group.key)
        self._changed["group", group.key] = None

    # The notification log

    def _note(
        self,
        key: str,
        group: Group | None,
        channel: str,
        firing: frozenset[str],
        resolved: frozenset[str],
        now: float,
    ) -> None:
        repeat = self.config.route.repeat_interval if group is None else group.route.repeat_interval
        self._log[key, channel] = LogEntry(firing, resolved, now, now + 2 * repeat)
        self._changed["log", f"{key}{_SEPARATOR}{channel}"] = None

    def _write_log(
        self, group: Group, channel: str, firing: frozenset[str], resolved: frozenset[str], now: float
    ) -> None:
        self._note(group.key, group, channel, firing, resolved, now)

    def _forget_log(self, key: str, channel: str) -> None:
        del self._log[key, channel]
        self._changed["log", f"{key}{_SEPARATOR}{channel}"] = None

    def _sweep(self, now: float) -> None:
        """Forget what is too old to matter."""
        self._sweep_at = now + _SWEEP_EVERY
        for key in [key for key, entry in self._log.items() if entry.expires <= now]:
            if key[0] not in self._groups:  # what is kept back for long is still to be resolved
                self._forget_log(*key)
        for silence in [each for each in self.silences.values() if each.ends_at + KEPT_FOR <= now]:
            self.forget_silence(silence.id)

    # Quiet hours

    def _hold(self, group: Group, now: float) -> None:
        """Keep, for the end of the quiet hours, what would have been told."""
        told = [
            entry.firing
            for channel in self.config.receivers[group.route.receiver].channels
            if (entry := self._log.get((group.key, channel.name))) is not None
        ]
        known = frozenset().union(*told)
        # With `resolve_always`, the end of what is known is told of at once.
        ends = frozenset[str]() if group.route.resolve_always else known
        for key, alert in group.alerts.items():
            if self._why_suppressed(alert.labels, None, now) is not None:
                continue
            if (key not in known) if alert.fires(now) else (key in ends or key in group.held):
                group.hold(alert.as_notified(now))
        if group.held:
            check = self._quiet_check if self._holding else math.inf
            self._quiet_check = min(check, _next_minute(now))
            self._holding.add(group.key)
            self._changed["group", group.key] = None

    def _end_quiet_hours(self, now: float) -> list[Notification]:
        """Tell what was held by routes that are not muted any more; others are looked at next minute."""
        by_route: dict[str, list[Group]] = {}
        for key in sorted(self._holding):
            group = self._groups[key]
            if self.muted(group.route, now) is None and not group.given_up:  # else at its next tick
                by_route.setdefault(group.route.path, []).append(group)
        self._quiet_check = _next_minute(now)
        due: list[Notification] = []
        for groups in by_route.values():
            due += self._tell_held(groups[0].route, groups, now)
            for group in groups:
                self._settle(group, now)
        return due

    def _tell_held(self, route: Route, groups: list[Group], now: float) -> list[Notification]:
        due: list[Notification] = []
        for channel in self.config.receivers[route.receiver].channels:
            parts = [
                part
                for group in groups
                if channel.name not in group.under_way
                and (part := self._held_part(group, channel, now)) is not None
            ]
            if parts:
                due.append(self._notification(Kind.QUIET_HOURS, channel, parts, now))
        for group in groups:
            if not group.under_way:  # nobody is to be told
                self._clear_held(group)
        return due

    def _held_part(self, group: Group, channel: ChannelConfig, now: float) -> Part | None:
        held = [
            alert
            for alert in group.held_now(now)
            if self._why_suppressed(alert.labels, None, now) is None  # silenced since then
        ]
        firing = frozenset(alert.fingerprint for alert in held if alert.status is Status.FIRING)
        resolved = frozenset(alert.fingerprint for alert in held if alert.status is Status.RESOLVED)
        if not channel.send_resolved:
            held = [alert for alert in held if alert.status is Status.FIRING]
        if not held:
            return None
        entry = self._log.get((group.key, channel.name))
        known = frozenset() if entry is None else entry.firing - resolved
        still = frozenset(key for key in known if key in group.alerts and group.alerts[key].fires(now))
        reason = Reason.FIRST if entry is None else Reason.NEW_ALERTS if firing else Reason.ALL_RESOLVED
        return Part(group.key, group.labels, reason, held, firing | still, resolved)

    def _let_go(self, group: Group, part: Part) -> None:
        for alert in part.alerts:
            group.held.pop(alert.fingerprint, None)
        if not group.under_way:
            self._clear_held(group)
        self._changed["group", group.key] = None

    def _clear_held(self, group: Group) -> None:
        group.held.clear()
        self._holding.discard(group.key)
        self._changed["group", group.key] = None

    def _forget_held(self, group: Group, now: float) -> None:
        """Forget of what could not be told what is over for long, as `_settle` does."""
        repeat = group.route.repeat_interval
        for key, alert in list(group.held.items()):
            if key not in group.alerts and (alert.ends_at is None or now - alert.ends_at >= repeat):
                del group.held[key]
        if not group.held:
            self._clear_held(group)

    # Rates

    def _bucket(self, channel: str) -> TokenBucket:
        bucket = self._buckets.get(channel)
        if bucket is None:
            limit = self._channels[channel][1].rate_limit
            bucket = TokenBucket(1, 0.001) if limit is None else TokenBucket(limit.count, limit.seconds)
            self._buckets[channel] = bucket
        return bucket

    def _release(self, channel: str, now: float) -> list[Notification]:
        """Send what was over the rate of a channel, all in one."""
        groups = [self._groups[key] for key in sorted(self._over.pop(channel)) if key in self._groups]
        parts = [part for group in groups if (part := group.rolled_up.pop(channel, None)) is not None]
        if not parts or not self._bucket(channel).take(now):
            return []
        kind = Kind.GROUP if len(parts) == 1 else Kind.RATE_LIMIT
        return [self._notification(kind, self._channels[channel][1], parts, now)]

    # Silences

    def add_silence(self, silence: Silence) -> None:
        """Add a silence, or put it in the place of the one with its id."""
        self.silences[silence.id] = silence
        self._changed["silence", silence.id] = None

    def expire_silence(self, silence_id: str, now: float) -> None:
        """End a silence now.

        Raises:
            KeyError: there is none with this id.
        """
        silence = self.silences[silence_id]
        if now < silence.ends_at:
            self.add_silence(silence.ended(now))

    def forget_silence(self, silence_id: str) -> None:
        """Take a silence away without a trace."""
        del self.silences[silence_id]
        self._changed["silence", silence_id] = None

    # What there is

    def alerts(self) -> list[ActiveAlert]:
        """Give the alerts that are known; not to be changed."""
        return list(self._alerts.values())

    def groups(self) -> list[Group]:
        """Give the groups; not to be changed."""
        return list(self._groups.values())

    def log_entry(self, group_key: str, channel: str) -> LogEntry | None:
        """Give what a channel was told of a group last."""
        return self._log.get((group_key, channel))

    def inhibitor_of(self, labels: Mapping[str, str], now: float) -> ActiveAlert | None:
        """Give the firing alert that keeps one with these labels back."""
        found = self._inhibitor.inhibitor_of(labels, now)
        return None if found is None else self._alerts[found[0].fingerprint]

    def take_suppressed(self) -> list[Suppressed]:
        """Give what was kept back since the last call; each alert once, until its reason changes."""
        told = list(self._suppressed)
        self._suppressed.clear()
        return told

    # A new configuration

    def reload(self, config: AlertConfig, now: float) -> None:
        """Go on with another configuration: groups that it still has keep their timers, and the log stays."""
        old, limits = self._groups, self._channels
        self.config = config
        self.router = AlertRouter(config)
        self._inhibitor = Inhibitor(config.inhibit_rules)
        self._channels = _channels(config)
        self._buckets = {
            name: bucket
            for name, bucket in self._buckets.items()
            if name in self._channels and self._channels[name][1].rate_limit == limits[name][1].rate_limit
        }
        self._ready = [each for each in self._ready if each.channel in self._channels]
        self._groups = {}
        for alert in list(self._alerts.values()):
            self._inhibitor.add(alert)
            alert.groups = ()
            for match in self.router.match(alert.labels):
                self._adopt(match.route, old.get(match.group_key), now)
            self._enter(alert, now)
            if not alert.groups:
                self._forget(alert)
        routes = {route.key: route for route in config.route.walk()}
        for group in old.values():
            if group.held and group.route.key in routes:
                self._adopt(routes[group.route.key], group, now)
        self._over = {
            channel: kept
            for channel, keys in self._over.items()
            if channel in self._channels and (kept := {key for key in keys if key in self._groups})
        }
        self._holding = {key for key in self._holding if key in self._groups}
        for key in old:
            self._changed["group", key] = None

    def _adopt(self, route: Route, group: Group | None, now: float) -> None:
        """Take a group of before over, with its timers."""
        if group is None or group.key in self._groups:
            return
        group.route = route
        group.alerts = {}
        group.under_way = {name: each for name, each in group.under_way.items() if name in self._channels}
        group.rolled_up = {name: each for name, each in group.rolled_up.items() if name in self._channels}
        group.given_up &= self._channels.keys()
        self._groups[group.key] = group
        wait = route.group_interval if group.flushed else route.group_wait
        self._schedule(group, min(group.next_tick, now + wait))

    # What is kept

    def take_changes(self) -> dict[tuple[str, str], Any]:
        """Give what has changed since the last call, as built-in types; None for what is gone."""
        changed, self._changed = self._changed, {}
        return {each: self._value(*each) for each in changed}

    def forget_changes(self) -> None:
        """Forget what has changed, where nothing is kept."""
        self._changed.clear()

    def _value(self, kind: str, key: str) -> Any:
        if kind == "alert":
            alert = self._alerts.get(key)
            return None if alert is None else alert.to_dict()
        if kind == "group":
            group = self._groups.get(key)
            return None if group is None else group.to_dict()
        if kind == "silence":
            silence = self.silences.get(key)
            return None if silence is None else silence.to_dict()
        group_key, _, channel = key.partition(_SEPARATOR)
        entry = self._log.get((group_key, channel))
        return None if entry is None else entry.to_dict()

    def _restore(self, state: State) -> None:
        kinds: dict[str, dict[str, Any]] = {"alert": {}, "group": {}, "log": {}, "silence": {}}
        for (kind, key), value in state.items():
            if kind in kinds and value is not None:
                kinds[kind][key] = value
        for key, value in kinds["log"].items():
            group_key, _, channel = key.partition(_SEPARATOR)
            self._log[group_key, channel] = LogEntry.from_dict(value)
        for key, value in kinds["silence"].items():
            self.silences[key] = Silence.from_dict(value)
        self._restore_groups(kinds["group"], kinds["alert"])
        # What the configuration has no place for any more is to be forgotten, and what is new to be kept.
        for kind, there in (("alert", self._alerts.keys()), ("group", self._groups.keys())):
            self._changed |= dict.fromkeys((kind, key) for key in sorted(kinds[kind].keys() ^ there))

    def _restore_groups(self, groups: Mapping[str, Any], alerts: Mapping[str, Any]) -> None:
        routes = {route.key: route for route in self.config.route.walk()}
        for key, value in groups.items():
            route = routes.get(value["route"])
            if route is not None:
                group = self._groups[key] = Group(key, route, value["labels"], math.inf)
                group.restore(value)
                if group.held:
                    self._holding.add(key)
                    self._quiet_check = -math.inf
        for key, value in alerts.items():
            alert = self._alerts[key] = ActiveAlert.from_dict(key, value)
            self._inhibitor.add(alert)
            self._enter(alert, alert.updated_at)
            if not alert.groups:
                self._forget(alert)
        for group in list(self._groups.values()):
            if not group.alerts and not group.held:
                self._drop_group(group)
            elif group.key in groups:
                self._schedule(group, groups[group.key]["next_tick"])
        self._changed.clear()

    def hurry(self, now: float) -> None:
        """Let what has not been told of wait no longer: groups in their group_wait, and what rates hold."""
        for group in list(self._groups.values()):
            if not group.flushed:
                self._schedule(group, now)
        self._buckets.clear()

    def resume(self, now: float) -> None:
        """Begin anew after a time in which nobody could tell of anything: it counts for no timeout."""
        for alert in self._alerts.values():
            if alert.timed:
                alert.ends_at = max(alert.ends_at, now + self.config.resolve_timeout)
                self._changed["alert", alert.fingerprint] = None
        for group in list(self._groups.values()):
            if group.flushed and self._is_behind(group, now):
                self._schedule(group, now)

    def _is_behind(self, group: Group, now: float) -> bool:
        """Tell whether a channel does not know of what fires: it was being told when the process ended."""
        firing = {key for key, alert in group.alerts.items() if alert.fires(now)}
        for channel in self.config.receivers[group.route.receiver].channels:
            entry = self._log.get((group.key, channel.name))
            if firing and (entry is None or not firing <= entry.firing):
                return True
        return False


# Of 100,000 alerts most names and values are the same few; with a copy of its own each takes 2 kB.
def _shared(labels: Mapping[str, str]) -> dict[str, str]:
    """Give labels whose texts are shared with those of other alerts."""
    return {_intern(name): _intern(value) for name, value in labels.items()}


def _intern(text: str) -> str:
    return intern(text) if text.__class__ is str else text


def _channels(config: AlertConfig) -> dict[str, tuple[str, ChannelConfig]]:
    """Give each channel by its name, with the name of its receiver."""
    return {
        channel.name: (receiver.name, channel)
        for receiver in config.receivers.values()
        for channel in receiver.channels
    }


def _in_order(alerts: Iterable[NotifiedAlert]) -> tuple[NotifiedAlert, ...]:
    return tuple(
        sorted(alerts, key=lambda each: (each.status is not Status.FIRING, each.starts_at, each.fingerprint))
    )


def _next_minute(now: float) -> float:
    return (now // 60 + 1) * 60
