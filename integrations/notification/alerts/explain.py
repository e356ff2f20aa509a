"""`Explanation`: why labels are routed as they are, node by node and matcher by matcher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.matchers import Labels, Matcher, matches_all
from codomyrmex.integrations.notification.alerts.config import AlertConfig, Route
from codomyrmex.integrations.notification.alerts.group import (
    ActiveAlert,
    Group,
    reason_to_notify,
    route_matches,
)
from codomyrmex.integrations.notification.alerts.notification import LogEntry, iso, moment_of, pairs
from codomyrmex.integrations.notification.alerts.silences import Silence

_TIMERS = ("group_wait", "group_interval", "repeat_interval")
_SETTINGS = ("receiver", "group_by", *_TIMERS, "on_unmute", "resolve_always")


class RunningEngine(Protocol):
    """What an explanation reads from an `AlertEngine`."""

    def group(self, key: str) -> Group | None: ...
    def log_entry(self, group_key: str, channel: str) -> LogEntry | None: ...
    def inhibitor_of(self, labels: Labels, now: float) -> ActiveAlert | None: ...
    def silenced_by(self, labels: Labels, now: float) -> Silence | None: ...


@dataclass(frozen=True, slots=True)
class MatcherResult:
    """A matcher, the value of its label, and whether it holds."""

    matcher: str
    value: str
    missing: bool
    holds: bool

    def __str__(self) -> str:
        result = "holds" if self.holds else "does not hold"
        value = "the label is missing, which is the same as empty" if self.missing else f"got {self.value!r}"
        return f"{self.matcher} {result}: {value}"


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of a route, and the path and line it comes from; None for a default."""

    name: str
    value: str
    path: str | None
    line: int | None

    def __str__(self) -> str:
        source = "default" if self.path is None else f"from {self.path}{_line(self.line)}"
        return f"{self.name}: {self.value} ({source})"


@dataclass(frozen=True, slots=True)
class Match:
    """What a matching route does with the labels.

    Args:
        receiver: the receiver.
        group_key: the key of the group.
        group_labels: the labels of the group.
        settings: the settings, each with its origin.
        notes: intervals, inhibition, silences, and the state of the group.
    """

    receiver: str
    group_key: str
    group_labels: dict[str, str]
    settings: list[Setting]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the tree: why it matches or not, and the nodes below it."""

    path: str
    line: int | None
    why: str
    matchers: list[MatcherResult]
    match: Match | None
    children: list[Node] = field(default_factory=list)
    matched: bool = False

    def walk(self) -> Iterator[Node]:
        for child in self.children:
            yield from child.walk()
        yield self


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why labels are routed as they are; as text it is a tree.

    Args:
        labels: the labels.
        at: the time in seconds since 1970; None if none was given.
        root: the root of the tree.
    """

    labels: dict[str, str]
    at: float | None
    root: Node

    @property
    def receivers(self) -> list[str]:
        """The receivers, in order."""
        return [node.match.receiver for node in self.root.walk() if node.match is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as built-in types."""
        at = None if self.at is None else iso(self.at)
        return {"labels": self.labels, "at": at, "receivers": self.receivers, "root": asdict(self.root)}

    def __str__(self) -> str:
        when = "" if self.at is None else f" at {iso(self.at)}"
        title = f"{pairs(self.labels) or '(no labels)'}{when} -> {', '.join(self.receivers)}"
        return "\n".join([title, *_lines(self.root, "")])


def explain(
    config: AlertConfig, labels: Labels, at: float | None = None, engine: RunningEngine | None = None
) -> Explanation:
    """Explain where labels are routed, and why.

    Args:
        config: the configuration.
        labels: the labels of an alert.
        at: a time in seconds since 1970, for time intervals, inhibition, silences and groups.
        engine: an `AlertEngine`, for inhibition, silences and groups; it is only read.
    """
    labels = {name: value for name, value in labels.items() if value}
    return Explanation(labels, at, _Explainer(config, labels, at, engine).node(config.route, None))


@dataclass(frozen=True, slots=True)
class _Explainer:
    config: AlertConfig
    labels: Labels
    at: float | None
    engine: RunningEngine | None

    def node(self, route: Route, skipped: str | None) -> Node:
        line = self.config.line(route.path)
        if skipped is not None:
            return Node(route.path, line, f"not visited: {skipped}", [], None)
        results = [self._result(matcher) for matcher in route.matchers]
        if not all(result.holds for result in results):
            return Node(route.path, line, "a matcher does not hold", results, None)
        children: list[Node] = []
        skip = None
        for child in route.children:
            children.append(self.node(child, skip))
            if children[-1].matched and not child.continues and skip is None:
                skip = f"{child.path} matches and does not continue"
        is_leaf = not any(child.matched for child in children)
        if is_leaf:
            why = "it matches, and no route below it does" if children else "it matches"
        else:
            why = "routes below it match"
        if not route.matchers and route.path != "route":
            why = f"without matchers it matches everything; {why}"
        match = self._match(route) if is_leaf else None
        return Node(route.path, line, why, results, match, children, matched=True)

    def _result(self, matcher: Matcher) -> MatcherResult:
        value = self.labels.get(matcher.name, "")
        return MatcherResult(str(matcher), value, matcher.name not in self.labels, matcher.holds(value))

    def _match(self, route: Route) -> Match:
        (match,) = route_matches([route], self.labels)
        notes = [*self._interval_notes(route), *self._inhibition_notes()]
        if self.engine is not None and self.at is not None:
            notes += self._suppression_notes(self.engine, self.at)
            notes += self._group_notes(self.engine, self.at, match.group_key, route)
        settings = [self._setting(route, name) for name in _SETTINGS]
        return Match(route.receiver, match.group_key, dict(match.group_labels), settings, notes)

    def _setting(self, route: Route, name: str) -> Setting:
        value = getattr(route, name)
        if name == "group_by":
            text = "all labels" if value is None else ", ".join(value) or "no labels, so there is one group"
        elif name in _TIMERS:
            text = str(Duration(value))
        else:
            text = str(value).lower() if isinstance(value, bool) else str(value)
        origin = route.origins.get(name)
        line = None if origin is None else self.config.line(f"{origin}.{name}")
        return Setting(name, text, origin, line)

    def _interval_notes(self, route: Route) -> Iterator[str]:
        for effect, intervals in (("muted", route.mute), ("active only", route.active)):
            for interval in intervals:
                now = ""
                if self.at is not None:
                    holds = interval.holds(moment_of(self.at))
                    now = f", which is {'on' if holds else 'off'} then"
                yield f"{effect} in the interval {interval.name}{now}"

    def _inhibition_notes(self) -> Iterator[str]:
        for rule in self.config.inhibit_rules:
            if not matches_all(rule.target, self.labels):
                continue
            source = ", ".join(map(str, rule.source)) or "anything"
            equal = f" with the same {', '.join(rule.equal)}" if rule.equal else ""
            both = ", but not the target side too" if matches_all(rule.source, self.labels) else ""
            rule_at = f"{rule.path}{_line(self.config.line(rule.path))}"
            yield f"inhibited by {rule_at} while an alert fires that matches {source}{equal}{both}"

    def _suppression_notes(self, engine: RunningEngine, now: float) -> Iterator[str]:
        inhibitor = engine.inhibitor_of(self.labels, now)
        if inhibitor is not None:
            yield f"INHIBITED now by the firing alert {pairs(inhibitor.labels)}"
        silence = engine.silenced_by(self.labels, now)
        if silence is not None:
            by = f" by {silence.created_by}" if silence.created_by else ""
            comment = f" ({silence.comment})" if silence.comment else ""
            yield f"SILENCED now until {iso(silence.ends_at)}{by}{comment}: {silence.id}"

    def _group_notes(self, engine: RunningEngine, now: float, key: str, route: Route) -> Iterator[str]:
        group = engine.group(key)
        if group is None:
            yield f"no such group yet; it would first be notified after {Duration(route.group_wait)}"
            return
        firing = group.firing(now)
        alerts = f"{len(firing)} of {len(group.alerts)} alerts"
        yield f"{alerts} of the group are firing; its next tick is at {iso(group.next_tick)}"
        for channel in self.config.receivers[route.receiver].channels:
            entry = engine.log_entry(key, channel.name)
            if channel.name in group.in_flight:
                yield f"{channel.name}: a notification is in flight"
            elif entry is None:
                yield f"{channel.name}: not notified about this group yet"
            else:
                resolved = frozenset(group.alerts) - firing
                reason = reason_to_notify(entry, firing, resolved, group.next_tick, channel, route)
                yield f"{channel.name}: last notified at {iso(entry.at)}; at the next tick: {reason.value}"


def _lines(node: Node, indent: str) -> Iterator[str]:
    mark = "=>" if node.match is not None else "+ " if node.matched else "- "
    yield f"{indent}{mark} {node.path}{_line(node.line)}: {node.why}"
    details = [str(result) for result in node.matchers]
    if node.match is not None:
        details.append(f"group {node.match.group_key}")
        details += [str(setting) for setting in node.match.settings]
        details += [f"! {note}" for note in node.match.notes]
    yield from (f"{indent}     {detail}" for detail in details)
    for child in node.children:
        yield from _lines(child, f"{indent}   ")


def _line(line: int | None) -> str:
    return "" if line is None else f", line {line}"
