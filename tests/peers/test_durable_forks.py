"""A durable stream in programs without an event loop: threads, forks, signals, and the end of a process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
from durable.stores import make_place
from helpers import DEADLINE

PRELUDE = """
import asyncio, atexit, logging, multiprocessing, os, signal, sys, threading, time
from codomyrmex.integrations import attach, attach_blocking, DeliveryPolicy, InlineSink, Sink
from codomyrmex.integrations.durable import DurableStream, open_store
from codomyrmex.streaming import create_event

logging.basicConfig(format="LOG %(name)s %(message)s", stream=sys.stdout)
NOW = DeliveryPolicy(batch_age=0)

def say(*what):
    os.write(1, (" ".join(map(str, what)) + "\\n").encode())

class Out(Sink):
    name = "out"
    async def send(self, events):
        for event in events:
            say("sent", event.data)

def wait_for_file(path):
    while not os.path.exists(path):
        time.sleep(0.01)

parent = os.getpid()
stream = DurableStream(open_store(sys.argv[1]), lease=1.0)

def publish(*values):
    for value in values:
        stream.publish_nowait(create_event(value))

def join(*children):
    for child in children:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            say("a child ended with", code)
"""

READER = """
async def read():
    async with stream:
        for record in await stream.read(limit=10_000):
            say("stored", record.event.data)

asyncio.run(read())
"""

FORK_WITH_THREADS = "ignore:This process:DeprecationWarning"  # Python 3.12 warns of that

ABOUT_NATS = "LOG codomyrmex.integrations.durable.runtime nats:"

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@pytest.fixture(params=["sqlite", "postgres", "redis", "nats"])
def place(request, servers, tmp_path):
    return make_place(request.param, servers, tmp_path)


def run(program, url):
    """Run a program whose only output, on stderr as well, is what it says; return its lines, sorted."""
    code = PRELUDE + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", FORK_WITH_THREADS, "-c", code, url],
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    # What NATS will not preserve is logged in each process.
    return sorted(line for line in done.stdout.splitlines() if not line.startswith(ABOUT_NATS))


def stored(url):
    return [line.removeprefix("stored ") for line in run(READER, url)]


def sent(*values):
    return sorted(f"sent {value}" for value in values)


@forks
def test_events_of_every_forked_process_reach_a_sink_once_and_without_noise(place):
    lines = run(
        """
        with attach_blocking(stream, Out(), policy=NOW) as attachment:
            publish("before")
            attachment.flush()
            children = []
            for number in range(3):
                children.append(os.fork())
                if children[-1] == 0:
                    publish(*[f"child {number} {count}" for count in range(5)])
                    sys.exit()
            join(*children)
            publish("after")
            attachment.flush()
        asyncio.run(stream.aclose())
        """,
        place.url,
    )
    events = ["before", "after", *(f"child {number} {count}" for number in range(3) for count in range(5))]
    assert lines == sent(*events)
    assert stored(place.url) == sorted(events)


@forks
def test_a_child_of_multiprocessing_stores_and_delivers_what_it_has_published_at_its_end(place):
    lines = run(
        """
        with attach_blocking(stream, Out(), policy=NOW) as attachment:
            publish("before")
            attachment.flush()
            with multiprocessing.get_context("fork").Pool(2) as pool:
                pool.map(publish, range(10))
                pool.close()
                pool.join()
            process = multiprocessing.get_context("fork").Process(target=publish, args=("process",))
            process.start()
            process.join()
            attachment.flush()
        asyncio.run(stream.aclose())
        """,
        place.url,
    )
    assert lines == sent("before", *range(10), "process")


@forks
def test_an_application_that_is_loaded_before_the_fork_needs_no_connection_before_it(place):
    lines = run(
        """
        attachment = attach_blocking(stream, Out(), policy=NOW).start()
        children = [os.fork()]
        if children[0]:
            children.append(os.fork())
        if 0 in children:
            publish(f"of child {len(children)}")
            sys.exit()
        join(*children)
        attachment.flush()
        attachment.close()
        asyncio.run(stream.aclose())
        """,
        place.url,
    )
    assert lines == sent("of child 1", "of child 2")


@forks
def test_another_process_takes_over_within_the_lease_when_the_delivering_one_is_killed(place, tmp_path):
    lines = run(
        f"""
        class Here(Out):
            async def send(self, events):
                for event in events:
                    say("sent", event.data, "by", "child" if os.getpid() != parent else "parent")

        if (child := os.fork()) == 0:
            attachment = attach_blocking(stream, Here(), policy=NOW).start()
            publish("first")
            attachment.flush()
            open({str(tmp_path / "ready")!r}, "w").close()
            time.sleep(60)
        wait_for_file({str(tmp_path / "ready")!r})
        attachment = attach_blocking(stream, Here(), policy=NOW).start()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        start = time.monotonic()
        publish("second")
        while attachment.health()["out"].delivered == 0:
            time.sleep(0.01)
        say("in time", time.monotonic() - start < {1.0 + DEADLINE})  # the lease, and slack
        attachment.close()
        asyncio.run(stream.aclose())
        """,
        place.url,
    )
    others = [line for line in lines if "its lease has expired" not in line]  # that the process is gone
    assert others == ["in time True", "sent first by child", "sent second by parent"]


@forks
def test_a_forked_process_is_listed_and_when_it_is_killed_its_parent_settles_what_it_left(place, tmp_path):
    lines = run(
        f"""
        settled = []
        stream.report_section("breakers", lambda: {{"of": os.getpid()}}, settled.append)

        class Marking(Out):
            async def send(self, events):
                await super().send(events)
                open({str(tmp_path / "sent")!r}, "w").close()

        attachment = attach_blocking(stream, Marking(), policy=NOW).start()

        def who(info):
            return "child" if info.sections["breakers"]["of"] != parent else "parent"

        def states():
            return {{who(info): info.state.value for info in asyncio.run(stream.processes())}}

        def wait_for(**expected):
            while (found := states()) != expected:
                time.sleep(0.05)
            say("listed", *sorted(found.items()))

        wait_for(parent="running")
        if (child := os.fork()) == 0:
            publish("first")
            open({str(tmp_path / "ready")!r}, "w").close()
            time.sleep(60)
        wait_for_file({str(tmp_path / "ready")!r})
        wait_for(child="running", parent="running")
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        logging.disable()
        wait_for(child="gone", parent="running")
        while not settled:
            time.sleep(0.01)
        wait_for_file({str(tmp_path / "sent")!r})  # by the child, or by its parent
        say("settled", *map(who, settled))
        attachment.close()
        asyncio.run(stream.aclose())
        """,
        place.url,
    )
    assert lines == [
        "listed ('child', 'gone') ('parent', 'running')",
        "listed ('child', 'running') ('parent', 'running')",
        "listed ('parent', 'running')",
        "sent first",
        "settled child",
    ]


def test_everything_that_is_published_until_the_very_end_is_stored(place):
    lines = run(
        """
        def on_signal(*_):
            publish("signal")

        def outlive():
            threading.main_thread().join()
            time.sleep(0.1)
            publish("late thread")

        signal.signal(signal.SIGUSR1, on_signal)
        atexit.register(publish, "atexit")
        publish("main")
        os.kill(os.getpid(), signal.SIGUSR1)
        threading.Thread(target=outlive).start()
        """,
        place.url,
    )
    assert lines == []
    assert stored(place.url) == ["atexit", "late thread", "main", "signal"]


def test_sinks_that_are_not_closed_deliver_until_the_very_end(place):
    lines = run(
        """
        def outlive():
            threading.main_thread().join()
            publish("late thread")

        attach_blocking(stream, Out(), policy=NOW).start()
        publish("main")
        threading.Thread(target=outlive).start()
        """,
        place.url,
    )
    assert lines == sent("main", "late thread")


def test_a_signal_handler_may_be_the_first_to_use_a_stream_that_is_being_started(place):
    lines = run(
        """
        signal.signal(signal.SIGALRM, lambda *_: publish("signal"))
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        for number in range(200):
            publish(number)
            time.sleep(0.0002)
        time.sleep(0.1)
        """,
        place.url,
    )
    assert lines == []
    assert stored(place.url) == sorted(["signal", *map(str, range(200))])


@forks
def test_a_child_that_is_forked_while_threads_publish_has_everything_it_needs(place):
    lines = run(
        """
        going = True
        def work(number):
            count = 0
            while going:
                publish(f"{number} {count}")
                count += 1
                time.sleep(0.001)

        attachment = attach_blocking(stream, Out(), policy=NOW)
        Out.send = lambda self, events: asyncio.sleep(0)
        attachment.start()
        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for number in range(5):
            time.sleep(0.05)
            if (child := os.fork()) == 0:
                publish(f"child {number}")
                os._exit(0 if attachment.flush(20) and attachment.close(20).complete else 3)
            join(child)
        going = False
        for thread in threads:
            thread.join()
        attachment.close()
        say("ok", stream.health().ok)
        asyncio.run(stream.aclose())
        """,
        place.url,
    )
    # A child that has ended without closing its stream may be gone before its parent ends.
    assert [line for line in lines if "its lease has expired" not in line] == ["ok True"]
    events = stored(place.url)
    children = [event for event in events if event.startswith("child")]
    assert children == [f"child {number}" for number in range(5)]
    for number in range(3):
        counts = [int(event.split()[1]) for event in events if event.startswith(f"{number} ")]
        assert sorted(counts) == list(range(len(counts)))


def test_a_group_whose_event_loop_has_ended_is_left_to_others(place):
    lines = run(
        """
        async def begin():
            await stream.subscribe(lambda event: say("first", event.data), group="g")
            await stream.subscribe(lambda event: None)
            await stream.publish(create_event(1))
            await asyncio.sleep(0.5)
            return asyncio.all_tasks() - {asyncio.current_task()}

        loop = asyncio.new_event_loop()
        tasks = loop.run_until_complete(begin())

        async def go_on():
            async with DurableStream(open_store(sys.argv[1]), lease=1.0) as other:
                got = asyncio.Event()
                await other.subscribe(lambda event: (say("second", event.data), got.set()), group="g")
                await other.publish(create_event(2))
                await asyncio.wait_for(got.wait(), 20)

        asyncio.run(go_on())
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks))
        loop.close()
        publish(3)
        """,
        place.url,
    )
    assert [line for line in lines if not line.startswith("LOG")] == ["first 1", "second 2"]
    assert stored(place.url) == ["1", "2", "3"]


@pytest.mark.parametrize("end", ["pass", "raise SystemExit", "os.kill(os.getpid(), signal.SIGINT)"])
def test_after_an_unclean_end_everything_is_stored_and_the_next_process_delivers_it(end, place):
    program = f"""
        async def main():
            await attach(stream, Out(), policy=NOW).start()
            await stream.subscribe(lambda event: None, group="g")
            await stream.publish(create_event(1))
            await asyncio.sleep(0.3)
            publish(2)
            {end}

        try:
            asyncio.run(main())
        except (KeyboardInterrupt, SystemExit):
            pass
    """
    lines = run(program, place.url)
    cancelled = "its task was cancelled; other processes can take over"
    assert {line for line in lines if not line.startswith("sent")} == {
        f"LOG codomyrmex.integrations.delivery.worker sink {name}: {cancelled}" for name in ("out", "g")
    }
    rest = run(
        """
        with attach_blocking(stream, Out(), policy=NOW) as attachment:
            end = time.monotonic() + 20  # the lease may have to expire
            while time.monotonic() < end and (
                attachment.health()["out"].state.value == "standby" or attachment.report().sinks["out"].left
            ):
                time.sleep(0.1)
        """,
        place.url,
    )
    assert {line for line in [*lines, *rest] if line.startswith("sent")} == {"sent 1", "sent 2"}
    assert stored(place.url) == ["1", "2"]
