"""Debian's Alertmanager, running with a configuration."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from durable.servers import free_port

PATIENCE = 20.0  # seconds


@contextmanager
def alertmanager(
    program: str | None, folder: Path, config: Mapping[str, Any], *options: str, path: str = ""
) -> Iterator[httpx.Client]:
    """Run Alertmanager; the value is a client of its API, which begins at a path."""
    file = folder / "alertmanager.yml"
    file.write_text(json.dumps(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        *(str(program), f"--config.file={file}", f"--storage.path={folder / 'data'}"),
        *(f"--web.listen-address={address}", "--cluster.listen-address=", *options),
    ]
    log = folder / "alertmanager.log"
    environment = {**os.environ, "TZ": "UTC"}
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process,
        httpx.Client(base_url=f"http://{address}{path}", timeout=PATIENCE) as client,
    ):
        try:
            deadline = time.monotonic() + PATIENCE
            while not _is_ready(client):
                assert process.poll() is None, log.read_text(errors="replace")[-2_000:]
                assert time.monotonic() < deadline, log.read_text(errors="replace")[-2_000:]
                time.sleep(0.02)
            yield client
        finally:
            process.kill()


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").is_success
    except httpx.TransportError:
        return False
