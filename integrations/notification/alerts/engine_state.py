"""`EngineState`: the alerts, groups, ticks, silences and notification log of an alert engine."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from sys import intern
from typing import Any

from codomyrmex.integrations.configuration.matchers import Labels
from codomyrmex.integrations.configuration.rates import TokenBucket
from codomyrmex.integrations.notification.alerts.alert import Alert, fingerprint
from codomyrmex.integrations.notification.alerts.config import AlertConfig, Route
from codomyrmex.integrations.notification.alerts.group import ActiveAlert, Group, RouteMatch
from codomyrmex.integrations.notification.alerts.inhibitor import Inhibitor
from codomyrmex.integrations.notification.alerts.notification import LogEntry
from codomyrmex.integrations.notification.alerts.router import AlertRouter
from codomyrmex.integrations.notification.alerts.silences import KEPT_FOR, Silence, Silences, SilenceState
from codomyrmex.integrations.notification.channels import ChannelConfig

SavedState = Mapping[tuple[str, str], Any]  # by kind (alert, group, log, silence) and key

_SWEEP_INTERVAL = 600.0  # seconds
_SEPARATOR = "\n"


class EngineState:
    """The state of an engine, and its changes since it was last saved.

    Args:
        config: the configuration.

    Attributes:
        config: the configuration in force.
        router: finds the routes of labels.
        inhibitor: finds the alert that inhibits labels.
        routes: by their keys.
        channels: each channel and the name of its receiver, by the name of the channel.
        alerts: by fingerprint.
        groups: by group key.
        silences: by id.
        log: the notification log, by group key and channel.
        buckets: the token bucket of each channel that has a rate limit.
        over_limit: the groups that the rate limit of a channel delays, by the name of the channel.
    """

    def __init__(self, config: AlertConfig) -> None:
        self._use(config)
        self.alerts: dict[str, ActiveAlert] = {}
        self.groups: dict[str, Group] = {}
        self.silences = Silences()
        self.log: dict[tuple[str, str], LogEntry] = {}
        self.buckets: dict[str, TokenBucket] = {}
        self.over_limit: dict[str, set[str]] = {}
        self._ticks: list[tuple[float, int, Group]] = []
        self._order = count()
        self._sweep_at = -math.inf
        self._changed: dict[tuple[str, str], None] = {}

    def _use(self, config: AlertConfig) -> None:
        self.config = config
        self.router = AlertRouter(config)
        self.inhibitor = Inhibitor(config.inhibit_rules)
        self.routes = {route.key: route for route in config.route.walk()}
        self.channels = {
            channel.name: (receiver.name, channel)
            for receiver in config.receivers.values()
            for channel in receiver.channels
        }

    def mark(self, kind: str, key: str) -> None:
        """Record that a value has to be saved, or deleted from the saved state."""
        self._changed[kind, key] = None

    # Alerts and their groups

    def add(self, key: str, alert: Alert, now: float) -> None:
        """Add a new alert, and put it into its groups."""
        active = self.alerts[key] = ActiveAlert(key, interned(alert.labels))
        active.update(alert, now, self.config.resolve_timeout)
        self.inhibitor.add(active)
        self.put_into_groups(active, now)

    def put_into_groups(self, alert: ActiveAlert, now: float) -> None:
        """Put an alert into a group of each route that matches it, except those that have closed it."""
        for match in self.router.match_once(alert.labels):
            if match.group_key in alert.closed:
                continue
            group = self.groups.get(match.group_key) or self._new_group(match, now)
            if alert.fingerprint in group.alerts:
                continue
            group.alerts[alert.fingerprint] = alert
            alert.groups = (*alert.groups, group)
        self.skip_group_wait(alert, now)

    def skip_group_wait(self, alert: ActiveAlert, now: float) -> None:
        """Evaluate waiting groups of an alert now if it has lasted longer than their group_wait."""
        for group in alert.groups:
            if not group.flushed and alert.starts_at + group.route.group_wait < now:
                self.schedule(group, now)

    def _new_group(self, match: RouteMatch, now: float) -> Group:
        group = Group(match.group_key, match.route, match.group_labels)
        self.groups[group.key] = group
        self.schedule(group, now + match.route.group_wait)
        for channel in (*self.own_channels(match.route), *self.fallback_channels(match.route)):
            entry = self.log.get((group.key, channel.name))
            if entry is not None and entry.expires <= now:  # and not swept yet
                self._delete_log(group.key, channel.name)
        return group

    def own_channels(self, route: Route) -> Sequence[ChannelConfig]:
        """Return the channels of a route's receiver."""
        return self.config.receivers[route.receiver].channels

    def fallback_channels(self, route: Route) -> list[ChannelConfig]:
        """Return the channels of all fallbacks of a route's receiver."""
        receiver, channels = self.config.receivers[route.receiver], list[ChannelConfig]()
        while receiver.fallback is not None:
            receiver = self.config.receivers[receiver.fallback]
            channels += receiver.channels
        return channels

    def find_other_type(self, labels: Labels) -> ActiveAlert | None:
        """Return the alert that differs only in `type`: the event that resolves one is seldom an ERROR."""
        if "type" not in labels:
            return None
        others = (self.alerts.get(fingerprint({**labels, "type": each})) for each in ("error", "message"))
        return next((alert for alert in others if alert is not None), None)

    def settle(self, group: Group, now: float) -> None:
        """Delete resolved alerts that every channel was notified about, and the group once it is empty."""
        if group.in_flight or group.rate_limited:
            return
        for key, updated_at in group.resolved_at_tick.items():
            alert = group.alerts.get(key)
            if alert is None or alert.updated_at != updated_at or alert.fires(now):
                continue  # it fires again
            if not group.failed or now - alert.ends_at >= group.route.repeat_interval:
                self._close(alert, group)
        group.resolved_at_tick = {
            key: at for key, at in group.resolved_at_tick.items() if key in group.alerts
        }
        if not group.alerts and not group.is_waiting:
            self.delete_group(group)

    def _close(self, alert: ActiveAlert, group: Group) -> None:
        del group.alerts[alert.fingerprint]
        group.suppressed.pop(alert.fingerprint, None)
        alert.groups = tuple(other for other in alert.groups if other is not group)
        alert.closed = (*alert.closed, group.key)
        if not alert.groups:
            self.delete_alert(alert)
        self.mark("alert", alert.fingerprint)

    def delete_alert(self, alert: ActiveAlert) -> None:
        """Delete an alert that is in no group any more."""
        del self.alerts[alert.fingerprint]
        self.inhibitor.remove(alert)
        self.mark("alert", alert.fingerprint)

    def delete_group(self, group: Group) -> None:
        """Delete a group."""
        del self.groups[group.key]
        self.mark("group", group.key)

    # Ticks

    def schedule(self, group: Group, at: float) -> None:
        """Set the next tick of a group."""
        group.next_tick = at
        heapq.heappush(self._ticks, (at, next(self._order), group))
        self.mark("group", group.key)

    def next_tick(self) -> float:
        """Return the time of the next tick; infinity if there is none."""
        while self._ticks and not self._is_current(*self._ticks[0]):
            heapq.heappop(self._ticks)
        return self._ticks[0][0] if self._ticks else math.inf

    def pop_due_group(self, now: float) -> Group | None:
        """Return the next group whose tick is due, and remove the tick; None if there is none."""
        while self._ticks and self._ticks[0][0] <= now:
            tick = heapq.heappop(self._ticks)
            if self._is_current(*tick):
                return tick[2]
        return None

    def _is_current(self, at: float, _: int, group: Group) -> bool:
        return group.next_tick == at and self.groups.get(group.key) is group

    # The notification log

    def record(
        self, key: str, channel: str, firing: frozenset[str], resolved: frozenset[str], now: float
    ) -> None:
        """Record in the log what a channel has delivered about a group."""
        group = self.groups.get(key)
        if group is not None:
            group.unsure.discard(channel)
        repeat = (self.config.route if group is None else group.route).repeat_interval
        self.log[key, channel] = LogEntry(firing, resolved, now, now + 2 * repeat)
        self.mark("log", f"{key}{_SEPARATOR}{channel}")

    def delivered(self, group: Group, channel: str) -> frozenset[str]:
        """Return the fingerprints that are firing as far as a channel may know."""
        entry = self.log.get((group.key, channel))
        known = frozenset[str]() if entry is None else entry.firing
        return known.union(group.alerts) if channel in group.unsure else known

    def _delete_log(self, key: str, channel: str) -> None:
        del self.log[key, channel]
        self.mark("log", f"{key}{_SEPARATOR}{channel}")

    def merge_log(self, key: str, entry: LogEntry) -> None:
        """Add an entry to the log, unless there is a newer one; the key is that of `log_entries`."""
        known = self.log.get(log_key(key))
        if known is None or known.at < entry.at:
            self.log[log_key(key)] = entry
            self.mark("log", key)

    def log_entries(self) -> dict[str, LogEntry]:
        """Return the log, with keys of one text."""
        return {f"{key}{_SEPARATOR}{channel}": entry for (key, channel), entry in self.log.items()}

    def sweep(self, now: float) -> None:
        """Delete expired log entries and old silences, every ten minutes."""
        if now < self._sweep_at:
            return
        self._sweep_at = now + _SWEEP_INTERVAL
        for key in [key for key, entry in self.log.items() if entry.expires <= now]:
            if key[0] not in self.groups:  # a long suppressed alert still has to be resolved
                self._delete_log(*key)
        for silence_id in [each.id for each in self.silences.values() if each.ends_at + KEPT_FOR <= now]:
            del self.silences[silence_id]
            self.mark("silence", silence_id)

    # Silences

    def add_silence(self, silence: Silence) -> None:
        self.silences[silence.id] = silence
        self.mark("silence", silence.id)

    def silenced_by(self, labels: Labels, now: float) -> Silence | None:
        """Return the active silence that matches the labels."""
        return self.silences.active_for(labels, now)

    # A new configuration

    def reload(self, config: AlertConfig, now: float) -> None:
        """Use another configuration: groups that still exist keep their timers, and the log is kept."""
        old_groups, old_channels = self.groups, self.channels
        self._use(config)
        self.groups = {}
        for alert in list(self.alerts.values()):
            self.inhibitor.add(alert)
            alert.groups = ()
            for match in self.router.match(alert.labels):
                self._adopt(match.route, old_groups.get(match.group_key), now)
            self.put_into_groups(alert, now)
            if not alert.groups:
                self.delete_alert(alert)
        for group in old_groups.values():
            if group.pending and group.route.key in self.routes:
                self._adopt(self.routes[group.route.key], group, now)
        for key in old_groups:
            self.mark("group", key)
        self.buckets = {
            name: bucket
            for name, bucket in self.buckets.items()
            if name in self.channels and self.channels[name][1].rate_limit == old_channels[name][1].rate_limit
        }
        over_limit = {name: keys & self.groups.keys() for name, keys in self.over_limit.items()}
        self.over_limit = {name: keys for name, keys in over_limit.items() if keys and name in self.channels}

    def _adopt(self, route: Route, group: Group | None, now: float) -> None:
        """Keep a group of the old configuration, with its timers."""
        if group is None or group.key in self.groups:
            return
        group.route = route
        group.alerts = {}
        group.in_flight = {name: each for name, each in group.in_flight.items() if name in self.channels}
        group.rate_limited = {
            name: each for name, each in group.rate_limited.items() if name in self.channels
        }
        group.failed &= self.channels.keys()
        self.groups[group.key] = group
        wait = route.group_interval if group.flushed else route.group_wait
        self.schedule(group, min(group.next_tick, now + wait))

    # The clock was set, while the process ran or while it did not

    def move_timers(self, by: float, now: float) -> None:
        """Move timers with a clock that was set by some seconds and is now at `now`."""
        for alert in self.alerts.values():
            if by < 0 or alert.fires(now - by):
                alert.ends_at += by
            alert.updated_at += by
            alert.starts_at = min(alert.starts_at, now)
        for group in self.groups.values():
            group.next_tick += by
            group.resolved_at_tick = {key: at + by for key, at in group.resolved_at_tick.items()}
        self._ticks = [(at + by, number, group) for at, number, group in self._ticks]  # still a heap
        for key, entry in self.log.items():
            self.log[key] = replace(entry, at=entry.at + by, expires=entry.expires + by)
        for bucket in self.buckets.values():
            bucket.move(by)
        self._sweep_at += by
        for silence in list(self.silences.values()):
            if by < 0 and silence.state(now - by) is SilenceState.ACTIVE:
                starts_at, ends_at = silence.starts_at + by, silence.ends_at + by
                self.silences[silence.id] = replace(silence, starts_at=starts_at, ends_at=ends_at)
        self.mark_all()

    def limit_times(self, now: float, pause: float) -> None:
        """Limit restored times to those that are possible now, and extend timeouts by a pause.

        The clock may have been set back in between.
        """
        for alert in self.alerts.values():
            latest, ends_at = now, alert.ends_at
            if alert.times_out or ends_at > alert.updated_at:
                latest = now + self.config.resolve_timeout
                extended = ends_at + (pause if ends_at > now - pause else 0)
                # An end that was given is only extended up to the resolve timeout: the program that tracks
                # the alert posts it again before that if it still fires.
                ends_at = extended if alert.times_out else max(ends_at, min(extended, latest))
                latest = latest if alert.times_out else math.inf
            limited = min(ends_at, latest), min(alert.starts_at, now)
            if limited != (alert.ends_at, alert.starts_at):
                alert.ends_at, alert.starts_at = limited
                self.mark("alert", alert.fingerprint)
        for group in self.groups.values():
            wait = group.route.group_interval if group.flushed else group.route.group_wait
            if group.next_tick > now + wait:
                self.schedule(group, now + wait)
        for (key, channel), entry in self.log.items():
            if entry.at > now:
                self.log[key, channel] = replace(entry, at=now)
                self.mark("log", f"{key}{_SEPARATOR}{channel}")

    # What is saved

    def mark_all(self) -> None:
        """Record that everything has to be saved."""
        tables: dict[str, Mapping[str, Any]] = {
            "alert": self.alerts,
            "group": self.groups,
            "silence": self.silences,
        }
        self._changed |= dict.fromkeys((kind, key) for kind, table in tables.items() for key in table)
        self._changed |= dict.fromkeys(("log", f"{key}{_SEPARATOR}{channel}") for key, channel in self.log)

    def pop_changes(self) -> dict[tuple[str, str], Any]:
        """Return the changes since the last call as built-in types; None for deleted values."""
        changed, self._changed = self._changed, {}
        tables: dict[str, Mapping[Any, Any]] = {
            "alert": self.alerts,
            "group": self.groups,
            "silence": self.silences,
            "log": self.log,
        }
        changes = {}
        for kind, key in changed:
            value = tables[kind].get(log_key(key) if kind == "log" else key)
            changes[kind, key] = None if value is None else value.to_dict()
        return changes

    def discard_changes(self) -> None:
        """Drop the changes, if nothing is saved."""
        self._changed.clear()


def log_key(key: str) -> tuple[str, str]:
    """Return the group key and the channel of a key of the log as it is saved."""
    group_key, _, channel = key.partition(_SEPARATOR)
    return group_key, channel


# Most alerts share their names and values; without interning, each takes 2 kB.
def interned(labels: Labels) -> dict[str, str]:
    """Return a copy of labels whose texts are shared with others."""
    try:
        return {intern(name): intern(value) for name, value in labels.items()}
    except TypeError:  # a subclass of str
        return dict(labels)
