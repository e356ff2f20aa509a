"""The demo runs as a person runs it: what it prints, who is told, what the page knows, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from typing import Any

import httpx
import pytest
from codomyrmex.demo.main import ALERTS
from codomyrmex.integrations.cli.app import app
from demo_program import PATIENCE, running
from typer.testing import CliRunner


def state(url: str) -> dict[str, Any]:
    answer = httpx.get(f"{url}api/state")
    assert answer.status_code == 200
    return json.loads(answer.text)


def test_it_shows_a_failure_from_the_first_order_that_fails_to_the_all_clear():
    with running("--port", "0", "--cycle", "8") as demo:
        url = demo.wait_for(r"The live page: +(http://127\.0\.0\.1:\d+/)\n")[1]
        token = demo.wait_for(r"with the token +(\S+)\n")[1]
        assert httpx.get(url).headers["content-type"].startswith("text/html")

        demo.wait_for(r"orders\.failed +error='503 Back end is away' order=\d+ trace=[0-9a-f]{8}\n")
        demo.wait_for(r"from_state=closed to_state=open")
        demo.wait_for(r"===> the pager gets: FIRING CircuitBreakerOpen\n")
        told = state(url)
        assert {sink["name"] for sink in told["sinks"]} >= {"structlog", "opentelemetry", "alerts"}
        assert all(sink["state"] == "ok" for sink in told["sinks"])
        [breaker] = told["breakers"]
        assert (breaker["service"], breaker["breaker"], breaker["source"]) == (
            "orders",
            "orders",
            "pybreaker",
        )
        names = {
            alert["labels"]["alertname"] for group in told["alerts"]["groups"] for alert in group["alerts"]
        }
        assert "CircuitBreakerOpen" in names
        assert "alerts.notified" in {event["metadata"]["topic"] for event in told["notifications"]}

        form = {"matchers": "alertname=OrdersSlow", "duration": "1h", "comment": "c", "created_by": "me"}
        for given, status in (("wrong", 401), (token, 201)):
            headers = {"authorization": f"Bearer {given}", "origin": url.rstrip("/")}
            assert httpx.post(f"{url}api/silences", json=form, headers=headers).status_code == status

        demo.wait_for(r"from_state=half_open to_state=closed")
        demo.wait_for(r"===> the pager gets: RESOLVED CircuitBreakerOpen\n")
        assert demo.end(signal.SIGINT) == 0
    assert re.search(r"^orders: .*\d+ placed", demo.printed, re.MULTILINE)
    assert re.search(r"^notifications: .*\d+ pager", demo.printed, re.MULTILINE)
    assert re.search(r"^structlog: \d+ events delivered, 0 lost$", demo.printed, re.MULTILINE)
    [[spans, events]] = re.findall(r"^spans: (\d+), with (\d+) events$", demo.printed, re.MULTILINE)
    assert int(events) >= int(spans) > 5
    [delivered] = re.findall(r"^opentelemetry: (\d+) events", demo.printed, re.MULTILINE)
    assert delivered == events


def test_it_ends_after_its_time_and_when_it_is_asked_to():
    with running("--port", "0", "--duration", "1") as demo:
        assert demo.end() == 0
    with running("--port", "0") as demo:
        demo.wait_for("order=|to_state=closed")
        assert demo.end(signal.SIGTERM) == 0
    assert "structlog: " in demo.printed


def test_a_port_that_is_taken_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(app, ["demo", "--port", port])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"port {port} is in use; choose another with --port\n"


def test_its_options_are_told():
    told = CliRunner().invoke(app, ["demo", "--help"], env={"COLUMNS": "200"}).stdout
    for option in ("--port", "--duration", "--cycle", "--no-browser"):
        assert option in told


def test_its_alerts_are_good_and_do_what_they_say():
    for command in ("check", "test"):
        done = CliRunner().invoke(app, ["alerts", command, str(ALERTS)])
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize("missing", ["pybreaker", "structlog", "opentelemetry.sdk"])
def test_what_is_not_installed_is_one_sentence(missing):
    hide = (
        f"import sys; sys.modules[{missing!r}] = None; from codomyrmex.integrations.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", hide, "demo"], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    name = missing.replace(".", "-")
    assert done.stderr == (
        f"the demo needs {name}, which is not installed: pip install 'codomyrmex-streaming[demo]'\n"
    )
