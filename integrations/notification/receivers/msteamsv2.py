"""`msteamsv2_configs`: messages of a workflow of Microsoft Teams, through Apprise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.notification.receivers.apprise_receiver import AppriseReceiver


class Msteamsv2Config(AppriseReceiver, kw_only=True, frozen=True):
    """An item of `msteamsv2_configs`; its options are those of Alertmanager."""

    __title__ = "title"
    __body__ = "text"
    __internal__ = frozenset({"body", "context", "format", "name"})

    webhook_url: Secret = Secret()
    webhook_url_file: str = ""
    title: str | None = '{{ template "msteamsv2.default.title" . }}'
    text: str = '{{ template "msteamsv2.default.text" . }}'

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from self.required("webhook_url", "webhook_url_file")

    @property
    def scheme(self) -> str:
        return "workflows"

    def text_format(self) -> str:
        return "markdown"

    def url_of(self, texts: Mapping[str, Any]) -> str:  # noqa: ARG002 - nothing is a template
        return self.secret("webhook_url")
