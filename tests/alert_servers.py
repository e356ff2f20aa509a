"""`alerts serve` and Debian's Alertmanager with the same configuration, and how they are compared."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx
from durable.servers import free_port, need
from helpers import DEADLINE

COMMAND = [sys.executable, "-m", "codomyrmex.integrations.cli", "alerts", "serve"]
VARIABLES = ("CODOMYRMEX_STATE", "CODOMYRMEX_TOKEN", "CODOMYRMEX_EXTERNAL_URL")


def program(name: str) -> str:
    """Return the path of a program of Debian; skip, or fail in CI, if it is missing."""
    found = shutil.which(name)
    need(found, f"{name} of Debian")
    return str(found)


def wait_for(condition: Callable[[], object], what: Callable[[], object] = str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


class Server:
    """A process that serves the API of Alertmanager.

    Args:
        command: how it is started, without its address.
        folder: where it runs, and where its log is.
        option: the one for its address.
        environment: variables.
    """

    def __init__(
        self, command: list[str], folder: Path, option: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        self._command = [*command, option, self.address]
        self._folder = folder
        self._log = folder / f"{Path(command[0]).name}-{self.address[10:]}.log"
        kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        self._environment = {**kept, "TZ": "UTC", **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(base_url=self.url, timeout=DEADLINE)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        with self._log.open("ab") as out:
            self.process = subprocess.Popen(
                self._command, stdout=out, stderr=out, env=self._environment, cwd=self._folder
            )
        wait_for(self._is_ready, lambda: self.log[-2_000:])

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        try:
            return self.client.get("/-/ready").is_success
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(DEADLINE)

    def terminate(self) -> int:
        """End it in an orderly way, and return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)

    def post(self, alerts: list[dict[str, Any]]) -> None:
        answer = self.client.post("/api/v2/alerts", json=alerts)
        assert answer.is_success, answer.text

    def get(self, path: str) -> Any:
        return self.client.get(f"/api/v2/{path}").raise_for_status().json()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self.process is not None and self.process.poll() is None:
            self.kill()


def ours(file: Path, *options: str, environment: Mapping[str, str] | None = None) -> Server:
    return Server([*COMMAND, str(file), *options], file.parent, "--listen", environment)


def debians(file: Path, *options: str) -> Server:
    data = file.parent / f"data-{free_port()}"
    fixed = [f"--config.file={file}", f"--storage.path={data}", "--cluster.listen-address=", *options]
    return Server([program("prometheus-alertmanager"), *fixed], file.parent, "--web.listen-address")


def write(folder: Path, config: Any) -> Path:
    file = folder / "alertmanager.yml"
    file.write_text(config if isinstance(config, str) else json.dumps(config, indent=1))  # JSON is YAML
    return file


class Pair(NamedTuple):
    """The two servers that are compared."""

    ours: Server
    debians: Server


@contextmanager
def both(folder: Path, config: Any, *options: str) -> Iterator[Pair]:
    """Run both with the same configuration; options are those of ours."""
    file = write(folder, config)
    with debians(file) as theirs, ours(file, *options) as own:
        yield Pair(own, theirs)


_PATTERNS = (
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| UTC|[+-]\d\d:\d\d)?"), "<time>"),
)


def normalized(text: str, server: Server) -> str:
    """Return text without ids, times, and the address of the server."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text.replace(server.address, "<address>")
