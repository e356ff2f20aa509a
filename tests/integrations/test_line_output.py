"""Lines to pipes: none is broken, repeated or lost silently, whatever the reader does, and nothing blocks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from codomyrmex.integrations import (
    DeliveryPolicy,
    PartialDeliveryError,
    PermanentError,
    RetryableError,
    attach,
)
from codomyrmex.integrations.delivery.sink import Sink
from codomyrmex.integrations.logging_monitoring import JsonlSink, LogLines, jsonl_sink
from codomyrmex.streaming import Event, InMemoryStream, create_event
from helpers import DEADLINE, in_time

TEXT = "x" * 300


def events(count: int) -> list[Event]:
    return [create_event({"number": number, "text": TEXT}, topic="numbers") for number in range(count)]


def numbers(data: bytes) -> list[int]:
    lines = data.decode().splitlines()
    return [(json.loads(line).get("data") or json.loads(line))["number"] for line in lines]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def jsonl(writing: int, monkeypatch: pytest.MonkeyPatch) -> Sink:
    monkeypatch.setattr(jsonl_sink, "_STDOUT", writing)
    return JsonlSink("-", data="payload")


def log_lines(writing: int, _: pytest.MonkeyPatch) -> Sink:
    return LogLines(writing, "json")


Make = Callable[[int, pytest.MonkeyPatch], Sink]
each = pytest.mark.parametrize("make", [jsonl, log_lines])


def read_all(reading: int) -> tuple[threading.Thread, bytearray]:
    """Read a pipe to its end in a thread."""
    data = bytearray()

    def run() -> None:
        while chunk := os.read(reading, 1_000):
            data.extend(chunk)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, data


@each
@pytest.mark.parametrize("blocking", [True, False])
@in_time
async def test_all_lines_arrive_whole_also_at_a_pipe_that_does_not_block(pipe, monkeypatch, make, blocking):
    reading, writing = pipe
    os.set_blocking(writing, blocking)
    sink = make(writing, monkeypatch)
    await sink.open()
    reader, data = read_all(reading)
    for first in range(0, 2_000, 500):
        await sink.send(events(2_000)[first : first + 500])
    await sink.close()
    os.close(writing)
    reader.join(DEADLINE)
    assert numbers(data) == list(range(2_000))
    assert os.get_blocking(reading)


@each
@in_time
async def test_a_send_that_is_cancelled_reports_what_was_written_and_repeats_no_line(pipe, monkeypatch, make):
    reading, writing = pipe
    sink, batch = make(writing, monkeypatch), events(1_000)
    await sink.open()
    sending = asyncio.create_task(sink.send(batch))  # nobody reads
    while select.select([], [writing], [], 0)[1]:
        await asyncio.sleep(0.001)
    assert not sending.done()
    sending.cancel()
    with pytest.raises(PartialDeliveryError) as problem:
        await sending
    failed = problem.value.failed
    assert 0 < len(failed) < 1_000
    assert {type(error) for error in failed.values()} == {RetryableError}
    reader, data = read_all(reading)
    await sink.send([event for event in batch if event.id in failed])
    await sink.close()
    os.close(writing)
    reader.join(DEADLINE)
    assert numbers(data) == list(range(1_000))


@each
@in_time
async def test_a_reader_that_stalls_does_not_hold_up_the_loop_or_the_end(pipe, monkeypatch, make):
    _, writing = pipe
    stream, beats = InMemoryStream(), 0
    policy = DeliveryPolicy(batch_age=0, drain_timeout=0.2)
    attachment = attach(stream, make(writing, monkeypatch), policy=policy)
    async with attachment:
        for event in events(1_000):
            await stream.publish(event)
        for _ in range(10):
            await asyncio.sleep(0.001)
            beats += 1
    [report] = attachment.report().sinks.values()
    assert beats == 10
    assert report.delivered + report.lost + sum(report.dropped.values()) == 1_000
    assert report.lost > 0


@each
@in_time
async def test_a_reader_that_is_gone_is_permanent(pipe, monkeypatch, make):
    reading, writing = pipe
    sink: Any = make(writing, monkeypatch)
    gone: list[bool] = []
    sink.on_broken_pipe = lambda: gone.append(True)
    await sink.open()
    os.close(reading)
    with pytest.raises(PermanentError, match=r"the reader of .* is gone"):
        await sink.send(events(1))
    assert gone == [True]
    await sink.close()


@in_time
async def test_the_path_of_the_standard_output_may_be_that_of_a_pipe(pipe, monkeypatch):
    reading, writing = pipe
    monkeypatch.setattr(jsonl_sink, "_STDOUT", writing)
    sink = JsonlSink(f"/dev/fd/{writing}", data="payload", max_size=1)
    await sink.open()
    await sink.send(events(2))
    await sink.close()
    assert numbers(os.read(reading, 10_000)) == [0, 1]


@in_time
async def test_a_named_pipe_is_written_once_it_has_a_reader(tmp_path: Path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    sink = JsonlSink(path, data="payload")
    with pytest.raises(OSError, match="No such device"):
        await sink.open()
    with pytest.raises(RetryableError, match="pipe cannot be written: No such device"):
        await sink.send(events(1))
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    await sink.send(events(2))
    await sink.close()
    assert numbers(os.read(reading, 10_000)) == [0, 1]
    os.close(reading)


@in_time
async def test_lines_below_the_level_are_left_out_and_forged_ones_escaped(pipe):
    reading, writing = pipe
    sink = LogLines(writing, "console", "warning")
    await sink.open()
    odd = Event("a\n\x1b[31mfatal", metadata={"topic": "x", "level": "error", "a\nb": "\x1b[0m\n"})
    await sink.send([create_event("quiet"), odd])
    await sink.close()
    text = os.read(reading, 10_000).decode()
    assert text.count("\n") == 1
    assert "\x1b[31mfatal" not in text
    assert "quiet" not in text
