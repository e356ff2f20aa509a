"""Streams used from many threads and event loops at once, and what happens when a loop ends."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading

import pytest
from codomyrmex.streaming import InMemoryStream, StreamClosedError, TopicStream, create_event
from codomyrmex.streaming.testing import collect
from helpers import DEADLINE, LoopThread, no_unawaited_coroutines, settle, until


@pytest.fixture
def other():
    with LoopThread() as thread:
        yield thread


@pytest.fixture
def eager_switching():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def in_threads(*functions):
    """Run functions at the same time, each in a thread; raise what one of them raised."""
    errors = []
    ready = threading.Barrier(len(functions))

    def run(function):
        ready.wait(DEADLINE)
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(f,), daemon=True) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE * 2)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if errors:
        raise errors[0]


def in_a_thread(function):
    in_threads(function)


def by_publisher(events):
    found = {}
    for event in events:
        publisher, number = event.data
        found.setdefault(publisher, []).append(number)
    return found


class TestManyThreads:
    @pytest.mark.usefixtures("eager_switching")
    def test_the_counts_are_exact_and_each_publisher_stays_in_order(self):
        stream = InMemoryStream(buffer_size=50)
        threads, events = 6, 300
        lock = threading.Lock()
        seen, refused = [], []

        def take(event):
            with lock:
                seen.append(event)

        def broken(_):
            raise ValueError("no")

        def publish(name):
            for number in range(events):
                stream.publish_nowait(create_event((name, number), topic=f"t.{number % 3}"))

        stream.subscribe_nowait(take)
        stream.subscribe_nowait(broken, "t.0")
        stream.subscribe_nowait(refused.append, "t.*", lambda _: False)
        in_threads(*(lambda name=name: publish(name) for name in range(threads)))
        total = threads * events
        assert by_publisher(seen) == {name: list(range(events)) for name in range(threads)}
        assert refused == []
        assert stream.statistics() == (total, 0, total // 3, 3, 50)

    @pytest.mark.usefixtures("eager_switching")
    def test_awaited_and_unawaited_publishers_are_counted_exactly_together(self):
        stream = InMemoryStream()
        count = 200

        handled, handled_at_once = [], []

        async def handler(event):
            await asyncio.sleep(0)
            handled.append(event)

        async def from_a_loop():
            for number in range(count):
                await stream.publish(create_event(number))

        def from_a_thread():
            for number in range(count):
                stream.publish_nowait(create_event(number))

        with LoopThread() as home:
            home.run(_subscribed(stream, handler))
            stream.subscribe_nowait(handled_at_once.append)
            in_threads(lambda: asyncio.run(from_a_loop()), from_a_thread, lambda: asyncio.run(from_a_loop()))
            home.run(stream.aclose())
        assert len(handled) == len(handled_at_once) == 3 * count
        assert stream.statistics()[:4] == (3 * count, 0, 0, 0)

    @pytest.mark.usefixtures("eager_switching")
    @pytest.mark.parametrize("pattern", ["*", "t", "t.>", "t.*"])
    def test_a_storm_of_subscribing_and_cancelling_loses_nothing_for_the_others(self, pattern):
        stream = InMemoryStream()
        steady, running, deliveries = [], threading.Event(), []
        running.set()

        def publish():
            for number in range(600):
                stream.publish_nowait(create_event(number, topic="t" if pattern == "t" else "t.x"))
            running.clear()

        def storm():
            while running.is_set():
                subscriptions = [stream.subscribe_nowait(deliveries.append, pattern) for _ in range(3)]
                for subscription in subscriptions:
                    subscription.cancel()

        stream.subscribe_nowait(lambda event: steady.append(event.data))
        in_threads(publish, storm, storm)
        assert steady == list(range(600))
        counts = stream.statistics()
        assert counts[:4] == (600, 0, 0, 1)

    @pytest.mark.usefixtures("eager_switching")
    def test_the_same_subscription_may_be_cancelled_by_many_threads(self):
        stream = InMemoryStream()
        subscription = stream.subscribe_nowait(lambda _: None)
        keeper = stream.subscribe_nowait(lambda _: None)
        in_threads(*[subscription.cancel] * 6)
        stream.publish_nowait(create_event(0))
        assert keeper.active
        assert stream.statistics()[:4] == (1, 0, 0, 1)

    def test_after_cancel_has_returned_no_new_event_arrives(self):
        stream = InMemoryStream()
        late = []
        for _ in range(50):
            over = []
            subscription = stream.subscribe_nowait(lambda event, over=over: late.extend(over))
            in_threads(subscription.cancel, lambda: stream.publish_nowait(create_event(0)))
            over.append("called after cancel")
            stream.publish_nowait(create_event(0))
        assert late == []

    def test_a_slow_handler_does_not_hold_up_the_tables(self):
        stream = InMemoryStream()
        inside, leave = threading.Event(), threading.Event()

        def slow(_):
            inside.set()
            assert leave.wait(DEADLINE)

        def meddle():
            assert inside.wait(DEADLINE)
            subscription = stream.subscribe_nowait(lambda _: None, "x")
            subscription.cancel()
            stream.statistics()
            stream.add_interceptor(lambda event: event)
            leave.set()

        stream.subscribe_nowait(slow, "slow")
        in_threads(lambda: stream.publish_nowait(create_event(0, topic="slow")), meddle)

    @pytest.mark.usefixtures("eager_switching")
    def test_listeners_can_be_opened_on_many_loops_while_the_stream_closes(self):
        async def come_and_go(stream):
            try:
                while True:
                    async with stream.listen() as events, asyncio.timeout(DEADLINE):
                        async for _ in events:
                            pass
            except StreamClosedError:
                pass

        for _ in range(10):
            stream = InMemoryStream()
            in_threads(
                *[lambda s=stream: asyncio.run(come_and_go(s))] * 3, lambda s=stream: asyncio.run(s.aclose())
            )
            assert stream.statistics().subscribers == 0


async def _subscribed(stream, handler, topic="*"):
    return await stream.subscribe(handler, topic)


class TestHomeLoop:
    async def test_an_async_handler_runs_on_the_loop_it_was_subscribed_on(self, other):
        stream = InMemoryStream()
        ran = []

        async def handler(event):
            await asyncio.sleep(0)
            ran.append((event.data, asyncio.get_running_loop(), threading.current_thread()))

        other.run(_subscribed(stream, handler))
        await stream.publish(create_event("elsewhere"))
        other.run(stream.publish(create_event("at home")))
        stream.publish_nowait(create_event("not awaited"))
        await asyncio.to_thread(stream.publish_nowait, create_event("thread"))
        other.run(stream.aclose())
        assert {data for data, *_ in ran} == {"elsewhere", "at home", "not awaited", "thread"}
        assert {where[1:] for where in ran} == {(other.loop, other.thread)}
        assert stream.statistics()[:3] == (4, 0, 0)

    async def test_publish_waits_for_the_handlers_of_its_own_loop_only(self, other):
        stream = InMemoryStream()
        release, seen = threading.Event(), []

        async def blocked(event):
            assert await asyncio.to_thread(release.wait, DEADLINE)
            seen.append(("there", event.data))

        async def here(event):
            await asyncio.sleep(0)
            seen.append(("here", event.data))

        await stream.subscribe(here)
        other.run(_subscribed(stream, blocked))
        await stream.subscribe(here)
        async with asyncio.timeout(DEADLINE):
            await stream.publish(create_event(0))
        assert seen == [("here", 0)] * 2
        release.set()
        other.run(stream.aclose())
        assert seen[2:] == [("there", 0)]

    async def test_after_aclose_the_calls_queued_on_another_loop_still_run_there(self, other):
        stream = InMemoryStream()
        release, seen = threading.Event(), []

        async def handler(event):
            assert await asyncio.to_thread(release.wait, DEADLINE)
            seen.append(event.data)

        other.run(_subscribed(stream, handler))
        for number in range(3):
            await stream.publish(create_event(number))
        async with asyncio.timeout(DEADLINE):
            await stream.aclose()
        assert seen == []
        release.set()
        await until(lambda: len(seen) == 3)
        assert seen == [0, 1, 2]
        assert stream.statistics()[:3] == (3, 0, 0)

    async def test_a_failure_on_another_loop_is_reported_like_any_other(self, other):
        reported = []
        stream = InMemoryStream(on_error=lambda *args: reported.append(args))
        error = LookupError("there")

        async def broken(_):
            raise error

        subscription = other.run(_subscribed(stream, broken))
        event = create_event(0)
        async with asyncio.timeout(DEADLINE):
            await stream.publish(event)
            stream.publish_nowait(event)
        other.run(stream.aclose())
        assert reported == [(error, event, subscription)] * 2
        assert stream.statistics()[:3] == (2, 0, 2)

    async def test_without_a_loop_an_async_handler_runs_where_it_is_awaited(self):
        stream = InMemoryStream()
        ran = []

        async def handler(_):
            ran.append(asyncio.get_running_loop())

        in_a_thread(lambda: stream.subscribe_nowait(handler))
        await stream.publish(create_event(0))
        assert ran == [asyncio.get_running_loop()]

    def test_without_any_loop_an_async_handler_fails_and_is_counted(self):
        stream = InMemoryStream()

        async def handler(_):
            pass

        stream.subscribe_nowait(handler)
        with no_unawaited_coroutines(), collect(stream) as after:
            stream.publish_nowait(create_event(0))
        assert len(after) == 1
        assert stream.statistics()[:3] == (1, 0, 1)

    async def test_a_handler_for_publish_nowait_runs_in_the_context_of_its_subscriber(self):
        request = contextvars.ContextVar("request", default="none")
        stream = InMemoryStream()
        seen = []

        async def handler(_):
            seen.append(request.get())

        request.set("subscriber")
        await stream.subscribe(handler)
        request.set("publisher")
        stream.publish_nowait(create_event(0))
        await until(lambda: len(seen) >= 1)
        assert seen == ["subscriber"]


class TestOrderOfOnePublisher:
    @pytest.mark.parametrize("wait", [True, False], ids=["publish", "publish_nowait"])
    @pytest.mark.parametrize("elsewhere", [False, True])
    async def test_async_handlers_get_its_events_in_order(self, other, elsewhere, wait):
        stream = InMemoryStream()
        seen = []

        async def handler(event):
            await asyncio.sleep(0)
            seen.append(event.data)

        if elsewhere:
            other.run(_subscribed(stream, handler))
        else:
            await stream.subscribe(handler)
        for number in range(60):
            if wait:
                await stream.publish(create_event(number))
            else:
                stream.publish_nowait(create_event(number))
        if elsewhere:
            other.run(stream.aclose())
        else:
            await stream.aclose()
        assert seen == list(range(60))
        assert stream.statistics()[:3] == (60, 0, 0)

    async def test_a_failure_in_between_does_not_change_it(self):
        stream = InMemoryStream()
        seen = []

        async def handler(event):
            await asyncio.sleep(0)
            seen.append(event.data)
            if event.data % 2:
                raise ValueError(event.data)

        await stream.subscribe(handler)
        async with asyncio.timeout(DEADLINE):
            for number in (0, 1, 2, 3, 5):
                stream.publish_nowait(create_event(number))
            await stream.aclose()
        assert seen == [0, 1, 2, 3, 5]
        assert stream.statistics()[:3] == (5, 0, 3)


class TestEndOfALoop:
    @pytest.mark.parametrize("wait", [True, False], ids=["publish", "publish_nowait"])
    async def test_calls_for_a_closed_loop_are_dropped_and_counted_with_a_reason(self, wait, caplog):
        stream = InMemoryStream()

        async def handler(_):
            pass

        with LoopThread() as gone:
            subscription = gone.run(_subscribed(stream, handler))
        with no_unawaited_coroutines(), collect(stream) as after:
            for number in range(2):
                if wait:
                    await stream.publish(create_event(number))
                else:
                    stream.publish_nowait(create_event(number))
        assert len(after) == 2
        assert subscription.dropped == 2
        assert "closed" in caplog.text
        assert stream.statistics()[:3] == (2, 2, 0)

    def test_calls_for_a_stopped_loop_that_is_then_closed_are_dropped_and_counted(self):
        stream = InMemoryStream()
        seen = []

        async def handler(event):
            seen.append(event.data)

        with no_unawaited_coroutines():
            loop = asyncio.new_event_loop()
            loop.run_until_complete(_subscribed(stream, handler))
            stream.publish_nowait(create_event(0))
            loop.close()
            stream.publish_nowait(create_event(1))
            assert seen == []
            assert stream.statistics()[:3] == (2, 2, 0)
            del loop

    def test_calls_for_a_stopped_loop_are_made_when_it_runs_again(self):
        stream = InMemoryStream()
        seen = []

        async def handler(event):
            seen.append(event.data)

        loop = asyncio.new_event_loop()
        loop.run_until_complete(_subscribed(stream, handler))
        stream.publish_nowait(create_event(0))
        stream.publish_nowait(create_event(1))
        loop.run_until_complete(stream.aclose())
        loop.close()
        assert seen == [0, 1]
        assert stream.statistics()[:3] == (2, 0, 0)

    @pytest.mark.parametrize("turns", [0, 1, 2, 3])
    def test_an_event_published_last_thing_before_the_loop_ends_is_delivered_or_counted_as_dropped(
        self, turns
    ):
        stream = InMemoryStream()
        seen = []

        async def handler(event):
            await asyncio.sleep(0)
            seen.append(event.data)

        async def main():
            await stream.subscribe(handler)
            stream.publish_nowait(create_event(0))
            stream.publish_nowait(create_event(1))
            for _ in range(turns):
                await asyncio.sleep(0)

        with no_unawaited_coroutines():
            asyncio.run(main())
        counts = stream.statistics()
        assert len(seen) + counts.dropped == 2

    def test_events_after_the_end_of_the_loop_are_counted_as_dropped(self):
        stream = InMemoryStream()

        async def handler(_):
            pass

        async def main():
            await stream.subscribe(handler)
            stream.publish_nowait(create_event(0))

        with no_unawaited_coroutines():
            asyncio.run(main())
            before = stream.statistics().dropped
            stream.publish_nowait(create_event(1))
        assert stream.statistics().dropped == before + 1


class TestCallsQueuedByPublishNowait:
    async def test_publish_nowait_does_not_run_async_handlers_itself(self):
        stream = InMemoryStream()
        seen = []

        async def handler(event):
            seen.append(event.data)

        await stream.subscribe(handler)
        stream.publish_nowait(create_event(0))
        assert seen == []
        await until(lambda: len(seen) >= 1)
        assert seen == [0]

    async def test_aclose_waits_until_it_is_done(self):
        stream = InMemoryStream()
        seen = []

        async def slow(event):
            await asyncio.sleep(0.001)
            seen.append(event.data)

        await stream.subscribe(slow)
        await stream.subscribe(slow)
        for number in range(5):
            stream.publish_nowait(create_event(number))
        async with asyncio.timeout(DEADLINE):
            await stream.aclose()
        assert sorted(seen) == sorted([*range(5)] * 2)
        assert stream.statistics()[:4] == (5, 0, 0, 0)

    async def test_aclose_by_several_at_once_ends_for_all(self):
        stream = InMemoryStream()
        seen = []

        async def slow(event):
            await asyncio.sleep(0.001)
            seen.append(event.data)

        await stream.subscribe(slow)
        stream.publish_nowait(create_event(0))
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(stream.aclose(), stream.aclose(), stream.aclose())
        assert seen == [0]
        assert stream.statistics()[:4] == (1, 0, 0, 0)

    async def test_a_subscription_cancelled_while_aclose_waits_for_it_is_counted_once(self):
        stream = InMemoryStream()
        gate = asyncio.Event()

        async def waits(_):
            await gate.wait()

        subscription = await stream.subscribe(waits)
        stream.publish_nowait(create_event(0))
        await settle()
        closing = asyncio.create_task(stream.aclose())
        await settle()
        subscription.cancel()
        gate.set()
        async with asyncio.timeout(DEADLINE):
            await closing
        assert stream.statistics()[:4] == (1, 0, 0, 0)

    async def test_a_handler_cancelled_while_aclose_waits_does_not_break_it(self):
        stream = InMemoryStream()
        failures = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        gate = asyncio.Event()

        async def cancelled(_):
            await gate.wait()
            raise asyncio.CancelledError

        subscription = await stream.subscribe(cancelled)
        stream.publish_nowait(create_event(0))
        await settle()
        closing = asyncio.create_task(stream.aclose())
        await settle()
        gate.set()
        async with asyncio.timeout(DEADLINE):
            await closing
        await settle()
        gc.collect()
        assert failures == []
        assert subscription.dropped == 1
        assert stream.statistics()[:3] == (1, 1, 0)

    async def test_calls_beyond_the_bound_drop_the_oldest_with_a_reason(self, monkeypatch, caplog):
        monkeypatch.setattr("codomyrmex.streaming.mailbox._SIZE", 3)
        stream = InMemoryStream()
        seen = []

        async def handler(event):
            seen.append(event.data)

        subscription = await stream.subscribe(handler)
        with no_unawaited_coroutines():
            for number in range(5):
                stream.publish_nowait(create_event(number))
            await stream.aclose()
        assert seen == [2, 3, 4]
        assert subscription.dropped == 2
        assert stream.statistics()[:3] == (5, 2, 0)
        assert "dropped" in caplog.text

    async def test_a_handler_that_raises_cancelled_error_loses_one_event(self):
        stream = InMemoryStream()
        seen = []

        async def handler(event):
            await asyncio.sleep(0)
            if event.data == 1:
                raise asyncio.CancelledError
            seen.append(event.data)

        await stream.subscribe(handler)
        async with asyncio.timeout(DEADLINE):
            stream.publish_nowait(create_event(0))
            with pytest.raises(asyncio.CancelledError):
                await stream.publish(create_event(1))
            await stream.publish(create_event(2))
            await stream.aclose()
        assert sorted(seen) == [0, 2]
        assert stream.statistics().handler_errors == 0

    async def test_a_stray_cancellation_in_one_call_does_not_affect_the_next_calls(self):
        stream = InMemoryStream()
        seen = []

        async def handler(event):
            if event.data == 1:
                aborted = asyncio.get_running_loop().create_future()
                aborted.cancel()
                await aborted
            seen.append(event.data)

        await stream.subscribe(handler)
        for number in range(4):
            stream.publish_nowait(create_event(number))
        async with asyncio.timeout(DEADLINE):
            await stream.aclose()
        assert seen == [0, 2, 3]

    async def test_the_subscription_recovers_after_its_task_was_cancelled(self):
        stream = InMemoryStream()
        begun, seen = asyncio.Event(), []

        async def handler(event):
            if event.data == 0:
                begun.set()
                await asyncio.Event().wait()
            seen.append(event.data)

        await stream.subscribe(handler)
        known = asyncio.all_tasks()
        async with asyncio.timeout(DEADLINE):
            stream.publish_nowait(create_event(0))
            stream.publish_nowait(create_event(1))
            await begun.wait()
            for task in asyncio.all_tasks() - known:
                task.cancel()
            await settle()
            stream.publish_nowait(create_event(2))
            await stream.aclose()
        assert seen == [2]
        assert stream.statistics()[:3] == (3, 2, 0)

    @pytest.mark.parametrize("turns", [0, 1, 2])
    async def test_the_subscription_recovers_even_if_its_task_never_ran(self, turns):
        stream = InMemoryStream()
        seen = []

        async def handler(event):
            await asyncio.sleep(0)
            seen.append(event.data)

        await stream.subscribe(handler)
        known = asyncio.all_tasks()
        with no_unawaited_coroutines():
            stream.publish_nowait(create_event(0))
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in asyncio.all_tasks() - known:
                task.cancel()
            await settle()
            stream.publish_nowait(create_event(1))
            async with asyncio.timeout(DEADLINE):
                await stream.aclose()
        counts = stream.statistics()
        assert 1 in seen
        assert len(seen) + counts.dropped == 2


class TestHandlersThatPublish:
    @pytest.mark.parametrize("through_gather", [False, True])
    @pytest.mark.parametrize("elsewhere", [False, True])
    async def test_one_that_awaits_publish_does_not_wait_for_itself(self, other, through_gather, elsewhere):
        stream = InMemoryStream()
        seen = []

        async def handler(event):
            if event.data < 3:
                next_one = create_event(event.data + 1)
                if through_gather:
                    await asyncio.gather(stream.publish(next_one))
                else:
                    await stream.publish(next_one)
            seen.append(event.data)

        if elsewhere:
            other.run(_subscribed(stream, handler))
        else:
            await stream.subscribe(handler)
        stream.publish_nowait(create_event(0))
        await until(lambda: len(seen) == 4)
        async with asyncio.timeout(DEADLINE):
            await stream.aclose()
        assert sorted(seen) == [0, 1, 2, 3]
        assert stream.statistics()[:3] == (4, 0, 0)

    @pytest.mark.parametrize("elsewhere", [False, True])
    async def test_two_that_await_publish_do_not_wait_for_each_other(self, other, elsewhere):
        stream = InMemoryStream()
        seen = []

        async def first(event):
            seen.append(("first", event.data))
            if event.data == "start":
                await asyncio.sleep(0.001)
                await stream.publish(create_event("from first"))

        async def second(event):
            seen.append(("second", event.data))
            if event.data == "start":
                await asyncio.sleep(0.001)
                await stream.publish(create_event("from second"))

        await stream.subscribe(first)
        if elsewhere:
            other.run(_subscribed(stream, second))
        else:
            await stream.subscribe(second)
        stream.publish_nowait(create_event("start"))
        await until(lambda: len(seen) == 6, timeout=0.5)
        assert sorted(seen) == sorted(
            (who, what) for who in ("first", "second") for what in ("start", "from first", "from second")
        )
        assert stream.statistics()[:3] == (3, 0, 0)

    async def test_two_handlers_on_two_streams_do_not_wait_for_each_other(self):
        ping, pong = InMemoryStream(), InMemoryStream()
        seen = []

        async def on_ping(event):
            seen.append(("ping", event.data))
            await asyncio.sleep(0)
            if event.data < 2:
                await pong.publish(create_event(event.data + 1))

        async def on_pong(event):
            seen.append(("pong", event.data))
            await asyncio.sleep(0)
            if event.data < 2:
                await ping.publish(create_event(event.data + 1))

        await ping.subscribe(on_ping)
        await pong.subscribe(on_pong)
        ping.publish_nowait(create_event(0))
        pong.publish_nowait(create_event(0))
        await until(lambda: len(seen) == 6, timeout=0.5)
        assert sorted(seen) == [(who, n) for who in ("ping", "pong") for n in range(3)]

    async def test_one_may_close_the_stream_whose_events_it_handles(self):
        stream = InMemoryStream()
        closed = []

        async def close(_):
            await stream.aclose()
            closed.append(True)

        await stream.subscribe(close)
        stream.publish_nowait(create_event(0))
        await until(lambda: len(closed) >= 1)
        assert closed == [True]
        with pytest.raises(StreamClosedError):
            stream.publish_nowait(create_event(1))

    async def test_two_may_close_the_stream_at_the_same_time(self):
        stream = InMemoryStream()
        closed = []

        async def close(_):
            await asyncio.sleep(0)
            await stream.aclose()
            closed.append(True)

        await stream.subscribe(close)
        await stream.subscribe(close)
        stream.publish_nowait(create_event(0))
        await until(lambda: len(closed) == 2, timeout=0.5)
        assert stream.statistics().subscribers == 0

    async def test_handlers_on_two_loops_may_publish_to_each_other(self, other):
        stream = InMemoryStream()
        seen = []

        async def here(event):
            seen.append("here")
            await stream.publish(create_event(0, topic="there"))

        async def there(event):
            seen.append("there")
            if len(seen) < 6:
                await stream.publish(create_event(0, topic="here"))

        await stream.subscribe(here, "here")
        other.run(_subscribed(stream, there, "there"))
        async with asyncio.timeout(DEADLINE):
            await stream.publish(create_event(0, topic="here"))
        await until(lambda: len(seen) >= 6)
        assert seen == ["here", "there"] * 3


class _Cycle:
    """Garbage that only the collector finds, and that acts when it is found."""

    def __init__(self, action):
        self.action = action
        self.me = self

    def __del__(self):
        self.action()


class TestFinalizers:
    @pytest.mark.parametrize("make", [InMemoryStream, TopicStream])
    @pytest.mark.parametrize("what", ["publish", "cancel", "subscribe", "statistics"])
    def test_one_that_uses_the_stream_during_a_collection_does_not_lock_it(self, make, what):
        stream = make()
        acted, handled = [], []

        def act():
            acted.append(what)
            if what == "publish":
                stream.publish_nowait(create_event("finalizer", topic="t"))
            elif what == "cancel":
                stream.subscribe_nowait(lambda _: None, "t").cancel()
            elif what == "subscribe":
                stream.subscribe_nowait(lambda _: None, "u")
            else:
                stream.statistics()

        def use():
            for number in range(60):
                _Cycle(act)
                subscription = stream.subscribe_nowait(handled.append, f"t.{number}")
                stream.publish_nowait(create_event(number, topic=f"t.{number}"))
                stream.statistics()
                subscription.cancel()

        thresholds = gc.get_threshold()
        gc.collect()
        gc.set_threshold(1)
        try:
            in_a_thread(use)
        finally:
            gc.set_threshold(*thresholds)
        gc.collect()
        assert len(acted) == 60
        assert stream.statistics().published == (120 if what == "publish" else 60)
        assert [event.data for event in handled] == list(range(60))

    def test_a_subscription_cancelled_in_the_middle_of_a_look_up_gets_nothing_more(self):
        stream = InMemoryStream()
        late = []
        thresholds = gc.get_threshold()

        def one_round(threshold):
            subscription = stream.subscribe_nowait(lambda event: late.append((threshold, event.data)))
            _Cycle(subscription.cancel)
            event = create_event("first", topic="t")
            gc.set_threshold(threshold)
            stream.publish_nowait(event)
            gc.set_threshold(*thresholds)
            gc.collect()
            assert not subscription.active
            del late[:]
            stream.publish_nowait(create_event("after", topic="t"))
            assert late == []

        gc.collect()
        try:
            for threshold in range(1, 40):
                one_round(threshold)
        finally:
            gc.set_threshold(*thresholds)
