"""`Desk`: whether a channel is to be told of a group now, of what, and whether its rate lets it through."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count

from codomyrmex.integrations.configuration.rates import TokenBucket
from codomyrmex.integrations.notification.alerts.book import Book
from codomyrmex.integrations.notification.alerts.config import ChannelConfig
from codomyrmex.integrations.notification.alerts.group import ActiveAlert, Group
from codomyrmex.integrations.notification.alerts.notification import (
    Kind,
    Notification,
    NotifiedAlert,
    Part,
    Reason,
    Status,
)
from codomyrmex.integrations.notification.alerts.notification_log import reason_to_notify

_MAX_TOLD = 10_000  # suppressions that nobody has asked for yet


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
class Seen:
    """The alerts of a group at a moment, by fingerprint."""

    firing: set[str]
    resolved: set[str]
    hidden_firing: set[str]
    hidden_resolved: set[str]
    muted: bool


class Desk:
    """Makes notifications of what is in the book.

    Args:
        book: what is known.
    """

    def __init__(self, book: Book) -> None:
        self._book = book
        self._buckets: dict[str, TokenBucket] = {}
        self._over: dict[str, set[str]] = {}  # channel -> groups that its rate does not let through yet
        self._numbers = count(1)
        self._suppressed: deque[Suppressed] = deque(maxlen=_MAX_TOLD)

    def look(self, group: Group, now: float) -> Seen:
        """Sort the alerts of a group: what fires, what is resolved, and what of each is kept back."""
        muted = self._book.muted(group.route, now)
        seen = Seen(set(), set(), set(), set(), muted is not None)
        for key, alert in group.alerts.items():
            why = self._book.why_suppressed(alert.labels, muted, now)
            if alert.fires(now):
                (seen.firing if why is None else seen.hidden_firing).add(key)
                self._tell_suppressed(group, alert, why)
            else:
                (seen.resolved if why is None else seen.hidden_resolved).add(key)
        return seen

    def _tell_suppressed(self, group: Group, alert: ActiveAlert, why: tuple[str, str] | None) -> None:
        """Tell once that and why an alert is kept back, not at each tick."""
        if why is None:
            group.suppressed.pop(alert.fingerprint, None)
            return
        text = " ".join(why)
        if group.suppressed.get(alert.fingerprint) != text:
            group.suppressed[alert.fingerprint] = text
            self._suppressed.append(Suppressed(alert.labels, group.key, group.route.path, *why))

    def decide(
        self, group: Group, channel: ChannelConfig, seen: Seen, now: float, fallback_for: str | None = None
    ) -> list[Notification]:
        """Ask the log whether a channel is to be told of a group now."""
        if channel.name in group.under_way:
            return []
        group.rolled_up.pop(channel.name, None)
        entry = self._book.log.get((group.key, channel.name))
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
            self._book.note(group.key, channel.name, kept, resolved, now)
            group.given_up.discard(channel.name)
            return []
        shown = sorted(firing) + (sorted(resolved) if channel.send_resolved else [])
        alerts = _in_order(group.alerts[key].as_notified(now) for key in shown)
        part = Part(group.key, group.labels, reason, alerts, firing | kept, resolved)
        return self._send(group, channel, part, now, fallback_for)

    def tell_fallback_of_end(
        self, group: Group, channel: ChannelConfig, seen: Seen, now: float
    ) -> list[Notification]:
        """Tell a channel that took over that what it was told of is resolved, and nothing else."""
        if channel.name not in group.under_way:
            group.rolled_up.pop(channel.name, None)  # asked for again if the receiver gives up again
        entry = self._book.log.get((group.key, channel.name))
        if entry is None or not entry.firing:
            return []
        gone = (seen.resolved | seen.hidden_resolved) if group.route.resolve_always else seen.resolved
        firing = seen.firing & entry.firing
        if not gone & entry.firing or (firing and not channel.send_resolved):
            return []
        known = Seen(firing, gone & entry.firing, set(), set(), seen.muted)
        return self.decide(group, channel, known, now, group.route.receiver)

    def _send(
        self, group: Group, channel: ChannelConfig, part: Part, now: float, fallback_for: str | None
    ) -> list[Notification]:
        if channel.rate_limit is not None and (
            channel.name in self._over or not self._bucket(channel.name).take(now)
        ):
            group.rolled_up[channel.name] = part
            self._over.setdefault(channel.name, set()).add(group.key)
            return []
        return [self.notification(Kind.GROUP, channel, [part], now, fallback_for)]

    def notification(
        self,
        kind: Kind,
        channel: ChannelConfig,
        parts: list[Part],
        now: float,
        fallback_for: str | None = None,
    ) -> Notification:
        route = self._book.groups[parts[0].group_key].route
        number = f"n{next(self._numbers)}"
        receiver = self._book.channels[channel.name][0]
        for part in parts:
            group = self._book.groups[part.group_key]
            group.under_way[channel.name] = number
            group.given_up.discard(channel.name)
        return Notification(
            number, kind, receiver, channel.name, route.path, route.labels, tuple(parts), now, fallback_for
        )

    def _bucket(self, channel: str) -> TokenBucket:
        bucket = self._buckets.get(channel)
        if bucket is None:
            limit = self._book.channels[channel][1].rate_limit
            bucket = TokenBucket(1, 0.001) if limit is None else TokenBucket(limit.count, limit.seconds)
            self._buckets[channel] = bucket
        return bucket

    def _release(self, channel: str, now: float) -> list[Notification]:
        """Send what was over the rate of a channel, all in one."""
        groups = [
            self._book.groups[key] for key in sorted(self._over.pop(channel)) if key in self._book.groups
        ]
        parts = [
            part
            for group in groups
            if (part := group.rolled_up.pop(channel, None)) is not None and self._may_tell(group, part, now)
        ]
        if not parts or not self._bucket(channel).take(now):
            return []
        kind = Kind.GROUP if len(parts) == 1 else Kind.RATE_LIMIT
        return [self.notification(kind, self._book.channels[channel][1], parts, now)]

    def _may_tell(self, group: Group, part: Part, now: float) -> bool:
        """Tell whether what waited may still be told; if it is kept back now, the next tick decides."""
        muted = self._book.muted(group.route, now)
        firing = (alert.labels for alert in part.alerts if alert.status is Status.FIRING)
        return all(self._book.why_suppressed(labels, muted, now) is None for labels in firing)

    def spend(self, channel: ChannelConfig, now: float) -> None:
        """Count something that a rate does not hold up, so that it holds up what comes after."""
        if channel.rate_limit is not None:
            self._bucket(channel.name).spend(now)

    def take_suppressed(self) -> list[Suppressed]:
        """Give what was kept back since the last call; each alert once, until its reason changes."""
        told = list(self._suppressed)
        self._suppressed.clear()
        return told

    def next_release(self) -> float:
        """Give the moment at which a rate lets something through; infinity if nothing waits for that."""
        return min((self._bucket(channel).ready_at() for channel in self._over), default=math.inf)

    def release_due(self, now: float) -> list[Notification]:
        """Send what was over a rate and now is not."""
        ready = [name for name in self._over if self._bucket(name).ready_at() <= now]
        return [each for channel in ready for each in self._release(channel, now)]

    def open_rates(self) -> None:
        """Let through at once what waits: there is no later time."""
        self._buckets.clear()

    def reload(self, old: Mapping[str, tuple[str, ChannelConfig]]) -> None:
        """Go on with the channels of another configuration; `old` are those of before."""
        channels = self._book.channels
        self._buckets = {
            name: bucket
            for name, bucket in self._buckets.items()
            if name in channels and channels[name][1].rate_limit == old[name][1].rate_limit
        }
        self._over = {
            channel: kept
            for channel, keys in self._over.items()
            if channel in channels and (kept := {key for key in keys if key in self._book.groups})
        }


def _in_order(alerts: Iterable[NotifiedAlert]) -> tuple[NotifiedAlert, ...]:
    return tuple(
        sorted(alerts, key=lambda each: (each.status is not Status.FIRING, each.starts_at, each.fingerprint))
    )
