"""`jira_configs`: accepted for routing; nothing is delivered, which is reported for each notification."""

from __future__ import annotations

from typing import Any

from codomyrmex.integrations.notification.channels import UndeliverableChannel


class JiraConfig(UndeliverableChannel, kw_only=True, frozen=True):
    """An item of `jira_configs`; its options are those of Alertmanager."""

    __internal__ = frozenset({"body", "format", "name", "reason", "title"})

    reason: str = "jira_configs deliver nothing here; send to JSM with apprise_configs and jira://"
    api_type: Any = None
    api_url: Any = None
    description: Any = None
    fields: Any = None
    http_config: Any = None
    issue_type: Any = None
    labels: Any = None
    priority: Any = None
    project: Any = None
    reopen_duration: Any = None
    reopen_transition: Any = None
    resolve_transition: Any = None
    summary: Any = None
    wont_fix_resolution: Any = None
