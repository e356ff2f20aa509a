"""`pagerduty_configs`: PagerDuty's Events API, version 2, and version 1 for a `service_key`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.notification.channels import (
    ChannelPermanentError,
    deduplication_key,
    is_retryable,
)
from codomyrmex.integrations.notification.event_renderer import Message
from codomyrmex.integrations.notification.receivers.http_channel import (
    HttpReceiver,
    payload_of,
    rendered_secret,
    url_problems,
)
from codomyrmex.integrations.notification.receivers.http_client import Answer, HttpRequest
from codomyrmex.integrations.notification.receivers.receiver_config import shortened
from codomyrmex.streaming import Event

_URL = Secret("https://events.pagerduty.com/v2/enqueue")
_URL_V1 = Secret("https://events.pagerduty.com/generic/2010-04-15/create_event.json")
_MAX_SUMMARY = 1024  # characters
_MAX_EVENT = 512_000  # bytes
_TOO_LARGE = {"error": "the details are left out, as the event would be larger than 512 kB"}
_FORBIDDEN = 403  # a rate limit in version 1
_DETAILS = {
    "firing": '{{ template "pagerduty.default.instances" .Alerts.Firing }}',
    "resolved": '{{ template "pagerduty.default.instances" .Alerts.Resolved }}',
    "num_firing": "{{ .Alerts.Firing | len }}",
    "num_resolved": "{{ .Alerts.Resolved | len }}",
}


class PagerdutyImage(msgspec.Struct, kw_only=True, frozen=True):
    """An image of an incident."""

    src: str = ""
    alt: str = ""
    href: str = ""


class PagerdutyLink(msgspec.Struct, kw_only=True, frozen=True):
    """A link of an incident."""

    href: str = ""
    text: str = ""


class PagerdutyConfig(HttpReceiver, kw_only=True, frozen=True):
    """An item of `pagerduty_configs`; its options are those of Alertmanager.

    Args:
        routing_key: the key of an integration of the Events API v2; may be a template.
        service_key: the key of one of version 1.
    """

    __secret_templates__ = frozenset({"routing_key", "service_key"})
    __global__ = ({"url": "pagerduty_url"},)

    service_key: Secret = Secret()
    service_key_file: str = ""
    routing_key: Secret = Secret()
    routing_key_file: str = ""
    url: Secret = Secret()
    client: str = '{{ template "pagerduty.default.client" . }}'
    client_url: str = '{{ template "pagerduty.default.clientURL" . }}'
    description: str = '{{ template "pagerduty.default.description" . }}'
    details: dict[str, Any] = msgspec.field(default_factory=dict)
    images: list[PagerdutyImage] = msgspec.field(default_factory=list)
    links: list[PagerdutyLink] = msgspec.field(default_factory=list)
    source: str = ""
    severity: str = "error"
    class_: str = msgspec.field(default="", name="class")
    component: str = ""
    group: str = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from self.required("routing_key", "routing_key_file", "service_key", "service_key_file")
        yield from url_problems(self, "url")

    def templates(self) -> Iterator[tuple[str, str]]:
        yield from super().templates()
        yield from ((f"details.{name}", text) for name, text in _DETAILS.items())

    def sends_groups_separately(self) -> bool:
        return True

    @property
    def _is_v1(self) -> bool:
        return bool(self.service_key or self.service_key_file)

    def compose(self, notification: Mapping[str, Any], default: Message) -> Message:
        data = self.data(notification)
        key = deduplication_key(notification)
        details = {name: self.rendered(value, data) for name, value in {**_DETAILS, **self.details}.items()}
        texts = {
            name: self.rendered(getattr(self, name), data)
            for name in ("client", "client_url", "description", "severity", "class_", "component", "group")
        }
        summary = shortened(texts["description"], _MAX_SUMMARY)
        action = "trigger" if data["status"] == "firing" else "resolve"
        if self._is_v1:
            event = {
                "event_type": action,
                "incident_key": key,
                "description": summary,
                **(
                    {"client": texts["client"], "client_url": texts["client_url"]}
                    if action == "trigger"
                    else {}
                ),
                "details": details,
            }
        else:
            event = {
                "event_action": action,
                "dedup_key": key,
                "client": texts["client"],
                "client_url": texts["client_url"],
                "images": self._items(self.images, "src", data),
                "links": self._items(self.links, "href", data),
                "payload": {
                    "summary": summary,
                    "source": self.rendered(self.source or self.client, data),
                    "severity": texts["severity"] or "error",
                    "class": texts["class_"],
                    "component": texts["component"],
                    "group": texts["group"],
                    "custom_details": details,
                },
            }
        return replace(default, payload=_bounded(_without_empty(event)))

    def _items(
        self, items: Sequence[PagerdutyImage | PagerdutyLink], needed: str, data: Mapping[str, Any]
    ) -> list[dict[str, str]]:
        """Return images or links with all their keys, unless one of them is empty."""
        rendered = (
            {**dict.fromkeys(each.__struct_fields__, ""), **self.rendered(each, data)} for each in items
        )
        return [each for each in rendered if each[needed]]

    def request(self, event: Event) -> HttpRequest:
        body = payload_of(event)
        if not isinstance(body, Mapping):
            body = self._outline(event)
        name = "service_key" if self._is_v1 else "routing_key"
        key = rendered_secret(self, self.secret(name), event)
        if not key:
            raise ChannelPermanentError(f"channel {self.name}: its {name} is empty")
        url = _URL_V1 if self._is_v1 else self.target("url", self.url or _URL)
        return HttpRequest(url, {name: str(key), **body})

    def _outline(self, event: Event) -> dict[str, Any]:
        """Return what can be said without templates."""
        is_firing = event.metadata.get("status") != "resolved"
        action, key = "trigger" if is_firing else "resolve", deduplication_key(event.data)
        summary = shortened(str(event.metadata.get("title") or event.metadata.get("receiver")), _MAX_SUMMARY)
        details = {"text": event.metadata.get("body")}
        if self._is_v1:
            return {"event_type": action, "incident_key": key, "description": summary, "details": details}
        payload = {"summary": summary, "source": "alerts", "severity": "error", "custom_details": details}
        return _without_empty({"event_action": action, "dedup_key": key, "payload": payload})

    def retries(self, answer: Answer) -> bool:
        return is_retryable(answer.status) or (self._is_v1 and answer.status == _FORBIDDEN)

    def reason(self, answer: Answer) -> str:
        """Return the message and the errors of an answer, but not the key that they may contain."""
        try:
            content = json.loads(answer.text)
            errors = [str(each) for each in content.get("errors") or ()]
            text = ": ".join(filter(None, (str(content.get("message") or ""), ", ".join(errors))))
        except (ValueError, TypeError, AttributeError):
            return ""
        for secret in (self.routing_key, self.service_key):
            text = text.replace(secret, "[redacted]") if secret else text
        return text


def _without_empty(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event without empty texts and lists, as Alertmanager sends it."""
    shown = {name: _without_empty(each) if name == "payload" else each for name, each in event.items()}
    always = {"event_action", "severity", "source", "summary"}
    return {name: each for name, each in shown.items() if name in always or each not in ("", [], {})}


def _bounded(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event that PagerDuty accepts: without its details if it is too large."""
    if len(json.dumps(event, ensure_ascii=False).encode(errors="replace")) <= _MAX_EVENT:
        return event
    if "payload" in event:
        return {**event, "payload": {**event["payload"], "custom_details": _TOO_LARGE}}
    return {**event, "details": _TOO_LARGE}
