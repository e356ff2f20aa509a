"""The configuration as the engine uses it: settings inherited, names resolved, all of it checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from codomyrmex.integrations.configuration.matchers import Matcher
from codomyrmex.integrations.configuration.problems import ConfigError, Problem, ProblemList
from codomyrmex.integrations.configuration.rates import RateLimit
from codomyrmex.integrations.configuration.secret import Secret
from codomyrmex.integrations.notification.alerts.alert import LabelRules
from codomyrmex.integrations.notification.alerts.config_file import TestFile
from codomyrmex.integrations.notification.alerts.intervals import TimeInterval

OnUnmute = Literal["summary", "drop"]


class AlertConfigError(ConfigError):
    """An alert configuration cannot be used; `problems` has all that was found."""


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A node of the routing tree, with what it inherits.

    Args:
        path: where it stands in the file, such as `route.routes[2]`.
        matchers: all of them have to hold.
        continues: whether the siblings after it are tried too when it matches.
        receiver: the name of the receiver.
        group_by: the labels that make groups; None for all labels (`...`).
        group_wait: seconds before the first notification of a group.
        group_interval: seconds between the ticks of a group, at which it may notify again.
        repeat_interval: seconds after which an unchanged group is notified again, at the next tick.
        mute: intervals in which nothing is sent; not inherited.
        active: intervals outside of which nothing is sent; not inherited.
        on_unmute: `summary` sends what was held once the route is not muted any more.
        resolve_always: a resolved notice follows each firing one, also through a mute or an inhibition.
        labels: for templates.
        origins: the path of the node that each setting comes from; no entry for a default.
        children: the nodes below.
        key: the path of matchers, as in Alertmanager's group keys; siblings that are the same are numbered.
        group_names: what `group_by` names, in order; None for all labels.
    """

    path: str
    matchers: tuple[Matcher, ...]
    continues: bool
    receiver: str
    group_by: tuple[str, ...] | None
    group_wait: float
    group_interval: float
    repeat_interval: float
    mute: tuple[TimeInterval, ...]
    active: tuple[TimeInterval, ...]
    on_unmute: OnUnmute
    resolve_always: bool
    labels: Mapping[str, str]
    origins: Mapping[str, str]
    children: tuple[Route, ...]
    key: str
    group_names: tuple[str, ...] | None = field(init=False)

    def __post_init__(self) -> None:
        names = None if self.group_by is None else tuple(sorted(self.group_by))
        object.__setattr__(self, "group_names", names)

    def walk(self) -> list[Route]:
        """Give this node and all below, in the order of the file."""
        return [self, *(node for child in self.children for node in child.walk())]


@dataclass(frozen=True, slots=True)
class ChannelConfig:
    """One channel of a receiver: where to, and how it is written.

    Args:
        name: the receiver's name and its place there, such as `oncall[0]`.
        url: an Apprise URL; not shown.
        send_resolved: whether it is told of resolved alerts.
        title: a template; the default if None.
        body: a template; the default if None.
        format: what the templates give.
        tags: for Apprise.
        timeout: seconds for each attempt.
        rate_limit: how often; what is over goes out as one summary.
    """

    name: str
    url: Secret = field(repr=False)
    send_resolved: bool = True
    title: str | None = None
    body: str | None = None
    format: Literal["text", "markdown", "html"] = "text"
    tags: tuple[str, ...] = ()
    timeout: float = 10.0
    rate_limit: RateLimit | None = None


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where notifications go: some channels, and who takes over when all of them have given up."""

    name: str
    channels: tuple[ChannelConfig, ...] = ()
    fallback: str | None = None
    path: str = ""
    rate_limit: RateLimit | None = None  # of channels that have none of their own


@dataclass(frozen=True, slots=True)
class InhibitRule:
    """While an alert that matches the source fires, those that match the target are not notified of."""

    source: tuple[Matcher, ...]
    target: tuple[Matcher, ...]
    equal: tuple[str, ...]
    path: str = ""


@dataclass(frozen=True, slots=True)
class AlertConfig:
    """A configuration of alert routing; made by `load_alert_config`.

    Args:
        route: the root of the tree.
        receivers: by name.
        inhibit_rules: in the order of the file.
        intervals: by name.
        label_rules: how labels are made of events.
        resolve_timeout: seconds after which an alert that is not sent again is resolved.
        max_alerts: how many alerts may be active; more are refused, and that is an alert.
        trace_url: the address of a trace, with `{trace_id}`.
        state: the file that keeps silences, the notification log and groups.
        tests: the tests of the file.
        notes: what was accepted and is not used.
        places: where everything stands.
    """

    route: Route
    receivers: Mapping[str, Receiver]
    inhibit_rules: tuple[InhibitRule, ...]
    intervals: Mapping[str, TimeInterval]
    label_rules: LabelRules
    resolve_timeout: float
    max_alerts: int
    trace_url: str | None
    state: Path | None
    tests: tuple[TestFile, ...]
    notes: tuple[Problem, ...]
    places: ProblemList

    def line(self, path: str) -> int | None:
        """Give the line of what stands at a path, or None where the configuration is no file."""
        return self.places.position(path)[0]
