"""Circuit breakers of real processes on one SQLite file; some are forked, and all are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress

import pytest
from codomyrmex.integrations.durable import DurableStream, SQLiteStore
from codomyrmex.integrations.service_mesh import CircuitBoard
from helpers import DEADLINE

LEASE = 1.0
SLACK = DEADLINE  # for a machine with other work
PROGRAM = """
    import os, signal, sys
    import pybreaker
    from codomyrmex.integrations.durable import DurableStream, SQLiteStore
    from codomyrmex.integrations.service_mesh import attach_pybreaker

    path, lease, children = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    stream = DurableStream(SQLiteStore(path), lease=lease)
    orders, search, quiet = [
        pybreaker.CircuitBreaker(name=name, reset_timeout=3600) for name in ("orders", "search", "quiet")
    ]
    signals = {signal.SIGUSR1, signal.SIGUSR2}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    if children:  # as a server that loads the application before it forks
        for breaker in (orders, search, quiet):
            attach_pybreaker(breaker, stream)
    for _ in range(children):
        if not os.fork():
            break
    else:
        if children:
            os.write(1, b"parent %d\\n" % os.getpid())
            signal.pause()
    if not children:
        for breaker in (orders, search, quiet):
            attach_pybreaker(breaker, stream)
    orders.half_open()
    orders.close()
    os.write(1, b"ready %d\\n" % os.getpid())  # in one piece, as several processes write to this pipe
    while True:
        if signal.sigwait(signals) == signal.SIGUSR1:
            orders.open()
            search.open()
            search.half_open()
        else:
            orders.close()
            search.close()
"""


class Workers:
    """Worker processes, by their number."""

    def __init__(self, path):
        self.path = path
        self.started: list[subprocess.Popen[str]] = []
        self.running: set[int] = set()

    def start(self, *children):
        """Start workers at the same time, each with that many children, and return the pids that work."""
        started = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(PROGRAM), str(self.path), str(LEASE), str(number)],
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for number in children
        ]
        self.started += started
        lines = [
            process.stdout.readline().split()
            for process, number in zip(started, children, strict=True)
            for _ in range(number + 1)
        ]
        self.running |= {int(pid) for _, pid in lines}
        return [int(pid) for word, pid in lines if word == "ready"]

    def kill(self, pid):
        self.running.remove(pid)
        os.kill(pid, signal.SIGKILL)

    def close(self):
        for process in self.started:
            with suppress(ProcessLookupError):  # none of its group is left
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()


@pytest.fixture
def workers(tmp_path):
    workers = Workers(tmp_path / "events.db")
    yield workers
    workers.close()


def summaries(board):
    return {status.breaker: status.summary for status in board.snapshot()}


async def wait_for(read, expected, limit=LEASE + SLACK):
    """Wait until an async function returns what is expected; return how many seconds that took."""
    began = time.monotonic()
    while (found := await read()) != expected:
        assert time.monotonic() - began < limit, f"{found}, expected {expected}"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def resolved_as_ended(stream):
    """Return the alerts that another process has resolved; at least once each, so that it may be twice."""
    events = [record.event for record in await stream.read(limit=10_000)]
    labels = [e.metadata["labels"] for e in events if e.data["native_state"] == "process ended"]
    return {(label["instance"].partition(":")[2], label["breaker"]) for label in labels}


def left(*pids):
    return {(str(pid), breaker) for pid in pids for breaker in ("orders", "search")}


async def test_killed_processes_are_not_counted_and_their_alerts_are_resolved(workers):
    first, second, third, _ = workers.start(0, 0, 0, 0)
    async with DurableStream(SQLiteStore(workers.path), lease=LEASE) as stream:
        with CircuitBoard(stream) as board:

            async def shown():
                return summaries(board)

            for pid in (first, second, third):
                os.kill(pid, signal.SIGUSR1)
            both = {"orders": "open in 3 of 4 processes", "search": "half open in 3 of 4 processes"}
            await wait_for(shown, {**both, "quiet": "closed"})
            os.kill(second, signal.SIGUSR2)
            both = {"orders": "open in 2 of 4 processes", "search": "half open in 2 of 4 processes"}
            await wait_for(shown, {**both, "quiet": "closed"})
            workers.kill(first)
            workers.kill(second)
            both = {"orders": "open in 1 of 2 processes", "search": "half open in 1 of 2 processes"}
            seconds = await wait_for(shown, {**both, "quiet": "closed"})
            print(f"not counted {seconds:.1f}s after the kill")

            async def ended():
                return await resolved_as_ended(stream)

            await wait_for(ended, left(first))
            forked, _ = workers.start(2)  # their parent has these breakers too
            os.kill(forked, signal.SIGUSR1)
            both = {"orders": "open in 2 of 5 processes", "search": "half open in 2 of 5 processes"}
            await wait_for(shown, {**both, "quiet": "closed"})
            names = {name for status in board.snapshot() for name in status.instances}
            assert {int(name.partition(":")[2]) for name in names} == workers.running
            workers.kill(forked)
            await wait_for(ended, left(first, forked))
    for pid in tuple(workers.running):
        workers.kill(pid)
    async with DurableStream(SQLiteStore(workers.path), lease=LEASE) as stream:

        async def ended():
            return await resolved_as_ended(stream)

        await asyncio.sleep(LEASE)
        assert await ended() == left(first, forked)  # nobody is left who could
        workers.start(0)
        seconds = await wait_for(ended, left(first, forked, third))
        print(f"resolved {seconds:.1f}s after a process has started")
