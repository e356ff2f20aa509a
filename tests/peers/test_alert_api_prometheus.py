"""`alerts serve` behind a real Prometheus, beside Debian's Alertmanager, and after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alert_servers import Server, debians, ours, program, wait_for, write
from durable.servers import free_port
from http_service import HttpService, Reply, http_service

EXTERNAL = "http://alerts.example.com/am"
RULES = """
groups:
- name: shop
  rules:
  - alert: Broken
    expr: broken == 1
    labels: {severity: page, text: '{{ $labels.shelf }}, "quoted" = {{ $value }}'}
    annotations: {summary: 'shelf {{ $labels.shelf }} is broken: é'}
"""


def config(url: str) -> dict[str, Any]:
    return {
        "route": {
            "receiver": "hook",
            "group_by": ["alertname", "severity"],
            "group_wait": "500ms",
            "group_interval": "1s",
            "routes": [{"matchers": ['severity=~"page|ticket"'], "receiver": "hook"}],
        },
        "receivers": [{"name": "hook", "webhook_configs": [{"url": url}]}],
    }


def metrics(**values: int) -> Reply:
    lines = [f'broken{{shelf="{name}"}} {value}\n' for name, value in values.items()]
    return Reply(body="".join(lines), type="text/plain; version=0.0.4")


@contextmanager
def prometheus(folder: Path, target: HttpService, servers: list[Server]) -> Iterator[None]:
    """Run a Prometheus that scrapes a target and posts to these servers."""
    (folder / "rules.yml").write_text(RULES)
    scraped = [{"targets": [f"127.0.0.1:{target.server_port}"]}]
    (folder / "prometheus.yml").write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "200ms", "evaluation_interval": "200ms"},
                "scrape_configs": [{"job_name": "shop", "static_configs": scraped}],
                "rule_files": ["rules.yml"],
                "alerting": {
                    "alertmanagers": [{"static_configs": [{"targets": [each.address for each in servers]}]}]
                },
            }
        )
    )
    command = [
        *(program("prometheus"), "--config.file=prometheus.yml", f"--storage.tsdb.path={folder / 'data'}"),
        f"--web.listen-address=127.0.0.1:{free_port()}",
    ]
    with (
        (folder / "prometheus.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as process,
    ):
        try:
            yield
        finally:
            process.kill()


def sent_to(hook: HttpService, path: str) -> list[dict[str, Any]]:
    return [each.json for each in list(hook.received) if each.path == path]


@pytest.fixture
def hook() -> Iterator[HttpService]:
    with http_service() as service:
        yield service


def test_a_prometheus_with_three_servers_causes_the_same_notifications_once(tmp_path, hook):
    for name in ("ours", "debians", "prometheus"):
        (tmp_path / name).mkdir()
    file = write(tmp_path / "ours", config(f"{hook.url}/ours"))
    options = (f"--external-url={EXTERNAL}", "--path-prefix=/", "--state=alerts.db")
    theirs = debians(
        write(tmp_path / "debians", config(f"{hook.url}/debians")),
        f"--web.external-url={EXTERNAL}",
        "--web.route-prefix=/",
    )

    def received(count: int) -> Callable[[], bool]:
        return lambda: len(sent_to(hook, "/ours")) >= count and len(sent_to(hook, "/debians")) >= count

    with theirs, ours(file, *options) as one, ours(file, *options) as two, http_service() as target:
        target.default = metrics(a=1, b=1, c=0)
        with prometheus(tmp_path / "prometheus", target, [one, theirs, two]):
            wait_for(received(1), lambda: hook.received)
            target.default = metrics(a=0, b=1, c=0)
            wait_for(received(2), lambda: hook.received)
            target.default = metrics(a=0, b=0, c=0)
            wait_for(received(3), lambda: hook.received)
        assert [each.terminate() for each in (one, two)] == [0, 0]
    here, there = sent_to(hook, "/ours"), sent_to(hook, "/debians")
    states = [[(each["labels"]["shelf"], each["status"]) for each in body["alerts"]] for body in there]
    assert states == [
        [("a", "firing"), ("b", "firing")],
        [("a", "resolved"), ("b", "firing")],
        [("b", "resolved")],
    ]
    known = there[0].keys()  # later versions than Debian's have more
    assert [{key: body[key] for key in known} for body in here] == there


def test_silences_and_the_notification_log_survive_a_kill(tmp_path, hook):
    file = write(tmp_path, config(f"{hook.url}/hook"))
    silence = {
        "matchers": [{"name": "severity", "value": "ticket", "isRegex": False, "isEqual": True}],
        "startsAt": "2020-01-01T00:00:00Z",
        "endsAt": "2099-01-01T00:00:00Z",
        "createdBy": "ann",
        "comment": "kept",
    }

    def alert(name: str, **labels: str) -> dict[str, Any]:
        return {"labels": {"alertname": name, **labels}, "startsAt": "2020-01-01T00:00:00Z"}

    def sent() -> list[tuple[str, str]]:
        return [(body["groupLabels"]["alertname"], body["status"]) for body in sent_to(hook, "/hook")]

    server = ours(file, environment={"CODOMYRMEX_STATE": str(tmp_path / "alerts.db")})
    with server:
        identity = server.client.post("/api/v2/silences", json=silence).json()["silenceID"]
        server.post([alert("First"), alert("Muted", severity="ticket")])
        wait_for(lambda: sent() == [("First", "firing")], sent)
        # What is being sent during a kill is sent again; before the next is sent, the log has the last.
        server.post([alert("Next")])
        wait_for(lambda: ("Next", "firing") in sent(), sent)
        server.kill()
        server.start()
        [kept] = server.get("silences")
        assert (kept["id"], kept["comment"], kept["status"]) == (identity, "kept", {"state": "active"})
        # As Prometheus does; had the log been lost, the group would be notified again before it is resolved.
        server.post([alert("First"), alert("Muted", severity="ticket"), alert("Later")])
        wait_for(lambda: ("Later", "firing") in sent(), sent)
        server.post([{**alert("First"), "endsAt": "2021-01-01T00:00:00Z"}])
        wait_for(lambda: ("First", "resolved") in sent(), sent)
        assert server.terminate() == 0
    own = [each for each in sent() if each[0] != "Next"]
    assert own == [("First", "firing"), ("Later", "firing"), ("First", "resolved")]
    assert "are lost when this process ends" not in server.log


def test_sighup_reloads_and_an_invalid_file_changes_nothing(tmp_path, hook):
    file = write(tmp_path, config(hook.url))
    with ours(file, "--no-watch") as server:
        assert server.process is not None
        assert [each["name"] for each in server.get("receivers")] == ["hook"]
        file.write_text("route: {receiver: nobody}\n")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "no receiver" in server.log or "nobody" in server.log, lambda: server.log)
        assert server.client.post("/-/reload").status_code == 500
        assert [each["name"] for each in server.get("receivers")] == ["hook"]
        file.write_text("route: {receiver: other}\nreceivers: [{name: other}]\n")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: [each["name"] for each in server.get("receivers")] == ["other"])
        assert "are lost when this process ends" in server.log
        assert server.terminate() == 0
    assert "Traceback" not in server.log


def test_promtool_accepts_the_metrics_and_the_published_alerts_find_theirs(tmp_path, hook):
    with ours(write(tmp_path, config(hook.url))) as server:
        server.post([{"labels": {"alertname": "A"}}])
        wait_for(lambda: hook.received)
        text = server.client.get("/metrics").text
    done = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    names = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    expected = {
        "alertmanager_alerts",
        "alertmanager_alerts_invalid_total",
        "alertmanager_alerts_received_total",
        "alertmanager_cluster_enabled",
        "alertmanager_config_hash",
        "alertmanager_config_last_reload_success_timestamp_seconds",
        "alertmanager_config_last_reload_successful",
        "alertmanager_notification_latency_seconds_bucket",
        "alertmanager_notifications_failed_total",
        "alertmanager_notifications_total",
        "alertmanager_silences",
        "process_start_time_seconds",
    }
    assert expected - names == set()
