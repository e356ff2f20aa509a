"""`opsgenie_configs`: Opsgenie's alert API. Apprise closes no alert that another process has opened."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import msgspec
from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.notification.channels import deduplication_key
from codomyrmex.integrations.notification.event_renderer import Message
from codomyrmex.integrations.notification.receivers.http_channel import (
    HttpReceiver,
    payload_of,
    url_problems,
)
from codomyrmex.integrations.notification.receivers.http_client import Answer, HttpRequest
from codomyrmex.integrations.notification.receivers.receiver_config import shortened
from codomyrmex.streaming import Event

_URL = "https://api.opsgenie.com/"
_MAX_MESSAGE = 130  # characters
_TYPES = ("team", "teams", "user", "escalation", "schedule")


class OpsgenieResponder(msgspec.Struct, kw_only=True, frozen=True):
    """Who is notified, by one of `id`, `name` and `username`."""

    id: str = ""
    name: str = ""
    username: str = ""
    type: str = ""


class OpsgenieConfig(HttpReceiver, kw_only=True, frozen=True):
    """An item of `opsgenie_configs`; its options are those of Alertmanager."""

    __literal__ = frozenset({"api_url"})
    __global__ = (
        {"api_key": "opsgenie_api_key", "api_key_file": "opsgenie_api_key_file"},
        {"api_url": "opsgenie_api_url"},
    )

    api_key: Secret = Secret()
    api_key_file: str = ""
    api_url: str = ""
    message: str = '{{ template "opsgenie.default.message" . }}'
    description: str = '{{ template "opsgenie.default.description" . }}'
    source: str = '{{ template "opsgenie.default.source" . }}'
    details: dict[str, str] = msgspec.field(default_factory=dict)
    entity: str = ""
    responders: list[OpsgenieResponder] = msgspec.field(default_factory=list)
    actions: str = ""
    tags: str = ""
    note: str = ""
    priority: str = ""
    update_alerts: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from self.required("api_key", "api_key_file")
        yield from url_problems(self, "api_url")
        for number, each in enumerate(self.responders):
            if not (each.id or each.name or each.username):
                yield f"responders[{number}]", "one of id, name and username is required"
            if "{{" not in each.type and each.type.lower() not in _TYPES:
                yield f"responders[{number}].type", f"must be one of {', '.join(_TYPES)}, got {each.type!r}"

    def sends_groups_separately(self) -> bool:
        return True

    def compose(self, notification: Mapping[str, Any], default: Message) -> Message:
        data = self.data(notification)
        texts = {
            name: self.rendered(getattr(self, name), data)
            for name in ("description", "source", "entity", "note", "priority")
        }
        payload = {
            "message": shortened(self.rendered(self.message, data), _MAX_MESSAGE),
            **{name: text for name, text in texts.items() if text or name == "source"},
            "details": {**data["commonLabels"], **self.rendered(self.details, data)},
            "responders": list(_responders(self.rendered(self.responders, data))),
            "tags": _listed(self.rendered(self.tags, data)),
            "actions": _listed(self.rendered(self.actions, data)),
        }
        return replace(default, payload={name: each for name, each in payload.items() if each != []})

    def requests(self, event: Event) -> list[HttpRequest]:
        body = payload_of(event)
        if not isinstance(body, Mapping):
            title, text = str(event.metadata.get("title")), event.metadata.get("body")
            body = {"message": shortened(title, _MAX_MESSAGE), "description": text, "source": ""}
        alias = deduplication_key(event.data)
        place = f"{self.target('api_url', Secret(self.api_url or _URL)).rstrip('/')}/v2/alerts"
        alert = f"{place}/{quote(alias, safe='')}"
        headers = {"Authorization": f"GenieKey {self.secret('api_key')}"}

        def request(url: str, body: Mapping[str, Any], method: str = "POST") -> HttpRequest:
            return HttpRequest(Secret(url), body, headers, method)

        if event.metadata.get("status") == "resolved":
            return [request(f"{alert}/close?identifierType=alias", {"source": body["source"]})]
        updated = [name for name in ("message", "description") if self.update_alerts and name in body]
        return [
            request(place, {"alias": alias, **body}),
            *(request(f"{alert}/{each}?identifierType=alias", {each: body[each]}, "PUT") for each in updated),
        ]

    def reason(self, answer: Answer) -> str:
        """Return the message of an answer."""
        try:
            return str(json.loads(answer.text)["message"])
        except (ValueError, TypeError, KeyError):
            return ""


def _responders(rendered: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Yield responders; `teams` stands for the teams in a list of names."""
    for each in rendered:
        if each.get("type", "").lower() == "teams":
            yield from ({"name": name, "type": "team"} for name in _listed(each.get("name", "")))
        elif len(each) > 1:
            yield {**each, "type": each.get("type", "").lower()}


def _listed(text: str) -> list[str]:
    return [item for item in text.strip().split(",") if item]
