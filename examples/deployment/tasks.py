"""The tasks of the shop, in the processes of Celery.

celery --app tasks worker --concurrency 4

    celery --app tasks call tasks.pack --args '["tea"]'
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import worker_init
from codomyrmex.integrations import attach_blocking
from shop_stream import order_event, sinks, stream

app = Celery("tasks", broker=os.environ.get("BROKER", "redis://localhost"))


@worker_init.connect
def start_sinks(**_arguments: Any) -> None:
    """Attach the sinks in the worker; programs that only send tasks need none."""
    attach_blocking(stream, *sinks).start()


@app.task(name="tasks.pack")
def pack(item: str) -> None:
    """Publish an event from a process of the pool."""
    stream.publish_nowait(order_event(item))
