"""Requests that schemathesis makes from the description of the API, valid and invalid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import schemathesis
import yaml
from codomyrmex.integrations import attach
from codomyrmex.integrations.notification import AlertSink
from codomyrmex.integrations.web import alert_api
from codomyrmex.streaming import InMemoryStream
from helpers import LoopThread
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

DESCRIPTION = Path(__file__).parent.parent / "alert_api.openapi.yaml"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
CONFIG = "route: {receiver: nobody, group_by: [alertname]}\nreceivers: [{name: nobody}]\n"
HOST = "http://localhost"
ALERT = {"labels": {"alertname": "Firing"}, "startsAt": "2020-01-01T00:00:00Z"}
SILENCE = {
    "matchers": [{"name": "alertname", "value": "Firing", "isRegex": False}],
    "startsAt": "2020-01-01T00:00:00Z",
    "endsAt": "2099-01-01T00:00:00Z",
    "createdBy": "ann",
    "comment": "",
}
OPERATIONS = {
    operation.label: operation
    for operation in (
        each.ok()
        for each in schemathesis.openapi.from_dict(
            yaml.safe_load(DESCRIPTION.read_text())
        ).get_all_operations()
    )
}


class App:
    """The application in this process, with an alert and a silence."""

    def __init__(self, loop: LoopThread) -> None:
        self._loop = loop
        sink = AlertSink(CONFIG)
        self._attachment = attach(InMemoryStream(), sink)
        loop.run(self._attachment.start())
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(alert_api(sink)), base_url=HOST)
        assert self.request("POST", "/api/v2/alerts", json=[ALERT]).is_success
        silence = self.request("POST", "/api/v2/silences", json=SILENCE)
        self.silence = silence.json()["silenceID"]

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        return self._loop.run(self._client.request(method, url, **options))

    def send(self, case: Any) -> httpx.Response:
        made = requests.Request(**case.as_transport_kwargs(base_url=HOST)).prepare()
        body = made.body.encode() if isinstance(made.body, str) else made.body
        # HTTP has only these characters in headers; no server receives others.
        headers = {name: value for name, value in made.headers.items() if str(value).isascii()}
        return self.request(str(made.method), str(made.url), content=body, headers=headers)

    def close(self) -> None:
        self._loop.run(self._client.aclose())
        self._loop.run(self._attachment.aclose(0))


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    with LoopThread() as loop:
        running = App(loop)
        yield running
        running.close()


@pytest.mark.parametrize(
    ("label", "mode"),
    [
        (label, mode)
        for label in OPERATIONS
        for mode in GenerationMode
        if (label, mode) != ("GET /api/v2/status", GenerationMode.NEGATIVE)  # it has nothing to get wrong
    ],
    ids=lambda value: getattr(value, "value", value),
)
def test_every_response_is_as_described(app, label, mode):
    @seed(1)
    @settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(OPERATIONS[label].as_strategy(mode))
    def check(case: Any) -> None:
        case.validate_response(app.send(case), checks=CHECKS)

    check()


def test_the_known_alert_and_silence_are_as_described(app):
    for label in ("GET /api/v2/alerts", "GET /api/v2/alerts/groups", "GET /api/v2/silences"):
        case = OPERATIONS[label].Case()
        answer = app.send(case)
        assert answer.json(), label
        case.validate_response(answer, checks=CHECKS)
    case = OPERATIONS["GET /api/v2/silence/{id}"].Case(path_parameters={"id": app.silence})
    case.validate_response(app.send(case), checks=CHECKS)
