"""Run the tutorial as a reader would: save its files, run its commands, compare the output."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from helpers import DEADLINE

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tutorial.md"
STEPS = re.split(r"^## \d+\. ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
FILE = re.compile(r"`([\w.]+)`:\n\n```(?:python|yaml)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OUTPUT = re.compile(r"^```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def pattern_of(output: str) -> str:
    return re.escape(output).replace(re.escape("..."), r"\S+")


class Folder:
    """The reader's folder, with the files as they are after a step."""

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.ports = {"9000": str(free_port()), "8000": str(free_port())}
        self.expected = [match[1] for match in OUTPUT.finditer(STEPS[number - 1])]
        for step in STEPS[:number]:
            for name, text in FILE.findall(step):
                (path / name).write_text(self.with_free_ports(text), encoding="utf-8")
        self.options = {
            "cwd": path,
            "text": True,
            "stdout": subprocess.PIPE,
            "env": {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        }

    def with_free_ports(self, text: str) -> str:
        return re.sub("|".join(self.ports), lambda match: self.ports[match[0]], text)

    def run(self, command: str) -> str:
        assert f"{command}\n" in PAGE.read_text(encoding="utf-8")
        return subprocess.run(command, shell=True, check=True, timeout=60, **self.options).stdout

    @contextmanager
    def started(self, command: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command until the context ends, as with Ctrl-C in a terminal; and at most a minute."""
        assert f"{command}\n" in PAGE.read_text(encoding="utf-8")
        kept = f"trap : INT; {command}"  # so that the shell returns the exit code of the command
        process = subprocess.Popen(kept, shell=True, start_new_session=True, **self.options)
        watchdog = threading.Timer(60, os.killpg, (process.pid, signal.SIGKILL))
        watchdog.start()
        try:
            with process:
                yield process
                os.killpg(process.pid, signal.SIGINT)
                process.communicate()
        finally:
            watchdog.cancel()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def is_listening(port: str) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", int(port))) == 0


@pytest.fixture
def folder(tmp_path, request):
    return Folder(tmp_path, request.param)


@pytest.fixture
def receiver(folder):
    with folder.started("python receiver.py") as process:
        while not is_listening(folder.ports["9000"]):
            assert process.poll() is None
        yield process.stdout


@pytest.mark.parametrize("folder", [1, 2, 3, 4], indirect=True)
def test_the_output_is_the_one_that_is_shown(folder):
    [expected] = folder.expected
    output = folder.run("python main.py")
    assert re.fullmatch(pattern_of(expected), output), output


@pytest.mark.parametrize("folder", [5], indirect=True)
def test_the_receiver_prints_the_notifications_that_are_shown(folder, receiver):
    folder.run("codomyrmex-streaming alerts test alerts.yaml")
    with folder.started("python main.py"):
        assert [receiver.readline() + receiver.readline()] == folder.expected


@pytest.mark.parametrize("folder", [6], indirect=True)
def test_the_live_page_is_served_until_the_program_is_interrupted(folder):
    with folder.started("python main.py") as process:
        announced = next(line for line in process.stdout if line.startswith("the live page: "))
        assert announced == f"the live page: http://127.0.0.1:{folder.ports['8000']}/\n"
        with urllib.request.urlopen(announced.split()[-1], timeout=DEADLINE) as response:
            assert response.status == 200
    assert process.returncode == 0


@pytest.mark.parametrize("folder", [7], indirect=True)
def test_the_pipeline_sends_the_same_notifications(folder, receiver):
    folder.run("codomyrmex-streaming check pipeline.yaml")
    with folder.started("python main.py | codomyrmex-streaming run pipeline.yaml") as pipeline:
        assert [receiver.readline().split(":")[0] for _ in range(2)] == ["failure", "success"]
    assert pipeline.returncode == 0
    lines = (folder.path / "failures.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines
    assert all('"topic":"orders.failed"' in line for line in lines)


def test_every_step_is_tested():
    assert len(STEPS) == 7
