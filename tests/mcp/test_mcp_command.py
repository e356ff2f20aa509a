"""`codomyrmex-streaming mcp` as it is called: options, packages that are missing, and what is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
from codomyrmex.integrations.cli.app import app
from typer.testing import CliRunner


def run(*arguments: str, **environment: str) -> tuple[int, str]:
    """Run the command with an empty stdin, and return its exit code and its messages."""
    result = CliRunner().invoke(app, ["mcp", *arguments], env={"CODOMYRMEX_TOKEN": None, **environment})
    assert result.stdout == ""
    return result.exit_code, result.stderr


def test_it_ends_when_stdin_is_closed():
    assert run() == (0, "")
    assert run("--url", "http://127.0.0.1:9/", "--allow-actions", CODOMYRMEX_TOKEN="t") == (0, "")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--allow-actions"], "--allow-actions: needs --url"),
        (["--url", "host"], "--url: must begin with http:// or https:// and a host"),
        (["--url", "http://ann:hunter2@host"], "--url: must not have a user or a password"),
        (["--url", "http://host", "--token", "\u00e4"], "--token: must be printable ASCII and not empty"),
        (["--url", "http://host", "--token", " "], "--token: must be printable ASCII and not empty"),
    ],
)
def test_wrong_options_are_one_sentence(arguments, problem):
    code, messages = run(*arguments)
    assert code == 2
    assert problem in " ".join(messages.split())
    assert "hunter2" not in messages


def test_only_this_command_imports_the_sdk_and_without_it_the_message_names_the_extra():
    """One process, because each takes a second."""
    script = """
import sys
from importlib import import_module
for name in "__init__ app alerts alert_runs pipelines silences tail demo store store_tail".split():
    import_module(f"codomyrmex.integrations.cli.{name}")
assert not {"mcp", "mcp_types"} & {name.partition(".")[0] for name in sys.modules}
sys.modules["mcp"] = sys.modules["mcp.server"] = None
from codomyrmex.integrations.cli import main
sys.argv = ["codomyrmex-streaming", "mcp"]
main()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    [message] = ended.stderr.splitlines()
    assert message.endswith("which is not installed: pip install 'codomyrmex-streaming[mcp]'")
