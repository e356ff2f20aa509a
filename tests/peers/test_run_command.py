"""`codomyrmex-streaming run` as a process: signals, exit codes, pipes, and two of them in a row."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import textwrap
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from durable.servers import free_port

PATIENCE = 20.0
PROGRAM = [sys.executable, "-m", "codomyrmex.integrations.cli"]
FROM_STDIN = (
    "sources: [{type: stdin}]\nsinks: [{type: jsonl, path: out.jsonl, name: out, delivery: {batch_age: 1ms}}]"
)
SLOW = """
import asyncio, time
def slow(event):
    time.sleep(0.001)
    return event
async def hang(event):
    open("taken", "w").close()
    await asyncio.Event().wait()
def block(event):
    open("taken", "w").close()
    time.sleep(600)
"""


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Folder:
    """A folder with pipelines, which are run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, text: str, name: str = "p.yaml") -> None:
        beside = self.path / f"{name}.new"
        beside.write_text(textwrap.dedent(text), encoding="utf-8")
        beside.replace(self.path / name)

    def data(self, name: str = "out.jsonl") -> list[Any]:
        try:
            lines = (self.path / name).read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        return [json.loads(line)["data"] for line in lines[:-1]]

    def size(self, name: str = "out.jsonl") -> int:
        path = self.path / name
        return path.stat().st_size if path.exists() else 0

    def run(self, stdin: bytes, *options: str, code: int = 0, name: str = "p.yaml") -> tuple[str, str]:
        done = subprocess.run(
            [*PROGRAM, "run", name, *options],
            cwd=self.path,
            input=stdin,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in err
        assert (done.returncode, err) == (code, err)
        return out, err

    @contextmanager
    def running(
        self, *options: str, name: str = "p.yaml", stdin: Any = subprocess.PIPE, **named: Any
    ) -> Iterator[Running]:
        with subprocess.Popen(
            [*PROGRAM, "run", name, *options],
            cwd=self.path,
            stdin=stdin,
            stdout=named.pop("stdout", subprocess.PIPE),
            stderr=named.pop("stderr", subprocess.PIPE),
            **named,
        ) as process:
            try:
                yield Running(process)
            finally:
                process.kill()


class Running:
    """A pipeline that runs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def write(self, data: bytes) -> None:
        stdin: IO[bytes] | None = self.process.stdin
        assert stdin is not None
        stdin.write(data)
        stdin.flush()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def send_until_it_ends(self, number: signal.Signals, pause: float) -> None:
        """Send a signal again and again: a process that is slow receives some of them as one."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline
            self.send(number)
            time.sleep(pause)

    def line_with(self, part: str) -> str:
        """Read messages up to one with a part of text."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if part in line.decode():
                return line.decode()
        raise AssertionError(f"no message contains {part!r}")

    def end(self, code: int) -> str:
        """Wait for the end and return the remaining messages."""
        _, err = self.process.communicate(timeout=PATIENCE)
        messages = (err or b"").decode()
        assert "Traceback" not in messages
        assert (self.process.returncode, messages) == (code, messages)
        return messages


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "slow_and_hanging.py").write_text(SLOW, encoding="utf-8")
    return Folder(tmp_path)


def is_full(pipe: int) -> bool:
    """Return whether a pipe holds about as much as it can, so that its writer waits."""
    unread = array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, unread)
    return unread[0] > 60_000


# To the end


@pytest.mark.parametrize("sink", ["{type: jsonl, path: '-'}", "{type: structlog, output: stdout}"])
def test_a_closed_stdout_ends_the_pipeline(folder, sink):
    folder.write(f"sources: [{{type: stdin}}]\nsinks: [{sink}]")
    with folder.running() as running:
        running.write(b"1\n")
        assert running.process.stdout is not None
        assert running.process.stdout.readline()
        running.process.stdout.close()
        running.write(b"2\n")
        assert running.process.wait(PATIENCE) == 1
        assert running.process.stderr is not None
        err = running.process.stderr.read().decode()
    assert "2 events received, 2 sent to the sinks" in err
    assert "Exception ignored" not in err


def test_no_standard_input_is_one_sentence(folder):
    folder.write(FROM_STDIN)
    command = " ".join([*PROGRAM, "run", "p.yaml", "<&-"])
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder.path, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    expected = (1, "the pipeline cannot start: the standard input is closed\n")
    assert (done.returncode, done.stderr) == expected


def test_everything_works_with_closed_standard_streams(folder):
    folder.write(FROM_STDIN)
    for number, closed in enumerate((">&-", "2>&-", ">&- 2>&-"), 1):
        command = " ".join(["echo 1 |", *PROGRAM, "run", "p.yaml", closed])
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=folder.path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "")
        assert "Traceback" not in done.stderr
        assert folder.data() == [1] * number


def test_a_killed_pipeline_has_saved_no_position_that_was_not_delivered(folder):
    count = 60_000
    (folder.path / "a.log").write_text("".join(f"{number}\n" for number in range(count)))
    folder.write(
        "sources: [{type: file, path: a.log, format: json, position: pos}]\n"
        "sinks: [{type: jsonl, path: out.jsonl}]"
    )
    for size in (1, 1_000_000, 4_000_000):
        with folder.running() as running:
            until(lambda size=size: folder.size() >= size)
            running.process.kill()
    with folder.running() as running:
        until(lambda: str(count - 1).encode() in (folder.path / "out.jsonl").read_bytes()[-1_000:])
        running.send(signal.SIGTERM)
        running.end(0)
    assert set(folder.data()) == set(range(count))


@pytest.mark.parametrize("sink", ["{type: jsonl, path: '-'}", "{type: structlog, output: stdout}"])
def test_a_non_blocking_output_receives_all_lines(folder, sink):
    folder.write(f"sources: [{{type: stdin}}]\nsinks: [{sink}]")
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with folder.running(stdout=writing) as running, os.fdopen(reading, "rb") as pipe:
        os.close(writing)
        running.write(b"1\n" * 2_000)
        assert running.process.stdin is not None
        running.process.stdin.close()
        running.process.stdin = None
        until(lambda: is_full(reading))
        assert len(pipe.read().splitlines()) == 2_000
        running.end(0)


def test_a_log_whose_reader_stalls_does_not_prevent_the_end(folder):
    folder.write("sources: [{type: stdin}]\nsinks: [{type: structlog, output: stdout, name: log}]")
    with folder.running("--drain", "0.2") as running:
        running.write(b"1\n" * 5_000)  # more than a pipe holds
        assert running.process.stdout is not None
        descriptor = running.process.stdout.fileno()
        until(lambda: is_full(descriptor))
        running.send(signal.SIGTERM)
        report = running.line_with("events delivered")
        assert running.process.wait(PATIENCE) == 1
    assert "lost because the drain timeout expired" in report


def test_a_reader_that_does_not_read_does_not_prevent_the_end(folder):
    folder.write(
        "sources: [{type: stdin}]\nsinks: [{type: jsonl, path: '-', name: out, delivery: {batch_age: 1ms}}]"
    )
    with folder.running("--drain", "0.2") as running:
        running.write(b"1\n" * 5_000)  # more than a pipe holds
        assert running.process.stdin is not None
        running.process.stdin.close()
        running.process.stdin = None
        running.line_with("events received")
        assert running.process.wait(PATIENCE) == 1


@pytest.mark.parametrize(
    "sink",
    ["{type: jsonl, path: '-'}", "{type: structlog, output: stdout}", "{type: structlog, output: stderr}"],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_while_nobody_reads_any_of_its_output(folder, sink, number):
    folder.write(f"sources: [{{type: stdin}}]\nsinks: [{sink}]")
    with folder.running("--drain", "0.2", stderr=subprocess.STDOUT) as running:
        running.write(b"1\n" * 5_000)  # more than a pipe holds
        assert running.process.stdout is not None
        descriptor = running.process.stdout.fileno()
        until(lambda: is_full(descriptor))
        running.send(number)
        assert running.process.wait(PATIENCE) in {1, 128 + number}


def test_messages_that_nobody_has_read_are_counted_in_a_later_one(folder):
    folder.write("sources: [{type: stdin}]\nsinks: [{type: jsonl, path: out.jsonl}]")
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while os.write(writing, b"x" * 4_096):
            pass
    with folder.running(stderr=writing) as running, os.fdopen(reading, "rb") as pipe:
        running.write(b"nothing\n1\n")  # the first one is not JSON, which is a warning
        until(folder.data)
        os.close(writing)
        pipe.read(40_000)
        assert running.process.stdin is not None
        running.process.stdin.close()
        running.process.stdin = None
        messages = pipe.read().decode().lstrip("x")
        assert running.process.wait(PATIENCE) == 0
    assert re.match(
        r"\[\d+ bytes of messages were dropped: nobody read them\]\n1 event received", messages
    ), messages


# Signals


def test_sigterm_drains_what_was_read_and_reports(folder):
    folder.write(f"{FROM_STDIN}\nprocessors: [{{type: python, function: 'slow_and_hanging:slow'}}]")
    with folder.running() as running:
        running.write(b"".join(b"%d\n" % n for n in range(600)))
        until(folder.data)
        running.send(signal.SIGTERM)
        err = running.end(0)
    assert folder.data() == list(range(600))
    assert "600 events received, 600 sent to the sinks" in err


def test_a_signal_while_it_waits_for_input_ends_it_at_once(folder):
    folder.write(FROM_STDIN)
    with folder.running() as running:
        running.write(b"1\n")
        until(folder.data)
        running.send(signal.SIGTERM)
        assert "out: 1 event delivered" in running.end(0)


def test_a_second_ctrl_c_drops_queued_events(folder):
    folder.write(f"{FROM_STDIN}\nprocessors: [{{type: python, function: 'slow_and_hanging:hang'}}]")
    with folder.running("--drain", "600") as running:
        running.write(b"1\n2\n")
        until((folder.path / "taken").exists)
        running.send(signal.SIGINT)
        running.line_with("stopping; press Ctrl-C again to drop queued events")
        running.send(signal.SIGINT)
        err = running.end(130)
    assert "2 lost because the drain timeout expired" in err


def test_a_second_sigterm_is_exit_code_143(folder):
    folder.write(f"{FROM_STDIN}\nprocessors: [{{type: python, function: 'slow_and_hanging:hang'}}]")
    with folder.running("--drain", "600") as running:
        running.write(b"1\n")
        until((folder.path / "taken").exists)
        running.send(signal.SIGTERM)
        running.line_with("stopping; press Ctrl-C again to drop queued events")
        running.send(signal.SIGTERM)
        running.end(143)


@pytest.mark.parametrize("pause", [0.03, 0.1, 0.3])
def test_impatient_ctrl_c_is_exit_code_130_without_a_traceback(folder, pause):
    folder.write(f"{FROM_STDIN}\nprocessors: [{{type: python, function: 'slow_and_hanging:hang'}}]")
    with folder.running("--drain", "600") as running:
        running.write(b"1\n")
        until((folder.path / "taken").exists)
        running.send_until_it_ends(signal.SIGINT, pause)
        running.end(130)


def test_the_third_ctrl_c_ends_even_a_blocked_pipeline(folder):
    folder.write(f"{FROM_STDIN}\nprocessors: [{{type: python, function: 'slow_and_hanging:block'}}]")
    with folder.running() as running:
        running.write(b"1\n")
        until((folder.path / "taken").exists)
        running.send_until_it_ends(signal.SIGINT, 0.1)
        running.end(130)


def test_a_signal_at_any_moment_of_the_start_does_no_harm(folder):
    folder.write(FROM_STDIN)
    with ExitStack() as stack:
        started = [stack.enter_context(folder.running()) for _ in range(6)]
        for number, running in enumerate(started):
            time.sleep(0.3)  # each is a bit further
            running.send(signal.SIGINT if number % 2 else signal.SIGTERM)
        for running in started:
            running.process.communicate(timeout=PATIENCE)
            assert running.process.returncode in {0, 1, 130, -signal.SIGTERM, -signal.SIGINT}


def test_a_changed_file_is_loaded_again(folder):
    folder.write(FROM_STDIN)
    with folder.running() as running:
        running.write(b"1\n")
        until(folder.data)
        folder.write(FROM_STDIN.replace("out.jsonl", "new.jsonl"))
        running.line_with("p.yaml was reloaded")
        running.send(signal.SIGTERM)
        running.end(0)


# A terminal


def test_on_a_terminal_there_is_a_line_of_progress_and_ctrl_d_ends_it(folder):
    folder.write(FROM_STDIN)
    ours, theirs = pty.openpty()
    with folder.running(
        stdin=theirs, stderr=theirs, stdout=theirs, env={**os.environ, "TERM": "xterm"}
    ) as running:
        os.close(theirs)
        os.write(ours, b"1\n")
        until(folder.data)
        shown = b""
        while b"1 event, " not in shown:
            shown += os.read(ours, 10_000)
        os.write(ours, b"\x04")
        assert running.process.wait(PATIENCE) == 0
    os.close(ours)


# Two in a row


def test_a_pipeline_behind_another_survives_its_restart_without_loss_or_repeats(folder):
    http, sse = free_port(), free_port()
    folder.write(
        f"""
        sources: [{{type: http, listen: '{http}'}}]
        sinks: [{{type: sse, listen: '{sse}', token: "${{TOKEN}}"}}]
        """,
        "a.yaml",
    )
    folder.write(
        f"""
        sources: [{{type: sse, url: 'http://127.0.0.1:{sse}/', token: "${{TOKEN}}"}}]
        sinks: [{{type: jsonl, path: b.jsonl, delivery: {{batch_age: 1ms}}}}]
        """,
        "b.yaml",
    )
    environment = {**os.environ, "TOKEN": "t0ps3cr3t"}

    def post(first: int) -> list[int]:
        numbers = list(range(first, first + 50))
        body = [{"data": number} for number in numbers]
        assert httpx.post(f"http://127.0.0.1:{http}/", json=body, timeout=PATIENCE).status_code == 202
        return numbers

    with folder.running(name="b.yaml", env=environment) as b:
        with folder.running(name="a.yaml", env=environment) as a:
            a.line_with("sse[0]: http://")
            until(lambda: post(0) and folder.data("b.jsonl"))  # it is connected
            first = post(100)
            until(lambda: first[-1] in folder.data("b.jsonl"))
            a.send(signal.SIGTERM)
            a.end(0)
        with folder.running(name="a.yaml", env=environment) as a:
            a.line_with("sse[0]: http://")
            second = post(200)  # most likely before the other one is back
            until(lambda: second[-1] in folder.data("b.jsonl"))
            third = post(300)
            until(lambda: third[-1] in folder.data("b.jsonl"))
            b.send(signal.SIGTERM)
            messages = b.end(0)
            a.send(signal.SIGTERM)
            a.end(0)
    assert "t0ps3cr3t" not in messages
    assert [number for number in folder.data("b.jsonl") if number >= 100] == first + second + third
