"""`attach`: sinks are opened, fed, drained and closed, and every event is accounted for."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from itertools import count
from typing import Any

import pytest
from codomyrmex.integrations import (
    DeliveryError,
    DeliveryPolicy,
    InlineSink,
    PartialDeliveryError,
    Sink,
    SinkReport,
    attach,
)
from codomyrmex.streaming import (
    Event,
    InMemoryStream,
    Overflow,
    SSEStream,
    StreamClosedError,
    TopicError,
    TopicStream,
    create_event,
)
from helpers import DEADLINE, in_time, settle, shown
from hypothesis import given, settings
from hypothesis import strategies as st

LONG = 3_000  # more events than the queue of a sink holds
_numbers = count()  # as lines about one name are rate-limited across tests

ATTACHMENT_LOG = "codomyrmex.integrations.delivery.attachment"

# Each event is sent at once and tried once; how it is batched and tried again is in test_delivery.py.
attach_once = functools.partial(attach, policy=DeliveryPolicy(batch_age=0, max_attempts=1))
PATIENT = DeliveryPolicy(batch_age=0, max_attempts=1, drain_timeout=3 * DEADLINE)

where = ContextVar("where", default="nowhere")


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0)


def a_name(what: str) -> str:
    return f"{what}-{next(_numbers)}"


class Inline(InlineSink):
    def __init__(self, name: str | None = None) -> None:
        self.name = name or a_name("inline")
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


class RaisingInline(InlineSink):
    def __init__(self) -> None:
        self.name = a_name("raising-inline")

    def emit(self, event: Event) -> None:
        raise ValueError(f"no room for {event.data}")


class Queued(Sink):
    """Takes everything, and notes what is done to it."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name or a_name("queued")
        self.calls: list[str] = []
        self.batches: list[list[Any]] = []
        self.at_once = 0
        self.most_at_once = 0

    @property
    def data(self) -> list[Any]:
        return [item for batch in self.batches for item in batch]

    async def open(self) -> None:
        self.calls.append("open")

    async def send(self, events: Sequence[Event]) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.deliver(events)
            self.batches.append([event.data for event in events])
        finally:
            self.at_once -= 1

    async def deliver(self, events: Sequence[Event]) -> None:
        await asyncio.sleep(0)

    async def close(self) -> None:
        self.calls.append("close")


class Held(Queued):
    """Delivers nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = asyncio.Event()
        self.free = asyncio.Event()

    async def deliver(self, events: Sequence[Event]) -> None:
        self.entered.set()
        await self.free.wait()


class Stubborn(Held):
    """Does not let itself be cancelled before it is let go."""

    async def deliver(self, events: Sequence[Event]) -> None:
        self.entered.set()
        while not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                continue


class Raising(Queued):
    async def deliver(self, events: Sequence[Event]) -> None:
        raise OSError("the network is away")


class FailsToOpen(Queued):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    async def open(self) -> None:
        await super().open()
        raise self.error


class FailsToClose(Queued):
    async def close(self) -> None:
        await super().close()
        raise OSError("it is stuck")


class HangsOnClose(Queued):
    def __init__(self) -> None:
        super().__init__()
        self.free = asyncio.Event()

    async def close(self) -> None:
        await super().close()
        await self.free.wait()


class Picky(Queued):
    """Delivers all but what is odd."""

    async def send(self, events: Sequence[Event]) -> None:
        odd = {event.id: ValueError(str(event.data)) for event in events if event.data % 2}
        self.batches.append([event.data for event in events if event.id not in odd])
        if odd:
            raise PartialDeliveryError(odd)


async def publish_each(stream: Any, values: Any, **metadata: Any) -> None:
    for value in values:
        await stream.publish(create_event(value, **metadata))


def balance(report: SinkReport) -> int:
    return report.delivered + report.given_up + sum(report.dropped.values()) + report.lost


# A life


@in_time
async def test_a_sink_is_opened_fed_drained_and_closed_once():
    stream, sink = InMemoryStream(), Queued()
    async with attach_once(stream, sink):
        assert sink.calls == ["open"]
        await publish_each(stream, range(10))
    assert sink.data == list(range(10))
    assert sink.calls == ["open", "close"]


@in_time
async def test_queued_events_are_still_delivered_on_exit():
    stream, sink = InMemoryStream(), Held()
    async with attach_once(stream, sink):
        await publish_each(stream, range(100))
        await sink.entered.wait()
        assert sink.data == []
        asyncio.get_running_loop().call_later(0.01, sink.free.set)
    assert sink.data == list(range(100))


@in_time
async def test_a_sink_is_opened_and_closed_even_without_events():
    sink = Queued()
    async with attach_once(InMemoryStream(), sink):
        pass
    assert (sink.calls, sink.batches) == (["open", "close"], [])


@in_time
async def test_an_attachment_without_sinks_works():
    async with attach_once(InMemoryStream()) as attachment:
        pass
    assert attachment.report().complete
    assert attachment.report().sinks == {}


@in_time
async def test_events_published_after_the_end_are_not_delivered():
    stream, inline, queued = InMemoryStream(), Inline(), Queued()
    async with attach_once(stream, inline, queued):
        await stream.publish(create_event(1))
    await stream.publish(create_event(2))
    await settle()
    assert [event.data for event in inline.events] == queued.data == [1]
    assert stream.statistics().subscribers == 0


@in_time
async def test_events_published_before_the_start_are_not_delivered():
    stream, inline, queued = InMemoryStream(), Inline(), Queued()
    attachment = attach_once(stream, inline, queued)
    await stream.publish(create_event(1))
    async with attachment:
        await stream.publish(create_event(2))
    assert [event.data for event in inline.events] == queued.data == [2]


@in_time
async def test_closing_twice_closes_the_sinks_once_and_reports_the_same():
    stream, sink = InMemoryStream(), Queued()
    async with attach_once(stream, sink) as attachment:
        await publish_each(stream, range(3))
        first = await attachment.aclose()
        second = await attachment.aclose()
    assert first == second == attachment.report()
    assert first.sinks[sink.name] == SinkReport(3, 0, {}, 0)
    assert sink.calls == ["open", "close"]


@in_time
async def test_concurrent_closes_both_wait_for_the_end():
    stream, sink = InMemoryStream(), Held()
    async with attach_once(stream, sink) as attachment:
        await publish_each(stream, range(3))
        await sink.entered.wait()
        first = asyncio.create_task(attachment.aclose())
        second = asyncio.create_task(attachment.aclose())
        await settle()
        sink.free.set()
        reports = await asyncio.gather(first, second)
    assert [report.sinks[sink.name].delivered for report in reports] == [3, 3]
    assert all(report.complete for report in reports)


@in_time
async def test_an_attachment_that_is_over_is_not_silently_started_again():
    stream, sink = InMemoryStream(), Queued()
    attachment = attach_once(stream, sink)
    async with attachment:
        pass
    try:
        async with attachment:
            await stream.publish(create_event(1))
    except RuntimeError:
        return
    assert sink.data == [1]


@in_time
async def test_a_closed_stream_cannot_be_attached_to():
    stream, sink = InMemoryStream(), Queued()
    await stream.aclose()
    with pytest.raises(StreamClosedError):
        async with attach_once(stream, sink):
            pass
    assert sink.calls == []


@in_time
async def test_a_stream_that_closes_first_loses_nothing():
    stream, sink = InMemoryStream(), Held()
    async with attach_once(stream, sink) as attachment:
        await publish_each(stream, range(5))
        await stream.aclose()
        sink.free.set()
    assert sink.data == list(range(5))
    assert attachment.report().complete


@in_time
async def test_the_name_of_the_worker_is_that_of_the_sink():
    sink = Queued()
    async with attach_once(InMemoryStream(), sink):
        assert any(sink.name in task.get_name() for task in asyncio.all_tasks())
    assert not any(sink.name in task.get_name() for task in asyncio.all_tasks())


# Inline sinks


@in_time
async def test_an_inline_sink_runs_during_publish_in_the_publishers_context_and_thread():
    stream, seen = InMemoryStream(), []

    class Where(InlineSink):
        name = "where"

        def emit(self, event: Event) -> None:
            seen.append((event.data, where.get(), threading.get_ident()))

    def publisher() -> int:
        where.set("in a thread")
        stream.publish_nowait(create_event(2))
        assert len(seen) == 2
        return threading.get_ident()

    async with attach_once(stream, Where()):
        where.set("in a task")
        await stream.publish(create_event(1))
        assert seen == [(1, "in a task", threading.get_ident())]
        other = await asyncio.to_thread(publisher)
    assert seen[1] == (2, "in a thread", other)


@in_time
async def test_an_inline_sink_gets_the_event_itself():
    stream, sink = InMemoryStream(), Inline()
    event = create_event({"order": 42})
    async with attach_once(stream, sink):
        await stream.publish(event)
    assert sink.events == [event]
    assert sink.events[0] is event


@in_time
async def test_a_raising_inline_sink_affects_neither_publisher_nor_other_sinks(caplog):
    stream, bad, good, queued = InMemoryStream(), RaisingInline(), Inline(), Queued()
    async with attach_once(stream, bad, good, queued) as attachment:
        await publish_each(stream, range(5))
    report = attachment.report()
    assert report.sinks[bad.name] == SinkReport(0, 5, {}, 0)
    assert [event.data for event in good.events] == queued.data == list(range(5))
    assert stream.statistics().handler_errors == 0
    about_it = [record for record in caplog.records if bad.name in record.getMessage()]
    assert len([r for r in about_it if r.name != ATTACHMENT_LOG]) == 1
    assert not report.complete


# Queued sinks


@in_time
async def test_a_queued_sink_gets_its_events_in_order_and_one_batch_at_a_time():
    stream, sink = InMemoryStream(), Queued()
    async with attach_once(stream, sink):
        for number in range(1_000):
            await stream.publish(create_event(number))
            if number % 7 == 0:
                await asyncio.sleep(0)
    assert sink.data == list(range(1_000))
    assert sink.most_at_once == 1
    assert len(sink.batches) > 1
    assert all(sink.batches)


@in_time
async def test_a_hanging_sink_affects_neither_publisher_nor_other_sinks():
    stream, hanging, queued, inline = InMemoryStream(), Held(), Queued(), Inline()
    async with attach_once(stream, hanging, queued, inline) as attachment:
        await publish_each(stream, range(50))
        await until(lambda: len(queued.data) == 50)
        assert len(inline.events) == 50
        assert hanging.data == []
        assert not attachment.report().complete
        hanging.free.set()
    assert hanging.data == list(range(50))
    assert attachment.report().complete


@in_time
async def test_a_raising_sink_still_receives_the_next_events(caplog):
    stream, bad, good = InMemoryStream(), Raising(), Queued()
    async with attach_once(stream, bad, good) as attachment:
        for number in range(5):
            await stream.publish(create_event(number))
            await settle()
    assert attachment.report().sinks[bad.name] == SinkReport(0, 5, {}, 0)
    assert attachment.report().sinks[good.name] == SinkReport(5, 0, {}, 0)
    assert bad.calls == ["open", "close"]
    assert "the network is away" in caplog.text
    assert bad.name in caplog.text


@in_time
async def test_of_a_partial_failure_only_the_named_events_are_given_up():
    stream, sink = InMemoryStream(), Picky()
    async with attach_once(stream, sink) as attachment:
        await publish_each(stream, range(11))
    assert sink.data == [0, 2, 4, 6, 8, 10]
    assert attachment.report().sinks[sink.name] == SinkReport(6, 5, {}, 0)


@in_time
async def test_a_partial_failure_that_names_only_strangers_is_a_failure_and_no_silent_loss():
    class Confused(Queued):
        async def send(self, events: Sequence[Event]) -> None:
            raise PartialDeliveryError({"nobody": ValueError("?")})

    stream, sink = InMemoryStream(), Confused()
    async with attach_once(stream, sink) as attachment:
        await publish_each(stream, range(3))
    assert attachment.report().sinks[sink.name] == SinkReport(0, 3, {}, 0)


@in_time
async def test_the_log_has_the_reason_of_a_partial_failure(caplog):
    class Refused(Queued):
        async def send(self, events: Sequence[Event]) -> None:
            why = ValueError("{} off".format("pager"))  # in two, as a traceback shows this line
            raise PartialDeliveryError({event.id: why for event in events})

    stream = InMemoryStream()
    async with attach_once(stream, Refused()):
        await stream.publish(create_event(1))
    assert "pager off" in caplog.text


def test_a_partial_delivery_error_carries_the_reasons_and_is_a_delivery_error():
    why = ValueError("too long")
    error = PartialDeliveryError({"a": why})
    assert error.failed == {"a": why}
    assert isinstance(error, DeliveryError)
    assert "1" in str(error)


@in_time
async def test_a_sink_that_raises_cancelled_error_by_itself_loses_only_that_batch():
    class CancelsItself(Queued):
        async def deliver(self, events: Sequence[Event]) -> None:
            if events[0].data == 0:
                inner = asyncio.get_running_loop().create_future()
                inner.cancel()
                await inner

    stream, sink = InMemoryStream(), CancelsItself()
    async with attach_once(stream, sink) as attachment:
        await stream.publish(create_event(0))
        await settle()
        await stream.publish(create_event(1))
        await settle()
    assert sink.data == [1]
    assert attachment.report().sinks[sink.name] == SinkReport(1, 1, {}, 0)


@in_time
async def test_a_full_queue_drops_the_oldest_and_counts_them(caplog):
    stream, sink = InMemoryStream(), Held()
    async with attach_once(stream, sink) as attachment:
        await stream.publish(create_event(0))
        await sink.entered.wait()
        await publish_each(stream, range(1, LONG))
        sink.free.set()
        report = await attachment.aclose()
    dropped = LONG - len(sink.data)
    assert dropped > 0
    assert sink.data == [0, *range(dropped + 1, LONG)]
    assert report.sinks[sink.name] == SinkReport(LONG - dropped, 0, {"queue_full": dropped}, 0)
    assert not report.complete
    full = [record for record in caplog.records if "full" in record.getMessage()]
    assert 1 <= len(full) <= 3  # rate-limited


@in_time
async def test_a_sink_that_would_empty_its_batch_does_not_upset_the_report():
    stream, seen = InMemoryStream(), []

    class Greedy(Queued):
        async def send(self, events: Sequence[Event]) -> None:
            seen.extend(events)
            if isinstance(events, list):
                events.clear()

    sink = Greedy()
    async with attach_once(stream, sink) as attachment:
        await publish_each(stream, range(5))
    assert [event.data for event in seen] == list(range(5))
    assert balance(attachment.report().sinks[sink.name]) == 5


# What goes wrong


@in_time
async def test_if_a_sink_fails_to_open_the_others_are_closed_and_its_error_is_raised():
    error = OSError("no such host")
    stream, first, second, third = InMemoryStream(), Queued(), FailsToOpen(error), Queued()
    inline = Inline()
    with pytest.raises(OSError, match="no such host") as caught:
        async with attach_once(stream, inline, first, second, third):
            pytest.fail("it must not begin")
    assert caught.value is error
    assert first.calls == ["open", "close"]
    assert third.calls in ([], ["open", "close"])
    assert stream.statistics().subscribers == 0
    await stream.publish(create_event(1))
    assert inline.events == []


@in_time
async def test_a_cancelled_opening_closes_what_is_open():
    class OpensForEver(Queued):
        async def open(self) -> None:
            await asyncio.Event().wait()

    first = Queued()

    async def run() -> None:
        async with attach_once(InMemoryStream(), first, OpensForEver()):
            pass

    task = asyncio.create_task(run())
    await settle()
    assert first.calls == ["open"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert first.calls == ["open", "close"]


@in_time
async def test_a_malformed_topic_is_an_error_and_the_sinks_are_closed():
    sink = Queued()
    with pytest.raises(TopicError):
        async with attach_once(InMemoryStream(), sink, topic="orders..created"):
            pass
    assert sink.calls in ([], ["open", "close"])


@in_time
async def test_a_sink_that_fails_to_close_does_not_affect_the_others(caplog):
    stream, bad, good = InMemoryStream(), FailsToClose(), Queued()
    async with attach_once(stream, bad, good) as attachment:
        await stream.publish(create_event(1))
    assert good.calls == bad.calls == ["open", "close"]
    assert attachment.report().complete
    assert "it is stuck" in caplog.text


@in_time
async def test_a_sink_that_hangs_on_closing_does_not_keep_the_application_from_ending():
    stream, bad, good = InMemoryStream(), HangsOnClose(), Queued()
    attachment = await attach(stream, bad, good, policy=PATIENT).start()
    await stream.publish(create_event(1))
    try:
        async with asyncio.timeout(DEADLINE):
            report = await attachment.aclose(timeout=0.01)
    finally:
        bad.free.set()
    assert good.calls == ["open", "close"]
    assert report.sinks[good.name].delivered == 1


@in_time
async def test_a_sink_that_ignores_cancellation_does_not_keep_the_application_from_ending():
    stream, bad, good = InMemoryStream(), Stubborn(), Queued()
    attachment = await attach(stream, bad, good, policy=PATIENT).start()
    await stream.publish(create_event(1))
    await bad.entered.wait()
    try:
        async with asyncio.timeout(DEADLINE):
            report = await attachment.aclose(timeout=0.01)
    finally:
        bad.free.set()
        await settle()
    assert report.sinks[bad.name].lost == 1
    assert report.sinks[good.name].delivered == 1


@in_time
async def test_events_left_after_the_drain_timeout_are_counted_and_logged_once(caplog):
    stream, hanging, good = InMemoryStream(), Held(), Queued()
    async with attach_once(stream, hanging, good) as attachment:
        await stream.publish(create_event(0))
        await hanging.entered.wait()
        await publish_each(stream, range(1, 4))
        report = await attachment.aclose(timeout=0.01)
    assert report.sinks[hanging.name] == SinkReport(0, 0, {}, 4)
    assert report.sinks[good.name] == SinkReport(4, 0, {}, 0)
    assert hanging.calls == ["open", "close"]
    [warning] = [record for record in caplog.records if record.name == ATTACHMENT_LOG]
    assert warning.levelno == logging.WARNING
    assert hanging.name in warning.getMessage()
    assert good.name not in warning.getMessage()


@in_time
async def test_no_time_to_drain_is_not_an_error():
    stream, sink = InMemoryStream(), Queued()
    attachment = await attach_once(stream, sink).start()
    await publish_each(stream, range(3))
    report = await attachment.aclose(timeout=0)
    assert balance(report.sinks[sink.name]) == 3
    assert sink.calls == ["open", "close"]


@in_time
async def test_an_exception_in_the_body_propagates_after_the_drain():
    stream, sink = InMemoryStream(), Queued()
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with attach_once(stream, sink):
            await publish_each(stream, range(3))
            raise error
    assert caught.value is error
    assert sink.data == [0, 1, 2]
    assert sink.calls == ["open", "close"]


@in_time
async def test_cancelled_in_the_body_it_still_drains_and_the_cancellation_propagates():
    stream, sink, inside = InMemoryStream(), Held(), asyncio.Event()

    async def application() -> None:
        async with attach_once(stream, sink):
            await publish_each(stream, range(3))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(application())
    await inside.wait()
    await sink.entered.wait()
    task.cancel()
    await settle()
    assert not task.done()
    sink.free.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert sink.data == [0, 1, 2]
    assert sink.calls == ["open", "close"]


async def _cancelled_in_the_drain(stream: InMemoryStream, *sinks: Any) -> Any:
    attachment = attach_once(stream, *sinks)
    draining = asyncio.Event()

    async def application() -> None:
        async with attachment:
            await publish_each(stream, range(3))
            draining.set()

    task = asyncio.create_task(application())
    await draining.wait()
    await settle()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return attachment.report()


@in_time
async def test_cancelled_in_the_drain_it_ends_at_once_and_closes_the_sinks():
    hanging, other, good = Held(), Held(), Queued()
    report = await _cancelled_in_the_drain(InMemoryStream(), hanging, other, good)
    assert hanging.calls == other.calls == good.calls == ["open", "close"]
    assert report.sinks[hanging.name] == report.sinks[other.name] == SinkReport(0, 0, {}, 3)
    assert report.sinks[good.name] == SinkReport(3, 0, {}, 0)


@in_time
async def test_cancelled_in_the_drain_it_still_logs_what_was_lost(caplog):
    hanging = Held()
    await _cancelled_in_the_drain(InMemoryStream(), hanging)
    [warning] = [record for record in caplog.records if record.name == ATTACHMENT_LOG]
    assert hanging.name in warning.getMessage()


# What is attached to what


@in_time
async def test_a_topic_and_a_filter_choose_the_events():
    stream, queued, inline = InMemoryStream(), Queued(), Inline()
    async with attach_once(
        stream, queued, inline, topic="orders.>", filter_fn=lambda e: e.data > 1
    ) as attachment:
        await publish_each(stream, range(4), topic="orders.created")
        await publish_each(stream, range(4), topic="users.created")
        await publish_each(stream, range(4))
    assert queued.data == [event.data for event in inline.events] == [2, 3]
    assert attachment.report().sinks[queued.name].delivered == 2
    assert attachment.report().sinks[inline.name].delivered == 2


@in_time
async def test_two_attachments_to_one_stream_do_not_know_each_other():
    stream, first, second = InMemoryStream(), Queued(), Queued()
    async with attach_once(stream, first):
        await stream.publish(create_event(1))
        async with attach_once(stream, second):
            await stream.publish(create_event(2))
        await stream.publish(create_event(3))
    assert first.data == [1, 2, 3]
    assert second.data == [2]


@in_time
async def test_sinks_of_a_topic_stream_get_the_events_of_its_topics():
    stream, sink = TopicStream(), Queued()
    async with attach_once(stream, sink, topic="user.*"):
        await stream.publish("user.signup", create_event(1))
        await stream.publish("order.created", create_event(2))
    assert sink.data == [1]


@pytest.mark.parametrize("overflow", Overflow)
@in_time
async def test_sinks_of_an_sse_stream_get_every_event_and_leave_no_full_queue(overflow):
    stream, queued, inline = SSEStream(queue_size=5, overflow=overflow), Queued(), Inline()
    async with attach_once(stream, queued, inline):
        await publish_each(stream, range(20))
    assert queued.data == [event.data for event in inline.events] == list(range(20))
    assert stream.statistics().dropped == 0


def test_two_sinks_with_one_name_are_refused():
    with pytest.raises(ValueError, match="'twin'"):
        attach_once(InMemoryStream(), Queued("twin"), Inline("twin"))


@pytest.mark.parametrize("thing", [None, print, "structlog", Queued, object()], ids=shown)
def test_an_object_that_is_not_a_sink_is_refused(thing):
    with pytest.raises(TypeError, match="sink"):
        attach_once(InMemoryStream(), thing)


# Threads and loops


@in_time
async def test_publishing_from_threads_loses_nothing_and_keeps_each_threads_order():
    stream, queued, inline = InMemoryStream(), Queued(), Inline()
    threads, each = 4, 400

    def publisher(who: int) -> None:
        for number in range(each):
            stream.publish_nowait(create_event((who, number)))

    async with attach_once(stream, queued, inline) as attachment:
        await asyncio.gather(*(asyncio.to_thread(publisher, who) for who in range(threads)))
    assert len(queued.data) == len(inline.events) == threads * each
    for who in range(threads):
        assert [number for owner, number in queued.data if owner == who] == list(range(each))
    assert attachment.report().complete


@in_time
async def test_publishing_from_another_loop_reaches_the_sink_on_its_own():
    stream, threads = InMemoryStream(), []

    class Where(Queued):
        async def deliver(self, events: Sequence[Event]) -> None:
            threads.append(threading.get_ident())

    sink = Where()
    async with attach_once(stream, sink):
        await asyncio.to_thread(lambda: asyncio.run(publish_each(stream, range(20))))
    assert sink.data == list(range(20))
    assert set(threads) == {threading.get_ident()}


@in_time
async def test_threads_that_keep_publishing_through_the_end_leave_a_report_that_adds_up():
    stream, queued, inline = InMemoryStream(), Queued(), Inline()
    over = threading.Event()

    def publisher() -> None:
        while not over.is_set():
            stream.publish_nowait(create_event(None))

    threads = [threading.Thread(target=publisher) for _ in range(2)]
    attachment = await attach_once(stream, queued, inline).start()
    for thread in threads:
        thread.start()
    await until(lambda: queued.data and inline.events)
    await attachment.aclose()
    over.set()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    report = attachment.report().sinks
    assert report[queued.name].delivered == len(queued.data)
    assert report[inline.name].delivered == len(inline.events)
    assert report[queued.name].lost == 0


# The report


@in_time
async def test_queued_events_count_as_lost_until_they_are_delivered():
    stream, sink = InMemoryStream(), Held()
    async with attach_once(stream, sink) as attachment:
        await publish_each(stream, range(3))
        await sink.entered.wait()
        await publish_each(stream, range(2))
        assert attachment.report().sinks[sink.name] == SinkReport(0, 0, {}, 5)
        sink.free.set()
    assert attachment.report().sinks[sink.name] == SinkReport(5, 0, {}, 0)


@pytest.mark.parametrize(
    ("report", "complete"),
    [
        (SinkReport(5, 0, {}, 0), True),
        (SinkReport(0, 0, {"queue_full": 0}, 0), True),
        (SinkReport(5, 1, {}, 0), False),
        (SinkReport(5, 0, {"queue_full": 1}, 0), False),
        (SinkReport(5, 0, {}, 1), False),
    ],
)
def test_a_report_is_complete_when_every_event_was_delivered(report, complete):
    assert report.complete is complete


STEPS = st.sampled_from(["take", "wait", "raise", "some", "sleep"])


class Moody(Queued):
    """Does as its plan says, one step for each batch, and then takes everything."""

    def __init__(self, plan: list[str]) -> None:
        super().__init__()
        self.plan = iter(plan)
        self.failed = 0

    async def deliver(self, events: Sequence[Event]) -> None:
        step = next(self.plan, "take")
        if step == "wait":
            await settle()
        elif step == "sleep":
            await asyncio.sleep(0.001)
        elif step == "raise":
            self.failed += len(events)
            raise OSError("away")
        elif step == "some":
            some = events[::2]
            self.failed += len(some)
            self.batches.append([event.data for event in events[1::2]])
            raise PartialDeliveryError({event.id: ValueError("no") for event in some})


@settings(deadline=None, max_examples=60)
@given(
    plans=st.lists(st.lists(STEPS, max_size=8), min_size=1, max_size=3),
    rounds=st.lists(st.integers(0, 30), max_size=8),
    burst=st.sampled_from([0, 0, 0, LONG]),
    time_to_drain=st.sampled_from([None, None, 0]),
)
def test_whatever_sinks_do_each_event_is_delivered_given_up_dropped_or_lost(
    plans, rounds, burst, time_to_drain
):
    async def run() -> None:
        stream, inline = InMemoryStream(), RaisingInline()
        sinks = [Moody(plan) for plan in plans]
        attachment = await attach_once(stream, inline, *sinks).start()
        for number in [*rounds, burst]:
            await publish_each(stream, range(number))
            await settle()
        published = stream.statistics().published
        async with asyncio.timeout(DEADLINE):
            report = await attachment.aclose(time_to_drain)
        assert published == sum(rounds) + burst
        assert report.sinks[inline.name] == SinkReport(0, published, {}, 0)
        for sink in sinks:
            of_it = report.sinks[sink.name]
            assert balance(of_it) == published
            assert of_it.delivered == len(sink.data)
            # What fails just as the time to drain has passed is lost, as it was not given up before.
            assert sink.failed - of_it.lost <= of_it.given_up <= sink.failed
            assert sink.most_at_once <= 1
            assert sink.calls == ["open", "close"]
            if time_to_drain is None:
                assert of_it.lost == 0

    asyncio.run(run())


def test_an_inline_sink_with_an_async_emit_is_refused():
    class Mistaken(InlineSink):
        name = "mistaken"

        async def emit(self, event):
            pass

    with pytest.raises(TypeError, match=r"Mistaken\.emit: must not be async"):
        attach_once(InMemoryStream(), Mistaken())


def test_a_sink_whose_send_is_not_async_is_refused():
    class Mistaken(Sink):
        name = "mistaken"

        def send(self, events):
            pass

    with pytest.raises(TypeError, match=r"Mistaken\.send: must be async"):
        attach_once(InMemoryStream(), Mistaken())


def test_an_object_that_is_not_a_stream_is_refused():
    with pytest.raises(TypeError, match="stream: must be Stream, got int"):
        attach_once(42)


def test_a_report_is_shown_as_what_became_of_the_events():
    assert str(SinkReport(15, 0, {}, 0)) == "15 delivered"
    report = SinkReport(15, 1, {"queue_full": 2}, 3, retried=4, left=5)
    assert str(report) == "15 delivered, 1 given up, 2 dropped (queue_full), 3 lost, 5 left in the store"
