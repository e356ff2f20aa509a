"""A pipeline with a spool is killed at random moments: nothing that it has taken in is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from durable.servers import PASSWORD, Server, free_port
from durable.stores import leaks

PATIENCE = 60.0
KILLS = int(os.environ.get("SPOOL_KILLS", "10"))
PROGRAM = [sys.executable, "-m", "codomyrmex.integrations.cli", "run", "p.yaml"]
SPOOL = "spool: {url: 'sqlite:///spool.db', lease: 1s}\n"
DELIVERY = "delivery: {batch_age: 5ms, batch_size: 100}"
OUT = f"sinks: [{{type: jsonl, name: out, path: out, data: payload, {DELIVERY}}}]\n"


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(PROGRAM, cwd=folder, stderr=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=PATIENCE)


def lines(folder: Path) -> list[str]:
    """Return the whole lines of the output; a kill may leave a part of one at its end."""
    path = folder / "out"
    return path.read_text("utf-8").split("\n")[:-1] if path.exists() else []


def test_a_pipeline_that_is_killed_loses_no_line_of_a_file(tmp_path: Path) -> None:
    expected = [f"line {number}" for number in range(60_000)]
    (tmp_path / "a.log").write_text("".join(f"{line}\n" for line in expected))
    source = "sources: [{type: file, path: a.log, position: pos, from_start: true, follow: false}]\n"
    (tmp_path / "p.yaml").write_text(SPOOL + source + OUT)
    moments = random.Random(13)
    for _ in range(KILLS):
        process = start(tmp_path)
        time.sleep(moments.uniform(0.5, 3.0))
        kill(process)
    process = start(tmp_path)
    _, report = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, report
    delivered = [json.loads(line).get("line") for line in lines(tmp_path) if line.endswith("}")]
    assert set(expected) <= set(delivered)
    # What comes twice was in flight at a kill: 500 lines that were stored together, and a batch of the sink.
    twice = sum(count - 1 for count in Counter(delivered).values())
    assert twice <= KILLS * 1_000


def test_a_pipeline_that_is_killed_loses_no_event_that_it_has_acknowledged(tmp_path: Path) -> None:
    port = free_port()
    source = f"sources: [{{type: http, listen: '127.0.0.1:{port}'}}]\n"
    (tmp_path / "p.yaml").write_text(SPOOL + source + OUT)
    moments = random.Random(14)
    acknowledged: list[int] = []
    number = 0
    for _ in range(KILLS):
        process = start(tmp_path)
        deadline = time.monotonic() + PATIENCE
        life = moments.uniform(0.1, 1.0)
        first: float | None = None
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
            while first is None or time.monotonic() - first < life:
                assert time.monotonic() < deadline
                number += 1
                try:
                    response = client.post("/", json={"data": {"number": number}})
                except httpx.TransportError:
                    assert first is None
                    time.sleep(0.05)
                    continue
                first = first or time.monotonic()
                if response.status_code == 202:
                    acknowledged.append(number)
        kill(process)
    process = start(tmp_path)

    def delivered() -> set[Any]:
        return {json.loads(line).get("number") for line in lines(tmp_path) if line.endswith("}")}

    try:
        until(lambda: set(acknowledged) <= delivered())
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert len(acknowledged) > KILLS


def test_what_a_sink_did_not_accept_before_the_end_is_delivered_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("one\ntwo\n")
    source = "sources: [{type: file, path: a.log, position: pos, from_start: true, follow: false}]\n"
    full = OUT.replace("path: out", "path: /dev/full").replace(
        "{batch_age", "{drain_timeout: 1s, max_attempts: 1000, batch_age"
    )
    (tmp_path / "p.yaml").write_text(SPOOL + source + full)
    process = start(tmp_path)
    _, first = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "2 left in the spool" in first) == (0, True), first
    (tmp_path / "p.yaml").write_text(SPOOL + source + OUT)
    process = start(tmp_path)
    _, second = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, second
    assert [json.loads(line)["line"] for line in lines(tmp_path)] == ["one", "two"], first + second


def test_while_the_store_is_away_sources_wait_and_posts_are_refused(
    redis_server: Server, tmp_path: Path
) -> None:
    port = free_port()
    (tmp_path / "a.log").write_text("")
    sources = (
        "sources: [{type: file, path: a.log, position: pos, from_start: true, interval: 10ms},"
        f" {{type: http, listen: '127.0.0.1:{port}'}}]\n"
    )
    (tmp_path / "p.yaml").write_text(f"spool: '{redis_server.fresh_url()}'\n{sources}{OUT}")
    process = start(tmp_path)

    def delivered() -> set[str]:
        return {json.loads(line).get("line") for line in lines(tmp_path)}

    def put(*texts: str) -> None:
        with (tmp_path / "a.log").open("a") as file:
            file.write("".join(f"{text}\n" for text in texts))

    def post(line: str) -> int:
        return httpx.post(
            f"http://127.0.0.1:{port}/", json={"data": {"line": line}}, timeout=PATIENCE
        ).status_code

    try:
        put("before")
        until(lambda: delivered() == {"before"})
        redis_server.pause()
        put(*map(str, range(2_000)))
        assert post("refused") == 503
        redis_server.resume()
        until(lambda: {"before", *map(str, range(2_000))} <= delivered())
        assert post("after") == 202
        until(lambda: "after" in delivered())
    finally:
        redis_server.resume()
        process.send_signal(signal.SIGTERM)
        _, report = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, report
    assert "lost" not in report
    assert "Traceback" not in report


def test_a_pipeline_that_ends_while_the_store_is_away_loses_no_line(
    redis_server: Server, tmp_path: Path
) -> None:
    source = "sources: [{type: file, path: a.log, position: pos, from_start: true, interval: 10ms}]\n"
    (tmp_path / "a.log").write_text("before\n")
    (tmp_path / "p.yaml").write_text(f"spool: '{redis_server.fresh_url()}'\n{source}{OUT}")
    process = start(tmp_path)
    try:
        until(lambda: lines(tmp_path))
        redis_server.pause()
        with (tmp_path / "a.log").open("a") as file:
            file.writelines(f"{number}\n" for number in range(2_000))
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, report = process.communicate(timeout=PATIENCE)
    finally:
        redis_server.resume()
        process.kill()
    assert process.returncode == 0, report
    assert "Traceback" not in report
    process = start(tmp_path)
    expected = {"before", *map(str, range(2_000))}
    try:
        until(lambda: {json.loads(line)["line"] for line in lines(tmp_path)} == expected)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)


def test_a_store_that_is_not_available_at_the_start_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("a\n")
    source = "sources: [{type: file, path: a.log, position: pos, from_start: true, follow: false}]\n"
    unused = f"redis://user:{quote(PASSWORD, safe='')}@127.0.0.1:{free_port()}/0"
    (tmp_path / "p.yaml").write_text(f"spool: '${{STORE}}'\n{source}{OUT}")
    ended = subprocess.run(
        PROGRAM,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "STORE": unused},
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("the pipeline cannot start: redis://")
    assert ended.stderr.count("\n") == 1
    assert not leaks(ended.stderr)
    assert not (tmp_path / "pos").exists()
