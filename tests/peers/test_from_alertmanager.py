"""The commands and files of docs/from-alertmanager.md work as they are, apart from addresses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from alert_servers import VARIABLES, ours, program, wait_for
from http_service import Reply, http_service

PAGE = Path(__file__).parent.parent.parent / "docs" / "from-alertmanager.md"
TOKEN = "a-long-secret"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def commands(*beginnings: str) -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line.startswith(beginnings)]


def test_the_page_leads_to_the_first_notification(tmp_path):
    for block in blocks("yaml"):
        name = re.match(r"# ([\w.]+)", block)
        assert name is not None
        file = tmp_path / name[1]
        if not file.exists() or name[1] != "prometheus.yml":
            file.write_text(block.replace("/etc/prometheus/alerts-token", str(tmp_path / "token")))
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "bin").mkdir()
    script = f'#!/bin/sh\nexec "{sys.executable}" -m codomyrmex.integrations.cli "$@"\n'
    (tmp_path / "bin" / "codomyrmex-streaming").write_text(script)
    (tmp_path / "bin" / "codomyrmex-streaming").chmod(0o755)

    def run(command: str, address: str = "") -> str:
        kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment = {**kept, "PATH": path, "HOME": str(tmp_path)}
        if command.startswith("amtool"):
            command = f"{command} --alertmanager.url=http://{address}"
        done = subprocess.run(
            ["/bin/sh", "-c", command.replace("127.0.0.1:9093", address)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=tmp_path,
            timeout=60,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    program("amtool")
    run(f"{program('promtool')} check config prometheus.yml")
    with http_service(Reply(body="ok")) as slack:
        file = tmp_path / "alertmanager.yml"
        text = file.read_text().replace(
            "https://hooks.slack.com/services/T000/B000/XXXX", f"{slack.url}/hook"
        )
        file.write_text(text.replace("group_wait: 10s", "group_wait: 1s"))
        results = [
            run(command)
            for command in commands("codomyrmex-streaming alerts check", "codomyrmex-streaming alerts route")
        ]
        assert results[-1] == "oncall\n"
        with ours(file, "--state", "alerts.db") as server:
            add, *others = commands("amtool")
            run(add, server.address)
            wait_for(lambda: slack.received)
            [attachment] = slack.received[0].json["attachments"]
            assert "Only a test" in attachment["text"]
            shown = [run(command, server.address) for command in others]
            assert "Only a test" in shown[0]
            assert "Seen" in shown[2]
            assert shown[3] == "oncall\n"
            for command in commands("curl"):
                assert "Test" in run(command, server.address) or "--json" in command
            [explain] = re.findall(r"`(codomyrmex-streaming alerts explain [^`]+)`", PAGE.read_text())
            assert "oncall" in run(explain)
            assert server.terminate() == 0
        [guarded] = commands("CODOMYRMEX_TOKEN=")
        options = guarded.partition("alertmanager.yml ")[2].replace("--listen 0.0.0.0:9093 ", "").split()
        with ours(file, *options, environment={"CODOMYRMEX_TOKEN": TOKEN}) as server:
            assert server.client.get("/api/v2/status").status_code == 401
            run("amtool --http.config.file=http.yml silence query", server.address)
