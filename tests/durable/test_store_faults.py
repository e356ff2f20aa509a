"""Stores whose server is killed, stopped or cut off, and cancelled calls: clear errors, then all works."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from urllib.parse import quote

import pytest
from codomyrmex.integrations.durable import LeaseLostError, Retention, StoreError, StoreUnavailableError
from codomyrmex.integrations.durable.store import Batch
from durable.proxy import Proxy
from durable.servers import PASSWORD
from durable.stores import leaks
from helpers import DEADLINE

LONG = 60.0
TIMEOUT = 0.3  # of stores whose server does not answer
SLACK = 4.5  # seconds for a machine that is busy; less than what stores take to give up otherwise


def operations(store, lease):
    """Return each operation of a store that asks the server."""
    return {
        "create_log": lambda: store.create_log("log"),
        "bounds": lambda: store.bounds("log"),
        "logs": store.logs,
        "renew_epoch": lambda: store.renew_epoch("log", "another"),
        "append": lambda: store.append("log", Batch("faults", 1, [b"x"])),
        "read": lambda: store.read("log", 0, 10),
        "trim": lambda: store.trim("log", Retention(), 0),
        "acquire": lambda: store.acquire("another", "one", LONG),
        "renew": lambda: store.renew(lease, LONG),
        "leases": lambda: store.leases(""),
        "load": lambda: store.load(""),
        "save": lambda: store.save(lease, {"value": b"new"}),
    }


async def prepared(store):
    await store.open()
    await store.create_log("log")
    await store.append("log", Batch("producer", 1, [b"first"]))
    lease = await store.acquire("lease", "one", LONG)
    await store.save(lease, {"value": b"old"})
    return lease


async def works_again(store, lease):
    """Check that a store works, at the latest when it is called again."""

    async def succeeds(operation):
        while True:
            try:
                return await operation()
            except StoreUnavailableError:
                await asyncio.sleep(0.02)

    async with asyncio.timeout(DEADLINE):
        entries = await succeeds(lambda: store.read("log", 0, 1))
        assert [entry.value for entry in entries] == [b"first"]
        for operation in operations(store, lease).values():
            await succeeds(operation)
        await succeeds(lambda: store.wait("log", 0, 1))


async def all_unavailable(store, lease, seconds):
    """Check that each operation says that the store is away, and how long that takes."""

    async def unavailable(name, operation):
        begin = time.monotonic()
        try:
            pytest.fail(f"{name} gave {await operation()!r}")
        except StoreUnavailableError as error:
            text = f"{error} {error!r}"
        assert time.monotonic() - begin < seconds, name
        assert not leaks(text)

    await asyncio.gather(*(unavailable(*each) for each in operations(store, lease).items()))
    if seconds == SLACK:  # errors come at once
        for each in operations(store, lease).items():
            await unavailable(*each)


async def test_a_server_that_was_killed_is_unavailable_until_it_is_back(served):
    store = served.store()
    lease = await prepared(store)
    served.server.kill()
    await all_unavailable(store, lease, seconds=SLACK)
    served.server.start()
    await works_again(store, lease)
    await store.close()


async def test_a_server_that_was_restarted_while_nothing_was_asked_works_at_once_or_after_one_error(served):
    store = served.store()
    lease = await prepared(store)
    served.server.stop()
    served.server.start()
    errors = 0
    for operation in operations(store, lease).values():
        try:
            await operation()
        except StoreUnavailableError:
            errors += 1
    assert errors <= 3  # one for each connection that a store keeps
    await works_again(store, lease)
    await store.close()


async def test_a_server_that_stands_still_is_unavailable_within_the_timeout(served):
    store = served.store(TIMEOUT)
    lease = await prepared(store)
    served.server.pause()
    try:
        await all_unavailable(store, lease, seconds=TIMEOUT + SLACK)
    finally:
        served.server.resume()
    await works_again(store, lease)
    await store.close()


async def test_a_server_that_stands_still_ends_a_wait_in_its_time(served):
    store = served.store(TIMEOUT)
    lease = await prepared(store)
    waiting = asyncio.gather(*(store.wait("log", 1, 1.0) for _ in range(5)), return_exceptions=True)
    await asyncio.sleep(0.1)
    served.server.pause()
    try:
        async with asyncio.timeout(1.0 + TIMEOUT + SLACK):
            outcomes = await waiting
    finally:
        served.server.resume()
    assert all(each is None or isinstance(each, StoreUnavailableError) for each in outcomes), outcomes
    await works_again(store, lease)
    await store.close()


async def test_those_who_wait_when_the_server_is_killed_get_to_know_what_came_afterwards(served):
    reader, writer = served.store(), served.store()
    lease = await prepared(reader)
    await writer.open()

    async def follow():
        while True:
            try:
                if entries := await reader.read("log", 1, 10):
                    return entries
                await reader.wait("log", 1, 5.0)
            except StoreUnavailableError:
                await asyncio.sleep(0.05)

    following = asyncio.create_task(follow())
    await asyncio.sleep(0.1)
    served.server.kill()
    await asyncio.sleep(0.1)
    served.server.start()
    await works_again(writer, lease)  # which appends
    async with asyncio.timeout(DEADLINE):
        assert [entry.value for entry in await following] == [b"x"]
    await reader.close()
    await writer.close()


async def test_closing_a_store_whose_server_is_away_or_stands_still_does_not_raise(served):
    for fault in (served.server.kill, served.server.pause):
        served.server.ensure()
        store = served.store(TIMEOUT)
        await prepared(store)
        fault()
        async with asyncio.timeout(TIMEOUT + SLACK):
            await store.close()
        served.server.ensure()
        async with store:
            assert [entry.value for entry in await store.read("log", 0, 1)] == [b"first"]


async def test_opening_a_store_whose_server_is_away_or_stands_still(served):
    for fault in (served.server.kill, served.server.pause):
        served.server.ensure()
        fault()
        store = served.store(TIMEOUT)
        begin = time.monotonic()
        with pytest.raises(StoreUnavailableError) as caught:
            await store.open()
        assert time.monotonic() - begin < TIMEOUT + SLACK
        assert not leaks(f"{caught.value} {caught.value!r}")
        served.server.ensure()
        await prepared(store)
        await store.close()


async def test_connections_that_are_cut_are_made_again(served):
    with Proxy(served.server.port) as proxy:
        store = served.store(url=proxy.url(served.url))
        lease = await prepared(store)
        for _ in range(2):
            proxy.cut()
            await all_unavailable(store, lease, seconds=SLACK)
            proxy.heal()
            await works_again(store, lease)
        await store.close()


async def test_a_network_that_stalls_is_unavailable_within_the_timeout(served):
    with Proxy(served.server.port) as proxy:
        store = served.store(TIMEOUT, url=proxy.url(served.url))
        lease = await prepared(store)
        proxy.stall()
        await all_unavailable(store, lease, seconds=TIMEOUT + SLACK)
        proxy.heal()
        await works_again(store, lease)
        await store.close()


async def test_a_slow_network_is_only_slow(served):
    with Proxy(served.server.port) as proxy:
        store = served.store(url=proxy.url(served.url))
        lease = await prepared(store)
        proxy.delay(0.01)
        await works_again(store, lease)
        proxy.heal()
        await store.close()


async def test_an_append_whose_answer_was_lost_is_repeated_without_effect(served):
    with Proxy(served.server.port) as proxy:
        store, direct = served.store(url=proxy.url(served.url)), served.store()
        await store.open()
        await direct.open()
        await store.create_log("log")
        expected, lost = [], 0
        for number, answers in enumerate(range(10), start=1):
            entries = [b"%d-%d" % (number, index) for index in range(3)]
            expected += entries
            batch = Batch("producer", number, entries)
            proxy.lose_answer(after=answers)
            try:
                first = await store.append("log", batch)
            except StoreUnavailableError:
                lost += 1
                proxy.heal()
                first = await repeated(store, batch)
            proxy.heal()
            assert first == 3 * (number - 1) + 1
            assert await direct.append("log", batch) == first
        assert [entry.value for entry in await direct.read("log", 0, 1_000)] == expected
        assert lost >= 1
        await store.close()
        await direct.close()


async def repeated(store, batch):
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                return await store.append("log", batch)
            except StoreUnavailableError:
                await asyncio.sleep(0.01)


async def test_a_save_whose_answer_was_lost_is_whole_or_not_there(served):
    with Proxy(served.server.port) as proxy:
        store, direct = served.store(url=proxy.url(served.url)), served.store()
        lease = await prepared(store)
        await direct.open()
        last = b"old"
        await store.save(lease, {"a": last, "b": last})
        for answers in range(8):
            value = b"%d" % answers
            proxy.lose_answer(after=answers)
            try:
                await store.save(lease, {"a": value, "b": value})
                allowed = [value]
            except StoreUnavailableError:
                allowed = [value, last]
            proxy.heal()
            found = await direct.load("")
            assert found["a"] == found["b"]
            assert found["a"] in allowed
            await works_again(store, lease)
            last = found["a"]
        await store.close()
        await direct.close()


async def test_calls_that_are_cancelled_at_random_leave_the_store_usable(place):
    chance = random.Random(place.kind)
    store = place.store()
    lease = await prepared(store)
    numbers = iter(range(1_000_000))

    def append():
        return store.append("log", Batch(f"p{next(numbers)}", 1, [b"%d" % next(numbers)] * 3))

    choices = [
        *operations(store, lease).values(),
        *([append] * 4),
        *([lambda: store.wait("log", 10_000_000, 0.2)] * 4),
    ]
    for _ in range(3):
        tasks = [asyncio.ensure_future(chance.choice(choices)()) for _ in range(150)]
        for task in chance.sample(tasks, 100):
            if chance.random() < 0.7:
                await asyncio.sleep(chance.random() * 0.002)
            task.cancel()
        async with asyncio.timeout(DEADLINE):
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        failed = [each for each in outcomes if isinstance(each, Exception)]
        assert failed == []
    async with asyncio.timeout(DEADLINE):
        await works_again(store, lease)
        entries = await store.read("log", 0, 100_000)
        assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))
        # Each batch of three is there as a whole.
        threes = [entry.value for entry in entries if entry.value not in {b"first", b"x"}]
        assert threes == [value for value in threes[::3] for _ in range(3)]
        assert len(set(threes)) == len(threes) // 3
        await store.close()


async def test_a_cancelled_call_ends_soon_even_if_nothing_answers(served):
    store = served.store(LONG)
    lease = await prepared(store)
    served.server.pause()
    try:
        tasks = [asyncio.ensure_future(operation()) for operation in operations(store, lease).values()]
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        async with asyncio.timeout(SLACK):
            await asyncio.wait(tasks)
    finally:
        served.server.resume()
    await works_again(store, lease)
    await store.close()


async def test_no_error_and_no_log_record_has_the_password(served, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    store = served.store(TIMEOUT)
    lease = await prepared(store)
    texts = []

    async def note(operation):
        try:
            await operation()
        except (StoreError, LeaseLostError) as error:
            chain = error
            while chain is not None:
                texts.append(f"{chain} {chain!r}")
                chain = chain.__cause__ or chain.__context__

    served.server.kill()
    for operation in operations(store, lease).values():
        await note(operation)
    wrong = served.url.replace(quote(PASSWORD, safe=""), "not-the-password")
    served.server.start()
    refused = served.store(TIMEOUT, url=wrong)
    with pytest.raises(StoreError) as caught:
        await refused.open()
    await refused.close()
    await store.close()
    assert "not-the-password" not in f"{caught.value} {refused!r} {refused.url}"
    assert len(texts) >= len(operations(store, lease))
    assert leaks("\n".join(texts)) == []
    assert leaks(caplog.text) == []
