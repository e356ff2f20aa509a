"""The plain way: what most people write when they need events, topics and server-sent events."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass
class PlainEvent:
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    type: str = "message"
    data: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))


def plain_create_event(data: Any, event_type: str = "message", **metadata: Any) -> PlainEvent:
    return PlainEvent(type=event_type, data=data, metadata=metadata)


def plain_to_sse(event: Any) -> str:
    data = json.dumps(event.data, default=str)
    return f"id: {event.id}\nevent: {event.type}\ndata: {data}\n\n"


@dataclass
class PlainSubscription:
    topic: str
    handler: Callable[[Any], object]
    active: bool = True

    def should_receive(self, event: Any) -> bool:
        return self.active and self.topic in ("*", event.metadata.get("topic"))


async def plain_publish(subscriptions: list[PlainSubscription], event: Any) -> None:
    for subscription in subscriptions:
        if subscription.should_receive(event):
            subscription.handler(event)


class PlainFanOut:
    """A queue and a `wait_for` for each subscriber; each subscriber encodes its own frames."""

    def __init__(self) -> None:
        self.queues: list[asyncio.Queue[Any]] = []

    def subscribe(self) -> asyncio.Queue[Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue(1_000)
        self.queues.append(queue)
        return queue

    async def publish(self, event: Any) -> None:
        for queue in self.queues:
            queue.put_nowait(event)

    async def frames(self, queue: asyncio.Queue[Any]) -> Any:
        while True:
            try:
                event = await asyncio.wait_for(queue.get(), 30)
            except TimeoutError:
                yield ": ping\n\n"
            else:
                yield plain_to_sse(event)
