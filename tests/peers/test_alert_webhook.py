"""A running Alertmanager posts its notifications to `event_ingest`, and its alerts arrive as they are."""

from __future__ import annotations

import asyncio
import os
import shutil
import time

import pytest
from alertmanager_program import alertmanager
from codomyrmex.integrations.web import event_ingest, require_token
from codomyrmex.integrations.web.serve import serving
from codomyrmex.streaming import Event, InMemoryStream
from codomyrmex.streaming.testing import collect
from helpers import in_time

PROGRAM = shutil.which("prometheus-alertmanager")
pytestmark = pytest.mark.skipif(
    PROGRAM is None and not os.environ.get("CI"), reason="prometheus-alertmanager is not installed"
)
TOKEN = "of-the-test"


@in_time
async def test_alerts_of_a_running_alertmanager_become_events(tmp_path):
    stream = InMemoryStream()
    app = event_ingest(stream, authorize=require_token(TOKEN))
    with collect(stream, "alerts") as events:
        async with serving(app, "127.0.0.1", 0) as url:
            hook = {"url": url, "http_config": {"authorization": {"credentials": TOKEN}}}
            config = {
                "route": {
                    "receiver": "hook",
                    "group_wait": "10ms",
                    "group_interval": "100ms",
                    "group_by": ["host"],
                },
                "receivers": [{"name": "hook", "webhook_configs": [hook]}],
            }
            arrived = await asyncio.to_thread(run, tmp_path, config, events)
    assert arrived
    firing, resolved = events[0], next(event for event in events if event.metadata["status"] == "resolved")
    for event in (firing, resolved):
        assert event.metadata["labels"] == {"alertname": "DiskFull", "host": "db-1", "odd": 'a"ö\n'}
        assert event.metadata["annotations"] == {"summary": "2 % left"}
        assert event.metadata["generator_url"] == "http://prometheus.test/graph"
    assert firing.data == "2 % left"
    assert firing.metadata["starts_at"] == "2026-01-05T12:00:00Z"
    assert "ends_at" not in firing.metadata
    assert resolved.metadata["ends_at"] > firing.metadata["starts_at"]


def run(folder, config, events: list[Event]) -> bool:
    """Fire and resolve an alert, and return whether both have arrived."""
    alert = {
        "labels": {"alertname": "DiskFull", "host": "db-1", "odd": 'a"ö\n'},
        "annotations": {"summary": "2 % left"},
        "startsAt": "2026-01-05T12:00:00Z",
        "generatorURL": "http://prometheus.test/graph",
    }
    with alertmanager(PROGRAM, folder, config) as client:
        for number, status in enumerate(("firing", "resolved")):
            ends_at = {"endsAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())} if number else {}
            assert client.post("/api/v2/alerts", json=[{**alert, **ends_at}]).is_success
            while not any(event.metadata["status"] == status for event in events):
                time.sleep(0.01)
    return True
