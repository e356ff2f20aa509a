"""`InMemoryStream` seen from one thread and one event loop."""

from __future__ import annotations

import asyncio
import functools
import logging
from types import SimpleNamespace

import pytest
from codomyrmex.streaming import (
    Event,
    InMemoryStream,
    StreamClosedError,
    StreamStatistics,
    TopicError,
    create_event,
)
from codomyrmex.streaming.testing import collect
from helpers import DEADLINE, no_unawaited_coroutines, settle, shown


async def send(stream, event, *, wait):
    """Publish one way or the other; afterwards all handlers are done."""
    if wait:
        await stream.publish(event)
    else:
        stream.publish_nowait(event)
        await settle()


both_ways = pytest.mark.parametrize("wait", [True, False], ids=["publish", "publish_nowait"])


class TestOrder:
    @both_ways
    async def test_plain_handlers_are_called_in_the_order_of_subscription(self, wait):
        stream = InMemoryStream()
        seen = []
        for name in "abcd":
            await stream.subscribe(lambda event, name=name: seen.append((name, event.data)))
        for number in range(3):
            await send(stream, create_event(number), wait=wait)
        assert seen == [(name, number) for number in range(3) for name in "abcd"]

    @both_ways
    async def test_wildcards_and_exact_topics_share_one_order_of_subscription(self, wait):
        stream = InMemoryStream()
        seen = []
        for pattern in ("a.b", "*", "a.>", "a.*", "a.b", ">", "*.b"):
            await stream.subscribe(lambda _, p=pattern: seen.append(p), pattern)
        await send(stream, create_event(0, topic="a.b"), wait=wait)
        assert seen == ["a.b", "*", "a.>", "a.*", "a.b", ">", "*.b"]

    async def test_plain_and_async_handlers_share_one_order_of_subscription(self):
        stream = InMemoryStream()
        seen = []

        def plain(event):
            seen.append(("plain", event.data))

        async def slow(event):
            await asyncio.sleep(0)
            seen.append(("slow", event.data))

        for handler in (slow, plain, slow, plain):
            await stream.subscribe(handler)
        await stream.publish(create_event(1))
        assert seen == [("slow", 1), ("plain", 1), ("slow", 1), ("plain", 1)]

    async def test_after_publish_every_async_handler_is_done(self):
        stream = InMemoryStream()
        done = []

        async def slow(event):
            for _ in range(5):
                await asyncio.sleep(0)
            done.append(event.data)

        await stream.subscribe(slow)
        await stream.subscribe(slow)
        async with asyncio.timeout(DEADLINE):
            await stream.publish(create_event("x"))
        assert done == ["x", "x"]

    async def test_async_handlers_are_awaited_in_the_publishers_task(self):
        stream = InMemoryStream()
        tasks = set()

        async def handler(_):
            await asyncio.sleep(0)
            tasks.add(asyncio.current_task())

        await stream.subscribe(handler)
        for _ in range(3):
            await stream.publish(create_event(0))
        assert tasks == {asyncio.current_task()}

    async def test_the_same_handler_subscribed_twice_is_called_twice_and_ended_one_by_one(self):
        stream = InMemoryStream()
        seen = []
        first = await stream.subscribe(seen.append)
        second = await stream.subscribe(seen.append)
        assert first.id != second.id
        await stream.publish(create_event(1))
        first.cancel()
        await stream.publish(create_event(2))
        second.cancel()
        await stream.publish(create_event(3))
        assert [event.data for event in seen] == [1, 1, 2]


class TestKindsOfHandlers:
    @both_ways
    @pytest.mark.parametrize("kind", ["async def", "lambda", "partial", "object", "method", "future"])
    async def test_any_awaitable_that_a_handler_returns_is_awaited(self, wait, kind):
        stream = InMemoryStream()
        seen = []

        async def take(event):
            await asyncio.sleep(0)
            seen.append(event.data)

        class Callable:
            async def __call__(self, event):
                await take(event)

            async def method(self, event):
                await take(event)

        await stream.subscribe(
            {
                "async def": take,
                "lambda": lambda event: take(event=event),
                "partial": functools.partial(take),
                "object": Callable(),
                "method": Callable().method,
                "future": lambda event: asyncio.ensure_future(take(event)),
            }[kind]
        )
        with no_unawaited_coroutines():
            await send(stream, create_event(7), wait=wait)
        assert seen == [7]
        assert stream.statistics()[:3] == (1, 0, 0)

    @both_ways
    @pytest.mark.parametrize("result", [0, False, "text", [], object()])
    async def test_the_result_of_a_plain_handler_is_ignored(self, wait, result):
        stream = InMemoryStream()
        await stream.subscribe(lambda _: result)
        await send(stream, create_event(0), wait=wait)
        assert stream.statistics()[:3] == (1, 0, 0)

    @pytest.mark.parametrize("handler", [None, "name", 3])
    async def test_a_handler_must_be_callable(self, handler):
        stream = InMemoryStream()
        with pytest.raises(TypeError):
            await stream.subscribe(handler)
        assert stream.statistics().subscribers == 0

    async def test_an_async_function_is_refused_as_a_filter(self):
        async def wanted(_):
            return False

        stream = InMemoryStream()
        with pytest.raises(TypeError, match="filter"):
            await stream.subscribe(print, filter_fn=wanted)
        assert stream.statistics().subscribers == 0

    @pytest.mark.parametrize("topic", ["", "a..b", ".a", "a.", ">.a", "a.>.b", None, 7, b"a"])
    async def test_a_malformed_topic_is_refused_at_subscribe(self, topic):
        stream = InMemoryStream()
        with pytest.raises(TopicError):
            await stream.subscribe(print, topic)
        with pytest.raises(ValueError):
            stream.subscribe_nowait(print, topic)
        assert stream.statistics().subscribers == 0


class TestTopicsAndFilters:
    @both_ways
    async def test_an_event_without_a_topic_reaches_only_the_single_star(self, wait):
        stream = InMemoryStream()
        with collect(stream) as everything, collect(stream, ">") as any_topic, collect(stream, "a") as a:
            await send(stream, create_event(1), wait=wait)
            await send(stream, create_event(2, topic="a"), wait=wait)
        assert [event.data for event in everything] == [1, 2]
        assert [event.data for event in any_topic] == [2]
        assert [event.data for event in a] == [2]

    @pytest.mark.parametrize("topic", [5, None, ["a"], {"a": 1}, ("a",)])
    async def test_a_topic_that_is_not_a_string_counts_as_none(self, topic):
        stream = InMemoryStream()
        with collect(stream) as everything, collect(stream, ">") as any_topic:
            for _ in range(2):
                await stream.publish(Event(metadata={"topic": topic}))
                stream.publish_nowait(Event(metadata={"topic": topic}))
        assert (len(everything), len(any_topic)) == (4, 0)

    @both_ways
    async def test_only_events_that_the_filter_is_true_for_are_delivered(self, wait):
        stream = InMemoryStream()
        even, every = [], []
        await stream.subscribe(even.append, filter_fn=lambda event: event.data % 2 == 0)
        await stream.subscribe(every.append)
        for number in range(5):
            await send(stream, create_event(number), wait=wait)
        assert [event.data for event in even] == [0, 2, 4]
        assert [event.data for event in every] == [0, 1, 2, 3, 4]

    async def test_should_receive_agrees_with_what_is_delivered(self):
        stream = InMemoryStream()
        seen = []
        subscription = await stream.subscribe(seen.append, "a.*", lambda event: event.data > 1)
        events = [create_event(n, topic=t) for n in (1, 2) for t in ("a.b", "a", "b.b")]
        for event in events:
            await stream.publish(event)
        assert seen == [event for event in events if subscription.should_receive(event)]
        subscription.cancel()
        assert not any(subscription.should_receive(event) for event in events)


class TestFailures:
    @both_ways
    @pytest.mark.parametrize("kind", ["plain", "async", "filter"])
    async def test_an_exception_of_one_subscriber_affects_nobody_else(self, wait, kind):
        stream = InMemoryStream()

        def broken(_):
            raise ValueError("no")

        async def broken_later(_):
            await asyncio.sleep(0)
            raise ValueError("no")

        with collect(stream) as before:
            if kind == "filter":
                await stream.subscribe(print, filter_fn=broken)
            else:
                await stream.subscribe(broken if kind == "plain" else broken_later)
            with collect(stream) as after:
                for number in range(3):
                    await send(stream, create_event(number), wait=wait)
        assert [event.data for event in before] == [0, 1, 2]
        assert [event.data for event in after] == [0, 1, 2]
        assert stream.statistics()[:3] == (3, 0, 3)

    @both_ways
    @pytest.mark.parametrize("kind", ["plain", "async", "filter"])
    async def test_on_error_gets_the_error_the_event_and_the_subscription(self, wait, kind):
        reported = []
        stream = InMemoryStream(on_error=lambda *args: reported.append(args))
        error = LookupError("lost")

        def broken(_):
            raise error

        async def broken_later(_):
            raise error

        if kind == "filter":
            subscription = await stream.subscribe(print, filter_fn=broken)
        else:
            subscription = await stream.subscribe(broken if kind == "plain" else broken_later)
        event = create_event(1)
        await send(stream, event, wait=wait)
        assert reported == [(error, event, subscription)]

    async def test_an_on_error_that_raises_is_logged_and_affects_nobody(self, caplog):
        def on_error(*_):
            raise RuntimeError("worse")

        def on_error_that_raises_handler(_):
            raise ValueError("bad")

        stream = InMemoryStream(on_error=on_error)
        await stream.subscribe(on_error_that_raises_handler)
        with collect(stream) as after, caplog.at_level(logging.WARNING):
            await stream.publish(create_event(1))
        assert len(after) == 1
        assert "worse" in caplog.text
        assert stream.statistics()[:3] == (1, 0, 1)

    async def test_an_async_on_error_is_refused(self):
        async def on_error(*_):
            pass

        with pytest.raises(TypeError, match="on_error"):
            InMemoryStream(on_error=on_error)

    async def test_a_failure_is_logged_once_with_the_name_of_the_handler_and_the_traceback(
        self, caplog, monkeypatch
    ):
        monkeypatch.setattr("codomyrmex.streaming.diagnostics.format_error", None)

        def a_handler_with_a_name_to_find(_):
            raise ValueError("what went wrong")

        stream = InMemoryStream()
        await stream.subscribe(a_handler_with_a_name_to_find)
        for _ in range(50):
            await stream.publish(create_event(0))
        lines = [r for r in caplog.records if "a_handler_with_a_name_to_find" in r.getMessage()]
        assert len(lines) == 1
        assert lines[0].exc_info is not None
        assert stream.statistics().handler_errors == 50

    @both_ways
    @pytest.mark.parametrize("interrupt", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
    @pytest.mark.parametrize("where", ["handler", "filter", "on_error"])
    def test_interrupts_pass_through_after_the_others_have_the_event(self, wait, interrupt, where):
        def interrupted(*_):
            raise interrupt

        def broken(_):
            raise ValueError("bad")

        async def scenario():
            with collect(stream) as before:
                if where == "handler":
                    await stream.subscribe(interrupted)
                elif where == "filter":
                    await stream.subscribe(print, filter_fn=interrupted)
                else:
                    await stream.subscribe(broken)
                with collect(stream) as first_after, collect(stream) as second_after:
                    with pytest.raises(interrupt):
                        await send(stream, create_event(0), wait=wait)
                    return before, first_after, second_after

        stream = InMemoryStream(on_error=interrupted)
        before, first_after, second_after = asyncio.run(scenario())
        assert [len(before), len(first_after), len(second_after)] == [1, 1, 1]
        errors = 1 if where == "on_error" else 0
        assert stream.statistics()[:3] == (1, 0, errors)

    async def test_a_cancelled_publish_ends_the_handler_it_had_reached_and_the_others_get_the_event(self):
        stream = InMemoryStream()
        reached = asyncio.Event()

        async def waits(_):
            reached.set()
            await asyncio.Event().wait()

        with collect(stream) as before:
            await stream.subscribe(waits)
            with collect(stream) as after:
                async with asyncio.timeout(DEADLINE):
                    task = asyncio.create_task(stream.publish(create_event(0)))
                    await reached.wait()
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
        assert (len(before), len(after)) == (1, 1)
        assert stream.statistics()[:3] == (1, 0, 0)

    @both_ways
    async def test_endless_recursion_ends_as_a_counted_error(self, wait):
        stream = InMemoryStream()
        await stream.subscribe(stream.publish_nowait)
        await send(stream, create_event(0), wait=wait)
        counts = stream.statistics()
        assert counts.handler_errors >= 1
        assert counts.published > counts.handler_errors
        with collect(stream, "after") as after:  # it still works
            stream.add_interceptor(lambda event: event if event.topic else None)
            await send(stream, create_event(1, topic="after"), wait=wait)
        assert len(after) >= 1


class TestUserCodeOnTheSameStream:
    @both_ways
    @pytest.mark.parametrize("pattern", ["*", "t", ">", "t.>"])
    async def test_cancelling_a_later_subscriber_takes_effect_in_the_same_dispatch(self, wait, pattern):
        stream = InMemoryStream()
        topic = "t.x" if pattern == "t.>" else "t"
        later = []
        first = await stream.subscribe(lambda _: victim.cancel(), pattern)
        victim = await stream.subscribe(later.append, pattern)
        with collect(stream, pattern) as last:
            await send(stream, create_event(0, topic=topic), wait=wait)
        assert later == []
        assert len(last) == 1
        assert not victim.active
        assert first.active
        assert stream.statistics()[:4] == (1, 0, 0, 1)

    @both_ways
    @pytest.mark.parametrize("new_pattern", ["t", "*", "t.>", "u"])
    async def test_cancelling_works_after_a_subscribe_in_the_same_dispatch(self, wait, new_pattern):
        stream = InMemoryStream()
        later, new = [], []

        def meddle(_):
            stream.subscribe_nowait(new.append, new_pattern)
            victim.cancel()

        await stream.subscribe(meddle, "t")
        victim = await stream.subscribe(later.append)
        await send(stream, create_event(0, topic="t"), wait=wait)
        assert (later, new) == ([], [])
        assert stream.statistics()[:4] == (1, 0, 0, 2)

    @both_ways
    async def test_cancelling_reaches_two_nested_dispatches_with_different_audiences(self, wait):
        stream = InMemoryStream()
        victim_saw = []

        def outer(event):
            if event.data == "outer":
                stream.subscribe_nowait(lambda _: None)
                stream.publish_nowait(create_event("inner", topic="t"))
            else:
                victim.cancel()

        await stream.subscribe(outer, "t")
        victim = await stream.subscribe(victim_saw.append, "t")
        await send(stream, create_event("outer", topic="t"), wait=wait)
        assert victim_saw == []
        assert stream.statistics()[:3] == (2, 0, 0)

    async def test_cancelling_takes_effect_while_an_async_handler_waits(self):
        stream = InMemoryStream()
        gate, later = asyncio.Event(), []

        async def waits(_):
            await gate.wait()

        await stream.subscribe(waits)
        victim = await stream.subscribe(later.append)
        async with asyncio.timeout(DEADLINE):
            publishing = asyncio.create_task(stream.publish(create_event(0)))
            await asyncio.sleep(0)
            await stream.subscribe(lambda _: None)
            victim.cancel()
            gate.set()
            await publishing
        assert later == []
        assert stream.statistics()[:3] == (1, 0, 0)

    @both_ways
    async def test_a_handler_may_cancel_itself(self, wait):
        stream = InMemoryStream()
        seen = []

        def once(event):
            seen.append(event.data)
            subscription.cancel()
            subscription.cancel()

        subscription = await stream.subscribe(once)
        for number in range(3):
            await send(stream, create_event(number), wait=wait)
        assert seen == [0]
        assert stream.statistics()[:4] == (3, 0, 0, 0)

    @both_ways
    async def test_a_subscriber_made_in_a_dispatch_gets_the_next_event_first(self, wait):
        stream = InMemoryStream()
        new = []

        def subscribe_once(event):
            if event.data == 0:
                stream.subscribe_nowait(lambda later: new.append(later.data))

        await stream.subscribe(subscribe_once)
        for number in range(3):
            await send(stream, create_event(number), wait=wait)
        assert new == [1, 2]

    async def test_an_async_handler_may_publish_subscribe_and_unsubscribe(self):
        stream = InMemoryStream()
        seen, new = [], []

        async def busy(event):
            seen.append(event.data)
            if event.data < 3:
                await stream.publish(create_event(event.data + 1))
                subscription = await stream.subscribe(new.append)
                assert await stream.unsubscribe(subscription.id)

        await stream.subscribe(busy)
        async with asyncio.timeout(DEADLINE):
            await stream.publish(create_event(0))
        assert seen == [0, 1, 2, 3]
        assert new == []
        assert stream.statistics()[:4] == (4, 0, 0, 1)

    @both_ways
    async def test_an_event_published_by_a_handler_reaches_all_before_the_outer_one_continues(self, wait):
        stream = InMemoryStream()
        seen = []

        def first(event):
            seen.append(("first", event.data))
            if event.data == "outer":
                stream.publish_nowait(create_event("inner"))

        await stream.subscribe(first)
        await stream.subscribe(lambda event: seen.append(("second", event.data)))
        await send(stream, create_event("outer"), wait=wait)
        assert seen == [("first", "outer"), ("first", "inner"), ("second", "inner"), ("second", "outer")]

    @both_ways
    async def test_a_handler_that_cancels_another_and_then_raises_leaves_exact_counts(self, wait):
        stream = InMemoryStream()
        later = []

        def meddle(_):
            victim.cancel()
            raise ValueError("after that")

        await stream.subscribe(meddle)
        victim = await stream.subscribe(later.append)
        with collect(stream) as last:
            await send(stream, create_event(0), wait=wait)
        assert (len(later), len(last)) == (0, 1)
        assert stream.statistics()[:3] == (1, 0, 1)

    async def test_a_handler_may_close_the_stream(self):
        stream = InMemoryStream()

        async def close(_):
            await stream.aclose()

        await stream.subscribe(close)
        with collect(stream) as later:
            async with asyncio.timeout(DEADLINE):
                await stream.publish(create_event(0))
            assert later == []
        with pytest.raises(StreamClosedError):
            await stream.publish(create_event(1))
        assert stream.statistics()[:4] == (1, 0, 0, 0)


class TestUnsubscribe:
    async def test_unsubscribe_returns_whether_there_was_such_a_subscription(self):
        stream = InMemoryStream()
        subscription = await stream.subscribe(print)
        assert await stream.unsubscribe(subscription.id) is True
        assert await stream.unsubscribe(subscription.id) is False
        assert await stream.unsubscribe("no such id") is False
        assert not subscription.active

    async def test_cancel_also_removes_the_subscription_from_the_stream(self):
        stream = InMemoryStream()
        subscription = await stream.subscribe(print, "a.>")
        assert stream.statistics().subscribers == 1
        subscription.cancel()
        subscription.cancel()
        assert stream.statistics().subscribers == 0
        assert await stream.unsubscribe(subscription.id) is False

    async def test_cancel_discards_the_waiting_calls_of_an_async_handler(self):
        stream = InMemoryStream()
        gate, seen = asyncio.Event(), []

        async def handler(event):
            seen.append(event.data)
            await gate.wait()

        subscription = await stream.subscribe(handler)
        with no_unawaited_coroutines():
            for number in range(4):
                stream.publish_nowait(create_event(number))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            subscription.cancel()
            gate.set()
            await settle()
        assert seen == [0]
        assert stream.statistics()[:4] == (4, 0, 0, 0)


class TestRecentEvents:
    @pytest.mark.parametrize(
        ("count", "expected"), [(1, [4]), (2, [3, 4]), (3, [2, 3, 4]), (99, [2, 3, 4]), (0, []), (-1, [])]
    )
    async def test_the_newest_events_are_returned_oldest_first(self, count, expected):
        stream = InMemoryStream(buffer_size=3)
        for number in range(5):
            await stream.publish(create_event(number))
        assert [event.data for event in stream.get_recent_events(count)] == expected

    async def test_the_default_count_is_ten(self):
        stream = InMemoryStream()
        for number in range(12):
            stream.publish_nowait(create_event(number))
        assert [event.data for event in stream.get_recent_events()] == list(range(2, 12))
        assert stream.statistics().buffered == 12

    async def test_a_stream_without_a_buffer_still_delivers(self):
        stream = InMemoryStream(buffer_size=0)
        with collect(stream) as seen:
            await stream.publish(create_event(0))
        assert len(seen) == 1
        assert stream.get_recent_events() == []
        assert stream.statistics().buffered == 0

    async def test_a_negative_buffer_size_is_refused(self):
        with pytest.raises(ValueError):
            InMemoryStream(buffer_size=-1)

    @pytest.mark.parametrize("size", ["orders", 1.5, True, None])
    async def test_a_buffer_size_is_an_integer(self, size):
        with pytest.raises(TypeError, match="buffer_size: must be an integer, got"):
            InMemoryStream(size)

    async def test_the_answer_belongs_to_the_caller(self):
        stream = InMemoryStream()
        await stream.publish(create_event(0))
        stream.get_recent_events().clear()
        assert len(stream.get_recent_events()) == 1


class TestInterceptors:
    @both_ways
    async def test_they_run_in_the_order_of_adding_before_buffer_and_handlers(self, wait):
        stream = InMemoryStream()
        stream.add_interceptor(lambda event: event.replace(data=event.data + "b"))
        stream.add_interceptor(lambda event: event.replace(data=event.data + "c"))
        with collect(stream) as seen:
            await send(stream, create_event("a"), wait=wait)
        assert [event.data for event in seen] == ["abc"]
        assert [event.data for event in stream.get_recent_events()] == ["abc"]

    @both_ways
    async def test_none_drops_the_event_and_is_counted(self, wait):
        stream = InMemoryStream()
        later = []
        stream.add_interceptor(lambda _: None)
        stream.add_interceptor(lambda event: later.append(event) or event)
        with collect(stream) as seen:
            await send(stream, create_event(0), wait=wait)
        assert (list(seen), later, stream.get_recent_events()) == ([], [], [])
        assert stream.statistics()[:3] == (0, 1, 0)

    @both_ways
    async def test_one_that_raises_is_counted_and_logged_and_the_event_passes_unchanged(self, wait, caplog):
        stream = InMemoryStream()

        def broken_interceptor(_):
            raise ValueError("no")

        broken_interceptor.__qualname__ = f"broken_interceptor_{wait}"
        stream.add_interceptor(lambda event: event.replace(data="before"))
        stream.add_interceptor(broken_interceptor)
        stream.add_interceptor(lambda event: event.replace(data=event.data + " and after"))
        with collect(stream) as seen:
            await send(stream, create_event("raw"), wait=wait)
        assert [event.data for event in seen] == ["before and after"]
        assert stream.statistics()[:3] == (1, 0, 1)
        assert f"broken_interceptor_{wait}" in caplog.text

    async def test_one_that_returns_no_event_counts_as_failed(self):
        stream = InMemoryStream()

        async def asynchronous(event):
            return event

        stream.add_interceptor(lambda event: asynchronous(event=event))
        stream.add_interceptor(lambda _: "text")
        with no_unawaited_coroutines(), collect(stream) as seen:
            await stream.publish(create_event(1))
        assert [event.data for event in seen] == [1]
        assert stream.statistics()[:3] == (1, 0, 2)

    @pytest.mark.parametrize("wrong", [None, "text"])
    async def test_an_interceptor_must_be_a_plain_function(self, wrong):
        async def asynchronous(event):
            return event

        stream = InMemoryStream()
        for fn in (wrong, asynchronous):
            with pytest.raises(TypeError):
                stream.add_interceptor(fn)

    async def test_the_new_topic_decides_who_receives_the_event(self):
        stream = InMemoryStream()
        stream.add_interceptor(lambda event: event.replace(metadata={"topic": "new"}))
        with collect(stream, "old") as old, collect(stream, "new") as new:
            await stream.publish(create_event(0, topic="old"))
        assert (len(old), len(new)) == (0, 1)

    async def test_after_removal_events_pass_unchanged(self):
        stream = InMemoryStream()

        def drop(_):
            return None

        stream.add_interceptor(drop)
        stream.add_interceptor(drop)
        assert stream.remove_interceptor(drop) is True
        with collect(stream) as seen:
            await stream.publish(create_event(0))
            assert stream.remove_interceptor(drop) is True
            assert stream.remove_interceptor(drop) is False
            await stream.publish(create_event(1))
        assert [event.data for event in seen] == [1]

    async def test_they_run_in_the_context_and_task_of_the_publisher(self):
        stream = InMemoryStream()
        tasks = []

        def note(event):
            tasks.append(asyncio.current_task())
            return event

        stream.add_interceptor(note)
        publishing = asyncio.create_task(stream.publish(create_event(0)))
        await publishing
        assert tasks == [publishing]

    @pytest.mark.parametrize("interrupt", [KeyboardInterrupt, asyncio.CancelledError])
    def test_an_interrupt_in_an_interceptor_passes_and_publishes_nothing(self, interrupt):
        stream = InMemoryStream()

        def interrupted(_):
            raise interrupt

        stream.add_interceptor(interrupted)
        with collect(stream) as seen, pytest.raises(interrupt):
            stream.publish_nowait(create_event(0))
        assert seen == []
        assert stream.statistics()[:3] == (0, 0, 0)


class TestOnlyEventsCanBePublished:
    @pytest.mark.parametrize(
        "thing", [None, "text", 5, {"data": 1}, object(), SimpleNamespace(metadata={}), Event], ids=shown
    )
    async def test_only_an_event_can_be_published_whatever_was_published_before(self, thing):
        stream = InMemoryStream()
        with collect(stream) as seen:
            for _ in range(2):
                with pytest.raises(TypeError):
                    await stream.publish(thing)
                with pytest.raises(TypeError):
                    stream.publish_nowait(thing)
                await stream.publish(create_event(0))
        assert len(seen) == 2
        assert stream.statistics()[:3] == (2, 0, 0)

    async def test_an_event_of_a_subclass_is_an_event(self):
        class Reading(Event, frozen=True):
            unit: str = "K"

        stream = InMemoryStream()
        with collect(stream) as seen:
            await stream.publish(Reading(data=3))
        assert seen[0].unit == "K"


class TestClosing:
    async def test_a_closed_stream_refuses_everything_new(self):
        stream = InMemoryStream()
        subscription = await stream.subscribe(print)
        await stream.publish(create_event("kept"))
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(StreamClosedError):
            await stream.publish(create_event(0))
        with pytest.raises(StreamClosedError):
            stream.publish_nowait(create_event(0))
        with pytest.raises(StreamClosedError):
            await stream.subscribe(print)
        with pytest.raises(StreamClosedError):
            async with stream.listen():
                pass
        assert not subscription.active
        assert await stream.unsubscribe(subscription.id) is False
        assert stream.statistics()[:4] == (1, 0, 0, 0)

    async def test_the_buffer_can_be_read_after_closing(self):
        stream = InMemoryStream()
        await stream.publish(create_event(1))
        await stream.aclose()
        assert [event.data for event in stream.get_recent_events()] == [1]
        assert stream.statistics().buffered == 1

    async def test_changing_interceptors_does_not_reopen_a_closed_stream(self):
        stream = InMemoryStream()
        await stream.publish(create_event(0))
        await stream.aclose()
        stream.add_interceptor(lambda event: event)
        stream.remove_interceptor(print)
        with pytest.raises(StreamClosedError):
            await stream.publish(create_event(1))

    async def test_async_with_closes_on_the_way_out(self):
        stream = InMemoryStream()
        async with stream as same:
            assert same is stream
        with pytest.raises(StreamClosedError):
            stream.publish_nowait(create_event(0))

    async def test_async_with_closes_after_an_error_too_and_lets_it_pass(self):
        stream = InMemoryStream()
        with pytest.raises(LookupError):
            async with stream:
                raise LookupError
        with pytest.raises(StreamClosedError):
            stream.publish_nowait(create_event(0))

    async def test_a_closed_stream_raises_its_own_error_for_any_argument(self):
        stream = InMemoryStream()
        await stream.aclose()
        with pytest.raises(StreamClosedError):
            await stream.publish(None)


class TestStatistics:
    async def test_they_are_a_named_tuple_of_five_numbers(self):
        statistics = InMemoryStream().statistics()
        assert isinstance(statistics, StreamStatistics)
        assert statistics == (0, 0, 0, 0, 0)
        assert statistics._fields == (
            "published",
            "dropped",
            "handler_errors",
            "subscribers",
            "buffered",
        )

    async def test_reading_them_changes_nothing(self):
        stream = InMemoryStream()
        with collect(stream), collect(stream):
            await stream.publish(create_event(0))
        assert [stream.statistics() for _ in range(5)] == [(1, 0, 0, 0, 1)] * 5

    @both_ways
    async def test_drops_and_failures_are_counted_once_for_each_subscription(self, wait):
        stream = InMemoryStream()

        def broken(_):
            raise ValueError("no")

        async def broken_later(_):
            raise ValueError("no")

        stream.add_interceptor(lambda event: None if event.data == "dropped" else event)
        await stream.subscribe(lambda _: None)
        await stream.subscribe(broken, "a")
        await stream.subscribe(broken_later)
        await stream.subscribe(lambda _: None, filter_fn=lambda event: event.data == "b")
        await stream.subscribe(lambda _: None, filter_fn=broken)
        for data, topic in [("a", "a"), ("b", "b"), ("dropped", "a"), ("c", "c")]:
            await send(stream, create_event(data, topic=topic), wait=wait)
        assert stream.statistics() == (3, 1, 7, 5, 3)
