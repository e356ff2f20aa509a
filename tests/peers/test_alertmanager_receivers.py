"""What Debian's Alertmanager sends to webhooks, Slack, PagerDuty and Opsgenie, and what is sent here."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from alertmanager_program import alertmanager
from codomyrmex.integrations import attach
from codomyrmex.integrations.notification import AlertConfigError, AlertSink, load_alert_config
from codomyrmex.streaming import EventType, InMemoryStream, create_event
from http_service import HttpService, Reply, http_service
from receiver_cases import DEFAULTS, RECEIVERS

ALERTMANAGER = shutil.which("prometheus-alertmanager")
PATIENCE = 20.0

TEMPLATES = """
{{ define "slack.default.username" }}bot{{ end }}
{{ define "slack.default.title" }}[{{ .Status }}] {{ .GroupLabels.alertname }} <&>{{ end }}
{{ define "slack.default.titlelink" }}{{ .ExternalURL }}{{ end }}
{{ define "slack.default.fallback" }}f{{ end }}
{{ define "slack.default.text" }}{{ range .Alerts }}{{ .Labels.instance }}={{ .Status }} {{ end }}{{ end }}
{{ define "pagerduty.default.description" }}{{ .CommonLabels.job }} {{ .CommonAnnotations.summary }}{{ end }}
{{ define "pagerduty.default.client" }}c{{ end }}
{{ define "pagerduty.default.clientURL" }}{{ .ExternalURL }}{{ end }}
{{ define "pagerduty.default.instances" }}{{ range . }}{{ .Labels.instance }},{{ end }}{{ end }}
"""
ALERTS = [
    {"alertname": "disk", "job": "node", "instance": "b:9100", "severity": "page"},
    {"alertname": "disk", "job": "node", "instance": "a:9100", "severity": "page", "extra": "x"},
    {"alertname": "disk", "severity": "page"},
    {"alertname": "disk", "instance": "z", "zone": "é 🙂", "severity": "page"},
]
ANNOTATIONS = [{"summary": "full <b>", "own": str(n)} for n in range(len(ALERTS))]
STARTS = [
    "2026-01-05T12:00:00Z",
    "2026-01-05T12:00:01.5Z",
    "2026-01-05T12:00:02.123456Z",
    "2026-01-05T12:00:03Z",
]
ENDED = "2026-01-05T12:30:00.25Z"


def configuration(service: HttpService, folder: Path) -> dict[str, Any]:
    """Return a file for both programs."""
    (folder / "texts.tmpl").write_text(TEMPLATES)
    slack = {
        "api_url": f"{service.url}/slack",
        "send_resolved": True,
        "channel": "#{{ .CommonLabels.severity }}",
        "fields": [
            {"title": "{{ .Status }}", "value": "{{ .Alerts | len }}", "short": True},
            {"title": "empty", "value": "{{ .CommonLabels.missing }}"},
        ],
        "actions": [
            {"type": "button", "text": "Go", "url": "{{ .ExternalURL }}", "name": "dropped"},
            {"type": "button", "text": "Ack", "name": "a", "confirm": {"text": "{{ .Status }}?"}},
        ],
        "short_fields": True,
    }
    pagerduty = {
        "routing_key": "{{ .CommonLabels.severity }}-key",
        "url": f"{service.url}/pagerduty",
        "details": {"own": "{{ .CommonAnnotations.summary }}"},
        "links": [{"href": "{{ .ExternalURL }}", "text": "t"}, {"text": "no target"}],
        "images": [{"src": "http://{{ .Status }}"}],
        "class": "{{ .CommonLabels.missing }}",
        "group": "g",
    }
    opsgenie = {
        "api_key": "key",
        "api_url": f"{service.url}/opsgenie/",
        "message": "{{ .CommonLabels.severity }}",
        "description": "{{ .CommonAnnotations.summary }}",
        "source": "{{ .ExternalURL }}",
        "priority": "P{{ len .Alerts.Firing }}",
        "tags": "a, {{ .Status }}",
        "details": {"own": "{{ .Status }}"},
        "responders": [{"name": "x,y", "type": "teams"}, {"username": "{{ .Status }}", "type": "user"}],
        "note": "n",
        "entity": "{{ .CommonLabels.missing }}",
        "actions": "restart,stop",
    }
    hooks = [{"url": f"{service.url}/hook"}, {"url": f"{service.url}/two", "max_alerts": 2}]
    receiver = {"webhook_configs": hooks, "slack_configs": [slack], "pagerduty_configs": [pagerduty]}
    receiver["opsgenie_configs"] = [opsgenie]
    times = {"group_wait": "300ms", "group_interval": "1s", "repeat_interval": "1h"}
    return {
        "route": {"receiver": "all.of(them)", "group_by": ["alertname"], **times},
        "receivers": [{"name": "all.of(them)", **receiver}],
        "templates": [str(folder / "*.tmpl")],
    }


def wait_for(service: HttpService, count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while len(service.received) < count:
        assert time.monotonic() < deadline, [each.path for each in service.received]
        time.sleep(0.02)


def sent_by_alertmanager(folder: Path, service: HttpService, external_url: str) -> None:
    def alert(number: int, **more: Any) -> dict[str, Any]:
        given = {"labels": ALERTS[number], "annotations": ANNOTATIONS[number], "startsAt": STARTS[number]}
        return {**given, "generatorURL": f"http://prom/{number}", **more}

    def post(client: httpx.Client, alerts: list[dict[str, Any]]) -> None:
        answer = client.post("/api/v2/alerts", json=alerts)
        assert answer.is_success, answer.text

    config = configuration(service, folder)
    urls = (f"--web.external-url={external_url}", "--web.route-prefix=/")
    with alertmanager(ALERTMANAGER, folder, config, *urls) as client:
        post(client, [alert(number) for number in range(len(ALERTS))])
        wait_for(service, 5)
        post(client, [alert(1, endsAt=ENDED)])
        wait_for(service, 10)
        post(client, [alert(number, endsAt=ENDED) for number in (0, 2, 3)])
        wait_for(service, 15)


async def sent_here(folder: Path, service: HttpService, external_url: str) -> None:
    config = {
        **configuration(service, folder),
        "global": {"external_url": external_url},
        "labels": sorted({name for labels in ALERTS for name in labels}),
    }
    stream = InMemoryStream()

    def event(number: int, **more: Any) -> Any:
        given = {"annotations": ANNOTATIONS[number], "starts_at": STARTS[number]}
        link = {"generator_url": f"http://prom/{number}"}
        return create_event(None, EventType.ERROR, **ALERTS[number], **given, **link, **more)

    async with attach(stream, AlertSink(config)):
        for number in range(len(ALERTS)):
            await stream.publish(event(number))
        await asyncio.to_thread(wait_for, service, 5)
        await stream.publish(event(1, status="resolved", ends_at=ENDED))
        await asyncio.to_thread(wait_for, service, 10)
        for number in (0, 2, 3):
            await stream.publish(event(number, status="resolved", ends_at=ENDED))
        await asyncio.to_thread(wait_for, service, 15)


def by_path(service: HttpService) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for each in service.received:
        assert each.headers["Content-Type"] == "application/json"
        found.setdefault(each.path, []).append(each.json)
    return found


# What Debian's amtool accepts, but newer versions or the server itself do not, or only when it is sent.
REFUSED_HERE = {"{tls_config: {cert_file: b}}", "{{ nope }}"}
# What it does not know yet, and what is only checked here where a receiver uses it.
ACCEPTED_HERE = {
    *("bot_token_file", "user_key_file", "custom_fields: {routing_key"),
    *("{slack_api_url: h}", "{smtp_smarthost: h}"),
}


def test_receivers_load_if_amtool_accepts_them(tmp_path):
    amtool = shutil.which("amtool")
    check_present(amtool)
    cases = []
    for line in RECEIVERS.strip().splitlines():
        key, _, options = line.partition(": ")
        cases.append(f"route: {{receiver: a}}\nreceivers:\n- name: a\n  {key}_configs:\n  - {options}\n")
    rest = "route: {receiver: a}\nreceivers: [{name: a}]\n"
    cases += [f"global: {line}\n{rest}" for line in DEFAULTS.strip().splitlines()]

    def is_accepted(number: int) -> bool:
        file = tmp_path / f"{number}.yml"
        file.write_text(cases[number])
        answer = subprocess.run([str(amtool), "check-config", file], capture_output=True, check=False)
        return answer.returncode == 0

    with ThreadPoolExecutor(2) as pool:
        accepted = list(pool.map(is_accepted, range(len(cases))))
    assert len(cases) > 100
    assert 40 < sum(accepted) < len(cases) - 40
    differences = []
    for case, is_valid in zip(cases, accepted, strict=True):
        known = REFUSED_HERE if is_valid else ACCEPTED_HERE
        try:
            load_alert_config(case, environ={})
        except AlertConfigError as error:
            differs, reason = is_valid, str(error)
        else:
            differs, reason = not is_valid, "it loads here"
        if differs and not any(text in case for text in known):
            differences.append((case, reason))
    assert differences == []


def check_present(program: str | None) -> None:
    """Skip on a person's machine where Alertmanager is absent; fail in CI, which installs it."""
    if program is None:
        what = "Debian's prometheus-alertmanager"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{what} is absent, and CI should have installed it")
        pytest.skip(f"{what} is not installed here")


async def test_webhooks_slack_pagerduty_and_opsgenie_get_what_alertmanager_sends(tmp_path):
    check_present(ALERTMANAGER)
    external_url = "http://alerts.example:9093"
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    with http_service(Reply(body="ok")) as theirs, http_service(Reply(body="ok")) as ours:
        await asyncio.to_thread(sent_by_alertmanager, there, theirs, external_url)
        await sent_here(here, ours, external_url)
        expected, got = by_path(theirs), by_path(ours)
    for path in ("/hook", "/two"):
        newer = [(each.pop("notification_reason"), each.pop("routeLabels")) for each in got[path]]
        reasons = ["first notification", "some alerts resolved", "all alerts resolved"]
        assert newer == [(reason, {}) for reason in reasons]
    assert got.keys() == expected.keys()
    for path, bodies in expected.items():
        assert got[path] == bodies, (path, got[path], bodies)
    assert [each["event_action"] for each in got["/pagerduty"]] == ["trigger", "trigger", "resolve"]
