"""`run_once` in several processes, whose holders are killed, stopped and ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from durable.stores import make_place
from helpers import DEADLINE

LEASE = 2.0
SLACK = DEADLINE  # for a machine with other work
PROGRAM = """
    import asyncio, os, signal, sys
    from codomyrmex.integrations.durable import DurableStream, open_store, run_once
    from codomyrmex.integrations.service_mesh import EnvoyAdmin

    async def main(url, envoy, lease):
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        admin = f"{envoy}/{os.getpid()}"
        async with DurableStream(open_store(url), lease=lease) as stream:
            async with run_once(stream, "envoy", lambda: EnvoyAdmin(admin, stream, 0.05), lease=lease):
                print("ready", flush=True)
                await ended.wait()

    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
"""


class Envoy(BaseHTTPRequestHandler):
    """An admin endpoint that notes which process asks."""

    polls: list[tuple[float, int]]

    def do_GET(self):
        _, pid, path = self.path.split("/", 2)
        if path.startswith("stats"):
            self.polls.append((time.monotonic(), int(pid)))
        body = b'{"cluster_statuses": []}' if path.startswith("clusters") else b""
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Workers:
    """Processes that take part, and the endpoint that they poll."""

    def __init__(self, url):
        self.handler = type("Polled", (Envoy,), {"polls": []})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.envoy = f"http://127.0.0.1:{self.server.server_port}"
        self.url = url
        self.processes = {}

    def start(self):
        command = [sys.executable, "-c", textwrap.dedent(PROGRAM), self.url, self.envoy, str(LEASE)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.processes[process.pid] = process
        assert process.stdout.readline() == "ready\n"
        return process

    def polling(self, after):
        """Return which processes have polled after a moment."""
        return {pid for moment, pid in tuple(self.handler.polls) if moment > after}

    def wait_for_holder(self, after, limit, *, other_than=None):
        """Return who has polled since a moment, and how many seconds later that was."""
        while time.monotonic() < after + limit:
            for moment, pid in tuple(self.handler.polls):
                if moment > after and pid != other_than:
                    return pid, moment - after
            time.sleep(0.01)
        raise AssertionError(f"nobody has taken over within {limit:g}s")

    def wait_until_one_polls(self):
        """Return the only process that has polled for a while, once there is only one."""
        deadline = time.monotonic() + DEADLINE
        while True:
            moment = time.monotonic()
            time.sleep(LEASE)
            found = self.polling(moment)
            if len(found) == 1:
                return found.pop()
            assert time.monotonic() < deadline, f"{len(found)} processes poll"

    def close(self):
        for process in self.processes.values():
            process.kill()
            process.send_signal(signal.SIGCONT)
            process.wait(DEADLINE)
            process.stdout.close()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(params=["sqlite", "postgres", "redis", "nats"])
def workers(request, servers, tmp_path):
    workers = Workers(make_place(request.param, servers, tmp_path).url)
    yield workers
    workers.close()


def test_another_process_polls_when_the_holder_is_killed_stopped_or_ends(workers):
    for _ in range(3):
        workers.start()
    holder, _ = workers.wait_for_holder(0.0, time.monotonic() + DEADLINE)
    moment = time.monotonic()
    time.sleep(LEASE * 1.5)
    assert workers.polling(moment) == {holder}  # the others stand by

    moment = time.monotonic()
    workers.processes[holder].kill()
    second, seconds = workers.wait_for_holder(moment + 0.1, LEASE + 1 + SLACK, other_than=holder)
    print(f"killed: taken over after {seconds:.1f}s")
    workers.start()

    moment = time.monotonic()
    stopped = workers.processes[second]
    stopped.send_signal(signal.SIGSTOP)
    third, seconds = workers.wait_for_holder(moment, LEASE + 1 + SLACK, other_than=second)
    print(f"stopped: taken over after {seconds:.1f}s")
    stopped.send_signal(signal.SIGCONT)
    assert workers.wait_until_one_polls() == third  # the other one finds out that its lease is over

    moment = time.monotonic()
    ended = workers.processes[third]
    ended.send_signal(signal.SIGTERM)
    _, seconds = workers.wait_for_holder(moment, 1 + SLACK, other_than=third)
    print(f"ended: taken over after {seconds:.1f}s")
    assert ended.wait(DEADLINE) == 0
    last = max(moment for moment, pid in workers.handler.polls if pid == third)
    first = min(at for at, pid in workers.handler.polls if pid != third and at > moment)
    assert last < first  # it has stopped before the other one started
