"""A process that is killed at random moments and started again on the same state: what arrives how often.

In CI it is killed 50 times, elsewhere 12 times; `ALERT_KILLS` says another number.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

KILLS = int(os.environ.get("ALERT_KILLS", "50" if os.environ.get("CI") else "12"))
LONGEST = 0.3  # seconds that a process lives at most once it has begun

CONFIG = """\
route:
  receiver: ops
  group_by: [alertname]
  group_wait: 50ms
  group_interval: 100ms
  repeat_interval: 1h
receivers:
  - name: ops
    apprise_configs:
      - {url: "json://127.0.0.1:PORT", title: "{{ group_labels.alertname }}", body: "{{ status }}"}
global: {resolve_timeout: 1d}
state: {url: state.db, lease: 300ms}
"""

# Each life is a fork of one process that has imported all there is to import, as that is what takes time.
PROGRAM = """
import asyncio, os, sys
import apprise
from codomyrmex.integrations import attach
from codomyrmex.integrations.notification import AlertSink, NotifierRole
from codomyrmex.streaming import InMemoryStream, create_event

apprise.Apprise().add("json://127.0.0.1")  # loads its plugins

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

async def live(life, last):
    stream, sink = InMemoryStream(), AlertSink(sys.argv[1], watch=False)

    async def tell(word, name, **metadata):
        await stream.publish(create_event(None, topic="jobs", labels={"alertname": name}, **metadata))
        await sink.flush()
        say(word, name)

    async with attach(stream, sink):
        while sink.role is not NotifierRole.HOLDER:  # until the lease of the one before has ended
            await asyncio.sleep(0.01)
        say("ready", os.getpid())
        for number in range(0 if last else 4):
            await tell("fired", f"{life}-{number}")
        while (groups := await sink.groups()) or not last:
            for group in groups:  # what people were told of by an earlier process is over
                name = group.labels["alertname"]
                if group.notified and group.status == "firing" and not name.startswith(f"{life}-"):
                    await tell("ended", name, status="resolved")
            await asyncio.sleep(0.02)

lives = int(sys.argv[2])
for life in range(lives + 1):
    if (child := os.fork()) == 0:
        asyncio.run(live(life, life == lives))
        os._exit(0)
    say("child", child)
    say("gone", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


class Service(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[tuple[str, str]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing about clients that were killed."""


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.received.append((body["title"], body["message"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
        """Log nothing."""


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_every_group_that_fired_is_notified_and_resolved_and_hardly_any_twice(service, tmp_path):
    config = tmp_path / "alerts.yaml"
    config.write_text(CONFIG.replace("PORT", str(service.server_port)))
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(config), str(KILLS)]
    fired: list[str] = []
    ends: list[int] = []

    def kill(pid: str, seconds: float) -> None:
        threading.Timer(moments.uniform(0, seconds), os.kill, (int(pid), signal.SIGKILL)).start()

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        for line in program.stdout:
            what, *words = line.split()
            if what == "child":
                early = moments.random() < 0.2  # while it opens its state and its channel
                if early and len(ends) < KILLS:
                    kill(words[0], 0.05)
            elif what == "ready":
                if not early and len(ends) < KILLS:
                    kill(words[0], LONGEST)
            elif what == "gone":
                ends.append(int(words[0]))
            elif what == "fired":
                fired.append(words[0])
    assert ends == [-signal.SIGKILL] * KILLS + [0], f"seed {seed}"

    told: dict[str, list[str]] = {}
    for name, status in service.received:
        told.setdefault(name, []).append(status)
    lost = {name: told.get(name) for name in fired if {*told.get(name, ())} != {"firing", "resolved"}}
    assert lost == {}, f"seed {seed}"
    assert {name: each for name, each in told.items() if sorted(each) != each} == {}, f"seed {seed}"
    again = {what: count - 1 for what, count in Counter(service.received).items() if count > 1}
    assert sum(again.values()) <= KILLS, f"seed {seed}: {again}"
    assert fired, "all lives were too short to tell anything"
