"""The deployment examples at work: the commands of docs/deployment.md, with processes that are killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest
from codomyrmex.streaming import SSEDecoder
from deployment import BIN, EXAMPLES, PATIENCE, Nginx, command, instructions
from durable.servers import PASSWORD, free_port, need
from durable.stores import make_place
from helpers import DEADLINE

NOISE = ("Traceback", "Exception ignored", "Task was destroyed", "Bad file")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def wait_until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


class Pager:
    """Receives the messages of the alerts."""

    def __init__(self) -> None:
        pager = self
        self.messages: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                pager.messages.append(message["title"])
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"json://127.0.0.1:{self._server.server_port}/pager"

    def about(self, item: str) -> int:
        """Return the number of messages about an item."""
        return sum(f"item={item})" in message for message in self.messages)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Shop:
    """The files of the examples in a folder of their own, and their processes.

    A lease lasts a second instead of ten, so that tests need not wait for it.
    """

    def __init__(self, folder: Path, store: str, pager: str = "json://127.0.0.1:9/") -> None:
        self.folder = folder / "shop"
        shutil.copytree(EXAMPLES, self.folder)
        module = self.folder / "shop_stream.py"
        text, changes = re.subn(r'(shop\.db"\)\))\)', r"\1, lease=1.0)", module.read_text())
        assert changes == 1
        module.write_text(text)
        self.log = folder / "log"
        self.environment = os.environ | {
            "CODOMYRMEX_STORE": store,
            "PAGER": pager,
            "HOME": str(folder),
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        self.processes: list[psutil.Popen] = []

    def start(self, *words: str, folder: Path | None = None) -> psutil.Popen:
        with self.log.open("ab") as log:
            process = psutil.Popen(
                words,
                cwd=folder or self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def end(self, process: psutil.Popen) -> None:
        """End a process in order, and check that it does."""
        process.terminate()
        assert process.wait(PATIENCE) in {0, -signal.SIGTERM}

    def kill_all(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def check_noise(self) -> None:
        text = self.log.read_text()
        assert [noise for noise in NOISE if noise in text] == []


@pytest.fixture
def pager() -> Iterator[Pager]:
    pager = Pager()
    yield pager
    pager.close()


@contextmanager
def opened(folder: Path, store: str, pager: Pager | None = None) -> Iterator[Shop]:
    shop = Shop(folder, store) if pager is None else Shop(folder, store, pager.url)
    try:
        yield shop
        shop.check_noise()
    except BaseException:
        print(shop.log.read_text())
        raise
    finally:
        shop.kill_all()


def order(shop: httpx.Client, item: str) -> str:
    """Place an order as soon as the shop answers, and return its id."""

    def place() -> str | None:
        with suppress(httpx.TransportError):
            answer = shop.post(f"/orders/{item}")
            assert answer.status_code in {201, 502, 504}, answer.text
            if answer.status_code == 201:
                return answer.json()["id"]
        return None

    return wait_until(place)


def order_many(shop: httpx.Client, item: str, number: int) -> list[str]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda _: order(shop, item), range(number)))


class Browser:
    """An `EventSource`: it reads server-sent events, and continues where it was when it is disconnected."""

    def __init__(self, shop: httpx.Client) -> None:
        self.ids: list[str] = []
        self.resumed: list[bool] = []
        self._shop = shop
        self._last_event_id = ""
        self._ended = False
        threading.Thread(target=self._run, daemon=True).start()
        wait_until(lambda: self.resumed)

    def _run(self) -> None:
        while not self._ended:
            with suppress(httpx.HTTPError, RuntimeError):  # RuntimeError: the client is closed
                self._read()
            time.sleep(0.05)

    def _read(self) -> None:
        headers = {"Last-Event-ID": self._last_event_id} if self._last_event_id else {}
        decoder = SSEDecoder()
        with self._shop.stream("GET", "/events/", headers=headers, timeout=60) as answer:
            answer.raise_for_status()
            for chunk in answer.iter_bytes():
                for record in decoder.feed(chunk):
                    data = json.loads(record.data)
                    if record.event == "connect":
                        self.resumed.append(data.get("resumed", not headers))
                    elif record.event != "disconnect":
                        self.ids.append(data["id"])
                self._last_event_id = decoder.last_event_id

    def close(self) -> None:
        self._ended = True


@contextmanager
def browsing(shop: httpx.Client) -> Iterator[Browser]:
    browser = Browser(shop)
    yield browser
    browser.close()


def local(port: int) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE)


def through(nginx: Nginx) -> httpx.Client:
    """Return a client that uses the public name, and the origin of its pages."""

    def name(request: httpx.Request) -> None:
        request.extensions["sni_hostname"] = "shop.example.com"

    return httpx.Client(
        base_url=f"https://127.0.0.1:{nginx.port}",
        headers={"Host": f"shop.example.com:{nginx.port}", "Origin": nginx.url},
        verify=ssl.create_default_context(cafile=nginx.certificate),
        timeout=DEADLINE,
        event_hooks={"request": [name]},
    )


def workers_of(server: psutil.Popen) -> list[psutil.Process]:
    """Return the workers of a server."""
    return [child for child in server.children() if "resource_tracker" not in " ".join(child.cmdline())]


# uvicorn


def test_workers_of_uvicorn_show_each_browser_all_events_and_send_one_message(tmp_path, pager):
    with opened(tmp_path, f"sqlite:///{tmp_path}/shop.db", pager) as shop, local(free_port()) as client:
        # Requests may take longer than the test waits for the end.
        words = command("uvicorn", "asgi:app", workers=2, **{"timeout-graceful-shutdown": 3 * int(PATIENCE)})
        server = shop.start(*words, "--port", str(client.base_url.port))
        order(client, "tea")
        with browsing(client) as one, browsing(client) as other:
            ids = order_many(client, "unicorn", 20)
            for browser in (one, other):
                wait_until(lambda browser=browser: set(ids) <= set(browser.ids))
                assert Counter(browser.ids).most_common(1)[0][1] == 1
            wait_until(lambda: pager.about("unicorn"))
            shop.end(server)  # although browsers are connected
        assert pager.about("unicorn") == 1


# gunicorn


def recorded(shop: Shop) -> int:
    """Return how many messages are recorded as sent: one that is in flight at a kill may be sent again."""
    with closing(sqlite3.connect(shop.environment["CODOMYRMEX_STORE"].removeprefix("sqlite:///"))) as file:
        return file.execute("SELECT count(*) FROM saved WHERE name LIKE '%/log/%'").fetchone()[0]


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["without preload", "preload"])
def test_workers_of_gunicorn_send_one_message_also_after_each_was_killed(preload, tmp_path, pager):
    with opened(tmp_path, f"sqlite:///{tmp_path}/shop.db", pager) as shop, local(free_port()) as client:
        words = command("gunicorn", "wsgi:app", *preload, workers=2)
        server = shop.start(*words, "--bind", f"127.0.0.1:{client.base_url.port}")
        order_many(client, "unicorn-0", 20)
        wait_until(lambda: recorded(shop) == 1)
        for number, worker in enumerate(wait_until(lambda: two(workers_of(server))), 1):
            worker.kill()
            order_many(client, f"unicorn-{number}", 20)
            wait_until(lambda number=number: recorded(shop) == number + 1)
        wait_until(lambda: two(workers_of(server)))
        assert client.get("/readyz").json() == {"status": "ready"}
        shop.end(server)
        assert [pager.about(f"unicorn-{number}") for number in range(3)] == [1, 1, 1]


def two(found: list[Any]) -> list[Any] | None:
    return found if len(found) == 2 else None


def test_gunicorn_serves_the_asgi_application_too(tmp_path):
    need(find_spec("uvicorn_worker"), "uvicorn-worker")
    with opened(tmp_path, f"sqlite:///{tmp_path}/shop.db") as shop, local(free_port()) as client:
        words = command("gunicorn", "asgi:app", workers=2)
        bind = f"127.0.0.1:{client.base_url.port}"
        server = shop.start(*words, "--bind", bind, "--preload")
        order(client, "tea")
        with browsing(client) as browser:
            ids = order_many(client, "tea", 20)
            wait_until(lambda: set(ids) <= set(browser.ids))
            shop.end(server)


# Celery


def test_the_pool_of_celery_stores_every_event_and_sends_one_message(tmp_path, pager, redis_server):
    with opened(tmp_path, f"sqlite:///{tmp_path}/shop.db", pager) as shop, local(free_port()) as client:
        shop.environment["BROKER"] = redis_server.url
        tasks = ["from tasks import pack", *[f"pack.delay({item!r})" for item in ["tea", "unicorn"] * 10]]
        web = shop.start(*command("uvicorn", "asgi:app", workers=1), "--port", str(client.base_url.port))
        order(client, "cake")
        with browsing(client) as browser:
            assert shop.start(str(BIN / "python"), "-c", "\n".join(tasks)).wait(PATIENCE) == 0
            words = command("celery", "worker", concurrency=2)
            # A process of the pool that has reached its limit ends without any notice.
            worker = shop.start(*words, "--without-mingle", "--max-tasks-per-child", "10")
            wait_until(lambda: len(browser.ids) == 20)
            wait_until(lambda: pager.about("unicorn"))
            shop.end(worker)
        shop.end(web)
        assert pager.about("unicorn") == 1


# The container and Kubernetes


class Pods:
    """Containers of the shop, each in a folder with the files that the container file copies."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._steps = instructions()
        self.folder = shop.folder.with_name("app")
        self.folder.mkdir()
        for line in self._steps["COPY"]:
            for name in line.split()[:-1]:
                shutil.copy(shop.folder / name, self.folder)

    def start(self, port: int) -> psutil.Popen:
        """Run the command of the container, on a port of its own."""
        [words] = [json.loads(line) for line in self._steps["CMD"]]
        words[words.index("0.0.0.0")] = "127.0.0.1"
        words[words.index("--port") + 1] = str(port)
        return self._shop.start(*words, folder=self.folder)

    def wait_until_ready(self, port: int) -> None:
        with local(port) as client:

            def ready() -> bool:
                with suppress(httpx.TransportError):
                    return client.get("/health/readyz").status_code == 200
                return False

            wait_until(ready)
            assert client.get("/health/livez").json() == {"status": "live"}


async def change_schema(url: str, **values: int) -> None:
    """Mark the tables of a store as those of another version."""
    url, _, schema = url.partition("?schema=")
    connection = await asyncpg.connect(url)
    try:
        for name, value in values.items():
            await connection.execute(f'UPDATE "{schema}".meta SET {name} = {value}')
    finally:
        await connection.close()


async def test_a_rolling_update_behind_nginx_loses_no_order_and_no_event_of_a_browser(
    tmp_path, pager, servers
):
    store = make_place("postgres", servers, tmp_path).url
    user, host = store.split("@")
    ports = [free_port() for _ in range(4)]  # three replicas, and one that is new
    (tmp_path / "nginx").mkdir()
    with (
        opened(tmp_path, f"{user.rpartition(':')[0]}@{host}", pager) as shop,
        Nginx(tmp_path / "nginx", ports) as nginx,
    ):
        shop.environment["PGPASSWORD"] = PASSWORD
        pods = Pods(shop)
        running = {port: pods.start(port) for port in ports[:3]}
        for port in running:
            pods.wait_until_ready(port)
        with through(nginx) as client, browsing(client) as browser:
            ids: list[str] = []
            updating = True

            def order_on() -> None:
                while updating:
                    ids.append(order(client, "tea"))
                    time.sleep(0.02)

            with ThreadPoolExecutor(2) as customers:
                for _ in range(2):
                    customers.submit(order_on)
                # The new version has a newer schema, which the old one can use.
                await change_schema(store, version=2)
                free = ports[3]
                for port in ports[:2]:
                    running[free] = pods.start(free)
                    pods.wait_until_ready(free)
                    shop.end(running.pop(port))
                    free = port
                running[ports[2]].kill()  # the last one of the old version
                order_many(client, "unicorn", 10)
                updating = False
            wait_until(lambda: pager.about("unicorn"))
            wait_until(lambda: set(ids) <= set(browser.ids))
            assert Counter(browser.ids).most_common(1)[0][1] == 1
            assert len(browser.resumed) > 1
            assert all(browser.resumed[1:])
        shop.check_noise()
        # A version that cannot use the schema any more is refused, and the running ones go on.
        await change_schema(store, compatible_since=2)
        refused = pods.start(free)
        assert refused.wait(PATIENCE) == 3
        assert "needs a newer codomyrmex-streaming" in shop.log.read_text()
        shop.log.write_text("")  # uvicorn has written a traceback
