"""`msteams_configs`: accepted for routing; nothing is delivered, which is reported for each notification."""

from __future__ import annotations

from typing import Any, ClassVar

from codomyrmex.integrations.notification.channels import UndeliverableChannel


class MsteamsConfig(UndeliverableChannel, kw_only=True, frozen=True):
    """An item of `msteams_configs`, for connectors that Microsoft has retired."""

    __internal__ = frozenset({"body", "format", "name", "reason", "title"})
    __ignored__: ClassVar[dict[str, str]] = {"title": "not sent, as nothing is delivered"}

    reason: str = "msteams_configs deliver nothing here, as its connectors are retired; use msteamsv2_configs"
    http_config: Any = None
    summary: Any = None
    text: Any = None
    webhook_url: Any = None
    webhook_url_file: Any = None
