"""The example of web logs, on its sample and on real logs where these are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "web_logs"
DATA = ROOT.parent / "shared" / "data"
COMMAND = [sys.executable, "-m", "codomyrmex.integrations.cli"]


@contextmanager
def receiver() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Run somebody who is to know; give the address and what has come, each with where to."""
    got: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            got.append((self.path, f"{body['title']} {body['message']}"))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", got
        server.shutdown()


def run(folder: Path, **environ: str) -> tuple[Any, list[dict[str, Any]], list[tuple[str, str]]]:
    """Run the pipeline; give its report, the bursts and the notifications."""
    with receiver() as (address, got):
        done = subprocess.run(
            [*COMMAND, "run", str(EXAMPLE / "web_logs.yaml"), "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "RECEIVER": address, "BURSTS": str(folder / "bursts.jsonl"), **environ},
        )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    lines = (folder / "bursts.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads(done.stdout), [json.loads(line)["metadata"] for line in lines], got


def counts(bursts: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    return Counter((burst["labels"]["alertname"], burst["status"]) for burst in bursts)


def test_the_sample_has_three_bursts_that_begin_and_end_and_are_told(tmp_path):
    report, bursts, got = run(tmp_path)
    assert [(b["labels"]["alertname"], b["labels"]["client"]) for b in bursts if b["status"] == "firing"] == [
        ("ManyClientErrors", "198.51.100.4"),
        ("ManyServerErrors", "192.0.2.11"),
        ("RepeatedFailedLogins", "203.0.113.9"),
    ]
    assert set(counts(bursts).values()) == {1}
    assert len(bursts) == 6
    assert (report["came"], report["passed"]) == (51, 6)
    assert report["unread"] == {"file[1]: unmatched lines": 2}
    assert {path for path, _ in got} <= {"/pager", "/chat"}


@pytest.mark.parametrize(
    ("variable", "name", "came", "expected"),
    [
        ("ACCESS_LOG", "apache_access_2k.log", 2_000, {}),  # 35 of 404, and nobody has five in ten minutes
        (
            "AUTH_LOG",
            "openssh_2k.log",
            524,
            {("RepeatedFailedLogins", "firing"): 12, ("RepeatedFailedLogins", "resolved"): 10},
        ),
    ],
)
def test_real_logs_give_the_exact_counts(tmp_path, variable, name, came, expected):
    log = DATA / name
    if not log.is_file():
        pytest.skip(f"there is no ../shared/data/{name} beside the project")
    environ = {"ACCESS_LOG": os.devnull, "AUTH_LOG": os.devnull, variable: str(log)}
    report, bursts, _ = run(tmp_path, **environ)
    assert (report["came"], counts(bursts)) == (came, expected)


def test_its_files_are_sound_and_the_tests_of_its_alerts_pass():
    for arguments in (["check", "web_logs.yaml"], ["alerts", "test", "web.alerts.yaml"]):
        done = subprocess.run(
            [*COMMAND, *arguments], cwd=EXAMPLE, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_sample_is_what_its_program_makes(tmp_path):
    (tmp_path / "sample").mkdir()
    code = (
        f"import pathlib, make_sample as m; m.FOLDER = pathlib.Path({str(tmp_path / 'sample')!r}); m.main()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=EXAMPLE, check=True, timeout=60)
    for name in ("access.log", "auth.log"):
        assert (tmp_path / "sample" / name).read_bytes() == (EXAMPLE / "sample" / name).read_bytes()
