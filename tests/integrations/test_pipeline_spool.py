"""Pipelines with a spool: what is stored, what the sinks get, what is left, and mistakes in the file."""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from codomyrmex.integrations.cli.app import app
from codomyrmex.integrations.delivery.health import SinkState
from codomyrmex.integrations.durable import (
    DurableStream,
    SQLiteStore,
    StoreConfigError,
    StoreError,
    StoreUnavailableError,
    StreamAdmin,
)
from codomyrmex.integrations.durable.names import Names
from codomyrmex.integrations.durable.saved_groups import GroupInfo
from codomyrmex.integrations.durable.store import Batch
from codomyrmex.integrations.pipelines import (
    Pipeline,
    PipelineConfig,
    PipelineConfigError,
    PipelineReport,
    load_pipeline_config,
)
from codomyrmex.integrations.pipelines.spool import Spool
from codomyrmex.streaming import Event, StreamClosedError, create_event
from helpers import in_time
from typer.testing import CliRunner

SPOOL = "spool: {url: 'sqlite:///spool.db', lease: 1s}"
FILE = "sources: [{type: file, path: in.log, position: pos, from_start: true, follow: false}]"
FOLLOWED = "sources: [{type: file, path: in.log, position: pos, from_start: true, interval: 10ms}]"
HTTP = "sources: [{type: http, listen: '127.0.0.1:0'}]"
OUT = "{type: jsonl, name: out, path: out.jsonl, delivery: {batch_age: 1ms, drain_timeout: 300ms}}"
FULL = OUT.replace("out.jsonl", "/dev/full")  # where nothing can be written
SINK, FULL_SINK = f"sinks: [{OUT}]", f"sinks: [{FULL}]"


class Folder:
    """A folder with the files of a pipeline, and its spool."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def config(self, *parts: str) -> PipelineConfig:
        text = "\n".join(textwrap.dedent(part) for part in parts)
        (self.path / "p.yaml").write_text(text, encoding="utf-8")
        return load_pipeline_config(self.path / "p.yaml")

    def put(self, *lines: str) -> None:
        with (self.path / "in.log").open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def lines(self, name: str = "out.jsonl") -> list[str]:
        path = self.path / name
        text = path.read_text("utf-8") if path.exists() else ""
        return [json.loads(line)["data"]["line"] for line in text.splitlines()]

    async def run(self, *parts: str) -> PipelineReport:
        return adds_up(await Pipeline(self.config(*parts)).run())

    @asynccontextmanager
    async def running(self, *parts: str) -> AsyncIterator[Pipeline]:
        async with Pipeline(self.config(*parts)) as pipeline:
            yield pipeline
        adds_up(pipeline.report())

    async def stored(self, name: str = "events") -> list[Event]:
        async with SQLiteStore(self.path / "spool.db") as store:
            return [record.event for record in await StreamAdmin(store, name).read("earliest", 1_000)]

    async def groups(self) -> dict[str, GroupInfo]:
        async with SQLiteStore(self.path / "spool.db") as store:
            return {group.name: group for group in await StreamAdmin(store, "events").groups()}


def adds_up(report: PipelineReport) -> PipelineReport:
    dropped = report.filtered.total() + report.failed.total() + report.lost
    assert report.received + report.added == dropped + report.published
    return report


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0.005)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@in_time
async def test_what_is_stored_is_what_the_sinks_get_after_the_steps(folder: Folder) -> None:
    folder.put("a password=hunter2", "b", "c")
    report = await folder.run(
        SPOOL,
        FILE,
        "processors: [{type: filter, matchers: ['data.line!=\"b\"']}, {type: redact}]",
        SINK,
    )
    assert report.complete
    assert (report.received, report.published) == (3, 2)
    stored = await folder.stored()
    assert [event.data["line"] for event in stored] == folder.lines()
    assert "hunter2" not in str(stored)
    assert report.delivery.sinks["out"].left == 0


@in_time
async def test_order_is_kept_with_a_step_that_waits(folder: Folder) -> None:
    (folder.path / "waiting.py").write_text(
        "import asyncio\nasync def wait(event):\n    await asyncio.sleep(0)\n    return [event, event]\n"
    )
    folder.put(*map(str, range(100)))
    python = "processors: [{type: python, function: 'waiting:wait'}]"
    report = await folder.run(SPOOL, FILE, python, SINK)
    assert folder.lines() == [str(number) for number in range(100) for _ in range(2)]
    assert (report.received, report.added, report.published) == (100, 100, 200)


@in_time
async def test_what_a_sink_did_not_accept_is_left_in_the_spool_and_delivered_at_the_next_start(
    folder: Folder,
) -> None:
    folder.put("a", "b")
    report = await folder.run(SPOOL, FILE, FULL_SINK)
    assert report.complete  # nothing is lost
    assert report.delivery.sinks["out"].left == 2
    folder.put("c")
    report = await folder.run(SPOOL, FILE, SINK)
    assert (report.received, report.published) == (1, 1)  # the position was saved although the sink failed
    assert folder.lines() == ["a", "b", "c"]
    assert report.delivery.sinks["out"].left == 0


@in_time
async def test_each_queued_sink_has_a_place_of_its_own(folder: Folder) -> None:
    folder.put("a", "b")
    audit = "{type: jsonl, name: audit, path: audit.jsonl, delivery: {batch_age: 1ms}}"
    report = await folder.run(SPOOL, FILE, f"sinks: [{audit}, {FULL}]")
    assert folder.lines("audit.jsonl") == ["a", "b"]
    assert {name: sink.left for name, sink in report.delivery.sinks.items()} == {"audit": 0, "out": 2}
    assert {name: group.lag for name, group in (await folder.groups()).items()} == {"audit": 0, "out": 2}
    await folder.run(SPOOL, FILE, f"sinks: [{audit}, {OUT}]")
    assert folder.lines("audit.jsonl") == folder.lines() == ["a", "b"]


@in_time
async def test_a_post_is_answered_when_its_events_are_in_the_store(folder: Folder) -> None:
    async with folder.running(SPOOL, HTTP, FULL_SINK) as pipeline, httpx.AsyncClient() as client:
        (url,) = pipeline.urls().values()
        events = [{"data": {"line": line}} for line in ("a", "b")]
        response = await client.post(url, json=events)
        assert response.status_code == 202
        assert [event.data["line"] for event in await folder.stored()] == ["a", "b"]
        assert [event.topic for event in await folder.stored()] == ["http", "http"]


@in_time
async def test_an_event_that_the_store_refuses_is_counted_and_not_acknowledged(folder: Folder) -> None:
    source = "sources: [{type: http, listen: '127.0.0.1:0', max_bytes: 40MB}]"
    async with folder.running(SPOOL, source, SINK) as pipeline, httpx.AsyncClient() as client:
        (url,) = pipeline.urls().values()
        large = {"data": {"line": "x" * 2_000_000}}
        response = await client.post(url, json=[large, {"data": {"line": "small"}}])
        assert response.status_code == 202
        assert [error["index"] for error in response.json()["errors"]] == [0]
        await until(folder.lines)
        assert (await client.post(url, json=large)).status_code == 413
    report = pipeline.report()
    assert report.failed == {"spool": 2}
    assert not report.complete
    assert folder.lines() == ["small"]


@in_time
async def test_the_health_and_the_live_page_show_the_store(folder: Folder) -> None:
    page = "{type: dashboard, name: page, listen: '127.0.0.1:0'}"
    folder.put("a")
    async with folder.running(SPOOL, FOLLOWED, f"sinks: [{OUT}, {page}]") as pipeline:
        await until(folder.lines)
        spool = pipeline.health().spool
        assert spool is not None
        assert (spool.available, spool.store) == (True, f"sqlite:///{folder.path}/spool.db")
        async with httpx.AsyncClient() as client:
            state = (await client.get(f"{pipeline.urls()['page']}api/state")).json()
        rows = {sink["name"]: sink for sink in state["sinks"]}
        assert (rows["spool"]["state"], rows["spool"]["delivered"]) == ("ok", 1)
        assert rows["out"]["state"] == "ok"


@in_time
async def test_without_a_spool_there_is_no_store(folder: Folder) -> None:
    folder.put("a")
    pipeline = Pipeline(folder.config(FILE, SINK))
    assert pipeline.health().spool is None
    await pipeline.run()
    assert not (folder.path / "spool.db").exists()


@in_time
async def test_a_reload_keeps_the_spool_and_refuses_another_one(folder: Folder) -> None:
    folder.put("a")
    async with folder.running(SPOOL, FOLLOWED, SINK) as pipeline:
        await until(folder.lines)
        audit = "{type: jsonl, name: audit, path: audit.jsonl, delivery: {batch_age: 1ms}}"
        await pipeline.reload(folder.config(SPOOL, FOLLOWED, f"sinks: [{OUT}, {audit}]"))
        folder.put("b")
        await until(lambda: folder.lines("audit.jsonl"))
        assert folder.lines("audit.jsonl") == ["b"]  # a new sink begins with what comes from then on
        other = SPOOL.replace("spool.db", "other.db")
        with pytest.raises(PipelineConfigError, match="spool: cannot be changed"):
            await pipeline.reload(folder.config(other, FOLLOWED, SINK))
        folder.put("c")
        await until(lambda: folder.lines() == ["a", "b", "c"])


@in_time
async def test_a_spool_that_cannot_be_opened_stops_the_start(folder: Folder) -> None:
    folder.put("a")
    (folder.path / "spool.db").write_bytes(b"something else" * 100)
    pipeline = Pipeline(folder.config(SPOOL, FILE, SINK))
    with pytest.raises(StoreError, match="not a SQLite database"):
        await pipeline.start()
    assert not (folder.path / "pos").exists()


def test_a_spool_that_cannot_be_opened_is_one_sentence(folder: Folder) -> None:
    (folder.path / "spool.db").write_bytes(b"something else" * 100)
    folder.config(SPOOL, FILE, SINK)
    result = CliRunner().invoke(app, ["run", str(folder.path / "p.yaml")])
    assert result.exit_code == 1
    assert "the pipeline cannot start: sqlite:///" in result.output
    assert "StoreConfigError" not in result.output


def test_the_report_says_what_is_left(folder: Folder) -> None:
    folder.put("a", "b")
    folder.config(SPOOL, FILE, FULL_SINK)
    result = CliRunner().invoke(app, ["run", str(folder.path / "p.yaml")])
    assert result.exit_code == 0, result.output
    assert "out: 0 events delivered" in result.output
    assert "2 left in the spool, to be delivered later" in result.output


@in_time
async def test_lines_that_are_not_stored_at_the_end_are_read_again_and_no_others(folder: Folder) -> None:
    (folder.path / "waiting_once.py").write_text(
        "import asyncio, pathlib\n"
        f"stop = pathlib.Path({str(folder.path / 'stop')!r})\n"
        "async def wait(event):\n"
        "    if event.data['line'] == '700' and stop.exists():\n"
        "        stop.write_text('reached')\n"
        "        await asyncio.Event().wait()\n"
        "    return event\n"
    )
    (folder.path / "stop").touch()
    lines = [str(number) for number in range(1_200)]
    folder.put(*lines)
    step = "processors: [{type: python, function: 'waiting_once:wait'}]"
    pipeline = await Pipeline(folder.config(SPOOL, FILE, step, SINK)).start()
    await until((folder.path / "stop").read_text)
    report = adds_up(await pipeline.aclose(0.2))
    assert (report.received, report.lost, report.complete) == (500, 0, True)
    (folder.path / "stop").unlink()
    await folder.run(SPOOL, FILE, step, SINK)
    assert folder.lines() == lines


# The store is away


class Failing(SQLiteStore):
    """A store that can be made to fail."""

    error: StoreError | None = None

    async def append(self, log: str, batch: Batch) -> int:
        if self.error is not None:
            raise self.error
        return await super().append(log, batch)


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), StoreConfigError("damaged")], ids=repr)
@in_time
async def test_while_the_store_fails_events_wait_and_then_are_stored_once(
    folder: Folder, error: StoreError
) -> None:
    store = Failing(folder.path / "spool.db")
    spool = Spool(DurableStream(store, publish_timeout=0.1), 1.0)
    await spool.open()
    await spool.publish([create_event({"line": -1})])
    store.error = error
    events = [create_event({"line": number}) for number in range(1_200)]
    publishing = asyncio.create_task(spool.publish(events))
    await asyncio.sleep(0.5)
    assert not publishing.done()
    assert spool.stored == 1
    if isinstance(error, StoreUnavailableError):
        assert spool.health().state is SinkState.RETRYING
        assert spool.health().last_error == "away"
    store.error = None
    assert await publishing
    assert spool.health().state is SinkState.OK
    assert (events, spool.stored, spool.refused) == ([], 1_201, 0)
    await spool.aclose()
    async with SQLiteStore(folder.path / "spool.db") as reopened:
        records = await StreamAdmin(reopened, "events").read("earliest", 2_000)
    numbers = [record.event.data["line"] for record in records]
    assert sorted(numbers) == list(range(-1, 1_200))
    if isinstance(error, StoreUnavailableError):
        assert numbers == sorted(numbers)


@in_time
async def test_a_closed_spool_takes_nothing(folder: Folder) -> None:
    spool = Spool(DurableStream(SQLiteStore(folder.path / "spool.db")), 1.0)
    await spool.open()
    await spool.aclose()
    with pytest.raises(StreamClosedError):
        await spool.publish([create_event(1)])


@in_time
async def test_a_pipeline_whose_sources_have_ended_waits_for_the_lease_of_one_that_was_killed(
    folder: Folder,
) -> None:
    folder.put("a")
    async with SQLiteStore(folder.path / "spool.db") as store:
        assert await store.acquire(f"{Names('events', 'out').shards}0", "killed", 0.5)
    report = await folder.run(SPOOL, FILE, SINK)
    assert folder.lines() == ["a"]
    assert report.delivery.sinks["out"].left == 0


@in_time
async def test_a_pipeline_whose_sink_another_process_holds_says_what_is_left(folder: Folder) -> None:
    folder.put("a")
    async with folder.running(SPOOL, FOLLOWED, SINK) as pipeline:
        await until(folder.lines)
        other = Pipeline(folder.config(SPOOL, HTTP, SINK))
        async with other:
            await asyncio.sleep(0.1)
            assert other.health().sinks["out"].state is SinkState.STANDBY
        assert other.report().delivery.sinks["out"].left == 0
        folder.put("b")
        await until(lambda: folder.lines() == ["a", "b"])
        assert pipeline.health().sinks["out"].state is SinkState.OK


# The file


def test_the_spool_may_be_a_url_or_a_mapping_with_variables(folder: Folder) -> None:
    (folder.path / "p.yaml").write_text(f"spool: ${{STORE}}\n{FILE}\n{SINK}")
    config = load_pipeline_config(folder.path / "p.yaml", environ={"STORE": "sqlite:///a.db"})
    assert config.spool is not None
    assert config.spool.url == "sqlite:///a.db"
    assert "a.db" not in repr(config)  # it may have a password
    limits = "max_age: 2d, max_events: 5, max_size: 1MB"
    mapping = f"{{url: 'sqlite:////tmp/a.db?durability=power', name: shop, {limits}}}"
    (folder.path / "p.yaml").write_text(f"spool: {mapping}\n{FILE}\n{SINK}")
    spool = load_pipeline_config(folder.path / "p.yaml").spool
    assert spool is not None
    assert (spool.name, spool.max_age, spool.max_events, spool.max_size) == ("shop", 172_800, 5, 1_000_000)


@pytest.mark.parametrize(
    ("spool", "column", "message"),
    [
        ("ftp://host/x", 8, "the URL must start with sqlite://"),
        ("sqlite:///x.db?mode=ro", 8, "unknown parameter 'mode'"),
        ("sqlite:///x.db?durability=none", 8, "durability: must be 'process' or 'power'"),
        ("sqlite:///", 8, "the path must name a file"),
        ("${NOT_SET}", 8, "the environment variable NOT_SET is not set"),
        ("[sqlite:///x.db]", 8, "expected a URL or a mapping, got list"),
        ("{url: 'ftp://host/x'}", 14, "the URL must start with sqlite://"),
        ("{name: a}", 8, "the URL must start with sqlite://"),
        ("{url: 'sqlite:///x.db', name: 'a.b'}", 8, "name: must be 1 to 64 characters"),
        ("{url: 'sqlite:///x.db', lease: 0s}", 8, "lease: must be greater than 0"),
        ("{url: 'sqlite:///x.db', max_events: 0}", 8, "max_events: must be greater than 0"),
        ("{url: 'sqlite:///x.db', max_age: long}", 41, "'long' is not a duration"),
        ("{url: 'sqlite:///x.db', nam: a}", 32, "did you mean name?"),
    ],
)
def test_a_mistake_in_the_spool_is_reported_with_its_position(
    folder: Folder, spool: str, column: int, message: str
) -> None:
    with pytest.raises(PipelineConfigError) as raised:
        folder.config(f"spool: {spool}", FILE, SINK)
    (problem,) = raised.value.problems
    assert message in problem.message
    assert (problem.line, problem.column) == (1, column)
    assert list(folder.path.iterdir()) == [folder.path / "p.yaml"]


def test_check_notes_a_sink_whose_place_depends_on_its_index(folder: Folder) -> None:
    unnamed = SINK.replace("name: out, ", "").replace("}]", "}, {type: sse, listen: '127.0.0.1:0'}]")
    (note,) = folder.config(SPOOL, FILE, unnamed).notes
    assert (note.path, note.line) == ("sinks[0]", 3)
    assert "'jsonl[0]'" in note.message
    assert folder.config(FILE, unnamed).notes == ()


@in_time
async def test_alerts_are_sent_by_a_pipeline_with_a_spool(folder: Folder):
    (folder.path / "alerts.yaml").write_text("route: {receiver: ops}\nreceivers: [{name: ops}]\n")
    folder.put("down")
    alerts = "{type: alerts, name: alerts, topic: file, config: alerts.yaml}"
    steps = "processors: [{type: set, error: true}]"
    for _ in range(2):  # the second run continues the group
        report = await folder.run(SPOOL, FILE, steps, f"sinks: [{alerts}]")
        assert report.lost == 0
    assert (await folder.groups())["alerts"].lag == 0
