"""`AlertView`: a firing alert and what suppresses it, as Alertmanager's API shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from codomyrmex.integrations.configuration.matchers import Labels, Matcher, RegexSets, matches_all
from codomyrmex.integrations.notification.alertmanager import (
    alert_order,
    alertmanager_fingerprint,
    label_set_order,
)
from codomyrmex.integrations.notification.alerts.engine import AlertEngine
from codomyrmex.integrations.notification.alerts.group import ActiveAlert, Group
from codomyrmex.integrations.notification.alerts.integration_counts import IntegrationCounts
from codomyrmex.integrations.notification.alerts.matcher_index import MatcherIndex
from codomyrmex.integrations.notification.alerts.notification import moment_of
from codomyrmex.integrations.notification.alerts.silences import Silence, SilenceState


class AlertFilter(msgspec.Struct, frozen=True):
    """Selects alerts.

    Attributes:
        matchers: all of them must match the labels of an alert.
        receiver: accepts the name of a receiver whose alerts are selected; None selects those of all.
        active: whether alerts that nothing suppresses are selected.
        silenced: whether silenced alerts are selected.
        inhibited: whether inhibited alerts are selected.
        muted: whether groups that a time interval mutes are selected.
    """

    matchers: Sequence[Matcher] = ()
    receiver: Callable[[str], bool] | None = None
    active: bool = True
    silenced: bool = True
    inhibited: bool = True
    muted: bool = True


EVERYTHING = AlertFilter()


class AlertView(msgspec.Struct, frozen=True, gc=False):
    """A firing alert at a point in time. Times are in seconds since 1970.

    Attributes:
        labels: the labels, which identify it.
        annotations: the annotations.
        starts_at: when it started.
        ends_at: when it ends if it is not updated.
        updated_at: when it was last updated.
        url: a link to its source.
        fingerprint: Alertmanager's fingerprint of its labels.
        receivers: the names of the receivers to which it is routed.
        silenced_by: the ids of the silences that match it.
        inhibited_by: the fingerprints of alerts that inhibit it.
        muted_by: the names of the time intervals that mute its group; only if it is shown in a group.
    """

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: float
    ends_at: float
    updated_at: float
    url: str | None
    fingerprint: str
    receivers: Sequence[str]
    silenced_by: Sequence[str]
    inhibited_by: Sequence[str]
    muted_by: Sequence[str]

    @property
    def suppressed(self) -> bool:
        """Whether anything prevents notifications about it."""
        return bool(self.silenced_by or self.inhibited_by or self.muted_by)


class AlertGroupView(msgspec.Struct, frozen=True, gc=False):
    """The firing alerts of a group at a point in time.

    Attributes:
        labels: the labels that its alerts have in common.
        receiver: the name of the receiver.
        route_labels: the labels of the route.
        alerts: the alerts, in Alertmanager's order.
    """

    labels: Mapping[str, str]
    receiver: str
    route_labels: Mapping[str, str]
    alerts: Sequence[AlertView]


def alerts_of(engine: AlertEngine, now: float, chosen: AlertFilter) -> list[AlertView]:
    """Return the firing alerts of an engine, sorted by fingerprint."""
    views = _Views(engine, now, chosen)
    found = []
    for alert in engine.alerts():
        receivers = tuple([group.route.receiver for group in alert.groups])
        if chosen.receiver is not None and not any(map(chosen.receiver, receivers)):
            continue
        view = views.of(alert, receivers, ())
        if view is not None:
            found.append(view)
    found.sort(key=lambda view: view.fingerprint)
    return found


def alert_groups_of(engine: AlertEngine, now: float, chosen: AlertFilter) -> list[AlertGroupView]:
    """Return the groups of an engine that have firing alerts, sorted by labels and receiver."""
    views = _Views(engine, now, chosen)
    names: dict[str, tuple[str, ...]] = {}
    groups = []
    for group in engine.groups():
        if chosen.receiver is not None and not chosen.receiver(group.route.receiver):
            continue
        muted_by = _muting(group, now)
        if muted_by and not chosen.muted:
            continue
        found = []
        for alert in group.alerts.values():
            receivers = names.get(alert.fingerprint)
            if receivers is None:
                receivers = names[alert.fingerprint] = views.receivers(alert)
            view = views.of(alert, receivers, muted_by)
            if view is not None:
                found.append(view)
        if found:
            found.sort(key=lambda view: alert_order(view.labels))
            route = group.route
            groups.append(AlertGroupView(group.labels, route.receiver, route.labels, tuple(found)))
    groups.sort(key=lambda each: (label_set_order(each.labels), each.receiver))
    return groups


class AlertFigures(NamedTuple):
    """The values of Alertmanager's metrics.

    Attributes:
        active: the number of firing alerts that nothing suppresses.
        suppressed: the number of firing alerts that are silenced or inhibited.
        groups: the number of groups, including those whose alerts are all resolved.
        silences: the number of silences in each state.
        counts: the notifications that this process has sent.
        members: the number of processes that share the alerts.
    """

    active: int
    suppressed: int
    groups: int
    silences: Mapping[SilenceState, int]
    counts: IntegrationCounts
    members: int = 1


def figures_of(engine: AlertEngine, now: float) -> AlertFigures:
    """Return the figures of an engine, which knows neither `counts` nor `members`: these are empty and 1."""
    views = _Views(engine, now, EVERYTHING)
    suppressed = [views.is_suppressed(alert) for alert in engine.alerts() if alert.fires(now)]
    states = Counter(silence.state(now) for silence in engine.silences.values())
    silences = {state: states[state] for state in SilenceState}
    muted = sum(suppressed)
    return AlertFigures(len(suppressed) - muted, muted, len(engine.groups()), silences, IntegrationCounts())


class _Views:
    """Creates views of alerts."""

    def __init__(self, engine: AlertEngine, now: float, chosen: AlertFilter) -> None:
        self._engine = engine
        self._now = now
        self._chosen = chosen
        self._silences = _SilenceIndex(engine.silences.values(), now)

    def receivers(self, alert: ActiveAlert) -> tuple[str, ...]:
        """Return the sorted names of the selected receivers of an alert."""
        accepts = self._chosen.receiver
        names = [group.route.receiver for group in alert.groups]
        return tuple(sorted(name for name in names if accepts is None or accepts(name)))

    def is_suppressed(self, alert: ActiveAlert) -> bool:
        """Return whether an alert is silenced or inhibited."""
        if self._silences.matching(alert.labels):
            return True
        return self._engine.inhibitor_of(alert.labels, self._now) is not None

    def of(self, alert: ActiveAlert, receivers: Sequence[str], muted_by: Sequence[str]) -> AlertView | None:
        """Return the view of an alert; None if it is not firing or not selected."""
        chosen, labels, now = self._chosen, alert.labels, self._now
        if not alert.fires(now) or (chosen.matchers and not matches_all(chosen.matchers, labels)):
            return None
        silenced_by = self._silences.matching(labels)
        inhibitor = self._engine.inhibitor_of(labels, now)
        if inhibitor is not None:
            if not chosen.inhibited:
                return None
        elif not (chosen.active or silenced_by):
            return None
        if silenced_by and not chosen.silenced:
            return None
        return AlertView(
            labels,
            alert.annotations,
            alert.starts_at,
            alert.ends_at,
            alert.updated_at,
            alert.url,
            fingerprint_of(alert),
            receivers,
            silenced_by,
            () if inhibitor is None else (fingerprint_of(inhibitor),),
            muted_by,
        )


def fingerprint_of(alert: ActiveAlert) -> str:
    """Return Alertmanager's fingerprint of an alert. It is kept, as computing it is expensive."""
    if not alert.alertmanager_id:
        alert.alertmanager_id = alertmanager_fingerprint(alert.labels)
    return alert.alertmanager_id


class _SilenceIndex:
    """Finds the active silences that match labels without checking each of them."""

    def __init__(self, silences: Iterable[Silence], now: float) -> None:
        active = [silence for silence in silences if silence.state(now) is SilenceState.ACTIVE]
        sets = [(each.id, matchers) for each in active for matchers in (each.matchers, *each.other_matchers)]
        self._ids = [silence_id for silence_id, _ in sets]
        lists = [matchers for _, matchers in sets]
        self._index = MatcherIndex(lists, RegexSets(matcher for each in lists for matcher in each))

    def matching(self, labels: Labels) -> tuple[str, ...]:
        """Return the ids of the silences that match labels."""
        if not self._ids:
            return ()
        return tuple(sorted({self._ids[number] for number in self._index.matching(labels)}))


def _muting(group: Group, now: float) -> tuple[str, ...]:
    """Return the names of the time intervals because of which a group is muted."""
    route, moment = group.route, moment_of(now)
    if route.active and not any(interval.holds(moment) for interval in route.active):
        return tuple(interval.name for interval in route.active)
    return tuple(interval.name for interval in route.mute if interval.holds(moment))
