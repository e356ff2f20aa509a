"""The demo with several processes: `codomyrmex-streaming demo --workers 3`.

Workers (`worker.py`) take orders and share a store, so that another one continues where one was killed. This
process starts them (`supervisor.py`), places the orders (`load.py`), kills now and then the worker that sends
the alerts, and counts what arrives (`ledger.py`). It is not killed, and is not on the way of any event.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import socket
import tempfile
import time
import webbrowser
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from itertools import islice
from pathlib import Path
from typing import Any

import codomyrmex.demo.worker  # noqa: F401 - raises for a missing package before a worker does
from codomyrmex.demo.errors import DemoError
from codomyrmex.demo.ledger import Books
from codomyrmex.demo.load import Load
from codomyrmex.demo.main import print_line
from codomyrmex.demo.service import serving
from codomyrmex.demo.settings import DATABASE, Settings
from codomyrmex.demo.supervisor import LeaseWatch, Supervisor, Takeover
from codomyrmex.integrations.durable import DurableStream, SQLiteStore, StoreError
from codomyrmex.streaming import Event

LEASE = 2.0  # seconds
PATIENCE = 30.0  # seconds to wait at the end for what is in flight
POLL_INTERVAL = 0.05  # seconds
MAX_LOST = 10  # of each kind are printed
ALERT_LEASE = "shop/group/alerts/shard/"
GREETING = """
A shop runs in {workers} processes that share a SQLite file and a port. All of them take orders. The one that
holds a lease sends the alerts. Every {kill_every:g} seconds it is killed, and another one takes over.

The live page:  {url}
  Each process serves it, and shows the events and alerts of all
  Silences can be added with the token  {token}

In another terminal:  codomyrmex-streaming store {store} groups --name shop
Press Ctrl-C to end the demo and see what was lost.
"""


async def run_workers(
    *, workers: int, port: int, kill_every: float = 20.0, duration: float | None = None, browser: bool = True
) -> bool:
    """Run the demo until Ctrl-C, SIGTERM or the end of its time.

    Args:
        workers: the number of processes.
        port: the port that they share.
        kill_every: seconds from one kill to the next.
        duration: seconds until the demo ends; None for no limit.
        browser: whether to open the page in a browser.

    Returns:
        Whether nothing was lost.

    Raises:
        DemoError: the temporary folder or the store cannot be used, or a worker cannot start.
        OSError: the port cannot be used.
    """
    with socket.create_server(("127.0.0.1", port), backlog=1_000) as listener, temporary_folder() as folder:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        store = SQLiteStore(folder / DATABASE)
        lease = min(LEASE, kill_every / 4)
        books, token = Books(), secrets.token_urlsafe(6)
        with receiving(books) as address:
            settings = Settings(str(folder), address, listener.fileno(), lease, token)
            async with reading_the_log(DurableStream(store, "shop", lease=lease), books) as stream:
                demo = Demo(stream, books, Supervisor(workers, settings, print_now), url)
                print_line(
                    GREETING.format(
                        workers=workers, kill_every=kill_every, url=url, token=token, store=store.url
                    )
                )
                return await demo.run(kill_every, duration, browser=browser)


class Demo:
    """A run of the demo.

    Args:
        stream: what all processes share.
        books: what was published and what has arrived.
        supervisor: runs the workers.
        url: where the workers are reached.
    """

    def __init__(self, stream: DurableStream, books: Books, supervisor: Supervisor, url: str) -> None:
        self._books = books
        self._supervisor = supervisor
        self._url = url
        self._load = Load(f"{url}orders/", books)
        self._watch = LeaseWatch(stream, ALERT_LEASE, self._print_takeover)
        self._pauses: list[float] = []  # seconds without a holder
        self._ended = asyncio.Event()
        self._hurried = asyncio.Event()

    async def run(self, kill_every: float, duration: float | None, *, browser: bool) -> bool:
        """Run until a signal or the end of the time, print the balance, return whether nothing was lost."""
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._interrupt)
        async with self._supervisor as supervisor:
            try:
                async with asyncio.TaskGroup() as tasks:
                    background = [tasks.create_task(task) for task in (supervisor.check(), self._watch.run())]
                    if await _unless(self._ended, supervisor.wait_until_ready()):
                        if browser:
                            await asyncio.to_thread(webbrowser.open, self._url)
                        await self._play(tasks, kill_every, duration)
                    for task in background:
                        task.cancel()
            except ExceptionGroup as group:
                raise group.exceptions[0] from None
        self._print_balance()
        return self._books.balance().lost == 0

    def _interrupt(self) -> None:
        (self._hurried if self._ended.is_set() else self._ended).set()

    async def _play(self, tasks: asyncio.TaskGroup, kill_every: float, duration: float | None) -> None:
        loading = tasks.create_task(self._load.run())
        killing = tasks.create_task(self._kill_now_and_then(kill_every))
        with suppress(TimeoutError):
            async with asyncio.timeout(duration):
                await self._ended.wait()
        self._ended.set()
        killing.cancel()
        self._load.stop()
        print_now("waiting for what is in flight; press Ctrl-C again not to wait")
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await _unless(self._hurried, self._settle(loading))
        loading.cancel()

    async def _kill_now_and_then(self, kill_every: float) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            await asyncio.sleep(kill_every - (clock() - began) % kill_every)
            await self._supervisor.wait_until_ready()  # the others have to be there
            await self._watch.kill_holder(self._supervisor.kill)

    async def _settle(self, loading: asyncio.Task[None]) -> None:
        """Wait until all has arrived that was published."""
        await asyncio.wait({loading})
        while self._books.balance().lost:  # noqa: ASYNC110 - noted on other threads
            await asyncio.sleep(POLL_INTERVAL)

    # Lines

    def _print_takeover(self, change: Takeover) -> None:
        if change.before is None:
            print_now(f"{change.after} holds the lease")
            return
        if change.killed:
            self._pauses.append(change.seconds)
            cause = f"{change.before} was killed, nobody held the lease for {change.seconds:.1f} s"
        else:
            cause = f"{change.before} has lost the lease"
        now = self._books.balance()
        figures = f"published {now.published:,}, delivered {now.delivered:,}, notified {now.notified:,}"
        print_now(f"{cause}, now {change.after} does ({figures})")

    def _print_balance(self) -> None:
        events, alerts, balance = self._books.events, self._books.alerts, self._books.balance()
        again = "events and notifications that came again"
        if stored_twice := events.repeated["logged"]:
            again += f"; {stored_twice:,} events were posted again and are in the log twice"
        takeovers = "after a kill"
        if self._pauses:
            shortest, longest = (f"{seconds:.1f}" for seconds in (min(self._pauses), max(self._pauses)))
            takeovers += f"; nobody held the lease for {shortest} to {longest} s each time"
        lost = "events and notifications"
        if balance.lost and self._hurried.is_set():
            lost += ", which were not waited for"
        lines = {
            "published": (
                balance.published,
                f"events in the log, {alerts.counts['logged']:,} of them alerts",
            ),
            "delivered": (balance.delivered, "of them to a sink, in any of the processes"),
            "notified": (balance.notified, "of the alerts"),
            "duplicates": (balance.duplicates, again),
            "lost": (balance.lost, lost),
            "takeovers": (len(self._pauses), takeovers),
        }
        for name, (number, details) in lines.items():
            print_line(f"{name:<11}{number:>8,}  {details}")
        for kind, ledger in (("event", events), ("order", alerts)):
            for key, steps in islice(ledger.lost.items(), MAX_LOST):
                print_line(f"  {kind} {key}: not {' and not '.join(steps)}")


async def _unless(event: asyncio.Event, coroutine: Coroutine[Any, Any, None]) -> bool:
    """Await a coroutine, or cancel it when an event is set; return whether it has completed."""
    task = asyncio.create_task(coroutine)
    tasks = {task, asyncio.create_task(event.wait())}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()  # raises what it has raised
        return task.done()
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.wait(tasks)


def print_now(text: str) -> None:
    """Print a line with the time."""
    print_line(f"{time.strftime('%H:%M:%S')}  {text}")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a folder, and remove it at the end.

    Raises:
        DemoError: it cannot be created.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="codomyrmex-demo-", ignore_cleanup_errors=True)
    except OSError as error:
        raise DemoError(f"no temporary folder can be created; set TMPDIR to another place: {error}") from None
    with folder as path:
        yield Path(path)


@asynccontextmanager
async def reading_the_log(stream: DurableStream, books: Books) -> AsyncIterator[DurableStream]:
    """Note each event that is in the log of the store, as any other program could read it."""

    def note(event: Event) -> None:
        books.events.note(event.id, "logged")
        if "labels" in event.metadata:
            books.alerts.note(f"{event.metadata['labels']['order']} {event.metadata['status']}", "logged")

    try:
        async with stream:
            await stream.subscribe(note, "orders.*", after="earliest")
            yield stream
    except StoreError as error:
        raise DemoError(str(error)) from None


@contextmanager
def receiving(books: Books) -> Iterator[str]:
    """Note what workers report, and yield the host and port where they do.

    They post a list of keys to `/events` when a sink has received events, and to `/alerts` for notifications.
    """

    def note(path: str, keys: list[str]) -> None:
        ledger, step = {"/events": (books.events, "delivered"), "/alerts": (books.alerts, "notified")}[path]
        for key in keys:
            ledger.note(key, step)

    with serving(type("OurReports", (Reports,), {"note": staticmethod(note)})) as address:
        yield address


class Reports(BaseHTTPRequestHandler):
    """Accepts what workers report."""

    note: Callable[[str, list[str]], None]

    def do_POST(self) -> None:
        """Accept a list of keys."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with suppress(
            ValueError, ConnectionError
        ):  # the worker was killed before the end of the body, or after it
            type(self).note(self.path, json.loads(body))
            self.send_response(204)
            self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Log nothing: what was reported is counted."""
