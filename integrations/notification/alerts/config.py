"""The configuration as the engine uses it: checked, with names resolved and settings inherited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.configuration.matchers import Matcher
from codomyrmex.integrations.configuration.problems import ConfigError, Problem, SourceMap
from codomyrmex.integrations.configuration.rates import RateLimit
from codomyrmex.integrations.notification.alerts.alert import LabelRules
from codomyrmex.integrations.notification.alerts.config_file import TestFile
from codomyrmex.integrations.notification.alerts.intervals import TimeInterval
from codomyrmex.integrations.notification.channels import ChannelConfig

OnUnmute = Literal["summary", "drop"]
WhenAway = Literal["send", "hold"]


class AlertConfigError(ConfigError):
    """An alert configuration cannot be used; `problems` holds everything that is wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A node of the routing tree, with the settings that it inherits.

    Args:
        path: its position in the file, such as `route.routes[2]`.
        matchers: all must match.
        continues: whether later siblings are tried after a match.
        receiver: the name of the receiver.
        group_by: the labels that define groups; None for all labels (`...`).
        group_wait: seconds before the first notification of a group.
        group_interval: seconds between the ticks of a group, at which it may notify again.
        repeat_interval: seconds after which an unchanged group is notified again, at the next tick.
        mute: the intervals in which nothing is sent; not inherited.
        active: the intervals outside of which nothing is sent; not inherited.
        on_unmute: `summary` sends what was muted once the route is no longer muted.
        resolve_always: whether a resolved notification follows each firing one, despite mutes and
            inhibitions.
        labels: for templates.
        origins: the path of the node that defines each setting; defaults have no entry.
        children: the nodes below.
        key: the matchers from the root, as in Alertmanager's group keys; equal siblings are numbered.
        group_names: `group_by` in order; None for all labels.
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
        """Return this node and all below it, in the order of the file."""
        return [self, *(node for child in self.children for node in child.walk())]


@dataclass(frozen=True, slots=True)
class Receiver:
    """A destination of notifications: channels, and the receiver that takes over if all of them fail."""

    name: str
    channels: tuple[ChannelConfig, ...] = ()
    fallback: str | None = None
    path: str = ""
    rate_limit: RateLimit | None = None  # of channels without their own


@dataclass(frozen=True, slots=True)
class InhibitRule:
    """A rule that suppresses alerts that match the target while one that matches the source fires."""

    source: tuple[Matcher, ...]
    target: tuple[Matcher, ...]
    equal: tuple[str, ...]
    path: str = ""


@dataclass(frozen=True, slots=True)
class StateConfig:
    """Where processes share their alerts, silences and notification log.

    Args:
        url: the store, as for `open_store`.
        name: the name of the log in the store; different services need different ones.
        lease: seconds after which another process notifies if the one that did was killed.
    """

    url: Secret
    name: str = "alerts"
    lease: float = 10.0


@dataclass(frozen=True, slots=True)
class AlertConfig:
    """A configuration of alert routing; made by `load_alert_config`.

    Args:
        route: the root of the tree.
        receivers: by name.
        inhibit_rules: in the order of the file.
        intervals: by name.
        label_rules: how events become labels.
        resolve_timeout: seconds after which an alert that is not repeated is resolved.
        max_alerts: the maximum number of active alerts; more are refused, which is itself an alert.
        trace_url: the URL of a trace, with `{trace_id}`.
        state: where processes share alerts, silences and the notification log; None if they do not, or by
            the durable stream to which the sink is attached.
        when_away: what a process does that has been without the store for longer than the lease: `send`
            notifications about what it publishes itself, or `hold` all until the store is back.
        tests: the tests of the file.
        notes: settings that are accepted but not used.
        source_map: the positions of all values.
    """

    route: Route
    receivers: Mapping[str, Receiver]
    inhibit_rules: tuple[InhibitRule, ...]
    intervals: Mapping[str, TimeInterval]
    label_rules: LabelRules
    resolve_timeout: float
    max_alerts: int
    trace_url: str | None
    state: StateConfig | None
    when_away: WhenAway
    tests: tuple[TestFile, ...]
    notes: tuple[Problem, ...]
    source_map: SourceMap

    def line(self, path: str) -> int | None:
        """Return the line of the value at a path; None if the configuration is not a file."""
        return self.source_map.position(path)[0]


def check_config(config: object) -> None:
    """Raise a TypeError unless a value is an `AlertConfig`."""
    if not isinstance(config, AlertConfig):
        problem = "must be what load_alert_config returns"
        raise TypeError(f"config: {problem}, got {type(config).__name__}")


def removed_by(old: AlertConfig, new: AlertConfig) -> list[str]:
    """Return the parts that a new configuration no longer has, such as `receiver ops`."""
    kept = {route.key for route in new.route.walk()}
    rules = [(rule.source, rule.target, rule.equal) for rule in new.inhibit_rules]
    return [
        *(f"receiver {name}" for name in old.receivers if name not in new.receivers),
        *(f"route {route.key}" for route in old.route.walk() if route.key not in kept),
        *(f"time interval {name}" for name in old.intervals if name not in new.intervals),
        *(
            f"inhibition rule {rule.path}"
            for rule in old.inhibit_rules
            if (rule.source, rule.target, rule.equal) not in rules
        ),
    ]
