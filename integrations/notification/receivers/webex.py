"""`webex_configs`: messages of a Webex bot, through Apprise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from codomyrmex.integrations.notification.receivers.apprise_receiver import AppriseReceiver, apprise_url


class WebexConfig(AppriseReceiver, kw_only=True, frozen=True):
    """An item of `webex_configs`; its options are those of Alertmanager."""

    __url_texts__ = ("room_id",)
    __authorized__ = True
    __api_url__ = "https://webexapis.com/v1/messages"
    __literal__ = frozenset({"api_url"})
    __global__ = ({"api_url": "webex_api_url"},)

    api_url: str = ""
    message: str = '{{ template "webex.default.message" . }}'
    room_id: str = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from self.required("room_id")
        authorization = None if self.http_config is None else self.http_config.authorization
        if authorization is None or not (authorization.credentials or authorization.credentials_file):
            yield "", "the token of the bot is required, as http_config.authorization.credentials"

    @property
    def scheme(self) -> str:
        return "webex"

    def text_format(self) -> str:
        return "markdown"

    def url_of(self, texts: Mapping[str, Any]) -> str:
        return apprise_url(
            "webex", self.authorization(), self.needed("room_id", texts["room_id"]), query={"mode": "bot"}
        )
