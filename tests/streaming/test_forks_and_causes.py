"""What a child process gets anew, and what is handed on of why something happens."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest
from codomyrmex.streaming import InMemoryStream, SSEStream, TopicStream, create_event
from codomyrmex.streaming.counters import Counter
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.provenance import LOGS, ORIGIN, cause, origin_of
from helpers import in_time, settle

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

# Forks. The lock is held by a thread that the child does not have, as it could be at any moment.


def in_child_while_held(lock: threading.RLock, work) -> int:  # type: ignore[valid-type]
    """Fork while another thread holds a lock, do the work in the child, and give its exit code."""
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            free.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(5)
    child = os.fork()
    if child == 0:  # pragma: no cover - measured in the parent only
        code = 1
        try:
            worker = threading.Thread(target=work, daemon=True)
            worker.start()
            worker.join(5)
            code = 3 if worker.is_alive() else 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    free.set()
    holder.join()
    return os.waitstatus_to_exitcode(status)


@forks
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("make", [InMemoryStream, TopicStream, SSEStream])
def test_a_child_can_use_a_stream_whose_lock_a_thread_of_the_parent_held(make):
    stream = make()

    def work() -> None:
        stream.subscribe_nowait(lambda event: None, "a.b")
        stream.publish_nowait(create_event(1, topic="a.b"))

    assert in_child_while_held(stream._lock, work) == 0


@forks
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_can_log_when_a_thread_of_the_parent_did():
    log = Diagnostics("test")
    assert in_child_while_held(log._lock, lambda: log.warning("kind", "message")) == 0  # noqa: PLE1205 - it is ours


def test_what_was_made_anew_works_on():
    stream = InMemoryStream()
    seen = []
    stream.subscribe_nowait(seen.append)
    before = stream._lock
    stream.after_fork()
    assert stream._lock is not before
    stream.publish_nowait(create_event(1))
    counter = Counter()
    counter.tick()
    assert (len(seen), counter.value()) == (1, 1)


# Causes


def logged(data: object) -> object:
    return create_event(data, **{ORIGIN: LOGS})


def test_an_event_says_where_it_comes_from():
    assert origin_of(logged(1)) == LOGS
    assert origin_of(create_event(1)) is None
    assert origin_of(create_event(1, **{ORIGIN: 3})) is None


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


@in_time
async def test_who_listens_deals_with_the_cause_of_each_event_in_turn():
    stream, seen = InMemoryStream(), []

    async def listen() -> None:
        async with stream.listen() as events:
            ready.set()
            async for _ in events:
                seen.append(cause.get())  # noqa: PERF401 - the body of the loop is what this is about

    ready = asyncio.Event()
    listening = asyncio.create_task(listen())
    await ready.wait()
    for event in (create_event(1), logged(2), create_event(3), create_event(4), logged(5)):
        await stream.publish(event)
    await stream.aclose()
    await listening
    assert seen == [None, LOGS, None, None, LOGS]
    assert cause.get() is None
