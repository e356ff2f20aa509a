"""Forked processes, and the provenance of events."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from functools import partial

import pytest
from codomyrmex.streaming import InMemoryStream, SSEStream, TopicStream, create_event
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.provenance import LOGS, ORIGIN, cause, marked, origin_of, stems_from_logs
from helpers import DEADLINE, frequent_thread_switches, in_time, settle

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

# Forks, at moments when threads that the child does not have may hold any lock.


def run_in_children(work: Callable[[], object]) -> None:
    """Do the work in threads, and meanwhile in forked processes too."""
    done = threading.Event()

    def repeat() -> None:
        while not done.is_set():
            work()

    threads = [threading.Thread(target=repeat) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        with frequent_thread_switches():
            exit_codes = [_run_in_child(work) for _ in range(20)]
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert exit_codes == [0] * 20


def _run_in_child(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:  # pragma: no cover - measured in the parent only
        code = 1
        try:
            worker = threading.Thread(target=work, daemon=True)
            worker.start()
            worker.join(DEADLINE)
            code = 3 if worker.is_alive() else 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@forks
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("make", [InMemoryStream, TopicStream, SSEStream])
def test_a_child_can_use_a_stream_that_threads_of_its_parent_were_using(make):
    stream = make()

    def work() -> None:
        subscription = stream.subscribe_nowait(lambda event: None, "a.*")
        stream.publish_nowait(create_event(1, topic="a.b"))
        stream.statistics()
        subscription.cancel()

    run_in_children(work)


@forks
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_can_log_what_threads_of_its_parent_were_logging():
    log = Diagnostics("test", now=lambda: 0.0)
    run_in_children(partial(log.warning, "kind", "message"))


def test_a_stream_works_on_after_a_fork():
    stream = InMemoryStream()
    seen = []
    stream.subscribe_nowait(seen.append)
    stream.after_fork()
    stream.publish_nowait(create_event(1))
    assert len(seen) == 1


# Provenance


def logged(data: object) -> object:
    return create_event(data, **{ORIGIN: LOGS})


def test_the_origin_of_an_event_is_in_its_metadata():
    assert origin_of(logged(1)) == LOGS
    assert origin_of(create_event(1)) is None
    assert origin_of(create_event(1, **{ORIGIN: 3})) is None


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, False),
        ("", False),
        (LOGS, True),
        ("breakers", False),
        (f"breakers {LOGS}", True),
        ("logs2", False),
    ],
)
def test_an_origin_stems_from_logs_if_logs_is_one_of_its_words(origin, expected):
    assert stems_from_logs(origin) is expected


@pytest.mark.parametrize(("running", "expected"), [(None, "mine"), ("other", "mine"), (LOGS, f"{LOGS} mine")])
def test_an_origin_is_marked_if_the_running_code_is_caused_by_logs(running, expected):
    token = cause.set(running)
    try:
        assert marked("mine") == expected
    finally:
        cause.reset(token)


@in_time
async def test_the_cause_goes_with_a_call_that_is_made_later():
    stream, seen = InMemoryStream(), []

    async def handle(event: object) -> None:
        seen.append(cause.get())

    await stream.subscribe(handle)
    token = cause.set(LOGS)
    stream.publish_nowait(create_event(1))
    cause.reset(token)
    stream.publish_nowait(create_event(2))
    await settle()
    assert seen == [LOGS, None]


@pytest.mark.parametrize("reads", ["listen", "events", "sse_generator", "batches"])
@in_time
async def test_what_a_reader_does_is_caused_by_the_event_it_read(reads):
    stream, seen = SSEStream(), []

    async def listen() -> None:
        async with stream.listen() as events:
            ready.set()
            async for _ in events:
                seen.append(cause.get())  # noqa: PERF401 - the body of the loop is what this is about

    async def read() -> None:
        subscription = await stream.subscribe()
        ready.set()
        limit = [1] if reads == "batches" else []
        async for _ in getattr(stream, reads)(subscription.id, *limit):
            seen.append(cause.get())  # noqa: PERF401 - as above

    ready = asyncio.Event()
    listening = asyncio.create_task(listen() if reads == "listen" else read())
    await ready.wait()
    for event in (create_event(1), logged(2), create_event(3), create_event(4), logged(5)):
        await stream.publish(event)
    await stream.aclose()
    await listening
    assert seen[:5] == [None, LOGS, None, None, LOGS]
    assert seen[5:] == ([] if reads == "listen" else [None])  # DISCONNECT
    assert cause.get() is None
