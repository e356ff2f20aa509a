"""Stores that several processes use at once: writers and a reader, opening, forks."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import textwrap

import pytest
from codomyrmex.integrations.durable.store import Batch
from durable.stores import leaks
from helpers import DEADLINE

LONG = 60.0

WRITER = """
    import asyncio, sys
    from codomyrmex.integrations.durable import open_store
    from codomyrmex.integrations.durable.store import Batch

    async def main(url, name, batches, size):
        async with open_store(url) as store:
            await store.create_log("log")
            print("ready", flush=True)
            sys.stdin.readline()
            for number in range(1, batches + 1):
                entries = [f"{name} {number} {index}".encode() for index in range(size)]
                print(number, await store.append("log", Batch(name, number, entries)), flush=True)

    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
"""

OPENER = """
    import asyncio, sys
    from codomyrmex.integrations.durable import open_store
    from codomyrmex.integrations.durable.store import Batch

    async def main(url, name):
        store = open_store(url)
        print("ready", flush=True)
        sys.stdin.readline()
        async with store:
            bounds = await store.create_log("log")
            await store.append("log", Batch(name, 1, [name.encode()]))
            print(bounds.epoch, flush=True)

    asyncio.run(main(*sys.argv[1:]))
"""


class Program:
    """A Python program in a process of its own that says "ready", waits for a line and goes on."""

    def __init__(self, code, *args):
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_until_ready(self):
        assert self.process.stdout.readline() == "ready\n"

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def lines(self):
        output, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        return output.splitlines()


def start_together(programs):
    for program in programs:
        program.wait_until_ready()
    for program in programs:
        program.go_on()


async def test_a_reader_that_follows_writers_in_processes_sees_every_entry_once_and_in_order(store, place):
    writers, batches, size = 2, 60, 7
    await store.create_log("log")
    programs = [Program(WRITER, place.url, f"writer{number}", batches, size) for number in range(writers)]
    await asyncio.to_thread(start_together, programs)
    entries = []
    async with asyncio.timeout(30):
        while len(entries) < writers * batches * size:
            entries += await store.read("log", len(entries), 50)
            await store.wait("log", len(entries), 1.0)
    assert [entry.position for entry in entries] == list(range(1, writers * batches * size + 1))
    found = {entry.position: entry.value.decode() for entry in entries}
    for number, program in enumerate(programs):
        acknowledged = [tuple(map(int, line.split())) for line in program.lines()]
        assert [batch for batch, _ in acknowledged] == list(range(1, batches + 1))
        assert [first for _, first in acknowledged] == sorted(first for _, first in acknowledged)
        for batch, first in acknowledged:
            for index in range(size):
                assert found[first + index] == f"writer{number} {batch} {index}"


async def test_several_processes_can_open_a_store_that_is_new(place):
    programs = [Program(OPENER, place.url, f"opener{number}") for number in range(3)]
    await asyncio.to_thread(start_together, programs)
    epochs = {line for program in programs for line in await asyncio.to_thread(program.lines)}
    assert len(epochs) == 1
    async with place.store() as store:
        assert {entry.value for entry in await store.read("log", 0, 10)} == {
            b"opener%d" % number for number in range(3)
        }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12, about threads
async def test_children_use_the_store_while_their_parent_goes_on(place):
    store = place.store()
    await store.open()
    await store.create_log("log")
    await store.append("log", Batch("parent", 1, [b"before"]))
    following = asyncio.create_task(follow(store))
    await asyncio.sleep(0.05)
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=run_child, args=(store, f"child{number}")) for number in range(6)]
    for number, child in enumerate(children):
        child.start()
        for index in range(5):
            await store.append("log", Batch("parent", 2 + number * 5 + index, [b"parent"]))
    for child in children:
        await asyncio.to_thread(child.join, 20)
        assert child.exitcode == 0
    for number in range(32, 61):
        await store.append("log", Batch("parent", number, [b"parent"]))
    async with asyncio.timeout(20):
        assert await following == 120
    entries = await store.read("log", 0, 1_000)
    assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry.value for entry in entries].count(b"parent") == 59
    assert [entry.value for entry in entries].count(b"child") == 60
    lease = await store.acquire("lease", "parent", LONG)
    await store.save(lease, {"value": b"parent"})
    assert await store.load("") == {"value": b"parent"}
    await store.close()


async def follow(store):
    position = 0
    while position < 120:
        entries = await store.read("log", position, 10)
        position += len(entries)
        await store.wait("log", position, 0.5)
    return position


def run_child(store, name):
    async def main():
        store.abandon()
        await store.open()
        for number in range(1, 11):
            await store.append("log", Batch(name, number, [b"child"]))
        lease = await store.acquire(f"lease/{name}", name, LONG)
        await store.save(lease, {"value": b"child"})
        await store.release(lease)
        await store.close()

    asyncio.run(main())


def test_a_program_that_ends_without_closing_its_store_ends_soon_and_silently(place):
    program = subprocess.run(
        [sys.executable, "-W", "default", "-c", textwrap.dedent(FORGETFUL), place.url],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    assert program.stdout == "1\n"
    assert leaks(program.stderr) == []
    assert "Traceback" not in program.stderr


FORGETFUL = """
    import asyncio, sys
    from codomyrmex.integrations.durable import open_store
    from codomyrmex.integrations.durable.store import Batch

    async def main():
        store = open_store(sys.argv[1])
        await store.open()
        await store.create_log("log")
        waiting = asyncio.create_task(store.wait("log", 100, 60))
        await asyncio.sleep(0.05)
        print(await store.append("log", Batch("p", 1, [b"x"])))

    asyncio.run(main())
"""
