"""Webhooks of Alertmanager and Grafana: each alert becomes an event."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from alert_channels import WAIT, Inbox, routing, running
from codomyrmex.integrations.pipelines import Pipeline, load_pipeline_config
from codomyrmex.integrations.web import event_ingest, require_token
from codomyrmex.streaming import Event, EventType, InMemoryStream
from helpers import in_time

NOT_SET = "0001-01-01T00:00:00Z"
FIRING = {
    "status": "firing",
    "labels": {"alertname": "DiskFull", "host": "db-1"},
    "annotations": {"summary": "2 % left"},
    "startsAt": "2026-01-05T11:59:00.123456789Z",
    "endsAt": NOT_SET,
    "generatorURL": "http://prometheus.test/graph",
    "fingerprint": "0123456789abcdef",
}
RESOLVED = {**FIRING, "status": "resolved", "endsAt": "2026-01-05T11:59:30Z"}
ALERTMANAGER = {
    "version": "4",
    "groupKey": '{}:{alertname="DiskFull"}',
    "truncatedAlerts": 0,
    "status": "firing",
    "receiver": "hook",
    "groupLabels": {"alertname": "DiskFull"},
    "commonLabels": FIRING["labels"],
    "commonAnnotations": {},
    "externalURL": "http://alertmanager.test",
}
GRAFANA = {
    **ALERTMANAGER,
    "version": "1",
    "orgId": 1,
    "title": "[FIRING:1] DiskFull",
    "state": "alerting",
    "message": "**Firing**",
}


def webhook(*alerts: Any, **more: Any) -> dict[str, Any]:
    return {**ALERTMANAGER, "alerts": list(alerts), **more}


async def post(app: Any, body: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.post("/", content=body if isinstance(body, bytes) else json.dumps(body))


async def events_of(body: Any, **options: Any) -> tuple[Any, list[Event]]:
    stream = InMemoryStream()
    answer = await post(event_ingest(stream, **options), body)
    return answer, stream.get_recent_events(100)


@in_time
async def test_each_alert_is_an_event():
    answer, events = await events_of(webhook(FIRING, RESOLVED))
    assert answer.status_code == 202
    assert answer.json()["ids"] == [event.id for event in events]
    firing, resolved = events
    assert (firing.topic, firing.type, firing.data) == ("alerts", EventType.ERROR, "2 % left")
    assert firing.metadata == {
        "topic": "alerts",
        "labels": FIRING["labels"],
        "annotations": FIRING["annotations"],
        "status": "firing",
        "starts_at": FIRING["startsAt"],
        "generator_url": FIRING["generatorURL"],
    }
    assert (resolved.type, resolved.metadata["ends_at"]) == (EventType.MESSAGE, RESOLVED["endsAt"])


@in_time
async def test_what_grafana_adds_is_in_the_annotations():
    alert = {
        **FIRING,
        "values": {"A": 98.5},
        "valueString": "[ var='A' value=98.5 ]",
        "dashboardURL": "https://grafana.test/d/1",
        "panelURL": "",
        "silenceURL": "https://grafana.test/silence",
        "imageURL": None,
    }
    answer, [event] = await events_of({**GRAFANA, "alerts": [alert]}, alert_topic="grafana")
    assert (answer.status_code, event.topic) == (202, "grafana")
    assert event.metadata["annotations"] == {
        "summary": "2 % left",
        "dashboard_url": "https://grafana.test/d/1",
        "silence_url": "https://grafana.test/silence",
        "values": "[ var='A' value=98.5 ]",
    }


@in_time
async def test_an_alert_sink_notifies_about_them():
    inbox = Inbox()
    async with running(routing(), {"ops": inbox}) as run:
        app = event_ingest(run.stream)
        await post(app, webhook(FIRING))
        await run.sink.flush()
        [group] = await run.sink.groups()
        assert group.alerts[0].starts_at == pytest.approx(run.clock.time() - 60, abs=0.2)
        await run.pass_time(WAIT)
        await post(app, webhook(RESOLVED))
        await run.pass_time(300)
    assert inbox.summaries == ["firing: DiskFull", "resolved: DiskFull"]


@pytest.mark.parametrize(
    ("alert", "problem"),
    [
        ("text", "alert: must be a mapping"),
        ({}, "labels: must not be empty"),
        ({"labels": {"a": ""}, "status": "odd"}, "status: must be 'firing' or 'resolved', got 'odd'"),
        ({"labels": {"a": 1}, "status": "firing"}, "labels: must be a mapping of texts"),
        ({"labels": [], "status": "firing"}, "labels: must not be empty"),
        ({"labels": {"a": "b"}, "annotations": "x", "status": "firing"}, "annotations: must be a mapping"),
        ({"labels": {"a": "b" * 300_000}, "status": "firing"}, "too large"),
    ],
)
@in_time
async def test_an_invalid_alert_does_not_affect_the_others(alert, problem):
    answer, events = await events_of(webhook(FIRING, alert, RESOLVED))
    assert (answer.status_code, len(events)) == (202, 2)
    [error] = answer.json()["errors"]
    assert error["index"] == 1
    assert problem in error["error"]


@in_time
async def test_alerts_are_bounded_and_authorized_like_events():
    answer, events = await events_of(webhook(*[FIRING] * 11), max_events=10)
    assert (answer.status_code, events) == (413, [])
    answer, events = await events_of(webhook(), max_events=10)
    assert (answer.status_code, events) == (202, [])
    answer, events = await events_of(webhook(FIRING), authorize=require_token("secret", topics="orders.>"))
    assert (answer.status_code, events) == (401, [])


@pytest.mark.parametrize(
    "body",
    [
        b'{"alerts": 1}',
        b'{"alerts": [',
        b'{"data": {"alerts": []}}',
        b"[]",
        b"",
        b'{"alerts":' + b"[" * 100_000,
        b"\xff",
    ],
)
@in_time
async def test_only_webhooks_are_accepted_with_alerts_only(body):
    answer, events = await events_of(body, alerts_only=True)
    assert (answer.status_code, events) == (400, [])
    assert answer.json()["error"] == "the body must be a webhook of Alertmanager or Grafana"


@in_time
async def test_an_event_whose_data_has_alerts_stays_one_event():
    _, [event] = await events_of({"data": {"alerts": [FIRING]}})
    assert event.data == {"alerts": [FIRING]}
    _, [event] = await events_of({"type": "message", "alerts": [FIRING]})
    assert event.data is None


@in_time
async def test_a_pipeline_has_them_as_a_source(tmp_path):
    out, file = tmp_path / "out.jsonl", tmp_path / "pipeline.yaml"
    source = {"type": "alertmanager_webhook", "listen": "127.0.0.1:0", "metadata": {"site": "fra"}}
    sink = {"type": "jsonl", "path": str(out), "delivery": {"batch_age": "1ms"}}
    file.write_text(json.dumps({"sources": [source], "sinks": [sink]}), encoding="utf-8")
    async with Pipeline(load_pipeline_config(file)) as pipeline, httpx.AsyncClient() as client:
        [url] = pipeline.urls().values()
        answer = await client.post(url, json=webhook(FIRING))
        assert (answer.status_code, len(answer.json()["ids"])) == (202, 1)
        assert (await client.post(url, json={"data": 1})).status_code == 400
    [event] = map(json.loads, out.read_text("utf-8").splitlines())
    assert (event["data"], event["metadata"]["topic"], event["metadata"]["site"]) == (
        "2 % left",
        "alerts",
        "fra",
    )
