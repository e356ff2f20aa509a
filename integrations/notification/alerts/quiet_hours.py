"""`QuietHours`: what routes with `on_unmute: summary` hold while they are muted, and tell when that ends."""

from __future__ import annotations

import math
from collections.abc import Callable

from codomyrmex.integrations.notification.alerts.book import Book
from codomyrmex.integrations.notification.alerts.config import ChannelConfig, Route
from codomyrmex.integrations.notification.alerts.desk import Desk
from codomyrmex.integrations.notification.alerts.group import Group
from codomyrmex.integrations.notification.alerts.notification import Kind, Notification, Part, Reason, Status


class QuietHours:
    """Holds alerts of muted groups.

    Time intervals have the resolution of a minute, so while anything is held, each minute is looked at.

    Args:
        book: what is known.
        desk: makes notifications.
    """

    def __init__(self, book: Book, desk: Desk) -> None:
        self._book = book
        self._desk = desk
        self._holding = {key for key, group in book.groups.items() if group.held}
        self._check = -math.inf

    def next_check(self) -> float:
        """Give the moment at which to look next; infinity if nothing is held."""
        return self._check if self._holding else math.inf

    def reload(self) -> None:
        """Forget groups that there are no more."""
        self._holding &= self._book.groups.keys()

    def hold(self, group: Group, now: float) -> None:
        """Keep, for the end of the quiet hours, what would have been told."""
        told = [
            entry.firing
            for channel in self._book.config.receivers[group.route.receiver].channels
            if (entry := self._book.log.get((group.key, channel.name))) is not None
        ]
        known = frozenset().union(*told)
        # With `resolve_always`, the end of what is known is told of at once.
        ends = frozenset[str]() if group.route.resolve_always else known
        for key, alert in group.alerts.items():
            if self._book.why_suppressed(alert.labels, None, now) is not None:
                continue
            if (key not in known) if alert.fires(now) else (key in ends or key in group.held):
                group.hold(alert.as_notified(now))
        if group.held:
            check = self._check if self._holding else math.inf
            self._check = min(check, _next_minute(now))
            self._holding.add(group.key)
            self._book.mark("group", group.key)

    def end(self, now: float, settle: Callable[[Group, float], None]) -> list[Notification]:
        """Tell what was held by routes that are not muted any more; others are looked at next minute."""
        by_route: dict[str, list[Group]] = {}
        for key in sorted(self._holding):
            group = self._book.groups[key]
            if self._book.muted(group.route, now) is None and not group.given_up:  # else at its next tick
                by_route.setdefault(group.route.path, []).append(group)
        self._check = _next_minute(now)
        due: list[Notification] = []
        for groups in by_route.values():
            due += self.tell_held(groups[0].route, groups, now)
            for group in groups:
                settle(group, now)
        return due

    def tell_held(self, route: Route, groups: list[Group], now: float) -> list[Notification]:
        due: list[Notification] = []
        for channel in self._book.config.receivers[route.receiver].channels:
            parts = [
                part
                for group in groups
                if channel.name not in group.under_way
                and (part := self._held_part(group, channel, now)) is not None
            ]
            if parts:
                self._desk.spend(channel, now)
                due.append(self._desk.notification(Kind.QUIET_HOURS, channel, parts, now))
        for group in groups:
            if not group.under_way:  # nobody is to be told
                self._clear_held(group)
        return due

    def _held_part(self, group: Group, channel: ChannelConfig, now: float) -> Part | None:
        held = [
            alert
            for alert in group.held_now(now)
            if self._book.why_suppressed(alert.labels, None, now) is None  # silenced since then
        ]
        firing = frozenset(alert.fingerprint for alert in held if alert.status is Status.FIRING)
        resolved = frozenset(alert.fingerprint for alert in held if alert.status is Status.RESOLVED)
        if not channel.send_resolved:
            held = [alert for alert in held if alert.status is Status.FIRING]
        if not held:
            return None
        entry = self._book.log.get((group.key, channel.name))
        known = frozenset() if entry is None else entry.firing - resolved
        still = frozenset(key for key in known if key in group.alerts and group.alerts[key].fires(now))
        reason = Reason.FIRST if entry is None else Reason.NEW_ALERTS if firing else Reason.ALL_RESOLVED
        return Part(group.key, group.labels, reason, held, firing | still, resolved)

    def let_go(self, group: Group, part: Part) -> None:
        for alert in part.alerts:
            group.held.pop(alert.fingerprint, None)
        if not group.under_way:
            self._clear_held(group)
        self._book.mark("group", group.key)

    def _clear_held(self, group: Group) -> None:
        group.held.clear()
        self._holding.discard(group.key)
        self._book.mark("group", group.key)

    def forget_held(self, group: Group, now: float) -> None:
        """Forget of what could not be told what is over for long, as `_settle` does."""
        repeat = group.route.repeat_interval
        for key, alert in list(group.held.items()):
            if key not in group.alerts and (alert.ends_at is None or now - alert.ends_at >= repeat):
                del group.held[key]
        if not group.held:
            self._clear_held(group)


def _next_minute(now: float) -> float:
    return (now // 60 + 1) * 60
