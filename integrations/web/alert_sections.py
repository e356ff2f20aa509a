"""Alerts and silences as a live page shows them, and selections of them for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from codomyrmex.integrations.web import paging
from codomyrmex.streaming.encoding import to_json

if TYPE_CHECKING:
    from codomyrmex.integrations.notification import Matcher, Silence
    from codomyrmex.integrations.notification.alerts.notification import NotifiedAlert
    from codomyrmex.integrations.notification.alerts.views import GroupView

MAX_GROUPS = 100
MAX_SILENCES = 100
ALERT_STATES = ("active", "suppressed", "resolved")
SILENCE_STATES = ("active", "pending", "expired")

_MAX_ALERTS = 50  # in a group


def show_alerts(groups: Sequence[GroupView], silences: Iterable[Silence], now: float) -> dict[str, Any]:
    """Return the section of a page with as many groups as fit, and the silences."""
    silences = tuple(silences)
    shown = _show_groups(groups, silences, now, MAX_GROUPS)
    return {
        "groups": shown,
        "others": len(groups) - len(shown),
        "silences": paging.page(_states(silences, now)[:MAX_SILENCES]),
    }


def find_groups(
    groups: Iterable[GroupView],
    silences: Iterable[Silence],
    now: float,
    matchers: Sequence[Matcher] = (),
    state: str = "",
    limit: int = MAX_GROUPS,
) -> dict[str, Any]:
    """Return the first groups that have matching alerts, each with some of these alerts.

    Args:
        groups: all groups.
        silences: all silences.
        now: the time in seconds since 1970.
        matchers: the matchers, all of which must match the labels of an alert.
        state: the state of the alerts, `active`, `suppressed` or `resolved`; empty for any.
        limit: the maximum number of groups.
    """
    silences = tuple(silences)
    found = []
    for view in groups:
        alerts = [
            alert
            for alert in view.alerts
            if all(matcher.holds(alert.labels.get(matcher.name, "")) for matcher in matchers)
            and state in {"", _state(alert, view.suppressed, silences, now)}
        ]
        if alerts:
            found.append(replace(view, alerts=alerts))
    limit = min(limit, MAX_GROUPS)
    each = max(2, _MAX_ALERTS // max(1, min(len(found), limit)))  # alerts of each group
    shown = _show_groups(found, silences, now, limit, each)
    return {"groups": shown, "total": len(found), "has_more": len(found) > len(shown)}


def find_silences(silences: Iterable[Silence], now: float, state: str, limit: int) -> dict[str, Any]:
    """Return the first silences in a state; an empty state means any."""
    found = [silence for silence in _states(silences, now) if state in {"", silence["state"]}]
    shown = paging.page(found[: min(limit, MAX_SILENCES)])
    return {"silences": shown, "total": len(found), "has_more": len(found) > len(shown)}


def show_silence(silence: Silence, now: float) -> dict[str, Any]:
    """Return a silence as a page shows it."""
    return {
        **silence.to_dict(),
        "state": silence.state(now).value,
        "matchers": [silence.condition()] if silence.other_matchers else list(map(str, silence.matchers)),
    }


def _show_groups(
    groups: Iterable[GroupView],
    silences: Sequence[Silence],
    now: float,
    limit: int,
    max_alerts: int = _MAX_ALERTS,
) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    room = paging.MAX_SECTION
    for view in groups:
        if room <= 0 or len(shown) == limit:
            break
        group, size = _show_group(view, silences, now, room, max_alerts)
        room -= size
        shown.append(group)
    return shown


def _show_group(
    view: GroupView, silences: Iterable[Silence], now: float, room: int, max_alerts: int
) -> tuple[dict[str, Any], int]:
    """Return a group as the page shows it, and its size in characters of JSON."""
    alerts = paging.page(
        (
            {**alert.to_dict(), "suppressed": _suppression(alert, view.suppressed, silences, now)}
            for alert in view.alerts[:max_alerts]
        ),
        room,
    )
    group = {
        **paging.shown(replace(view, alerts=(), suppressed={}).to_dict()),
        "alerts": alerts,
        "firing": sum(alert.status.value == "firing" for alert in view.alerts),
        "others": len(view.alerts) - len(alerts),
    }
    return group, len(to_json(group))


def _state(
    alert: NotifiedAlert, suppressed: Mapping[str, str], silences: Iterable[Silence], now: float
) -> str:
    if alert.status.value != "firing":
        return "resolved"
    return "active" if _suppression(alert, suppressed, silences, now) is None else "suppressed"


def _suppression(
    alert: NotifiedAlert, suppressed: Mapping[str, str], silences: Iterable[Silence], now: float
) -> dict[str, str] | None:
    """Return why an alert is suppressed, also by new silences, which the engine applies at its next tick."""
    kind, _, source = suppressed.get(alert.fingerprint, "").partition(" ")
    if kind and kind != "silenced":
        return {"why": kind, "by": source}
    silence = next((silence for silence in silences if silence.silences(alert.labels, now)), None)
    return None if silence is None else {"why": "silenced", "by": silence.id}


def _states(silences: Iterable[Silence], now: float) -> list[dict[str, Any]]:
    """Return silences with their states, active ones first."""
    shown = [show_silence(silence, now) for silence in silences]
    shown.sort(key=lambda silence: (SILENCE_STATES.index(silence["state"]), -silence["ends_at"]))
    return shown
