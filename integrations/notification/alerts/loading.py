"""`load_alert_config`: a file, a text or a mapping to a checked configuration, or all its problems."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.files import read_text
from codomyrmex.integrations.configuration.matchers import Matcher, MatcherError
from codomyrmex.integrations.configuration.problems import Problem, ProblemList, SourceMap, at
from codomyrmex.integrations.configuration.reading import Reader
from codomyrmex.integrations.notification.alerts.alert import LabelRules
from codomyrmex.integrations.notification.alerts.config import (
    AlertConfig,
    AlertConfigError,
    InhibitRule,
    Receiver,
    Route,
)
from codomyrmex.integrations.notification.alerts.config_file import (
    ConfigFile,
    InhibitFile,
    IntervalFile,
    RouteFile,
    TestFile,
    TimeRangeFile,
    TimeSpecFile,
)
from codomyrmex.integrations.notification.alerts.intervals import (
    TimeInterval,
    TimeRange,
    TimeSpec,
    time_range,
)
from codomyrmex.integrations.notification.alerts.loading_receivers import (
    ReceiverLoader,
    load_context,
    load_globals,
    note_references,
)
from codomyrmex.integrations.notification.alerts.other_files import recognize_foreign
from codomyrmex.integrations.notification.alerts.state_config import read_state

if TYPE_CHECKING:
    from codomyrmex.integrations.configuration.yaml_text import YamlText

_OWN_KEYS = frozenset({"events", "labels", "state", "tests", "when_away"})
_JOINED = frozenset({"matchers", "source_matchers", "target_matchers"})  # lists to which a merge adds
GROUP_BY_ALL = "..."
_DEFAULTS = {"group_wait": 30.0, "group_interval": 300.0, "repeat_interval": 14_400.0}
_MAX_TEST = 10 * 365 * 86_400.0  # seconds


def load_alert_config(
    source: str | os.PathLike[str] | Mapping[str, Any], *, environ: Mapping[str, str] | None = None
) -> AlertConfig:
    """Load a configuration of alert routing.

    Args:
        source: a path, YAML text (recognized by a line break or `: `), or a mapping.
        environ: the variables for `${NAME}` in URLs; `os.environ` if None.

    Raises:
        AlertConfigError: the configuration is invalid; it holds every problem with its position.
    """
    environ = os.environ if environ is None else environ
    if isinstance(source, Mapping):
        return _loaded(source, ProblemList(None, {}), [], {}, environ)
    file: str | None = None
    if isinstance(source, str) and ("\n" in source or ": " in source):
        text = source
    else:
        if not isinstance(source, (str, os.PathLike)):
            actual = type(source).__name__
            raise TypeError(f"config: must be a path, YAML text or a mapping, got {actual}")
        file = str(source)
        text = read_text(Path(source), AlertConfigError)
    return load_text(text, file, environ)[0]


def load_text(text: str, file: str | None, environ: Mapping[str, str]) -> tuple[AlertConfig, YamlText]:
    """Load a configuration from YAML, and also return the parsed YAML; errors as for `load_alert_config`."""
    from codomyrmex.integrations.configuration.yaml_text import read_yaml

    yaml = read_yaml(text, file, joined=_JOINED)
    problems = ProblemList(file, yaml.positions)
    problems.found += yaml.problems
    return _loaded(yaml.data, problems, yaml.notes, yaml.words, environ), yaml


def _loaded(
    data: Any,
    problems: ProblemList,
    notes: list[Problem],
    words: Mapping[str, str],
    environ: Mapping[str, str],
) -> AlertConfig:
    foreign = recognize_foreign(data)
    if foreign is not None:
        place, message = foreign
        problems.add(place, message, key=place not in {"", "kind"})
        raise AlertConfigError(problems.found)
    if data is None:
        if not problems.found:
            problems.add("", "the configuration is empty; a route and receivers are required")
        raise AlertConfigError(problems.found)
    return _Loader(problems, notes, words, environ).load(data)


class _Loader:
    def __init__(
        self,
        problems: ProblemList,
        notes: list[Problem],
        words: Mapping[str, str],
        environ: Mapping[str, str],
    ) -> None:
        self._environ = environ
        self._problems = problems
        self._notes = ProblemList(problems.file, problems.positions)
        self._notes.found += notes
        self._reader = Reader(problems, self._notes, words)
        self._intervals: dict[str, TimeInterval] = {}
        self._receivers: dict[str, Receiver] = {}

    def load(self, data: Any) -> AlertConfig:
        problems = self._problems
        file = self._reader.struct(data, ConfigFile)
        for key in ("time_intervals", "mute_time_intervals"):
            for number, interval in enumerate(getattr(file, key)):
                self._add_interval(interval, at(key, number))
        settings = load_globals(file.global_, problems, self._environ)
        context = load_context(settings, file, problems, self._notes)
        is_portable = _is_portable(file, data)
        note_references(file.global_ if is_portable else None, "global", self._notes)
        receivers = ReceiverLoader(problems, self._notes, self._environ, context, is_portable=is_portable)
        for number, receiver in enumerate(file.receivers):
            receivers.add(receiver, at("receivers", number))
        self._receivers = receivers.receivers
        for loaded in self._receivers.values():
            self._check_fallback(loaded)
        root = data.get("route") if isinstance(data, Mapping) else data
        route = None
        if root is None:
            problems.add("route", "a root route with a receiver is required")
        elif file.route is not None and isinstance(root, Mapping):
            self._check_root(file.route)
            route = self._route(file.route, "route", None, self._route_matchers(file.route, "route"))
        rules = tuple(self._rule(rule, at("inhibit_rules", n)) for n, rule in enumerate(file.inhibit_rules))
        if settings.max_alerts < 1:
            problems.add("global.max_alerts", f"must be at least 1, got {settings.max_alerts}")
        self._check_positive("global.resolve_timeout", settings.resolve_timeout)
        label_rules = replace(self._label_rules(file.labels), control=settings.control_events)
        label_rules = replace(label_rules, selected=_selected(file))
        for number, test in enumerate(file.tests):
            self._check_test(test, at("tests", number))
        state = read_state(file.state, self._reader, problems, self._environ)
        if problems.found or route is None:
            raise AlertConfigError(problems.in_order())
        return AlertConfig(
            route=route,
            receivers=self._receivers,
            inhibit_rules=rules,
            intervals=self._intervals,
            label_rules=label_rules,
            resolve_timeout=settings.resolve_timeout,
            max_alerts=settings.max_alerts,
            trace_url=settings.trace_url,
            state=state,
            when_away=file.when_away,
            tests=tuple(file.tests),
            notes=tuple(self._notes.in_order()),
            source_map=SourceMap(problems.file, problems.positions),
        )

    def _check_positive(self, path: str, value: float | None) -> None:
        if value is not None and value <= 0:
            self._problems.add(path, f"must be greater than 0, got {value}")

    def _check_receiver(self, path: str, name: str | None) -> None:
        if name and name not in self._receivers:
            self._problems.add_undefined(path, "receiver", name, self._receivers)

    # Routes

    def _check_root(self, root: RouteFile) -> None:
        add = self._problems.add
        if not root.receiver and not any(p.path == "route.receiver" for p in self._problems.found):
            add("route", "the root needs a receiver, for alerts that match no other route")
        name = next((name for name in ("matchers", "match", "match_re") if getattr(root, name)), None)
        if name is not None:
            add(at("route", name), "the root matches every alert; move the matchers to a route below it")
        if root.continue_:
            add("route.continue", "the root has no siblings to continue with; remove `continue`")
        for name in ("mute_time_intervals", "active_time_intervals"):
            if getattr(root, name):
                add(at("route", name), "the root is never muted; move the interval to a route below it")

    def _route(
        self,
        file: RouteFile,
        path: str,
        parent: Route | None,
        matchers: tuple[Matcher, ...],
        suffix: str = "",
    ) -> Route:
        origins = {} if parent is None else dict(parent.origins)

        def setting(name: str, default: Any) -> Any:
            value = getattr(file, name)
            if value is not None and value != "":  # an empty receiver is inherited too
                origins[name] = path
                return value
            return default if parent is None else getattr(parent, name)

        self._check_receiver(at(path, "receiver"), file.receiver)
        for name in ("group_interval", "repeat_interval"):
            self._check_positive(at(path, name), getattr(file, name))
        if file.group_by is None:
            group_by = () if parent is None else parent.group_by
        else:
            self._check_group_by(file.group_by, at(path, "group_by"))
            origins["group_by"] = path
            group_by = None if file.group_by == [GROUP_BY_ALL] else tuple(file.group_by)
        key = f"{_text_of(matchers)}{suffix}"
        route = Route(
            path=path,
            matchers=matchers,
            continues=file.continue_,
            receiver=setting("receiver", ""),
            group_by=group_by,
            mute=self._named_intervals(file.mute_time_intervals, at(path, "mute_time_intervals")),
            active=self._named_intervals(file.active_time_intervals, at(path, "active_time_intervals")),
            on_unmute=setting("on_unmute", "drop"),
            resolve_always=setting("resolve_always", default=False),
            labels=file.labels if parent is None else {**parent.labels, **file.labels},
            origins=origins,
            children=(),
            key=key if parent is None else f"{parent.key}/{key}",
            **{name: float(setting(name, default)) for name, default in _DEFAULTS.items()},
        )
        seen: Counter[str] = Counter()
        children = []
        for number, child in enumerate(file.routes):
            child_path = at(path, "routes", number)
            child_matchers = self._route_matchers(child, child_path)
            # Siblings with equal matchers are numbered; otherwise they would share entries of the log.
            text = _text_of(child_matchers)
            seen[text] += 1
            suffix = "" if seen[text] == 1 else f"#{seen[text]}"
            children.append(self._route(child, child_path, route, child_matchers, suffix))
        return replace(route, children=tuple(children))

    def _check_group_by(self, names: list[str], path: str) -> None:
        for number, name in enumerate(names):
            if names.index(name) < number:
                self._problems.add(at(path, number), f"{name} is given twice")
            elif not name:
                self._problems.add(at(path, number), "the label name is empty")
        if GROUP_BY_ALL in names and len(names) > 1:
            self._problems.add(path, "`...` means all labels, so it must be the only item")

    def _named_intervals(self, names: list[str], path: str) -> tuple[TimeInterval, ...]:
        for number, name in enumerate(names):
            if name not in self._intervals:
                self._problems.add_undefined(at(path, number), "time interval", name, self._intervals)
        return tuple(self._intervals[name] for name in names if name in self._intervals)

    def _route_matchers(self, file: RouteFile, path: str) -> tuple[Matcher, ...]:
        return self._matchers(file, path, "matchers", "match", "match_re")

    def _rule(self, file: InhibitFile, path: str) -> InhibitRule:
        source = self._matchers(file, path, "source_matchers", "source_match", "source_match_re")
        target = self._matchers(file, path, "target_matchers", "target_match", "target_match_re")
        return InhibitRule(source, target, tuple(file.equal), path)

    def _matchers(
        self, file: RouteFile | InhibitFile, path: str, lines: str, equal: str, regex: str
    ) -> tuple[Matcher, ...]:
        matchers = [matcher for line in getattr(file, lines) for matcher in line.matchers]
        for key, op in ((equal, "="), (regex, "=~")):
            for label, value in getattr(file, key).items():
                try:
                    matchers.append(Matcher(label, op, value))
                except MatcherError as error:
                    self._problems.add(at(path, key, label), str(error))
        return tuple(matchers)

    # Receivers

    def _check_fallback(self, receiver: Receiver) -> None:
        path = at(receiver.path, "fallback")
        self._check_receiver(path, receiver.fallback)
        names, name = [receiver.name], receiver.fallback or ""
        while name in self._receivers and name not in names:
            names.append(name)
            name = self._receivers[name].fallback or ""
        if name == receiver.name:
            self._problems.add(path, f"the fallbacks form a cycle: {' -> '.join([*names, name])}")

    # Everything else

    def _add_interval(self, file: IntervalFile, path: str) -> None:
        if not file.name:
            self._problems.add(path, "a time interval must have a name")
        elif file.name in self._intervals:
            self._problems.add(at(path, "name"), f"there are two time intervals named {file.name!r}")
        specs = [
            self._spec(spec, at(path, "time_intervals", n)) for n, spec in enumerate(file.time_intervals)
        ]
        self._intervals.setdefault(file.name, TimeInterval(file.name, tuple(specs)))

    def _spec(self, file: TimeSpecFile, path: str) -> TimeSpec:
        times = None if file.times is None else self._times(file.times, at(path, "times"))
        location = file.location or UTC
        return TimeSpec(times, file.weekdays, file.days_of_month, file.months, file.years, location)

    def _times(self, ranges: list[TimeRangeFile], path: str) -> list[TimeRange]:
        times = []
        for number, each in enumerate(ranges):
            if at(path, number) in self._reader.unreadable:
                continue
            try:
                times.append(time_range(each.start_time, each.end_time))
            except ValueError as error:
                self._problems.add(at(path, number), str(error))
        return times

    def _label_rules(self, data: Any) -> LabelRules:
        if data is None:
            return LabelRules()
        if isinstance(data, (list, tuple)):
            data = {name: name for name in self._reader.value(data, list[str], "labels")}
        chosen = self._reader.value(data, dict[str, str], "labels")
        if not isinstance(chosen, dict):
            return LabelRules()
        if not chosen:
            self._problems.add("labels", "at least one label is required; remove `labels` for the default")
        for label, entry in chosen.items():
            if not entry:
                self._problems.add(at("labels", label), f"name the metadata entry that {label} is taken from")
        return LabelRules(chosen)

    def _check_test(self, test: TestFile, path: str) -> None:
        for number, name in enumerate(test.failing):
            self._check_receiver(at(path, "failing", number), name)
        for number, expected in enumerate(test.expect):
            self._check_receiver(at(path, "expect", number, "receiver"), expected.receiver)
        for number, event in enumerate(test.events):
            keys = [key for key in ("labels", "event", "silence") if getattr(event, key) is not None]
            if len(keys) != 1:
                self._problems.add(
                    at(path, "events", number), "exactly one of labels, event and silence is required"
                )
        length = max(
            [test.until or 0, *(event.at for event in test.events), *(each.at for each in test.expect)]
        )
        if length > _MAX_TEST:
            self._problems.add(
                path, f"the test must be at most {Duration(_MAX_TEST)} long, got {Duration(length)}"
            )


def _is_portable(file: ConfigFile, data: Any) -> bool:
    """Return whether a file has no settings that only exist here, so that Alertmanager could use it too."""
    is_own = isinstance(data, Mapping) and bool(data.keys() & _OWN_KEYS)
    return not is_own and not any(
        receiver.fallback
        or receiver.rate_limit
        or any(path for path, _ in receiver.plugins if ".apprise_" in path)
        for receiver in file.receivers
    )


def _selected(file: ConfigFile) -> tuple[Matcher, ...] | None:
    """Return the matchers of the events that are alerts; None for the default."""
    if file.events is None:
        return None
    return tuple(matcher for line in file.events.matchers for matcher in line.matchers)


def _text_of(matchers: tuple[Matcher, ...]) -> str:
    return f"{{{','.join(str(matcher) for matcher in sorted(matchers))}}}"
