"""The demo with several processes: what it prints while they are killed, and that none outlives it."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from codomyrmex.demo.errors import DemoError
from codomyrmex.demo.settings import Settings
from codomyrmex.demo.supervisor import Supervisor
from demo_program import Demo, running
from helpers import DEADLINE

PATIENCE = 20.0  # seconds
OPTIONS = ("--workers", "3", "--port", "0")


def get(url: str) -> httpx.Response:
    """Get a page, from another process if the first one was killed before it could answer."""
    try:
        return httpx.get(url, timeout=PATIENCE)
    except httpx.TransportError:
        return httpx.get(url, timeout=PATIENCE)


def total_of(url: str, least: int) -> int:
    """Return how many events the page has counted, once it is no less than another process showed before.

    A process can be a few events behind another one for a moment, but it catches up.
    """
    deadline = time.monotonic() + PATIENCE
    while (found := get(f"{url}api/state").json()["topics"]["total"]) < least:
        assert time.monotonic() < deadline, f"{found} events, and {least} before"
        time.sleep(0.05)
    return found


def folder_of(demo: Demo) -> Path:
    return Path(demo.wait_for(r"store sqlite:///(\S+)/shop\.db")[1])


def workers_of(demo: Demo) -> list[psutil.Process]:
    return psutil.Process(demo.process.pid).children()


def is_alive(worker: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return worker.status() != psutil.STATUS_ZOMBIE
    return False


def wait_until(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_another_process_takes_over_and_nothing_is_lost():
    seen = 0
    with running(*OPTIONS, "--kill-every", "3s", "--for", "8s") as demo:
        url = demo.wait_for(r"The live page: +(\S+)\n")[1]
        demo.wait_for("holds the lease")
        folder, workers = folder_of(demo), workers_of(demo)
        while "waiting for" not in demo.printed:  # also while a process is killed
            seen = total_of(url, seen)
            time.sleep(0.05)
        code = demo.end()
    killed = re.findall(
        r"(worker-\d+) was killed, nobody held the lease for \d+\.\d s, now (worker-\d+) does", demo.printed
    )
    assert killed, demo.printed
    assert all(before != after for before, after in killed)
    counted = {
        name: int(number.replace(",", ""))
        for name, number in re.findall(r"^(\w+) +([\d,]+)  ", demo.printed, re.MULTILINE)
    }
    assert counted["lost"] == 0, demo.printed
    assert counted["published"] == counted["delivered"] >= seen > 20
    assert counted["notified"] >= 2
    assert counted["takeovers"] == len(killed)
    assert code == 0
    assert not any(map(is_alive, workers))
    assert not folder.exists()


def test_no_process_and_no_file_outlives_a_demo_that_is_killed():
    with running(*OPTIONS) as demo:
        demo.wait_for("holds the lease")
        folder, workers = folder_of(demo), workers_of(demo)
        assert len(workers) == 3
        demo.process.kill()
        wait_until(lambda: not any(map(is_alive, workers)))
        wait_until(lambda: not folder.exists())


def test_a_signal_before_the_processes_have_started_ends_them():
    with running(*OPTIONS) as demo:
        folder = folder_of(demo)
        wait_until(lambda: len(workers_of(demo)) == 3)
        workers = workers_of(demo)
        assert demo.end(signal.SIGTERM) == 0
        assert not any(map(is_alive, workers))
        assert not folder.exists()


async def test_a_process_that_cannot_start_ends_the_demo(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = Settings(str(tmp_path / "missing"), "127.0.0.1:9", listener.fileno(), 1.0, "token")
        async with Supervisor(1, settings, print) as supervisor:
            with pytest.raises(DemoError, match=r"^worker-1 could not start$"):
                await supervisor.check()


async def test_a_process_that_has_just_started_ends_in_order(tmp_path, monkeypatch):
    # It is killed later than the test waits.
    monkeypatch.setattr("codomyrmex.demo.supervisor._STOP_TIMEOUT", 3 * DEADLINE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = Settings(str(tmp_path), "127.0.0.1:9", listener.fileno(), 1.0, "token")
        async with Supervisor(1, settings, print) as supervisor:
            await supervisor.wait_until_ready()
            async with asyncio.timeout(DEADLINE):
                await supervisor.stop()
