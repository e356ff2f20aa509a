"""`mattermost_configs`: messages of a webhook of Mattermost, through Apprise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.notification.receivers.apprise_receiver import (
    AppriseReceiver,
    apprise_url,
    host_of,
)


class MattermostConfig(AppriseReceiver, kw_only=True, frozen=True):
    """An item of `mattermost_configs`; its options are those of Alertmanager."""

    __title__ = "title"
    __body__ = "text"
    __internal__ = frozenset({"body", "context", "format", "name"})
    __url_texts__ = ("channel", "icon_url", "username")
    __ignored__: ClassVar[dict[str, str]] = {
        "attachments": "not sent here: a message is its title and text; slack_configs send attachments",
        **dict.fromkeys(
            (
                *("author_icon", "author_link", "author_name", "color", "fallback", "fields", "footer"),
                *("footer_icon", "icon_emoji", "image_url", "pretext", "priority", "props", "thumb_url"),
                *("title_link", "type"),
            ),
            "not sent here: a message is its title and text",
        ),
    }
    __global__ = (
        {
            "webhook_url": "mattermost_webhook_url",
            "webhook_url_file": "mattermost_webhook_url_file",
        },
    )

    webhook_url: Secret = Secret()
    webhook_url_file: str = ""
    channel: str = ""
    username: str = '{{ template "mattermost.default.username" . }}'
    title: str | None = '{{ template "mattermost.default.title" . }}'
    text: str = '{{ template "mattermost.default.text" . }}'
    icon_url: str = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from self.required("webhook_url", "webhook_url_file")

    @property
    def scheme(self) -> str:
        return "mmosts" if not self.webhook_url or host_of(self.webhook_url).is_tls else "mmost"

    def text_format(self) -> str:
        return "markdown"

    def url_of(self, texts: Mapping[str, Any]) -> str:
        url = self.secret("webhook_url")
        place = host_of(url)
        scheme = "mmosts" if place.is_tls else "mmost"
        path = [part for part in urlsplit(url).path.split("/") if part and part != "hooks"]
        query = {"channel": texts["channel"].lstrip("#"), "icon_url": texts["icon_url"]}
        query |= {"botname": texts["username"], "image": "" if texts["icon_url"] else "no"}
        return apprise_url(scheme, place.host, *path, port=place.port, query=query)
