"""A worker of `demo --workers`: it takes orders, delivers events, sends alerts and serves the live page.

It is what an application would be that runs in several processes. `workers.py` starts it several times, with
the same store and the same listening socket, and kills it now and then.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from codomyrmex.demo.settings import DATABASE, READY, Settings
from codomyrmex.integrations import Binding, Sink, attach
from codomyrmex.integrations.durable import DurableStream, SQLiteStore
from codomyrmex.integrations.notification import AlertSink
from codomyrmex.integrations.web import dashboard, event_ingest
from codomyrmex.streaming import Event
from starlette.applications import Starlette

ALERTS = Path(__file__).with_name("workers.alerts.yaml")
_SHUTDOWN_TIMEOUT = 2  # seconds for open requests


class Recorder(Sink):
    """Reports what it receives to the demo, in place of a database or a pager.

    Args:
        name: the name of the sink.
        url: where it posts a JSON list.
        describe: returns what it reports of an event.
    """

    def __init__(self, name: str, url: str, describe: Callable[[Event], str]) -> None:
        self.name = name
        self._url = url
        self._describe = describe

    async def open(self) -> None:
        self._client = httpx.AsyncClient(trust_env=False)

    async def send(self, events: Sequence[Event]) -> None:
        answer = await self._client.post(self._url, json=[self._describe(event) for event in events])
        answer.raise_for_status()

    async def close(self) -> None:
        await self._client.aclose()


async def work(settings: Settings) -> None:
    """Work until SIGTERM."""
    app = Starlette()
    config = uvicorn.Config(app, log_level="critical", ws="none", timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT)
    server = uvicorn.Server(config)

    def stop() -> None:
        server.should_exit = True

    # From the beginning, and not only while the server runs. uvicorn raises the signal again at its end.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    store = SQLiteStore(Path(settings.folder, DATABASE))
    stream = DurableStream(store, "shop", lease=settings.lease)
    decisions = DurableStream(store, "decisions", lease=settings.lease)
    recorder = Recorder("recorder", f"http://{settings.address}/events", lambda event: event.id)
    pager = Recorder("pager", f"http://{settings.address}/alerts", _alert_key)
    alerts = AlertSink(ALERTS, {"pager": pager}, audit=decisions)
    # Any worker may deliver any part of the events.
    in_parts = Binding(recorder, shards=6, shard_by="customer")
    async with stream, decisions, attach(stream, in_parts, alerts) as attachment:
        page = dashboard(
            stream,
            attachment,
            alerts,
            audit=decisions,
            allow_actions=settings.token,
            title="codomyrmex-streaming demo --workers",
        )
        app.mount("/orders", event_ingest(stream))
        app.mount("/", page)
        with socket.socket(fileno=settings.listener) as listener:
            os.write(1, READY)
            await server.serve([listener])
        await page.aclose()


def _alert_key(event: Event) -> str:
    data: Any = event.data
    return f"{data['groupLabels']['order']} {data['status']}"
