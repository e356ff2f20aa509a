"""Pipelines with bad input, files and streams that misbehave, and sinks that are down."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from codomyrmex.integrations.pipelines import (
    Pipeline,
    PipelineConfigError,
    PipelineReport,
    envoy_source,
    load_pipeline_config,
)
from codomyrmex.integrations.pipelines.line_sources import File, LineReader, Lines
from codomyrmex.integrations.pipelines.steps import Steps
from codomyrmex.streaming import Event, create_event
from codomyrmex.streaming.provenance import ORIGIN
from helpers import in_time
from hypothesis import given
from hypothesis import strategies as st

STDIN = "sources: [{type: stdin}]"
PAYLOADS = "sinks: [{type: jsonl, path: out, data: payload}]"
FILE = "sources: [{type: file, path: a.log, format: json, position: pos, follow: false}]"
DOWN = "sinks: [{type: jsonl, path: /dev/full, delivery: {max_attempts: ATTEMPTS, drain_timeout: 50ms}}]"


class Folder:
    """A folder with the files of a pipeline."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pipeline(self, text: str, **options: Any) -> Pipeline:
        (self.path / "p.yaml").write_text(text, encoding="utf-8")
        return Pipeline.from_file(self.path / "p.yaml", **options)

    async def run(self, text: str, stdin: bytes = b"", *, blocking: bool = True) -> PipelineReport:
        reading, writing = os.pipe()
        os.set_blocking(reading, blocking)
        with os.fdopen(reading, "rb") as pipe:
            run = asyncio.create_task(self.pipeline(text, stdin=pipe).run())
            with os.fdopen(writing, "wb") as other_end:
                await asyncio.to_thread(other_end.write, stdin)
            return await run

    def put(self, *payloads: Any) -> None:
        with (self.path / "a.log").open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(payload)}\n" for payload in payloads)

    def out(self) -> list[Any]:
        path = self.path / "out"
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0.002)


# Lines

BAD_LINES = [
    b'{"s":"caf\xe9"}',
    b"{",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"a":NaN}',
    b"\x00",
    b'{"a":1}{"a":2}',
    b"\xef\xbb\xbf" * 10_000,
    b"9" * 100_000,
    b'"\\ud800"',
]


@pytest.mark.parametrize("form", ["json", "event", "text"])
def test_one_bad_line_never_ends_a_stream(form, caplog):
    reader = LineReader(Lines(format=form))
    good = {"json": b"1", "event": b'{"data": 1}', "text": b"1"}[form]
    events = reader.read([line for bad in BAD_LINES for line in (bad, good)])
    wanted = {"line": "1"} if form == "text" else 1
    assert sum(event.data == wanted for event in events) == len(BAD_LINES)
    assert len(events) + reader.invalid == 2 * len(BAD_LINES)
    assert reader.invalid >= (0 if form == "text" else 8)


@given(st.lists(st.binary(max_size=40)), st.sampled_from(["json", "event", "text"]))
def test_any_bytes_are_lines(lines, form):
    reader = LineReader(Lines(format=form))
    assert len(reader.read(lines)) + reader.invalid <= len(lines)


@in_time
async def test_a_bad_line_costs_only_itself_at_any_depth_of_nesting(folder):
    deep = [b"[" * depth + b"]" * depth for depth in (100, 500, 900, 2_000)]
    report = await folder.run(
        f"{STDIN}\nsinks: [{{type: jsonl, path: out, data: payload}}, {{type: structlog, output: stderr}}]",
        b"\n".join([b'{"n":1}', b'{"s":"caf\xe9"}', *deep, b'{"n":3}']),
    )
    lines = (folder.path / "out").read_bytes().splitlines()
    assert (lines[0], lines[-1]) == (b'{"n":1}', b'{"n":3}')
    assert report.received + report.skipped.total() == 7
    assert report.delivery.sinks["jsonl[0]"].delivered == report.published
    assert report.delivery.sinks["structlog[1]"].delivered == report.published


def test_a_line_never_depends_on_the_line_before_it():
    reader = LineReader(Lines())
    assert [event.data for event in reader.read([b'{"n":1,"m":', b'{"n":2}', b"}"])] == [{"n": 2}]
    assert reader.invalid == 2


@pytest.mark.parametrize(
    ("form", "line", "data"),
    [
        ("json", b'{"n":1}', {"n": 1}),
        ("event", b'{"data":{"n":1}}', {"n": 1}),
        ("text", b"a line\r", {"line": "a line"}),
    ],
)
def test_a_byte_order_mark_is_not_part_of_a_line(form, line, data):
    reader = LineReader(Lines(format=form))
    assert [event.data for event in reader.read([b"\xef\xbb\xbf" + line, line])] == [data, data]
    assert reader.invalid == 0


def test_the_first_invalid_lines_are_shown_with_place_and_reason_but_without_secrets(caplog):
    reader = LineReader(Lines(), "stdin[0]")
    reader.read([b"1", b"password=hunter2 \x1b[31m"])
    reader.read([b"x" * 1_000] * 5)
    first, second, *others = caplog.messages
    assert first.startswith("source stdin[0], line 2: skipped, DecodeError: JSON is malformed: ")
    assert first.endswith(r"password=[redacted] \x1b[31m")
    assert second.endswith(f"{'x' * 97}...")
    assert others[1:] == ["source stdin[0]: more lines are invalid; they are only counted"]
    assert reader.invalid == 6


# Events of other programs


@in_time
async def test_whole_events_from_a_file_are_cleaned(folder):
    line = json.dumps(
        {"id": " a", "metadata": {ORIGIN: "logs"}, "timestamp": "9999-12-31T23:59:59.999999+00:00"}
    )
    await folder.run(
        f"sources: [{{type: stdin, format: event}}]\n{PAYLOADS.replace('payload', 'event')}", line.encode()
    )
    [event] = folder.out()
    assert event["metadata"]["topic"] == "stdin"
    assert set(event["metadata"]) == {"topic", "original_id", "original_timestamp"}
    assert event["id"].strip() == event["id"]


# Positions


@pytest.mark.parametrize("attempts", [1, 1_000])
@in_time
async def test_a_position_is_not_saved_while_the_sink_is_down(folder, attempts):
    folder.put(1, 2)
    report = await folder.run(f"{FILE}\n{DOWN.replace('ATTEMPTS', str(attempts))}")
    assert not report.complete
    assert not (folder.path / "pos").exists()
    assert (await folder.run(f"{FILE}\n{PAYLOADS}")).complete
    assert (await folder.run(f"{FILE}\n{PAYLOADS}")).received == 0
    assert folder.out() == [1, 2]


@in_time
async def test_a_position_is_saved_while_the_pipeline_runs(folder):
    folder.put(1)
    async with folder.pipeline(f"{FILE.replace('follow: false', 'interval: 5ms')}\n{PAYLOADS}") as pipeline:
        await until((folder.path / "pos").exists)
        assert folder.out() == [1]
        folder.put(2)
        await until(lambda: pipeline.report().delivery.sinks["jsonl[0]"].delivered == 2)


@in_time
async def test_a_position_that_cannot_be_saved_is_reported_and_the_source_continues(folder, caplog):
    folder.put(1)
    text = f"{FILE.replace('position: pos', 'position: sub/pos')}\n{PAYLOADS}"
    (folder.path / "sub").mkdir()
    pipeline = folder.pipeline(text.replace("follow: false", "interval: 5ms"))
    async with pipeline:
        (folder.path / "sub").rmdir()
        await until(lambda: "the position cannot be saved: FileNotFoundError" in caplog.text)
        folder.put(2)
        await until(lambda: pipeline.received == 2)
    assert folder.out() == [1, 2]


@in_time
async def test_a_source_that_is_replaced_while_the_sink_is_down_repeats_rather_than_loses(
    folder, monkeypatch
):
    monkeypatch.setattr("codomyrmex.integrations.pipelines.pipeline._PUSH_TIMEOUT", 0.05)
    folder.put(1)
    text = f"{FILE.replace('follow: false', 'interval: 5ms')}\n{DOWN.replace('ATTEMPTS', '1000')}"
    async with folder.pipeline(text) as pipeline:
        await until(lambda: pipeline.received == 1)
        await until(lambda: pipeline.health().sinks["jsonl[0]"].state != "ok")
        folder.pipeline(text.replace("5ms", "6ms"))
        await pipeline.reload()
        await until(lambda: pipeline.received == 2)
    assert not (folder.path / "pos").exists()


# Files and descriptors


@in_time
async def test_a_named_pipe_is_one_sentence(folder):
    os.mkfifo(folder.path / "a.log")
    with pytest.raises(OSError, match=r"a\.log: is not a regular file; read a pipe or a device with"):
        await folder.run(f"{FILE}\n{PAYLOADS}")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a.log", "sinks[0].path: must not be the file of file[0], path"),
        ("./sub/../a.log", "sinks[0].path: must not be the file of file[0], path"),
        ("link", "sinks[0].path: must not be the file of file[0], path"),
        ("pos", "sinks[0].path: must not be the file of file[0], position"),
        ("p.yaml", "sinks[0].path: must not be this file"),
    ],
)
def test_a_sink_cannot_write_what_another_part_reads(folder, path, message):
    (folder.path / "sub").mkdir()
    (folder.path / "link").symlink_to(folder.path / "a.log")
    with pytest.raises(PipelineConfigError) as caught:
        folder.pipeline(f"{FILE}\nsinks: [{{type: jsonl, path: '{path}'}}]")
    assert message in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_a_source_cannot_read_what_a_sink_serves(folder, host):
    source = f"sources: [{{type: sse, url: 'http://{host}:8123/?topic=a'}}]"
    with pytest.raises(PipelineConfigError, match=r"sources\[0\]\.url: must not be the address of sse\[0\]"):
        folder.pipeline(f"{source}\nsinks: [{{type: sse, listen: '8123'}}]")
    folder.pipeline(f"{source}\nsinks: [{{type: sse, listen: '8124'}}]")


def test_two_sources_cannot_save_their_positions_in_the_same_file(folder):
    second = "{type: envoy_outlier_log, path: b.log, position: pos}]"
    with pytest.raises(PipelineConfigError, match=r"must not be the file of file\[0\], position"):
        folder.pipeline(f"{FILE.replace(']', ',')} {second}\n{PAYLOADS}")


def test_sinks_may_share_a_file_or_a_device(folder):
    sinks = "sinks: [{type: jsonl, path: F, name: a}, {type: jsonl, path: F, name: b}]"
    for file in ("both", "/dev/null"):
        folder.pipeline(f"{FILE}\n{sinks.replace('F', file)}")


@in_time
async def test_a_non_blocking_standard_input_is_waited_for(folder):
    report = await folder.run(f"{STDIN}\n{PAYLOADS}", b"1\n" * 5_000, blocking=False)
    assert report.received == len(folder.out()) == 5_000
    assert report.complete


def test_a_closed_standard_output_is_a_problem(folder, monkeypatch):
    monkeypatch.setattr(sys, "__stdout__", None)
    for sink in ("{type: jsonl, path: '-'}", "{type: structlog, output: stdout}"):
        with pytest.raises(PipelineConfigError, match="the standard output is closed"):
            folder.pipeline(f"{STDIN}\nsinks: [{sink}]")


# Conditions and templates


EVENTS = [create_event({"n": value}) for value in (0, 499.9, 500, "501", True, None, "x", [1], "nan")]


@pytest.mark.parametrize(
    ("condition", "passing"),
    [
        ("data.n>=500", [500, "501"]),
        ("data.n >= 500 ", [500, "501"]),
        ("data.n<500", [0, 499.9]),
        ("data.n <= 0", [0]),
        ("data.n > 4.999e2", [500, "501"]),
        ('data.n>=500, data.n!="501"', [500]),
        ('data.n!="501",data.n>=500', [500]),
        ('data.n=~"a,b>=5|501", data.n > 0', ["501"]),
        ("other > -1", []),
    ],
)
@in_time
async def test_numbers_are_compared(folder, condition, passing):
    lines = "".join(f"{json.dumps(event.data)}\n" for event in EVENTS)
    steps = f"processors: [{{type: filter, matchers: ['{condition}']}}]"
    await folder.run(f"{STDIN}\n{steps}\n{PAYLOADS}", lines.encode())
    assert [payload["n"] for payload in folder.out()] == passing


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("data.n>=many", "data.n: >= compares with a number, got 'many'"),
        ("data.n>", "data.n: > compares with a number, got ''"),
        ('a="b", =c, n>1', "expected"),
    ],
)
def test_what_is_not_a_comparison_is_a_problem(folder, condition, message):
    for part in (
        f"{STDIN}\nprocessors: [{{type: filter, matchers: ['{condition}']}}]\n{PAYLOADS}",
        f"{STDIN}\n{PAYLOADS.replace('}', f', where: [{chr(39)}{condition}{chr(39)}]' + '}')}",
    ):
        with pytest.raises(PipelineConfigError, match=message):
            folder.pipeline(part)


@pytest.mark.parametrize("text", ["value>=5", "value<=5", "a=b, value>=5", "value>5"])
def test_a_comparison_is_an_error_where_labels_are_matched(text):
    from codomyrmex.integrations.notification import MatcherError, parse_matchers

    with pytest.raises(MatcherError):
        parse_matchers(text)
    assert str(parse_matchers('{"value>"="5"}')[0]) == '"value>"="5"'


@in_time
async def test_braces_in_the_value_of_a_variable_are_filled_in_once(folder):
    (folder.path / "p.yaml").write_text(
        f"{STDIN}\nprocessors: [{{type: set, metadata: {{who: '${{WHO}} {{data.x}} {{{{x}}}}'}}}}]\n"
        f"{PAYLOADS.replace('payload', 'event')}",
        encoding="utf-8",
    )
    reading, writing = os.pipe()
    os.write(writing, b'{"x": "{data}"}\n')
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        config = load_pipeline_config(folder.path / "p.yaml", environ={"WHO": "a {x} b"})
        await Pipeline(config, stdin=pipe).run()
    assert folder.out()[0]["metadata"]["who"] == "a {x} b {data} {x}"


def test_a_source_of_lines_lists_its_files():
    from codomyrmex.integrations.pipelines.parts import Context

    context = Context(Path("/x"))
    files: Sequence[Any] = [*File(path="a").reads(context), *File(path="a", position="b").writes(context)]
    assert files == [("path", Path("/x/a")), ("position", Path("/x/b"))]


def test_an_event_that_cannot_be_published_costs_only_itself():
    published: list[Event] = []

    def publish(event: Event) -> None:
        if event.data == "bad":
            raise ValueError("password=hunter2")
        published.append(event)

    steps = Steps(publish)
    for data in (1, "bad", 2):
        assert steps.apply(create_event(data)) is None
    assert [event.data for event in published] == [1, 2]
    assert (steps.published, steps.failed) == (2, {"publish": 1})


@in_time
async def test_a_host_that_envoy_has_ejected_is_repeated_while_nothing_says_that_it_is_back(
    folder, monkeypatch
):
    monkeypatch.setattr(envoy_source, "REPEAT_INTERVAL", 0.01)
    line = {"cluster_name": "c", "upstream_url": "10.0.0.1:80", "action": "EJECT", "enforced": True}
    folder.put({**line, "timestamp": f"{datetime.now(UTC).isoformat()}"})
    source = "sources: [{type: envoy_outlier_log, path: a.log, from_start: true}]"
    sink = "sinks: [{type: jsonl, path: out, data: payload, delivery: {batch_age: 1ms}}]"
    async with folder.pipeline(f"{source}\n{sink}"):
        await until(lambda: len(folder.out()) > 2)
        folder.put({**line, "action": "UNEJECT", "timestamp": f"{datetime.now(UTC).isoformat()}"})
        await until(lambda: folder.out()[-1]["kind"] == "state_change")
    first, *repeated, last = folder.out()
    assert (first["to_state"], last["to_state"]) == ("ejected", "closed")
    assert {event["kind"] for event in repeated} == {"snapshot"}
