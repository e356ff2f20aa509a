"""The demo as a process: what it prints, the notifications, what the page shows, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import time
from typing import Any

import httpx
from demo_program import PATIENCE, running


def state(url: str) -> dict[str, Any]:
    answer = httpx.get(f"{url}api/state", timeout=PATIENCE)
    assert answer.status_code == 200
    return json.loads(answer.text)


def firing(url: str) -> dict[str, Any]:
    """Return what the page shows while the alert fires, which it does again in each cycle."""
    deadline = time.monotonic() + PATIENCE
    while True:
        shown = state(url)
        groups = shown["alerts"]["groups"]
        names = {alert["labels"]["alertname"] for group in groups for alert in group["alerts"]}
        if "CircuitBreakerOpen" in names:
            return shown
        assert time.monotonic() < deadline, names
        time.sleep(0.05)


def test_it_shows_a_failure_from_the_first_order_that_fails_to_the_all_clear():
    with running("--port", "0", "--cycle", "8") as demo:
        url = demo.wait_for(r"The live page: +(http://127\.0\.0\.1:\d+/)\n")[1]
        token = demo.wait_for(r"with the token +(\S+)\n")[1]
        assert httpx.get(url, timeout=PATIENCE).headers["content-type"].startswith("text/html")

        demo.wait_for(r"orders\.failed +error='503 Backend unavailable' order=\d+ trace=[0-9a-f]{8}\n")
        demo.wait_for(r"from_state=closed to_state=open")
        demo.wait_for(r"===> the pager gets: FIRING CircuitBreakerOpen\n")
        shown = firing(url)
        assert {sink["name"] for sink in shown["sinks"]} >= {"structlog", "opentelemetry", "alerts"}
        assert all(sink["state"] == "ok" for sink in shown["sinks"])
        [breaker] = shown["breakers"]
        assert (breaker["service"], breaker["breaker"], breaker["source"]) == (
            "orders",
            "orders",
            "pybreaker",
        )
        assert "alerts.notified" in {event["metadata"]["topic"] for event in shown["notifications"]}

        form = {"matchers": "alertname=OrdersSlow", "duration": "1h", "comment": "c", "created_by": "me"}
        for given, status in (("wrong", 401), (token, 201)):
            headers = {"authorization": f"Bearer {given}", "origin": url.rstrip("/")}
            posted = httpx.post(f"{url}api/silences", json=form, headers=headers, timeout=PATIENCE)
            assert posted.status_code == status

        assert httpx.get(f"{url}readyz", timeout=PATIENCE).json() == {"status": "ready"}
        assert (
            'codomyrmex_sink_state{codomyrmex_sink_state="ok",sink="alerts"} 1.0'
            in httpx.get(f"{url}metrics", timeout=PATIENCE).text
        )

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


def test_sigterm_ends_it():
    with running("--port", "0") as demo:
        demo.wait_for("order=|to_state=closed")
        assert demo.end(signal.SIGTERM) == 0
    assert "structlog: " in demo.printed
