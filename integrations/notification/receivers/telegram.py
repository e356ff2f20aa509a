"""`telegram_configs`: messages of a Telegram bot, through Apprise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.notification.receivers.apprise_receiver import AppriseReceiver, apprise_url

_FORMATS = {"": "text", "HTML": "html", "Markdown": "markdown", "MarkdownV2": "markdown"}


class TelegramConfig(AppriseReceiver, kw_only=True, frozen=True):
    """An item of `telegram_configs`; its options are those of Alertmanager."""

    __api_url__ = "https://api.telegram.org"
    __literal__ = frozenset({"api_url", "parse_mode"})
    __ignored__: ClassVar[dict[str, str]] = {
        "update_message": "not done here: each notification is a message of its own",
    }
    __global__ = (
        {"api_url": "telegram_api_url"},
        {"bot_token": "telegram_bot_token", "bot_token_file": "telegram_bot_token_file"},
    )

    api_url: str = ""
    bot_token: Secret = Secret()
    bot_token_file: str = ""
    chat_id: int | None = None
    chat_id_file: str = ""
    message_thread_id: int | None = None
    message: str = '{{ template "telegram.default.message" . }}'
    disable_notifications: bool = False
    parse_mode: str = "HTML"

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from self.required("bot_token", "bot_token_file")
        yield from self.required("chat_id", "chat_id_file")
        if self.parse_mode not in _FORMATS:
            yield "parse_mode", f"must be Markdown, MarkdownV2, HTML or empty, got {self.parse_mode!r}"

    @property
    def scheme(self) -> str:
        return "tgram"

    def html_option(self) -> str:
        return "message" if self.parse_mode == "HTML" else ""

    def text_format(self) -> str:
        return _FORMATS[self.parse_mode]

    def url_of(self, texts: Mapping[str, Any]) -> str:  # noqa: ARG002 - nothing is a template
        chat = self.read_secret(self.chat_id_file) if self.chat_id_file else str(self.chat_id or "")
        query = {
            "topic": str(self.message_thread_id or ""),
            "silent": "yes" if self.disable_notifications else "",
            "mdv": "v2" if self.parse_mode == "MarkdownV2" else "",
        }
        return apprise_url("tgram", self.secret("bot_token"), chat, query=query)
