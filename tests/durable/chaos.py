"""Processes that use a store and are killed at random moments, and a history of what they did.

`Chaos.run` starts writers, a reader and two processes that compete for a lease, kills and stops them and the
server, starts them again, lets them come to an end, and returns what contradicts the promises of stores. Each
process is a command, with `tests` in PYTHONPATH: `python -m durable.chaos writer URL FOLDER NAME SEED AFTER`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from codomyrmex.integrations.durable import LeaseLostError, Store, StoreUnavailableError, open_store
from codomyrmex.integrations.durable.store import Batch, Lease
from durable.history import Recorder, check, read_history, recording

T = TypeVar("T")

LOG, GROUP, LEASE = "events", "group", "group/lease"
SECONDS = 1.0  # of the leases
PATIENCE = 60.0


class Worker:
    """A process that uses a store: it tries again while the store is away, and records what it does."""

    def __init__(self, store: Store, folder: Path, recorder: Recorder, chance: random.Random) -> None:
        self.store, self.folder, self.recorder, self.chance = store, folder, recorder, chance
        self.name = recorder.process

    async def retry(self, operation: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await operation()
            except StoreUnavailableError:
                await asyncio.sleep(0.02)

    @property
    def stopped(self) -> bool:
        """Whether nothing more is to be appended."""
        return (self.folder / "stop").exists()

    @property
    def end(self) -> float:
        """The last position, once it is known."""
        with suppress(FileNotFoundError, ValueError):
            return int((self.folder / "end").read_text())
        return float("inf")

    async def write(self) -> None:
        """Append batches; one whose answer was lost is repeated."""
        number = 0
        while not self.stopped:
            number += 1
            values = [f"{self.name}:{number}.{index}" for index in range(self.chance.randint(1, 6))]
            batch = Batch(self.name, number, [value.encode() for value in values])
            self.recorder.note("append", log=LOG, values=values)
            begin = time.monotonic()
            first = await self.retry(lambda batch=batch: self.store.append(LOG, batch))
            self.recorder.note("acked", begin=begin, log=LOG, values=values, first=first)
            await asyncio.sleep(self.chance.random() * 0.02)

    async def read(self, after: int) -> None:
        """Follow the log from a position to its end."""
        self.recorder.note("start", log=LOG, reader=self.name, after=after)
        while after < self.end:
            entries = await self.retry(lambda after=after: self.store.read(LOG, after, 50))
            if entries:
                after = entries[-1].position
                found = [(entry.position, entry.value.decode()) for entry in entries]
                self.recorder.note("read", log=LOG, reader=self.name, entries=found)
            else:
                await self.retry(lambda after=after: self.store.wait(LOG, after, 0.2))
        self.recorder.note("finished", log=LOG, reader=self.name)

    async def deliver(self) -> None:
        """Deliver the entries for a group whenever its lease can be had."""
        position = 0
        while position < self.end:
            begin = time.monotonic()
            lease = await self.retry(lambda: self.store.acquire(LEASE, self.name, SECONDS))
            if lease is None:
                await asyncio.sleep(0.05)
                position = await self.saved_position()
                continue
            self.note_lease("acquired", lease, begin)
            with suppress(LeaseLostError):
                position = await self.hold(lease, begin)

    def note_lease(self, operation: str, lease: Lease, begin: float) -> None:
        self.recorder.note(operation, begin=begin, **lease._asdict(), seconds=SECONDS)

    async def saved_position(self) -> int:
        begin = time.monotonic()
        values = await self.retry(lambda: self.store.load("position/"))
        found = {name: value.decode() for name, value in values.items()}
        self.recorder.note("loaded", begin=begin, prefix="position/", values=found)
        assert len(set(found.values())) <= 1, f"saved in one step, but loaded {found}"
        return int(found["position/a"].partition(" ")[0]) if found else 0

    async def hold(self, lease: Lease, begin: float) -> int:
        """Deliver until the end or until the lease ends, which a careless holder only notices by a save."""
        position, number, expires = await self.saved_position(), 0, begin + SECONDS
        give_up = time.monotonic() + self.chance.uniform(0.5, 8)
        careless = self.chance.random() < 0.5
        while position < self.end and time.monotonic() < give_up and (careless or time.monotonic() < expires):
            entries = await self.retry(lambda after=position: self.store.read(LOG, after, 20))
            for entry in entries:
                position = entry.position
                where = {"log": LOG, "group": GROUP, "token": lease.token, "position": position}
                self.recorder.note("delivered", **where, value=entry.value.decode())
            if entries:
                number += 1
                await self.save(lease, f"{position} {lease.token}.{number}.{self.name}")
            else:
                await self.retry(lambda after=position: self.store.wait(LOG, after, 0.1))
            begin = time.monotonic()
            if expires - SECONDS * 2 / 3 < begin < expires:
                with suppress(StoreUnavailableError):
                    await self.store.renew(lease, SECONDS)
                    self.note_lease("renewed", lease, begin)
                    expires = begin + SECONDS
        self.note_lease("releasing", lease, time.monotonic())
        with suppress(StoreUnavailableError):
            await self.store.release(lease)
        return position

    async def save(self, lease: Lease, value: str) -> None:
        values = {"position/a": value, "position/b": value}
        fields = {"name": lease.name, "token": lease.token, "values": values}
        self.recorder.note("saving", **fields)
        begin = time.monotonic()
        with suppress(StoreUnavailableError):  # then the entries may be delivered again
            await self.store.save(lease, {name: value.encode() for name, value in values.items()})
            self.recorder.note("saved", begin=begin, **fields)


async def work(role: str, url: str, folder: Path, name: str, seed: str, *, after: int) -> None:
    with recording(folder / f"{name}.jsonl", name) as recorder:
        store = open_store(url)
        worker = Worker(store, folder, recorder, random.Random(seed))
        await worker.retry(store.open)
        await worker.retry(lambda: store.create_log(LOG))
        if role == "writer":
            await worker.write()
        elif role == "reader":
            await worker.read(after)
        else:
            await worker.deliver()
        await store.close()


class Outcome(NamedTuple):
    """What happened in a run.

    Attributes:
        findings: what contradicts the promises.
        operations: how many records there are of each operation.
        faults: how many times each of the processes was killed or stopped.
    """

    findings: list[str]
    operations: Counter[str]
    faults: Counter[str]


class Chaos:
    """The processes of a run.

    Args:
        place: where the store is; it has `url` and `server`.
        folder: for the histories.
        seed: of the moments and of what the processes do.
    """

    WORKERS = ("writer-1", "writer-2", "reader", "holder-1", "holder-2")

    def __init__(self, place, folder: Path, seed: int) -> None:
        self.place, self.folder, self.seed = place, folder, seed
        self.chance = random.Random(seed)
        self.lives: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, kills: int) -> Outcome:
        try:
            for worker in self.WORKERS:
                self.start(worker)
            self.wait_for("acked", 20)
            for number in range(kills):
                self.pass_time()
                roles = ["writer", "reader", "holder", *(["server"] if self.place.server else [])]
                self.kill(roles[number % len(roles)])
                if number % 4 == 3:  # a lease is lost by its holder
                    self.pass_time()
                    self.halt("holder")
                elif self.chance.random() < 0.2:
                    self.pass_time()
                    self.halt(self.chance.choice(roles))
            self.pass_time()
            self.finish()
        finally:
            for process in self.processes.values():
                if process.poll() is None:
                    process.kill()
                    process.wait()
        records = read_history(self.folder)
        operations = Counter(record["op"] for record in records)
        return Outcome(check(records), operations, self.faults)

    def start(self, worker: str) -> None:
        role = worker.partition("-")[0]
        self.lives[worker] += 1
        name = f"{worker}-{self.lives[worker]}"
        after = 0
        if role == "reader" and self.lives[worker] > 1:  # goes on where its last life ended
            before = read_history(self.folder)
            after = max((record["entries"][-1][0] for record in before if record["op"] == "read"), default=0)
        with (self.folder / f"{name}.err").open("wb") as errors:
            self.processes[worker] = subprocess.Popen(
                [
                    *(sys.executable, "-m", "durable.chaos", role, self.place.url, str(self.folder), name),
                    *(f"{self.seed} {name}", str(after)),
                ],
                stderr=errors,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
            )

    def pass_time(self) -> None:
        time.sleep(self.chance.uniform(0.05, 0.7))

    def victim(self, role: str) -> str:
        """Choose a process; of those who compete for the lease the one that has it."""
        chosen = self.chance.choice([worker for worker in self.WORKERS if worker.startswith(role)])
        if role == "holder":
            held = [record["owner"] for record in self.records("holder-*") if record["op"] == "acquired"]
            if held:
                chosen = held[-1].rpartition("-")[0]
        return chosen

    def records(self, pattern: str) -> list[dict]:
        """Return what processes have recorded until now, with the last of it at the end."""
        found = []
        for path in self.folder.glob(f"{pattern}.jsonl"):
            found += [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        return sorted(found, key=lambda record: record["end"])

    def kill(self, role: str) -> None:
        self.faults[f"{role} killed"] += 1
        if role == "server":
            self.place.server.kill()
            time.sleep(self.chance.random() * 0.3)
            self.place.server.start()
        else:
            victim = self.victim(role)
            self.processes[victim].kill()
            self.expect_end(victim, -signal.SIGKILL)
            self.start(victim)

    def halt(self, role: str) -> None:
        """Stop a process, for longer than a lease or nearly, and let it go on."""
        self.faults[f"{role} stopped"] += 1
        if role == "server":
            self.place.server.pause()
            time.sleep(self.chance.uniform(0.2, 1.2) * SECONDS)
            self.place.server.resume()
        else:
            process = self.processes[self.victim(role)]
            process.send_signal(signal.SIGSTOP)
            time.sleep(self.chance.uniform(0.8, 2.5) * SECONDS)
            process.send_signal(signal.SIGCONT)

    def finish(self) -> None:
        (self.folder / "stop").touch()
        for worker in self.WORKERS[:2]:
            self.expect_end(worker, 0)
        last = asyncio.run(self.last_position())
        (self.folder / "end.new").write_text(str(last))
        (self.folder / "end.new").rename(self.folder / "end")
        for worker in self.WORKERS[2:]:
            self.expect_end(worker, 0)

    async def last_position(self) -> int:
        async with open_store(self.place.url) as store:
            bounds = await store.create_log(LOG)
            with recording(self.folder / "chaos.jsonl", "chaos") as recorder:
                recorder.note("group", log=LOG, group=GROUP, after=0)
            return bounds.last

    def expect_end(self, worker: str, code: int) -> None:
        process = self.processes[worker]
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        if process.returncode != code:
            errors = (self.folder / f"{worker}-{self.lives[worker]}.err").read_text()
            raise AssertionError(
                f"seed {self.seed}: {worker} ended with {process.returncode}, not {code}\n{errors[-3000:]}"
            )

    def wait_for(self, operation: str, number: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while sum(record["op"] == operation for record in self.records("*")) < number:
            assert time.monotonic() < deadline, f"{operation} did not happen {number} times"
            time.sleep(0.05)


if __name__ == "__main__":
    role, url, folder, name, seed, after = sys.argv[1:]
    asyncio.run(work(role, url, Path(folder), name, seed, after=int(after)))
