"""Helpers of the tests of `AlertSink`: channels that record notifications, alerts, and a running sink."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from codomyrmex.integrations import Sink, attach
from codomyrmex.integrations.notification import AlertSink
from codomyrmex.integrations.notification.apprise_channel import AppriseConfig
from codomyrmex.streaming import Event, EventType, InMemoryStream, create_event
from codomyrmex.streaming.testing import FakeClock
from helpers import DEADLINE, settle

WAIT, INTERVAL, REPEAT = 30, 300, 4 * 3600  # Alertmanager's defaults


class Inbox(Sink):
    """A channel that records events, or fails or hangs on request."""

    name = "inbox"

    def __init__(self, error: Exception | None = None, *, hangs: bool = False) -> None:
        self.error = error
        self.hangs = hangs
        self.received: list[Event] = []
        self.calls: list[str] = []
        self.attempts = 0
        self.refusals = 0  # how often it fails to open

    async def open(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise OSError("no such host")
        self.calls.append("open")

    async def close(self) -> None:
        self.calls.append("close")

    async def send(self, events: Sequence[Event]) -> None:
        self.attempts += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        self.received += events

    @property
    def summaries(self) -> list[str]:
        """The status and the names of the alerts of each notification."""
        return [summary_of(event.data) for event in self.received]

    async def wait_for(self, count: int) -> list[str]:
        await until(lambda: len(self.received) >= count)
        return self.summaries


def summary_of(notification: Mapping[str, Any]) -> str:
    names = sorted(alert["labels"].get("alertname", "?") for alert in notification["alerts"])
    return f"{notification['status']}: {' '.join(names)}"


async def until(condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        await asyncio.sleep(0.002)


def fires(name: str, data: Any = None, **metadata: Any) -> Event:
    labels = {"alertname": name, **metadata.pop("labels", {})}
    return create_event(data, EventType.ERROR, topic="jobs", labels=labels, **metadata)


def ends(name: str, **metadata: Any) -> Event:
    """Return an event that resolves an alert; its type differs, as it is seldom an ERROR."""
    return fires(name, status="resolved", **metadata).replace(type=EventType.MESSAGE)


def routing(*receivers: Any, **more: Any) -> dict[str, Any]:
    """Return a configuration that groups by name and sends to the first receiver."""
    named = [{"name": each} if isinstance(each, str) else each for each in receivers or ["ops"]]
    route = {"receiver": named[0]["name"], "group_by": ["alertname"], **more.pop("route", {})}
    return {"route": route, "receivers": named, "global": {"resolve_timeout": "1d"}, **more}


class Running:
    """A sink on a stream with a clock that the test advances."""

    def __init__(self, config: Any, channels: Any, clock: FakeClock | None = None, **options: Any) -> None:
        self.stream, self.clock = InMemoryStream(), clock or FakeClock()
        self.sink = AlertSink(config, channels, self.clock, **options)
        self.attachment = attach(self.stream, self.sink)

    async def publish(self, *events: Event) -> None:
        """Publish events with the current time, and wait until the engine has them."""
        now = datetime.fromtimestamp(self.clock.time(), UTC)
        for event in events:
            await self.stream.publish(event.replace(timestamp=now))
        await self.sink.flush()

    async def pass_time(self, seconds: float) -> None:
        """Advance the clock, and wait until what is due is delivered and its outcome known."""
        self.clock.advance(seconds)
        await self.sink.flush()
        await settle()
        await self.sink.flush()


@asynccontextmanager
async def running(config: Any, channels: Any, **options: Any) -> AsyncIterator[Running]:
    run = Running(config, channels, **options)
    async with run.attachment:
        yield run


def instead_of_apprise(monkeypatch: pytest.MonkeyPatch) -> dict[str, Inbox]:
    """Return the channels of the file by their names, which are created on demand."""
    inboxes: dict[str, Inbox] = {}
    monkeypatch.setattr(AppriseConfig, "create", lambda channel: inboxes.setdefault(channel.name, Inbox()))
    return inboxes


def record_connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """Return a list that collects the connections to databases, in the order in which they are opened."""
    connections: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def recorded(*args: Any, **options: Any) -> sqlite3.Connection:
        connections.append(connect(*args, **options))
        return connections[-1]

    monkeypatch.setattr(sqlite3, "connect", recorded)
    return connections


def urls(*channels: Mapping[str, Any], name: str = "ops", **more: Any) -> dict[str, Any]:
    """Return a receiver with channels of the file."""
    given = [
        {"url": f"json://127.0.0.1:{number + 1}", **each} for number, each in enumerate(channels or [{}])
    ]
    return {"name": name, "apprise_configs": given, **more}
