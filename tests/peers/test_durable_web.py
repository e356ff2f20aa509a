"""Durable streams over HTTP: several processes on one SQLite file, clients that go from one to another."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from codomyrmex.streaming import SSEDecoder, SSERecord
from durable.servers import free_port, need

with suppress(ImportError):
    from playwright.sync_api import Browser, expect

PATIENCE = 20.0
EVENTS = 1_500

PROGRAM = textwrap.dedent("""
    import sys

    from codomyrmex.integrations.durable import DurableStream, SQLiteStore
    from codomyrmex.integrations.web import dashboard, event_ingest, event_stream, serve
    from starlette.applications import Starlette
    from starlette.routing import Mount

    file, port, heartbeat_interval = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    stream = DurableStream(SQLiteStore(file), lease=1)
    app = Starlette(routes=[
        Mount("/events", event_stream(stream, data="payload", heartbeat_interval=heartbeat_interval)),
        Mount("/ingest", event_ingest(stream)),
        Mount("/live", dashboard(stream, reconnect_within=0)),
    ])
    serve(app, port=port)
""")


def need_module(name: str) -> Any:
    with suppress(ImportError):
        return import_module(name)
    return need(None, name)


class Process:
    """A server in a process of its own, on a port that it keeps after a restart."""

    def __init__(self, folder: Path, heartbeat_interval: float = 15.0) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        program = folder / "program.py"
        program.write_text(PROGRAM)
        arguments = (folder / "events.db", self.port, heartbeat_interval)
        self._command = [sys.executable, str(program), *map(str, arguments)]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise TimeoutError("the server does not start")

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def post(self, *numbers: int, topic: str = "orders.created") -> None:
        events = [{"data": number, "metadata": {"topic": topic}} for number in numbers]
        httpx.post(f"{self.url}/ingest/", json=events, timeout=PATIENCE).raise_for_status()

    def read(self, last_event_id: str, count: int, **query: str) -> list[SSERecord]:
        """Return the first records: some number of events, or those up to a heartbeat."""
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        records: list[SSERecord] = []
        with (
            suppress(httpx.HTTPError),
            httpx.stream(
                "GET", f"{self.url}/events/", headers=headers, params=query, timeout=PATIENCE
            ) as response,
        ):
            decoder = SSEDecoder()
            for chunk in response.iter_bytes():
                records += decoder.feed(chunk)
                if len(records) > count or b": hb\n" in chunk or records[-1].event == "heartbeat":
                    break
        return records


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    processes: list[Process] = []

    def start(**options: Any) -> Process:
        processes.append(Process(tmp_path, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


def publish(process: Process, chance: random.Random) -> None:
    number = 0
    while number < EVENTS:
        size = min(chance.choice((1, 2, 50)), EVENTS - number)
        process.post(*range(number, number + size))
        number += size


def restart(process: Process) -> None:
    for _ in range(3):
        time.sleep(0.7)
        process.kill()
        process.start()


def test_a_client_that_goes_from_process_to_process_misses_and_repeats_nothing(start: Any):
    one, two = start(heartbeat_interval=0.3), start(heartbeat_interval=0.3)
    chance = random.Random(7)
    last_id = one.read("", 0)[0].id
    threads = [
        threading.Thread(target=publish, args=(one, random.Random(8))),
        threading.Thread(target=restart, args=(two,)),
    ]
    for thread in threads:
        thread.start()
    received: list[int] = []
    reports: list[Any] = []
    end = time.monotonic() + 60
    while len(received) < EVENTS and time.monotonic() < end:
        connect, *records = chance.choice((one, two)).read(last_id, chance.randrange(1, 150)) or [None]
        if connect is not None:
            reports.append(json.loads(connect.data))
        received += [json.loads(record.data) for record in records if record.event == "message"]
        last_id = records[-1].id if records else last_id
    for thread in threads:
        thread.join()
    assert received == list(range(EVENTS))
    assert len(reports) > 10
    assert all(report["resumed"] for report in reports)


def test_a_heartbeat_with_a_cursor_is_an_event_of_its_own_type_for_each_parser(start: Any):
    connect_sse = need_module("httpx_sse").connect_sse
    parse = need_module("sseclient").SSEClient
    process = start(heartbeat_interval=0.3)
    query = {"topic": "orders.paid"}
    with httpx.Client(timeout=PATIENCE) as client:
        with connect_sse(client, "GET", f"{process.url}/events/", params=query) as source:
            events = source.iter_sse()
            kinds = [next(events).event]
            process.post(1)
            heartbeat = next(events)
            process.post(2, topic="orders.paid")
            kinds += [heartbeat.event, next(events).event]
        assert kinds == ["connect", "heartbeat", "message"]
        assert (heartbeat.data, heartbeat.id[-2:]) == ("null", ":1")
        headers = {"Accept": "text/event-stream", "Last-Event-ID": heartbeat.id}
        with client.stream("GET", f"{process.url}/events/", params=query, headers=headers) as response:
            records = parse(response.iter_bytes()).events()
            assert json.loads(next(records).data) == {"resumed": True, "replayed": 1}
            assert (next(records).data, process.post(3)) == ("2", None)
            assert next(records).event == "heartbeat"


# Browsers


def test_the_live_page_goes_on_when_another_process_takes_over_the_port(start: Any, browser: Browser):
    one, two = start(), start()
    one.post(1)
    page = browser.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(f"{one.url}/live/")
    rows = page.locator("#event-list .event .summary")
    expect(rows).to_have_text(["1"])
    two.post(2)
    expect(rows).to_have_text(["2", "1"])
    one.kill()
    expect(page.locator("#connection-text")).to_contain_text("lost")
    two.post(3, 4)
    one.start()
    expect(rows).to_have_text(["4", "3", "2", "1"], timeout=PATIENCE * 1000)
    expect(page.locator("#notice-text")).to_contain_text("2 missed events loaded")
    expect(page.get_by_role("region", name="Store")).to_contain_text("ok")
    page.close()


def test_an_event_source_goes_on_from_its_last_heartbeat_at_another_process(start: Any, browser: Browser):
    one, two = start(heartbeat_interval=0.3), start()
    page = browser.new_page(bypass_csp=True)  # for wait_for_function
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(f"{one.url}/live/")
    page.evaluate("""() => {
        window.seen = [];
        const source = new EventSource("/events/?topic=orders.paid");
        for (const kind of ["connect", "heartbeat", "message"]) {
            source.addEventListener(kind, (event) => seen.push([kind, event.data, event.lastEventId]));
        }
    }""")
    page.wait_for_function("seen.length === 1")
    two.post(*range(5))  # nothing for this client
    page.wait_for_function("seen.at(-1)[0] === 'heartbeat' && seen.at(-1)[2].endsWith(':5')")
    one.kill()
    two.post(5, topic="orders.paid")
    one.start()
    page.wait_for_function("seen.at(-1)[0] === 'message' || seen.at(-2)[0] === 'message'")
    seen = [each for each in page.evaluate("seen") if each[0] != "heartbeat"]
    (_, _, first_id), (kind, report, last_id), (_, data, _) = seen
    assert (kind, json.loads(report), data) == ("connect", {"resumed": True, "replayed": 1}, "5")
    assert (first_id[-2:], last_id[-2:]) == (":0", ":5")
    page.close()
