"""`slack_configs`: Slack's incoming webhooks and compatible ones, such as Mattermost's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import msgspec
from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.notification.channels import is_retryable
from codomyrmex.integrations.notification.event_renderer import Message
from codomyrmex.integrations.notification.receivers.http_channel import (
    HttpReceiver,
    payload_of,
    url_problems,
)
from codomyrmex.integrations.notification.receivers.http_client import Answer, HttpRequest
from codomyrmex.integrations.notification.receivers.receiver_config import shortened
from codomyrmex.streaming import Event

_APP_URL = Secret("https://slack.com/api/chat.postMessage")
_MAX_TITLE = 1024  # characters
_CODE = re.compile(r"[a-z]+(?:_[a-z]+)+")  # of an error, such as `invalid_payload`
_MAY_PASS = frozenset({"rate_limited", "ratelimited", "service_unavailable", "internal_error", "fatal_error"})
_MESSAGE = ("channel", "username", "icon_emoji", "icon_url")
_ATTACHMENT = (
    *("title", "title_link", "pretext", "text", "fallback", "callback_id", "image_url", "thumb_url"),
    *("footer", "color"),
)
_ALWAYS = frozenset({"callback_id", "fallback", "footer", "text"})  # sent even if they are empty


class SlackField(msgspec.Struct, kw_only=True, frozen=True):
    """A field of an attachment."""

    title: str = ""
    value: str = ""
    short: bool | None = None


class SlackConfirmation(msgspec.Struct, kw_only=True, frozen=True):
    """A question before an action."""

    text: str = ""
    title: str = ""
    ok_text: str = ""
    dismiss_text: str = ""


class SlackAction(msgspec.Struct, kw_only=True, frozen=True):
    """A button of an attachment."""

    type: str = ""
    text: str = ""
    url: str = ""
    style: str = ""
    name: str = ""
    value: str = ""
    confirm: SlackConfirmation | None = None


class SlackConfig(HttpReceiver, kw_only=True, frozen=True):
    """An item of `slack_configs`; its options are those of Alertmanager.

    Args:
        api_url: the webhook.
        app_token: the token of an app, which posts to `app_url` instead.
    """

    __internal__ = frozenset({"body", "context", "format", "name"})
    __global__ = (
        {
            "api_url": "slack_api_url",
            "api_url_file": "slack_api_url_file",
            "app_token": "slack_app_token",
            "app_token_file": "slack_app_token_file",
        },
        {"app_url": "slack_app_url"},
    )
    __ignored__: ClassVar[dict[str, str]] = {
        "edit_messages": "not done here: each notification is a message of its own",
        "message_text": "not used here: the text is that of the attachment",
        "update_message": "not done here: each notification is a message of its own",
    }

    send_resolved: bool = False
    api_url: Secret = Secret()
    api_url_file: str = ""
    app_token: Secret = Secret()
    app_token_file: str = ""
    app_url: Secret = Secret()
    channel: str = ""
    username: str = '{{ template "slack.default.username" . }}'
    color: str = '{{ if eq .Status "firing" }}danger{{ else }}good{{ end }}'
    title: str | None = '{{ template "slack.default.title" . }}'
    title_link: str = '{{ template "slack.default.titlelink" . }}'
    pretext: str = '{{ template "slack.default.pretext" . }}'
    text: str = '{{ template "slack.default.text" . }}'
    fields: list[SlackField] = msgspec.field(default_factory=list)
    short_fields: bool = False
    footer: str = '{{ template "slack.default.footer" . }}'
    fallback: str = '{{ template "slack.default.fallback" . }}'
    callback_id: str = '{{ template "slack.default.callbackid" . }}'
    icon_emoji: str = '{{ template "slack.default.iconemoji" . }}'
    icon_url: str = '{{ template "slack.default.iconurl" . }}'
    image_url: str = ""
    thumb_url: str = ""
    link_names: bool = False
    mrkdwn_in: list[str] = msgspec.field(default_factory=list)
    actions: list[SlackAction] = msgspec.field(default_factory=list)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from self.required(*self.__global__[0])
        yield from url_problems(self, "api_url", "app_url")
        for number, each in enumerate(self.fields):
            for name in ("title", "value"):
                if not getattr(each, name):
                    yield f"fields[{number}]", f"a {name} is required"
        for number, action in enumerate(self.actions):
            for name in ("type", "text"):
                if not getattr(action, name):
                    yield f"actions[{number}]", f"a {name} is required"
            if not (action.url or action.name):
                yield f"actions[{number}]", "a url or a name is required"
            if action.confirm is not None and not action.confirm.text:
                yield f"actions[{number}].confirm", "a text is required"

    def compose(self, notification: Mapping[str, Any], default: Message) -> Message:
        data = self.data(notification)
        attachment: dict[str, Any] = self._texts(_ATTACHMENT, data)
        attachment["title"] = shortened(attachment.get("title", ""), _MAX_TITLE)
        fields = [
            {**self.rendered(each, data), "short": self.short_fields if each.short is None else each.short}
            for each in self.fields
        ]
        actions = [self.rendered(_sent(action), data) for action in self.actions]
        attachment |= {name: each for name, each in (("fields", fields), ("actions", actions)) if each}
        attachment["mrkdwn_in"] = self.mrkdwn_in or ["fallback", "pretext", "text"]
        payload: dict[str, Any] = {**self._texts(_MESSAGE, data), "attachments": [attachment]}
        if self.link_names:
            payload["link_names"] = True
        return replace(default, payload=payload)

    def outline(self, notification: Mapping[str, Any], default: Message) -> Message:
        channel = self.rendered_if_possible(["channel"], self.data(notification))["channel"]
        return replace(default, payload={"channel": channel} if channel else {})

    def _texts(self, names: tuple[str, ...], data: Mapping[str, Any]) -> dict[str, Any]:
        texts = {name: self.rendered(getattr(self, name) or "", data) for name in names}
        return {name: text for name, text in texts.items() if text or name in _ALWAYS}

    def request(self, event: Event) -> HttpRequest:
        body = payload_of(event)
        if not isinstance(body, Mapping) or "attachments" not in body:
            title, text = event.metadata.get("title"), event.metadata.get("body")
            attachment = {"title": title, "text": text, "fallback": title}
            body = {**(body if isinstance(body, Mapping) else {}), "attachments": [attachment]}
        token = self.secret("app_token")
        if token:
            return HttpRequest(self.app_url or _APP_URL, body, {"Authorization": f"Bearer {token}"})
        return HttpRequest(self.target("api_url", self.secret("api_url")), body)

    def refusal(self, answer: Answer) -> str | None:
        """Return the error of an answer with the status 200, as Slack and Rocket.Chat write it."""
        code = _code(answer)
        return None if code is None else f"the service refused it: {code}"

    def retries(self, answer: Answer) -> bool:
        return is_retryable(answer.status) or _code(answer) in _MAY_PASS

    def reason(self, answer: Answer) -> str:
        return _code(answer) or ""


def _sent(action: SlackAction) -> SlackAction:
    """Return the parts of an action that are sent: a link has no name."""
    if action.url:
        return msgspec.structs.replace(action, name="", value="", confirm=None)
    return action


def _code(answer: Answer) -> str | None:
    """Return the error in an answer; None if it reports none. Other texts than codes are not shown."""
    if answer.type == "application/json":
        try:
            content = json.loads(answer.text)
        except ValueError:
            return None
        if not isinstance(content, dict) or True in (content.get("ok"), content.get("success")):
            return None
        if False not in (content.get("ok"), content.get("success")):
            return None
        code = content.get("error")
        return code if isinstance(code, str) and _CODE.fullmatch(code) else "no reason is given"
    text = answer.text.strip()
    return text if _CODE.fullmatch(text) else None
