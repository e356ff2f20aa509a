"""`run_once`: a feed runs in one process at a time, and another process takes over."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager, closing, contextmanager

import pytest
from codomyrmex.integrations.durable import (
    DurableStream,
    FeedState,
    SQLiteStore,
    StoreConfigError,
    StoreUnavailableError,
    run_once,
)
from codomyrmex.integrations.service_mesh import watch
from codomyrmex.streaming import InMemoryStream
from codomyrmex.streaming.testing import FakeClock
from helpers import settle, until

LEASE = 9.0


class Feeds:
    """Feeds of several processes; each notes when it starts and stops."""

    def __init__(self):
        self.running, self.log = [], []

    def feed(self, name, fail=None):
        async def run():
            self.running.append(name)
            self.log.append(name)
            try:
                if fail is not None:
                    await fail()
                await asyncio.Event().wait()
            finally:
                self.running.remove(name)

        return run


class BrokenStore(SQLiteStore):
    """A store that can stop answering, and whose calls in progress are counted."""

    broken = False
    busy = 0

    async def open(self):
        with self._counted():
            await super().open()

    async def acquire(self, name, owner, seconds):
        with self._counted():
            self._check()
            return await super().acquire(name, owner, seconds)

    async def renew(self, lease, seconds):
        with self._counted():
            self._check()
            await super().renew(lease, seconds)

    async def release(self, lease):
        with self._counted():
            await super().release(lease)

    def _check(self):
        if self.broken:
            raise StoreUnavailableError(f"{self.url}: no answer from nats://user:secret@host")

    @contextmanager
    def _counted(self):
        BrokenStore.busy += 1
        try:
            yield
        finally:
            BrokenStore.busy -= 1


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
async def stores(tmp_path, clock):
    """Return a function that opens the same file as another process would."""
    opened = []

    async def make():
        store = BrokenStore(tmp_path / "feeds.db", clock=clock)
        await store.open()
        opened.append(store)
        return store

    yield make
    for store in opened:
        await store.close()


async def pass_time(clock, seconds, step=0.25):
    """Let seconds pass, and everything happen that is due after each step."""
    for _ in range(round(seconds / step)):
        clock.advance(step)
        await settle()
        while BrokenStore.busy:
            await until(lambda: not BrokenStore.busy)
            await settle()


async def run_until(clock, condition, limit=60.0):
    """Let time pass until a condition holds, and return how many seconds that took."""
    began = clock.monotonic()
    while not condition():
        assert clock.monotonic() - began < limit
        await pass_time(clock, 0.25)
    return clock.monotonic() - began


async def test_a_feed_runs_in_one_process_and_another_takes_over_when_that_ends_in_order(stores, clock):
    feeds = Feeds()
    first = run_once(await stores(), "envoy", feeds.feed("first"), lease=LEASE, clock=clock)
    second = run_once(await stores(), "envoy", feeds.feed("second"), lease=LEASE, clock=clock)
    async with second, first:
        await run_until(clock, lambda: feeds.running)
        holder = feeds.running[0]
        await pass_time(clock, 3 * LEASE)
        assert feeds.log == [holder]
        states = {first.health().state, second.health().state}
        assert states == {FeedState.RUNNING, FeedState.STANDBY}
        if holder == "second":
            await second.aclose()
        else:
            await first.aclose()
        assert feeds.running == []
        assert await run_until(clock, lambda: feeds.running) <= 1
        assert len(feeds.log) == 2
    assert feeds.running == []
    assert first.health().state is second.health().state is FeedState.CLOSED


async def test_a_process_that_cannot_renew_its_lease_stops_the_feed_before_another_starts_it(stores, clock):
    feeds, store = Feeds(), await stores()
    async with run_once(store, "envoy", feeds.feed("first"), lease=LEASE, clock=clock) as first:
        await run_until(clock, lambda: feeds.running)
        async with run_once(await stores(), "envoy", feeds.feed("second"), lease=LEASE, clock=clock):
            await pass_time(clock, LEASE)
            store.broken = True
            assert await run_until(clock, lambda: not feeds.running) <= LEASE * 2 / 3 + 0.5
            await run_until(clock, lambda: first.health().state is FeedState.UNAVAILABLE)
            assert "secret" not in first.health().last_error
            assert feeds.log == ["first"]
            assert await run_until(clock, lambda: feeds.running) <= LEASE * 2 / 3 + 1
            assert feeds.running == ["second"]
            store.broken = False
            await run_until(clock, lambda: first.health().state is FeedState.STANDBY)
            await pass_time(clock, 2 * LEASE)
            assert feeds.running == ["second"]


async def test_a_store_that_is_away_for_a_moment_does_not_stop_the_feed(stores, clock):
    feeds, store = Feeds(), await stores()
    async with run_once(store, "envoy", feeds.feed("first"), lease=LEASE, clock=clock) as runner:
        await run_until(clock, lambda: feeds.running)
        store.broken = True
        await pass_time(clock, LEASE / 2)
        store.broken = False
        await pass_time(clock, 3 * LEASE)
        assert feeds.log == ["first"]
        assert runner.health().state is FeedState.RUNNING


async def test_a_process_that_stood_still_longer_than_its_lease_stops_the_feed_when_it_continues(
    stores, clock
):
    feeds, store, own = Feeds(), await stores(), FakeClock()
    async with run_once(store, "envoy", feeds.feed("first"), lease=LEASE, clock=own) as first:
        await until(lambda: feeds.running)
        async with run_once(await stores(), "envoy", feeds.feed("second"), lease=LEASE, clock=clock):
            await run_until(clock, lambda: "second" in feeds.running)  # the clock of the first stands still
            await pass_time(clock, LEASE)
            own.advance(LEASE * 3)
            await until(lambda: feeds.running == ["second"])
            await pass_time(own, LEASE)
            assert first.health().state is FeedState.STANDBY
            assert feeds.log == ["first", "second"]


async def test_a_lease_that_another_process_took_ends_the_feed(stores, clock):
    feeds, own = Feeds(), FakeClock()
    async with run_once(await stores(), "envoy", feeds.feed("first"), lease=LEASE, clock=own) as first:
        await until(lambda: feeds.running)
        async with run_once(await stores(), "envoy", feeds.feed("second"), lease=LEASE, clock=clock):
            await run_until(clock, lambda: "second" in feeds.running)
            own.advance(LEASE / 3)  # the first renews in time, as far as it knows
            await until(lambda: feeds.running == ["second"])
            assert "not held any more" in first.health().last_error


async def test_a_feed_that_raises_is_started_again_after_a_growing_delay(stores, clock):
    feeds = Feeds()

    async def fail():
        raise ConnectionError("https://user:secret@envoy refused")

    async with run_once(
        await stores(), "envoy", feeds.feed("first", fail), lease=3600, clock=clock
    ) as runner:
        await run_until(clock, lambda: runner.health().state is FeedState.FAILED)
        await pass_time(clock, 600, step=1.0)
        assert runner.health().failures == len(feeds.log)
        assert 600 / 30 <= len(feeds.log) < 150
        assert "refused" in runner.health().last_error
        assert "secret" not in runner.health().last_error


async def test_a_feed_that_is_cancelled_by_something_else_is_started_again(stores, clock):
    feeds = Feeds()

    async def cancelled():
        if len(feeds.log) == 1:
            raise asyncio.CancelledError

    async with run_once(
        await stores(), "x", feeds.feed("first", cancelled), lease=LEASE, clock=clock
    ) as runner:
        await run_until(clock, lambda: len(feeds.log) == 2)
        assert runner.health().state is FeedState.RUNNING


async def test_a_feed_that_returns_is_not_started_by_another_process(stores, clock):
    calls = []

    def feed(name):
        async def run():
            calls.append(name)

        return run

    async with run_once(await stores(), "import", feed("first"), lease=LEASE, clock=clock) as runner:
        await run_until(clock, lambda: runner.health().state is FeedState.ENDED)
        async with run_once(await stores(), "import", feed("second"), lease=LEASE, clock=clock):
            await pass_time(clock, 3 * LEASE)
            assert calls == ["first"]


async def test_context_managers_are_entered_and_left(stores, clock):
    log = []

    @contextmanager
    def plain():
        log.append("open")
        try:
            yield
        finally:
            log.append(f"closed in {threading.current_thread() is threading.main_thread()}")

    @asynccontextmanager
    async def asynchronous():
        log.append("aopen")
        try:
            yield
        finally:
            log.append("aclosed")

    for feed, expected in ((plain, ["open", "closed in False"]), (asynchronous, ["aopen", "aclosed"])):
        log.clear()
        async with run_once(await stores(), "feed", feed, lease=LEASE, clock=clock):
            await run_until(clock, lambda: log)
        assert log == expected


async def test_closing_makes_a_feed_of_a_handle(stores, clock):
    class Circuit:
        state, name = "open", "orders"

    stream, handles = InMemoryStream(), []

    def feed():
        handles.append(watch(Circuit(), stream, poll_interval=0))
        return closing(handles[-1])

    async with run_once(await stores(), "orders", feed, lease=LEASE, clock=clock):
        await run_until(clock, lambda: stream.statistics().published)
    assert handles[0].closed


async def test_a_feed_that_is_neither_awaitable_nor_a_context_manager_is_an_error(stores, clock):
    async with run_once(await stores(), "x", lambda: 5, lease=LEASE, clock=clock) as runner:
        await run_until(clock, lambda: runner.health().failures)
        assert runner.health().last_error == (
            "TypeError: feed: must return an awaitable or a context manager, got 5"
        )


async def test_a_feed_that_does_not_stop_keeps_its_lease(stores, clock):
    never, feeds = asyncio.Event(), Feeds()

    async def stubborn():
        while not never.is_set():
            try:
                await never.wait()
            except asyncio.CancelledError:
                continue

    runner = await run_once(await stores(), "x", stubborn, lease=LEASE, clock=clock).start()
    await run_until(clock, lambda: runner.health().state is FeedState.RUNNING)
    ending = asyncio.create_task(runner.aclose())
    async with run_once(await stores(), "x", feeds.feed("second"), lease=LEASE, clock=clock):
        assert await run_until(clock, ending.done) >= LEASE - 1
        assert feeds.running == []  # the lease was renewed until now, and expires
        never.set()


async def test_two_of_one_process_exclude_each_other(tmp_path):
    feeds = Feeds()
    async with (
        DurableStream(SQLiteStore(tmp_path / "events.db")) as stream,
        run_once(stream, "envoy", feeds.feed("first")),
        run_once(stream, "envoy", feeds.feed("second")),
        run_once(stream, "another", feeds.feed("third")),
    ):
        await until(lambda: len(feeds.running) == 2)
        assert "third" in feeds.running


async def test_a_feed_of_each_kind_of_store_passes_to_another_process(place):
    feeds = Feeds()
    async with DurableStream(place.store()) as one, DurableStream(place.store()) as two:
        first = await run_once(one, "envoy", feeds.feed("first"), lease=1.0).start()
        await until(lambda: feeds.running == ["first"])
        async with run_once(two, "envoy", feeds.feed("second"), lease=1.0):
            await asyncio.sleep(0.6)  # longer than a pause of a standby
            assert feeds.running == ["first"]
            await first.aclose()
            await until(lambda: feeds.running == ["second"])
            assert feeds.log == ["first", "second"]


async def test_a_runner_starts_once_and_closes_repeatedly(stores, clock):
    runner = run_once(await stores(), "x", Feeds().feed("first"), clock=clock)
    await runner.aclose()
    assert runner.health() == ("x", FeedState.CLOSED, 0, None)
    await runner.start()
    with pytest.raises(RuntimeError, match="can be started only once"):
        await runner.start()
    await runner.aclose()
    await runner.aclose()


async def test_a_store_that_cannot_be_used_is_reported_at_the_start(tmp_path):
    (tmp_path / "not.db").write_bytes(b"this is not a database, but a text" * 100)
    with pytest.raises(StoreConfigError):
        await run_once(SQLiteStore(tmp_path / "not.db"), "x", Feeds().feed("first")).start()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sqlite:///x", "x", print), "store: must be a DurableStream or a Store, got 'sqlite:///x'"),
        (("store", "a b", print), "name: must be 1 to 64 characters"),
        (("store", "x", "feed"), "feed: must be a function that starts the feed, got 'feed'"),
        (("store", "x", print, 0), "lease: must be greater than 0"),
    ],
)
def test_arguments_are_checked(tmp_path, arguments, message):
    store, name, feed, *lease = arguments
    if store == "store":
        store = SQLiteStore(tmp_path / "x.db")
    with pytest.raises((TypeError, ValueError), match=message):
        run_once(store, name, feed, lease=lease[0] if lease else 10.0)
