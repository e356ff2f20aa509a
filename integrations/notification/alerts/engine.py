"""`AlertEngine`: alerts and times go in, notifications come out. No I/O, no clock, no threads.

The rules are those of Prometheus Alertmanager; `docs/guides/alerts.md` lists the additions. The path of
an alert:

1. `AlertEngine.observe` updates an active alert; a new one is routed by `AlertRouter` and put into groups.
2. At the tick of a group, `AlertEngine.due` lets `NotificationPlanner` pass it through the stages in
   `stages.py`: inhibition, time intervals, silences, deduplication by the notification log, rate limits.
3. The caller sends the notification, and reports the result with `delivered` or `failed`.

All state is in `EngineState`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from codomyrmex.integrations.configuration.matchers import Labels
from codomyrmex.integrations.notification.alerts.alert import Alert, fingerprint
from codomyrmex.integrations.notification.alerts.config import AlertConfig
from codomyrmex.integrations.notification.alerts.engine_state import EngineState, SavedState
from codomyrmex.integrations.notification.alerts.group import ActiveAlert, Group
from codomyrmex.integrations.notification.alerts.notification import Kind, LogEntry, Notification
from codomyrmex.integrations.notification.alerts.planner import NotificationPlanner, Suppressed
from codomyrmex.integrations.notification.alerts.replication import apply, restore
from codomyrmex.integrations.notification.alerts.silences import Silence

# The labels of the alert about alerts that were dropped.
ALERTS_DROPPED = {"alertname": "AlertsDropped", "severity": "warning", "source": "codomyrmex-streaming"}


_SHORT_PAUSE = 60.0  # seconds; as long as a process needs to start, or another one to take over


class AlertEngine:
    """Decides which notifications are sent, through which channel and when; it is deterministic.

    Call `observe` with alerts and `due` at the times that `next_deadline` returns, and report for each
    notification that `due` has returned whether it was `delivered` or has `failed`. All times are in seconds
    since 1970 and do not decrease.

    Args:
        config: the configuration.
        state: the merged results of `pop_changes`, to continue where another engine stopped; call `resume`
            then.
        id_prefix: the prefix of the ids of its notifications.

    Attributes:
        refused: the number of alerts refused because `max_alerts` were active.
        damaged: the number of values of the state that could not be read, and were skipped.
    """

    def __init__(self, config: AlertConfig, state: SavedState | None = None, *, id_prefix: str = "n") -> None:
        self.refused = 0
        self._state = EngineState(config)
        self.damaged = restore(self._state, state) if state else 0
        self._planner = NotificationPlanner(self._state, id_prefix)
        self._ready: list[Notification] = []

    @property
    def config(self) -> AlertConfig:
        """The configuration in force."""
        return self._state.config

    @property
    def silences(self) -> Mapping[str, Silence]:
        """The silences, by id."""
        return self._state.silences

    # 1. Alerts come in

    # For an active alert, this costs a fingerprint and a lookup; for a new one, routing too.
    def observe(self, alerts: Iterable[Alert], now: float) -> None:
        """Update the state with alerts.

        Args:
            alerts: in the order in which they happened.
            now: seconds since 1970.
        """
        state, config = self._state, self._state.config
        for alert in alerts:
            key = fingerprint(alert.labels)
            active = state.alerts.get(key)
            if active is None and alert.ends_at is not None and alert.ends_at <= now:
                active = state.find_other_type(alert.labels)
                if active is None:
                    continue  # it was never active
                key = active.fingerprint
            if active is None:
                if len(state.alerts) >= config.max_alerts and alert.labels != ALERTS_DROPPED:
                    self._refuse(now)
                    continue
                state.add(key, alert, now)
            else:
                known_since = active.starts_at
                active.update(alert, now, config.resolve_timeout)
                if active.starts_at < known_since:
                    state.skip_group_wait(active, now)
                if active.closed and active.fires(now):  # it fires again
                    active.closed = ()
                    state.put_into_groups(active, now)
            state.mark("alert", key)

    def _refuse(self, now: float) -> None:
        self.refused += 1
        limit = self._state.config.max_alerts
        summary = f"{self.refused} new alerts were refused: more than {limit} are active (max_alerts)"
        self.observe([Alert(ALERTS_DROPPED, {"summary": summary}, now)], now)

    # 2. Notifications are due

    def next_deadline(self) -> float | None:
        """Return the time at which `due` has to be called next; None if nothing is pending."""
        if self._ready:
            return -math.inf
        planner = self._planner
        deadline = min(self._state.next_tick(), planner.next_release(), planner.next_mute_check())
        return None if deadline == math.inf else deadline

    # With nothing due, this checks the top of the heap.
    def due(self, now: float) -> list[Notification]:
        """Return the notifications to send now. Each is in flight until it was `delivered` or has `failed`.

        If a group raises an error, the next call continues with the others.
        """
        due, self._ready = self._ready, []
        try:
            if self._planner.next_mute_check() <= now:  # first, or a tick would notify about one group alone
                due += self._planner.end_mutes(now)
            while (group := self._state.pop_due_group(now)) is not None:
                due += self._planner.tick(group, now)
            due += self._planner.release(now)
        except Exception:
            self._ready = due
            raise
        self._state.sweep(now)
        return due

    # 3. Their results

    def delivered(self, notification: Notification, now: float) -> None:
        """Record in the notification log that a channel has delivered a notification."""
        for part in notification.parts:
            self._state.record(part.group_key, notification.channel, part.firing, part.resolved, now)
            group = self._end_flight(part.group_key, notification)
            if group is None:
                continue
            for key in part.firing:  # if it ended in flight, the next tick notifies about that
                group.resolved_at_tick.pop(key, None)
            if notification.kind is Kind.QUIET_HOURS:
                self._planner.pending_delivered(group, part)
            self._state.settle(group, now)

    def failed(self, notification: Notification, now: float) -> None:
        """Record that a channel could not deliver a notification.

        The notification log does not change, so the next tick tries again. Once all channels of a receiver
        have failed, its fallback is notified at once.
        """
        for part in notification.parts:
            group = self._end_flight(part.group_key, notification)
            if group is None:
                continue
            group.failed.add(notification.channel)
            self._state.mark("group", group.key)
            if notification.kind is Kind.QUIET_HOURS:
                self._planner.pending_failed(group, now)
            self._ready += self._planner.fall_back(group, notification.receiver, now)
            self._state.settle(group, now)

    def _end_flight(self, group_key: str, notification: Notification) -> Group | None:
        """End the flight of a notification; return the group if it was in flight for that."""
        group = self._state.groups.get(group_key)
        if group is None or group.in_flight.get(notification.channel) != notification.id:
            return None  # the configuration has changed since
        del group.in_flight[notification.channel]
        self._state.mark("group", group.key)
        return group

    # Queries

    def alerts(self) -> list[ActiveAlert]:
        """Return the active alerts, which must not be modified."""
        return list(self._state.alerts.values())

    def groups(self) -> list[Group]:
        """Return the groups, which must not be modified."""
        return list(self._state.groups.values())

    def group(self, key: str) -> Group | None:
        """Return a group, which must not be modified; None if there is none with this key."""
        return self._state.groups.get(key)

    def log_entry(self, group_key: str, channel: str) -> LogEntry | None:
        """Return the last notification that a channel has delivered about a group."""
        return self._state.log.get((group_key, channel))

    def inhibitor_of(self, labels: Labels, now: float) -> ActiveAlert | None:
        """Return the firing alert that inhibits one with these labels."""
        return self._state.inhibitor.inhibitor_of(labels, now)

    def silenced_by(self, labels: Labels, now: float) -> Silence | None:
        """Return the active silence that matches the labels."""
        return self._state.silenced_by(labels, now)

    def pop_suppressed(self) -> list[Suppressed]:
        """Return the alerts suppressed since the last call; each alert once, until its reason changes."""
        return self._planner.pop_suppressed()

    # Changes from outside

    def add_silence(self, silence: Silence) -> None:
        """Add a silence, or replace the one with its id."""
        self._state.add_silence(silence)

    def expire_silence(self, silence_id: str, now: float) -> None:
        """End a silence now.

        Raises:
            KeyError: no silence has this id.
        """
        silence = self._state.silences[silence_id]
        if now < silence.ends_at:
            self._state.add_silence(silence.ended(now))

    def reload(self, config: AlertConfig, now: float) -> None:
        """Use another configuration: groups that still exist keep their timers, and the log is kept."""
        self._state.reload(config, now)
        self._planner.reload()
        self._ready = [each for each in self._ready if each.channel in self._state.channels]

    # Saving, stopping and starting

    def pop_changes(self) -> dict[tuple[str, str], Any]:
        """Return the changes since the last call as built-in types; None for deleted values."""
        return self._state.pop_changes()

    def discard_changes(self) -> None:
        """Drop the changes, if nothing is saved."""
        self._state.discard_changes()

    def mark_all(self) -> None:
        """Have the next `pop_changes` return everything, after some changes could not be saved."""
        self._state.mark_all()

    def move_timers(self, by: float, now: float) -> None:
        """Continue with a clock that was set, without ending or extending anything.

        Timers move with the clock. Calendar times, such as those of time intervals and silences, do not; but
        an active silence does not last longer than it would have.

        Args:
            by: the seconds by which the clock was set forward; negative if it was set back.
            now: seconds since 1970, by the clock as it is now.
        """
        self._state.move_timers(by, now)
        self._planner.check_mutes()

    def skip_waits(self, now: float) -> None:
        """Skip each group_wait and rate limit, before a process ends without saving its state."""
        for group in self.groups():
            if not group.flushed:
                self._state.schedule(group, now)
        self._state.buckets.clear()

    def resume(self, now: float, since: float = -math.inf) -> None:
        """Continue where another engine stopped; its notifications in flight are sent again at once.

        Args:
            now: seconds since 1970.
            since: when it stopped. A longer time in between does not count towards `resolve_timeout`.
        """
        self._planner.reload()
        pause = now - since
        self._state.limit_times(now, pause if pause > _SHORT_PAUSE else 0.0)
        for group in self.groups():
            if group.in_flight:
                group.unsure |= {channel for channel, id_ in group.in_flight.items() if id_}
                group.in_flight.clear()
                self._state.schedule(group, now)

    # Several engines with the same state

    def number_from(self, id_prefix: str) -> None:
        """Set the prefix of the ids of further notifications."""
        self._planner.number_from(id_prefix)

    def apply(self, changes: Iterable[tuple[str, str, Any]]) -> None:
        """Apply changes of another engine: kinds, keys and values of its `pop_changes`."""
        for kind, key, value in changes:
            apply(self._state, kind, key, value)
        self._state.next_tick()  # removes old ones
        self._state.discard_changes()

    def merge_log(self, key: str, entry: LogEntry) -> None:
        """Add an entry to the notification log, unless there is a newer one with this key."""
        self._state.merge_log(key, entry)

    def log_entries(self) -> dict[str, LogEntry]:
        """Return the notification log, by keys for `merge_log`."""
        return self._state.log_entries()
