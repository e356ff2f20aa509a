"""`wechat_configs`: messages of an app of WeCom, through Apprise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.notification.receivers.apprise_receiver import AppriseReceiver, apprise_url


class WechatConfig(AppriseReceiver, kw_only=True, frozen=True):
    """An item of `wechat_configs`; its options are those of Alertmanager."""

    __url_texts__ = ("agent_id", "to_party", "to_tag", "to_user")
    __api_url__ = "https://qyapi.weixin.qq.com/cgi-bin"
    __literal__ = frozenset({"api_url", "corp_id", "message_type"})
    __global__ = (
        {"api_secret": "wechat_api_secret", "api_secret_file": "wechat_api_secret_file"},
        {"api_url": "wechat_api_url"},
        {"corp_id": "wechat_api_corp_id"},
    )

    send_resolved: bool = False
    api_secret: Secret = Secret()
    api_secret_file: str = ""
    api_url: str = ""
    corp_id: str = ""
    agent_id: str = '{{ template "wechat.default.agent_id" . }}'
    to_user: str = '{{ template "wechat.default.to_user" . }}'
    to_party: str = '{{ template "wechat.default.to_party" . }}'
    to_tag: str = '{{ template "wechat.default.to_tag" . }}'
    message: str = '{{ template "wechat.default.message" . }}'
    message_type: str = "text"

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from self.required("api_secret", "api_secret_file")
        yield from self.required("corp_id")
        if self.message_type not in {"", "markdown", "text"}:
            yield "message_type", f"must be text or markdown, got {self.message_type!r}"

    @property
    def scheme(self) -> str:
        return "wechat"

    def text_format(self) -> str:
        return self.message_type or "text"

    def url_of(self, texts: Mapping[str, Any]) -> str:
        targets = [
            f"{prefix}{name.removeprefix(prefix)}"  # `@all` has it already
            for prefix, option in (("@", "to_user"), ("#", "to_party"), ("+", "to_tag"))
            for name in texts[option].split("|")
            if name
        ]
        self.needed("to_user", "".join(targets))  # Apprise would notify all
        secret = self.secret("api_secret")
        return apprise_url(
            "wechat", self.needed("agent_id", texts["agent_id"]), *targets, user=self.corp_id, password=secret
        )
