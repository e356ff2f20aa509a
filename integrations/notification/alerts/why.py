"""`WhyNotNotified`: why receivers were not notified about alerts, or when they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.matchers import Labels
from codomyrmex.integrations.notification.alerts.config import AlertConfig
from codomyrmex.integrations.notification.alerts.engine import AlertEngine
from codomyrmex.integrations.notification.alerts.explain import explain
from codomyrmex.integrations.notification.alerts.group import ActiveAlert, Group
from codomyrmex.integrations.notification.alerts.notification import iso, moment_of, pairs
from codomyrmex.integrations.notification.channels import ChannelConfig

_MAX_CHECKED = 1_000  # alerts


@dataclass(frozen=True, slots=True)
class Cause:
    """A reason why no notification was sent. Times are ISO 8601.

    Args:
        code: `not_an_alert`, `resolved`, `inhibited`, `muted`, `not_active`, `silenced`, `no_channel`,
            `group_wait`, `group_interval`, `in_flight`, `failed`, `rate_limited` or `deduplicated` (the
            channel was already notified).
        text: the reason in words.
        by: the labels of the inhibiting alert, the names of the intervals, or the id of the silence.
        channel: the name of the channel, if the reason concerns only one.
        at: when that channel was notified.
        until: until when the reason holds, if known.
    """

    code: str
    text: str
    by: str | None = None
    channel: str | None = None
    at: str | None = None
    until: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """An alert in a group, whether its receiver was notified about it, and the reasons."""

    fingerprint: str
    labels: Mapping[str, str]
    group: str | None
    receiver: str
    notified: bool
    reasons: Sequence[Cause]


@dataclass(frozen=True, slots=True)
class WhyNotNotified:
    """Why receivers were not notified about some alerts.

    Args:
        answer: a summary of one or two sentences.
        alerts: the first of the alerts, those without a notification before others; an alert is listed once
            for each of its groups.
        total: the number of all alerts.
    """

    answer: str
    alerts: Sequence[Verdict]
    total: int

    def to_dict(self) -> dict[str, Any]:
        """Return the result as built-in types."""
        return {**asdict(self), "has_more": self.total > len(self.alerts)}


class _Context(NamedTuple):
    engine: AlertEngine
    now: float
    errors: Mapping[str, str]


def why_not_notified(
    engine: AlertEngine,
    now: float,
    labels: Labels,
    group: str | None = None,
    limit: int = 20,
    errors: Mapping[str, str] | None = None,
) -> WhyNotNotified:
    """Return why receivers were not notified about alerts, or when they were.

    Args:
        engine: the engine, which is only read.
        now: seconds since 1970.
        labels: labels that the alerts must have; may be empty if a group is passed.
        group: the key of the group of the alerts; None for all groups.
        limit: the maximum number of alerts in the result.
        errors: the last error of each channel, without secrets.

    Raises:
        ValueError: neither labels nor a group are passed.
    """
    wanted = {name: value for name, value in labels.items() if value}
    if not wanted and group is None:
        raise ValueError("labels: at least one label, or a group, is required")
    if group is None:
        found = [(alert, each) for alert in engine.alerts() if _has(alert, wanted) for each in alert.groups]
    else:
        known = engine.group(group)
        found = [] if known is None else [(a, known) for a in known.alerts.values() if _has(a, wanted)]
    if not found:
        return _no_alert(engine.config, wanted, group)
    context = _Context(engine, now, errors or {})
    found.sort(key=lambda each: not each[0].fires(now))
    verdicts = [_verdict(context, alert, each) for alert, each in found[:_MAX_CHECKED]]
    verdicts.sort(key=lambda verdict: verdict.notified)
    return WhyNotNotified(_answer(verdicts, len(found)), verdicts[:limit], len(found))


def _has(alert: ActiveAlert, wanted: Labels) -> bool:
    return all(alert.labels.get(name) == value for name, value in wanted.items())


def _no_alert(config: AlertConfig, labels: Labels, group: str | None) -> WhyNotNotified:
    if group is not None:
        where = f" with the labels {pairs(labels)}" if labels else ""
        return WhyNotNotified(f"No group {group} has an alert{where}; see alert_groups.", (), 0)
    text = (
        f"no alert has the labels {pairs(labels)} now: it was resolved and all receivers were notified, the "
        "configuration does not make its events alerts, or no event was published"
    )
    receivers = explain(config, labels).receivers
    verdicts = [
        Verdict("", dict(labels), None, name, notified=False, reasons=[Cause("not_an_alert", text)])
        for name in receivers
    ]
    return WhyNotNotified(f"{text[0].upper()}{text[1:]}.", verdicts, 0)


def _answer(verdicts: Sequence[Verdict], total: int) -> str:
    silent = [verdict for verdict in verdicts if not verdict.notified]
    if not silent:
        first = verdicts[0]
        why = "; ".join(cause.text for cause in first.reasons if cause.at is not None)
        return f"Notifications were sent about all of these alerts, such as {pairs(first.labels)}: {why}."
    first = silent[0]
    why = "; ".join(cause.text for cause in first.reasons)
    answer = f"{first.receiver} was not notified about {pairs(first.labels)}: {why}."
    if len(verdicts) > 1:
        codes = Counter(verdict.reasons[0].code for verdict in silent)
        counts = ", ".join(f"{count} {code}" for code, count in codes.most_common())
        of = f"{len(verdicts)}" if len(verdicts) == total else f"the first {len(verdicts)} of {total}"
        answer += f" There was no notification about {len(silent)} of {of} alerts: {counts}."
    return answer


def _verdict(context: _Context, alert: ActiveAlert, group: Group) -> Verdict:
    receiver = group.route.receiver
    reasons: list[Cause] = []
    fires = alert.fires(context.now)
    if fires:
        reasons += _suppressions(context, alert, group)
    else:
        reasons.append(Cause("resolved", f"it was resolved at {iso(alert.ends_at)}"))
    suppressed = bool(reasons)
    channels = list(_channels(context.engine.config, receiver))
    own = context.engine.config.receivers[receiver].channels
    if not own:
        reasons.append(Cause("no_channel", f"the receiver {receiver} has no channel"))
    elif not group.flushed and not suppressed:
        text = f"the group_wait of its group ends at {iso(group.next_tick)}"
        reasons.append(Cause("group_wait", text, until=iso(group.next_tick)))
    notified = False
    for channel in channels:
        cause, done = _about_channel(context, alert, group, channel)
        notified = notified or done
        if cause is not None:
            reasons.append(cause)
        elif channel in own and group.flushed and not suppressed:
            until = iso(group.next_tick)
            text = f"{channel.name}: the group is next evaluated at {until}{_before(alert, group)}"
            reasons.append(Cause("group_interval", text, channel=channel.name, until=until))
    return Verdict(alert.fingerprint, dict(alert.labels), group.key, receiver, notified, reasons)


def _channels(config: AlertConfig, receiver: str) -> Iterator[ChannelConfig]:
    """Yield the channels of a receiver and of its fallbacks."""
    name: str | None = receiver
    while name is not None:
        yield from config.receivers[name].channels
        name = config.receivers[name].fallback


def _before(alert: ActiveAlert, group: Group) -> str:
    """Return a clause that says what suppressed an alert at the last tick."""
    why = group.suppressed.get(alert.fingerprint, "").partition(" ")[0]
    return f"; at the last evaluation, the alert was {why}" if why else ""


def _suppressions(context: _Context, alert: ActiveAlert, group: Group) -> Iterator[Cause]:
    """Yield what suppresses a firing alert now, in the order of the stages."""
    engine, now, _ = context
    inhibitor = engine.inhibitor_of(alert.labels, now)
    if inhibitor is not None:
        by = pairs(inhibitor.labels)
        yield Cause("inhibited", f"it is inhibited by the firing alert {by}", by)
    moment, route = moment_of(now), group.route
    if route.active and not any(interval.holds(moment) for interval in route.active):
        by = ", ".join(interval.name for interval in route.active)
        yield Cause("not_active", f"its route is only active in the interval {by}", by)
    for interval in route.mute:
        if interval.holds(moment):
            yield Cause("muted", f"its route is muted in the interval {interval.name}", interval.name)
    silence = engine.silenced_by(alert.labels, now)
    if silence is not None:
        until = iso(silence.ends_at)
        by = f" by {silence.created_by}" if silence.created_by else ""
        comment = f" ({silence.comment})" if silence.comment else ""
        text = f"it is silenced{by} until {until}{comment}: {silence.id}"
        yield Cause("silenced", text, silence.id, until=until)


def _about_channel(
    context: _Context, alert: ActiveAlert, group: Group, channel: ChannelConfig
) -> tuple[Cause | None, bool]:
    """Return why a channel is not notified about an alert now, and whether it already was."""
    name, key = channel.name, alert.fingerprint
    entry = context.engine.log_entry(group.key, name)
    fires = alert.fires(context.now)
    notified = entry is not None and key in (entry.firing if fires else entry.firing | entry.resolved)
    if name in group.in_flight:
        return Cause("in_flight", f"{name}: a notification is in flight", channel=name), notified
    if name in group.failed:
        error = context.errors.get(name)
        text = f"{name}: the last notification failed{f': {error}' if error else ''}"
        return Cause(
            "failed", f"{text}; the next attempt is at {iso(group.next_tick)}", channel=name
        ), notified
    if name in group.rate_limited:
        text = f"{name}: the rate limit of the receiver delays the notification"
        return Cause("rate_limited", text, channel=name), notified
    if not notified or entry is None:
        return None, False
    at = iso(entry.at)
    if not fires:
        return Cause("deduplicated", f"{name}: already notified at {at}", channel=name, at=at), True
    repeat = group.route.repeat_interval
    text = f"{name}: already notified at {at}, and unchanged groups are repeated after {Duration(repeat)}"
    return Cause("deduplicated", text, channel=name, at=at, until=iso(entry.at + repeat)), True
