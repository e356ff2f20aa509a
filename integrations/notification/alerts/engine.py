"""`AlertEngine`: alerts and the time in, notifications out. No I/O, no clock, no threads.

The rules are those of Prometheus Alertmanager: groups and their timers, inhibition, silences, time
intervals, and the notification log that says what each channel was told. `docs/alerts.md` tells where it
does more. `Book` is what is known, `Desk` decides who is told, `QuietHours` holds what waits for the morning.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from codomyrmex.integrations.notification.alerts.alert import Alert, fingerprint
from codomyrmex.integrations.notification.alerts.book import Book, State
from codomyrmex.integrations.notification.alerts.config import AlertConfig, Route
from codomyrmex.integrations.notification.alerts.desk import Desk, Suppressed
from codomyrmex.integrations.notification.alerts.group import ActiveAlert, Group
from codomyrmex.integrations.notification.alerts.notification import Kind, Notification
from codomyrmex.integrations.notification.alerts.notification_log import LogEntry
from codomyrmex.integrations.notification.alerts.quiet_hours import QuietHours
from codomyrmex.integrations.notification.alerts.router import AlertRouter
from codomyrmex.integrations.notification.alerts.silences import Silence

DROPPED = {"alertname": "AlertsDropped", "severity": "warning", "source": "codomyrmex-streaming"}


class AlertEngine:
    """Decides what is notified, to whom and when. The same calls give the same notifications.

    Call `observe` with what happens and `due` at the times that `next_deadline` gives, and say of each
    notification that `due` gave whether it was `delivered` or has `failed`. All times are in seconds since
    1970 and do not go back.

    Args:
        config: the configuration.
        state: what `take_changes` gave before, all of it put together.

    Attributes:
        refused: how many alerts were refused because `max_alerts` were active.
    """

    def __init__(self, config: AlertConfig, state: State | None = None) -> None:
        self.refused = 0
        self._book = Book(config)
        if state:
            self._book.restore(state)
        self._desk = Desk(self._book)
        self._quiet = QuietHours(self._book, self._desk)
        self._ready: list[Notification] = []

    @property
    def config(self) -> AlertConfig:
        """The configuration that is in force."""
        return self._book.config

    @property
    def router(self) -> AlertRouter:
        """From labels to routes."""
        return self._book.router

    @property
    def silences(self) -> Mapping[str, Silence]:
        """The silences, by id."""
        return self._book.silences

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
            active = self._book.alerts.get(key)
            if active is None and alert.ends_at is not None:
                active = self._book.of_other_type(alert.labels)
                if active is None:
                    continue  # nobody was told that it fires
                key = active.fingerprint
            if active is None:
                if len(self._book.alerts) >= self._book.config.max_alerts and alert.labels != DROPPED:
                    self._refuse(now)
                    continue
                self._book.add(key, alert, now)
            else:
                active.update(alert, now, self._book.config.resolve_timeout)
                if active.left and active.fires(now):  # some groups have done with it
                    active.left = ()
                    self._book.enter(active, now)
            self._book.mark("alert", key)

    def _refuse(self, now: float) -> None:
        self.refused += 1
        most = self._book.config.max_alerts
        summary = f"more than {most} alerts are active; {self.refused} new ones were refused"
        self.observe([Alert(DROPPED, {"summary": summary}, now)], now)

    # What is due

    def next_deadline(self) -> float | None:
        """Give the moment at which `due` has something to do; None if there is none."""
        if self._ready:
            return -math.inf
        moment = min(self._book.next_tick(), self._desk.next_release(), self._quiet.next_check())
        return None if moment == math.inf else moment

    # With nothing due: a look at the top of the heap.
    def due(self, now: float) -> list[Notification]:
        """Give what is to be sent now; each stays under way until it is `delivered` or has `failed`."""
        due, self._ready = self._ready, []
        if self._quiet.next_check() <= now:  # before a tick tells of one group alone
            due += self._quiet.end(now, self._settle)
        while (group := self._book.take_ticking(now)) is not None:
            due += self._tick(group, now)
        due += self._desk.release_due(now)
        self._book.sweep(now)
        return due

    def _tick(self, group: Group, now: float) -> list[Notification]:
        group.flushed = True
        self._book.schedule(group, now + group.route.group_interval)
        seen = self._desk.look(group, now)
        due: list[Notification] = []
        if group.route.on_unmute == "summary":
            if seen.muted:
                self._quiet.hold(group, now)
            elif group.held:
                due += self._quiet.tell_held(group.route, [group], now)
        group.resolved_at_tick = {
            key: group.alerts[key].updated_at for key in sorted(seen.resolved | seen.hidden_resolved)
        }
        own = self._book.config.receivers[group.route.receiver].channels
        group.given_up &= {channel.name for channel in own}  # the others are asked again if these fail
        for channel in own:
            due += self._desk.decide(group, channel, seen, now)
        for channel in self._book.chain(group.route)[len(own) :]:
            due += self._desk.tell_fallback_of_end(group, channel, seen, now)
        self._settle(group, now)
        return due

    # What became of it

    def delivered(self, notification: Notification, now: float) -> None:
        """Note that a notification was delivered: that channel now knows."""
        for part in notification.parts:
            group = self._book.groups.get(part.group_key)
            self._book.note(part.group_key, notification.channel, part.firing, part.resolved, now)
            if group is None or not self._concludes(group, notification):
                continue
            for key in part.firing:  # what ended while it was under way: the next tick tells of that
                group.resolved_at_tick.pop(key, None)
            if notification.kind is Kind.QUIET_HOURS:
                self._quiet.let_go(group, part)
            self._settle(group, now)

    def failed(self, notification: Notification, now: float) -> None:
        """Note that a channel has given a notification up.

        The log does not change, so the next tick tries again. If all channels of the receiver have given
        up, the fallback of the receiver is told at once.
        """
        for part in notification.parts:
            group = self._book.groups.get(part.group_key)
            if group is None or not self._concludes(group, notification):
                continue
            group.given_up.add(notification.channel)
            self._book.mark("group", group.key)
            if notification.kind is Kind.QUIET_HOURS:
                self._quiet.forget_held(group, now)
            self._ready += self._fall_back(group, notification, now)
            self._settle(group, now)

    def _concludes(self, group: Group, notification: Notification) -> bool:
        if group.under_way.get(notification.channel) != notification.id:
            return False  # of before a reload
        del group.under_way[notification.channel]
        return True

    def _fall_back(self, group: Group, notification: Notification, now: float) -> list[Notification]:
        receiver = self._book.config.receivers.get(notification.receiver)
        if receiver is None or receiver.fallback is None:
            return []
        if not all(channel.name in group.given_up for channel in receiver.channels):
            return []
        seen = self._desk.look(group, now)
        due: list[Notification] = []
        for channel in self._book.config.receivers[receiver.fallback].channels:
            due += self._desk.decide(group, channel, seen, now, fallback_for=receiver.name)
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
                self._book.leave(alert, group)
        group.resolved_at_tick = {
            key: at for key, at in group.resolved_at_tick.items() if key in group.alerts
        }
        if not group.alerts and not group.waits:
            self._book.drop_group(group)

    # What there is

    def alerts(self) -> list[ActiveAlert]:
        """Give the alerts that are known; not to be changed."""
        return list(self._book.alerts.values())

    def groups(self) -> list[Group]:
        """Give the groups; not to be changed."""
        return list(self._book.groups.values())

    def log_entry(self, group_key: str, channel: str) -> LogEntry | None:
        """Give what a channel was told of a group last."""
        return self._book.log.get((group_key, channel))

    def inhibitor_of(self, labels: Mapping[str, str], now: float) -> ActiveAlert | None:
        """Give the firing alert that keeps one with these labels back."""
        found = self._book.inhibitor.inhibitor_of(labels, now)
        return None if found is None else self._book.alerts[found[0].fingerprint]

    def muted(self, route: Route, now: float) -> tuple[str, str] | None:
        """Tell whether the time intervals of a route mute it now: `muted` or `not active`, and the names."""
        return self._book.muted(route, now)

    def silenced_by(self, labels: Mapping[str, str], now: float) -> Silence | None:
        """Give the silence that keeps an alert with these labels back."""
        return self._book.silenced_by(labels, now)

    def take_suppressed(self) -> list[Suppressed]:
        """Give what was kept back since the last call; each alert once, until its reason changes."""
        return self._desk.take_suppressed()

    # What is changed from outside

    def add_silence(self, silence: Silence) -> None:
        """Add a silence, or put it in the place of the one with its id."""
        self._book.add_silence(silence)

    def expire_silence(self, silence_id: str, now: float) -> None:
        """End a silence now.

        Raises:
            KeyError: there is none with this id.
        """
        self._book.expire_silence(silence_id, now)

    def reload(self, config: AlertConfig, now: float) -> None:
        """Go on with another configuration: groups that it still has keep their timers, and the log stays."""
        before = self._book.channels
        self._book.reload(config, now)
        self._desk.reload(before)
        self._quiet.reload()
        self._ready = [each for each in self._ready if each.channel in self._book.channels]

    # What is kept

    def take_changes(self) -> dict[tuple[str, str], Any]:
        """Give what has changed since the last call, as built-in types; None for what is gone."""
        return self._book.take_changes()

    def forget_changes(self) -> None:
        """Forget what has changed, where nothing is kept."""
        self._book.forget_changes()

    def hurry(self, now: float) -> None:
        """Let what has not been told of wait no longer: groups in their group_wait, and what rates hold."""
        for group in list(self._book.groups.values()):
            if not group.flushed:
                self._book.schedule(group, now)
        self._desk.open_rates()

    def resume(self, now: float) -> None:
        """Begin anew after a time in which nobody could tell of anything: it counts for no timeout."""
        for alert in self._book.alerts.values():
            if alert.timed:
                alert.ends_at = max(alert.ends_at, now + self._book.config.resolve_timeout)
                self._book.mark("alert", alert.fingerprint)
        for group in list(self._book.groups.values()):
            if group.flushed and self._is_behind(group, now):
                self._book.schedule(group, now)

    def _is_behind(self, group: Group, now: float) -> bool:
        """Tell whether a channel does not know of what fires: it was being told when the process ended."""
        firing = {key for key, alert in group.alerts.items() if alert.fires(now)}
        for channel in self._book.config.receivers[group.route.receiver].channels:
            entry = self._book.log.get((group.key, channel.name))
            if firing and (entry is None or not firing <= entry.firing):
                return True
        return False
