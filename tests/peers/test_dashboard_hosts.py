"""The live page of several processes: the workers of a uvicorn server, and two hosts behind nginx.

nginx sends each request to the next host in turn, so nothing may depend on which process answers.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from durable.servers import Servers, free_port, need
from durable.stores import make_place

with suppress(ImportError):
    from playwright.sync_api import Browser, Page, expect

PATIENCE = 20.0
NGINX = Path("/usr/sbin/nginx")

PROGRAM = textwrap.dedent("""
    import os
    from contextlib import asynccontextmanager

    from codomyrmex.integrations import DeliveryPolicy, InlineSink, Sink, attach
    from codomyrmex.integrations.durable import DurableStream, open_store
    from codomyrmex.integrations.web import dashboard, event_ingest
    from starlette.applications import Starlette
    from starlette.routing import Mount

    class Warehouse(Sink):
        name = "warehouse"
        async def send(self, events):
            pass

    class Console(InlineSink):
        name = "console"
        def emit(self, event):
            pass

    stream = DurableStream(open_store(os.environ["STORE"]), lease=1)

    @asynccontextmanager
    async def lifespan(app):
        async with stream, attach(stream, Warehouse(), Console(), policy=DeliveryPolicy(batch_age=0)):
            yield

    app = Starlette(lifespan=lifespan, routes=[
        Mount("/ingest", event_ingest(stream)),
        Mount("/", dashboard(stream, reconnect_within=0)),
    ])
""")

CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream hosts {{
        server 127.0.0.1:{ports[0]};
        server 127.0.0.1:{ports[1]};
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://hosts;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_buffering off;
            proxy_read_timeout 1h;
        }}
    }}
}}
"""


class Servant:
    """A server in processes of its own, on a port that it keeps after a restart."""

    def __init__(self, command: Callable[[int], list[str]], folder: Path, **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command, self._folder = command, folder
        self._environment = {**os.environ, **environment}

    def start(self) -> Servant:
        self.process = subprocess.Popen(
            self._command(self.port),
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            time.sleep(0.05)
        raise TimeoutError("the server does not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def post(self, *numbers: int) -> None:
        events = [{"data": number, "metadata": {"topic": "orders.created"}} for number in numbers]
        httpx.post(f"{self.url}/ingest/", json=events, timeout=PATIENCE).raise_for_status()


def state(url: str) -> dict[str, Any]:
    """Return what the page shows, asked for over a connection of its own."""
    found: dict[str, Any] = httpx.get(f"{url}/api/state", timeout=PATIENCE).raise_for_status().json()
    return found


def wait_until_equal(*urls: str) -> dict[str, Any]:
    """Return what all servers show once it is the same."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = [state(url) for url in urls]
        for each in found:
            del each["now"]  # they are asked one after the other
            for topic in (each["topics"], *each["topics"]["shown"]):
                topic["counts"] = sum(topic["counts"])
            for process in each["processes"]:
                del process["reported_at"]
        if all(each == found[0] for each in found):
            return found[0]
        time.sleep(0.1)
    different = [each for each in found if each != found[0]]
    raise AssertionError(f"{json.dumps(found[0])}\n{json.dumps(different[0])}")


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Servant]]:
    servants: list[Servant] = []

    def launch(command: Callable[[int], list[str]], **environment: str) -> Servant:
        servants.append(Servant(command, tmp_path, **environment))
        return servants[-1].start()

    (tmp_path / "program.py").write_text(PROGRAM)
    yield launch
    for servant in servants:
        servant.process.send_signal(signal.SIGTERM)
    for servant in servants:
        with suppress(subprocess.TimeoutExpired):
            servant.process.wait(PATIENCE)
        servant.kill()


@pytest.fixture
def store(servers: Servers, tmp_path: Path) -> str:
    return make_place("postgres", servers, tmp_path).url


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[[str], Page]]:
    wrong: list[str] = []
    contexts = []

    def open_page(url: str) -> Page:
        contexts.append(browser.new_context())
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE * 1000)
        expect.set_options(timeout=PATIENCE * 1000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(url)
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def uvicorn(*options: str) -> Callable[[int], list[str]]:
    return lambda port: [sys.executable, "-m", "uvicorn", "program:app", "--port", str(port), *options]


def numbers(page: Page) -> list[int]:
    return [int(text) for text in page.locator("#event-list .event .summary").all_inner_texts()]


def test_the_page_goes_on_behind_nginx_when_one_of_two_hosts_is_killed(
    store: str, launch: Callable[..., Servant], open_page: Callable[[str], Page], tmp_path: Path
):
    need(NGINX.exists(), str(NGINX))
    hosts = {
        name: launch(uvicorn("--log-level", "error"), STORE=store, CODOMYRMEX_PROCESS=name)
        for name in ("host-a", "host-b")
    }
    ports = [host.port for host in hosts.values()]

    def nginx(port: int) -> list[str]:
        config = tmp_path / "nginx.conf"
        config.write_text(CONFIG.format(folder=tmp_path, port=port, ports=ports))
        return [str(NGINX), "-e", "stderr", "-p", str(tmp_path), "-c", str(config)]

    front = launch(nginx)
    front.post(1, 2, 3)
    page = open_page(front.url)
    processes = page.get_by_role("list", name="Processes").get_by_role("listitem")
    expect(processes).to_have_text([re.compile("running.*host-a"), re.compile("running.*host-b")])
    sinks = page.get_by_role("region", name="Sinks")
    expect(sinks).to_contain_text("ok in 2 processes")
    expect(sinks).to_contain_text(re.compile("(ok|standby) in host-a · (ok|standby) in host-b"))
    found = wait_until_equal(*(host.url for host in hosts.values()))
    assert found["topics"]["total"] == 3
    assert {sink["name"]: sink["delivered"] for sink in found["sinks"]} == {"console": 3, "warehouse": 3}

    expect(processes.filter(has_text="1 open page")).to_have_count(1)
    victim = "host-a" if "host-a" in processes.filter(has_text="1 open page").inner_text() else "host-b"
    survivor = "host-b" if victim == "host-a" else "host-a"
    hosts[victim].kill()
    for number in range(4, 20):
        front.post(number)
    expect(page.locator("#notice-text")).to_contain_text("Reconnected after")
    expect(page.locator("#event-list .event")).to_have_count(19)
    assert numbers(page) == list(range(19, 0, -1))
    expect(processes).to_have_text([re.compile(f"running.*{survivor}"), re.compile(f"gone.*{victim}")])
    expect(sinks).not_to_contain_text("standby in")  # it has taken over
    expect(page.locator("#figures")).to_contain_text("1 process, 1 gone")

    hosts[victim].start()
    expect(processes).to_have_count(3)  # the one that was killed is still shown
    found = wait_until_equal(*(host.url for host in hosts.values()))
    assert found["topics"]["total"] == 19
    assert sorted(each["state"] for each in found["processes"]) == ["gone", "running", "running"]


def test_all_workers_of_a_server_show_the_same_page_and_a_killed_one_is_replaced(
    launch: Callable[..., Servant], open_page: Callable[[str], Page], tmp_path: Path
):
    server = launch(
        uvicorn("--workers", "2", "--log-level", "error"), STORE=f"sqlite:///{tmp_path}/events.db"
    )
    server.post(*range(10))
    page = open_page(server.url)
    processes = page.get_by_role("list", name="Processes").get_by_role("listitem")
    expect(processes.filter(has_text="running")).to_have_count(2)
    found = wait_until_equal(*[server.url] * 12)
    assert [each["state"] for each in found["processes"]] == ["running", "running"]
    assert found["topics"]["total"] == 10
    expect(processes.filter(has_text="1 open page")).to_have_count(1)
    name = processes.filter(has_text="1 open page").locator("strong").inner_text()
    os.kill(int(name.rpartition(":")[2]), signal.SIGKILL)  # the worker that sends the events to the page
    expect(page.locator("#connection-text")).to_have_text("Live")
    server.post(*range(10, 15))
    expect(page.locator("#event-list .event")).to_have_count(15)
    assert numbers(page) == list(range(14, -1, -1))
    expect(processes.filter(has_text="gone")).to_have_text([re.compile(re.escape(name))])
    expect(processes.filter(has_text="running")).to_have_count(2)  # uvicorn has started another worker
    found = wait_until_equal(*[server.url] * 12)
    assert found["topics"]["total"] == 15
