"""The command `codomyrmex-streaming alerts serve`: what it refuses, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from codomyrmex.integrations.cli.app import app
from durable.servers import free_port
from helpers import DEADLINE
from http_service import HANG, http_service
from typer.testing import CliRunner

CONFIG = """
route: {receiver: nobody, routes: [{receiver: jira, matchers: [a="b"]}]}
receivers:
  - name: nobody
  - name: jira
    jira_configs: [{api_url: 'http://jira', project: A, issue_type: Bug, summary: x}]
"""
VARIABLES = ("CODOMYRMEX_STATE", "CODOMYRMEX_TOKEN", "CODOMYRMEX_EXTERNAL_URL")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # it is restored after the test, also if the command sets it
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "alertmanager.yml"
    path.write_text(CONFIG)
    return path


def refused(*args: str, code: int) -> str:
    result = CliRunner().invoke(app, ["alerts", "serve", *args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    return result.output.rstrip("\n").splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--listen", "nowhere"], "--listen: expected an address like 127.0.0.1:8000, got 'nowhere'"),
        (["--listen", "0.0.0.0:9093"], "can be reached from other machines; set CODOMYRMEX_TOKEN"),
        (["--listen", ":9093", "--token", " "], "--token: must be printable ASCII and not empty"),
        (["--token", "a\nb"], "--token: must be printable ASCII and not empty"),
        (["--external-url", "example.com"], "--external-url: must be a URL such as https://"),
        (["--external-url", "http://example.com/?a=b"], "--external-url: must be a URL such as https://"),
        (["--path-prefix", "a b"], "--path-prefix: must be a path such as /alertmanager, got 'a b'"),
        (
            ["--state", "missing/alerts.db"],
            "--state: the folder of the state missing/alerts.db does not exist",
        ),
        (["--state", "alertmanager.yml"], "alertmanager.yml is a configuration by its name"),
        (["--state", "."], "is a directory"),
        (["--state", "mysql://db/alerts"], "--state: store: the URL must start with sqlite://"),
    ],
)
def test_wrong_options_are_one_sentence(file, options, message):
    assert message in refused(str(file), *options, code=2)


def test_a_file_that_is_a_directory_or_missing_is_wrong_usage(file):
    assert "is a directory" in refused(str(file.parent), code=2)
    assert "does not exist" in refused("missing.yml", code=2)


def test_a_state_in_the_file_and_another_one_are_wrong_usage(file):
    file.write_text(f"{CONFIG}\nstate: alerts.db\n")
    assert "the file already has a `state:`" in refused(str(file), "--state", "other.db", code=2)


def test_an_invalid_file_is_a_problem_with_its_position(file):
    file.write_text("route: {receiver: nobody}\n")
    assert refused(str(file), code=1).startswith(f"{file}:1:")


def test_a_port_in_use_is_one_sentence(file):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        expected = f"the server cannot start: cannot listen on {address}: Address already in use"
        assert refused(str(file), "--listen", address, code=1) == expected


def test_a_state_that_is_another_file_is_one_sentence(file):
    Path("notes.db").write_text("no database")
    line = refused(str(file), "--listen", "127.0.0.1:0", "--state", "notes.db", code=1)
    assert line.startswith("the server cannot start: sqlite:///")
    assert "not a SQLite database" in line
    assert Path("notes.db").read_text() == "no database"


def test_a_state_that_is_a_device_is_reported_without_a_traceback(file, caplog):
    for _ in range(3):  # the list of processes is read at the same time
        refused(str(file), "--listen", "127.0.0.1:0", "--state", "/dev/null", code=1)
    assert "Traceback" not in caplog.text
    assert not any(record.exc_info for record in caplog.records)


class Running:
    """The command in this process, while another thread uses it."""

    def __init__(self, file: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._file = file

    def run(
        self, script: Callable[[httpx.Client], None], *options: str, path: str = "", code: int = 0
    ) -> str:
        """Run until a script has ended, and return what was printed."""
        failures: list[BaseException] = []

        def act() -> None:
            try:
                with httpx.Client(base_url=f"http://{self.address}{path}", timeout=DEADLINE) as client:
                    wait_for(lambda: _is_ready(client))
                    script(client)
            except BaseException as error:  # noqa: BLE001 - raised below
                failures.append(error)
            os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=act)
        thread.start()
        arguments = ["alerts", "serve", str(self._file), "--listen", self.address, *options]
        result = CliRunner().invoke(app, arguments)
        thread.join()
        assert not failures, (failures, result.output)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        assert (result.exit_code, result.stdout) == (code, ""), result.output
        return result.stderr


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").is_success
    except httpx.TransportError:
        return False


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def server(file: Path) -> Iterator[Running]:
    handler = signal.signal(signal.SIGTERM, lambda *_: None)  # for a script that fails before the start
    yield Running(file)
    signal.signal(signal.SIGTERM, handler)


def test_it_serves_the_api_until_sigterm_and_reloads_on_sighup(server, file):
    def names(client: httpx.Client) -> list[str]:
        return [each["name"] for each in client.get("/api/v2/receivers").raise_for_status().json()]

    def script(client: httpx.Client) -> None:
        assert names(client) == ["nobody", "jira"]
        file.write_text("route: {receiver: other}\nreceivers: [{name: other}]\n")
        os.kill(os.getpid(), signal.SIGHUP)
        wait_for(lambda: names(client) == ["other"])

    printed = server.run(script, "--no-watch").splitlines()
    assert printed[0].startswith(f"{file}:6:")
    assert "jira_configs deliver nothing here" in printed[0]
    assert printed[1:] == [
        "silences and the notification log are lost when this process ends; --state keeps them",
        f"listening on http://{server.address}",
        "the configuration was reloaded",
        "stopping; press Ctrl-C again to drop pending notifications",
    ]


def test_with_a_token_and_an_external_url_the_api_is_below_its_path(server):
    def script(client: httpx.Client) -> None:
        assert client.get("/-/ready").text == "OK"  # an orchestrator asks without a token
        refused = client.get("/api/v2/receivers")
        assert refused.status_code == 401
        assert refused.json() == "a token is required; send Authorization: Bearer ..."
        for options in ({"auth": ("any", "s3cret")}, {"headers": {"authorization": "Bearer s3cret"}}):
            assert client.get("/api/v2/receivers", **options).is_success

    options = ("--external-url", "https://example.com/alerts/", "--token", "s3cret", "--state", "alerts.db")
    printed = server.run(script, *options, path="/alerts")
    assert "s3cret" not in printed
    assert "are lost when this process ends" not in printed


def test_a_second_signal_drops_pending_notifications(server, file):
    with http_service(HANG) as hook:
        hooks = f"[{{url: '{hook.url}', timeout: 1h}}]"
        file.write_text(
            f"route: {{receiver: a, group_wait: 0s}}\nreceivers: [{{name: a, webhook_configs: {hooks}}}]\n"
        )

        def script(client: httpx.Client) -> None:
            client.post("/api/v2/alerts", json=[{"labels": {"alertname": "A"}}]).raise_for_status()
            wait_for(lambda: hook.received)
            os.kill(os.getpid(), signal.SIGTERM)
            wait_for(lambda: not _is_ready(client))

        printed = server.run(script, "--drain", "3600", code=143)
    assert "Traceback" not in printed
