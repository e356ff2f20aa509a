"""`rocketchat_configs`: messages of a user of Rocket.Chat, through Apprise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.notification.event_renderer import Message
from codomyrmex.integrations.notification.receivers.apprise_receiver import (
    AppriseReceiver,
    apprise_url,
    host_of,
)

_API_URL = "https://open.rocket.chat/"
_LOST = "not sent here: a message has a title and a text"


class RocketchatConfig(AppriseReceiver, kw_only=True, frozen=True):
    """An item of `rocketchat_configs`; its options are those of Alertmanager."""

    __title__ = "title"
    __body__ = "text"
    __internal__ = frozenset({"body", "context", "format", "name"})
    __url_texts__ = ("channel",)
    __literal__ = frozenset({"api_url"})
    __ignored__: ClassVar[dict[str, str]] = dict.fromkeys(
        (
            *("actions", "color", "emoji", "fields", "icon_url", "image_url", "link_names", "short_fields"),
            *("thumb_url", "title_link"),
        ),
        _LOST,
    )
    __global__ = (
        {"api_url": "rocketchat_api_url"},
        {"token": "rocketchat_token", "token_file": "rocketchat_token_file"},
        {"token_id": "rocketchat_token_id", "token_id_file": "rocketchat_token_id_file"},
    )

    send_resolved: bool = False
    api_url: str = ""
    token: Secret = Secret()
    token_file: str = ""
    token_id: Secret = Secret()
    token_id_file: str = ""
    channel: str = ""
    title: str | None = '{{ template "rocketchat.default.title" . }}'
    text: str = '{{ template "rocketchat.default.text" . }}'

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from self.required("token", "token_file")
        yield from self.required("token_id", "token_id_file")

    @property
    def scheme(self) -> str:
        return "rockets" if host_of(self.api_url or _API_URL).is_tls else "rocket"

    def text_format(self) -> str:
        return "markdown"

    def compose(self, notification: Mapping[str, Any], default: Message) -> Message:
        """Render the texts; the title alone becomes the text, as Apprise sends no message without one."""
        message = super().compose(notification, default)
        return message if message.body.strip() else replace(message, title="", body=message.title)

    def url_of(self, texts: Mapping[str, Any]) -> str:
        place = host_of(self.api_url or _API_URL)
        login = {"user": self.secret("token_id"), "password": self.secret("token")}
        channel = self.needed("channel", texts["channel"])
        channel = channel if channel.startswith(("#", "@")) else f"#{channel}"
        query = {"mode": "token"}
        return apprise_url(self.scheme, place.host, channel, port=place.port, query=query, **login)
