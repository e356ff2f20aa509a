"""Alerts that several processes share: what sharing costs, and how long a takeover takes."""

from __future__ import annotations

import asyncio
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from codomyrmex.integrations import Sink, attach
from codomyrmex.integrations.durable import DurableStream, open_store
from codomyrmex.integrations.notification import AlertSink, NotifierRole
from codomyrmex.streaming import Event, EventType, InMemoryStream, Stream, create_event
from durable import NAMES, be_quiet, start_server
from measure import Result

LEASE = 2.0  # seconds
ALERTS, ROUNDS = 10_000, 3
MANY = 100_000
PER_SECOND, SECONDS = 100, 5


class Inbox(Sink):
    """A channel that notes when it got which notification."""

    name = "inbox"

    def __init__(self) -> None:
        self.received: dict[str, float] = {}

    async def send(self, events: Sequence[Event]) -> None:
        for event in events:
            self.received[event.data["groupLabels"]["alertname"]] = time.monotonic()


def config(group_wait: str = "0s", **more: Any) -> dict[str, Any]:
    route = {"receiver": "ops", "group_by": ["alertname"], "group_wait": group_wait}
    return {
        "route": {**route, "group_interval": "1h"},
        "receivers": [{"name": "ops"}],
        "global": {"resolve_timeout": "1d", "max_alerts": 10**6},
        **more,
    }


def alert(number: int, name: str = "") -> Event:
    labels = {"alertname": name or f"alert-{number % 50}", "host": f"host-{number}"}
    return create_event(number, EventType.ERROR, topic="jobs", labels=labels)


def measure() -> Iterator[Result]:
    be_quiet()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {"sqlite": f"sqlite:///{folder}/alerts.db"}
        url, reason = start_server("postgres", stack)
        if reason:
            yield Result("PostgreSQL", "", math.nan, None, rate=True, detail=f"skipped: {reason}")
        else:
            urls["postgres"] = url
        yield asyncio.run(publishing(urls["sqlite"]))
        for kind, target in (("sqlite", 10_000), ("postgres", 5_000)):
            if kind in urls:
                yield asyncio.run(passing(kind, urls[kind], target))
        for alerts, limit in ((0, 4.0), (MANY, LEASE + 2.0)):
            yield asyncio.run(taking_over(f"sqlite:///{folder}/takeover-{alerts}.db", alerts, limit))
        yield asyncio.run(standing_by(f"sqlite:///{folder}/standby.db"))


async def publishing(url: str) -> Result:
    """Compare what a publisher spends with a shared state and without, in turn."""
    costs: dict[bool, list[float]] = {False: [], True: []}
    events = [alert(number) for number in range(ALERTS // 2)]
    for number in range(2 * ROUNDS):
        shared = bool(number % 2)
        stream = InMemoryStream()
        state = {"state": {"url": url, "name": f"publishing-{number}"}} if shared else {}
        async with attach(stream, AlertSink(config("1h", **state), {"ops": Inbox()})) as attachment:
            start = time.thread_time()
            for event in events:
                stream.publish_nowait(event)
            costs[shared].append((time.thread_time() - start) / len(events) * 1e6)
            await attachment.flush(30)
    with_state, without = statistics.median(costs[True]), statistics.median(costs[False])
    detail = f"{with_state:.1f} µs against {without:.1f} µs"
    return Result(
        "publish an alert, state on SQLite", "no state", with_state / without, 3.0, rate=False, detail=detail
    )


async def passing(kind: str, url: str, target: int) -> Result:
    """Measure how many new alerts a second go through the log and the engine, and are saved."""
    rates = []
    for number in range(ROUNDS):
        async with DurableStream(open_store(url), f"passing-{number}") as stream:
            sink = AlertSink(config("1h"), {"ops": Inbox()})
            async with attach(stream, sink):
                events = [alert(each) for each in range(ALERTS)]
                start = time.perf_counter()
                await publish_all(stream, events)
                await sink.flush()
                rates.append(ALERTS / (time.perf_counter() - start))
    rate = statistics.median(rates)
    work = f"new alerts through log, engine and saved state, {NAMES[kind]}"
    return Result(work, f"{target:,} a second", rate / target, 1.0, rate=True, detail=f"{rate:,.0f} a second")


async def publish_all(stream: Stream, events: Sequence[Event]) -> None:
    for number, event in enumerate(events):
        if number % 500:
            stream.publish_nowait(event)
        else:
            await stream.publish(event)


async def taking_over(url: str, alerts: int, limit: float) -> Result:
    """Measure the time from SIGKILL of the process that notifies to the next notification."""
    times = []
    for number in range(ROUNDS if not alerts else 1):
        name = f"takeover-{number}"
        holder = await start("hold", url, name, str(alerts))
        inbox = Inbox()
        async with DurableStream(open_store(url), name, lease=LEASE) as stream:
            sink = AlertSink(config(), {"ops": inbox})
            async with attach(stream, sink):
                while alerts > sum([len(group.alerts) for group in await sink.groups()]):  # noqa: ASYNC110 - as in `until`
                    await asyncio.sleep(0.1)
                holder.kill()
                begin = time.monotonic()
                await stream.publish(alert(0, "after the kill"))
                await until(partial(inbox.received.__contains__, "after the kill"))
                times.append(inbox.received["after the kill"] - begin)
        await holder.wait()
    seconds = statistics.median(times)
    work = f"from SIGKILL to the next notification, lease {LEASE:g} s" + (
        f", {alerts:,} active alerts" if alerts else ""
    )
    return Result(work, f"{limit:g} s", seconds / limit, 1.0, rate=False, detail=f"{seconds:.2f} s")


async def standing_by(url: str) -> Result:
    """Measure the CPU time of a process on standby while another one notifies."""
    async with DurableStream(open_store(url), "standby") as stream:
        sink = AlertSink(config("1h"), {"ops": Inbox()})
        async with attach(stream, sink):
            other = await start("stand by", url, "standby", "0")
            assert other.stdin
            assert other.stdout

            async def cpu() -> float:
                other.stdin.write(b"\n")  # type: ignore[union-attr]
                return float(await other.stdout.readline())  # type: ignore[union-attr]

            before, begin = await cpu(), time.monotonic()
            for number in range(PER_SECOND * SECONDS):
                await stream.publish(alert(number))
                await asyncio.sleep(max(0.0, begin + number / PER_SECOND - time.monotonic()))
            share = (await cpu() - before) / (time.monotonic() - begin)
            other.stdin.close()
            await other.wait()
    return Result(
        f"CPU of a standby while {PER_SECOND} alerts a second pass",
        "5 % of a core",
        share / 0.05,
        1.0,
        rate=False,
        detail=f"{share * 100:.1f} %",
    )


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - of objects that have no event for it
        await asyncio.sleep(0.01)


# The other process


async def start(what: str, *arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, what, *arguments), stdin=pipe, stdout=pipe
    )
    assert process.stdout
    await process.stdout.readline()  # it is ready
    return process


async def live(what: str, url: str, name: str, alerts: int) -> None:
    """Notify or stand by, and write the CPU time so far for each line of standard input."""
    be_quiet()
    async with DurableStream(open_store(url), name, lease=LEASE) as stream:
        sink = AlertSink(config(), {"ops": Inbox()})
        async with attach(stream, sink):
            wanted = NotifierRole.HOLDER if what == "hold" else NotifierRole.STANDBY
            await until(lambda: sink.role is wanted)
            await publish_all(stream, [alert(number) for number in range(alerts)])
            await sink.flush()
            print(0, flush=True)
            while await asyncio.to_thread(sys.stdin.readline):
                print(time.process_time(), flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(live(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
    else:
        for result in measure():
            bar = "" if result.bar is None else f"bar {result.bar}"
            print(result.work, f"{result.ratio:.2f} x {bar}", result.detail, sep="\n  ", flush=True)
