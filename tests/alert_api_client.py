"""A client of `alert_api` for tests, with a sink whose clock the test advances."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
from alert_channels import Inbox, Running
from codomyrmex.integrations.configuration.matcher_text import parse_matchers
from codomyrmex.integrations.configuration.matchers import Op
from codomyrmex.integrations.web import alert_api
from prometheus_client.parser import text_string_to_metric_families as parse_text

JSON = {"content-type": "application/json"}
ADDRESS = "http://127.0.0.1:9093"


def config() -> dict[str, Any]:
    """Return a configuration with three receivers, a time interval and an inhibition rule."""
    return {
        "route": {
            "receiver": "default",
            "group_by": ["alertname"],
            "routes": [
                {"receiver": "team", "matchers": ["team=~a|both"], "continue": True},
                {
                    "receiver": "night",
                    "matchers": ["team=~night|both"],
                    "mute_time_intervals": ["always"],
                    "labels": {"owner": "n"},
                },
            ],
        },
        "receivers": [{"name": "default"}, {"name": "team"}, {"name": "night"}],
        "time_intervals": [
            {"name": "always", "time_intervals": [{"years": ["2000:2100"], "weekdays": ["sunday:saturday"]}]}
        ],
        "inhibit_rules": [
            {
                "source_matchers": ["severity=critical"],
                "target_matchers": ["severity=warning"],
                "equal": ["cluster"],
            }
        ],
    }


class AlertApiClient(Running):
    """A sink, its application, and a client of it."""

    def __init__(self, source: Any, channels: Any, options: Mapping[str, Any]) -> None:
        super().__init__(source, channels)
        self.app = alert_api(self.sink, clock=self.clock, **options)
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=True, client=("127.0.0.1", 1))
        self.http = httpx.AsyncClient(transport=transport, base_url=ADDRESS)

    def time(self, seconds: float = 0.0) -> str:
        """Return a time some seconds from now, as it is shown."""
        moment = datetime.fromtimestamp(self.clock.time() + seconds, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.http.request(method, f"/api/v2/{path}", **options)

    async def get(self, path: str) -> Any:
        response = await self.request("GET", path)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json"
        return response.json()

    async def names(self, path: str) -> list[str]:
        """Return the names of the alerts at a path, or in its groups."""
        items = await self.get(path)
        alerts = [alert for item in items for alert in item.get("alerts", [item])]
        return [alert["labels"]["alertname"] for alert in alerts]

    async def post_alerts(self, *alerts: Any, expected: int = 200) -> httpx.Response:
        response = await self.request("POST", "alerts", content=json.dumps(alerts), headers=JSON)
        assert response.status_code == expected, response.text
        return response

    async def add_silence(
        self, text: str, *, starts: float = 0.0, ends: float = 3600.0, **fields: Any
    ) -> str:
        matchers = [
            {
                "name": matcher.name,
                "value": matcher.value,
                "isRegex": matcher.op in {Op.REGEX, Op.NOT_REGEX},
                "isEqual": matcher.op in {Op.EQUAL, Op.REGEX},
            }
            for matcher in parse_matchers(text)
        ]
        body = {
            "matchers": matchers,
            "startsAt": self.time(starts),
            "endsAt": self.time(ends),
            "createdBy": "me",
            "comment": "why",
            **fields,
        }
        response = await self.request("POST", "silences", json=body)
        assert response.status_code == 200, response.text
        return str(response.json()["silenceID"])

    async def metrics(self) -> str:
        response = await self.http.get("/metrics")
        assert response.status_code == 200, response.text
        return response.text

    async def metric(self, name: str) -> float:
        """Return the only value of a metric."""
        [value] = [
            sample.value
            for family in parse_text(await self.metrics())
            for sample in family.samples
            if sample.name == name
        ]
        return value


@asynccontextmanager
async def api(
    source: Any = None, *, channels: Mapping[str, Inbox] | None = None, **options: Any
) -> AsyncIterator[AlertApiClient]:
    """Run a sink with its application; the options are those of `alert_api`."""
    names = ("default",) if channels is None else ()
    client = AlertApiClient(source or config(), channels or {name: Inbox() for name in names}, options)
    async with client.attachment, client.http:
        yield client
