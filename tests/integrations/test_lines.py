"""Lines: the same ones however their bytes come, within bounds of time and memory."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest
from codomyrmex.integrations.pipelines import Pipeline
from codomyrmex.integrations.service_mesh.lines import LineSplitter
from codomyrmex.integrations.service_mesh.tail import FileTail
from helpers import in_time
from hypothesis import given
from hypothesis import strategies as st

MIB = 1 << 20


@given(st.lists(st.binary(max_size=12)), st.lists(st.integers(1, 40), min_size=1), st.integers(0, 14))
def test_lines_are_the_same_however_the_bytes_come(lines, sizes, longest):
    data = b"\n".join(lines)
    splitter = LineSplitter(longest)
    found: list[bytes] = []
    start = 0
    while start < len(data):
        size = sizes[len(found) % len(sizes)]
        found += splitter.feed(data[start : start + size])
        start += size
    whole = data.split(b"\n")
    whole = whole if whole[-1] else whole[:-1]
    assert found + splitter.flush() == [line for line in whole if len(line) <= longest]
    assert splitter.too_long == sum(len(line) > longest for line in whole)


def holes(path: Path, size: int) -> Path:
    """Make a file that begins with zeros, as one that was truncated while its writer went on."""
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(0, 2)
        file.write(b"\nlast\n")
    return path


def test_a_line_of_zeros_takes_linear_time_and_bounded_memory(tmp_path):
    def seconds(size: int) -> float:
        tail = FileTail(holes(tmp_path / "a.log", size), position=None, from_start=True)
        began = time.thread_time()
        assert tail.lines() == [b"last"]
        assert tail.too_long == 1
        assert tail.position().offset == size + 6
        tail.close()
        return time.thread_time() - began

    tracemalloc.start()
    try:
        seconds(60 * MIB)
        assert tracemalloc.get_traced_memory()[1] < 40 * MIB
    finally:
        tracemalloc.stop()
    assert min(seconds(400 * MIB) for _ in range(3)) < 40 * min(seconds(40 * MIB) for _ in range(3))


def test_a_line_that_is_too_long_is_left_out_at_the_end_of_a_file_too(tmp_path):
    path = tmp_path / "a.log"
    path.write_bytes(b"one\n" + bytes(17 * MIB))
    tail = FileTail(path, position=None, from_start=True)
    assert tail.lines() == [b"one"]
    assert tail.lines() == []
    assert tail.unterminated_line() == b""
    assert tail.position().offset == path.stat().st_size
    path.rename(tmp_path / "a.log.1")
    path.write_bytes(b"two\n")
    assert tail.lines() == [b"two"]
    assert tail.too_long == 1
    tail.close()


@in_time
async def test_a_pipeline_counts_a_line_of_a_file_that_is_too_long(tmp_path):
    holes(tmp_path / "a.log", 17 * MIB)
    file = tmp_path / "p.yaml"
    file.write_text(
        "sources: [{type: file, path: a.log, follow: false}]\nsinks: [{type: jsonl, path: out}]", "utf-8"
    )
    report = await Pipeline.from_file(file).run()
    assert (report.received, report.skipped) == (1, {"file[0]: lines that are too long": 1})


@in_time
async def test_a_pipeline_ends_in_the_middle_of_a_file_without_line_breaks(tmp_path):
    with (tmp_path / "a.log").open("wb") as zeros:
        zeros.truncate(1 << 40)  # reading it would take minutes
    file = tmp_path / "p.yaml"
    file.write_text(
        "sources: [{type: file, path: a.log, follow: false, position: pos}]\n"
        "sinks: [{type: jsonl, path: out}]",
        "utf-8",
    )
    async with Pipeline.from_file(file) as pipeline:
        pass
    assert pipeline.report().received == 0
    assert not (tmp_path / "pos").exists()


@pytest.mark.parametrize("longest", [0, 3])
def test_a_line_of_the_maximum_is_one_and_a_longer_one_is_not(longest):
    splitter = LineSplitter(longest)
    assert splitter.feed(b"a" * longest + b"\n" + b"b" * (longest + 1) + b"\n") == [b"a" * longest]
    assert splitter.too_long == 1
