"""The processes of a stream: what they report, and what happens when one ends or is killed."""

from __future__ import annotations

import asyncio
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import pytest
from codomyrmex.integrations import Binding, InlineSink, Sink, attach
from codomyrmex.integrations.durable import (
    DurableStream,
    ProcessInfo,
    ProcessState,
    SQLiteStore,
    StoreUnavailableError,
)
from codomyrmex.integrations.durable.processes import ProcessRegistry, load_processes
from codomyrmex.integrations.durable.reports import Sections
from codomyrmex.streaming import Event, create_event
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from codomyrmex.streaming.testing import FakeClock
from helpers import in_time, until

LEASE = 9.0
GONE_AFTER = LEASE + 2  # seconds; two looks more than the lease
FORGOTTEN_AFTER = 310.0


class Warehouse(Sink):
    name = "warehouse"

    async def send(self, events: Sequence[Event]) -> None:
        pass


class Failing(Sink):
    name = "mail"

    async def send(self, events: Sequence[Event]) -> None:
        raise ConnectionError("https://user:topsecret@mail refused")


class Console(InlineSink):
    name = "console"

    def emit(self, event: Event) -> None:
        pass


class CutStore(SQLiteStore):
    """A store that can become unavailable."""

    away = False
    slow: Callable[[], Awaitable[object]] | None = None  # awaited once, after a single value was loaded

    async def renew(self, *args: Any) -> None:
        self._check()
        await super().renew(*args)

    async def load(self, *args: Any) -> Any:
        self._check()
        values = await super().load(*args)
        if self.slow is not None and not args[0].endswith("/"):
            slow, self.slow = self.slow, None
            await slow()
        return values

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailableError("no answer")


class Process:
    """A process that uses a stream, without the process: what is killed just takes no more steps."""

    def __init__(self, store: CutStore, name: str, clock: FakeClock, stream: str) -> None:
        self.store = store
        self.sections = Sections({})
        self.registry = ProcessRegistry(
            store, stream, name, f"{name}#{id(self):x}", LEASE, self.sections, run_here, clock
        )

    async def step(self) -> None:
        await self.registry.step()

    async def end(self) -> None:
        await self.registry.close()


def run_here(coroutine: Any) -> Future[None]:
    result: Future[None] = Future()

    def done(task: asyncio.Task[None]) -> None:
        error = task.exception()
        if error is None:
            result.set_result(None)
        else:
            result.set_exception(error)

    task = asyncio.get_running_loop().create_task(coroutine)
    task.add_done_callback(done)
    return result


class Cluster:
    """Processes on one SQLite file, and the time."""

    def __init__(self, path: Path) -> None:
        self.path, self.clock = path, FakeClock()
        self.stores: list[CutStore] = []
        self.running: list[Process] = []

    async def start(self, name: str, *sections: str, stream: str = "events", **handlers: Any) -> Process:
        store = CutStore(self.path, clock=self.clock)
        await store.open()
        self.stores.append(store)
        process = Process(store, name, self.clock, stream)
        for section in sections or ("sinks",):
            process.sections.add(section, lambda: {"warehouse": {"state": "ok"}}, handlers.get(section))
        await process.step()
        self.running.append(process)
        return process

    def kill(self, process: Process) -> None:
        self.running.remove(process)

    async def wait(self, seconds: float, step: float = 1) -> None:
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            for process in self.running:
                await process.step()

    async def states(self, stream: str = "events") -> dict[str, str]:
        """Return the states as the last process sees them."""
        return {info.name: info.state.value for info in await load_processes(self.running[-1].store, stream)}

    async def values(self) -> list[str]:
        return list(await self.running[-1].store.load(""))


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path / "events.db")
    yield cluster
    for store in cluster.stores:
        await store.close()


async def test_a_killed_process_is_shown_as_gone_by_all_the_others_and_is_removed_later(cluster: Cluster):
    first, second, third = [await cluster.start(name) for name in ("a:1", "a:2", "b:1")]
    assert await cluster.states() == {"a:1": "running", "a:2": "running", "b:1": "running"}
    cluster.kill(second)
    await cluster.wait(LEASE - 2)
    assert (await cluster.states())["a:2"] == "running"
    await cluster.wait(3)
    for process in (first, third):
        infos = {info.name: info for info in await load_processes(process.store, "events")}
        assert infos["a:2"].state is ProcessState.GONE
        assert infos["a:2"].sections["sinks"] == {"warehouse": {"state": "ok"}}
    newcomer = await cluster.start("c:1")  # which has seen no lease expire itself
    assert await cluster.states() == {"a:1": "running", "a:2": "gone", "b:1": "running", "c:1": "running"}
    await cluster.wait(FORGOTTEN_AFTER, LEASE / 2)
    assert await cluster.states() == {"a:1": "running", "b:1": "running", "c:1": "running"}
    assert newcomer in cluster.running


async def test_a_process_that_ends_in_order_disappears_at_once(cluster: Cluster):
    first = await cluster.start("a:1")
    await cluster.start("a:2")
    await first.end()
    assert await cluster.states() == {"a:2": "running"}


async def test_a_process_that_comes_and_goes_between_two_looks_is_not_missed(cluster: Cluster):
    called: list[str] = []
    first = await cluster.start("a:1", "breakers", breakers=lambda info: called.append(info.name))
    await first.step()
    short = await cluster.start("a:2", "breakers", breakers=lambda info: None)
    await short.end()
    cluster.kill(short)
    await cluster.wait(LEASE + 1)
    assert called == ["a:2"]
    assert await cluster.states() == {"a:1": "running"}


async def test_a_process_that_is_too_slow_to_join_joins_with_its_next_report(cluster: Cluster):
    await cluster.start("a:1")
    late = Process(cluster.stores[0], "a:2", cluster.clock, "events")
    late.sections.add("sinks", dict, None)

    async def overtake() -> None:  # as after its lease has expired
        [_, lease] = await late.store.leases("events/process/")
        await late.store.release(lease)
        await cluster.start("a:3")

    late.store.slow = overtake
    await late.step()
    assert "a:2" not in await cluster.states()
    await late.step()
    assert (await cluster.states())["a:2"] == "running"


async def test_what_is_left_to_do_for_a_killed_process_is_done_by_one_of_the_others(cluster: Cluster):
    calls: list[tuple[str, ProcessInfo]] = []

    def note(name: str) -> Callable[[ProcessInfo], None]:
        return lambda info: calls.append((name, info))

    victim = await cluster.start("a:1", "breakers", breakers=note("a:1"))
    for name in ("a:2", "a:3"):
        await cluster.start(name, "breakers", breakers=note(name))
    await cluster.start("web")  # which could not do it
    cluster.kill(victim)
    await cluster.wait(GONE_AFTER)
    assert [(info.name, info.state) for _, info in calls] == [("a:1", ProcessState.GONE)]
    assert calls[0][1].sections["breakers"] == {"warehouse": {"state": "ok"}}
    await cluster.wait(FORGOTTEN_AFTER, LEASE / 2)
    assert len(calls) == 1


async def test_it_is_done_for_a_process_that_ended_in_order_too(cluster: Cluster):
    calls: list[ProcessInfo] = []

    async def settle(info: ProcessInfo) -> None:
        await asyncio.sleep(0)
        calls.append(info)

    first = await cluster.start("a:1", "breakers", breakers=settle)
    await first.end()  # the last process
    cluster.kill(first)
    await cluster.start("a:2")
    await cluster.wait(1)
    assert (await cluster.states())["a:1"] == "ended"
    await cluster.start("a:3", "breakers", breakers=settle)
    assert [(info.name, info.state) for info in calls] == [("a:1", ProcessState.ENDED)]
    assert await cluster.states() == {"a:2": "running", "a:3": "running"}


async def test_it_is_done_again_after_an_error_or_the_death_of_who_did_it(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
):
    calls: list[str] = []
    forever = asyncio.Event()

    def fail(info: ProcessInfo) -> None:
        calls.append("failed")
        raise OSError("no route to https://user:topsecret@host")

    async def hang(_: ProcessInfo) -> None:
        calls.append("killed meanwhile")
        await forever.wait()

    victim = await cluster.start("a:1", "breakers", breakers=fail)
    failing = await cluster.start("a:2", "breakers", breakers=fail)
    cluster.kill(victim)
    await cluster.wait(GONE_AFTER + 1)
    assert set(calls) == {"failed"}
    assert "no route" in caplog.text
    assert "topsecret" not in caplog.text
    await failing.end()
    cluster.kill(failing)
    calls.clear()

    hanging = await cluster.start("a:3", stream="other")
    hanging.sections.add("breakers", dict, hang)
    hanging = Process(hanging.store, "a:3", cluster.clock, "events")
    hanging.sections.add("breakers", dict, hang)
    stepping = asyncio.create_task(hanging.step())
    await until(lambda: calls == ["killed meanwhile"])
    stepping.cancel()
    await asyncio.wait({stepping})

    done: list[str] = []
    await cluster.start("a:4", "breakers", breakers=lambda info: done.append(info.name))
    await cluster.wait(GONE_AFTER)
    assert {"a:1", "a:2"} <= set(done)
    assert len(done) == len(set(done))


async def test_a_handler_that_does_not_return_holds_up_neither_the_reports_nor_others(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
):
    store = CutStore(cluster.path, clock=cluster.clock)  # whose leases do not expire
    async with store:
        registries = []
        for name, handler in (("a:1", print), ("a:2", lambda _: asyncio.Event().wait())):
            sections = Sections({})
            sections.add("caches", dict, handler)  # not that of another test: the log is limited for each
            registries.append(
                ProcessRegistry(store, "events", name, name, 0.2, sections, run_here, SYSTEM_CLOCK)
            )
            await registries[-1].step()
        await registries[0].close()
        await registries[1].step()
        assert "a handler of processes that are gone has failed" in caplog.text
        assert "no answer within 0.1s" in caplog.text
        states = {info.name: info.state for info in await load_processes(store, "events")}
        assert states == {"a:1": ProcessState.ENDED, "a:2": ProcessState.RUNNING}


async def test_two_processes_that_start_at_once_have_reports_of_their_own(cluster: Cluster):
    first = await cluster.start("a:1")
    second = Process(first.store, "a:2", cluster.clock, "events")
    third = Process(first.store, "a:3", cluster.clock, "events")
    for process in (second, third):
        process.sections.add("sinks", dict)
    await asyncio.gather(second.step(), third.step())
    assert await cluster.states() == {"a:1": "running", "a:2": "running", "a:3": "running"}


async def test_hundreds_of_killed_processes_leave_few_values_and_leases(cluster: Cluster):
    await cluster.start("stays")
    for number in range(40):
        cluster.kill(await cluster.start(f"killed:{number}"))
        await cluster.wait(GONE_AFTER)
    assert (await cluster.states())["stays"] == "running"
    assert len(await cluster.values()) <= 25
    leases = await cluster.running[0].store.leases("")
    assert [lease.name for lease in leases] == ["events/process/0"]


async def test_a_process_that_stood_still_beyond_its_lease_is_listed_again(cluster: Cluster):
    calls: list[str] = []
    sleeper = await cluster.start("a:1", "breakers", breakers=lambda info: calls.append(info.name))
    await cluster.start("a:2", "breakers", breakers=lambda info: calls.append(info.name))
    cluster.kill(sleeper)  # SIGSTOP
    await cluster.wait(GONE_AFTER)
    assert await cluster.states() == {"a:1": "gone", "a:2": "running"}
    cluster.running.append(sleeper)  # SIGCONT
    await cluster.wait(2)
    assert await cluster.states() == {"a:1": "running", "a:2": "running"}
    assert calls == ["a:1"]


async def test_a_process_without_its_store_is_gone_for_the_others_and_comes_back(cluster: Cluster):
    lonely, other = await cluster.start("a:1"), await cluster.start("a:2")
    lonely.store.away = True
    for _ in range(round(GONE_AFTER)):
        cluster.clock.advance(1)
        with pytest.raises(StoreUnavailableError):
            await lonely.step()
        await other.step()
    assert await cluster.states() == {"a:1": "gone", "a:2": "running"}
    lonely.store.away = False
    await cluster.wait(2)
    assert await cluster.states() == {"a:1": "running", "a:2": "running"}


async def test_two_streams_of_a_store_have_processes_of_their_own(cluster: Cluster):
    await cluster.start("a:1", stream="orders")
    await cluster.start("a:2", stream="events")
    assert await cluster.states("orders") == {"a:1": "running"}
    assert await cluster.states("events") == {"a:2": "running"}


async def test_processes_of_one_name_are_all_listed(cluster: Cluster):
    for _ in range(3):
        await cluster.start("web")
    infos = await load_processes(cluster.running[0].store, "events")
    assert [info.name for info in infos] == ["web"] * 3
    assert len({info.id for info in infos}) == 3


async def test_a_report_is_bounded_and_shows_no_secrets(cluster: Cluster, caplog: pytest.LogCaptureFixture):
    process = await cluster.start("a:1")
    process.sections.add("sinks", lambda: {"warehouse": {"last_error": "https://user:topsecret@host"}})
    process.sections.add("large", lambda: {f"item {n}": {"text": "x" * 10_000} for n in range(1_000)})
    process.sections.add("failing", lambda: {"x": 1 / 0})
    await process.step()
    (info,) = await load_processes(process.store, "events")
    assert info.sections["sinks"].keys() == {"warehouse", "warehouse#2"}
    assert "topsecret" not in str(info)
    assert 0 < len(info.sections["large"]) < 50
    assert info.omitted == {"large": 1_000 - len(info.sections["large"])}
    assert len(msgspec.json.encode(info)) < 60_000
    assert "the section failing could not be reported" in caplog.text


async def test_a_report_of_a_later_version_is_left_alone(cluster: Cluster):
    first = await cluster.start("a:1")
    (name,) = await cluster.values()
    lease = await first.store.acquire("x", "y", 1)
    assert lease is not None
    await first.store.save(lease, {"events/process/1": b'{"id": 1, "new": true}'})
    await cluster.start("a:2")
    await cluster.wait(GONE_AFTER)
    assert await cluster.states() == {"a:1": "running", "a:2": "running"}
    assert (await first.store.load("events/process/1"))["events/process/1"] == b'{"id": 1, "new": true}'
    assert name == "events/process/0"


# Through streams


async def processes(stream: DurableStream, condition: Callable[[list[ProcessInfo]], object]) -> Any:
    """Return the processes once a condition holds."""
    while not condition(infos := await stream.processes()):
        await asyncio.sleep(0.005)
    return infos


@pytest.fixture
async def streams(tmp_path: Path) -> AsyncIterator[Callable[[], DurableStream]]:
    made: list[DurableStream] = []

    def make() -> DurableStream:
        made.append(DurableStream(SQLiteStore(tmp_path / "events.db")))
        return made[-1]

    yield make
    for stream in made:
        await stream.aclose()


@in_time
async def test_attached_sinks_are_reported_until_they_are_detached(
    streams: Callable[[], DurableStream], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CODOMYRMEX_PROCESS", "web-1")
    stream, reader = streams(), streams()
    assert await reader.processes() == []
    async with attach(stream, Warehouse(), Console()):
        (info,) = await processes(reader, len)
        assert (info.name, info.state) == ("web-1", ProcessState.RUNNING)
        assert info.sections["sinks"]["warehouse"]["state"] == "ok"
        assert info.sections["sinks"]["console"]["state"] == "ok"
        assert info.sections["stream"]["events"]["pending"] == 0
        assert info.started_at <= info.reported_at
        async with attach(stream, Binding(Warehouse(), group="other")):
            await processes(reader, lambda infos: "warehouse#2" in infos[0].sections["sinks"])
    await processes(reader, lambda infos: not infos)


@in_time
async def test_the_handlers_of_groups_are_reported_too(streams: Callable[[], DurableStream]):
    stream = streams()
    await stream.subscribe(print, group="billing")
    (info,) = await processes(stream, len)
    assert info.sections["sinks"].keys() == {"billing"}


@in_time
async def test_a_stream_that_closes_takes_its_report_along(streams: Callable[[], DurableStream]):
    stream, reader = streams(), streams()
    async with attach(stream, Console()):
        await processes(reader, len)
        await stream.aclose()
        assert await reader.processes() == []


async def test_a_program_that_ends_without_closing_its_stream_is_not_listed_any_more(tmp_path: Path):
    program = """
        import asyncio, sys
        from codomyrmex.integrations.durable import DurableStream, SQLiteStore

        async def main():
            stream = DurableStream(SQLiteStore(sys.argv[1]))
            stream.report_section("caches", dict)
            while not await stream.processes():
                await asyncio.sleep(0.01)
            print("listed")

        asyncio.run(main())
    """
    file = tmp_path / "events.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(program), file, stdout=asyncio.subprocess.PIPE
    )
    assert await process.communicate() == (b"listed\n", None)
    async with SQLiteStore(file) as store:
        assert await load_processes(store, "events") == []
        assert await store.leases("events/process/") == []


@in_time
async def test_a_handler_can_publish(streams: Callable[[], DurableStream]):
    first, second = streams(), streams()
    published: list[Event] = []
    await second.subscribe(published.append, "breaker.*")

    def settle(stream: DurableStream) -> Callable[[ProcessInfo], Awaitable[None]]:
        return lambda info: stream.publish(create_event(info.name, topic="breaker.gone"))

    for stream in (first, second):
        stream.report_section("breakers", dict, settle(stream))
        await stream.open()
        await processes(stream, len)
    await processes(second, lambda infos: len(infos) == 2)
    await first.aclose()
    second.report_section("more", dict)  # so that it looks at once
    await until(lambda: published)


@in_time
async def test_a_bug_in_a_store_is_logged_and_the_process_reports_again(
    streams: Callable[[], DurableStream], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    stream = streams()
    async with attach(stream, Console()):
        await processes(stream, len)
        with monkeypatch.context() as patch:
            patch.setattr(stream.store, "leases", lambda prefix: 1 / 0)
            stream.report_section("more", lambda: {"x": 1})  # so that it reports at once
            await until(lambda: "the processes could not be read" in caplog.text)
        stream.report_section("again", dict)
        await processes(stream, lambda infos: "again" in infos[0].sections)


async def test_sections_are_checked(streams: Callable[[], DurableStream]):
    stream = streams()
    with pytest.raises(
        ValueError, match=r"section: must be 1 to 32 characters of a-z, 0-9 and _, got 'My S'"
    ):
        stream.report_section("My S", dict)
    with pytest.raises(TypeError, match=r"read: must be a function, got 3"):
        stream.report_section("x", 3)
    with pytest.raises(TypeError, match=r"on_gone: must be a function, got 3"):
        stream.report_section("x", dict, 3)
