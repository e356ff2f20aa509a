"""A shop whose orders survive the process that took them, once its stream is durable.

    pip install 'codomyrmex-streaming[pybreaker,structlog,web]'
    python examples/durable_shop/shop.py [--port 8000]

    curl -X POST localhost:8000/orders -d '{"item": "tea", "price": 4}'
    curl -X PUT localhost:8000/payments -d '{"available": false}'    # its circuit breaker opens
    curl -N localhost:8000/events/                                  # what happens, live
    curl localhost:8000/health

As it is, everything is in memory. docs/guides/durable-streams.md shows the lines that put it on SQLite, and
then on PostgreSQL. From then on, an order that was answered with 201 is charged even if the process is killed
in between, several processes share the work, and each shows the events of all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pybreaker
import uvicorn
from codomyrmex.integrations import Binding, DeliveryPolicy, PermanentError, RetryableError, Sink, attach
from codomyrmex.integrations.logging_monitoring import StructlogSink
from codomyrmex.integrations.service_mesh import attach_pybreaker
from codomyrmex.integrations.web import event_stream
from codomyrmex.streaming import Event, InMemoryStream, create_event
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

stream = InMemoryStream()


class PaymentError(Exception):
    """The payment service did not answer."""


class PaymentService:
    """Stands for a service of another company, which is not always available."""

    def __init__(self) -> None:
        self.available = True

    def charge(self, price: object) -> None:
        """Charge a price."""
        if not self.available:
            raise PaymentError("503 Service Unavailable")
        if not isinstance(price, int) or price <= 0:
            raise ValueError(f"price: must be a whole number greater than 0, got {price!r}")


payments = PaymentService()
breaker = pybreaker.CircuitBreaker(fail_max=3, reset_timeout=1, exclude=[ValueError], name="payments")


class Charge(Sink):
    """Charges the orders, one at a time. On a durable stream, one process at a time does this for all."""

    name = "charge"

    async def send(self, events: Sequence[Event]) -> None:
        """Charge an order, and publish that it is paid."""
        for order in events:
            try:
                breaker.call(payments.charge, order.data.get("price"))
            except ValueError as error:
                raise PermanentError(str(error)) from error  # no further attempt; the order is a dead letter
            except (PaymentError, pybreaker.CircuitBreakerError) as error:
                raise RetryableError(str(error)) from error
            # After a crash, an order may be charged again: a real service is given its id, to notice that.
            await stream.publish(create_event({"order": order.id}, topic="orders.paid"))


class Archive(Sink):
    """Appends what happens to orders to a file, one JSON object per line."""

    name = "archive"
    path = Path("orders.jsonl")

    async def send(self, events: Sequence[Event]) -> None:
        """Append a batch."""
        lines = "".join(f"{json.dumps(event.to_dict())}\n" for event in events)
        await asyncio.to_thread(self._append, lines)

    def _append(self, lines: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(lines)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Deliver the events while the application runs."""
    patient = DeliveryPolicy(
        batch_size=1, batch_age=0, max_attempts=10_000, max_elapsed=86_400, backoff_max=1, breaker_reset=1
    )
    sinks = (
        StructlogSink(),
        Binding(Charge(), topic="orders.created", policy=patient),
        Binding(Archive(), topic="orders.>", policy=DeliveryPolicy(batch_age=0.1)),
    )
    async with stream, attach(stream, *sinks) as attachment:
        with closing(attach_pybreaker(breaker, stream)):
            app.state.attachment = attachment
            yield


async def place_order(request: Request) -> JSONResponse:
    """Publish an order; on a durable stream, 201 means that it is stored."""
    order = await request.json()
    if not isinstance(order, dict):
        return JSONResponse({"error": "an order must be an object"}, 400)
    event = create_event(order, topic="orders.created")
    await stream.publish(event)
    return JSONResponse({"id": event.id}, 201)


async def set_payments(request: Request) -> JSONResponse:
    """Make the payment service available or unavailable, to see what happens."""
    payments.available = (await request.json())["available"]
    return JSONResponse({"available": payments.available})


async def health(request: Request) -> JSONResponse:
    """Return the state of the sinks."""
    sinks = request.app.state.attachment.health()
    return JSONResponse({name: sink.state for name, sink in sinks.items()})


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/orders", place_order, methods=["POST"]),
        Route("/payments", set_payments, methods=["PUT"]),
        Route("/health", health),
        Mount("/events", event_stream(stream)),
    ],
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, port=parser.parse_args().port, access_log=False)
