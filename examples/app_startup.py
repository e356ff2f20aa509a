"""Attach sinks at app startup: a FastAPI application with its lifespan.

    python examples/app_startup.py [--port 8000] [--archive orders.jsonl]

    curl -X POST localhost:8000/orders -H 'content-type: application/json' -d '{"item": "tea", "token": "x"}'
    curl localhost:8000/health

Each order is published once. It becomes a log line immediately and a line of a file in batches. A slow file
or a full disk fails no request. Ctrl-C delivers what is queued and logs what was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from codomyrmex.integrations import DeliveryPolicy, Sink, attach
from codomyrmex.integrations.logging_monitoring import StructlogSink, redact
from codomyrmex.streaming import Event, InMemoryStream, create_event
from fastapi import Body, FastAPI, Request

stream = InMemoryStream()
stream.add_interceptor(redact())  # runs before the sinks


class Archive(Sink):
    """Appends events to a file, one JSON object per line."""

    name = "archive"

    def __init__(self, path: Path) -> None:
        self._path = path

    async def send(self, events: Sequence[Event]) -> None:
        """Append a batch."""
        lines = "".join(f"{json.dumps(event.to_dict())}\n" for event in events)
        await asyncio.to_thread(self._append, lines)

    def _append(self, lines: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(lines)


def create_app(archive: Path) -> FastAPI:
    """Create the application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sinks = StructlogSink(), Archive(archive)
        async with attach(stream, *sinks, policy=DeliveryPolicy(batch_age=0.5)) as attachment:
            app.state.attachment = attachment
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/orders", status_code=201)
    async def order(body: Annotated[dict[str, Any], Body()]) -> dict[str, str]:
        event = create_event(body, topic="orders.created")
        await stream.publish(event)
        return {"id": event.id}

    @app.get("/health")
    async def health(request: Request) -> dict[str, Any]:
        sinks = request.app.state.attachment.health()
        return {name: sink._asdict() for name, sink in sinks.items()}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--archive", type=Path, default=Path("orders.jsonl"))
    arguments = parser.parse_args()
    uvicorn.run(create_app(arguments.archive), port=arguments.port, access_log=False)  # says when it is ready
