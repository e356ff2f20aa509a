"""Engines with the same state: `restore` continues another one, and `apply` follows its changes."""

from __future__ import annotations

from operator import itemgetter
from typing import Annotated, Any

import msgspec
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.notification.alerts.engine_state import (
    EngineState,
    SavedState,
    interned,
    log_key,
)
from codomyrmex.integrations.notification.alerts.group import ActiveAlert, Group
from codomyrmex.integrations.notification.alerts.notification import LogEntry, NotifiedAlert
from codomyrmex.integrations.notification.alerts.silences import Silence

_ORDER = {"log": 0, "silence": 1, "group": 2, "alert": 3}
_Time = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]  # neither infinite nor NaN

_log = Diagnostics(__name__)


class _AlertRecord(msgspec.Struct):
    labels: dict[str, str]
    annotations: dict[str, str]
    starts_at: float
    ends_at: _Time
    times_out: bool
    updated_at: _Time
    url: str | None
    trace_id: str | None
    closed: list[str]


class _GroupRecord(msgspec.Struct):
    route: str
    labels: dict[str, str]
    next_tick: _Time
    flushed: bool
    failed: list[str]
    pending: list[NotifiedAlert]
    in_flight: dict[str, str] = {}


class _LogRecord(msgspec.Struct):
    firing: list[str]
    resolved: list[str]
    at: _Time
    expires: _Time


_RECORDS = {"alert": _AlertRecord, "group": _GroupRecord, "log": _LogRecord}


def restore(state: EngineState, saved: SavedState) -> int:
    """Load what `pop_changes` of another engine has returned.

    Returns:
        How many values are damaged; they are skipped and logged.
    """
    damaged = 0
    known = [(_ORDER[kind], kind, key, value) for (kind, key), value in saved.items() if kind in _ORDER]
    for _, kind, key, value in sorted(known, key=itemgetter(0)):
        try:
            apply(state, kind, key, value)
        except Exception as error:  # noqa: BLE001 - a value can be anything, and must not affect the others
            damaged += 1
            _log.warning(kind, "a saved %s is damaged and skipped: %s (%s)", kind, error, key)
    for alert in list(state.alerts.values()):
        if not alert.groups:
            state.delete_alert(alert)
    for group in list(state.groups.values()):
        if not group.alerts and not group.pending:
            state.delete_group(group)
    # Delete saved alerts and groups that have no route any more, and save new groups.
    state.discard_changes()
    for kind, current in (("alert", state.alerts.keys()), ("group", state.groups.keys())):
        keys = {key for _, known_kind, key, value in known if known_kind == kind and value is not None}
        for key in sorted(keys ^ current):
            state.mark(kind, key)
    return damaged


def apply(state: EngineState, kind: str, key: str, value: Any) -> None:
    """Make a change that `pop_changes` of an engine with the same configuration has returned.

    Raises:
        Exception: it is damaged; nothing has changed.
    """
    if value is not None and kind in _RECORDS:
        msgspec.convert(value, _RECORDS[kind])  # checks it
    if kind == "alert":
        _apply_alert(state, key, value)
    elif kind == "group":
        _apply_group(state, key, value)
    elif kind == "silence":
        silence = None if value is None else Silence.from_dict(value)
        state.silences.pop(key, None)
        if silence is not None:
            state.silences[key] = silence
    elif kind == "log":
        state.log.pop(log_key(key), None)
        if value is not None:
            state.log[log_key(key)] = LogEntry.from_dict(value)


def _apply_alert(state: EngineState, key: str, value: Any) -> None:
    alert = state.alerts.get(key)
    if value is None:
        if alert is not None:
            for group in alert.groups:
                group.alerts.pop(key, None)
            state.delete_alert(alert)
        return
    if alert is None:
        alert = state.alerts[key] = ActiveAlert(key, interned(value["labels"]))
        alert.load(value)
        state.inhibitor.add(alert)
    else:
        alert.load(value)
    for group in alert.groups:
        if group.key in alert.closed:
            group.alerts.pop(key, None)
    alert.groups = tuple(group for group in alert.groups if group.key not in alert.closed)
    state.put_into_groups(alert, alert.updated_at)


def _apply_group(state: EngineState, key: str, value: Any) -> None:
    group = state.groups.get(key)
    if value is None:
        if group is not None:
            for alert in group.alerts.values():
                alert.groups = tuple(other for other in alert.groups if other is not group)
            state.delete_group(group)
        return
    if group is None:
        route = state.routes.get(value["route"])
        if route is None:
            return
        group = state.groups[key] = Group(key, route, value["labels"])
    group.load(value)
    state.schedule(group, value["next_tick"])
