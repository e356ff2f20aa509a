"""A process of an application: it publishes the alerts that it reads from its standard input.

`python -m availability.member URL FOLDER HOOK NAME LEASE`, with `tests` in PYTHONPATH. It answers with the
number of each line when its alert is in the stream. It records when it ceases to notify.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path

import httpx
from codomyrmex.integrations import DeliveryError, Sink, attach
from codomyrmex.integrations.durable import DurableStream, StoreUnavailableError, open_store
from codomyrmex.integrations.notification import AlertSink, NotifierRole
from codomyrmex.streaming import EventType, create_event
from durable.history import Recorder, recording


class WebHook(Sink):
    """Sends notifications to a webhook, and records when it begins and has ended to send each."""

    name = "hook"

    def __init__(self, url: str, recorder: Recorder) -> None:
        self.url, self.recorder = url, recorder

    async def open(self) -> None:
        self.client = httpx.AsyncClient(timeout=10)

    async def close(self) -> None:
        await self.client.aclose()

    async def send(self, events) -> None:
        for event in events:
            self.recorder.note("sending", group=event.data["groupLabels"]["alertname"], id=event.data["id"])
            answer = await self.client.post(self.url, json=event.data)
            self.recorder.note("sent", group=event.data["groupLabels"]["alertname"], id=event.data["id"])
            if not answer.is_success:
                raise DeliveryError(f"the hook answered {answer.status_code}")


def write(text: str) -> None:
    os.write(1, f"{text}\n".encode())


async def publish(stream: DurableStream, line: bytes) -> None:
    asked = json.loads(line)
    event = create_event(
        None, EventType.ERROR, topic="alerts", labels=asked["labels"], status=asked["status"]
    )
    while True:
        try:
            await stream.publish(event)
        except StoreUnavailableError:
            continue
        break
    write(asked["number"])


async def watch(sink: AlertSink, recorder: Recorder) -> None:
    while True:
        was_holder = sink.role is NotifierRole.HOLDER
        await asyncio.sleep(0.02)
        if was_holder and sink.role is not NotifierRole.HOLDER:
            recorder.note("lost")


async def work(url: str, folder: Path, hook: str, name: str, lease: float) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    with recording(folder / f"{name}.jsonl", name) as recorder:
        stream = DurableStream(open_store(url), lease=lease)
        sink = AlertSink(str(folder / "alerts.yaml"), {"hook": WebHook(hook, recorder)}, watch=False)
        async with attach(stream, sink), asyncio.TaskGroup() as tasks:
            write("started")

            async def read() -> None:
                while line := await reader.readline():
                    tasks.create_task(publish(stream, line))
                ended.set()

            others = [tasks.create_task(read()), tasks.create_task(watch(sink, recorder))]
            await ended.wait()
            for task in others:
                task.cancel()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    place, folder, hook, name, lease = sys.argv[1:]
    asyncio.run(work(place, Path(folder), hook, name, float(lease)))
