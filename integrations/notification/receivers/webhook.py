"""`webhook_configs`: Alertmanager's webhook, version 4, or a body of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.configuration.yaml_text import read_yaml
from codomyrmex.integrations.notification.event_renderer import Message
from codomyrmex.integrations.notification.receivers.data import alertmanager_data, webhook_body
from codomyrmex.integrations.notification.receivers.http_channel import (
    HttpReceiver,
    payload_of,
    rendered_secret,
    url_problems,
)
from codomyrmex.integrations.notification.receivers.http_client import HttpRequest
from codomyrmex.streaming import Event


class WebhookConfig(HttpReceiver, kw_only=True, frozen=True):
    """An item of `webhook_configs`.

    Args:
        url: where the body is sent; may be a template.
        url_file: the file with the URL.
        max_alerts: how many alerts a body has; 0 for all.
        payload: replaces the body; its texts are templates. A result that is YAML, such as a number or JSON,
            becomes that value.
    """

    __secret_templates__ = frozenset({"url"})

    url: Secret = Secret()
    url_file: str = ""
    max_alerts: int = 0
    payload: Any = None

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from self.required("url", "url_file")
        yield from url_problems(self, "url")
        if self.max_alerts < 0:
            yield "max_alerts", f"must be at least 0, got {self.max_alerts}"

    def compose(self, notification: Mapping[str, Any], default: Message) -> Message:
        if self.payload is None:
            return default
        data = alertmanager_data(notification, self.context.defaults.external_url, self.max_alerts)
        return replace(default, payload=_inferred(self.rendered(self.payload, data)))

    def request(self, event: Event) -> HttpRequest:
        url = self.target("url", rendered_secret(self, self.secret("url"), event))
        body = payload_of(event)
        if body is None:
            data = event.data if isinstance(event.data, Mapping) else {}
            body = webhook_body(data, self.context.defaults.external_url, self.max_alerts)
        return HttpRequest(url, body)


def _inferred(value: Any) -> Any:
    """Return plain data whose texts that are YAML of something else became that, as in Alertmanager.

    Unlike there, a text that comes from an alert is never a template.
    """
    if isinstance(value, str):
        yaml = read_yaml(value)
        return value if yaml.problems or isinstance(yaml.data, str) else _inferred(yaml.data)
    if isinstance(value, list):
        return [_inferred(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _inferred(item) for key, item in value.items()}
    return value
