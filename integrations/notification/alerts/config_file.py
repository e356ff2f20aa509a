"""The configuration as written: a struct for each mapping of the file, and the registry of channel types.

The keys are Alertmanager's. Those that are not used here are accepted and noted, so that an
`alertmanager.yml` loads unchanged.
"""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec
from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.matcher_text import MatcherLine
from codomyrmex.integrations.configuration.rates import RateLimit
from codomyrmex.integrations.notification.alerts.intervals import (
    DayOfMonthRange,
    Location,
    MonthRange,
    WeekdayRange,
    YearRange,
)
from codomyrmex.integrations.notification.apprise_channel import AppriseConfig
from codomyrmex.integrations.notification.channels import ChannelConfig
from codomyrmex.integrations.notification.receivers.defaults import ReceiverDefaults
from codomyrmex.integrations.notification.receivers.discord import DiscordConfig
from codomyrmex.integrations.notification.receivers.email import EmailConfig
from codomyrmex.integrations.notification.receivers.incidentio import IncidentioConfig
from codomyrmex.integrations.notification.receivers.jira import JiraConfig
from codomyrmex.integrations.notification.receivers.mattermost import MattermostConfig
from codomyrmex.integrations.notification.receivers.msteams import MsteamsConfig
from codomyrmex.integrations.notification.receivers.msteamsv2 import Msteamsv2Config
from codomyrmex.integrations.notification.receivers.opsgenie import OpsgenieConfig
from codomyrmex.integrations.notification.receivers.pagerduty import PagerdutyConfig
from codomyrmex.integrations.notification.receivers.pushover import PushoverConfig
from codomyrmex.integrations.notification.receivers.rocketchat import RocketchatConfig
from codomyrmex.integrations.notification.receivers.slack import SlackConfig
from codomyrmex.integrations.notification.receivers.sns import SnsConfig
from codomyrmex.integrations.notification.receivers.telegram import TelegramConfig
from codomyrmex.integrations.notification.receivers.victorops import VictoropsConfig
from codomyrmex.integrations.notification.receivers.webex import WebexConfig
from codomyrmex.integrations.notification.receivers.webhook import WebhookConfig
from codomyrmex.integrations.notification.receivers.wechat import WechatConfig

# Each key of a receiver that holds channels, with their type. Another type is a file and a line here.
CHANNEL_TYPES: dict[str, type[ChannelConfig]] = {
    "apprise_configs": AppriseConfig,
    "discord_configs": DiscordConfig,
    "email_configs": EmailConfig,
    "incidentio_configs": IncidentioConfig,
    "jira_configs": JiraConfig,
    "mattermost_configs": MattermostConfig,
    "msteams_configs": MsteamsConfig,
    "msteamsv2_configs": Msteamsv2Config,
    "opsgenie_configs": OpsgenieConfig,
    "pagerduty_configs": PagerdutyConfig,
    "pushover_configs": PushoverConfig,
    "rocketchat_configs": RocketchatConfig,
    "slack_configs": SlackConfig,
    "sns_configs": SnsConfig,
    "telegram_configs": TelegramConfig,
    "victorops_configs": VictoropsConfig,
    "webex_configs": WebexConfig,
    "webhook_configs": WebhookConfig,
    "wechat_configs": WechatConfig,
}

_UNUSED = "accepted, but not used here"


class Moment:
    """A point in time in ISO 8601, in UTC if it has no offset."""

    expects: ClassVar[str] = "a time like 2026-11-25T09:00:00Z"

    @classmethod
    def parse(cls, text: str) -> datetime:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{text!r} is not {cls.expects}") from None
        if not 1970 <= moment.year < 3000:  # noqa: PLR2004 - the range of time zone data
            raise ValueError(f"{text!r} is not between the years 1970 and 3000")
        return moment


_Text = dict[str, str]


class RegexText(str):
    """A regular expression; unlike other text, it must not be left empty by mistake."""

    __slots__ = ()
    expects: ClassVar[str] = "a regular expression"

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(text)


_Regexes = dict[str, RegexText]


class RouteFile(msgspec.Struct, kw_only=True):
    """A node of the routing tree."""

    receiver: str | None = None
    matchers: list[MatcherLine] = []
    match: _Text = {}
    match_re: _Regexes = {}
    continue_: bool = msgspec.field(default=False, name="continue")
    group_by: list[str] | None = None
    group_wait: Duration | None = None
    group_interval: Duration | None = None
    repeat_interval: Duration | None = None
    mute_time_intervals: list[str] = []
    active_time_intervals: list[str] = []
    on_unmute: Literal["summary", "drop"] | None = None
    resolve_always: bool | None = None
    labels: _Text = {}
    routes: list[RouteFile] = []


class ReceiverFile(msgspec.Struct, kw_only=True):
    """A receiver; `plugins` holds its channels."""

    __internal__: ClassVar[frozenset[str]] = frozenset({"plugins"})
    __plugins__: ClassVar[dict[str, type[ChannelConfig]]] = CHANNEL_TYPES
    __ignored__: ClassVar[_Text] = {"labels": _UNUSED}

    name: str = ""
    plugins: list[tuple[str, ChannelConfig]] = []
    fallback: str | None = None
    rate_limit: Annotated[RateLimit, RateLimit] | None = None


class InhibitFile(msgspec.Struct, kw_only=True):
    """An inhibition rule."""

    __ignored__: ClassVar[_Text] = {"name": _UNUSED}

    source_matchers: list[MatcherLine] = []
    source_match: _Text = {}
    source_match_re: _Regexes = {}
    target_matchers: list[MatcherLine] = []
    target_match: _Text = {}
    target_match_re: _Regexes = {}
    equal: list[str] = []


class TimeRangeFile(msgspec.Struct, kw_only=True):
    """A range of times of day."""

    start_time: str = ""
    end_time: str = ""


class TimeSpecFile(msgspec.Struct, kw_only=True):
    """A condition on a point in time."""

    times: list[TimeRangeFile] | None = None
    weekdays: list[WeekdayRange] | None = None
    days_of_month: list[DayOfMonthRange] | None = None
    months: list[MonthRange] | None = None
    years: list[YearRange] | None = None
    location: Annotated[tzinfo, Location] | None = None


class IntervalFile(msgspec.Struct, kw_only=True):
    """A named time interval."""

    name: str = ""
    time_intervals: list[TimeSpecFile] = []


class GlobalFile(ReceiverDefaults, kw_only=True):
    """The global settings."""

    __ignored__: ClassVar[_Text] = {"jira_api_url": _UNUSED}

    resolve_timeout: Duration = Duration(300)
    max_alerts: int = 200_000
    trace_url: str | None = None
    control_events: bool = False


class EventsFile(msgspec.Struct, kw_only=True):
    """Which events are alerts: those whose labels meet the matchers."""

    matchers: list[MatcherLine] = []


class SilenceStep(msgspec.Struct, kw_only=True):
    """A silence that a test adds."""

    matchers: list[MatcherLine] = []
    duration: Duration = Duration(3600)


class TestEventFile(msgspec.Struct, kw_only=True):
    """A step of a test."""

    at: Duration = Duration(0)
    labels: _Text | None = None
    annotations: _Text = {}
    status: Literal["firing", "resolved"] = "firing"
    event: dict[str, Any] | None = None
    silence: SilenceStep | None = None


class ExpectFile(msgspec.Struct, kw_only=True):
    """A notification that a test expects; a key that is left out matches anything."""

    at: Duration = Duration(0)
    receiver: str | None = None
    status: Literal["firing", "resolved"] | None = None
    reason: str | None = None
    kind: Literal["group", "quiet_hours", "rate_limit"] | None = None
    group: _Text | None = None
    firing: list[_Text] | int | None = None
    resolved: list[_Text] | int | None = None


class TestFile(msgspec.Struct, kw_only=True):
    """A test of the routing: its steps and the notifications that it expects."""

    name: str = ""
    start: Annotated[datetime, Moment] | None = None
    until: Duration | None = None
    failing: list[str] = []
    events: list[TestEventFile] = []
    expect: list[ExpectFile] = []


class StateFile(msgspec.Struct, kw_only=True):
    """Where processes share their alerts."""

    url: str = ""
    name: str = "alerts"
    lease: Duration = Duration(10)


class ConfigFile(msgspec.Struct, kw_only=True):
    """The whole file."""

    __ignored__: ClassVar[_Text] = {"event_recorder": _UNUSED, "tracing": _UNUSED}

    global_: GlobalFile = msgspec.field(default_factory=GlobalFile, name="global")
    route: RouteFile | None = None
    receivers: list[ReceiverFile] = []
    inhibit_rules: list[InhibitFile] = []
    time_intervals: list[IntervalFile] = []
    mute_time_intervals: list[IntervalFile] = []
    events: EventsFile | None = None
    labels: Any = None
    state: Any = None
    templates: list[str] = []
    when_away: Literal["send", "hold"] = "send"
    tests: list[TestFile] = []
