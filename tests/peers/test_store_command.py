"""The command `store` on a terminal, and while another process uses the store."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from codomyrmex.integrations.durable import DurableStream, SQLiteStore
from codomyrmex.streaming import create_event

PATIENCE = 20.0
PROGRAM = [sys.executable, "-m", "codomyrmex.integrations.cli", "store", "sqlite:///events.db"]


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def publish(folder: Path, *payloads: object, topic: str = "a") -> int:
    """Publish events, and return how many the stream has then."""

    async def run() -> int:
        async with DurableStream(SQLiteStore(folder / "events.db")) as stream:
            for payload in payloads:
                await stream.publish(create_event(payload, topic=topic))
            return (await stream.bounds()).events

    return asyncio.run(run())


@pytest.mark.parametrize(("answer", "left"), [("n", 2), ("y", 1)])
def test_what_cannot_be_undone_is_asked_for_on_a_terminal(tmp_path: Path, answer: str, left: int) -> None:
    publish(tmp_path, 1, 2)
    terminal, other_end = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, "trim", "--max-events", "1"],
        cwd=tmp_path,
        stdin=other_end,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.write(terminal, f"{answer}\n".encode())
    _, messages = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, messages
    assert "Remove the events of events beyond the limits? It has 2 now." in messages
    for descriptor in (terminal, other_end):
        os.close(descriptor)
    assert publish(tmp_path) == left


def test_tail_follows_what_another_process_publishes(tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    publish(tmp_path, "before")
    with shown.open("w") as output:
        command = [*PROGRAM, "tail", "-f", "--json", "--topic", "a"]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=subprocess.PIPE)
    until(shown.read_text)
    publish(tmp_path, "other", topic="b")
    publish(tmp_path, "after")
    until(lambda: len(shown.read_text().splitlines()) == 2)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=PATIENCE)
    assert (process.returncode, messages) == (0, b"")
    assert [json.loads(line)["data"] for line in shown.read_text().splitlines()] == ["before", "after"]
