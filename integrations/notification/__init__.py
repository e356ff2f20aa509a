"""Notifications for events: alert routing, and channels to some 170 services through Apprise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codomyrmex.integrations._extras import lazy_exports

if TYPE_CHECKING:
    from codomyrmex.integrations.configuration.matcher_text import parse_matchers
    from codomyrmex.integrations.configuration.matchers import Matcher, MatcherError
    from codomyrmex.integrations.notification.alerts.alert import Alert, LabelRules
    from codomyrmex.integrations.notification.alerts.alert_views import (
        AlertFigures,
        AlertFilter,
        AlertGroupView,
        AlertView,
    )
    from codomyrmex.integrations.notification.alerts.config import AlertConfig, AlertConfigError
    from codomyrmex.integrations.notification.alerts.config_source import ConfigState
    from codomyrmex.integrations.notification.alerts.engine import AlertEngine
    from codomyrmex.integrations.notification.alerts.explain import Explanation
    from codomyrmex.integrations.notification.alerts.findings import Finding
    from codomyrmex.integrations.notification.alerts.group import RouteMatch
    from codomyrmex.integrations.notification.alerts.lint import lint
    from codomyrmex.integrations.notification.alerts.loading import load_alert_config
    from codomyrmex.integrations.notification.alerts.notification import Notification, NotifiedAlert, Reason
    from codomyrmex.integrations.notification.alerts.notifier import AlertStatistics, NotifierRole
    from codomyrmex.integrations.notification.alerts.planner import Suppressed
    from codomyrmex.integrations.notification.alerts.router import AlertRouter
    from codomyrmex.integrations.notification.alerts.silences import Silence
    from codomyrmex.integrations.notification.alerts.simulation import Sent, simulate
    from codomyrmex.integrations.notification.alerts.sink import AlertSink
    from codomyrmex.integrations.notification.alerts.why import WhyNotNotified
    from codomyrmex.integrations.notification.apprise_channel import AppriseChannel
    from codomyrmex.integrations.notification.channels import ChannelError
    from codomyrmex.integrations.notification.go_templates import GoTemplate, GoTemplateError, GoTemplates

_MODULES = {
    "Alert": "alerts.alert",
    "AlertConfig": "alerts.config",
    "AlertConfigError": "alerts.config",
    "AlertEngine": "alerts.engine",
    "AlertFigures": "alerts.alert_views",
    "AlertFilter": "alerts.alert_views",
    "AlertGroupView": "alerts.alert_views",
    "AlertRouter": "alerts.router",
    "AlertSink": "alerts.sink",
    "AlertStatistics": "alerts.notifier",
    "AlertView": "alerts.alert_views",
    "AppriseChannel": "apprise_channel",
    "ChannelError": "channels",
    "ConfigState": "alerts.config_source",
    "Explanation": "alerts.explain",
    "Finding": "alerts.findings",
    "GoTemplate": "go_templates",
    "GoTemplateError": "go_templates",
    "GoTemplates": "go_templates",
    "LabelRules": "alerts.alert",
    "Matcher": ".configuration.matchers",
    "MatcherError": ".configuration.matchers",
    "Notification": "alerts.notification",
    "NotifiedAlert": "alerts.notification",
    "NotifierRole": "alerts.notifier",
    "Reason": "alerts.notification",
    "RouteMatch": "alerts.group",
    "Sent": "alerts.simulation",
    "Silence": "alerts.silences",
    "Suppressed": "alerts.planner",
    "WhyNotNotified": "alerts.why",
    "lint": "alerts.lint",
    "load_alert_config": "alerts.loading",
    "parse_matchers": ".configuration.matcher_text",
    "simulate": "alerts.simulation",
}

__all__ = [
    "Alert",
    "AlertConfig",
    "AlertConfigError",
    "AlertEngine",
    "AlertFigures",
    "AlertFilter",
    "AlertGroupView",
    "AlertRouter",
    "AlertSink",
    "AlertStatistics",
    "AlertView",
    "AppriseChannel",
    "ChannelError",
    "ConfigState",
    "Explanation",
    "Finding",
    "GoTemplate",
    "GoTemplateError",
    "GoTemplates",
    "LabelRules",
    "Matcher",
    "MatcherError",
    "Notification",
    "NotifiedAlert",
    "NotifierRole",
    "Reason",
    "RouteMatch",
    "Sent",
    "Silence",
    "Suppressed",
    "WhyNotNotified",
    "lint",
    "load_alert_config",
    "parse_matchers",
    "simulate",
]

__getattr__ = lazy_exports(__name__, _MODULES)
