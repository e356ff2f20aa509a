"""Pipelines: each source, step and sink, with real files and sockets; reload; the report."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import httpx
import pytest
from codomyrmex.integrations.configuration.problems import ProblemList
from codomyrmex.integrations.configuration.reading import Reader
from codomyrmex.integrations.pipelines import (
    Pipeline,
    PipelineConfig,
    PipelineConfigError,
    PipelineReport,
    load_pipeline_config,
    stdin,
    steps,
)
from codomyrmex.integrations.pipelines.config import STEPS
from codomyrmex.integrations.pipelines.line_sources import LineReader, Lines
from codomyrmex.integrations.pipelines.parts import Context
from codomyrmex.integrations.service_mesh.lines import LineSplitter
from codomyrmex.integrations.web import event_stream
from codomyrmex.integrations.web.serve import serving
from codomyrmex.streaming import Event, EventType, InMemoryStream, create_event
from helpers import in_time

SOURCE = "sources: [{type: file, path: in.log, format: json, from_start: true, interval: 10ms}]"
SINK = "sinks: [{type: jsonl, path: out.jsonl, delivery: {batch_age: 1ms}}]"


class Folder:
    """A folder with the files of a pipeline, and what has come out of it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def config(self, text: str) -> PipelineConfig:
        (self.path / "p.yaml").write_text(textwrap.dedent(text), encoding="utf-8")
        return load_pipeline_config(self.path / "p.yaml")

    def append(self, text: str, name: str = "in.log") -> None:
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(text)

    def put(self, *payloads: Any, name: str = "in.log") -> None:
        self.append("".join(f"{json.dumps(payload)}\n" for payload in payloads), name)

    def events(self, name: str = "out.jsonl") -> list[dict[str, Any]]:
        with suppress(FileNotFoundError):
            return [json.loads(line) for line in (self.path / name).read_text("utf-8").splitlines()]
        return []

    def data(self, name: str = "out.jsonl") -> list[Any]:
        return [event["data"] for event in self.events(name)]

    @asynccontextmanager
    async def running(self, text: str) -> AsyncIterator[Pipeline]:
        async with Pipeline(self.config(text)) as pipeline:
            yield pipeline
        adds_up(pipeline.report())

    @asynccontextmanager
    async def reading_stdin(self, text: str) -> AsyncIterator[tuple[Pipeline, BinaryIO]]:
        """Start a pipeline; yield it and the other end of its standard input."""
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "wb", buffering=0) as other_end:
            yield await Pipeline(self.config(text), stdin=pipe).start(), other_end

    async def run(self, text: str, stdin: bytes = b"") -> PipelineReport:
        """Run a pipeline whose sources end by themselves."""
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as pipe:
            pipeline = Pipeline(self.config(text), stdin=pipe)
            writes = asyncio.to_thread(write_and_close, writing, stdin)
            report, _ = await asyncio.gather(pipeline.run(), writes)
        return adds_up(report)


def write_and_close(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as pipe:
        pipe.write(data)


def adds_up(report: PipelineReport) -> PipelineReport:
    dropped = report.filtered.total() + report.failed.total() + report.lost
    assert report.received + report.added == dropped + report.published
    return report


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0.002)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


# Sources


@in_time
async def test_lines_of_the_standard_input_are_payloads(folder):
    report = await folder.run(
        f"sources: [{{type: stdin, topic: in, metadata: {{host: web-1}}}}]\n{SINK}",
        b'{"a": 1}\nnonsense\n\n"text"\r\n[2]',
    )
    assert folder.data() == [{"a": 1}, "text", [2]]
    assert {str(event["metadata"]) for event in folder.events()} == {"{'topic': 'in', 'host': 'web-1'}"}
    assert report.complete
    assert (report.received, report.skipped) == (3, {"stdin[0]: invalid lines": 1})


@in_time
async def test_whole_events_keep_what_they_bring(folder):
    event = create_event({"a": 1}, EventType.ERROR, topic="own", trace="t")
    text = json.dumps(event.to_dict())
    report = await folder.run(
        f"sources: [{{type: stdin, format: event, topic: other, metadata: {{host: a}}}}]\n{SINK}",
        f'{text}\n{{"data": 2}}\n{{"type": "wrong"}}\n[]\n'.encode(),
    )
    first, second = folder.events()
    assert Event.from_dict(first) == event.replace(metadata={"topic": "own", "host": "a", "trace": "t"})
    assert (second["data"], second["metadata"]) == (2, {"topic": "other", "host": "a"})
    assert report.skipped == {"stdin[0]: invalid lines": 2}


@pytest.mark.parametrize(("unmatched", "others"), [("drop", []), ("keep", ["nothing", "caf\ufffd"])])
@in_time
async def test_text_becomes_fields_by_a_pattern(folder, unmatched, others):
    report = await folder.run(
        f"""
        sources: [{{type: stdin, format: text, unmatched: {unmatched}, pattern: '(?P<who>[^ ]+) (?P<n>.) '}}]
        {SINK}
        """,
        "by zoë 7 more\r\nnothing\n\n".encode() + b"caf\xe9\n",
    )
    assert folder.data() == [
        {"line": "by zoë 7 more", "who": "zoë", "n": "7"},
        *({"line": line} for line in others),
    ]
    assert report.complete
    assert report.skipped.total() == 2 - len(others)


@in_time
async def test_an_input_that_ends_at_once_is_nothing(folder):
    report = await folder.run(f"sources: [{{type: stdin}}]\n{SINK}", b"")
    assert (report.received, report.complete, folder.events()) == (0, True, [])


@in_time
async def test_a_line_of_megabytes_is_an_event_and_one_without_an_end_is_not(folder, monkeypatch):
    monkeypatch.setattr(stdin, "LineSplitter", lambda: LineSplitter(3_000_000))
    large = {"text": "x" * 2_000_000}
    data = json.dumps(large).encode() + b"\n" + b"y" * 4_000_000 + b'\n{"a": 1}\n' + b"z" * 4_000_000
    report = await folder.run(f"sources: [{{type: stdin}}]\n{SINK}", data)
    assert folder.data() == [large, {"a": 1}]
    assert report.skipped == {"stdin[0]: lines that are too long": 2}


def test_a_bad_line_does_not_affect_others():
    reader = LineReader(Lines(format="json"))
    events = reader.read([b"1", b"{", b"\xff", b"[" * 100_000, b'{"a":NaN}', b" ", b"2"])
    assert [event.data for event in events] == [1, 2]
    assert reader.invalid == 4


@in_time
async def test_a_closed_standard_input_is_one_sentence(folder):
    with (folder.path / "x").open("wb+") as file:
        pipeline = Pipeline(folder.config(f"sources: [{{type: stdin}}]\n{SINK}"), stdin=file)
    with pytest.raises(OSError, match=r"^the standard input is closed$"):
        await pipeline.start()


@in_time
async def test_a_file_is_read_to_its_end_where_it_is_not_followed(folder):
    folder.append('{"a": 1}\n{"a": 2}')
    report = await folder.run(SOURCE.replace("from_start: true", "follow: false") + f"\n{SINK}")
    assert folder.data() == [{"a": 1}, {"a": 2}]
    assert report.complete


@in_time
async def test_a_position_is_gone_on_from_and_kept_at_the_end_of_a_file(folder):
    text = SOURCE.replace("from_start: true", "follow: false, position: in.pos") + f"\n{SINK}"
    folder.append('{"a": 1}\n{"a": 2}')
    await folder.run(text)
    folder.append('\n{"a": 3}\n')
    assert (await folder.run(text)).received == 1
    assert (await folder.run(text)).received == 0
    assert folder.data() == [{"a": 1}, {"a": 2}, {"a": 3}]


@in_time
async def test_a_file_is_followed_over_rotation_and_restarts(folder):
    text = SOURCE.replace("from_start: true", "position: in.pos") + f"\n{SINK}"
    folder.put(1)
    async with folder.running(text):
        await until(lambda: folder.data() == [1])
        folder.put(2)
        (folder.path / "in.log").rename(folder.path / "in.log.1")
        folder.put(3)
        await until(lambda: folder.data() == [1, 2, 3])
    folder.put(4)
    async with folder.running(text):
        folder.put(5)
        await until(lambda: folder.data() == [1, 2, 3, 4, 5])


@in_time
async def test_a_file_that_comes_later_is_read_from_its_beginning(folder, caplog):
    async with folder.running(SOURCE.replace("from_start: true, ", "") + f"\n{SINK}"):
        assert "in.log, which does not exist" in caplog.text
        folder.put(1)
        await until(lambda: folder.data() == [1])


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("{type: file, path: none.log, follow: false}", FileNotFoundError, "none.log"),
        ("{type: file, path: p.yaml/a}", NotADirectoryError, "Not a directory"),
        (
            "{type: file, path: a.log, position: none/a.pos}",
            FileNotFoundError,
            "the folder .*none of the position does not exist",
        ),
        ("{type: envoy_outlier_log, path: p.yaml/a}", NotADirectoryError, "Not a directory"),
    ],
)
@in_time
async def test_a_part_that_cannot_be_opened_fails_the_start(folder, source, error, message):
    pipeline = Pipeline(folder.config(f"sources: [{source}]\n{SINK}"))
    with pytest.raises(error, match=message):
        await pipeline.start()
    assert pipeline.report().received == 0


@in_time
async def test_no_source_begins_before_all_could_be_opened(folder):
    folder.put(1)
    both = SOURCE.replace("}]", "}, {type: file, path: none.log, follow: false}]")
    with pytest.raises(FileNotFoundError):
        await Pipeline(folder.config(f"{both}\n{SINK}")).start()
    assert folder.events() == []


@in_time
async def test_a_post_is_answered_when_its_events_have_gone_to_the_sinks(folder):
    text = f"""
        sources: [{{type: http, listen: '127.0.0.1:0', token: t0ps3cr3t, topic: posted, metadata: {{a: 1}}}}]
        {SINK}
        """
    async with folder.running(text) as pipeline, httpx.AsyncClient() as client:
        url = pipeline.urls()["http[0]"]
        assert (await client.post(url, json={"data": 1})).status_code == 401
        bearer = {"Authorization": "Bearer t0ps3cr3t"}
        answer = await client.post(url, headers=bearer, json=[{"data": 1}, {"metadata": {"topic": "own"}}])
        assert answer.status_code == 202
        assert pipeline.received == 2
        await until(lambda: len(folder.events()) == 2)
    assert [event["metadata"] for event in folder.events()] == [
        {"topic": "posted", "a": 1},
        {"topic": "own", "a": 1},
    ]


@in_time
async def test_an_address_in_use_is_one_sentence(folder):
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        for text in (
            f"sources: [{{type: http, listen: '{port}'}}]\n{SINK}",
            f"{SOURCE}\nsinks: [{{type: sse, listen: '{port}'}}]",
        ):
            with pytest.raises(
                OSError, match=rf"^cannot listen on 127\.0\.0\.1:{port}: Address already in use"
            ):
                await Pipeline(folder.config(text)).start()


@in_time
async def test_events_of_another_server_are_read_across_its_restart(folder):
    stream, port = InMemoryStream(), 0
    for round_number in range(2):
        app = event_stream(stream, signals=False, reconnect_within=0)
        async with serving(app, port=port) as url:
            if not port:
                port = int(url.rstrip("/").rpartition(":")[2])
                source = f"{{type: sse, url: '{url}', topic: 'a.*', metadata: {{from: A}}}}"
                pipeline = await Pipeline(folder.config(f"sources: [{source}]\n{SINK}")).start()
            await until(lambda app=app: app.clients)
            await stream.publish(create_event(round_number, topic="a.b"))
            await stream.publish(create_event("no", topic="c"))
            await until(lambda number=round_number: folder.data() == list(range(number + 1)))
    adds_up(await pipeline.aclose())
    assert folder.events()[0]["metadata"] == {"from": "A", "topic": "a.b"}
    assert pipeline.report().source_errors == {}


@in_time
async def test_a_server_that_refuses_ends_its_source_and_the_run_is_not_complete(folder):
    app = event_stream(InMemoryStream(), signals=False)
    async with serving(app, port=0, token="right") as url:
        report = await folder.run(f"sources: [{{type: sse, url: '{url}', token: wrong-t0ps3cr3t}}]\n{SINK}")
    assert not report.complete
    assert report.source_errors["sse[0]"].startswith("RefusedError: the server answered 401: ")
    assert "t0ps3cr3t" not in str(report)


@in_time
async def test_a_host_that_envoy_ejects_is_an_event(folder):
    line = {
        "type": "CONSECUTIVE_5XX", "cluster_name": "c", "upstream_url": "10.0.0.1:80", "action": "EJECT",
        "num_ejections": 1, "enforced": True, "timestamp": "2026-11-25T10:00:00Z",
    }  # fmt: skip
    folder.put(line, name="envoy.log")
    text = (
        f"sources: [{{type: envoy_outlier_log, path: envoy.log, from_start: true, position: e.pos}}]\n{SINK}"
    )
    async with folder.running(text) as pipeline:
        await until(lambda: len(folder.events()) == 1)
        folder.append("nonsense\n", "envoy.log")
        await until(lambda: pipeline.report().skipped)
    assert folder.events()[0]["metadata"]["topic"].startswith("circuit_breaker.envoy")
    assert pipeline.report().skipped == {"envoy_outlier_log[0]: invalid lines": 1}


# Steps


def step(type: str, **settings: Any) -> Callable[[Event], Any]:
    problems = ProblemList(None, {})
    config = Reader(problems, problems, {}).struct(settings, STEPS[type])
    assert problems.found == []
    return config.build(type, Context(Path(__file__).parent))


def passing(step_: Callable[[Event], Any], events: Iterable[Event]) -> list[Event]:
    return [event for event in events if step_(event) is not None]


EVENT = create_event(
    {"status": 503, "user": {"name": "ada"}, "ok": True, "none": None},
    topic="web.errors",
    host="web-1",
    labels={"severity": "critical", "host": "label"},
)


@pytest.mark.parametrize(
    ("matcher", "holds"),
    [
        ('data.status="503"', True),
        ('data.status=~"5.."', True),
        ('data.status!~"5.."', False),
        ('data.user.name="ada"', True),
        ('data.user.name.first=""', True),
        ('data.ok="true"', True),
        ('data.none=""', True),
        ('data.missing!=""', False),
        ('severity="critical"', True),
        ('host="label"', True),  # labels go before metadata
        ('metadata.host="web-1"', True),
        ('labels.severity="critical"', True),
        ('topic="web.errors"', True),
        ('type="message"', True),
        ('data.status=~"5..", host="other"', False),
    ],
)
def test_a_filter_sees_data_metadata_and_labels(matcher, holds):
    assert bool(passing(step("filter", matchers=[matcher]), [EVENT])) is holds


def test_a_filter_goes_by_the_pattern_of_a_topic():
    assert passing(step("filter", topic="web.*"), [EVENT, create_event(1)]) == [EVENT]
    assert passing(step("filter", topic="web.*", matchers=['data.status="1"']), [EVENT]) == []
    assert passing(step("filter", matchers=['data.status=""']), [create_event("text")]) != []


def test_secrets_are_redacted_the_usual_ones_and_those_that_are_named():
    event = create_event({"password": "x", "pin": "1", "note": "card 4711", "name": "ada"})
    redacted = step("redact", keys=["pin"], patterns=[r"card \d+"])(event)
    assert redacted.data == {
        "password": "[redacted]", "pin": "[redacted]", "note": "[redacted]", "name": "ada",
    }  # fmt: skip


def test_metadata_are_set_from_values_of_the_event():
    event = step(
        "set",
        metadata={
            "topic": "web.{data.status}",
            "labels": {"alertname": "X", "who": "{data.user.name} of {host}", "at": [1, "{data.missing}"]},
            "status": "{data.status}",
            "number": 3,
        },
        error=True,
    )(EVENT)
    assert event.metadata == {
        "topic": "web.503",
        "host": "web-1",
        "labels": {"alertname": "X", "who": "ada of label", "at": [1, None]},
        "status": 503,
        "number": 3,
    }
    assert event.type is EventType.ERROR
    assert EVENT.topic == "web.errors"
    assert step("set", error=False)(event).type is EventType.MESSAGE


def test_a_sample_by_key_keeps_all_or_none_of_each_key():
    events = [create_event({"trace": n % 500}) for n in range(1_000)]
    passed = passing(step("sample", share=0.3, by="data.trace"), events)
    assert 200 < len(passed) < 400
    kept = {event.data["trace"] for event in passed}
    assert len(passed) == 2 * len(kept)
    assert passing(step("sample", share=0), events) == []
    assert passing(step("sample", share=1), events) == events
    assert passing(step("sample", share=1, by="id"), events) == events


def test_a_rate_limit_counts_each_key_by_itself(monkeypatch):
    now = [1_000.0]
    monkeypatch.setattr(steps.time, "monotonic", lambda: now[0])
    limit = step("rate_limit", rate="2/1s", by="data.user")
    of_a, of_b = [create_event({"user": "a"})] * 3, [create_event({"user": "b"})] * 3
    assert len(passing(limit, of_a)) == 2
    assert len(passing(limit, of_b)) == 2
    now[0] += 0.5
    assert len(passing(limit, of_a)) == 1
    everything = step("rate_limit", rate="2/1s")
    assert len(passing(everything, of_a + of_b)) == 2


def test_a_rate_limit_forgets_keys_so_that_they_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(steps, "_MAX_BUCKETS", 2)
    limit = step("rate_limit", rate="1/1h", by="data")
    keys = [create_event(key) for key in "abcabc"]
    assert len(passing(limit, keys)) == 6
    assert len(passing(limit, [keys[2], keys[1]])) == 0


FUNCTIONS = """
from codomyrmex.streaming import create_event

async def later(event):
    return event.replace(data=[event.data])

def twice(event):
    return [event, event.replace(data="again")]

def some(event):
    return event if event.data % 2 else ()

def fails(event):
    if event.data == 2:
        raise ValueError("password=hunter22")
    return event

def wrong(event):
    return "text"

class Methods:
    @staticmethod
    def step(event):
        return event
"""


@pytest.mark.parametrize(
    ("function", "data", "counts"),
    [
        ("later", [[1], [2], [3]], (0, 0, 0)),
        ("twice", [1, "again", 2, "again", 3, "again"], (3, 0, 0)),
        ("some", [1, 3], (0, 1, 0)),
        ("fails", [1, 3], (0, 0, 1)),
        ("wrong", [], (0, 0, 3)),
        ("Methods.step", [1, 2, 3], (0, 0, 0)),
    ],
)
@in_time
async def test_a_python_function_returns_an_event_several_or_none(folder, caplog, function, data, counts):
    folder.append(FUNCTIONS, "steps_of_pipelines.py")
    report = await folder.run(
        f"""
        sources: [{{type: stdin}}]
        processors: [{{type: python, function: 'steps_of_pipelines:{function}'}}]
        {SINK}
        """,
        b"1\n2\n3\n",
    )
    assert folder.data() == data
    assert (report.added, report.filtered.total(), report.failed.total()) == counts
    assert report.complete is (counts[2] == 0)
    assert "hunter22" not in caplog.text


# Sinks


@in_time
async def test_a_sink_gets_what_has_its_topic_and_meets_its_conditions(folder):
    await folder.run(
        """
        sources: [{type: stdin}]
        processors: [{type: set, metadata: {topic: "n.{data.n}"}}]
        sinks:
          - {type: jsonl, path: one.jsonl, topic: n.1}
          - {type: jsonl, path: where.jsonl, where: ['data.n=~"1|2"', 'data.ok="true"']}
          - {type: jsonl, path: all.jsonl, data: payload, max_size: 40}
        """,
        b'{"n": 1, "ok": true}\n{"n": 2}\n{"n": 3, "ok": true}\n',
    )
    assert folder.data("one.jsonl") == folder.data("where.jsonl") == [{"n": 1, "ok": True}]
    assert folder.events("all.jsonl") == [{"n": 1, "ok": True}, {"n": 2}, {"n": 3, "ok": True}]


@pytest.mark.parametrize("form", ["json", "console"])
@in_time
async def test_log_lines_are_written_to_stdout_in_the_format_that_is_set(folder, capfd, form):
    await folder.run(
        f"sources: [{{type: stdin}}]\nsinks: [{{type: structlog, format: {form}, output: stdout}}]",
        b'{"a": 1}\n',
    )
    out = capfd.readouterr().out
    assert out.count("\n") == 1
    if form == "json":
        assert json.loads(out)["data"] == {"a": 1}
    else:
        assert "{'a': 1}" in out


@in_time
async def test_alerts_are_routed_to_receivers(folder):
    got: list[Any] = []

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        got.append(json.loads(await reader.readexactly(length)))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(receive, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        folder.append(
            f"route: {{receiver: a, group_wait: 0s}}\n"
            f"receivers: [{{name: a, apprise_configs: [{{url: 'json://127.0.0.1:{port}/'}}]}}]\n",
            "alerts.yaml",
        )
        await folder.run(
            """
            sources: [{type: stdin}]
            processors: [{type: set, error: true, metadata: {labels: {alertname: "{data}"}}}]
            sinks: [{type: alerts, config: alerts.yaml}]
            """,
            b'"Down"\n',
        )
        await until(lambda: got)
    assert "Down" in got[0]["title"] + got[0]["message"]


@in_time
async def test_every_server_of_a_pipeline_serves_health_and_metrics(folder):
    text = """
        sources: [{type: http, listen: '127.0.0.1:0'}]
        sinks:
          - {type: dashboard, listen: '127.0.0.1:0', token: t0ps3cr3t}
          - {type: sse, listen: '127.0.0.1:0'}
          - {type: jsonl, path: out.jsonl, name: file}
        """
    async with folder.running(text) as pipeline, httpx.AsyncClient() as client:
        urls = pipeline.urls()
        assert len(urls) == 3
        assert (await client.post(urls["http[0]"], json={"data": 1})).status_code == 202
        await until(lambda: pipeline.health().sinks["file"].delivered)
        for url in urls.values():
            assert (await client.get(f"{url}livez")).json() == {"status": "live"}
            assert (await client.get(f"{url}readyz")).json() == {"status": "ready"}
            bearer = {"authorization": "Bearer t0ps3cr3t"}
            metrics = (await client.get(f"{url}metrics", headers=bearer)).text
            assert 'codomyrmex_sink_delivered_events_total{sink="file"} 1.0' in metrics
            assert "codomyrmex_stream_published_events_total 1.0" in metrics
        assert (await client.get(f"{urls['dashboard[0]']}metrics")).status_code == 401


@in_time
async def test_a_page_shows_the_alerts_of_a_sink_below_it_and_of_its_replacement(folder):
    folder.append("route: {receiver: a}\nreceivers: [{name: a}]\n", "alerts.yaml")
    text = f"""
        {SOURCE}
        processors: [{{type: set, error: true, metadata: {{labels: {{alertname: "{{data}}"}}}}}}]
        sinks:
          - {{type: dashboard, listen: '127.0.0.1:0', name: page}}
          - {{type: alerts, config: alerts.yaml, name: routes}}
          - {{type: sse, listen: '127.0.0.1:0', name: stream, data: payload}}
        """
    async with folder.running(text) as pipeline, httpx.AsyncClient() as client:

        async def shown_alerts() -> list[str]:
            state = (await client.get(f"{pipeline.urls()['page']}api/state")).json()
            groups = state["alerts"]["groups"]
            return [alert["labels"]["alertname"] for group in groups for alert in group["alerts"]]

        assert "text/html" in (await client.get(pipeline.urls()["page"])).headers["content-type"]
        assert await shown_alerts() == []
        await pipeline.reload(folder.config(textwrap.dedent(text).replace("name: routes", "name: others")))
        folder.put("down")
        while await shown_alerts() != ["down"]:
            await asyncio.sleep(0.005)
        headers = {"Accept": "text/event-stream"}
        async with client.stream("GET", pipeline.urls()["stream"], headers=headers) as answer:
            folder.put({"a": 1})
            async for line in answer.aiter_lines():
                if line == 'data: {"a":1}':
                    break


@in_time
async def test_without_a_collector_opentelemetry_ends_in_time_and_reports_the_loss(folder, monkeypatch):
    from codomyrmex.integrations.pipelines import otlp

    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and nobody listens
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        monkeypatch.setattr(otlp, "_FLUSH_TIMEOUT", 0.2)
        monkeypatch.setattr(otlp, "_SHUTDOWN_TIMEOUT", 0.1)
        report = await folder.run("sources: [{type: stdin}]\nsinks: [{type: opentelemetry}]", b"1\n2\n")
    assert report.not_exported == {"opentelemetry[0]": 2}
    assert not report.complete
    # The SDK's thread uses `random` until it gives up, which Hypothesis does not allow while it draws.
    await until(lambda: not any(thread.name.startswith("OtelBatch") for thread in threading.enumerate()))


# Reload, and the end


@in_time
async def test_a_reload_changes_what_is_different_and_leaves_the_rest_alone(folder):
    old = f"""
        {SOURCE}
        processors: [{{type: rate_limit, rate: 3/1h}}]
        sinks:
          - {{type: jsonl, path: a.jsonl, name: a, delivery: {{batch_age: 1ms}}}}
          - {{type: jsonl, path: b.jsonl, name: b}}
        """
    new = old.replace("processors: [", "processors: [{type: filter, topic: file}, ").replace(
        "b.jsonl", "c.jsonl"
    )
    folder.put(1, 2)
    async with folder.running(old) as pipeline:
        await until(lambda: folder.data("a.jsonl") == [1, 2])
        await pipeline.reload(folder.config(new))
        folder.put(3, 4)
        await until(lambda: folder.data("a.jsonl") == [1, 2, 3])
    assert folder.data("a.jsonl") == [1, 2, 3]  # a new source would have read the file from its start
    assert folder.data("b.jsonl") == [1, 2]
    assert folder.data("c.jsonl") == [3]
    report = pipeline.report()
    assert report.filtered == {"rate_limit[1]": 1}
    assert report.delivery.sinks["b"].delivered == 3  # by both sinks of that name


@in_time
async def test_a_reload_in_the_middle_of_a_batch_loses_and_repeats_nothing(folder):
    folder.append(
        "import asyncio\nasync def slow(event):\n    await asyncio.sleep(0)\n    return event\n",
        "slow_steps.py",
    )
    old = f"""
        {SOURCE.replace("}]", ", position: in.pos}]")}
        processors: [{{type: python, function: 'slow_steps:slow'}}]
        sinks: [{{type: jsonl, path: out.jsonl, name: NAME}}]
        """
    folder.put(*range(1_000))
    async with folder.running(old) as pipeline:
        for number in range(1, 6):
            await until(lambda number=number: pipeline.received >= number * 100)
            text = old.replace("NAME", f"n{number}")
            if number % 2:
                text = text.replace("interval: 10ms", "interval: 11ms")
            await pipeline.reload(folder.config(text))
            folder.put(*range(1_000 * number, 1_000 * (number + 1)))
        await until(lambda: pipeline.received >= 6_000)
    assert sorted(folder.data()) == list(range(6_000))


@in_time
async def test_the_only_source_may_change_and_nothing_that_it_read_is_lost(folder):
    text = f"sources: [{{type: stdin, topic: a}}]\n{SINK}"
    async with folder.reading_stdin(text) as (pipeline, stdin_writer):
        waiting = asyncio.create_task(pipeline.wait())
        stdin_writer.write(b"1\n2")
        await until(lambda: folder.data() == [1])
        await pipeline.reload(folder.config(text.replace("topic: a", "topic: b")))
        stdin_writer.write(b"2\n3\n")
        await until(lambda: folder.data() == [1, 22, 3])
        assert not waiting.done()
        stdin_writer.close()
        await waiting
        await pipeline.aclose()
    assert [event["metadata"]["topic"] for event in folder.events()] == ["a", "b", "b"]


@in_time
async def test_a_part_that_cannot_be_opened_at_a_reload_is_tried_again_at_the_next(folder):
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        more = SINK.replace("}]", "}, {type: jsonl, path: p.yaml/a}, {type: jsonl, path: b.jsonl}]")
        new = SOURCE.replace("}]", f"}}, {{type: http, listen: '{port}'}}]")
        async with folder.running(f"{SOURCE}\n{SINK}") as pipeline:
            with pytest.raises(OSError, match=r"p\.yaml"):
                await pipeline.reload(folder.config(f"{new}\n{more}"))
            folder.put(1)
            await until(lambda: folder.data() == [1])
            used.close()
            config = folder.config(f"{new}\n{more.replace('p.yaml/a', 'c.jsonl')}")
            await pipeline.reload(config)
            assert set(pipeline.health().sources.values()) == {"running"}
            assert len(pipeline.health().sources) == 2
            folder.put(2)
            await until(lambda: folder.data() == [1, 2])
    assert folder.data("b.jsonl") == [1, 2]
    assert folder.data("c.jsonl") == [2]


@in_time
async def test_at_the_end_everything_that_was_read_is_delivered(folder):
    text = f"sources: [{{type: stdin}}]\n{SINK}"
    async with folder.reading_stdin(text) as (pipeline, stdin_writer):
        stdin_writer.write(b"".join(b"%d\n" % number for number in range(5_000)))
        await until(lambda: pipeline.received)
        report = adds_up(await pipeline.aclose())
    assert folder.data() == list(range(len(folder.data())))
    assert report.published == len(folder.data()) == 5_000
    assert report.complete


@in_time
async def test_events_without_time_to_finish_are_counted_as_lost(folder):
    folder.append("import asyncio\nasync def hang(event):\n    await asyncio.Event().wait()\n", "hanging.py")
    text = f"""
        sources: [{{type: stdin}}]
        processors: [{{type: python, function: 'hanging:hang'}}]
        {SINK}
        """
    async with folder.reading_stdin(text) as (pipeline, stdin_writer):
        stdin_writer.write(b"1\n" * 700)
        await until(lambda: pipeline.received)
        closing = asyncio.create_task(pipeline.aclose())
        await asyncio.sleep(0)
        closing.cancel()  # as a second Ctrl-C does
        await asyncio.wait({closing})
    report = adds_up(pipeline.report())
    assert closing.cancelled()
    assert (report.received, report.lost, report.complete) == (700, 700, False)


@in_time
async def test_a_source_that_fails_does_not_end_the_others(folder, monkeypatch):
    app = event_stream(InMemoryStream(), signals=False)
    async with serving(app, port=0, token="right") as url:
        both = SOURCE.replace("}]", f"}}, {{type: sse, url: '{url}'}}]")
        async with folder.running(f"{both}\n{SINK}") as pipeline:
            await until(lambda: pipeline.report().source_errors)
            folder.put(1)
            await until(lambda: folder.data() == [1])
            file, sse = pipeline.health().sources.values()
            assert (file, sse.partition(":")[0]) == ("running", "RefusedError")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pipeline.wait(), 0.01)


@in_time
async def test_a_pipeline_is_a_context_and_loads_its_own_file_again(folder):
    folder.config(f"{SOURCE}\n{SINK}")
    folder.put(1)
    async with Pipeline.from_file(folder.path / "p.yaml") as pipeline:
        await until(folder.data)
        folder.config(f"{SOURCE}\n{SINK.replace('out.jsonl', 'new.jsonl')}")
        await pipeline.reload()
        (folder.path / "p.yaml").write_text("sources: []")
        with pytest.raises(PipelineConfigError):
            await pipeline.reload()
        folder.put(2)
        await until(lambda: folder.data("new.jsonl") == [2])
    assert pipeline.report().complete
    assert folder.data() == [1]


def test_the_library_needs_neither_the_command_nor_the_parts_that_a_file_does_not_name(folder):
    folder.config(f"sources: [{{type: stdin}}]\n{SINK}")
    code = """if True:
        import asyncio, sys
        from codomyrmex.integrations.pipelines import Pipeline
        asyncio.run(Pipeline.from_file("p.yaml").run())
        print([name for name in ("typer", "rich", "httpx", "uvicorn", "apprise") if name in sys.modules])
        """
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder.path, input=b"1\n", capture_output=True, check=True)
    assert done.stdout == b"[]\n"
    assert folder.data() == [1]


@in_time
async def test_nothing_is_left_behind(folder):
    folder.put(1)
    before = asyncio.all_tasks()
    async with folder.running(f"{SOURCE}\n{SINK}"):
        await until(folder.data)
    gc.collect()
    assert asyncio.all_tasks() == before


def test_the_path_of_a_file_is_for_from_file():
    with pytest.raises(TypeError, match=r"config: must be a PipelineConfig, got str; .*Pipeline\.from_file"):
        Pipeline(cast("Any", "pipeline.yaml"))
