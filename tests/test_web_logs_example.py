"""The example of web logs, on its sample and on real logs where these are."""

from __future__ import annotations

import json
import runpy
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from codomyrmex.integrations.cli.app import app
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "web_logs"
DATA = ROOT.parent / "shared" / "data"


@contextmanager
def receiver() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Serve an address for notifications; yield it and a list of what it receives: the path and the text."""
    received: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.append((self.path, f"{body['title']} {body['message']}"))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", received
        server.shutdown()


def run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, **environ: str
) -> tuple[Any, list[dict[str, Any]], list[tuple[str, str]]]:
    """Run the pipeline; return its report, the bursts and the notifications."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "bursts", raising=False)  # it remembers what it has seen
    with receiver() as (address, notifications):
        environ |= {"RECEIVER": address, "BURSTS": str(folder / "bursts.jsonl")}
        done = CliRunner().invoke(app, ["run", str(EXAMPLE / "web_logs.yaml"), "--json"], env=environ)
    assert done.exit_code == 0, done.output
    lines = (folder / "bursts.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads(done.stdout), [json.loads(line)["metadata"] for line in lines], notifications


def counts(bursts: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    return Counter((burst["labels"]["alertname"], burst["status"]) for burst in bursts)


def test_the_sample_has_three_bursts_that_begin_and_end_and_are_notified(tmp_path, monkeypatch):
    report, bursts, notifications = run(tmp_path, monkeypatch)
    firing = [burst["labels"] for burst in bursts if burst["status"] == "firing"]
    # Two files are read at the same time.
    assert sorted((labels["alertname"], labels["client"]) for labels in firing) == [
        ("ManyClientErrors", "198.51.100.4"),
        ("ManyServerErrors", "192.0.2.11"),
        ("RepeatedFailedLogins", "203.0.113.9"),
    ]
    assert set(counts(bursts).values()) == {1}
    assert len(bursts) == 6
    assert (report["received"], report["published"]) == (51, 6)
    assert report["skipped"] == {"file[1]: unmatched lines": 2}
    assert {path for path, _ in notifications} <= {"/pager", "/chat"}


@pytest.mark.parametrize(
    ("variable", "name", "received", "expected"),
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
def test_real_logs_have_the_exact_counts(tmp_path, monkeypatch, variable, name, received, expected):
    log = DATA / name
    if not log.is_file():
        pytest.skip(f"there is no ../shared/data/{name} beside the project")
    empty = tmp_path / "empty.log"
    empty.touch()
    environ = {"ACCESS_LOG": str(empty), "AUTH_LOG": str(empty), variable: str(log)}
    report, bursts, _ = run(tmp_path, monkeypatch, **environ)
    assert (report["received"], counts(bursts)) == (received, expected)


@pytest.mark.parametrize("arguments", [["check", "web_logs.yaml"], ["alerts", "test", "web.alerts.yaml"]])
def test_its_files_are_sound_and_the_tests_of_its_alerts_pass(arguments):
    *command, file = arguments
    done = CliRunner().invoke(app, [*command, str(EXAMPLE / file)])
    assert done.exit_code == 0, done.output


def test_the_sample_is_what_its_program_makes(tmp_path, monkeypatch):
    (tmp_path / "sample").mkdir()
    program = runpy.run_path(str(EXAMPLE / "make_sample.py"))
    monkeypatch.setitem(program["main"].__globals__, "FOLDER", tmp_path / "sample")
    program["main"]()
    for name in ("access.log", "auth.log"):
        assert (tmp_path / "sample" / name).read_bytes() == (EXAMPLE / "sample" / name).read_bytes()
