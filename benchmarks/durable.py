"""Durable streams against the bare drivers of their stores. The servers run in processes of their own.

A store whose server is not installed is skipped.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import math
import queue
import random
import resource
import secrets
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import asyncpg  # type: ignore[import-untyped]
import msgspec
import nats
import redis.asyncio
from codomyrmex.integrations import Attachment, attach
from codomyrmex.integrations.durable import DurableStream, Retention, open_store
from codomyrmex.integrations.durable.entries import encode_event
from codomyrmex.integrations.durable.store import Batch
from codomyrmex.integrations.durable.stores import postgres_sql as postgres
from codomyrmex.integrations.durable.stores import redis_scripts as scripts
from codomyrmex.streaming import Event, InMemoryStream, Stream, create_event
from measure import Result
from sinks import ROOMY, NoOp

SERVERS = Path(__file__).parents[1] / "tests" / "durable" / "servers.py"
NAMES = {"sqlite": "SQLite", "postgres": "PostgreSQL", "redis": "Redis", "nats": "NATS"}
SETTINGS = {"redis": ["appendfsync=everysec"]}  # as Redis has it; the tests use `always`
TASKS = 64
IDLE, IDLE_MEASURED = 10.0, 5.0  # seconds

EVENTS = [
    create_event({"order": n, "customer": f"c-{n}", "items": ["tea", "cup"]}, topic="orders.created")
    for n in range(5_000)
]
ENTRIES = [encode_event(event) for event in EVENTS[:500]]


def measure() -> Iterator[Result]:
    be_quiet()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {"sqlite": f"sqlite:///{folder}/events.db"}
        for kind in ("postgres", "redis", "nats"):
            url, reason = start_server(kind, stack)
            if reason:
                yield Result(NAMES[kind], "", math.nan, None, rate=True, detail=f"skipped: {reason}")
            else:
                urls[kind] = url
        for kind, url in urls.items():
            yield asyncio.run(appending(kind, url))
        for kind, url in urls.items():
            if kind in BARS_OF_PUBLISHING:
                yield from asyncio.run(publishing(kind, url))
        yield asyncio.run(replaying(f"sqlite:///{folder}/replay.db"))
        yield asyncio.run(queued_sink(urls["sqlite"]))
        yield from growing(folder / "grown.db")
        yield from asyncio.run(watching(urls))


def be_quiet() -> None:
    """Leave out what the stores say about the settings of their servers."""
    logging.getLogger("codomyrmex").setLevel(logging.ERROR)


def start_server(kind: str, stack: ExitStack) -> tuple[str, str]:
    """Start a server that runs until the end of the measurement; return its URL, or why there is none."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, str(SERVERS), kind, *SETTINGS.get(kind, ())]
    program = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
    stack.callback(program.communicate)  # closes its standard input, which ends it
    url = program.stdout.readline().strip()
    return url, "" if url else program.stderr.read().strip().rpartition("\n")[2]


# Comparing


class Cost(NamedTuple):
    """The seconds that a unit took: of the clock, and of this process's CPU time."""

    wall: float
    cpu: float


Work = Callable[[], Awaitable[int]]


async def cost_of(work: Work) -> Cost:
    cpu, start = time.process_time(), time.perf_counter()
    units = await work()
    return Cost((time.perf_counter() - start) / units, (time.process_time() - cpu) / units)


async def in_turn(ours: Work, bare: Work, rounds: int) -> list[tuple[Cost, Cost]]:
    await bare()
    await ours()
    return [((await cost_of(ours)), (await cost_of(bare))) for _ in range(rounds)]


def rates(work: str, against: str, costs: Sequence[tuple[Cost, Cost]], bar: float, *, cpu: bool) -> Result:
    """Compare rates; `cpu` says that all of the work is done in this process, and to show its CPU time."""
    ratios = [bare.wall / ours.wall for ours, bare in costs]
    medians = [statistics.median(cost.wall for cost in side) for side in zip(*costs, strict=True)]
    detail = "{:.1f} k/s against {:.1f} k/s".format(*(1e-3 / seconds for seconds in medians))
    if cpu:
        detail += f"; by CPU time {statistics.median(bare.cpu / ours.cpu for ours, bare in costs):.2f} x"
    return Result(work, against, statistics.median(ratios), bar, rate=True, detail=detail)


# The bare drivers


class Bare(ABC):
    """Appends entries with the statement of the store, and nothing else."""

    what: str

    def __init__(self, url: str) -> None:
        self.url = url
        self.log = f"bare{secrets.token_hex(3)}"
        self.number = itertools.count(1)

    async def open(self) -> None:
        async with open_store(self.url) as store:
            await store.create_log(self.log)

    @abstractmethod
    async def append(self, entries: Sequence[bytes]) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...


class BareSQLite(Bare):
    what = "executemany and the same other statements in a transaction"

    async def open(self) -> None:
        await super().open()
        path = self.url.removeprefix("sqlite:///")
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.connection.execute("PRAGMA synchronous = NORMAL")
        query = "SELECT id FROM logs WHERE name = ?"
        [self.id] = self.connection.execute(query, (self.log,)).fetchone()
        self.last = 0

    async def append(self, entries: Sequence[bytes]) -> None:
        execute, now, first = self.connection.execute, time.time(), self.last + 1
        execute("BEGIN IMMEDIATE")
        self.connection.executemany(
            "INSERT INTO entries (log, position, time, value) VALUES (?, ?, ?, ?)",
            [(self.id, position, now, value) for position, value in enumerate(entries, first)],
        )
        self.last += len(entries)
        size = sum(map(len, entries))
        execute("UPDATE logs SET last = ?, size = size + ? WHERE id = ?", (self.last, size, self.id))
        execute(
            "INSERT OR REPLACE INTO producers (log, producer, number, first, time) VALUES (?, ?, ?, ?, ?)",
            (self.id, "bare", next(self.number), first, now),
        )
        execute("COMMIT")

    async def close(self) -> None:
        self.connection.close()


class BarePostgres(Bare):
    what = "asyncpg with the same statement"

    async def open(self) -> None:
        await super().open()
        self.connection = await asyncpg.connect(self.url)
        self.statement = postgres.APPEND.format("codomyrmex")

    async def append(self, entries: Sequence[bytes]) -> None:
        offsets = list(accumulate(map(len, entries), initial=0))
        number, joined = next(self.number), b"".join(entries)
        await self.connection.fetch(self.statement, self.log, "bare", number, joined, offsets)

    async def close(self) -> None:
        await self.connection.close()


class BareRedis(Bare):
    what = "redis-py with the same script"

    async def open(self) -> None:
        await super().open()
        self.client = redis.asyncio.from_url(self.url)
        kinds = ("log", "entries", "producers", "seen")
        self.keys = [f"{{codomyrmex}}:{kind}:{self.log}" for kind in kinds]
        await self.client.script_load(scripts.APPEND.text)

    async def append(self, entries: Sequence[bytes]) -> None:
        arguments: tuple[bytes | str | int, ...] = (*self.keys, "bare", next(self.number), *entries)
        assert await self.client.evalsha(scripts.APPEND.digest, 4, *arguments) > 0

    async def close(self) -> None:
        await self.client.aclose()


class BareNats(Bare):
    what = "nats-py with an atomic batch"

    async def open(self) -> None:
        place = urlsplit(self.url)
        server, password = f"nats://{place.hostname}:{place.port}", unquote(place.password or "")
        self.client = await nats.connect(
            server, user=place.username, password=password
        )  # it does not unquote
        config = {"name": self.log, "subjects": [self.log], "storage": "file", "allow_atomic": True}
        await self.ask(f"$JS.API.STREAM.CREATE.{self.log}", json.dumps(config).encode())

    async def ask(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        answer = json.loads((await self.client.request(subject, payload, 5, headers=headers)).data)
        assert "error" not in answer, answer

    async def append(self, entries: Sequence[bytes]) -> None:
        publish, subject, batch = self.client.publish, self.log, secrets.token_hex(6)
        for number, entry in enumerate(entries[:-1], 1):
            headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
            await publish(subject, entry, headers=headers)
        headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(len(entries)), "Nats-Batch-Commit": "1"}
        await self.ask(subject, entries[-1], headers)

    async def close(self) -> None:
        await self.client.close()


BARE: dict[str, type[Bare]] = {
    "sqlite": BareSQLite,
    "postgres": BarePostgres,
    "redis": BareRedis,
    "nats": BareNats,
}


@asynccontextmanager
async def bare_driver(kind: str, url: str) -> AsyncIterator[Bare]:
    driver = BARE[kind](url)
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


async def appending(kind: str, url: str) -> Result:
    calls = 4
    async with open_store(url) as store, bare_driver(kind, url) as driver:
        await store.create_log("appended")
        number, producer = itertools.count(1), secrets.token_hex(6)

        async def ours() -> int:
            for _ in range(calls):
                await store.append("appended", Batch(producer, next(number), ENTRIES))
            return calls * len(ENTRIES)

        async def bare() -> int:
            for _ in range(calls):
                await driver.append(ENTRIES)
            return calls * len(ENTRIES)

        measuring = in_turn(ours, bare, 25)
        thread = store.join_thread()  # where a stream uses the store; only SQLite has one
        costs = await (measuring if thread is None else asyncio.wrap_future(thread.submit(measuring)))
        store.leave_thread()
    what = f"append 500 ready entries, {NAMES[kind]}"
    return rates(what, driver.what, costs, bar=0.7, cpu=kind == "sqlite")


# Publishing. The baselines have ready rows, of which they store what waits in one step.


class GroupCommit:
    """One task that appends what waits, with a driver that does not block."""

    def __init__(self, driver: Bare) -> None:
        self.driver = driver
        self.waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self.news = asyncio.Event()
        self.task = asyncio.create_task(self.run())

    def put(self, row: bytes) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((row, future))
        self.news.set()
        return future

    async def run(self) -> None:
        while True:
            await self.news.wait()
            self.news.clear()
            while self.waiting:
                batch, self.waiting = self.waiting[:500], self.waiting[500:]
                await self.driver.append([row for row, _ in batch])
                for _, future in batch:
                    future.set_result(None)

    def close(self) -> None:
        self.task.cancel()


class SQLiteGroupCommit:
    """A thread that inserts what waits into a table of its own."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.jobs: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self.loop = asyncio.get_running_loop()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def put(self, row: bytes) -> asyncio.Future[None]:
        future = self.loop.create_future()
        self.jobs.put((row, future))
        return future

    def run(self) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE rows (position INTEGER PRIMARY KEY, time REAL, value BLOB)")
        while (job := self.jobs.get()) is not None:
            batch = [job]
            while len(batch) < 500 and not self.jobs.empty():
                batch.append(self.jobs.get())  # type: ignore[arg-type] # the last one comes alone
            connection.execute("BEGIN IMMEDIATE")
            now = time.time()
            connection.executemany(
                "INSERT INTO rows (time, value) VALUES (?, ?)", [(now, row) for row, _ in batch]
            )
            connection.execute("COMMIT")
            self.loop.call_soon_threadsafe(self.done, batch)
        connection.close()

    def done(self, batch: list[tuple[bytes, asyncio.Future[None]]]) -> None:
        for _, future in batch:
            future.set_result(None)

    def close(self) -> None:
        self.jobs.put(None)
        self.thread.join()


BARS_OF_PUBLISHING = ("sqlite", "postgres", "redis")


async def publishing(kind: str, url: str) -> list[Result]:
    each, alone = (100, 250) if kind == "sqlite" else (40, 100)
    async with AsyncExitStack() as stack:
        stream = await stack.enter_async_context(DurableStream(open_store(url), "published"))
        commits: GroupCommit | SQLiteGroupCommit
        if kind == "sqlite":
            commits = SQLiteGroupCommit(url.removeprefix("sqlite:///") + "-bare")
        else:
            commits = GroupCommit(await stack.enter_async_context(bare_driver(kind, url)))
        stack.callback(commits.close)
        rows = [encode_event(event) for event in EVENTS[:each]]

        async def publish(count: int) -> None:
            for event in EVENTS[:count]:
                await stream.publish(event)

        async def commit() -> None:
            for row in rows:
                await commits.put(row)

        async def ours() -> int:
            await asyncio.gather(*[publish(each) for _ in range(TASKS)])
            return TASKS * each

        async def bare() -> int:
            await asyncio.gather(*[commit() for _ in range(TASKS)])
            return TASKS * each

        async def sequential() -> int:
            await publish(alone)
            return alone

        costs = await in_turn(ours, bare, 25)
        against_sequential = await in_turn(ours, sequential, 7)
    what = f"await publish() from {TASKS} tasks, {NAMES[kind]}"
    driver = "a thread, executemany" if kind == "sqlite" else BARE[kind].what
    return [
        rates(
            what,
            f"group commit of ready rows: {driver} and futures",
            costs,
            bar=0.5,
            cpu=kind == "sqlite",
        ),
        rates("the same", "await publish() one after another", against_sequential, bar=3.0, cpu=False),
    ]


# Reading


async def fill(stream: DurableStream, count: int) -> None:
    for _ in range(count // len(EVENTS)):
        for event in EVENTS:
            stream.publish_nowait(event)
        await stream.flush()


async def replaying(url: str) -> Result:
    count = 100_000
    decode = msgspec.json.Decoder(Event).decode

    async with DurableStream(open_store(url)) as stream:
        await fill(stream, count)

    async def bare() -> int:
        connection, received = sqlite3.connect(url.removeprefix("sqlite:///")), 0

        def handler(_: Event) -> None:
            nonlocal received
            received += 1

        query = "SELECT position, time, value FROM entries WHERE log = 1 ORDER BY position"
        for _, _, value in connection.execute(query):
            handler(decode(value))
        connection.close()
        assert received == count
        return received

    async with DurableStream(open_store(url)) as stream:

        async def ours() -> int:
            received, finished = 0, asyncio.Event()

            def handler(_: Event) -> None:
                nonlocal received
                received += 1
                if received == count:
                    finished.set()

            subscription = await stream.subscribe(handler, after="earliest")
            await finished.wait()
            subscription.cancel()
            return received

        costs = await in_turn(ours, bare, 7)
    against = "a loop that selects each row and decodes it into an Event"
    return rates(f"replay {count:,} events to a handler, SQLite", against, costs, bar=0.6, cpu=True)


async def queued_sink(url: str) -> Result:
    durable_sink, memory_sink = NoOp(f"no-op-{secrets.token_hex(3)}"), NoOp()
    async with DurableStream(open_store(url), "queued") as durable, InMemoryStream() as memory:
        attachments: dict[Stream, Attachment] = {
            durable: attach(durable, durable_sink, policy=ROOMY),
            memory: attach(memory, memory_sink, policy=ROOMY),
        }
        for attachment in attachments.values():
            await attachment.start()

        async def deliver(stream: Stream, sink: NoOp) -> int:
            sink.sent = 0
            for event in EVENTS:
                stream.publish_nowait(event)
            assert await attachments[stream].flush()
            assert sink.sent == len(EVENTS)
            return sink.sent

        costs = await in_turn(
            lambda: deliver(durable, durable_sink), lambda: deliver(memory, memory_sink), rounds=15
        )
        for attachment in attachments.values():
            await attachment.aclose(0)
    what = "queued no-op sink, 5,000 events published to delivered, SQLite"
    return rates(what, "the same on a stream in memory", costs, bar=0.12, cpu=True)


# A store that is trimmed


def growing(path: Path) -> Iterator[Result]:
    count = 1_000_000
    program = [sys.executable, __file__, "grow", str(path), str(count)]
    lines = subprocess.run(program, capture_output=True, text=True, check=True).stdout.splitlines()
    samples = [[int(number) for number in line.split()] for line in lines]
    early, late = samples[: len(samples) // 4], samples[len(samples) // 2 :]
    for number, what in enumerate(("file size", "memory")):
        first, then = (max(sample[number] for sample in part) for part in (early, late))
        yield Result(
            f"{count:,} events, of which SQLite keeps 10,000: most {what} in the second half",
            "in the first quarter",
            then / first,
            1.5,
            rate=False,
            detail=f"{then / 2**20:.1f} MiB against {first / 2**20:.1f} MiB, {samples[-1][2] / 1000:.0f} s",
        )


async def grow(path: str, count: int) -> None:
    """Publish events, and write the size of the files, the most memory so far, and the milliseconds taken."""
    start = time.monotonic()
    retention = Retention(max_events=10_000)
    async with DurableStream(open_store(f"sqlite:///{path}"), retention=retention) as stream:
        for _ in range(count // 50_000):
            await fill(stream, 50_000)
            size = sum(file.stat().st_size for file in Path(path).parent.glob(f"{Path(path).name}*"))
            memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(size, memory, round(1000 * (time.monotonic() - start)), flush=True)


# From process to process

LATENCY = {"sqlite": 0.010, "postgres": 0.005, "redis": 0.002, "nats": None}


class Watched(NamedTuple):
    """What was measured with a handler in another process, in seconds; `idle` is a part of its time."""

    latency: float
    first: float
    idle: float


async def watching(urls: dict[str, str]) -> list[Result]:
    found = await asyncio.gather(*[watch(url) for url in urls.values()])
    results = []
    for kind, watched in zip(urls, found, strict=True):
        name, limit = NAMES[kind], LATENCY[kind]
        results += [
            Result(
                f"publish to a handler in another process, 20 events/s, {name}: p50",
                f"{(limit or 0.005) * 1000:.0f} ms",
                watched.latency / (limit or 0.005),
                1.0 if limit else None,
                rate=False,
                detail=f"{watched.latency * 1000:.2f} ms",
            ),
            Result(
                f"the first event after {IDLE + IDLE_MEASURED:.0f} s of silence, {name}",
                "100 ms",
                watched.first / 0.1,
                1.0 if limit else None,
                rate=False,
                detail=f"{watched.first * 1000:.1f} ms",
            ),
            Result(
                f"CPU time of a waiting process after {IDLE:.0f} s of silence, {name}",
                "1 % of a core",
                watched.idle / 0.01,
                1.0,
                rate=False,
                detail=f"{watched.idle * 100:.2f} %",
            ),
        ]
    return results


async def watch(url: str) -> Watched:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "watch", url), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout

    async def answer() -> float:
        return float(await process.stdout.readline())  # type: ignore[union-attr]

    async def cpu() -> float:
        process.stdin.write(b"\n")  # type: ignore[union-attr]
        return await answer()

    async def one() -> float:
        await stream.publish(create_event(time.monotonic()))
        return await answer()

    async with DurableStream(open_store(url), "watched") as stream:
        await answer()  # it is ready
        latencies = []
        for _ in range(80):
            latencies.append(await one())
            await asyncio.sleep(0.05 * random.uniform(0.9, 1.1))
        await asyncio.sleep(IDLE)
        before, start = await cpu(), time.monotonic()
        await asyncio.sleep(IDLE_MEASURED)
        idle = (await cpu() - before) / (time.monotonic() - start)
        first = await one()
        process.stdin.close()
        await process.wait()
    return Watched(statistics.median(latencies[10:]), first, idle)


async def receive(url: str) -> None:
    """Write the age of each event; and for each line of standard input the CPU time so far."""

    def handler(event: Event) -> None:
        print(time.monotonic() - event.data, flush=True)

    be_quiet()
    async with DurableStream(open_store(url), "watched") as stream:
        await stream.subscribe(handler)
        print(0, flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(time.process_time(), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["grow"]:
        asyncio.run(grow(sys.argv[2], int(sys.argv[3])))
    elif sys.argv[1:2] == ["watch"]:
        asyncio.run(receive(sys.argv[2]))
    else:
        for result in measure():
            bar = "" if result.bar is None else f"bar {result.bar}"
            print(result.work, f"{result.ratio:.2f} x {bar}", result.detail, sep="\n  ", flush=True)
