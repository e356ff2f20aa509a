"""A durable stream in the processes of gunicorn, uvicorn, Celery and `multiprocessing`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from durable.servers import free_port, need
from durable.stores import Place, make_place

KINDS = ["sqlite", "postgres", "redis", "nats"]
PATIENCE = 30.0  # seconds

SHOP = """
import os
from codomyrmex.integrations import DeliveryPolicy, Sink, attach, attach_blocking
from codomyrmex.integrations.durable import DurableStream, open_store
from codomyrmex.streaming import create_event

class Out(Sink):
    name = "out"
    async def send(self, events):
        for event in events:
            with open(os.environ["OUT"], "a") as file:
                file.write(f"{os.getpid()} {event.data}\\n")

NOW = DeliveryPolicy(batch_age=0)
stream = DurableStream(open_store(os.environ["STORE"]), lease=1.0)
"""

WSGI = """
attach_blocking(stream, Out(), policy=NOW).start()

def app(environ, start_response):
    stream.publish_nowait(create_event(environ["QUERY_STRING"]))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""

ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        async with stream, attach(stream, Out(), policy=NOW):
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await stream.publish(create_event(scope["query_string"].decode()))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""

CELERY = """
import time
from celery import Celery

app = Celery("shop", broker="filesystem://", broker_transport_options={
    name: os.environ["BROKER"] for name in ("data_folder_in", "data_folder_out", "control_folder")
})
app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)
attach_blocking(stream, Out(), policy=NOW).start()

@app.task(name="pack")
def pack(number):
    stream.publish_nowait(create_event(number))
    time.sleep(0.05)
"""

SPAWN = """
import multiprocessing

def work(number):
    from shop import NOW, Out, attach_blocking, create_event, stream
    with attach_blocking(stream, Out(), policy=NOW):
        stream.publish_nowait(create_event(number))

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=2) as pool:
        pool.map(work, range(6), chunksize=1)
        pool.close()
        pool.join()
"""

# Two processes that end at the same time can each leave an event to the other: it stays in the store.
LATER = """
import time
from shop import NOW, Out, attach_blocking, stream

with attach_blocking(stream, Out(), policy=NOW):
    time.sleep(60)
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


class Shop:
    """The folder of an application whose sink writes each event, and who delivered it, into a file."""

    def __init__(self, place: Place, folder: Path, program: str) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.errors = folder / "errors"
        self.broker = folder / "broker"
        self.broker.mkdir()
        self.program("shop", SHOP + program)
        self.environment = os.environ | {
            "STORE": place.url,
            "OUT": str(self.out),
            "BROKER": str(self.broker),
            "HOME": str(folder),
        }
        self.port = free_port()

    def program(self, name: str, code: str) -> str:
        path = self.folder / f"{name}.py"
        path.write_text(textwrap.dedent(code))
        return str(path)

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with self.errors.open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, *command],
                cwd=self.folder,
                env=self.environment,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )

    @contextmanager
    def running(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command until the end of the context, and end it with SIGTERM."""
        process = self.start("-m", *command)
        try:
            yield process
            process.terminate()
            assert process.wait(PATIENCE) in {0, -signal.SIGTERM}, self.errors.read_text()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def get(self, query: str) -> int:
        """Send a request as soon as the server answers, and return which process has answered."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{self.port}/?{query}", timeout=PATIENCE
                ) as answer:
                    return int(answer.read())
            except OSError:
                assert time.monotonic() < deadline, self.errors.read_text()
                time.sleep(0.05)

    def lines(self) -> list[tuple[int, str]]:
        text = self.out.read_text() if self.out.exists() else ""
        return [(int(pid), data) for pid, _, data in (line.partition(" ") for line in text.splitlines())]

    def wait_for(self, number: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while len(self.lines()) < number:
            assert time.monotonic() < deadline, (self.lines(), self.errors.read_text())
            time.sleep(0.02)

    def check_noise(self) -> None:
        errors = self.errors.read_text()
        for noise in ("Traceback", "Exception ignored", "Task was destroyed", "Bad file"):
            assert noise not in errors, errors


def publish_many(shop: Shop, published: list[str], number: int) -> set[int]:
    """Publish events, and return the processes that did."""
    events = [str(len(published) + count) for count in range(number)]
    published += events
    with ThreadPoolExecutor(8) as pool:
        return set(pool.map(shop.get, events))


@pytest.mark.parametrize("options", [[], ["--preload"], ["--preload", "--threads=4"]], ids=" ".join)
@pytest.mark.parametrize("kind", KINDS)
def test_workers_of_gunicorn_deliver_each_event_once_and_take_over_from_a_killed_one(
    kind, options, servers, tmp_path
):
    need(find_spec("gunicorn"), "gunicorn")
    shop = Shop(make_place(kind, servers, tmp_path), tmp_path, WSGI)
    # A worker that is ended while it starts misses that, and gunicorn waits for it.
    limits = ["--workers=3", "--graceful-timeout=5", f"--bind=127.0.0.1:{shop.port}"]
    command = ["gunicorn", *limits, *options, "shop:app"]
    published, answered = [], set()
    with shop.running(*command) as process:
        while len(answered) < 3:
            answered |= publish_many(shop, published, 20)
        shop.wait_for(len(published))
        [deliverer] = {pid for pid, _ in shop.lines()}
        if deliverer == process.pid:  # it was loaded before the fork, and delivers
            [*_, deliverer] = answered
        os.kill(deliverer, signal.SIGKILL)
        publish_many(shop, published, 20)
        shop.wait_for(len(published))
        publish_many(shop, published, 20)
    with shop.running(*command):  # what the last of them did not deliver is left in the store
        shop.wait_for(len(published))
    delivered = Counter(data for _, data in shop.lines())
    assert sorted(delivered) == sorted(published)
    # A worker that is killed may have delivered an event without having saved that.
    assert sum(delivered.values()) - len(delivered) <= 1
    shop.check_noise()


@pytest.mark.parametrize("kind", KINDS)
def test_workers_of_uvicorn_deliver_each_event_once(kind, servers, tmp_path):
    shop = Shop(make_place(kind, servers, tmp_path), tmp_path, ASGI)
    with shop.running("uvicorn", "--workers=3", f"--port={shop.port}", "shop:app"):
        publish_many(shop, [], 60)
        shop.wait_for(60)
    assert sorted(int(data) for _, data in shop.lines()) == list(range(60))
    shop.check_noise()


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_are_spawned_deliver_each_event_once(kind, servers, tmp_path):
    shop = Shop(make_place(kind, servers, tmp_path), tmp_path, "")
    assert shop.start(shop.program("spawn", SPAWN)).wait(PATIENCE) == 0, shop.errors.read_text()
    shop.program("later", LATER)
    with shop.running("later"):
        shop.wait_for(6)
    assert sorted(data for _, data in shop.lines()) == [str(number) for number in range(6)]
    shop.check_noise()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_the_pool_of_a_celery_worker_delivers_each_event_once(kind, servers, tmp_path):
    need(find_spec("celery"), "celery")
    shop = Shop(make_place(kind, servers, tmp_path), tmp_path, CELERY)
    send = "from shop import pack\nfor number in range(20): pack.delay(number)"
    assert shop.start("-c", send).wait(PATIENCE) == 0, shop.errors.read_text()
    with shop.running("celery", "-A", "shop", "worker", "--concurrency=3", "--without-mingle"):
        shop.wait_for(20)
    assert sorted(int(data) for _, data in shop.lines()) == list(range(20))
    shop.check_noise()
