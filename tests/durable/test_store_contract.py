"""What every store promises: the docstrings of `Store`, checked on each kind of store."""

from __future__ import annotations

import asyncio
import math
import string
import time
from dataclasses import replace

import pytest
from codomyrmex.integrations.durable import (
    LeaseLostError,
    Retention,
    StoreConfigError,
    StoreError,
    open_store,
)
from codomyrmex.integrations.durable.store import Batch, Lease
from durable.stores import leaks
from helpers import DEADLINE

EVERYTHING = Retention(max_events=math.inf, max_bytes=math.inf, max_age=math.inf)
LONG = 60.0
SHORT = 0.3  # a lease that is meant to expire

# Names that a mapping to subjects, keys, patterns or file names could confuse.
NAMES = [
    *("a", "A", "a.b", "a/b", "a:b", "a@b", "a_b", "a-b", "ab", "a.", ".a", ".", "..", "a..b", "a/", "/a"),
    *("a.b.c", "0", "-", "_", "a__b", "a--b", "a_2Eb", "aXb"),
    (string.ascii_letters + string.digits + "-_./:@").ljust(200, "z"),
    "." * 200,
]


class Writer:
    """A producer that counts its batches."""

    def __init__(self, store, log, producer="producer"):
        self.store, self.log, self.producer, self.number = store, log, producer, 0

    async def append(self, *values):
        self.number += 1
        return await self.repeat(*values)

    async def repeat(self, *values):
        entries = [value if isinstance(value, bytes) else value.encode() for value in values]
        return await self.store.append(self.log, Batch(self.producer, self.number, entries))


async def values(store, log, after=0, limit=10_000):
    return [entry.value.decode() for entry in await store.read(log, after, limit)]


async def numbered(store, count, log="log", size=0):
    """Create a log with the entries 1 to count, whose positions are the same numbers."""
    await store.create_log(log)
    writer = Writer(store, log)
    for start in range(1, count + 1, 500):
        numbers = range(start, min(start + 500, count + 1))
        await writer.append(*(str(number).rjust(size, "0") for number in numbers))
    return writer


# Logs


async def test_a_log_is_empty_with_an_epoch_when_it_is_created(store):
    assert await store.bounds("log") is None
    assert await store.read("log", 0, 10) == []
    assert await store.logs() == []
    created = await store.create_log("log")
    assert created.epoch
    assert created[1:] == (1, 0, 0)
    assert await store.bounds("log") == created
    assert await store.read("log", 0, 10) == []


async def test_creating_a_log_again_changes_nothing(store):
    created = await store.create_log("log")
    await Writer(store, "log").append("one")
    again = await store.create_log("log")
    assert (again.epoch, again.first, again.last) == (created.epoch, 1, 1)
    assert await values(store, "log") == ["one"]


async def test_a_log_that_many_create_at_once_has_one_epoch(place):
    async with place.store() as one, place.store() as other:
        created = await asyncio.gather(*(store.create_log("log") for store in [one, other] * 10))
    assert len(set(created)) == 1


async def test_logs_are_sorted_and_do_not_mix(store):
    names = ["b", "a", "a.b", "c/d"]
    for name in names:
        await store.create_log(name)
        await Writer(store, name).append(f"in {name}")
    assert await store.logs() == sorted(names)
    for name in names:
        assert await values(store, name) == [f"in {name}"]
    assert len({(await store.bounds(name)).epoch for name in names}) == len(names)


async def test_positions_begin_with_1_and_have_no_gaps(store):
    await store.create_log("log")
    writer = Writer(store, "log")
    assert await writer.append("1") == 1
    assert await writer.append("2", "3", "4") == 2
    assert await writer.append("5") == 5
    entries = await store.read("log", 0, 100)
    assert [(entry.position, entry.value) for entry in entries] == [(n, b"%d" % n) for n in range(1, 6)]
    bounds = await store.bounds("log")
    assert (bounds.first, bounds.last) == (1, 5)


async def test_an_entry_has_the_time_at_which_it_was_appended(store):
    before = time.time()
    await numbered(store, 3)
    for entry in await store.read("log", 0, 3):
        assert before - 0.1 <= entry.time <= time.time() + 0.1


async def test_reading_gives_what_follows_any_position_up_to_the_limit(store):
    await numbered(store, 23)
    for after in range(25):
        for limit in (1, 4, 100):
            expected = [str(number) for number in range(after + 1, 24)][:limit]
            assert await values(store, "log", after, limit) == expected


async def test_reading_gives_as_many_bytes_as_allowed_and_at_least_one_entry(store):
    await numbered(store, 20, size=100)
    assert len(await store.read("log", 0, 20, max_bytes=1)) == 1
    assert len(await store.read("log", 5, 20, max_bytes=350)) == 3
    assert len(await store.read("log", 0, 20, max_bytes=2_000)) == 20
    assert [entry.position for entry in await store.read("log", 19, 20, max_bytes=1)] == [20]
    writer = Writer(store, "log", "another")
    await writer.append(b"x" * 5_000, "small")
    assert len(await store.read("log", 19, 20, max_bytes=1_000)) == 1
    assert len(await store.read("log", 20, 20, max_bytes=1_000)) == 1


async def test_entries_are_bytes_of_any_kind(store):
    entries = [bytes(range(256)), b"", b"\0", b"\r\n", "ä€😀".encode(), b"x" * 100_000]
    await store.create_log("log")
    await Writer(store, "log").append(*entries)
    assert [entry.value for entry in await store.read("log", 0, 100)] == entries


async def test_a_batch_has_up_to_1000_entries(store):
    await store.create_log("log")
    writer = Writer(store, "log")
    assert await writer.append(*map(str, range(1_000))) == 1
    assert await writer.append("more") == 1_001
    assert await values(store, "log") == [*map(str, range(1_000)), "more"]


async def test_a_size_is_accepted_or_refused_with_nothing_appended(store):
    await store.create_log("log")
    writer = Writer(store, "log")
    for entries in ([b"x" * 2**20], [b"y" * 2**18] * 40):
        before = (await store.bounds("log")).last
        try:
            first = await writer.append(*entries)
        except StoreError:
            assert (await store.bounds("log")).last == before
        else:
            assert first == before + 1
            assert (await store.bounds("log")).last == before + len(entries)
            found = [entry.value for entry in await store.read("log", before, 100, 2**25)]
            assert found == entries
        last = await writer.append("after")
        assert await values(store, "log", last - 1) == ["after"]


async def test_the_size_of_a_log_is_about_that_of_its_entries(store):
    await numbered(store, 1_000, size=200)
    assert 200_000 <= (await store.bounds("log")).size < 500_000


async def test_appending_to_a_log_that_was_not_created_is_an_error(store):
    with pytest.raises(StoreError):
        await Writer(store, "nothing").append("lost")
    assert await store.bounds("nothing") is None
    assert await store.logs() == []


async def test_repeating_the_newest_batch_of_a_producer_appends_nothing(store):
    await store.create_log("log")
    await store.create_log("other")
    one, two = Writer(store, "log", "one"), Writer(store, "log", "two")
    assert await one.append("a", "b") == 1
    assert await one.repeat("a", "b") == 1
    assert await two.append("c") == 3
    assert await one.repeat("a", "b") == 1
    assert await two.repeat("c") == 3
    assert await one.append("d") == 4
    assert await one.repeat("d") == 4
    assert await Writer(store, "other", "one").append("elsewhere") == 1
    assert await one.repeat("d") == 4
    assert await values(store, "log") == ["a", "b", "c", "d"]
    assert await values(store, "other") == ["elsewhere"]


async def test_a_repeat_through_another_connection_appends_nothing(place):
    async with place.store() as store:
        await store.create_log("log")
        writer = Writer(store, "log")
        await writer.append("a", "b")
    async with place.store() as writer.store:
        assert await writer.repeat("a", "b") == 1
        assert await values(writer.store, "log") == ["a", "b"]


async def test_two_appends_of_the_same_batch_at_once_append_it_once(place):
    async with place.store() as one, place.store() as other:
        await one.create_log("log")
        for number in range(1, 11):
            batch = Batch("producer", number, [b"x", b"y"])
            outcomes = await asyncio.gather(
                one.append("log", batch), other.append("log", batch), return_exceptions=True
            )
            # One may be refused because it met the other, but then a repeat gives the position.
            assert any(isinstance(outcome, int) for outcome in outcomes), outcomes
            assert await one.append("log", batch) == 2 * number - 1
        assert (await one.bounds("log")).last == 20


async def test_names_of_producers_have_up_to_64_characters(store):
    await store.create_log("log")
    for name in ("x" * 64, "A-z_0", "-", "_"):
        writer = Writer(store, "log", name)
        first = await writer.append(name)
        assert await writer.repeat(name) == first
    assert len(await values(store, "log")) == 4


async def test_appends_at_once_are_dense_and_each_batch_is_together(place):
    async with place.store() as one, place.store() as other:
        await one.create_log("log")

        async def append(store, name):
            writer = Writer(store, "log", name)
            return [(await writer.append(*(f"{name}-{n}-{i}" for i in range(3))), n) for n in range(10)]

        names = [f"w{number}" for number in range(8)]
        stores = [one, other] * 4
        firsts = await asyncio.gather(*map(append, stores, names))
        entries = await one.read("log", 0, 1_000)
        assert [entry.position for entry in entries] == list(range(1, 8 * 10 * 3 + 1))
        found = {entry.position: entry.value.decode() for entry in entries}
        for name, batches in zip(names, firsts, strict=True):
            assert [first for first, _ in batches] == sorted(first for first, _ in batches)
            for first, number in batches:
                assert [found[first + i] for i in range(3)] == [f"{name}-{number}-{i}" for i in range(3)]


@pytest.mark.parametrize("retention", [EVERYTHING, Retention()])
async def test_trimming_within_the_limits_removes_nothing(store, retention):
    await numbered(store, 50)
    before = await store.bounds("log")
    assert await store.trim("log", retention, 50) == 0
    assert await store.bounds("log") == before


async def test_trimming_by_number_keeps_the_newest(store):
    await numbered(store, 50)
    assert await store.trim("log", replace(EVERYTHING, max_events=20), 50) == 30
    bounds = await store.bounds("log")
    assert (bounds.first, bounds.last) == (31, 50)
    assert await values(store, "log") == [str(number) for number in range(31, 51)]
    assert await store.trim("log", replace(EVERYTHING, max_events=20), 50) == 0


async def test_trimming_by_size_keeps_the_newest(store):
    await numbered(store, 100, size=1_000)
    removed = await store.trim("log", replace(EVERYTHING, max_bytes=50_000), 100)
    bounds = await store.bounds("log")
    assert 50 <= removed <= 75
    assert (bounds.first, bounds.last) == (removed + 1, 100)
    assert bounds.size <= 50_000 * 1.5
    assert len(await store.read("log", 0, 1_000)) == 100 - removed


async def test_trimming_by_age_keeps_the_newest(store):
    writer = await numbered(store, 10)
    await asyncio.sleep(0.6)
    begin = time.monotonic()
    await writer.append("new", "newer")
    between = (
        time.monotonic() - begin + 0.5
    )  # older than the last entries, however long it took to append them
    assert await store.trim("log", replace(EVERYTHING, max_age=between), 12) == 10
    assert await values(store, "log") == ["new", "newer"]
    await asyncio.sleep(0.2)
    assert await store.trim("log", replace(EVERYTHING, max_age=0.15), 12) == 2
    bounds = await store.bounds("log")
    assert bounds[1:3] == (13, 12)


async def test_trimming_keeps_everything_after_a_position(store):
    await numbered(store, 50)
    one = replace(EVERYTHING, max_events=1)
    assert await store.trim("log", one, 0) == 0
    assert await store.trim("log", one, 10) == 10
    assert await store.trim("log", one, 10) == 0
    assert (await store.bounds("log")).first == 11
    assert await store.trim("log", replace(EVERYTHING, max_bytes=1), 20) == 10
    await asyncio.sleep(0.05)
    assert await store.trim("log", replace(EVERYTHING, max_age=0.001), 30) == 10
    assert await values(store, "log") == [str(number) for number in range(31, 51)]
    assert await store.trim("log", one, 1_000) == 19


async def test_trimming_much_removes_it_all(store):
    await numbered(store, 12_000)
    assert await store.trim("log", replace(EVERYTHING, max_events=5), 12_000) == 11_995
    assert await values(store, "log") == [str(number) for number in range(11_996, 12_001)]


async def test_positions_go_on_after_everything_was_trimmed(store):
    writer = await numbered(store, 10)
    await asyncio.sleep(0.02)
    assert await store.trim("log", replace(EVERYTHING, max_age=0.001), 10) == 10
    bounds = await store.bounds("log")
    assert (bounds.first, bounds.last) == (11, 10)
    assert bounds.size < 1_000
    assert await store.read("log", 0, 100) == []
    assert await writer.append("11") == 11
    bounds = await store.bounds("log")
    assert (bounds.first, bounds.last) == (11, 11)
    assert [(entry.position, entry.value) for entry in await store.read("log", 3, 100)] == [(11, b"11")]


async def test_positions_go_on_after_everything_was_trimmed_and_the_store_reopened(place):
    async with place.store() as store:
        writer = await numbered(store, 10)
        await asyncio.sleep(0.02)
        await store.trim("log", replace(EVERYTHING, max_age=0.001), 10)
        epoch = (await store.bounds("log")).epoch
    async with place.store() as store:
        assert (await store.bounds("log"))[:3] == (epoch, 11, 10)
        writer.store = store
        assert await writer.append("11") == 11


async def test_reading_behind_a_trim_begins_with_the_oldest_entry_that_is_kept(store):
    await numbered(store, 50)
    await store.trim("log", replace(EVERYTHING, max_events=20), 50)
    for after in (0, 1, 29, 30):
        assert await values(store, "log", after, 2) == ["31", "32"]
    assert await values(store, "log", 31, 2) == ["32", "33"]


async def test_a_repeat_of_a_batch_whose_entries_were_trimmed_appends_nothing(store):
    writer = await numbered(store, 3)
    await store.trim("log", replace(EVERYTHING, max_events=1), 3)
    assert await writer.repeat("1", "2", "3") == 1
    assert (await store.bounds("log")).last == 3


async def test_trimming_a_log_that_does_not_exist_removes_nothing(store):
    assert await store.trim("nothing", Retention(), 10) == 0
    assert await store.bounds("nothing") is None


async def test_trimming_one_log_leaves_the_others_alone(store):
    await numbered(store, 10, "a")
    await numbered(store, 10, "a.b")
    await store.trim("a", replace(EVERYTHING, max_events=1), 10)
    assert len(await values(store, "a.b")) == 10


async def test_an_epoch_is_renewed_only_if_it_is_the_expected_one(store):
    writer = await numbered(store, 3)
    old = (await store.bounds("log")).epoch
    renewed = await store.renew_epoch("log", old)
    assert renewed.epoch not in {old, ""}
    assert renewed[1:3] == (1, 3)
    assert await store.bounds("log") == renewed
    assert await store.renew_epoch("log", old) == renewed
    assert await writer.append("4") == 4
    assert (await store.create_log("log")).epoch == renewed.epoch
    assert await values(store, "log") == ["1", "2", "3", "4"]


async def test_an_epoch_that_many_renew_at_once_is_renewed_once(place):
    async with place.store() as one, place.store() as other:
        old = (await one.create_log("log")).epoch
        renewed = await asyncio.gather(*(store.renew_epoch("log", old) for store in [one, other] * 5))
        assert len({bounds.epoch for bounds in renewed}) == 1
        assert renewed[0].epoch != old


async def test_names_of_logs_are_distinct(store):
    for name in NAMES:
        await store.create_log(name)
        await Writer(store, name).append(name)
    assert await store.logs() == sorted(set(NAMES))
    for name in NAMES:
        assert await values(store, name) == [name]


# Waiting


@pytest.fixture
def only_news(monkeypatch):
    """Let stores look at a log only when they hear of an entry, not again after some seconds."""
    for variable in ("redis_store._BLOCK", "nats_store._POLL", "postgres_store._POLL"):
        monkeypatch.setattr(f"codomyrmex.integrations.durable.stores.{variable}", LONG)


async def test_waiting_ends_at_once_if_there_is_an_entry_already(store):
    await numbered(store, 3)
    async with asyncio.timeout(DEADLINE):
        for after in (0, 2):
            await store.wait("log", after, LONG)


@pytest.mark.usefixtures("only_news")
async def test_waiting_ends_when_an_entry_is_appended(place):
    async with place.store() as reader, place.store() as other:
        await reader.create_log("log")
        for number, store in enumerate([reader, other] * 2):
            waiting = asyncio.create_task(follow(reader, "log", number))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            await Writer(store, "log", f"producer{number}").append("x")
            async with asyncio.timeout(DEADLINE):
                await waiting


async def follow(store, log, after):
    """Return the entries after a position as soon as there are some."""
    while not (entries := await store.read(log, after, 10_000)):
        await store.wait(log, after, LONG)
    return entries


@pytest.mark.usefixtures("only_news")
async def test_waiting_takes_no_longer_than_it_may(store):
    await numbered(store, 3)
    for log, after in (("log", 3), ("log", 100), ("nothing", 0)):
        begin = time.monotonic()
        await store.wait(log, after, 0.1)
        assert time.monotonic() - begin < DEADLINE
    async with asyncio.timeout(DEADLINE):
        await store.wait("log", 3, 0)


async def test_waiting_does_not_keep_the_processor_busy(store):
    await numbered(store, 3)
    rounds, begin = 0, time.monotonic()
    while time.monotonic() - begin < 0.3:
        await store.wait("log", 3, 0.15)
        rounds += 1
    assert rounds < 15


@pytest.mark.usefixtures("only_news")
async def test_an_entry_that_comes_between_reading_and_waiting_is_not_missed(place):
    async with place.store() as reader, place.store() as other:
        await reader.create_log("log")
        writer = Writer(other, "log")
        for number in range(20):
            assert await reader.read("log", number, 10) == []
            await writer.append("x")
            async with asyncio.timeout(DEADLINE):
                await reader.wait("log", number, LONG)


@pytest.mark.usefixtures("only_news")
async def test_any_number_of_calls_can_wait(place):
    async with place.store() as reader, place.store() as other:
        for log in ("a", "b"):
            await reader.create_log(log)
        waiting = [asyncio.create_task(follow(reader, log, 0)) for log in ("a", "b") * 100]
        await asyncio.sleep(0.1)
        await Writer(other, "a").append("x")
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*waiting[::2])
        assert not any(task.done() for task in waiting[1::2])
        await Writer(other, "b").append("x")
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*waiting)


@pytest.mark.usefixtures("only_news")
async def test_cancelling_some_who_wait_disturbs_neither_the_others_nor_the_store(place):
    async with place.store() as reader, place.store() as other:
        await reader.create_log("log")
        waiting = [asyncio.create_task(follow(reader, "log", 0)) for _ in range(50)]
        await asyncio.sleep(0.05)
        for task in waiting[::2]:
            task.cancel()
        late = asyncio.create_task(follow(reader, "log", 0))
        await asyncio.sleep(0.05)
        await Writer(other, "log").append("x")
        async with asyncio.timeout(DEADLINE):
            assert [entry.value for entry in await late] == [b"x"]
            await asyncio.gather(*waiting[1::2])
            await asyncio.wait(waiting)


async def test_a_reader_that_follows_sees_every_entry_once_and_in_order(place):
    async with place.store() as reader, place.store() as one, place.store() as other:
        await reader.create_log("log")
        total = 6 * 40 * 2

        async def write(store, name):
            writer = Writer(store, "log", name)
            for number in range(40):
                await writer.append(f"{name}-{number}", f"{name}-{number}b")

        async def read():
            seen = []
            while len(seen) < total:
                seen += await follow(reader, "log", len(seen))
            return seen

        reading = asyncio.create_task(read())
        await asyncio.gather(*(write(store, f"w{n}") for n, store in enumerate([one, other] * 3)))
        async with asyncio.timeout(DEADLINE):
            entries = await reading
    assert [entry.position for entry in entries] == list(range(1, total + 1))
    assert len({entry.value for entry in entries}) == total


# Leases


async def test_a_lease_belongs_to_one_owner(place):
    async with place.store() as one, place.store() as other:
        lease = await one.acquire("name", "one", LONG)
        assert lease.name == "name"
        assert lease.owner == "one"
        assert lease.token >= 1
        assert await other.acquire("name", "other", LONG) is None
        assert await one.acquire("name", "other", LONG) is None
        assert await other.acquire("another", "other", LONG) is not None


async def test_an_owner_that_acquires_its_lease_again_keeps_the_token(place):
    async with place.store() as one, place.store() as other:
        lease = await one.acquire("name", "one", LONG)
        assert await one.acquire("name", "one", LONG) == lease
        assert await other.acquire("name", "one", LONG) == lease
        await one.renew(lease, LONG)


async def test_tokens_grow_with_each_acquisition_after_a_release(place):
    async with place.store() as one, place.store() as other:
        tokens = []
        for store, owner in [(one, "one"), (other, "other"), (other, "other"), (one, "one")]:
            lease = await store.acquire("name", owner, LONG)
            tokens.append(lease.token)
            await store.release(lease)
        assert tokens == sorted(set(tokens))


async def test_tokens_grow_after_the_store_was_reopened(place):
    async with place.store() as store:
        lease = await store.acquire("name", "one", LONG)
        await store.release(lease)
    async with place.store() as store:
        assert (await store.acquire("name", "one", LONG)).token > lease.token


async def test_of_many_who_ask_at_once_one_gets_the_lease(place):
    async with place.store() as one, place.store() as other:
        tokens = []
        for _ in range(10):
            asked = [store.acquire("name", f"owner{n}", LONG) for n, store in enumerate([one, other] * 5)]
            [lease] = [lease for lease in await asyncio.gather(*asked) if lease is not None]
            tokens.append(lease.token)
            await one.release(lease)
        assert tokens == sorted(set(tokens))


async def taken_over(store, name, owner, seconds=LONG):
    async with asyncio.timeout(DEADLINE):
        while (lease := await store.acquire(name, owner, seconds)) is None:
            await asyncio.sleep(0.02)
    return lease


async def test_a_lease_that_is_not_renewed_can_be_acquired_once_it_has_expired(place):
    async with place.store() as one, place.store() as other:
        begin = time.monotonic()
        lost = await one.acquire("name", "one", SHORT)
        lease = await taken_over(other, "name", "other")
        assert time.monotonic() - begin >= SHORT * 0.95
        assert lease.token > lost.token
        with pytest.raises(LeaseLostError):
            await one.renew(lost, LONG)
        with pytest.raises(LeaseLostError):
            await one.save(lost, {"value": b"stale"})
        await one.release(lost)
        assert await one.acquire("name", "one", LONG) is None
        await other.renew(lease, LONG)
        await other.save(lease, {"value": b"new"})
        assert await one.load("value") == {"value": b"new"}


@pytest.mark.parametrize("how", ["renew", "acquire"])
async def test_a_lease_that_is_renewed_does_not_expire(place, how):
    async with place.store() as one, place.store() as other:
        lease = await one.acquire("name", "one", SHORT)
        end = time.monotonic() + 2 * SHORT
        while time.monotonic() < end:
            if how == "renew":
                await one.renew(lease, SHORT)
            else:
                assert await one.acquire("name", "one", SHORT) == lease
            await asyncio.sleep(SHORT / 5)
            assert await other.acquire("name", "other", LONG) is None


async def test_renewing_can_shorten_a_lease(place):
    async with place.store() as one, place.store() as other:
        lease = await one.acquire("name", "one", LONG)
        assert await other.acquire("name", "other", LONG) is None
        await one.renew(lease, SHORT)
        await taken_over(other, "name", "other")


async def test_a_released_lease_can_be_acquired_at_once(place):
    async with place.store() as one, place.store() as other:
        lost = await one.acquire("name", "one", LONG)
        await one.release(lost)
        with pytest.raises(LeaseLostError):
            await one.renew(lost, LONG)
        with pytest.raises(LeaseLostError):
            await one.save(lost, {"value": b"stale"})
        lease = await other.acquire("name", "other", LONG)
        assert lease.token > lost.token
        await one.release(lost)
        await other.renew(lease, LONG)
        assert await one.load("") == {}


async def test_the_owner_of_an_old_token_has_lost_its_lease_even_if_it_holds_a_new_one(store):
    old = await store.acquire("name", "one", LONG)
    await store.release(old)
    new = await store.acquire("name", "one", LONG)
    with pytest.raises(LeaseLostError):
        await store.renew(old, LONG)
    with pytest.raises(LeaseLostError):
        await store.save(old, {"value": b"stale"})
    await store.release(old)
    await store.renew(new, LONG)


async def test_a_lease_that_nobody_acquired_is_lost(store):
    lease = Lease("name", "one", 1)
    with pytest.raises(LeaseLostError):
        await store.renew(lease, LONG)
    with pytest.raises(LeaseLostError):
        await store.save(lease, {"value": b"x"})
    await store.release(lease)
    assert await store.load("") == {}
    assert await store.acquire("name", "two", LONG) is not None


async def test_leases_lists_those_that_are_held_by_prefix(store):
    held = [
        await store.acquire(name, "one", LONG) for name in ("group/a", "group/b.c", "groups", "group_x", "G")
    ]
    released = await store.acquire("group/z", "one", LONG)
    await store.release(released)
    assert await store.leases("") == sorted(held)
    assert [lease.name for lease in await store.leases("group/")] == ["group/a", "group/b.c"]
    assert [lease.name for lease in await store.leases("group_")] == ["group_x"]
    for prefix in ("group%", "group*", "*", "%", "?", "[g]", "nothing"):
        assert await store.leases(prefix) == []
    assert {lease.owner for lease in await store.leases("")} == {"one"}


async def test_leases_does_not_list_for_long_what_has_expired(place):
    async with place.store() as one, place.store() as other:
        await one.acquire("short", "one", SHORT)
        kept = await one.acquire("long", "one", LONG)
        async with asyncio.timeout(DEADLINE):
            while await other.leases("") != [kept]:
                await asyncio.sleep(0.02)


async def test_names_of_leases_are_distinct(store):
    held = [await store.acquire(name, f"owner of {name}"[:100], LONG) for name in NAMES]
    assert None not in held
    assert await store.leases("") == sorted(held)
    for lease in held:
        await store.renew(lease, LONG)


# Values


async def test_values_are_loaded_by_prefix(store):
    lease = await store.acquire("lease", "one", LONG)
    saved = {"a": b"1", "a/b": b"2", "a_b": b"3", "axb": b"4", "b": b"5", "A": b"6"}
    await store.save(lease, saved)
    assert await store.load("") == saved
    assert await store.load("a") == {name: value for name, value in saved.items() if name.startswith("a")}
    assert await store.load("a/") == {"a/b": b"2"}
    assert await store.load("a_") == {"a_b": b"3"}
    for prefix in ("a%", "a*", "%", "*", "?", "[a]", "a\\", "a'", "nothing"):
        assert await store.load(prefix) == {}


async def test_saving_replaces_and_removes_values(store):
    lease = await store.acquire("lease", "one", LONG)
    await store.save(lease, {"a": b"1", "b": b"2", "c": b"3"})
    await store.save(lease, {"a": b"new", "b": None, "unknown": None})
    assert await store.load("") == {"a": b"new", "c": b"3"}
    await store.save(lease, {"a": None, "c": None})
    assert await store.load("") == {}
    await store.save(lease, {"a": b"again"})
    assert await store.load("") == {"a": b"again"}


async def test_saving_nothing_still_says_whether_the_lease_is_held(store):
    lease = await store.acquire("lease", "one", LONG)
    await store.save(lease, {})
    await store.release(lease)
    with pytest.raises(LeaseLostError):
        await store.save(lease, {})


async def test_values_are_bytes_of_any_kind(store):
    lease = await store.acquire("lease", "one", LONG)
    saved = {
        "all": bytes(range(256)),
        "empty": b"",
        "zero": b"\0",
        "text": "ä€😀\r\n".encode(),
        "large": b"x" * 500_000,
    }
    await store.save(lease, saved)
    assert await store.load("") == saved


async def test_many_values_are_saved_in_one_step(store):
    lease = await store.acquire("lease", "one", LONG)
    saved = {f"value/{number}": b"%d" % number for number in range(300)}
    await store.save(lease, saved)
    assert await store.load("value/") == saved


async def test_a_save_of_a_stale_owner_saves_none_of_its_values(place):
    async with place.store() as one, place.store() as other:
        stale = await one.acquire("lease", "one", LONG)
        await one.save(stale, {"a": b"1", "b": b"1"})
        await one.release(stale)
        lease = await other.acquire("lease", "other", LONG)
        await other.save(lease, {"b": b"2"})
        with pytest.raises(LeaseLostError):
            await one.save(stale, {"a": b"3", "b": None, "c": b"3"})
        assert await one.load("") == {"a": b"1", "b": b"2"}


async def test_a_save_is_seen_as_a_whole_or_not_at_all(place):
    async with place.store() as one, place.store() as other:
        lease = await one.acquire("lease", "one", LONG)
        await one.save(lease, {"a": b"0", "b": b"0", "c": b"0"})

        async def write():
            for number in range(1, 60):
                value = b"%d" % number
                await one.save(lease, {"a": value, "b": value, "c": value})

        writing = asyncio.create_task(write())
        while not writing.done():
            assert len(set((await other.load("")).values())) == 1
        await writing


async def test_different_leases_save_at_once(place):
    async with place.store() as one, place.store() as other:

        async def count(store, name):
            lease = await store.acquire(f"lease/{name}", "owner", LONG)
            for number in range(1, 11):
                await store.save(lease, {f"value/{name}": b"%d" % number})

        await asyncio.gather(*(count(store, str(n)) for n, store in enumerate([one, other] * 5)))
        assert set((await one.load("value/")).values()) == {b"10"}


async def test_names_of_values_are_distinct(store):
    lease = await store.acquire("lease", "one", LONG)
    saved = {name: name.encode() for name in NAMES}
    await store.save(lease, saved)
    assert await store.load("") == saved
    assert await store.load("." * 100) == {"." * 200: b"." * 200}


async def test_logs_leases_and_values_of_one_name_have_nothing_to_do_with_each_other(store):
    await store.create_log("name")
    await Writer(store, "name", "name").append("entry")
    lease = await store.acquire("name", "name", LONG)
    await store.save(lease, {"name": b"value"})
    await store.release(lease)
    assert await values(store, "name") == ["entry"]
    assert await store.load("") == {"name": b"value"}
    assert await store.leases("") == []
    assert await store.logs() == ["name"]


# Opening and closing


async def test_what_was_stored_is_there_when_the_store_is_opened_again(place):
    store = open_store(place.url)
    await store.open()
    await store.open()
    writer = await numbered(store, 5)
    lease = await store.acquire("lease", "one", LONG)
    await store.save(lease, {"value": b"x"})
    bounds = await store.bounds("log")
    await store.close()
    await store.close()
    for again in (store, open_store(place.url)):
        writer.store = again
        async with again:
            assert await again.bounds("log") == bounds
            assert await values(again, "log") == ["1", "2", "3", "4", "5"]
            assert await again.load("") == {"value": b"x"}
            assert await again.acquire("lease", "two", LONG) is None
            await again.renew(lease, LONG)
            assert await writer.repeat("1", "2", "3", "4", "5") == 1


async def test_a_store_that_was_never_opened_can_be_closed(place):
    await open_store(place.url).close()


async def test_a_store_can_be_closed_while_somebody_waits(place):
    store = place.store()
    await store.open()
    await store.create_log("log")
    waiting = asyncio.create_task(store.wait("log", 0, LONG))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(DEADLINE):
        await store.close()
        waiting.cancel()
        await asyncio.wait([waiting])
    async with store:
        await Writer(store, "log").append("x")
        assert await values(store, "log") == ["x"]


async def test_the_url_names_the_place_without_the_password(place):
    store = place.store()
    async with store:
        assert store.url.startswith(place.url.partition("://")[0])
        assert not leaks(f"{store.url} {store!r} {store} {store.warnings}")
        if place.server is not None:
            assert str(place.server.port) in store.url
        assert all(isinstance(warning, str) and warning for warning in store.warnings)


# Opening without making


async def test_a_store_that_must_exist_is_not_made(place):
    missing = open_store(place.url, must_exist=True)
    with pytest.raises(StoreConfigError) as raised:
        await missing.open()
    await missing.close()
    assert missing.url in str(raised.value)
    assert not leaks(str(raised.value))
    with pytest.raises(StoreConfigError):  # it was not made by the first attempt
        await missing.open()
    await missing.close()
    async with place.store() as store:
        await store.create_log("log")
    async with open_store(place.url, must_exist=True) as store:
        assert await store.logs() == ["log"]
