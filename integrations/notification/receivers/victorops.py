"""`victorops_configs`: incidents of Splunk On-Call, formerly VictorOps, through Apprise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.notification.receivers.apprise_receiver import AppriseReceiver, apprise_url

_API_URL = "https://alert.victorops.com/integrations/generic/20131114/alert"


class VictoropsConfig(AppriseReceiver, kw_only=True, frozen=True):
    """An item of `victorops_configs`; its options are those of Alertmanager."""

    __title__ = "entity_display_name"
    __body__ = "state_message"
    __url_texts__ = ("routing_key",)
    __literal__ = frozenset({"api_url"})
    __ignored__: ClassVar[dict[str, str]] = {
        "custom_fields": "not sent here: Apprise has no such fields",
        "message_type": "not sent here: a firing alert is CRITICAL or WARNING by its severity",
        "monitoring_tool": "not sent here: the tool is Apprise",
    }
    __global__ = (
        {"api_key": "victorops_api_key", "api_key_file": "victorops_api_key_file"},
        {"api_url": "victorops_api_url"},
    )

    api_key: Secret = Secret()
    api_key_file: str = ""
    api_url: str = ""
    routing_key: str = ""
    state_message: str = '{{ template "victorops.default.state_message" . }}'
    entity_display_name: str = '{{ template "victorops.default.entity_display_name" . }}'

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from self.required("api_key", "api_key_file")
        yield from self.required("routing_key")

    def notes(self) -> Iterator[tuple[str, str]]:
        yield from super().notes()
        if self.api_url and self.api_url.rstrip("/") != _API_URL:
            yield "api_url", "not used here: incidents go to alert.victorops.com"

    @property
    def scheme(self) -> str:
        return "victorops"

    def url_of(self, texts: Mapping[str, Any]) -> str:
        key = self.secret("api_key")
        return apprise_url(
            "victorops", key, user=self.needed("routing_key", texts["routing_key"]), query={"action": "map"}
        )
