"""`attach_blocking`: the same without an event loop, with forks and at interpreter exit."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import count
from typing import Any

import pytest
from codomyrmex.integrations import (
    Binding,
    DeadLetters,
    DeliveryPolicy,
    InlineSink,
    PermanentError,
    Sink,
    SinkState,
    attach_blocking,
)
from codomyrmex.streaming import Event, InMemoryStream, create_event
from helpers import DEADLINE

_numbers = count()
NOW = DeliveryPolicy(batch_age=0, max_attempts=1)
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


class Keeper(Sink):
    def __init__(self, name: str | None = None) -> None:
        self.name = name or f"keeper-{next(_numbers)}"
        self.taken: list[Any] = []
        self.calls: list[str] = []
        self.threads: set[str] = set()

    async def open(self) -> None:
        self.calls.append("open")

    async def send(self, events: Sequence[Event]) -> None:
        self.threads.add(threading.current_thread().name)
        self.taken += [event.data for event in events]

    async def close(self) -> None:
        self.calls.append("close")


class Hanging(Keeper):
    async def send(self, events: Sequence[Event]) -> None:
        await asyncio.Event().wait()


class Inline(InlineSink):
    def __init__(self) -> None:
        self.name = f"inline-{next(_numbers)}"
        self.threads: list[threading.Thread] = []

    def emit(self, event: Event) -> None:
        self.threads.append(threading.current_thread())


def threads_that_deliver() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "codomyrmex delivery"]


def test_events_are_delivered_on_another_thread():
    stream, sink, inline = InMemoryStream(), Keeper(), Inline()
    with attach_blocking(stream, sink, inline) as attachment:
        for number in range(5):
            stream.publish_nowait(create_event(number))
        assert inline.threads == [threading.current_thread()] * 5
    assert sink.taken == list(range(5))
    assert sink.threads == {"codomyrmex delivery"}
    assert sink.calls == ["open", "close"]
    assert attachment.report().sinks[sink.name].delivered == 5
    assert attachment.health()[sink.name].state is SinkState.CLOSED
    assert threads_that_deliver() == []


def test_start_and_close_do_what_the_context_does():
    stream, sink = InMemoryStream(), Keeper()
    attachment = attach_blocking(stream, sink).start()
    stream.publish_nowait(create_event(1))
    report = attachment.close()
    assert report.sinks[sink.name].delivered == 1
    assert attachment.close() == report
    stream.publish_nowait(create_event(2))
    assert sink.taken == [1]


def test_flush_waits_until_everything_is_delivered_and_returns_whether_it_is():
    stream, sink = InMemoryStream(), Keeper()
    with attach_blocking(stream, sink, policy=DeliveryPolicy(batch_age=3_600)) as attachment:
        stream.publish_nowait(create_event(1))
        assert attachment.flush(5)
        assert sink.taken == [1]
    stream, hanging = InMemoryStream(), Hanging()
    with attach_blocking(stream, hanging, policy=DeliveryPolicy(drain_timeout=0)) as attachment:
        stream.publish_nowait(create_event(1))
        assert not attachment.flush(0.05)


def test_a_hanging_sink_delays_neither_the_publisher_nor_another_sink_nor_the_end():
    stream, sink, hanging = InMemoryStream(), Keeper(), Hanging()
    attachment = attach_blocking(
        stream, Binding(hanging, policy=DeliveryPolicy(batch_age=0)), sink, policy=NOW
    )
    attachment.start()
    for number in range(1_000):
        stream.publish_nowait(create_event(number))
    report = attachment.close(timeout=0.1)
    assert sink.taken == list(range(1_000))
    assert report.sinks[hanging.name].lost == 1_000


def test_a_sink_that_blocks_the_thread_does_not_keep_the_program_from_going_on(caplog):
    free = threading.Event()

    class Blocking(Keeper):
        async def send(self, events: Sequence[Event]) -> None:
            free.wait(20)

    stream, sink = InMemoryStream(), Blocking()
    attachment = attach_blocking(stream, sink, policy=NOW).start()
    stream.publish_nowait(create_event(1))
    assert attachment.close(timeout=0).sinks[sink.name].lost == 1
    assert "a sink blocks it" in caplog.text
    free.set()
    for thread in threads_that_deliver():
        thread.join(DEADLINE)


def test_publishing_from_many_threads_loses_nothing_and_keeps_each_ones_order():
    stream, sink = InMemoryStream(), Keeper()

    def publish(who: int) -> None:
        for number in range(500):
            stream.publish_nowait(create_event((who, number)))

    with attach_blocking(stream, sink, policy=DeliveryPolicy(queue_size=10_000)):
        threads = [threading.Thread(target=publish, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(sink.taken) == 2_000
    for who in range(4):
        assert [number for author, number in sink.taken if author == who] == list(range(500))


def test_sinks_come_and_go_and_dead_letters_are_replayed():
    stream, letters, sink, away = InMemoryStream(), DeadLetters(), Keeper(), True

    async def send(events: Sequence[Event]) -> None:
        if away:
            raise PermanentError("away")

    with attach_blocking(stream, policy=NOW, dead_letters=letters) as attachment:
        attachment.add(sink)
        attachment.add(Sink.from_function(send, name="picky"))
        stream.publish_nowait(create_event(1))
        assert attachment.flush(5)
        assert attachment.remove(sink).delivered == 1
        away = False
        assert attachment.replay(letters) == 1
        assert attachment.flush(5)
        assert attachment.report().sinks["picky"].delivered == 1


def test_a_sink_that_cannot_be_opened_is_an_error_and_leaves_no_thread():
    class Closed(Keeper):
        async def open(self) -> None:
            raise OSError("no such host")

    first, closed = Keeper(), Closed()
    with pytest.raises(OSError, match="no such host"):
        attach_blocking(InMemoryStream(), first, closed).start()
    assert first.calls == ["open", "close"]
    assert threads_that_deliver() == []


def test_started_twice_is_an_error():
    with (
        attach_blocking(InMemoryStream()) as attachment,
        pytest.raises(RuntimeError, match="only once"),
    ):
        attachment.start()


@pytest.mark.parametrize("call", [lambda a: a.add(Keeper()), lambda a: a.remove("x"), lambda a: a.replay([])])
def test_methods_that_need_the_thread_raise_without_it(call):
    with pytest.raises(RuntimeError, match="not running"):
        call(attach_blocking(InMemoryStream()))


def test_a_sink_cannot_wait_for_the_thread_it_runs_on():
    caught: list[Exception] = []

    class Impatient(Keeper):
        async def send(self, events: Sequence[Event]) -> None:
            try:
                attachment.flush()
            except RuntimeError as error:
                caught.append(error)

    stream = InMemoryStream()
    with attach_blocking(stream, Impatient(), policy=NOW) as attachment:
        stream.publish_nowait(create_event(1))
    assert "thread that it runs on" in str(caught[0])


def test_an_exception_in_the_body_propagates_after_the_drain():
    stream, sink = InMemoryStream(), Keeper()

    def body() -> None:
        with attach_blocking(stream, sink):
            stream.publish_nowait(create_event(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()
    assert sink.taken == [1]


# Programs: what happens at their end and over a fork. Each is a process of its own.

PRELUDE = """
import asyncio, logging, os, sys, threading
from codomyrmex.integrations import attach, attach_blocking, DeliveryPolicy, InlineSink, Sink
from codomyrmex.streaming import InMemoryStream, create_event

logging.basicConfig(format="LOG %(message)s", stream=sys.stdout)

def say(*what):
    os.write(1, (" ".join(map(str, what)) + "\\n").encode())

class Teller(Sink):
    name = "teller"
    async def open(self):
        say(who(), "open")
    async def send(self, events):
        for event in events:
            say(who(), "got", event.data)
    async def close(self):
        say(who(), "close")

parent = os.getpid()
def who():
    return "parent" if os.getpid() == parent else "child"

stream = InMemoryStream()
"""


def run(program: str, *, check: bool = True) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PRELUDE + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    return done.stdout.splitlines()


def test_an_attachment_that_is_not_closed_is_drained_when_the_interpreter_exits():
    lines = run("""
        attach_blocking(stream, Teller()).start()
        stream.publish_nowait(create_event(1))
    """)
    assert lines == ["parent open", "parent got 1", "parent close"]


@forks
def test_a_child_does_not_send_what_the_parent_has_queued_and_sends_its_own():
    lines = run("""
        with attach_blocking(stream, Teller(), policy=DeliveryPolicy(batch_age=60)):
            stream.publish_nowait(create_event("before"))
            if (child := os.fork()) == 0:
                stream.publish_nowait(create_event("of the child"))
                stream.publish_nowait(create_event("and another"))
            else:
                os.waitpid(child, 0)
                stream.publish_nowait(create_event("of the parent"))
    """)
    assert [line for line in lines if line.startswith("child")] == [
        "child open",
        "child got of the child",
        "child got and another",
        "child close",
    ]
    assert [line for line in lines if line.startswith("parent")] == [
        "parent open",
        "parent got before",
        "parent got of the parent",
        "parent close",
    ]
    [said] = [line for line in lines if line.startswith("LOG")]
    assert "the 1 events that were queued are sent by the parent process" in said


@forks
def test_a_child_that_publishes_nothing_opens_and_logs_nothing():
    lines = run("""
        with attach_blocking(stream, Teller()):
            if (child := os.fork()) == 0:
                sys.exit(0)
            os.waitpid(child, 0)
    """)
    assert lines == ["parent open", "parent close"]


@forks
def test_the_counters_of_a_child_start_at_zero():
    lines = run("""
        attachment = attach_blocking(stream, Teller(), policy=DeliveryPolicy(batch_age=0)).start()
        stream.publish_nowait(create_event(1))
        attachment.flush()
        if (child := os.fork()) == 0:
            stream.publish_nowait(create_event(2))
            report = attachment.close().sinks["teller"]
            say("report", report.delivered, report.lost)
            os._exit(0)
        os.waitpid(child, 0)
        say("report", attachment.close().sinks["teller"].delivered)
    """)
    assert [line for line in lines if line.startswith("report")] == ["report 1 0", "report 1"]


@forks
def test_a_fork_in_the_middle_of_publishing_threads_blocks_nobody():
    lines = run("""
        policy = DeliveryPolicy(batch_age=0, queue_size=100_000)
        attachment = attach_blocking(stream, Teller(), policy=policy).start()
        say_nothing, going = (lambda *what: None), True
        Teller.send = lambda self, events: asyncio.sleep(0)

        def publish():
            number = 0
            while going:
                number += 1
                stream.publish_nowait(create_event(number, topic=f"t{number % 3000}"))
                stream.statistics()

        threads = [threading.Thread(target=publish, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        children = []
        for _ in range(20):
            child = os.fork()
            if child == 0:
                for number in range(100):
                    stream.publish_nowait(create_event(number, topic=f"new{number}"))
                stream.statistics()
                os._exit(0 if attachment.flush(5) and attachment.close(5).complete else 3)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        going = False
        for thread in threads:
            thread.join(5)
        say("codes", set(codes))
        os._exit(0)
    """)
    assert "codes {0}" in lines


@forks
def test_a_child_of_multiprocessing_is_drained_at_its_end():
    lines = run("""
        import multiprocessing
        with attach_blocking(stream, Teller(), policy=DeliveryPolicy(batch_age=60)):
            work = lambda: stream.publish_nowait(create_event("of the child"))
            process = multiprocessing.get_context("fork").Process(target=work)
            process.start()
            process.join()
    """)
    assert "child got of the child" in lines
    assert "child close" in lines


@forks
def test_an_attachment_of_an_event_loop_drops_events_in_a_child_and_logs_it():
    lines = run("""
        async def main():
            async with attach(stream, Teller(), policy=DeliveryPolicy(batch_age=60)) as attachment:
                await stream.publish(create_event("before"))
                if (child := os.fork()) == 0:
                    stream.publish_nowait(create_event("of the child"))
                    stream.publish_nowait(create_event("and another"))
                    say("dropped", attachment.report().sinks["teller"].dropped, attachment.report().complete)
                    sys.stdout.flush()
                    os._exit(0)
                os.waitpid(child, 0)
        asyncio.run(main())
    """)
    assert "dropped {'forked': 2} False" in lines
    assert [line for line in lines if "got" in line] == ["parent got before"]
    [said] = [line for line in lines if line.startswith("LOG")]
    assert "attach again in the child process" in said


def test_a_keyboard_interrupt_in_the_body_still_drains():
    lines = run(
        """
        with attach_blocking(stream, Teller()):
            stream.publish_nowait(create_event(1))
            raise KeyboardInterrupt
        """,
        check=False,
    )
    assert lines == ["parent open", "parent got 1", "parent close"]


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_two_attachments_to_one_stream_have_a_thread_each():
    stream, one, two = InMemoryStream(), Keeper(), Keeper()
    with attach_blocking(stream, one, policy=NOW), attach_blocking(stream, two, policy=NOW):
        assert len(threads_that_deliver()) == 2
        stream.publish_nowait(create_event(1))
        wait_for(lambda: one.taken == two.taken == [1])


# What a review found


@forks
def test_a_child_that_ends_while_its_sinks_are_opened_still_drains():
    lines = run("""
        class Slow(Teller):
            async def open(self):
                await asyncio.sleep(0.2)
                say(who(), "open")

        attachment = attach_blocking(stream, Slow()).start()
        if (child := os.fork()) == 0:
            stream.publish_nowait(create_event("of the child"))
            say("flushed", attachment.flush())
            stream.publish_nowait(create_event("and another"))
            say("lost", attachment.close().sinks["teller"].lost)
            os._exit(0)
        os.waitpid(child, 0)
    """)
    assert [line for line in lines if line.startswith(("child", "flushed", "lost"))] == [
        "child open",
        "child got of the child",
        "flushed True",
        "child got and another",
        "child close",
        "lost 0",
    ]


@forks
def test_a_fork_while_threads_read_the_numbers_blocks_nobody():
    lines = run("""
        class Counting(InlineSink):
            name = "counting"
            def emit(self, event): pass

        attachment = attach_blocking(stream, Counting(), Teller()).start()
        going = True
        def read():
            while going:
                attachment.report(), attachment.health()
        threads = [threading.Thread(target=read, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        codes = set()
        for _ in range(30):
            child = os.fork()
            if child == 0:
                attachment.report()
                os._exit(0)
            codes.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        going = False
        say("codes", codes)
    """)
    assert "codes {0}" in lines


def test_a_sink_cannot_close_the_thread_it_runs_on():
    caught: list[Exception] = []

    class Closing(Keeper):
        async def send(self, events: Sequence[Event]) -> None:
            try:
                attachment.close()
            except RuntimeError as error:
                caught.append(error)
            await super().send(events)

    stream, sink = InMemoryStream(), Closing()
    with attach_blocking(stream, sink, policy=NOW) as attachment:
        stream.publish_nowait(create_event(1))
        assert attachment.flush(5)
    assert len(caught) == 1
    assert sink.taken == [1]
    assert sink.calls == ["open", "close"]


def test_a_sink_that_exits_ends_no_thread():
    class Exits(Keeper):
        async def send(self, events: Sequence[Event]) -> None:
            sys.exit(3)

    stream, exits, sink = InMemoryStream(), Exits(), Keeper()
    with attach_blocking(stream, exits, sink, policy=NOW) as attachment:
        for number in range(2):
            stream.publish_nowait(create_event(number))
            assert attachment.flush(5)
    assert sink.taken == [0, 1]


def test_no_limit_is_a_limit_too():
    stream, sink = InMemoryStream(), Keeper()
    rules = DeliveryPolicy(drain_timeout=float("inf"), timeout=float("inf"), max_elapsed=float("inf"))
    with attach_blocking(stream, sink, policy=rules) as attachment:
        stream.publish_nowait(create_event(1))
    assert attachment.report().sinks[sink.name].delivered == 1


def test_flush_keeps_its_time_behind_a_sink_that_blocks_the_thread():
    free = threading.Event()

    class Blocking(Keeper):
        async def send(self, events: Sequence[Event]) -> None:
            free.wait(20)

    stream = InMemoryStream()
    with attach_blocking(stream, Blocking(), policy=NOW) as attachment:
        stream.publish_nowait(create_event(1))
        assert attachment.flush(0.05) is False
        free.set()


def test_concurrent_closes_work():
    for _ in range(20):
        attachment = attach_blocking(InMemoryStream(), Keeper()).start()
        errors: list[BaseException] = []

        def close(attachment: Any = attachment, errors: list[BaseException] = errors) -> None:
            try:
                attachment.close()
            except BaseException as error:  # noqa: BLE001 - a CancelledError is none
                errors.append(error)

        threads = [threading.Thread(target=close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        assert errors == []


def test_on_send_runs_on_the_thread_that_delivers():
    stream, sink, threads = InMemoryStream(), Keeper(), []

    def hook(_sink: Sink, _events: Sequence[Event]) -> nullcontext[None]:
        threads.append(threading.current_thread().name)
        return nullcontext()

    with attach_blocking(stream, sink, policy=NOW) as attachment:
        attachment.on_send(hook)
        stream.publish_nowait(create_event(1))
    assert threads == ["codomyrmex delivery"]


# The end of a program, and forks: what is lost says so


def test_at_the_end_of_a_program_a_sink_still_has_the_thread_pool_of_its_loop():
    lines = run("""
        class Resolving(Teller):
            async def send(self, events):
                await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80)
                await asyncio.to_thread(say, "sent", *[event.data for event in events])
            async def close(self):
                await asyncio.to_thread(say, "closed")

        attach_blocking(stream, Resolving()).start()
        stream.publish_nowait(create_event(1))
    """)
    assert lines == ["parent open", "sent 1", "closed"]


def test_a_thread_that_continues_after_the_main_thread_is_still_delivered():
    lines = run("""
        def go_on():
            threading.main_thread().join()
            stream.publish_nowait(create_event("late"))

        attach_blocking(stream, Teller()).start()
        stream.publish_nowait(create_event("early"))
        threading.Thread(target=go_on).start()
    """)
    assert lines == ["parent open", "parent got early", "parent got late", "parent close"]


@forks
def test_a_child_whose_sinks_cannot_be_opened_says_so_and_opens_them_later():
    lines = run("""
        class Away(Teller):
            async def open(self):
                if who() == "child" and self.failures:
                    self.failures -= 1
                    raise OSError("in use by the parent")
        class AwayInline(InlineSink):
            name = "inline"
            open = Away.open
            def emit(self, event):
                say("inline got", event.data)
        sinks = [Away(), AwayInline()]
        for sink in sinks:
            sink.failures = 1
        policy = DeliveryPolicy(batch_age=0, backoff_initial=0.05, backoff_max=0.05)
        attachment = attach_blocking(stream, *sinks, policy=policy).start()
        if (child := os.fork()) == 0:
            stream.publish_nowait(create_event(1))
            while any(health.delivered == 0 for health in attachment.health().values()):
                pass
            report = attachment.close()
            say("complete", report.complete)
            os._exit(0)
        os.waitpid(child, 0)
    """)
    assert [line for line in lines if "got" in line or "complete" in line] in (
        ["child got 1", "inline got 1", "complete True"],
        ["inline got 1", "child got 1", "complete True"],
    )
    assert (
        sum("open() failed and will be retried: OSError: in use by the parent" in line for line in lines) == 2
    )


@forks
def test_an_inline_sink_that_cannot_be_opened_in_a_child_has_delivered_nothing_and_says_why():
    lines = run("""
        class Locked(InlineSink):
            name = "locked"
            async def open(self):
                if who() == "child":
                    raise OSError("in use by the parent")
            def emit(self, event):
                say("got", event.data)

        attachment = attach_blocking(stream, Locked()).start()
        if (child := os.fork()) == 0:
            for number in range(5):
                stream.publish_nowait(create_event(number))
            attachment.flush()
            health = attachment.health()["locked"]
            say(health.state, health.delivered, health.queued, health.last_error)
            report = attachment.close().sinks["locked"]
            say(report.delivered, report.dropped)
            os._exit(0)
        os.waitpid(child, 0)
    """)
    assert [line for line in lines if not line.startswith("LOG")] == [
        "not_open 0 5 OSError: in use by the parent",
        "0 {'not_open': 5}",
    ]


@forks
def test_no_task_of_the_parent_is_reported_as_destroyed_in_a_child():
    lines = run("""
        import gc
        from codomyrmex.streaming.forks import renew_in_children

        class Busy(InlineSink):
            name = "busy"
            def __init__(self):
                renew_in_children(self)
            async def open(self):
                self.task = asyncio.create_task(asyncio.Event().wait())
            def after_fork(self):
                self.task = None
            def emit(self, event):
                pass
            async def close(self):
                if self.task is not None:
                    self.task.cancel()

        attachment = attach_blocking(stream, Busy()).start()
        if (child := os.fork()) == 0:
            gc.collect()
            stream.publish_nowait(create_event(1))
            attachment.close()
            gc.collect()
            sys.exit(0)
        os.waitpid(child, 0)
    """)
    assert [line for line in lines if "destroyed" in line] == []


@forks
def test_an_attachment_that_was_not_started_can_be_started_in_a_child():
    lines = run("""
        attachment = attach(stream, Teller(), policy=DeliveryPolicy(batch_age=0))

        async def main():
            async with attachment:
                await stream.publish(create_event(1))

        if (child := os.fork()) == 0:
            asyncio.run(main())
            say("complete", attachment.report().complete)
            os._exit(0)
        os.waitpid(child, 0)
    """)
    assert lines == ["child open", "child got 1", "child close", "complete True"]
