"""The shop as an ASGI application: orders, server-sent events, the live page, health and metrics.

uvicorn asgi:app --workers 4 --timeout-graceful-shutdown 10

    curl -X POST localhost:8000/orders/tea
    curl -N localhost:8000/events/
    curl localhost:8000/health/readyz
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from codomyrmex.integrations import attach
from codomyrmex.integrations.web import dashboard, event_stream, health_app
from shop_stream import alerts, order_event, sinks, stream
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

HOSTS = ["shop.example.com"]  # the names under which a proxy serves the application

attachment = attach(stream, *sinks)


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[None]:
    """Deliver the events while the process runs; at its end, others take over at once."""
    async with stream, attachment:
        yield


async def place_order(request: Request) -> JSONResponse:
    """Publish an order; 201 means that it is stored."""
    event = order_event(request.path_params["item"])
    await stream.publish(event)
    return JSONResponse({"id": event.id}, 201)


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/orders/{item}", place_order, methods=["POST"]),
        Mount("/events", event_stream(stream, allowed_hosts=HOSTS)),
        Mount("/health", health_app(attachment, stream, sinks=[])),  # ready as long as the store answers
        Mount("/live", dashboard(stream, attachment, alerts, allowed_hosts=HOSTS)),  # and /live/metrics
    ],
)
