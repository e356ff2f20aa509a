"""`load_alert_config`: a file, a text or a mapping into a checked configuration, with all that is wrong."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any

from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.environment import ExpansionError, expand
from codomyrmex.integrations.configuration.files import read_text
from codomyrmex.integrations.configuration.matchers import Matcher, MatcherError
from codomyrmex.integrations.configuration.problems import Problem, ProblemList, at, did_you_mean
from codomyrmex.integrations.configuration.reading import Reader
from codomyrmex.integrations.configuration.secret import Secret
from codomyrmex.integrations.notification.alerts.alert import LabelRules
from codomyrmex.integrations.notification.alerts.config import (
    AlertConfig,
    AlertConfigError,
    ChannelConfig,
    InhibitRule,
    Receiver,
    Route,
)
from codomyrmex.integrations.notification.alerts.config_file import (
    AppriseFile,
    ConfigFile,
    InhibitFile,
    IntervalFile,
    MatcherLine,
    ReceiverFile,
    RouteFile,
    TimeRangeFile,
    TimeSpecFile,
)
from codomyrmex.integrations.notification.alerts.intervals import (
    TimeInterval,
    TimeRange,
    TimeSpec,
    time_range,
)
from codomyrmex.integrations.notification.templates import TemplateError, compile_template

GROUP_BY_ALL = "..."
_DEFAULTS = {"group_wait": 30.0, "group_interval": 300.0, "repeat_interval": 14_400.0}
_LONGEST_TEST = 10 * 365 * 86_400.0  # seconds
_ROUTE_MATCHERS = ("matchers", "match", "match_re")


def load_alert_config(
    source: str | os.PathLike[str] | Mapping[str, Any], *, environ: Mapping[str, str] | None = None
) -> AlertConfig:
    """Load a configuration of alert routing.

    Args:
        source: a path, or the YAML text itself (what has a line break or `: ` in it), or a mapping.
        environ: where `${NAME}` in URLs is looked up; the environment of the process if left out.

    Raises:
        AlertConfigError: something is wrong; it has every problem, with file, line and column.
    """
    return _Loader(source, os.environ if environ is None else environ).load()


class _Loader:
    def __init__(
        self, source: str | os.PathLike[str] | Mapping[str, Any], environ: Mapping[str, str]
    ) -> None:
        self._environ = environ
        self._file: str | None = None
        words: Mapping[str, str] = {}
        positions: Mapping[str, tuple[int, int]] = {}
        broken: list[Problem] = []
        if isinstance(source, Mapping):
            self._data: Any = source
        else:
            text = self._text(source)
            from codomyrmex.integrations.configuration.yaml_text import read_yaml

            yaml = read_yaml(text, self._file)
            self._data, words, positions, broken = yaml.data, yaml.words, yaml.positions, yaml.problems
        self._problems = ProblemList(self._file, positions)
        self._problems.found += broken
        self._notes = ProblemList(self._file, positions)
        self._reader = Reader(self._problems, self._notes, words)
        self._intervals: dict[str, TimeInterval] = {}
        self._receivers: dict[str, Receiver] = {}

    def _text(self, source: str | os.PathLike[str]) -> str:
        if isinstance(source, str) and ("\n" in source or ": " in source):
            return source
        path = Path(source)
        self._file = str(path)
        return read_text(path, AlertConfigError)

    def load(self) -> AlertConfig:
        problems = self._problems
        if problems.found and self._data is None:
            raise AlertConfigError(problems.found)
        if self._data is None:
            problems.add("", "the configuration is empty; it needs a route and receivers")
            raise AlertConfigError(problems.found)
        file = self._reader.struct(self._data, ConfigFile)
        self._read_named(file)
        route = None
        given = self._data.get("route") if isinstance(self._data, Mapping) else self._data
        if given is None:
            problems.add("route", "there is no route; the root of the tree names at least a receiver")
        elif file.route is not None and isinstance(given, Mapping):
            self._check_root(file.route)
            route = self._route(
                file.route, "route", None, self._matchers(file.route, "route", _ROUTE_MATCHERS)
            )
        rules = tuple(self._rule(rule, at("inhibit_rules", n)) for n, rule in enumerate(file.inhibit_rules))
        if file.global_.max_alerts < 1:
            problems.add("global.max_alerts", "expected a number from 1 on")
        if file.global_.resolve_timeout <= 0:
            problems.add("global.resolve_timeout", "the resolve timeout is longer than 0 seconds")
        labels = replace(self._labels(file.labels), control=file.global_.control_events)
        self._check_tests(file)
        if problems.found or route is None:
            raise AlertConfigError(problems.in_order())
        return AlertConfig(
            route=route,
            receivers=self._receivers,
            inhibit_rules=rules,
            intervals=self._intervals,
            label_rules=labels,
            resolve_timeout=file.global_.resolve_timeout,
            max_alerts=file.global_.max_alerts,
            trace_url=file.global_.trace_url,
            state=None if file.state is None else Path(self._file or "").parent / file.state,
            tests=tuple(file.tests),
            notes=tuple(self._notes.in_order()),
            places=ProblemList(self._file, problems.positions),
        )

    def _read_named(self, file: ConfigFile) -> None:
        """Read what the tree names: intervals and receivers."""
        for name, intervals in (
            ("time_intervals", file.time_intervals),
            ("mute_time_intervals", file.mute_time_intervals),
        ):
            for number, interval in enumerate(intervals):
                self._interval(interval, at(name, number))
        for number, receiver in enumerate(file.receivers):
            self._receiver(receiver, at("receivers", number))
        self._check_fallbacks()

    # The tree

    def _check_root(self, root: RouteFile) -> None:
        add = self._problems.add
        if root.receiver is None and "route.receiver" not in self._problems.positions:
            add("route", "the root needs a receiver, for what no other route takes")
        if root.matchers or root.match or root.match_re:
            name = next(name for name in ("matchers", "match", "match_re") if getattr(root, name))
            add(
                at("route", name),
                "the root takes every alert, so it has no matchers; put them on a route below",
            )
        if root.continue_:
            add("route.continue", "the root has no siblings to continue with")
        for name in ("mute_time_intervals", "active_time_intervals"):
            if getattr(root, name):
                add(at("route", name), "the root is never muted; put the interval on a route below")

    def _route(
        self, file: RouteFile, path: str, parent: Route | None, matchers: tuple[Matcher, ...], twin: str = ""
    ) -> Route:
        add = self._problems.add
        origins = {} if parent is None else dict(parent.origins)

        def setting(name: str, default: Any) -> Any:
            own = getattr(file, name)
            if own is not None:
                origins[name] = path
                return own
            return default if parent is None else getattr(parent, name)

        receiver = setting("receiver", "")
        if file.receiver is not None and receiver not in self._receivers:
            add(
                at(path, "receiver"),
                f"there is no receiver {receiver!r}{did_you_mean(receiver, self._receivers)}",
            )
        for name in ("group_interval", "repeat_interval"):
            if getattr(file, name) == 0:
                add(at(path, name), f"{name} is longer than 0 seconds")
        if file.group_by is not None:
            self._check_group_by(file.group_by, at(path, "group_by"))
        group_by = None if file.group_by == [GROUP_BY_ALL] else file.group_by
        if file.group_by is None:
            grouped = () if parent is None else parent.group_by
        else:
            origins["group_by"] = path
            grouped = None if group_by is None else tuple(group_by)
        key = f"{_text_of(matchers)}{twin}"
        values = {name: float(setting(name, default)) for name, default in _DEFAULTS.items()}
        node = {
            "path": path,
            "matchers": matchers,
            "continues": file.continue_,
            "receiver": receiver,
            "group_by": grouped,
            "mute": self._named_intervals(file.mute_time_intervals, at(path, "mute_time_intervals")),
            "active": self._named_intervals(file.active_time_intervals, at(path, "active_time_intervals")),
            "on_unmute": setting("on_unmute", "drop"),
            "resolve_always": setting("resolve_always", default=False),
            "labels": file.labels if parent is None else {**parent.labels, **file.labels},
            "origins": origins,
            "key": key if parent is None else f"{parent.key}/{key}",
            **values,
        }
        this = Route(children=(), **node)
        seen: Counter[str] = Counter()
        children = []
        for place, child in enumerate(file.routes):
            where = at(at(path, "routes"), place)
            below = self._matchers(child, where, _ROUTE_MATCHERS)
            # Siblings with the same matchers are numbered, else they would share a place in the log.
            seen[_text_of(below)] += 1
            count = seen[_text_of(below)]
            children.append(self._route(child, where, this, below, "" if count == 1 else f"#{count}"))
        return Route(children=tuple(children), **node)

    def _check_group_by(self, names: list[str], path: str) -> None:
        for number, name in enumerate(names):
            if names.index(name) < number:
                self._problems.add(at(path, number), f"{name} is given twice")
            elif not name:
                self._problems.add(at(path, number), "a label has a name")
        if GROUP_BY_ALL in names and len(names) > 1:
            self._problems.add(path, "`...` is all labels; it stands alone")

    def _named_intervals(self, names: list[str], path: str) -> tuple[TimeInterval, ...]:
        for number, name in enumerate(names):
            if name not in self._intervals:
                near = did_you_mean(name, self._intervals)
                self._problems.add(at(path, number), f"there is no time interval {name!r}{near}")
        return tuple(self._intervals[name] for name in names if name in self._intervals)

    def _matchers(
        self, file: RouteFile | InhibitFile, path: str, names: tuple[str, str, str]
    ) -> tuple[Matcher, ...]:
        lines: list[MatcherLine] = getattr(file, names[0])
        found = [matcher for line in lines for matcher in line.matchers]
        for name, op in ((names[1], "="), (names[2], "=~")):
            for label, value in getattr(file, name).items():
                try:
                    found.append(Matcher(label, op, value))
                except MatcherError as error:
                    self._problems.add(at(at(path, name), label), str(error))
        return tuple(found)

    # Receivers

    def _receiver(self, file: ReceiverFile, path: str) -> None:
        if not file.name:
            self._problems.add(path, "a receiver has a name")
            return
        if file.name in self._receivers:
            self._problems.add(at(path, "name"), f"there are two receivers named {file.name!r}")
            return
        channels = [
            self._channel(channel, file, number, at(at(path, "apprise_configs"), number))
            for number, channel in enumerate(file.apprise_configs)
        ]
        self._receivers[file.name] = Receiver(
            file.name, tuple(channels), file.fallback, path, file.rate_limit
        )

    def _channel(self, file: AppriseFile, receiver: ReceiverFile, number: int, path: str) -> ChannelConfig:
        url = str(file.url)
        try:
            url = expand(url, self._environ)
        except ExpansionError as error:
            self._problems.add(at(path, "url"), str(error))
        else:
            if not url:
                self._problems.add(path, "a channel has a url, such as json://127.0.0.1:8080/")
            elif "://" not in url:
                self._problems.add(
                    at(path, "url"), "this is no Apprise URL; one begins with a scheme, as in slack://"
                )
        for name in ("title", "body"):
            source = getattr(file, name)
            if source is not None:
                try:
                    compile_template(source, file.format)
                except TemplateError as error:
                    self._problems.add(at(path, name), str(error))
        if file.timeout <= 0:
            self._problems.add(at(path, "timeout"), "the timeout is longer than 0 seconds")
        return ChannelConfig(
            name=f"{receiver.name}[{number}]",
            url=Secret(url),
            send_resolved=file.send_resolved,
            title=file.title,
            body=file.body,
            format=file.format,
            tags=tuple(file.tags),
            timeout=file.timeout,
            rate_limit=file.rate_limit or receiver.rate_limit,
        )

    def _check_fallbacks(self) -> None:
        for receiver in self._receivers.values():
            if receiver.fallback is None:
                continue
            path = at(receiver.path, "fallback")
            if receiver.fallback not in self._receivers:
                near = did_you_mean(receiver.fallback, self._receivers)
                self._problems.add(path, f"there is no receiver {receiver.fallback!r}{near}")
                continue
            seen, here = [receiver.name], receiver.fallback
            while here in self._receivers and here not in seen:
                seen.append(here)
                here = self._receivers[here].fallback or ""
            if here == receiver.name:
                self._problems.add(path, f"the fallbacks go round in a circle: {' -> '.join([*seen, here])}")

    # The rest

    def _interval(self, file: IntervalFile, path: str) -> None:
        if not file.name:
            self._problems.add(path, "a time interval has a name")
        elif file.name in self._intervals:
            self._problems.add(at(path, "name"), f"there are two time intervals named {file.name!r}")
        specs = [
            self._spec(spec, at(at(path, "time_intervals"), n)) for n, spec in enumerate(file.time_intervals)
        ]
        self._intervals.setdefault(file.name, TimeInterval(file.name, tuple(specs)))

    def _spec(self, file: TimeSpecFile, path: str) -> TimeSpec:
        times = None if file.times is None else self._times(file.times, at(path, "times"))
        location = file.location or UTC
        return TimeSpec(times, file.weekdays, file.days_of_month, file.months, file.years, location)

    def _times(self, spans: list[TimeRangeFile], path: str) -> list[TimeRange]:
        times = []
        for number, span in enumerate(spans):
            if at(path, number) in self._reader.unreadable:
                continue
            try:
                times.append(time_range(span.start_time, span.end_time))
            except ValueError as error:
                self._problems.add(at(path, number), str(error))
        return times

    def _rule(self, file: InhibitFile, path: str) -> InhibitRule:
        source = self._matchers(file, path, ("source_matchers", "source_match", "source_match_re"))
        target = self._matchers(file, path, ("target_matchers", "target_match", "target_match_re"))
        return InhibitRule(source, target, tuple(file.equal), path)

    def _labels(self, data: Any) -> LabelRules:
        if data is None:
            return LabelRules()
        if isinstance(data, (list, tuple)):
            data = {name: name for name in self._reader.value(data, list[str], "labels")}
        chosen = self._reader.value(data, dict[str, str], "labels")
        if not isinstance(chosen, dict):
            return LabelRules()
        if not chosen:
            self._problems.add("labels", "an alert needs labels; leave this out for the default")
        return LabelRules(chosen)

    def _check_tests(self, file: ConfigFile) -> None:
        for number, test in enumerate(file.tests):
            path = at("tests", number)
            for place, name in enumerate(test.failing):
                if name not in self._receivers:
                    near = did_you_mean(name, self._receivers)
                    self._problems.add(at(at(path, "failing"), place), f"there is no receiver {name!r}{near}")
            for place, expected in enumerate(test.expect):
                if expected.receiver is not None and expected.receiver not in self._receivers:
                    near = did_you_mean(expected.receiver, self._receivers)
                    where = at(at(at(path, "expect"), place), "receiver")
                    self._problems.add(where, f"there is no receiver {expected.receiver!r}{near}")
            last = max(
                [*(event.at for event in test.events), *(each.at for each in test.expect), test.until or 0]
            )
            if last > _LONGEST_TEST:
                self._problems.add(path, f"a test lasts at most {Duration(_LONGEST_TEST)}")
            for place, event in enumerate(test.events):
                given = [name for name in ("labels", "event", "silence") if getattr(event, name) is not None]
                if len(given) != 1:
                    where = at(at(path, "events"), place)
                    self._problems.add(where, "a step has one of labels, event or silence")


def _text_of(matchers: tuple[Matcher, ...]) -> str:
    return f"{{{','.join(str(matcher) for matcher in sorted(matchers))}}}"
