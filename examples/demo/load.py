"""`Load`: posts orders and alerts to the workers, whichever of them answers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from itertools import count

import httpx
from codomyrmex.demo.ledger import Books
from codomyrmex.streaming import Event, EventType, create_event

INTERVAL = 0.05  # seconds from one order to the next
STUCK_EVERY = 40  # orders
HELD_UP = 3.0  # seconds from the notification that an order is stuck to its end
RETRY_AFTER = 0.1  # seconds
TIMEOUT = 60.0  # seconds to wait for a worker; one that is slow must not store an event after its repetition
POLL_INTERVAL = 0.05  # seconds
MAX_TASKS = 200
CUSTOMERS = 12
ITEMS = ("tea", "bread", "soap", "rice", "salt")


class Load:
    """Posts orders until it is stopped. Now and then one is stuck, which is an alert.

    Each request is a new connection, so that it reaches any of the workers. One that fails is repeated with
    the same event, as the worker may have been killed before or after it has stored it.

    Args:
        url: where the workers take orders.
        books: where it notes what it posts.
    """

    def __init__(self, url: str, books: Books) -> None:
        self._url = url
        self._books = books
        self._stopped = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._client = httpx.AsyncClient(
            limits=httpx.Limits(max_keepalive_connections=0), timeout=TIMEOUT, trust_env=False
        )

    async def run(self) -> None:
        """Post orders until `stop` is called, and then end the alerts that fire."""
        async with self._client, asyncio.TaskGroup() as tasks:
            for number in count(1):
                while len(self._tasks) >= MAX_TASKS and not self._stopped.is_set():
                    await self._pause(POLL_INTERVAL)
                if self._stopped.is_set():
                    break
                self._start(tasks, self._order(number))
                if number % STUCK_EVERY == 0:
                    self._start(tasks, self._stuck(number))
                await self._pause(INTERVAL)

    def stop(self) -> None:
        """Place no further orders."""
        self._stopped.set()

    def _start(self, tasks: asyncio.TaskGroup, coroutine: Coroutine[None, None, None]) -> None:
        task = tasks.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pause(self, seconds: float) -> None:
        """Wait for some seconds, or until `stop` is called."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()

    async def _order(self, number: int) -> None:
        data = {"order": number, "item": ITEMS[number % len(ITEMS)]}
        await self._post(create_event(data, topic="orders.placed", customer=str(number % CUSTOMERS)))

    async def _stuck(self, number: int) -> None:
        """Report that an order is stuck and, some time after somebody was notified, that it goes on."""
        await self._alert(number, "firing")
        while not self._books.alerts.is_complete(f"{number} firing"):  # noqa: ASYNC110 - noted on other threads
            await asyncio.sleep(POLL_INTERVAL)
        await self._pause(HELD_UP)
        await self._alert(number, "resolved")

    async def _alert(self, number: int, status: str) -> None:
        self._books.alerts.begin(f"{number} {status}")
        summary = f"order {number} is stuck" if status == "firing" else f"order {number} goes on"
        kind = EventType.ERROR if status == "firing" else EventType.MESSAGE
        event = create_event(
            {"order": number, "status": status},
            kind,
            topic="orders.alert",
            customer=str(number % CUSTOMERS),
            labels={"alertname": "OrderStuck", "order": str(number)},
            annotations={"summary": summary},
            status=status,
        )
        await self._post(event)

    async def _post(self, event: Event) -> None:
        """Post an event until a worker has answered that it is stored."""
        self._books.events.begin(event.id)
        while True:
            with suppress(httpx.TransportError):  # the worker was killed
                answer = await self._client.post(self._url, json=event.to_dict())
                if not answer.is_server_error:
                    answer.raise_for_status()
                    break
            await asyncio.sleep(RETRY_AFTER)
        self._books.events.note(event.id, "accepted")
