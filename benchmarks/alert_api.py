"""`alert_api` against Debian's Alertmanager: posting alerts, and listing all groups.

The same client uses both servers in turn. If no Alertmanager is installed, no ratio is measured.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from codomyrmex.integrations import attach
from codomyrmex.integrations.notification import AlertSink
from codomyrmex.integrations.web import alert_api, serving
from codomyrmex.streaming import InMemoryStream
from measure import Result, compare

ALERTS, IN_POST, CONNECTIONS, ROUNDS = 20_000, 100, 4, 5
CONFIG = {
    "route": {
        "receiver": "team",
        "group_by": ["alertname", "cluster"],
        "group_wait": "1h",
        "routes": [{"matchers": [f'team="t{number}"'], "receiver": "team"} for number in range(40)],
    },
    "receivers": [{"name": "team"}],
}


def bodies(count: int) -> list[bytes]:
    """Return posts of alerts like those of Prometheus, which give each alert an end in the near future."""
    now = time.time()
    starts, ends = (time.strftime("%Y-%m-%dT%H:%M:%S.123Z", time.gmtime(at)) for at in (now - 60, now + 3600))
    alerts = [
        {
            "labels": {
                "alertname": f"Alert{number % 50}",
                "cluster": f"prod-{number % 7}",
                "instance": f"host-{number}.example.com:9100",
                "job": "node",
                "severity": "warning" if number % 5 else "critical",
                "team": f"t{number % 60}",
            },
            "annotations": {
                "summary": f"Something is wrong with host-{number}",
                "runbook": "https://runbooks/1",
            },
            "startsAt": starts,
            "endsAt": ends,
            "generatorURL": f"http://prometheus.example.com:9090/graph?g0.expr=up&g0.tab={number}",
        }
        for number in range(count)
    ]
    return [json.dumps(alerts[at : at + IN_POST]).encode() for at in range(0, count, IN_POST)]


class Client:
    """Sends requests over connections that are kept open during a round, each used by one thread."""

    def __init__(self, port: int) -> None:
        self.connections = [
            http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(CONNECTIONS)
        ]
        self.pool = ThreadPoolExecutor(CONNECTIONS)

    def post(self, posts: list[bytes]) -> int:
        parts = [posts[number::CONNECTIONS] for number in range(CONNECTIONS)]
        list(self.pool.map(self._post, self.connections, parts))
        return len(posts) * IN_POST

    def _post(self, connection: http.client.HTTPConnection, posts: list[bytes]) -> None:
        connection.close()  # the server may have closed it meanwhile
        for body in posts:
            connection.request("POST", "/api/v2/alerts", body, {"content-type": "application/json"})
            response = connection.getresponse()
            content = response.read()
            assert response.status == 200, content

    def get(self, path: str) -> bytes:
        connection = self.connections[0]
        connection.close()
        connection.request("GET", path)
        response = connection.getresponse()
        content = response.read()
        assert response.status == 200, content
        return content

    def groups(self) -> int:
        content = self.get("/api/v2/alerts/groups")
        assert content.count(b'"fingerprint"') == ALERTS
        return 1


@contextmanager
def server(command: list[str], port: int, folder: str) -> Iterator[Client]:
    with (
        (Path(folder) / f"{port}.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as process,
    ):
        try:
            client = Client(port)
            deadline = time.monotonic() + 30
            while not is_ready(client):
                assert time.monotonic() < deadline, (Path(folder) / f"{port}.log").read_text()
                time.sleep(0.05)
            yield client
        finally:
            process.kill()


def is_ready(client: Client) -> bool:
    try:
        return bool(client.get("/-/ready"))
    except (OSError, http.client.HTTPException, AssertionError):
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def serve(file: str, port: int) -> None:
    sink = AlertSink(file)
    async with attach(InMemoryStream(), sink), serving(alert_api(sink), port=port):
        await asyncio.Event().wait()


def measure() -> Iterator[Result]:
    program = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    posts = bodies(ALERTS)
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        file = Path(folder) / "alertmanager.yml"
        file.write_text(json.dumps(CONFIG))
        own_port = free_port()
        command = [sys.executable, str(Path(__file__).absolute()), str(file), str(own_port)]
        own = stack.enter_context(server(command, own_port, folder))
        theirs = None
        if program is not None:
            port = free_port()
            options = [f"--storage.path={folder}/data", "--cluster.listen-address="]
            command = [program, f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}", *options]
            theirs = stack.enter_context(server(command, port, folder))
        for work, use, bar, rate in cases(posts):
            if theirs is None:
                start = time.perf_counter()
                units = use(own)
                detail = f"{(time.perf_counter() - start) / units * 1e3:.3f} ms; no Alertmanager is installed"
                yield Result(work, "Alertmanager", math.nan, None, rate, detail)
                continue
            yield compare(
                work,
                f"Alertmanager {version(theirs)}",
                partial(use, own),
                partial(use, theirs),
                bar=bar,
                rate=rate,
                rounds=ROUNDS,
            )


def cases(posts: list[bytes]) -> list[tuple[str, Callable[[Client], int], float, bool]]:
    return [
        (f"alert_api: a post of {IN_POST} alerts, per alert", lambda client: client.post(posts), 0.3, True),
        (f"alert_api: GET alerts/groups, {ALERTS:,} alerts", Client.groups, 1.5, False),
    ]


def version(client: Client) -> str:
    return str(json.loads(client.get("/api/v2/status"))["versionInfo"]["version"])


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
