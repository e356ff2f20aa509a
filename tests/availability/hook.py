"""A receiver of webhooks that records what it gets, from whom and when, and takes its time to answer."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from durable.history import Recorder


class Hook(ThreadingHTTPServer):
    """Records an `arrived` for each request: its path without the slash is the sender.

    The fields are `sender`, `group` (the value of the label `alertname`), `key`, `status`, `alerts` (the
    status of each by its label `alert`), and `id` if there is one. `begin` is when the body was complete,
    `end` when it was answered.

    Args:
        recorder: of the records.
        seconds: how long an answer takes at most; a random time up to it, as with services.
        arrived: called with the alerts of each request.
    """

    daemon_threads = True
    request_queue_size = 1024

    def __init__(
        self,
        recorder: Recorder,
        seconds: float = 0.1,
        arrived: Callable[[dict[str, str]], None] = lambda alerts: None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.recorder, self.seconds, self.arrived = recorder, seconds, arrived
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    def url(self, sender: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{sender}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing about clients that were killed."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class Answers(BaseHTTPRequestHandler):
    server: Hook
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        begin = time.monotonic()
        data = json.loads(body)
        alerts = {each["labels"].get("alert"): each["status"] for each in data["alerts"]}
        time.sleep(random.uniform(0, self.server.seconds))
        self.server.recorder.note(
            "arrived",
            begin=begin,
            sender=self.path[1:],
            group=data["groupLabels"].get("alertname"),
            key=data["groupKey"],
            status=data["status"],
            alerts=alerts,
            id=data.get("id"),
        )
        self.server.arrived(alerts)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
        """Log nothing."""
