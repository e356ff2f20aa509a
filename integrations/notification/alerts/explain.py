"""`Explanation`: why labels go where they go, node by node and matcher by matcher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.matchers import Labels, matches_all
from codomyrmex.integrations.notification.alerts.config import AlertConfig, Route
from codomyrmex.integrations.notification.alerts.group_key import route_match
from codomyrmex.integrations.notification.alerts.inhibition import Inhibitor
from codomyrmex.integrations.notification.alerts.notification import iso
from codomyrmex.integrations.notification.alerts.notification_log import reason_to_notify

if TYPE_CHECKING:
    from codomyrmex.integrations.notification.alerts.engine import AlertEngine

_SETTINGS = (
    "receiver",
    "group_by",
    "group_wait",
    "group_interval",
    "repeat_interval",
    "on_unmute",
    "resolve_always",
)


@dataclass(frozen=True, slots=True)
class MatcherSeen:
    """A matcher, the value of its label, and whether it holds."""

    matcher: str
    value: str
    missing: bool
    holds: bool

    def __str__(self) -> str:
        sign = "holds" if self.holds else "does not hold"
        seen = "there is no such label, so it is empty" if self.missing else f"it is {self.value!r}"
        return f"{self.matcher} {sign}: {seen}"


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of a route, and where it comes from; a default comes from nowhere."""

    name: str
    value: str
    path: str | None
    line: int | None

    def __str__(self) -> str:
        if self.path is None:
            return f"{self.name}: {self.value} (default)"
        return f"{self.name}: {self.value} (from {self.path}{_line(self.line)})"


@dataclass(frozen=True, slots=True)
class Taken:
    """What a route does with the labels that it takes.

    Args:
        receiver: the receiver.
        group_key: the group.
        group_labels: its labels.
        settings: each with where it comes from.
        notes: intervals, inhibition, silences, and what the engine knows of the group.
    """

    receiver: str
    group_key: str
    group_labels: dict[str, str]
    settings: list[Setting]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A node that was visited, why it took the labels or not, and what came below it."""

    path: str
    line: int | None
    why: str
    matchers: list[MatcherSeen]
    taken: Taken | None
    children: list[NodeSeen] = field(default_factory=list)
    matched: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why labels go where they go; as text it is a tree.

    Args:
        labels: the labels.
        at: the moment, in seconds since 1970; None if no time was asked for.
        root: the root of the tree, as it was visited.
    """

    labels: dict[str, str]
    at: float | None
    root: NodeSeen

    @property
    def receivers(self) -> list[str]:
        """The receivers, in order."""
        return [node.taken.receiver for node in _walk(self.root) if node.taken is not None]

    def to_dict(self) -> dict[str, Any]:
        """Give it as built-in types."""
        at = None if self.at is None else iso(self.at)
        return {"labels": self.labels, "at": at, "receivers": self.receivers, "root": asdict(self.root)}

    def __str__(self) -> str:
        shown = " ".join(f"{name}={value}" for name, value in self.labels.items()) or "(no labels)"
        when = "" if self.at is None else f" at {iso(self.at)}"
        return "\n".join([f"{shown}{when} -> {', '.join(self.receivers)}", *_lines(self.root, "")])


def explain(
    config: AlertConfig, labels: Labels, at: float | None = None, engine: AlertEngine | None = None
) -> Explanation:
    """Explain where labels go, and why.

    Args:
        config: the configuration.
        labels: the labels of an alert.
        at: a moment, in seconds since 1970, for the time intervals.
        engine: what is going on, for inhibition, silences and groups; it is only read.
    """
    shown = {name: value for name, value in labels.items() if value}
    return Explanation(shown, at, _Explainer(config, shown, at, engine).node(config.route, None))


class _Explainer:
    def __init__(
        self, config: AlertConfig, labels: Labels, at: float | None, engine: AlertEngine | None
    ) -> None:
        self._config = config
        self._labels = labels
        self._at = at
        self._engine = engine

    def node(self, route: Route, skipped: str | None) -> NodeSeen:
        line = self._config.line(route.path)
        if skipped is not None:
            return NodeSeen(route.path, line, f"not visited: {skipped}", [], None)
        seen = [self._matcher(matcher) for matcher in route.matchers]
        if not all(each.holds for each in seen):
            return NodeSeen(route.path, line, "a matcher does not hold", seen, None)
        children: list[NodeSeen] = []
        stop = None
        for child in route.children:
            children.append(self.node(child, stop))
            if children[-1].matched and not child.continues and stop is None:
                stop = f"{child.path} took it and does not continue"
        own = not any(child.matched for child in children)
        if own:
            why = "no route below took it, so it stays here" if children else "it is taken here"
        else:
            why = "routes below took it"
        if not route.matchers and route.path != "route":
            why = f"no matchers, so it takes everything; {why}"
        return NodeSeen(
            route.path, line, why, seen, self._taken(route) if own else None, children, matched=True
        )

    def _matcher(self, matcher: Any) -> MatcherSeen:
        value = self._labels.get(matcher.name, "")
        return MatcherSeen(str(matcher), value, matcher.name not in self._labels, matcher.holds(value))

    def _taken(self, route: Route) -> Taken:
        match = route_match(route, self._labels)
        notes = [
            *self._interval_notes(route),
            *self._inhibition_notes(),
            *self._group_notes(match.group_key, route),
        ]
        settings = [self._setting(route, name) for name in _SETTINGS]
        return Taken(route.receiver, match.group_key, dict(match.group_labels), settings, notes)

    def _setting(self, route: Route, name: str) -> Setting:
        value = getattr(route, name)
        if name == "group_by":
            text = "all labels" if value is None else ", ".join(value) or "nothing, so all of it is one group"
        elif isinstance(value, bool):
            text = str(value).lower()
        else:
            text = str(Duration(value)) if isinstance(value, float) else str(value)
        origin = route.origins.get(name)
        line = None if origin is None else self._config.line(f"{origin}.{name}")
        return Setting(name, text, origin, line)

    def _interval_notes(self, route: Route) -> Iterator[str]:
        moment = None if self._at is None else datetime.fromtimestamp(self._at, UTC)
        for kind, intervals in (("muted", route.mute), ("active only", route.active)):
            for interval in intervals:
                if moment is None:
                    yield f"{kind} in the interval {interval.name}"
                else:
                    yield f"{kind} in the interval {interval.name}, which is {_on(interval.holds(moment))}"

    def _inhibition_notes(self) -> Iterator[str]:
        for rule in Inhibitor(self._config.inhibit_rules).rules_on(self._labels):
            source = ", ".join(str(matcher) for matcher in rule.source) or "any alert"
            equal = f" with equal {', '.join(rule.equal)}" if rule.equal else ""
            both = ", and not the target side too" if matches_all(rule.source, self._labels) else ""
            where = f"{rule.path}{_line(self._config.line(rule.path))}"
            yield f"kept back by {where} while an alert fires that matches {source}{equal}{both}"
        if self._engine is None or self._at is None:
            return
        inhibitor = self._engine.inhibitor_of(self._labels, self._at)
        if inhibitor is not None:
            shown = " ".join(f"{name}={value}" for name, value in inhibitor.labels.items())
            yield f"INHIBITED now by the firing alert {shown}"
        silence = self._engine.silenced_by(self._labels, self._at)
        if silence is not None:
            by = f" by {silence.created_by}" if silence.created_by else ""
            comment = f" ({silence.comment})" if silence.comment else ""
            yield f"SILENCED now until {iso(silence.ends_at)}{by}{comment}: {silence.id}"

    def _group_notes(self, key: str, route: Route) -> Iterator[str]:
        if self._engine is None or self._at is None:
            return
        group = next((each for each in self._engine.groups() if each.key == key), None)
        if group is None:
            yield f"no such group yet; a first alert would be told of after {Duration(route.group_wait)}"
            return
        firing = frozenset(alert.fingerprint for alert in group.alerts.values() if alert.fires(self._at))
        counts = f"{len(firing)} firing of {len(group.alerts)} alerts"
        yield f"the group has {counts}; its next tick is {iso(group.next_tick)}"
        for channel in self._config.receivers[route.receiver].channels:
            entry = self._engine.log_entry(key, channel.name)
            if channel.name in group.under_way:
                yield f"{channel.name}: a notification is under way"
            elif entry is None:
                yield f"{channel.name}: it was never told of this group"
            else:
                reason = reason_to_notify(
                    entry,
                    firing,
                    frozenset(group.alerts) - firing,
                    group.next_tick,
                    send_resolved=channel.send_resolved,
                    repeat_interval=route.repeat_interval,
                )
                yield f"{channel.name}: told last at {iso(entry.at)}; at the next tick: {reason.value}"


def _walk(node: NodeSeen) -> Iterator[NodeSeen]:
    for child in node.children:
        yield from _walk(child)
    yield node


def _lines(node: NodeSeen, indent: str) -> Iterator[str]:
    mark = "=>" if node.taken is not None else "+ " if node.matched else "- "
    yield f"{indent}{mark} {node.path}{_line(node.line)}: {node.why}"
    inner = f"{indent}     "
    for matcher in node.matchers:
        yield f"{inner}{matcher}"
    if node.taken is not None:
        yield f"{inner}group {node.taken.group_key}"
        for setting in node.taken.settings:
            yield f"{inner}{setting}"
        for note in node.taken.notes:
            yield f"{inner}! {note}"
    for child in node.children:
        yield from _lines(child, f"{indent}   ")


def _line(line: int | None) -> str:
    return "" if line is None else f", line {line}"


def _on(holds: bool) -> str:  # noqa: FBT001 - private
    return "on then" if holds else "off then"
