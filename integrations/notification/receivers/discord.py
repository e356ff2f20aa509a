"""`discord_configs`: messages of a Discord webhook, through Apprise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.notification.receivers.apprise_receiver import AppriseReceiver, with_query


class DiscordConfig(AppriseReceiver, kw_only=True, frozen=True):
    """An item of `discord_configs`; its options are those of Alertmanager."""

    __title__ = "title"
    __internal__ = frozenset({"body", "context", "format", "name"})
    __url_texts__ = ("avatar_url",)
    __ignored__: ClassVar[dict[str, str]] = {
        "content": "not sent here: the message is the text",
        "username": "not sent here: the name is that of the webhook",
    }

    webhook_url: Secret = Secret()
    webhook_url_file: str = ""
    title: str | None = '{{ template "discord.default.title" . }}'
    message: str = '{{ template "discord.default.message" . }}'
    avatar_url: str = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from self.required("webhook_url", "webhook_url_file")

    @property
    def scheme(self) -> str:
        return "discord"

    def text_format(self) -> str:
        return "markdown"

    def url_of(self, texts: Mapping[str, Any]) -> str:
        return with_query(self.secret("webhook_url"), {"avatar": "no", "avatar_url": texts["avatar_url"]})
