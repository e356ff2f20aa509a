"""`lint`: what is allowed in a configuration and can hardly be meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.matchers import Matcher, Op
from codomyrmex.integrations.configuration.problems import Problem, at
from codomyrmex.integrations.notification.alerts.config import AlertConfig, InhibitRule, Route
from codomyrmex.integrations.notification.alerts.intervals import TimeInterval
from codomyrmex.integrations.notification.alerts.known import Condition, Fact, Known
from codomyrmex.integrations.notification.alerts.unmatchable import matches_nothing

# A receiver that is there to deliver nothing says so by its name.
_SILENT = frozenset({"null", "none", "nobody", "blackhole", "devnull", "discard", "drop", "ignore", "noop"})
_OWN_LABELS = frozenset({"alertname", "severity", "source"})  # of the alert that the engine itself raises


@dataclass(frozen=True, slots=True)
class Finding(Problem):
    """Something that `lint` found.

    Args:
        kind: a name for what it is, such as `shadowed-route`; `note` for what is accepted and not used.
    """

    kind: str = ""

    def __str__(self) -> str:
        return f"{Problem.__str__(self)} [{self.kind}]"

    def to_dict(self) -> dict[str, object]:
        return {**Problem.to_dict(self), "kind": self.kind}


def lint(config: AlertConfig, now: float) -> list[Finding]:
    """Give what is allowed in a configuration and can hardly be meant, in the order of the file.

    What is said of matchers is sure, a line break in a value aside: `.*` is taken for anything, `.+` for
    anything but nothing. Not all that is wrong is found.

    Args:
        config: the configuration.
        now: seconds since 1970, for time intervals that are over.
    """
    findings = _Lint(config, now).all()
    return sorted(findings, key=lambda each: (each.line or 0, each.column or 0))


class _Lint:
    def __init__(self, config: AlertConfig, now: float) -> None:
        self._config = config
        self._now = datetime.fromtimestamp(now, UTC)
        self._routes = config.route.walk()
        self._found: list[Finding] = []

    def all(self) -> list[Finding]:
        self._found = [
            Finding(note.message, note.path, note.file, note.line, note.column, "note")
            for note in self._config.notes
        ]
        self._look_below(self._config.route, Known())
        for route in self._routes:
            self._look_at_route(route)
        self._look_for_shared_keys(self._config.route, (), {})
        self._look_at_receivers()
        self._look_at_intervals()
        for rule in self._config.inhibit_rules:
            self._look_at_rule(rule)
        return self._found

    def _add(self, kind: str, path: str, message: str, *, key: bool = False) -> None:
        places = self._config.places
        line, column = (places.positions.get(f"{path}:") if key else None) or places.position(path)
        self._found.append(Finding(message, path, places.file, line, column, kind))

    def _where(self, path: str) -> str:
        line = self._config.line(path)
        return path if line is None else f"{path} (line {line})"

    # The tree

    def _look_below(self, parent: Route, above: Known) -> None:
        """Look for children that no alert reaches."""
        before: list[tuple[str, list[Fact]]] = []  # the routes that do not continue
        for child in parent.children:
            known = above.copy()
            facts = [Fact(matcher) for matcher in child.matchers]
            conflict = known.add_all(Condition(fact, child.path) for fact in facts)
            conflict = conflict or _left_over(known, before)
            if not child.continues:
                before.append((child.path, facts))
            if conflict:
                self._never_reached(child, conflict)
            else:
                self._look_below(child, known)

    def _never_reached(self, route: Route, conflict: Sequence[Condition]) -> None:
        takers = list(dict.fromkeys(self._where(each.path) for each in conflict if each.taken))
        if takers:
            one = len(takers) == 1
            self._add(
                "shadowed-route",
                route.path,
                f"never reached: {' and '.join(takers)} before it take{'s' if one else ''} all that it would"
                f" and do{'es' if one else ''} not continue; "
                f"move this route further up, or set `continue: true` there",
            )
            return
        here = [str(each) for each in conflict if each.path == route.path]
        above = [f"{each} of {self._where(each.path)}" for each in conflict if each.path != route.path]
        if len(conflict) > 1:
            self._add(
                "contradictory-matchers",
                route.path,
                f"never matches: {' and '.join([*here, *above])} cannot hold together; take one of them out",
            )
        elif not matches_nothing(conflict[0].fact.matcher.value):  # else that is told of
            self._add("contradictory-matchers", route.path, f"never matches: {here[0]} holds for no value")

    def _look_at_route(self, route: Route) -> None:
        self._look_at_matchers(route.path, route.matchers, ("matchers", "match", "match_re"))
        own = {name for name, origin in route.origins.items() if origin == route.path}
        if route.repeat_interval < route.group_interval and {"repeat_interval", "group_interval"} & own:
            name = "repeat_interval" if "repeat_interval" in own else "group_interval"
            self._add(
                "short-repeat",
                at(route.path, name),
                f"the repeat_interval of {_span(route.repeat_interval)} is shorter than the group_interval "
                f"of {_span(route.group_interval)}, at which groups are looked at; make it as long at least",
            )
        if route.children and route.children[-1].continues:
            self._add(
                "useless-continue",
                at(route.children[-1].path, "continue"),
                "`continue` has no effect on the last of its siblings; take it out",
            )
        always = next((interval for interval in route.mute if _is_always(interval)), None)
        if always is not None:
            self._add(
                "always-muted",
                at(route.path, "mute_time_intervals"),
                f"the interval {always.name} is always active, so this route never notifies; "
                "give it times or days",
            )
        if route.on_unmute == "summary" and "on_unmute" in own and not self._ever_muted(route):
            self._add(
                "useless-on-unmute",
                at(route.path, "on_unmute"),
                "neither this route nor one below it has mute_time_intervals or active_time_intervals, "
                "so nothing is ever held; give it one, or take this out",
            )

    def _ever_muted(self, route: Route) -> bool:
        return any(each.mute or each.active for each in route.walk())

    def _look_at_matchers(self, path: str, matchers: Sequence[Matcher], names: tuple[str, str, str]) -> None:
        chosen = self._config.label_rules.chosen
        for number, matcher in enumerate(matchers):
            if matcher.regex is not None and matches_nothing(matcher.value):
                effect = "never holds" if matcher.op is Op.REGEX else "always holds"
                self._add(
                    "empty-regex",
                    self._place_of(path, number, matchers, names),
                    f"no text matches the expression of {matcher}, so it {effect}; an expression is matched "
                    "with the whole value, and needs no ^ or $",
                )
            if chosen is not None and matcher.name not in chosen and matcher.name not in _OWN_LABELS:
                self._add(
                    "unknown-label",
                    self._place_of(path, number, matchers, names),
                    f"`labels` makes no label {matcher.name}, so {matcher} always sees an empty value; "
                    "add it there",
                )

    def _place_of(
        self, path: str, number: int, matchers: Sequence[Matcher], names: tuple[str, str, str]
    ) -> str:
        """Give the path of a matcher: exact where no line of `matchers` holds several."""
        known = self._config.places.positions
        lines, *mappings = (at(path, name) for name in names)
        places = [at(lines, place) for place in range(len(matchers)) if at(lines, place) in known]
        for mapping in mappings:
            keys = (key for key in known if key.startswith(f"{mapping}.") and key.endswith(":"))
            places += [key[:-1] for key in keys]
        if len(places) == len(matchers):
            return places[number]
        return lines if lines in known else path

    def _look_for_shared_keys(
        self, route: Route, above: tuple[tuple[Matcher, ...], ...], seen: dict[Any, Route]
    ) -> None:
        """Look for routes that Alertmanager could not tell apart in its notification log."""
        path = (*above, tuple(sorted(route.matchers)))
        group_by = None if route.group_by is None else tuple(sorted(route.group_by))
        first = seen.setdefault((path, route.receiver, group_by), route)
        if first is not route:
            self._add(
                "shared-key",
                route.path,
                f"the same matchers, receiver and group_by as {self._where(first.path)}: in Alertmanager "
                "their groups would share one key and hide each other's notifications; here they are told "
                "apart by their order, and each notifies; make one of the two",
            )
        for child in route.children:
            self._look_for_shared_keys(child, path, seen)

    # What is named

    def _look_at_receivers(self) -> None:
        receivers = self._config.receivers
        used = {route.receiver for route in self._routes}
        open_ = list(used)
        while open_:
            fallback = receivers[open_.pop()].fallback
            if fallback is not None and fallback not in used:
                used.add(fallback)
                open_.append(fallback)
        elsewhere = [note.path for note in self._config.notes]
        for receiver in receivers.values():
            if receiver.name not in used:
                self._add(
                    "unused-receiver",
                    at(receiver.path, "name"),
                    f"no route uses the receiver {receiver.name}, nor is it the fallback of one that is used;"
                    " name it in a route, or take it out",
                )
            elif not receiver.channels and receiver.name.lower() not in _SILENT:
                known = self._config.places.positions
                if at(receiver.path, "apprise_configs") in known or any(
                    path.startswith(f"{receiver.path}.") for path in elsewhere
                ):
                    continue  # it says so itself, or a note says that its integrations are not used
                self._add(
                    "no-channel",
                    at(receiver.path, "name"),
                    f"the receiver {receiver.name} has no channel, so nothing is delivered; give it "
                    'apprise_configs, or call it "null" or write `apprise_configs: []` if that is meant',
                )

    def _look_at_intervals(self) -> None:
        for number, interval in enumerate(self._config.intervals.values()):
            path = self._path_of_interval(number)
            muted = [route for route in self._routes if interval in route.mute]
            active = [route for route in self._routes if interval in route.active]
            if not muted and not active:
                message = (
                    f"no route uses the time interval {interval.name}; name it in a route, or take it out"
                )
                self._add("unused-interval", at(path, "name"), message)
            elif not interval.ever_from(self._now):
                effect = "it never mutes" if muted else "it has no effect"
                silent = [self._where(route.path) for route in active if list(route.active) == [interval]]
                if silent:
                    effect = f"{', '.join(silent)} never notif{'ies' if len(silent) == 1 else 'y'}"
                self._add(
                    "never-active",
                    at(path, "name"),
                    f"the time interval {interval.name} is not active on any day from now on, so {effect}; "
                    "look at its years, months and days",
                )

    def _path_of_interval(self, number: int) -> str:
        known = self._config.places.positions
        first = sum(1 for place in range(len(self._config.intervals)) if f"time_intervals[{place}]" in known)
        if known and number >= first:
            return at("mute_time_intervals", number - first)
        return at("time_intervals", number)

    # Inhibition

    def _look_at_rule(self, rule: InhibitRule) -> None:
        for side, matchers in (("source", rule.source), ("target", rule.target)):
            names = (f"{side}_matchers", f"{side}_match", f"{side}_match_re")
            self._look_at_matchers(rule.path, matchers, names)
        reason = self._why_never(rule)
        if reason is not None:
            self._add("inhibits-nothing", rule.path, f"this rule never keeps anything back: {reason}")
            return
        for side, matchers, effect in (
            ("source", rule.source, "every alert keeps others back"),
            ("target", rule.target, "every alert is kept back"),
        ):
            if not matchers:
                message = f"the rule has no {side}_matchers, so {effect}; say which alerts are meant"
                self._add("inhibits-all", rule.path, message)
        if not rule.equal and at(rule.path, "equal") not in self._config.places.positions:
            self._add(
                "no-equal",
                rule.path,
                "the rule has no `equal`, so one source keeps all targets back, whatever they belong to; "
                "name the labels that must agree, or write `equal: []` if that is meant",
            )

    def _why_never(self, rule: InhibitRule) -> str | None:
        sides = []
        for name, matchers in (("source", rule.source), ("target", rule.target)):
            known = Known()
            conflict = known.add_all(Condition(Fact(matcher), "") for matcher in matchers)
            if conflict:
                return f"no alert matches its {name} side, {_joined(conflict)}"
            sides.append(known)
        source, target = sides
        if all(source.implies(Fact(matcher)) for matcher in rule.target) and all(
            target.implies(Fact(matcher)) for matcher in rule.source
        ):
            return "both sides match the same alerts, and such alerts do not keep each other back"
        conflict = source.copy().add_all(
            Condition(Fact(matcher), "") for matcher in rule.target if matcher.name in rule.equal
        )
        if conflict:
            name = conflict[0].fact.name
            return f"the label {name} is in `equal`, and {_joined(conflict)} leave it no value in common"
        return None


def _left_over(known: Known, before: Iterable[tuple[str, list[Fact]]]) -> tuple[Condition, ...]:
    """Add what is sure of alerts that routes before did not take; or give why there are none.

    A route that takes all that meets one matcher, all its others being met, leaves what does not meet it.
    """
    news = True
    while news:
        news = False
        unclear = []
        for path, facts in before:
            if any(map(known.refuses, facts)):
                continue  # it takes nothing of this
            unsure = [fact for fact in facts if not known.implies(fact)]
            if not unsure:
                return (Condition(facts[0] if facts else _ANYTHING, path, taken=True),)
            if len(unsure) > 1:
                unclear.append((path, facts))
                continue
            conflict = known.add(Condition(unsure[0].opposite, path, taken=True))
            if conflict:
                return conflict
            news = True
        before = unclear
    return ()


_ANYTHING = Fact(Matcher("any", "=~", ".*"))


def _is_always(interval: TimeInterval) -> bool:
    return any(
        not (spec.times or spec.weekdays or spec.days_of_month or spec.months or spec.years)
        for spec in interval.specs
    )


def _joined(conditions: Iterable[Condition]) -> str:
    return " and ".join(map(str, conditions))


def _span(seconds: float) -> str:
    return str(Duration(seconds))
