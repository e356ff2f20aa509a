"""`lint`: settings of a configuration that are valid but probably unintended."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.matchers import Matcher, Op
from codomyrmex.integrations.configuration.problems import at
from codomyrmex.integrations.configuration.simple_regex import simplify
from codomyrmex.integrations.notification.alerts.config import (
    AlertConfig,
    InhibitRule,
    Receiver,
    Route,
    check_config,
)
from codomyrmex.integrations.notification.alerts.config_file import CHANNEL_TYPES
from codomyrmex.integrations.notification.alerts.findings import Finding
from codomyrmex.integrations.notification.alerts.intervals import TimeInterval
from codomyrmex.integrations.notification.channels import UndeliverableChannel

# The names of receivers that are meant to deliver nothing.
_SILENT = frozenset({"null", "none", "nobody", "blackhole", "devnull", "discard", "drop", "ignore", "noop"})
_OWN_LABELS = frozenset({"alertname", "severity", "source"})  # of the alert that the engine itself raises
_KNOWN_LABELS = {"alertname", "cluster", "environment", "instance", "namespace", "service", "severity"}
_KNOWN_SEVERITIES = {"critical", "debug", "emergency", "error", "fatal", "notice", "warning"}
_MIN_WORD = 5  # letters; shorter words are not checked for typos
_LOOKS_LIKE_REGEX = re.compile(r"\.[*+]|^\^|\$$|\w\|\w")
_NEGATIONS = {(Op.EQUAL, Op.NOT_EQUAL), (Op.NOT_EQUAL, Op.EQUAL)} | {
    (Op.REGEX, Op.NOT_REGEX),
    (Op.NOT_REGEX, Op.REGEX),
}


def lint(config: AlertConfig, now: float) -> list[Finding]:
    """Return the settings that are valid but probably unintended, in the order of the file.

    Args:
        config: the configuration.
        now: seconds since 1970, for time intervals that are over.
    """
    check_config(config)
    findings = _Lint(config, datetime.fromtimestamp(now, UTC)).all()
    return sorted(findings, key=lambda each: (each.line or 0, each.column or 0))


class _Lint:
    def __init__(self, config: AlertConfig, now: datetime) -> None:
        self._config = config
        self._now = now
        self._routes = config.route.walk()
        self._positions = config.source_map.positions
        notes = config.notes
        self._found = [Finding(n.message, n.path, n.file, n.line, n.column, "note") for n in notes]

    def all(self) -> list[Finding]:
        self._check_reachable(self._config.route, (), ())
        for route in self._routes:
            self._check_route(route)
        self._check_shared_keys(self._config.route, (), {})
        self._check_matchers()
        self._check_receivers()
        self._check_intervals()
        for rule in self._config.inhibit_rules:
            self._check_rule(rule)
        return self._found

    def _add(self, kind: str, path: str, message: str) -> None:
        line, column = self._config.source_map.position(path)
        self._found.append(Finding(message, path, self._config.source_map.file, line, column, kind))

    def _where(self, path: str) -> str:
        line = self._config.line(path)
        return path if line is None else f"{path} (line {line})"

    # Routes

    def _check_reachable(self, parent: Route, above: Sequence[Matcher], earlier: Sequence[Route]) -> None:
        """Check the routes below one, given the matchers above them and the routes before them.

        `earlier` are the routes before the parent and those above it that do not continue: no alert that one
        of them matches reaches these routes.
        """
        for child in parent.children:
            matchers = (*above, *child.matchers)
            constraints = LabelConstraints(matchers)
            conflict = constraints.contradiction()
            blocker = next((each for each in earlier if constraints.imply_all(each.matchers)), None)
            if conflict:
                message = f"never matches: {_joined(conflict)} on the way here cannot all hold; remove one"
                self._add("contradictory-matchers", child.path, message)
            elif blocker is not None:
                message = (
                    f"never reached: {self._where(blocker.path)} matches everything that this route would"
                )
                hint = "move this route up, or set `continue: true` there"
                self._add("shadowed-route", child.path, f"{message}, and does not continue; {hint}")
            else:
                self._check_reachable(child, matchers, earlier)
            if not child.continues:
                earlier = (*earlier, child)

    def _check_route(self, route: Route) -> None:
        own = {name for name, origin in route.origins.items() if origin == route.path}
        if route.repeat_interval < route.group_interval and {"repeat_interval", "group_interval"} & own:
            path = at(route.path, "repeat_interval" if "repeat_interval" in own else "group_interval")
            repeat, group = Duration(route.repeat_interval), Duration(route.group_interval)
            message = f"repeat_interval ({repeat}) is shorter than group_interval ({group}), at which groups"
            self._add("short-repeat", path, f"{message} are checked; make it at least as long")
        if route.children and route.children[-1].continues:
            path = at(route.children[-1].path, "continue")
            self._add("useless-continue", path, "`continue` has no effect on the last sibling; remove it")
        always = next((interval.name for interval in route.mute if _is_always(interval)), None)
        if always is not None:
            message = f"this route never notifies: {always} is always active; set times or days for it"
            self._add("always-muted", at(route.path, "mute_time_intervals"), message)
        is_ever_muted = any(each.mute or each.active for each in route.walk())
        if route.on_unmute == "summary" and "on_unmute" in own and not is_ever_muted:
            message = "neither this route nor one below it is ever muted; add time intervals, or remove this"
            self._add("useless-on-unmute", at(route.path, "on_unmute"), message)

    def _check_shared_keys(
        self, route: Route, above: tuple[tuple[Matcher, ...], ...], seen: dict[Any, Route]
    ) -> None:
        """Check for routes that Alertmanager cannot distinguish in its notification log."""
        path = (*above, tuple(sorted(route.matchers)))
        group_by = None if route.group_by is None else tuple(sorted(route.group_by))
        first = seen.setdefault((path, route.receiver, group_by), route)
        if first is not route:
            message = f"has the same matchers, receiver and group_by as {self._where(first.path)}: here both"
            effect = "notify, but in Alertmanager their groups hide each other's notifications"
            self._add("shared-key", route.path, f"{message} {effect}; merge them")
        for child in route.children:
            self._check_shared_keys(child, path, seen)

    # Matchers

    def _check_matchers(self) -> None:
        placed = list(self._placed_matchers())
        names, values = self._words([matcher for matcher, _ in placed])
        chosen = self._config.label_rules.chosen
        for matcher, path in placed:
            name = matcher.name
            if chosen is not None and name not in chosen and name not in _OWN_LABELS:
                message = f"{matcher} always sees an empty value: `labels` has no {name}; add it there"
                self._add("unknown-label", path, message)
            elif (near := _misspelled(name, names, _KNOWN_LABELS)) is not None:
                message = f"the label {name} is used nowhere else; did you mean {near}?"
                self._add("misspelled-label", path, message)
            elif matcher.regex is None and _LOOKS_LIKE_REGEX.search(matcher.value):
                message = f"{matcher} compares with this exact text; use =~ or !~ for a regular expression"
                self._add("literal-regex", path, message)
            else:
                for value in sorted(_listed_values(matcher) or ()):
                    near = _misspelled(
                        value, values[name], _KNOWN_SEVERITIES if name == "severity" else set()
                    )
                    if near is not None:
                        message = (
                            f"the value {value!r} of {name} is used nowhere else; did you mean {near!r}?"
                        )
                        self._add("misspelled-value", path, message)

    def _placed_matchers(self) -> Iterator[tuple[Matcher, str]]:
        """Yield all matchers with their paths."""
        for route in self._routes:
            yield from self._placed(route.path, route.matchers, "")
        for rule in self._config.inhibit_rules:
            yield from self._placed(rule.path, rule.source, "source_")
            yield from self._placed(rule.path, rule.target, "target_")

    def _placed(self, path: str, matchers: Sequence[Matcher], prefix: str) -> Iterable[tuple[Matcher, str]]:
        """Return matchers with their paths, which are exact unless a line of `matchers` has several."""
        lines = at(path, f"{prefix}matchers")
        paths = [each for number in range(len(matchers)) if (each := at(lines, number)) in self._positions]
        for mapping in (at(path, f"{prefix}match."), at(path, f"{prefix}match_re.")):
            paths += [key[:-1] for key in self._positions if key.startswith(mapping) and key.endswith(":")]
        if len(paths) != len(matchers):
            paths = [lines if lines in self._positions else path] * len(matchers)
        return zip(matchers, paths, strict=True)

    def _words(self, matchers: Iterable[Matcher]) -> tuple[Counter[str], dict[str, Counter[str]]]:
        """Count the names of labels, and the values of each, in matchers, groups, rules and tests."""
        names: Counter[str] = Counter()
        values: dict[str, Counter[str]] = defaultdict(Counter)
        for matcher in matchers:
            names[matcher.name] += 1
            values[matcher.name].update(_listed_values(matcher) or ())
        for route in self._routes:
            names.update(route.group_by or () if route.origins.get("group_by") == route.path else ())
        for rule in self._config.inhibit_rules:
            names.update(rule.equal)
        for event in (event for test in self._config.tests for event in test.events):
            for name, value in (event.labels or {}).items():
                names[name] += 1
                values[name][value] += 1
        return names, values

    # Receivers and time intervals

    def _check_receivers(self) -> None:
        receivers = self._config.receivers
        used = {route.receiver for route in self._routes}
        unchecked = list(used)
        while unchecked:
            fallback = receivers[unchecked.pop()].fallback
            if fallback is not None and fallback not in used:
                used.add(fallback)
                unchecked.append(fallback)
        for receiver in receivers.values():
            path = at(receiver.path, "name")
            self._check_channels(receiver)
            if receiver.name not in used:
                message = f"no route uses the receiver {receiver.name}, not even as a fallback; remove it"
                self._add("unused-receiver", path, message)
            elif not (
                receiver.channels
                or receiver.name.lower() in _SILENT
                or any(at(receiver.path, key) in self._positions for key in CHANNEL_TYPES)
            ):
                message = (
                    f"the receiver {receiver.name} has no channel and delivers nothing; add one, or write"
                )
                empty = f"`{next(iter(CHANNEL_TYPES))}: []`"
                self._add("no-channel", path, f"{message} {empty} if that is intended")

    def _check_channels(self, receiver: Receiver) -> None:
        for key, kind in CHANNEL_TYPES.items():
            channels = [channel for channel in receiver.channels if isinstance(channel, kind)]
            for number, channel in enumerate(channels):
                path = at(receiver.path, key, number)
                if isinstance(channel, UndeliverableChannel):
                    self._add("delivers-nothing", path, channel.reason)
                for field, message in channel.findings():
                    self._add("invalid-channel", at(path, field) if field else path, message)

    def _check_intervals(self) -> None:
        for number, interval in enumerate(self._config.intervals.values()):
            name, path = interval.name, at(self._path_of_interval(number), "name")
            muted = [route for route in self._routes if interval in route.mute]
            active = [route for route in self._routes if interval in route.active]
            if not muted and not active:
                self._add("unused-interval", path, f"no route uses the time interval {name}; remove it")
            elif not interval.ever_from(self._now):
                effect = "it never mutes" if muted else "it has no effect"
                silent = [self._where(route.path) for route in active if list(route.active) == [interval]]
                if silent:
                    effect = f"{', '.join(silent)} never notif{'ies' if len(silent) == 1 else 'y'}"
                message = f"the time interval {name} is not active on any day from now on, so {effect}"
                self._add("never-active", path, f"{message}; check its years, months and days")

    def _path_of_interval(self, number: int) -> str:
        intervals = range(len(self._config.intervals))
        first = sum(at("time_intervals", each) in self._positions for each in intervals)
        if self._positions and number >= first:
            return at("mute_time_intervals", number - first)
        return at("time_intervals", number)

    # Inhibition

    def _check_rule(self, rule: InhibitRule) -> None:
        reason = _why_never(rule)
        if reason is not None:
            self._add("inhibits-nothing", rule.path, f"this rule inhibits nothing: {reason}")
            return
        if not rule.source:
            self._add("inhibits-all", rule.path, "every alert inhibits others; add source_matchers")
        if not rule.target:
            self._add("inhibits-all", rule.path, "every alert is inhibited; add target_matchers")
        if not rule.equal and at(rule.path, "equal") not in self._positions:
            message = (
                "any source inhibits every target: the rule has no `equal`; list the labels that must be"
            )
            self._add("no-equal", rule.path, f"{message} equal, or write `equal: []` if that is intended")


def _why_never(rule: InhibitRule) -> str | None:
    source, target = LabelConstraints(rule.source), LabelConstraints(rule.target)
    for side, constraints in (("source", source), ("target", target)):
        conflict = constraints.contradiction()
        if conflict:
            return f"no alert matches its {side} side: {_joined(conflict)} cannot hold together"
    if source.imply_all(rule.target) and target.imply_all(rule.source):
        return "both sides match the same alerts, and such alerts do not inhibit each other"
    equal = [matcher for matcher in (*rule.source, *rule.target) if matcher.name in rule.equal]
    conflict = LabelConstraints(equal).contradiction()
    if conflict:
        return f"{conflict[0].name} is in `equal`, but {_joined(conflict)} have no value in common"
    return None


def _is_always(interval: TimeInterval) -> bool:
    return any(
        not (spec.times or spec.weekdays or spec.days_of_month or spec.months or spec.years)
        for spec in interval.specs
    )


def _joined(matchers: Iterable[Matcher]) -> str:
    return " and ".join(dict.fromkeys(map(str, matchers)))


def _misspelled(word: str, used: Counter[str], known: set[str]) -> str | None:
    """Return the word that was probably meant: one that is well known or used repeatedly, and similar."""
    if used[word] > 1 or word in known or len(word) < _MIN_WORD or not word.isalpha():
        return None
    others = known | {other for other, uses in used.items() if uses > 1 and other.isalpha()}
    return next((other for other in sorted(others) if _is_near(word, other)), None)


def _is_near(word: str, other: str) -> bool:
    """Return whether words differ in case, by one letter (not a plural), or by two swapped letters."""
    short, long = sorted((word.lower(), other.lower()), key=len)
    first = next((n for n, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) < len(long):
        return short[first:] == long[first + 1 :] and long != f"{short}s"
    swapped = short[first : first + 2] == long[first : first + 2][::-1]
    return short[first + 1 :] == long[first + 1 :] or (swapped and short[first + 2 :] == long[first + 2 :])


class LabelConstraints:
    """Matchers that hold together.

    It reasons with lists of values, equal matchers, and whether a label can be empty; it does not compare
    two expressions. So what it finds is certain (apart from values with line breaks), but not complete.
    """

    def __init__(self, matchers: Iterable[Matcher]) -> None:
        self._by_label: dict[str, list[Matcher]] = {}
        for matcher in matchers:
            self._by_label.setdefault(matcher.name, []).append(matcher)
        # The values that are possible for each label; None if they cannot be listed.
        self._values = {name: _possible_values(matchers) for name, matchers in self._by_label.items()}

    def contradiction(self) -> Sequence[Matcher]:
        """Return matchers of one label that cannot hold together; empty if none is found."""
        for name, matchers in self._by_label.items():
            if self._values[name] == []:
                return matchers
            for number, matcher in enumerate(matchers):
                for other in matchers[:number]:
                    if matcher.value == other.value and (matcher.op, other.op) in _NEGATIONS:
                        return other, matcher
        return ()

    def imply(self, matcher: Matcher) -> bool:
        """Return whether a matcher certainly holds too."""
        if matcher.op is Op.REGEX and matcher.value == ".*":
            return True
        matchers = self._by_label.get(matcher.name)
        if matchers is None:
            return False
        values = self._values[matcher.name]
        if values is not None:
            return all(map(matcher.holds, values))
        if (matcher.op, matcher.value) in {(Op.NOT_EQUAL, ""), (Op.REGEX, ".+")}:
            return not all(each.holds("") for each in matchers)
        return matcher in matchers

    def imply_all(self, matchers: Iterable[Matcher]) -> bool:
        """Return whether all of some matchers certainly hold too."""
        return all(map(self.imply, matchers))


def _possible_values(matchers: Sequence[Matcher]) -> list[str] | None:
    positive = (each for each in matchers if each.op in {Op.EQUAL, Op.REGEX})
    values = next((values for each in positive if (values := _listed_values(each)) is not None), None)
    if values is None:
        return None
    return [value for value in sorted(values) if all(each.holds(value) for each in matchers)]


def _listed_values(matcher: Matcher) -> frozenset[str] | None:
    """Return the values that a matcher compares with; None if they cannot be listed."""
    return frozenset({matcher.value}) if matcher.regex is None else simplify(matcher.value).texts
