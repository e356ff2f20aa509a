"""The tasks of the shop, in the processes of Celery.

celery --app tasks worker --concurrency 4

    celery --app tasks call tasks.pack --args '["tea"]'
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from celery import Celery
from celery.signals import worker_init, worker_process_shutdown
from codomyrmex.integrations import attach_blocking
from shop_stream import order_event, sinks, stream

app = Celery("tasks", broker=os.environ.get("BROKER", "redis://localhost"))


@worker_init.connect
def start_sinks(**_arguments: Any) -> None:
    """Attach the sinks in the worker; programs that only send tasks need none."""
    attach_blocking(stream, *sinks).start()


@worker_process_shutdown.connect
def store_events(**_arguments: Any) -> None:
    """Store what a process of the pool has published, before it ends without notice."""
    asyncio.run(asyncio.wait_for(stream.flush(), 10))


@app.task(name="tasks.pack")
def pack(item: str) -> None:
    """Publish an event from a process of the pool."""
    stream.publish_nowait(order_event(item))
