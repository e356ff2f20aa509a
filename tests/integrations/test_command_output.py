"""The command where it cannot write: closed or full outputs are a sentence, never a traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from codomyrmex.integrations.cli import main
from codomyrmex.integrations.cli.messages import patient_messages
from codomyrmex.integrations.cli.output import print_message

CONFIG = "route: {receiver: chat}\nreceivers: [{name: chat, apprise_configs: []}]\n"
FULL = Path("/dev/full")


@pytest.fixture
def config(tmp_path) -> str:
    path = tmp_path / "alerts.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def sigint() -> Iterator[None]:
    """Restore what the command does to Ctrl-C at its end."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["codomyrmex-streaming", *arguments])
    with pytest.raises(SystemExit) as raised:
        main()
    return raised.value.code


@pytest.mark.skipif(not FULL.exists(), reason="Linux has a device that is always full")
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["alerts", "route", "FILE"],
        ["alerts", "show", "FILE", "--json"],
        ["demo", "--duration", "1", "--port", "0"],
    ],
)
def test_a_full_disk_behind_stdout_is_one_sentence(arguments, config, capsys, monkeypatch):
    with FULL.open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run(monkeypatch, *(argument.replace("FILE", config) for argument in arguments)) == 1
    assert capsys.readouterr().err == "stdout: cannot be written: No space left on device\n"


@pytest.mark.parametrize("arguments", [["--help"], ["alerts", "route", "FILE"], ["alerts", "check", "FILE"]])
def test_closed_outputs_do_not_fail(arguments, config, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    code = run(monkeypatch, *(argument.replace("FILE", config) for argument in arguments))
    for stream in (sys.stdout, sys.stderr):
        assert stream.name == os.devnull
        stream.close()
    assert code == 0


@contextmanager
def stderr_to_a_full_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Replace stderr by a pipe that is full, and yield its other end."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while os.write(writing, b"x" * 4_096):
            pass
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stderr", pipe)
        yield reading
    os.close(reading)


def test_a_message_whose_reader_stalls_is_dropped_and_counted_in_the_next(monkeypatch):
    monkeypatch.setattr("codomyrmex.integrations.cli.messages._PATIENCE", 0.01)
    with stderr_to_a_full_pipe(monkeypatch) as reading:
        before = sys.stderr
        with patient_messages():
            print_message("lost")
            print_message("lost too")
            assert os.isatty(sys.stderr.fileno()) is sys.stderr.isatty() is False
            os.read(reading, 1 << 20)
            print_message("seen")
        assert sys.stderr is before
        assert os.read(reading, 1_000) == b"[14 bytes of messages were dropped: nobody read them]\nseen\n"


def test_messages_that_are_no_file_are_left_alone(capsys):
    before = sys.stderr
    with patient_messages():
        assert sys.stderr is before
        print_message("seen")
    assert capsys.readouterr().err == "seen\n"
