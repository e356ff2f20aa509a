"""`pagerduty_configs`: the events that arrive at PagerDuty, and what its answers mean."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from codomyrmex.integrations import SinkState
from codomyrmex.integrations.notification.receivers import pagerduty
from helpers import in_time, until
from http_service import HttpService, Reply, http_service
from receivers import attempted, ends, fires, notifying, outcome, problems, receiver

KEY = "r0uting-key"
ACCEPTED = Reply(202, '{"status": "success"}', "application/json")


@pytest.fixture
def service() -> Iterator[HttpService]:
    with http_service(ACCEPTED) as running_service:
        yield running_service


def pager(service: HttpService, *, settings: Any = None, **options: Any) -> dict[str, Any]:
    config = receiver("pagerduty_configs", {"routing_key": KEY, **options})
    url = {"pagerduty_url": f"{service.url}/v2/enqueue", "external_url": "http://alerts"}
    return {**config, "global": {**config["global"], **url, **(settings or {})}}


def dedup_key(group_key: str) -> str:
    return hashlib.sha256(group_key.encode()).hexdigest()


@in_time
async def test_an_incident_is_triggered_and_resolved_under_the_hash_of_the_group_key(service):
    async with notifying(pager(service), fires("disk", labels={"job": "node"})) as run:
        assert (await attempted(run)).delivered == 1
        await run.publish(ends("disk", labels={"job": "node"}))
        await run.pass_time(300)
        await until(lambda: len(service.received) == 2)
    assert service.received[0].path == "/v2/enqueue"
    trigger, resolve = service.bodies
    details, summary = trigger["payload"].pop("custom_details"), trigger["payload"].pop("summary")
    assert summary.startswith("[FIRING:1] disk")
    assert trigger == {
        "routing_key": KEY,
        "event_action": "trigger",
        "dedup_key": dedup_key('{}:{alertname="disk"}'),
        "client": "Alertmanager",
        "client_url": "http://alerts/#/alerts?receiver=ops",
        "payload": {"source": "Alertmanager", "severity": "error"},
    }
    assert (details["num_firing"], details["num_resolved"], details["resolved"]) == ("1", "0", "")
    assert "job=node" in details["firing"]
    assert (resolve["event_action"], resolve["dedup_key"]) == ("resolve", trigger["dedup_key"])


@in_time
async def test_all_options_are_templates(service):
    options = {
        "client": "c",
        "client_url": "",
        "description": "{{ .Status }} " + "x" * 2_000,
        "severity": "{{ .CommonLabels.severity }}",
        "source": "{{ .CommonLabels.job }}",
        "class": "k",
        "component": "{{ .CommonLabels.missing }}",
        "group": "g",
        "details": {"firing": "no", "own": "{{ .Status }}", "tree": {"a": ["{{ .Status }}", 1]}},
        "images": [{"src": "http://{{ .Status }}"}, {"alt": "no source"}],
        "links": [{"href": "http://l", "text": "{{ .Status }}"}, {"text": "no target"}],
    }
    await outcome(pager(service, **options), fires("disk", labels={"job": "node", "severity": "critical"}))
    [body] = service.bodies
    details = body["payload"].pop("custom_details")
    assert (details["firing"], details["own"], details["tree"]) == ("no", "firing", {"a": ["firing", 1]})
    summary = body["payload"].pop("summary")
    assert (len(summary), summary[:7], summary[-1]) == (1024, "firing ", "\u2026")
    assert body["payload"] == {"source": "node", "severity": "critical", "class": "k", "group": "g"}
    assert body["images"] == [{"src": "http://firing", "alt": "", "href": ""}]
    assert body["links"] == [{"href": "http://l", "text": "firing"}]
    assert "client_url" not in body


@in_time
async def test_an_event_that_is_too_large_is_sent_without_its_details(service):
    await outcome(pager(service, details={str(n): "{{ .Status }}" + "x" * 60_000 for n in range(9)}))
    [body] = service.bodies
    assert list(body["payload"]["custom_details"]) == ["error"]
    assert len(service.received[0].body) < 512_000


@in_time
async def test_a_service_key_uses_version_1_of_the_api(service, monkeypatch):
    monkeypatch.setattr(pagerduty, "_URL_V1", f"{service.url}/v1")
    service.replies += [Reply(403), ACCEPTED]
    config = pager(service, routing_key="", service_key="s3rvice")
    async with notifying(config) as run:
        assert (await attempted(run)).state is SinkState.RETRYING
        await run.pass_time(2)
        await until(lambda: len(service.received) == 2)
    [_, body] = service.bodies
    assert service.received[0].path == "/v1"
    assert body.pop("details")["num_firing"] == "1"
    assert body.pop("description").startswith("[FIRING:1] disk")
    assert body == {
        "service_key": "s3rvice",
        "event_type": "trigger",
        "incident_key": dedup_key('{}:{alertname="disk"}'),
        "client": "Alertmanager",
        "client_url": "http://alerts/#/alerts?receiver=ops",
    }


@in_time
async def test_the_reason_of_a_refusal_is_shown_without_the_key(service):
    reason = (
        f'{{"status": "invalid event", "message": "Event object is invalid", "errors": ["no {KEY} here"]}}'
    )
    service.replies.append(Reply(400, reason, "application/json"))
    health = await outcome(pager(service))
    assert health.dead == 1
    assert "status 400: Event object is invalid: no [redacted] here" in (health.last_error or "")


@in_time
@pytest.mark.parametrize(("status", "dead"), [(429, 0), (500, 0), (400, 1), (403, 1)])
async def test_statuses_are_retried_or_given_up(service, status, dead):
    service.replies.append(Reply(status, "no JSON"))
    assert (await outcome(pager(service))).dead == dead


@in_time
async def test_a_summary_is_sent_as_one_event_for_each_group(service):
    config = pager(service, rate_limit="1/1h")
    async with notifying(config, fires("a")) as run:
        await attempted(run)
        await run.publish(fires("b"), fires("c"))
        await run.pass_time(30)
        assert len(service.received) == 1
        await run.pass_time(3600)
        await until(lambda: len(service.received) == 3)
    assert {body["dedup_key"] for body in service.bodies} == {
        dedup_key(f'{{}}:{{alertname="{name}"}}') for name in "abc"
    }


@in_time
async def test_what_a_template_cannot_render_is_sent_as_an_outline(service):
    async with notifying(pager(service, description="{{ index .Alerts 7 }}")) as run:
        await attempted(run)
        assert run.sink.statistics().unrendered == 1
    [body] = service.bodies
    assert (body["event_action"], body["payload"]["summary"]) == ("trigger", "disk")
    assert body["dedup_key"] == dedup_key('{}:{alertname="disk"}')
    assert "1 FIRING" in body["payload"]["custom_details"]["text"]


@in_time
async def test_a_key_can_be_a_template_or_in_a_file(service, tmp_path):
    (tmp_path / "key").write_text(" from-file\n")
    await outcome(pager(service, routing_key="", routing_key_file=str(tmp_path / "key")))
    await outcome(pager(service, routing_key="{{ .CommonLabels.key }}"), fires("disk", labels={"key": "k1"}))
    health = await outcome(pager(service, routing_key="{{ .CommonLabels.key }}"))
    assert [body["routing_key"] for body in service.bodies] == ["from-file", "k1"]
    assert "its routing_key is empty" in (health.last_error or "")


@pytest.mark.parametrize(
    ("options", "path", "message"),
    [
        ({"routing_key": ""}, "", "routing_key or routing_key_file"),
        ({"service_key": "x", "service_key_file": "x"}, ".service_key_file", "both given"),
        ({"url": "x"}, ".url", "must begin with http"),
        ({"details": {"a": "{{ nope }}"}}, ".details.a", "nope"),
        ({"routing_key": "{{ nope }}"}, ".routing_key", "nope"),
    ],
)
def test_problems_have_their_position(service, options, path, message):
    found = problems(pager(service, **options))
    assert message in found[f"receivers[0].pagerduty_configs[0]{path}"]
