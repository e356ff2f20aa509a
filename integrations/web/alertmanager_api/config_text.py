"""Converts a configuration to Alertmanager's format, without secrets, for tools that show routes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.matchers import Matcher
from codomyrmex.integrations.notification import AlertConfig
from codomyrmex.integrations.notification.alerts.config import Route
from codomyrmex.integrations.notification.alerts.intervals import (
    DayOfMonthRange,
    MonthRange,
    TimeInterval,
    TimeSpec,
    WeekdayRange,
    YearRange,
)

_NOTE = "# Receivers are shown without their channels, which may hold secrets.\n"
_TIMES = ("group_wait", "group_interval", "repeat_interval")


def config_text(config: AlertConfig) -> str:
    """Return a configuration as YAML that Alertmanager accepts.

    It has the routes, the names of the receivers, the inhibition rules and the time intervals, but neither
    the settings of channels nor settings that Alertmanager does not have.
    """
    shown = {
        "global": {"resolve_timeout": _duration(config.resolve_timeout)},
        "route": _route(config.route),
        "inhibit_rules": [
            {
                "source_matchers": _matchers(rule.source),
                "target_matchers": _matchers(rule.target),
                "equal": list(rule.equal),
            }
            for rule in config.inhibit_rules
        ],
        "receivers": [{"name": name} for name in config.receivers],
        "time_intervals": [_interval(interval) for interval in config.intervals.values()],
    }
    lines = _lines({key: value for key, value in shown.items() if value}, "")
    return _NOTE + "".join(f"{line}\n" for line in lines)


def _route(route: Route) -> dict[str, Any]:
    shown: dict[str, Any] = {"receiver": route.receiver}
    if route.origins.get("group_by") == route.path:
        shown["group_by"] = ["..."] if route.group_by is None else list(route.group_by)
    if route.matchers:
        shown["matchers"] = _matchers(route.matchers)
    for name in _TIMES:
        if route.origins.get(name) == route.path:
            shown[name] = _duration(getattr(route, name))
    lists = {
        "mute_time_intervals": [interval.name for interval in route.mute],
        "active_time_intervals": [interval.name for interval in route.active],
        "routes": [_route(child) for child in route.children],
    }
    shown["continue"] = route.continues
    return {**shown, **{name: value for name, value in lists.items() if value}}


def _matchers(matchers: Iterable[Matcher]) -> list[str]:
    return [str(matcher) for matcher in matchers]


def _duration(seconds: float) -> str:
    return str(Duration(seconds))


def _interval(interval: TimeInterval) -> dict[str, Any]:
    return {"name": interval.name, "time_intervals": [_spec(spec) for spec in interval.specs]}


def _spec(spec: TimeSpec) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if spec.times is not None:
        shown["times"] = [
            {"start_time": _time(each.start), "end_time": _time(each.end)} for each in spec.times
        ]
    for name in ("weekdays", "days_of_month", "months", "years"):
        ranges = getattr(spec, name)
        if ranges is not None:
            shown[name] = [_range(each) for each in ranges]
    location = getattr(spec.location, "key", None)
    return {**shown, "location": location} if location else shown


def _range(numbers: WeekdayRange | DayOfMonthRange | MonthRange | YearRange) -> str:
    names, first = numbers.names, numbers.first_name
    ends = [names[number - first] if names else str(number) for number in numbers]
    return ":".join(dict.fromkeys(ends))


def _time(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _lines(value: Any, indent: str) -> Iterator[str]:
    """Yield the lines of a value as YAML; texts are written as in JSON."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if item and isinstance(item, (Mapping, list)):
                yield f"{indent}{key}:"
                yield from _lines(item, f"{indent}  " if isinstance(item, Mapping) else indent)
            else:
                yield f"{indent}{key}: {_text(item)}"
        return
    for item in value:
        if item and isinstance(item, Mapping):
            first, *others = _lines(item, f"{indent}  ")
            yield f"{indent}- {first.lstrip(' ')}"
            yield from others
        else:
            yield f"{indent}- {_text(item)}"
