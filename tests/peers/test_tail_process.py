"""The command `codomyrmex-streaming tail` as a process: Ctrl-C, and a pipe that is closed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from event_server import PATIENCE, Server, order, until


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    started.up()
    yield started
    started.end()


@contextmanager
def tailing(server: Server, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run it until it is connected."""
    command = [sys.executable, "-m", "codomyrmex.integrations.cli", "tail", server.url, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: server.app.clients == 1 or process.poll() is not None)
            yield process
        finally:
            process.kill()


def test_ctrl_c_is_exit_code_0(server):
    with tailing(server) as process:
        server.publish(order(1))
        assert "orders.placed" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        output, messages = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output, messages) == (0, "", "")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_closed_pipe_ends_it_quietly(server, options):
    with tailing(server, *options) as process:
        server.publish(order(1))
        assert "orders.placed" in process.stdout.readline()
        process.stdout.close()
        server.publish(*(order(number) for number in range(5)))
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""
