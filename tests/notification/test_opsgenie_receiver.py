"""`opsgenie_configs`: alerts are created, updated and closed under the hash of the group key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import in_time, until
from http_service import HttpService, Reply, http_service
from receivers import attempted, ends, fires, notifying, outcome, problems, receiver

ALIAS = hashlib.sha256(b'{}:{alertname="disk"}').hexdigest()
ACCEPTED = Reply(202, '{"result": "Request will be processed", "requestId": "r"}', "application/json")


@pytest.fixture
def service() -> Iterator[HttpService]:
    with http_service(ACCEPTED) as running_service:
        yield running_service


def genie(service: HttpService, **options: Any) -> dict[str, Any]:
    return receiver("opsgenie_configs", {"api_url": f"{service.url}/", "api_key": "k3y", **options})


@in_time
async def test_an_alert_is_created_with_all_options(service):
    options = {
        "message": "{{ .Status }}" + "x" * 200,
        "description": "{{ .CommonLabels.job }}",
        "source": "s",
        "entity": "{{ .CommonLabels.job }}",
        "priority": "P1",
        "note": "n",
        "tags": "a,{{ .CommonLabels.job }},",
        "actions": "restart",
        "details": {"k": "{{ .Status }}"},
        "responders": [
            {"name": "{{ .CommonLabels.job }}s", "type": "Team"},
            {"name": "x,y", "type": "teams"},
            {"username": "{{ .CommonLabels.missing }}", "type": "user"},
        ],
    }
    await outcome(genie(service, **options), fires("disk", labels={"job": "node"}))
    [received] = service.received
    assert (received.path, received.headers["Authorization"]) == ("/v2/alerts", "GenieKey k3y")
    body = received.json
    assert (len(body["message"]), body["message"][:7]) == (130, "firingx")
    assert {"alertname": "disk", "job": "node", "k": "firing"}.items() <= body.pop("details").items()
    assert body == {
        "alias": ALIAS,
        "message": body["message"],
        "description": "node",
        "source": "s",
        "entity": "node",
        "priority": "P1",
        "note": "n",
        "tags": ["a", "node"],
        "actions": ["restart"],
        "responders": [
            {"name": "nodes", "type": "team"},
            {"name": "x", "type": "team"},
            {"name": "y", "type": "team"},
        ],
    }


@in_time
async def test_a_resolution_closes_the_alert_under_its_alias(service):
    async with notifying(genie(service, update_alerts=True)) as run:
        await attempted(run)
        await run.publish(ends("disk"))
        await run.pass_time(300)
        await until(lambda: len(service.received) == 4)
    assert [each.path.replace(ALIAS, "ALIAS") for each in service.received] == [
        "/v2/alerts",
        "/v2/alerts/ALIAS/message?identifierType=alias",
        "/v2/alerts/ALIAS/description?identifierType=alias",
        "/v2/alerts/ALIAS/close?identifierType=alias",
    ]
    assert list(service.bodies[1]) == ["message"]
    assert list(service.bodies[3]) == ["source"]


@in_time
@pytest.mark.parametrize(("status", "dead"), [(429, 0), (503, 0), (422, 1), (401, 1)])
async def test_statuses_are_retried_or_given_up(service, status, dead):
    service.replies.append(Reply(status, '{"message": "Key format is not valid!"}', "application/json"))
    health = await outcome(genie(service))
    assert health.dead == dead
    assert "Key format is not valid!" in (health.last_error or "")
    assert "k3y" not in repr(health)


@in_time
async def test_what_a_template_cannot_render_is_sent_as_an_outline(service):
    await outcome(genie(service, entity="{{ index .Alerts 7 }}"))
    [body] = service.bodies
    assert (body["alias"], body["message"]) == (ALIAS, "disk")
    assert "1 FIRING" in body["description"]


@pytest.mark.parametrize(
    ("options", "path", "message"),
    [
        ({"api_key": ""}, "", "or as opsgenie_api_key in global"),
        ({"api_url": "x"}, ".api_url", "must begin with http"),
        ({"responders": [{"type": "team"}]}, ".responders[0]", "one of id, name"),
        ({"responders": [{"id": "x", "type": "y"}]}, ".responders[0].type", "got 'y'"),
        ({"tags": "{{ nope }}"}, ".tags", "nope"),
    ],
)
def test_problems_have_their_position(service, options, path, message):
    found = problems(genie(service, **options))
    assert message in found[f"receivers[0].opsgenie_configs[0]{path}"]
