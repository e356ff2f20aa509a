"""The command `demo` in-process: its end, its errors, its options and its alerts."""

from __future__ import annotations

import socket
import sys

import pytest
from codomyrmex.demo import main
from codomyrmex.demo.main import ALERTS
from codomyrmex.integrations.cli.app import app
from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def _process_state(monkeypatch):
    """Restore what the demo changes in the process."""
    monkeypatch.setenv("DEMO_RECEIVER", "")


def test_it_ends_after_its_duration():
    done = CliRunner().invoke(app, ["demo", "--port", "0", "--duration", "1"])
    assert done.exit_code == 0, done.output
    assert "The live page:" in done.stdout
    assert "structlog: " in done.stdout


def test_a_port_in_use_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(app, ["demo", "--port", port])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"port {port} is in use; choose another with --port\n"


def test_its_options_are_in_its_help():
    help_text = CliRunner().invoke(app, ["demo", "--help"], env={"COLUMNS": "200"}).stdout
    for option in ("--port", "--duration", "--cycle", "--no-browser"):
        assert option in help_text


def test_its_alerts_pass_their_tests():
    for command in ("check", "test"):
        done = CliRunner().invoke(app, ["alerts", command, str(ALERTS)])
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize("missing", ["pybreaker", "structlog", "opentelemetry.sdk"])
def test_a_missing_package_is_one_sentence(monkeypatch, missing):
    for name in [name for name in sys.modules if name.startswith("codomyrmex.demo")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [missing, *(name for name in sys.modules if name.startswith(f"{missing}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    done = CliRunner().invoke(app, ["demo", "--duration", "1"])
    assert (done.exit_code, done.stdout) == (2, "")
    name = missing.replace(".", "-")
    assert done.stderr == (
        f"the demo needs {name}, which is not installed: pip install 'codomyrmex-streaming[demo]'\n"
    )


def test_a_line_of_the_log_without_a_trace_is_shown():
    line = {"timestamp": "12:00:00", "level": "info", "event": "orders.alert", "data": {"summary": "slow"}}
    shown = {"timestamp": "12:00:00", "level": "info", "event": "orders.alert", "summary": "slow"}
    assert main.shorten(None, "info", dict(line)) == shown
    assert main.shorten(None, "info", {**line, "trace_id": "0123456789"}) == {**shown, "trace": "01234567"}


@pytest.mark.parametrize(
    ("duration", "end"), [(None, "Press Ctrl-C to end the demo."), (45.0, "It ends after 45 seconds.")]
)
def test_it_says_how_it_ends(duration, end):
    assert main.greeting("http://127.0.0.1:8765/", "token", 30.0, duration).endswith(f"{end}\n")
