"""`JsonlSink`: complete lines, across rotation, full disks and broken pipes."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from codomyrmex.integrations import DeliveryPolicy, PermanentError, RetryableError, attach
from codomyrmex.integrations.logging_monitoring import jsonl_sink
from codomyrmex.integrations.logging_monitoring.jsonl_sink import JsonlSink
from codomyrmex.streaming import Event, InMemoryStream, create_event
from helpers import DEADLINE, in_time


def event(number: int) -> Event:
    return create_event({"number": number}, topic="numbers")


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["data"]["number"] for line in path.read_text(encoding="utf-8").splitlines()]


async def written(path: Path, *batches: list[Event], **options: Any) -> None:
    sink = JsonlSink(path, **options)
    await sink.open()
    for batch in batches:
        await sink.send(batch)
    await sink.close()


class Disk:
    """Fails in the middle of a write, after a number of bytes, like a full disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int, number: int = errno.ENOSPC) -> None:
        self.room: float = room
        self._error = number
        monkeypatch.setattr(jsonl_sink, "write_all", self._write)

    def _write(self, file: Any, data: bytes) -> None:
        part = data[: int(min(self.room, len(data)))]
        file.write(part)
        self.room -= len(part)
        if len(part) < len(data):
            raise OSError(self._error, os.strerror(self._error))


@in_time
async def test_each_line_is_an_event_that_reads_back(tmp_path):
    events = [event(1), create_event({"text": "a\nb\u2028c", "odd": object}, topic="x")]
    await written(tmp_path / "a.jsonl", events)
    first, second = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert Event.from_dict(json.loads(first)) == events[0]
    assert json.loads(second)["data"]["text"] == "a\nb\u2028c"


@in_time
async def test_only_the_payload_is_written_on_request(tmp_path):
    await written(tmp_path / "a.jsonl", [event(1), create_event("text")], data="payload")
    assert (tmp_path / "a.jsonl").read_text(encoding="utf-8") == '{"number":1}\n"text"\n'


@in_time
async def test_a_file_is_appended_to_and_its_folder_is_created(tmp_path):
    path = tmp_path / "new" / "folder" / "a.jsonl"
    await written(path, [event(1)])
    await written(path, [event(2)])
    assert numbers(path) == [1, 2]


@in_time
async def test_a_file_that_would_grow_too_large_is_rotated(tmp_path):
    path = tmp_path / "a.jsonl"
    size = len(jsonl_sink.to_json(event(1))) + 1
    await written(path, *([event(n)] for n in range(1, 10)), max_size=2 * size, keep=2)
    assert numbers(path) == [9]
    assert numbers(tmp_path / "a.jsonl.1") == [7, 8]
    assert numbers(tmp_path / "a.jsonl.2") == [5, 6]
    assert len(list(tmp_path.iterdir())) == 3


@in_time
async def test_a_batch_larger_than_the_limit_has_its_own_file(tmp_path):
    path = tmp_path / "a.jsonl"
    await written(path, [event(1)], [event(2), event(3)], [event(4)], max_size=10)
    assert [numbers(path), numbers(tmp_path / "a.jsonl.1")] == [[4], [2, 3]]


@pytest.mark.parametrize("how", ["renamed", "removed", "folder removed", "replaced"])
@in_time
async def test_a_renamed_or_removed_file_is_created_again(tmp_path, how):
    path = tmp_path / "logs" / "a.jsonl"
    sink = JsonlSink(path)
    await sink.open()
    await sink.send([event(1)])
    path.rename(tmp_path / "old")
    if how == "removed":
        (tmp_path / "old").unlink()
    elif how == "folder removed":
        path.parent.rmdir()
    elif how == "replaced":
        path.touch()
    await sink.send([event(2)])
    await sink.close()
    assert numbers(path) == [2]
    assert how == "removed" or numbers(tmp_path / "old") == [1]


@in_time
async def test_a_full_disk_leaves_no_partial_batch_and_is_retried(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    sink = JsonlSink(path)
    await sink.open()
    await sink.send([event(1)])
    before = path.read_bytes()
    disk = Disk(monkeypatch, 200)  # there is room for the first of two events
    with pytest.raises(RetryableError, match=r"a\.jsonl cannot be written: No space left"):
        await sink.send([event(2), event(3)])
    assert path.read_bytes() == before
    disk.room = 10_000
    await sink.send([event(2), event(3)])
    await sink.close()
    assert numbers(path) == [1, 2, 3]


@in_time
async def test_an_incomplete_line_that_cannot_be_removed_is_terminated(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    sink = JsonlSink(path)
    await sink.open()
    disk = Disk(monkeypatch, 20)

    def refuses(*_: Any) -> None:
        raise OSError(errno.EPERM, "it is append-only")

    monkeypatch.setattr(os, "ftruncate", refuses)
    with pytest.raises(RetryableError):
        await sink.send([event(1)])
    disk.room = 10_000
    await sink.send([event(1)])
    await sink.close()
    half, whole = path.read_text(encoding="utf-8").splitlines()
    assert len(half) == 20
    assert json.loads(whole)["data"] == {"number": 1}


@in_time
async def test_an_incomplete_line_of_a_killed_process_is_terminated(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "cut', encoding="utf-8")
    await written(path, [event(1)], [event(2)])
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    assert first == '{"id": "cut'
    assert [json.loads(line)["data"]["number"] for line in rest] == [1, 2]


@in_time
async def test_a_file_that_cannot_be_opened_fails_in_open(tmp_path):
    with pytest.raises(IsADirectoryError):
        await JsonlSink(tmp_path).open()


@in_time
async def test_an_attachment_neither_loses_nor_repeats_events_on_a_full_disk(tmp_path, monkeypatch):
    disk, path, stream = Disk(monkeypatch, 500), tmp_path / "a.jsonl", InMemoryStream()
    policy = DeliveryPolicy(
        batch_size=10, batch_age=0, backoff_initial=0.001, backoff_max=0.01, max_attempts=50
    )
    async with attach(stream, JsonlSink(path), policy=policy) as attachment:
        for number in range(20):
            await stream.publish(event(number))
        while not attachment.health()["jsonl"].retried:
            await asyncio.sleep(0.001)
        disk.room = 100_000
        assert await attachment.flush()
    assert numbers(path) == list(range(20))


@in_time
async def test_a_cancelled_write_is_completed(tmp_path, monkeypatch):
    path, begun, go = tmp_path / "a.jsonl", threading.Event(), threading.Event()
    write = jsonl_sink.write_all

    def slow(file: Any, data: bytes) -> None:
        begun.set()
        go.wait(DEADLINE)
        write(file, data)

    monkeypatch.setattr(jsonl_sink, "write_all", slow)
    sink = JsonlSink(path)
    await sink.open()
    sending = asyncio.create_task(sink.send([event(1)]))
    await asyncio.to_thread(begun.wait, 5)
    sending.cancel()
    await asyncio.sleep(0)
    go.set()
    await sending
    await sink.close()
    assert numbers(path) == [1]


@in_time
async def test_a_minus_is_the_standard_output(capfd):
    await written(Path("-"), [event(1)], data="payload", max_size=1)
    assert capfd.readouterr().out == '{"number":1}\n'
    os.write(1, b"")  # it is still open


@in_time
async def test_a_broken_pipe_is_permanent(monkeypatch):
    reading, writing = os.pipe()
    monkeypatch.setattr(jsonl_sink, "_STDOUT", writing)
    sink, gone = JsonlSink("-"), []
    sink.on_broken_pipe = lambda: gone.append(True)
    await sink.open()
    os.close(writing)
    os.close(reading)
    with pytest.raises(PermanentError, match="the reader of the standard output is gone"):
        await sink.send([event(1)])
    assert gone == [True]
    await sink.close()


@pytest.mark.parametrize(("options", "message"), [({"max_size": 0}, "max_size"), ({"keep": 0}, "keep")])
def test_numbers_out_of_range_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        JsonlSink("a", **options)
