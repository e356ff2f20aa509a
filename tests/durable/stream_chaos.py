"""Processes that use a durable stream and are killed at random moments, and what they did to its promises.

`StreamChaos.run` starts publishers, a reader and three processes that deliver for two groups, kills, stops
and cuts them off from the server, lets them come to an end, and returns what contradicts the promises of
`DurableStream`. Each process is a command, with `tests` in PYTHONPATH:
`python -m durable.stream_chaos publisher URL FOLDER NAME SEED AFTER`.

They record what `durable.history` describes, and besides

| operation | fields | recorded |
| --- | --- | --- |
| stored | values | when `publish` or `flush` has returned |
| failed | value, error | when `publish` has raised an error |
| received | reader, value | by the handler of a subscription |
| sending | group, shard, values | when a sink is called with a batch |
| resumed | victim | when a process goes on that was stopped, by the process that stopped it |
| places | places: {group/shard: position} | now and then, by the process that kills the others |
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

from codomyrmex.integrations import Binding, DeliveryPolicy, Sink, attach
from codomyrmex.integrations.durable import DurableStream, Store, StoreUnavailableError, open_store
from codomyrmex.integrations.durable.admin import StreamAdmin
from codomyrmex.streaming import create_event
from durable.chaos import SECONDS, Chaos, Outcome
from durable.history import Recorder, check, read_history, recording
from durable.proxy import Proxy

T = TypeVar("T")

LOG, SINGLE, SHARDED, SHARDS = "events", "single", "sharded", 4
TIMEOUT = 2.0  # of `publish`
LATE = 20.0  # seconds more, as the machine is busy
STUCK = 20.0  # seconds in which a group delivers something
BATCH = {SINGLE: 5, SHARDED: 1}
IN_FLIGHT = {group: 2 * size for group, size in BATCH.items()}  # a batch is sent while a place is being saved


class Recording(Sink):
    """A sink that records what it is called with, and takes its time."""

    def __init__(self, group: str, recorder: Recorder, chance: random.Random) -> None:
        self.name, self.recorder, self.chance = group, recorder, chance

    async def send(self, events) -> None:
        shards: defaultdict[int, list[str]] = defaultdict(list)
        for event in events:
            key = event.metadata["key"] if self.name == SHARDED else ""
            shards[zlib.crc32(key.encode()) % SHARDS if key else 0].append(event.data)
        for shard, values in shards.items():
            self.recorder.note("sending", group=self.name, shard=shard, values=values)
        await asyncio.sleep(self.chance.random() * 0.005)


class Worker:
    """A process that uses a stream, and records what it does."""

    def __init__(
        self, stream: DurableStream, folder: Path, recorder: Recorder, chance: random.Random
    ) -> None:
        self.stream, self.folder, self.recorder, self.chance = stream, folder, recorder, chance
        self.name = recorder.process

    def event(self, value: str):
        return create_event(value, topic=f"t{self.chance.randrange(3)}", key=f"k{self.chance.randrange(9)}")

    async def until(self, name: str) -> None:
        while not (self.folder / name).exists():
            await asyncio.sleep(0.02)

    async def publish(self, task: int) -> None:
        """Publish one event after the other, each awaited."""
        number = 0
        while not (self.folder / "stop").exists():
            number += 1
            value = f"{self.name}:{task}.{number}"
            self.recorder.note("append", log=LOG, values=[value])
            begin = time.monotonic()
            try:
                await self.stream.publish(self.event(value))
            except StoreUnavailableError as error:
                self.recorder.note("failed", begin=begin, value=value, error=str(error))
            else:
                self.recorder.note("stored", begin=begin, value=value, values=[value])
            await asyncio.sleep(self.chance.random() * 0.02)

    async def publish_nowait(self) -> None:
        """Publish a few events at once, and wait until they are all in the store."""
        number = 0
        while not (self.folder / "stop").exists():
            number += 1
            values = [f"{self.name}:nowait.{number}.{index}" for index in range(self.chance.randint(1, 9))]
            self.recorder.note("append", log=LOG, values=values, order=self.name)
            begin = time.monotonic()
            for value in values:
                self.stream.publish_nowait(self.event(value))
            await self.stream.flush()
            self.recorder.note("stored", begin=begin, values=values)
            await asyncio.sleep(self.chance.random() * 0.05)
        assert self.stream.health().dropped == {}

    async def work(self) -> None:
        await asyncio.gather(self.publish(1), self.publish(2), self.publish_nowait())

    async def read(self, after: str) -> None:
        """Receive everything after a position."""

        async def handle(event) -> None:
            self.recorder.note("received", reader=self.name, value=event.data)
            if self.chance.random() < 0.01:
                await asyncio.sleep(0.05)

        begin = 0 if after == "earliest" else int(after.rpartition(":")[2])
        self.recorder.note("start", log=LOG, reader=self.name, after=begin)
        while True:
            try:
                await self.stream.subscribe(handle, after=after)
            except StoreUnavailableError:
                continue
            break
        await self.until("end")
        await self.stream.aclose()
        assert self.stream.health().missed == 0
        self.recorder.note("finished", log=LOG, reader=self.name)

    async def deliver(self) -> None:
        """Deliver the events of both groups, when this process gets their leases."""
        bindings = [
            Binding(
                Recording(group, self.recorder, self.chance),
                policy=DeliveryPolicy(
                    batch_size=BATCH[group], batch_age=0.01, backoff_initial=0.05, open="retry"
                ),
                shards=SHARDS if group == SHARDED else 1,
                shard_by="key" if group == SHARDED else "topic",
                after="earliest",
            )
            for group in (SINGLE, SHARDED)
        ]
        async with attach(self.stream, *bindings):
            await self.until("end")


async def work(role: str, url: str, folder: Path, name: str, seed: str, after: str) -> None:
    with recording(folder / f"{name}.jsonl", name) as recorder:
        stream = DurableStream(open_store(url), LOG, lease=SECONDS, publish_timeout=TIMEOUT)
        worker = Worker(stream, folder, recorder, random.Random(seed))
        while True:
            try:
                await stream.open()
            except StoreUnavailableError:
                continue
            break
        try:
            if role == "publisher":
                await worker.work()
            elif role == "reader":
                await worker.read(after)
            else:
                await worker.deliver()
        finally:
            await stream.aclose()


class StreamChaos(Chaos):
    """The processes of a run; `run` says how it went."""

    WORKERS = ("publisher-1", "publisher-2", "reader-1", "holder-1", "holder-2", "holder-3")
    DISTANT = ("publisher-2", "reader-1", "holder-2")  # behind a proxy

    def __init__(self, place, folder: Path, seed: int) -> None:
        super().__init__(place, folder, seed)
        self.positions: dict[str, int] = {}
        self.doubles: list[str] = []
        self.proxy: Proxy | None = None

    def run(self, kills: int) -> Outcome:
        with ExitStack() as ends:
            self.recorder = ends.enter_context(recording(self.folder / "chaos.jsonl", "chaos"))
            if self.place.server:
                self.proxy = ends.enter_context(Proxy(self.place.server.port))
            try:
                self.play(kills)
            finally:
                for process in self.processes.values():
                    if process.poll() is None:
                        process.kill()
                        process.wait()
        records = read_history(self.folder)
        operations = Counter(record["op"] for record in records)
        return Outcome(list(self.problems(records)), operations, self.faults)

    def play(self, kills: int) -> None:
        for worker in reversed(self.WORKERS):
            self.start(worker)
        self.wait_for("stored", 20)
        self.wait_for("sending", 20)
        server = ["server"] if self.place.server else []
        for number in range(kills):
            self.pass_time()
            roles = ["publisher", "reader", "holder", *server]
            self.kill(roles[number % len(roles)])
            if number % 4 == 1:
                self.pass_time()
                self.halt("holder")
            elif number % 4 == 3 and server:
                self.pass_time()
                self.halt("server")
            if self.proxy is not None and number % 2 == 0:
                self.pass_time()
                self.disturb()
        self.pass_time()
        self.finish()

    def start(self, worker: str) -> None:
        self.lives[worker] += 1
        name = f"{worker}-{self.lives[worker]}"
        role, after, url = worker.partition("-")[0], "earliest", self.place.url
        if role == "reader" and self.lives[worker] > 1:  # goes on where its last life ended
            received = [
                record["value"] for record in self.records(f"{worker}-*") if record["op"] == "received"
            ]
            if received:
                bounds = self.ask(self.scan)
                after = f"{bounds.epoch}:{self.positions[received[-1]]}"
        if self.proxy is not None and worker in self.DISTANT:
            url = self.proxy.url(url)
        with (self.folder / f"{name}.err").open("wb") as errors:
            self.processes[worker] = subprocess.Popen(
                [
                    *(sys.executable, "-m", "durable.stream_chaos", role, url, str(self.folder), name),
                    *(f"{self.seed} {name}", after),
                ],
                stdout=errors,
                stderr=errors,
                env={
                    **os.environ,
                    "PYTHONPATH": str(Path(__file__).parent.parent),
                    "CODOMYRMEX_PROCESS": name,
                },
            )

    def ask(self, question: Callable[[Store], Awaitable[T]]) -> T:
        """Ask the store something, beside the proxy."""

        async def run() -> T:
            async with open_store(self.place.url) as store:
                return await question(store)

        return asyncio.run(run())

    async def scan(self, store: Store) -> Any:
        """Note the positions of what has been appended since the last time."""
        bounds = await store.create_log(LOG)
        after = max(self.positions.values(), default=0)
        async for position, _, value in StreamAdmin(store, LOG).entries(LOG, after):
            data = value.decode().partition('"data":"')[2].partition('"')[0]
            if data in self.positions:
                self.doubles.append(f"{data} is at {self.positions[data]} and at {position}")
            self.positions[data] = position
        return bounds

    def victim(self, role: str) -> str:
        """Choose a process; of those who deliver, one that holds a lease."""
        chosen = self.chance.choice([worker for worker in self.WORKERS if worker.startswith(role)])
        if role == "holder":
            group = self.chance.choice([SINGLE, SHARDED])
            leases = self.ask(lambda store: store.leases(f"{LOG}/group/{group}/shard/"))
            names = [lease.owner.partition("#")[0].rpartition("-")[0] for lease in leases]
            chosen = self.chance.choice(names or [chosen])
        return chosen

    def kill(self, role: str) -> None:
        self.note_places()
        super().kill(role)
        self.note_places()

    def halt(self, role: str) -> None:
        if role == "server":
            super().halt(role)
            return
        self.faults[f"{role} stopped"] += 1
        victim = self.victim(role)
        process = self.processes[victim]
        process.send_signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.8, 2.5) * SECONDS)
        self.recorder.note("resumed", victim=f"{victim}-{self.lives[victim]}")
        process.send_signal(signal.SIGCONT)

    def disturb(self) -> None:
        """Disturb the connections of some processes for a while."""
        what = self.chance.choice(["cut", "stall", "lose_answer", "delay"])
        self.faults[f"connections: {what}"] += 1
        if what == "delay":
            self.proxy.delay(self.chance.uniform(0.01, 0.2))
        elif what == "lose_answer":
            self.proxy.lose_answer(self.chance.randrange(9))
        else:
            getattr(self.proxy, what)()
        time.sleep(self.chance.uniform(0.1, 2.5))
        self.proxy.heal()

    def note_places(self) -> dict[str, int]:
        groups = self.ask(lambda store: StreamAdmin(store, LOG).saved_groups())
        places = {
            f"{group.name}/{shard}": place.position
            for group in groups
            for shard, place in enumerate(group.places)
        }
        self.recorder.note("places", places=places)
        return places

    def finish(self) -> None:
        (self.folder / "stop").touch()
        for worker in self.WORKERS[:2]:
            self.expect_end(worker, 0)
        last = self.ask(self.scan).last
        reached, since = 0, time.monotonic()
        while min((places := self.note_places()).values()) < last:
            if sum(places.values()) > reached:
                reached, since = sum(places.values()), time.monotonic()
            elif time.monotonic() - since > STUCK:
                self.doubles.append(f"the groups do not go on: they are at {places} of {last}")
                break
            time.sleep(0.1)
        (self.folder / "end").touch()
        for worker in self.WORKERS[2:]:
            self.expect_end(worker, 0)

    # What contradicts the promises

    def problems(self, records: list[dict]) -> Iterator[str]:
        yield from self.doubles
        yield from self.time_problems(records)
        known = []
        for record in records:
            known += self.with_positions(record)
        lost = [value for record in known if record["op"] == "lost" for value in record["values"]]
        yield from (f"{value} was acknowledged and is not in the log" for value in lost)
        yield from check(known)
        yield from self.order_problems(records)
        for group in (SINGLE, SHARDED):
            yield from self.group_problems(group, records)
        yield from self.place_problems(records)

    def with_positions(self, record: dict) -> Iterator[dict]:
        """Add to a record what `history.check` knows, now that the positions of all values are known."""
        yield record
        if record["op"] == "stored":
            for value in record["values"]:
                position = self.positions.get(value)
                fields = {"op": "lost" if position is None else "acked", "first": position}
                yield {**record, "log": LOG, "values": [value], **fields}
        elif record["op"] == "received":
            position = self.positions.get(record["value"], -1)
            yield {**record, "op": "read", "entries": [[position, record["value"]]], "log": LOG}

    @staticmethod
    def time_problems(records: list[dict]) -> Iterator[str]:
        """Find calls of `publish` that took too long."""
        for record in records:
            if record["op"] == "failed" or (record["op"] == "stored" and "value" in record):
                seconds = record["end"] - record["begin"]
                if seconds > TIMEOUT + LATE:
                    yield f"publish of {record['value']} returned after {seconds:.1f}s"

    @staticmethod
    def place_problems(records: list[dict]) -> Iterator[str]:
        """Find places of groups that went back."""
        highest: dict[str, int] = {}
        for record in records:
            if record["op"] == "places":
                for name, position in record["places"].items():
                    if position < highest.get(name, 0):
                        yield f"the place of {name} went back from {highest[name]} to {position}"
                    highest[name] = max(position, highest.get(name, 0))

    def order_problems(self, records: list[dict]) -> Iterator[str]:
        """Find events of `publish_nowait` that changed places."""
        last: dict[str, int] = {}
        for record in records:
            if record["op"] == "append" and "order" in record:
                for value in record["values"]:
                    position = self.positions.get(value)
                    if position is not None:
                        if position <= last.get(record["order"], 0):
                            yield f"{value} at {position} came after {last[record['order']]}"
                        last[record["order"]] = position

    def group_problems(self, group: str, records: list[dict]) -> Iterator[str]:
        """Find events that a group did not deliver, or not in order, or again although not in flight."""
        sends: defaultdict[int, list[dict]] = defaultdict(list)
        for record in records:
            if record["op"] == "sending" and record["group"] == group:
                sends[record["shard"]].append(record)
        resumed = [(record["victim"], record["end"]) for record in records if record["op"] == "resumed"]
        delivered: set[int] = set()
        for shard, batches in sends.items():
            for batch, problem in self.shard_problems(group, batches):
                in_hands = [
                    each
                    for each in resumed
                    if each[0] == batch["process"] and 0 <= batch["begin"] - each[1] < SECONDS / 2
                ]
                if in_hands:  # one batch may have been in its hands when it was stopped
                    resumed.remove(in_hands[0])
                    continue
                yield f"group {group}, shard {shard}, {batch['process']} at {batch['begin']:.3f}: {problem}"
            delivered |= {self.positions[value] for batch in batches for value in batch["values"]}
        missing = sorted(set(self.positions.values()) - delivered)
        if missing:
            yield f"group {group} never delivered {len(missing)} events, such as {missing[:5]}"

    def shard_problems(self, group: str, batches: list[dict]) -> Iterator[tuple[dict, str]]:
        """Find the batches that do not follow those before them."""
        known = sorted({self.positions[value] for batch in batches for value in batch["values"]})
        rank = {position: number for number, position in enumerate(known)}
        done = 0  # so many of `known` have been sent
        for batch in batches:
            ranks = [rank[self.positions[value]] for value in batch["values"]]
            if ranks[0] > done:
                yield batch, f"passed over {ranks[0] - done} events before {batch['values'][0]}"
            elif ranks != list(range(ranks[0], ranks[0] + len(ranks))):
                yield batch, f"{batch['values']} are in another order than in the log"
            elif done - ranks[0] > IN_FLIGHT[group]:
                yield batch, f"repeated {done - ranks[0]} events from {batch['values'][0]} on"
            done = max(done, ranks[-1] + 1)


if __name__ == "__main__":
    role, url, folder, name, seed, after = sys.argv[1:]
    with suppress(KeyboardInterrupt):
        asyncio.run(work(role, url, Path(folder), name, seed, after))
