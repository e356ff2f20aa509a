"""`pushover_configs`: messages of Pushover, through Apprise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.notification.receivers.apprise_receiver import AppriseReceiver, apprise_url
from codomyrmex.integrations.notification.receivers.receiver_config import GoDuration


class PushoverConfig(AppriseReceiver, kw_only=True, frozen=True):
    """An item of `pushover_configs`; its options are those of Alertmanager."""

    __title__ = "title"
    __internal__ = frozenset({"body", "context", "format", "name"})
    __url_texts__ = ("device", "priority", "sound", "url", "url_title")
    __ignored__: ClassVar[dict[str, str]] = {
        "monospace": "not done here: the text has the usual font",
        "ttl": "not sent here: messages do not expire",
    }

    user_key: Secret = Secret()
    user_key_file: str = ""
    token: Secret = Secret()
    token_file: str = ""
    title: str | None = '{{ template "pushover.default.title" . }}'
    message: str = '{{ template "pushover.default.message" . }}'
    url: str = '{{ template "pushover.default.url" . }}'
    url_title: str = ""
    device: str = ""
    sound: str = ""
    priority: str = '{{ if eq .Status "firing" }}2{{ else }}0{{ end }}'
    retry: GoDuration = GoDuration(60)
    expire: GoDuration = GoDuration(3600)
    html: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from self.required("user_key", "user_key_file")
        yield from self.required("token", "token_file")

    @property
    def scheme(self) -> str:
        return "pover"

    def text_format(self) -> str:
        return "html" if self.html else "text"

    def url_of(self, texts: Mapping[str, Any]) -> str:
        query = {name: texts[name] for name in ("priority", "sound", "url", "url_title")}
        query |= {"interval": f"{self.retry:.0f}", "expire": f"{self.expire:.0f}"}
        devices = [texts["device"]] if texts["device"] else []
        return apprise_url("pover", self.secret("token"), *devices, user=self.secret("user_key"), query=query)
