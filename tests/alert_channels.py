"""What tests of `AlertSink` have in common: channels that keep what they get, alerts, a sink that runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from codomyrmex.integrations import Sink, attach
from codomyrmex.integrations.notification import AlertSink
from codomyrmex.integrations.notification.alerts import outbox
from codomyrmex.streaming import Event, EventType, InMemoryStream, create_event
from codomyrmex.streaming.testing import FakeClock
from helpers import settle

WAIT, INTERVAL, REPEAT = 30, 300, 4 * 3600  # Alertmanager's defaults


class Inbox(Sink):
    """A channel that keeps what it gets, or fails or hangs as it is told to."""

    name = "inbox"

    def __init__(self, error: Exception | None = None, *, hangs: bool = False) -> None:
        self.error = error
        self.hangs = hangs
        self.taken: list[Event] = []
        self.calls: list[str] = []
        self.tried = 0
        self.refusals = 0  # times that it does not open

    async def open(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise OSError("no such host")
        self.calls.append("open")

    async def close(self) -> None:
        self.calls.append("close")

    async def send(self, events: Sequence[Event]) -> None:
        self.tried += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        self.taken += events

    @property
    def told(self) -> list[str]:
        """What arrived, in short: the status, and the names of the alerts."""
        return [told(event.data) for event in self.taken]

    async def wait_for(self, count: int) -> list[str]:
        await until(lambda: len(self.taken) >= count)
        return self.told


def told(notification: Mapping[str, Any]) -> str:
    names = sorted(alert["labels"].get("alertname", "?") for alert in notification["alerts"])
    return f"{notification['status']}: {' '.join(names)}"


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.002)


def fires(name: str, data: Any = None, **metadata: Any) -> Event:
    labels = {"alertname": name, **metadata.pop("labels", {})}
    return create_event(data, EventType.ERROR, topic="jobs", labels=labels, **metadata)


def ends(name: str, **metadata: Any) -> Event:
    """Tell that it is over; with another type, as an event that resolves is seldom an ERROR."""
    return fires(name, status="resolved", **metadata).replace(type=EventType.MESSAGE)


def routing(*receivers: Any, **more: Any) -> dict[str, Any]:
    """Give a configuration that groups by name and sends to the first receiver."""
    named = [{"name": each} if isinstance(each, str) else each for each in receivers or ["ops"]]
    route = {"receiver": named[0]["name"], "group_by": ["alertname"], **more.pop("route", {})}
    return {"route": route, "receivers": named, "global": {"resolve_timeout": "1d"}, **more}


class Running:
    """A sink on a stream with a clock that is moved by hand."""

    def __init__(self, config: Any, channels: Any, clock: FakeClock | None = None, **options: Any) -> None:
        self.stream, self.clock = InMemoryStream(), clock or FakeClock()
        self.sink = AlertSink(config, channels, self.clock, **options)
        self.attachment = attach(self.stream, self.sink)

    async def publish(self, *events: Event) -> None:
        """Publish events that happen now, and let the engine take them in."""
        now = datetime.fromtimestamp(self.clock.time(), UTC)
        for event in events:
            await self.stream.publish(event.replace(timestamp=now))
        await self.sink.flush()

    async def pass_time(self, seconds: float) -> None:
        """Move the clock, and let what is due go to its channels and be told back."""
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
    """Give the channels of the file by their names, as they are opened; or put them there before."""
    inboxes: dict[str, Inbox] = {}
    monkeypatch.setattr(outbox, "_apprise", lambda channel: inboxes.setdefault(channel.name, Inbox()))
    return inboxes


def urls(*channels: Mapping[str, Any], name: str = "ops", **more: Any) -> dict[str, Any]:
    """Give a receiver with channels of the file."""
    given = [
        {"url": f"json://127.0.0.1:{number + 1}", **each} for number, each in enumerate(channels or [{}])
    ]
    return {"name": name, "apprise_configs": given, **more}
