"""`incidentio_configs`: alerts of incident.io, through Apprise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.notification.event_renderer import Message
from codomyrmex.integrations.notification.receivers.apprise_receiver import AppriseReceiver, apprise_url


class IncidentioConfig(AppriseReceiver, kw_only=True, frozen=True):
    """An item of `incidentio_configs`; its options are those of Alertmanager."""

    __authorized__ = True
    __ignored__: ClassVar[dict[str, str]] = {
        "max_alerts": "not used here: an alert has the default title and text",
        "metadata": "not sent here: an alert has the default title and text",
    }

    url: Secret = Secret()
    url_file: str = ""
    alert_source_token: Secret = Secret()
    alert_source_token_file: str = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from self.required("url", "url_file")
        if self.http_config is None or self.http_config.authorization is None:
            yield from self.required("alert_source_token", "alert_source_token_file")

    @property
    def scheme(self) -> str:
        return "incidentio"

    def compose(self, notification: Mapping[str, Any], default: Message) -> Message:  # noqa: ARG002
        return default

    def url_of(self, texts: Mapping[str, Any]) -> str:  # noqa: ARG002 - nothing is a template
        source = urlsplit(self.secret("url")).path.rstrip("/").rpartition("/")[2]
        token = self.secret("alert_source_token") or self.authorization()
        return apprise_url("incidentio", source, query={"action": "map", "token": token})
