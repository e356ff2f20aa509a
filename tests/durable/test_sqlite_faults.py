"""What only a file has: a full disk, damage, and being removed or replaced while it is open."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import textwrap

import pytest
from codomyrmex.integrations.durable import StoreConfigError, StoreUnavailableError, open_store
from codomyrmex.integrations.durable.store import Batch
from helpers import DEADLINE


async def filled(path, entries=2_000):
    async with open_store(f"sqlite:///{path}") as store:
        await store.create_log("log")
        for number in range(1, entries // 500 + 1):
            await store.append("log", Batch("p", number, [b"x" * 100] * 500))
        lease = await store.acquire("lease", "one", 60)
        await store.save(lease, {"value": b"saved"})


async def test_stores_that_begin_at_the_same_time_make_a_new_file_together(tmp_path):
    for number in range(20):
        stores = [open_store(f"sqlite:///{tmp_path}/{number}.db") for _ in range(8)]
        try:
            await asyncio.gather(*(store.open() for store in stores))
        finally:
            await asyncio.gather(*(store.close() for store in stores))


FULL = """
    import asyncio, resource, sys
    from codomyrmex.integrations.durable import StoreUnavailableError, open_store
    from codomyrmex.integrations.durable.store import Batch

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    async def main():
        store = open_store(sys.argv[1])
        await store.open()
        await store.create_log("log")
        lease = await store.acquire("lease", "one", 60)
        await store.save(lease, {"value": b"old"})
        limit(1024 * 1024)
        number, last = 1, 0
        while number < 1_000:
            batch = Batch("p", number, [b"%d" % number + b"x" * 1_000] * 50)
            try:
                last = await store.append("log", batch) + 49
            except StoreUnavailableError as error:
                print("full after", last, error)
                break
            number += 1
        try:
            await store.save(lease, {"value": b"x" * 1_000_000})
        except StoreUnavailableError:
            print("not saved")
        assert await store.load("") == {"value": b"old"}
        entries = await store.read("log", last - 10, 100)
        assert [entry.position for entry in entries] == list(range(last - 9, last + 1)), entries[-1].position
        limit(resource.RLIM_INFINITY)
        assert await store.append("log", batch) == last + 1
        assert (await store.bounds("log")).last == last + 50
        await store.save(lease, {"value": b"new"})
        await store.close()
        print("works again")

    asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="this system does not limit the size of files")
async def test_a_full_disk_is_an_error_that_loses_nothing_and_passes(tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    program = subprocess.run(  # noqa: ASYNC221 - nothing else runs on this loop
        [sys.executable, "-c", textwrap.dedent(FULL), url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    full, not_saved, works = program.stdout.splitlines()
    assert full.startswith("full after")
    assert url in full
    assert (not_saved, works) == ("not saved", "works again")
    async with open_store(url) as store:
        entries = await store.read("log", 0, 100_000, 2**30)
        assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))
        numbers = [int(entry.value.partition(b"x")[0]) for entry in entries]
        assert numbers == [number for number in range(1, len(entries) // 50 + 1) for _ in range(50)]


@pytest.mark.parametrize(
    ("start", "length"), [(0, 100), (0, 4_096), (4_096, 4_096), (8_192, 65_536)], ids=str
)
async def test_a_damaged_file_is_an_error_and_stays_as_it_is(tmp_path, start, length):
    path = tmp_path / "store.db"
    await filled(path)
    content = bytearray(path.read_bytes())
    content[start : start + length] = b"\xa5" * length
    path.write_bytes(content)
    store = open_store(f"sqlite:///{path}")
    with pytest.raises(StoreConfigError) as caught:
        await store.open()
        await store.create_log("log")
        await store.read("log", 0, 10_000)
        await store.append("log", Batch("p", 100, [b"x"]))
    assert str(path) in str(caught.value)
    await store.close()
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"not a database, but what somebody wrote\n" * 100, b"short"])
async def test_a_file_of_another_kind_is_refused_and_stays_as_it_is(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(StoreConfigError):
        await open_store(f"sqlite:///{path}").open()
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


async def test_a_database_of_another_program_is_refused_and_stays_as_it_is(tmp_path):
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE logs (name TEXT)")
    connection.close()
    content = path.read_bytes()
    with pytest.raises(StoreConfigError, match="another program"):
        await open_store(f"sqlite:///{path}").open()
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["app.db"]


async def test_a_file_of_a_newer_version_that_is_compatible_is_used(tmp_path):
    path = tmp_path / "store.db"
    await filled(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 1000")
    connection.close()
    async with open_store(f"sqlite:///{path}") as store:
        assert (await store.bounds("log")).last == 2_000
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (1000,)
    connection.close()


async def test_a_file_that_is_removed_while_it_is_open_is_not_written_to_unnoticed(tmp_path):
    path = tmp_path / "store.db"
    await filled(path)
    store = open_store(f"sqlite:///{path}")
    await store.open()
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(StoreUnavailableError, match="removed or replaced"):
        await store.append("log", Batch("p", 100, [b"lost"]))
    await store.create_log("log")
    assert (await store.bounds("log")).last == 0
    await store.close()


async def test_only_the_user_can_read_the_file(tmp_path):
    await filled(tmp_path / "store.db", 500)
    assert [oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()] == ["0o600"]


async def test_a_writer_that_holds_the_file_for_too_long_is_named_as_the_reason(tmp_path):
    from codomyrmex.integrations.durable.stores.sqlite_store import SQLiteStore

    path = tmp_path / "store.db"
    await filled(path)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    async with SQLiteStore(path, timeout=0.1) as store:
        assert len(await store.read("log", 0, 10)) == 10  # readers are not blocked
        with pytest.raises(StoreUnavailableError, match="another process"):
            await store.append("log", Batch("p", 100, [b"x"]))
        blocker.rollback()
        assert await store.append("log", Batch("p", 100, [b"x"])) == 2_001
    blocker.close()


@pytest.mark.parametrize("replaced", [False, True])
async def test_who_only_reads_a_file_gets_to_know_that_it_was_removed_or_replaced(tmp_path, replaced):
    path = tmp_path / "store.db"
    async with open_store(f"sqlite:///{path}") as writer, open_store(f"sqlite:///{path}") as reader:
        await writer.create_log("log")
        waiting = asyncio.create_task(reader.wait("log", 0, 30))
        await asyncio.sleep(0.05)
        for file in tmp_path.iterdir():
            file.unlink()
        if replaced:
            async with open_store(f"sqlite:///{path}") as other:
                await other.create_log("log")
        async with asyncio.timeout(DEADLINE):
            await waiting
        with pytest.raises(StoreUnavailableError, match="removed or replaced"):
            await reader.read("log", 0, 10)
