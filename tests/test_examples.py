"""The examples, each run as a program."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers import DEADLINE

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
FIRST_LIGHT = EXAMPLES / "first_light.py"
DATA = ROOT.parent / "shared" / "data"

COUNT = re.compile(r"^ *([\d,]+) ([a-z][a-z ]+)$", re.MULTILINE)
LINES, FAILURES = "lines received", "failures and state changes"
LOGGED, ON_A_SPAN, NOTIFIED, DROPPED = "logged", "added to a span", "notified", "dropped"

LOG = """\
Dec 10 06:55:46 LabSZ sshd[24200]: Invalid user webmaster from 10.0.0.6
Dec 10 06:55:48 LabSZ sshd[24200]: Failed password for invalid user webmaster from 10.0.0.6 port 38926 ssh2
Dec 10 06:55:48 LabSZ sshd[24200]: Connection closed by 173.234.31.186 [preauth]
Dec 10 07:13:56 LabSZ sshd[24227]: Failed password for root from 10.0.0.7 port 42393 ssh2
Dec 10 07:14:00 L sshd[1]: message repeated 5 times: [ Failed password for root from 10.0.0.7 port 42 ssh2]
127.0.0.1 - - [17/May/2015:10:05:03 +0000] "GET /orders HTTP/1.1" 200 27
127.0.0.1 - - [17/May/2015:10:05:04 +0000] "GET /nothing HTTP/1.1" 404 27
127.0.0.1 - - [17/May/2015:10:05:05 +0000] "GET /orders HTTP/1.1" 503 - "-" "curl/8"

a line about nothing, with a Zoë in it
"""


def run(*arguments: str, standard_input: bytes = b"", **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(FIRST_LIGHT), *arguments],
        input=standard_input,
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )


def counts_of(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return {label: int(number.replace(",", "")) for number, label in COUNT.findall(done.stdout)}


def expected(lines: int, failures: int) -> dict[str, int]:
    return {
        LINES: lines,
        FAILURES: failures,
        LOGGED: failures,
        ON_A_SPAN: failures,
        NOTIFIED: failures,
        DROPPED: 0,
    }


def test_without_input_it_runs_a_service_and_reports_its_failures_everywhere():
    done = run()
    counts = counts_of(done)
    assert counts == expected(counts[LINES], counts[FAILURES])
    assert 0 < counts[FAILURES] < counts[LINES]
    opened = done.stdout.index("'to_state': 'open'")
    closed = done.stdout.rindex("'to_state': 'closed'")
    assert opened < done.stdout.index("'to_state': 'half_open'") < closed
    assert done.stdout.count("http.failure ") >= 4  # one by the customer's fault, three by the service's
    refused = re.search(r"refused (\d+) requests", done.stdout)
    assert refused is not None
    assert counts[LINES] + int(refused[1]) == 30
    shown = [int(number) for number in re.findall(r"^span '.*': (\d+) events", done.stdout, re.MULTILINE)]
    assert sum(shown) == counts[ON_A_SPAN]


def test_a_file_is_read_and_its_failures_are_explained(tmp_path):
    log = tmp_path / "some.log"
    log.write_text(LOG, encoding="utf-8")
    done = run(str(log))
    assert counts_of(done) == expected(10, 5)
    assert done.stdout.count("login.failure ") >= 3
    assert "'user': 'webmaster'" in done.stdout
    assert "'attempts': 5" in done.stdout
    assert "'status': 404" in done.stdout
    assert "'status': 503" in done.stdout


def test_standard_input_is_read_like_a_file_and_its_last_line_needs_no_end():
    assert counts_of(run("-", standard_input=LOG.rstrip().encode())) == expected(10, 5)


def test_invalid_utf_8_does_no_harm():
    raw = b"sshd[1]: Failed password for root\xff\xfe from 10.0.0.1 port 1 ssh2\n\xff\x00\x1b[31m\n"
    done = run("-", standard_input=raw, PYTHONIOENCODING="utf-8:strict")  # as in a UTF-8 locale
    assert counts_of(done) == expected(2, 1)


def test_an_empty_input_has_no_failures():
    assert counts_of(run("-")) == expected(0, 0)


def test_a_path_that_is_not_a_file_is_exit_code_2(tmp_path):
    done = run(str(tmp_path))
    assert done.returncode == 2
    assert f"there is no file {tmp_path}" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("name", "failures"),
    [("openssh_2k.log", 520), ("apache_access_2k.log", 35)],
)
def test_real_logs_have_the_exact_counts(name, failures):
    log = DATA / name
    if not log.is_file():
        pytest.skip(f"there is no ../shared/data/{name} beside the project")
    assert counts_of(run(str(log))) == expected(2_000, failures)


# The applications: each is started, used over HTTP, and stopped with SIGTERM


@contextmanager
def serving(
    example: str | Path, *arguments: str, end: int = signal.SIGTERM
) -> Iterator[tuple[httpx.Client, list[str]]]:
    """Run an application and end it by a signal; afterwards the list holds the lines that it printed."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    printed: list[str] = []
    with (
        subprocess.Popen(
            [sys.executable, str(EXAMPLES / example), "--port", str(port), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE) as client,
    ):
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    client.get("/health")
                    break
                except httpx.TransportError:
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield client, printed
            process.send_signal(end)
            output, _ = process.communicate(timeout=20)
        finally:
            process.kill()
        printed += output.splitlines()
        assert "Traceback" not in output
        assert process.returncode in (0, -end)  # uvicorn ends itself by the signal it got


def order(client: httpx.Client, **body: Any) -> str:
    answer = client.post("/orders", json=body)
    assert answer.status_code == 201
    return answer.json()["id"]


def test_a_fastapi_application_logs_and_archives_its_orders_and_drains_at_its_end(tmp_path):
    archive = tmp_path / "orders.jsonl"
    with serving("app_startup.py", "--archive", str(archive)) as (client, printed):
        ids = [order(client, item="tea", token="s3cret") for _ in range(3)]
        health = client.get("/health").json()
        assert health["structlog"]["delivered"] == 3
        assert health["archive"]["state"] == "ok"
    archived = [json.loads(line) for line in archive.read_text(encoding="utf-8").splitlines()]
    assert [event["id"] for event in archived] == ids
    assert archived[0]["data"] == {"item": "tea", "token": "[redacted]"}
    assert sum("orders.created" in line and "[redacted]" in line for line in printed) == 3
    assert any("Uvicorn running on http://127.0.0.1:" in line for line in printed)


def test_a_fastapi_application_outlives_a_file_that_cannot_be_written(tmp_path):
    with serving("app_startup.py", "--archive", str(tmp_path)) as (client, printed):  # a folder
        order(client, item="tea")
        assert client.get("/health").status_code == 200
    assert any("events were not delivered: archive" in line for line in printed)


def test_a_flask_application_delivers_on_a_thread_and_drains_at_its_end():
    with serving("flask_startup.py") as (client, printed):
        for _ in range(3):
            order(client, item="tea")
        assert client.get("/health").json()["structlog"]["delivered"] == 3
    assert sum(int(line.split()[1]) for line in printed if line.startswith("delivered ")) == 3
    assert sum("orders.created" in line for line in printed) == 3


def test_logs_and_traces_are_correlated_without_a_loop():
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "logging_and_tracing.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    logged = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    first = logged[0]
    assert first["data"] == {"api_key": "[redacted]", "item": "tea"}
    assert first["user"] == "ada"
    assert f"of trace {first['trace_id']} has ['orders.created tea']" in done.stdout
    assert [line for line in done.stdout.splitlines() if line.startswith("paged")] == [
        "paged: logs.warning: stock is low",
        "paged: logs.error: the printer is on fire",
    ]
    assert [line["event"] for line in logged].count("the pager is slow today") >= 1


def test_a_circuit_breaker_is_logged_alerted_and_on_the_board():
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "circuit_breaker_feed.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    alerts = [line for line in lines if line.startswith("alert")]
    assert alerts == ["alert firing: CircuitBreakerOpen orders", "alert resolved: CircuitBreakerOpen orders"]
    assert sum("circuit is open" in line for line in lines) >= 3
    assert sum("circuit_breaker.pybreaker.orders" in line for line in lines) >= 7
    assert any("shop/orders" in line and "closed" in line for line in lines)


def test_alerts_arrive_at_their_receivers():
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "alert_routing" / "alert_routing.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    arrived = [line for line in done.stdout.splitlines() if " gets " in line]
    assert arrived[0] == "pager gets [failure] CardsDeclined (service=payments)"
    assert sorted(arrived[1:]) == [
        "chat gets [failure] CardsDeclined (service=payments)",
        "chat gets [warning] HighLatency (service=cart)",
    ]
    assert "3 FIRING" in done.stdout
    assert done.stdout.count("alerts.notified") == 3


# The durable shop, as the guide changes it for each store

SHOP = EXAMPLES / "durable_shop" / "shop.py"
GUIDE = ROOT / "docs" / "guides" / "durable-streams.md"
STORES = {"memory": 0, "sqlite": 1, "postgres": 2}  # and how many changes of the guide lead to it


def apply_diff(text: str, diff: str) -> str:
    """Apply a diff whose parts are separated by lines of three dots."""
    for part in diff.split("...\n"):
        lines = part.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        assert text.count(before) == 1, before
        text = text.replace(before, "".join(line[1:] for line in lines if line[0] in " +"))
    return text


@pytest.fixture(params=STORES)
def shop(request, tmp_path, monkeypatch):
    """Return the kind of store, and the shop that uses it in a folder of its own."""
    text = SHOP.read_text(encoding="utf-8")
    diffs = re.findall(r"^```diff\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for diff in diffs[: STORES[request.param]]:
        assert len(re.findall(r"^\+", diff, re.MULTILINE)) <= 3
        text = apply_diff(text, diff)
    if request.param != "memory":  # another process takes over after a second instead of ten
        text, changes = re.subn(r"^stream = (.*)\)$", r"stream = \1, lease=1.0)", text, flags=re.MULTILINE)
        assert changes == 1
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_server").fresh_url()
        text, changes = re.subn(r'PostgresStore\(".*?"\)', f"PostgresStore({url!r})", text)
        assert changes == 1
    path = tmp_path / "shop.py"
    path.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return request.param, path


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def archived(path: Path) -> list[dict[str, Any]]:
    archive = path.with_name("orders.jsonl")
    return [json.loads(line) for line in archive.read_text().splitlines()] if archive.exists() else []


def paid(path: Path) -> list[str]:
    return [event["data"]["order"] for event in archived(path) if event["metadata"]["topic"] == "orders.paid"]


def test_the_durable_shop_charges_orders_and_shows_them_live_on_each_store(shop):
    _, path = shop
    with serving(path) as (client, printed), client.stream("GET", "/events/?topic=orders.>") as live:
        lines = live.iter_lines()
        assert next(line for line in lines if line.startswith("event:")) == "event: connect"
        first = order(client, item="tea", price=4)
        order(client, item="nothing", price="free")  # is given up, and holds up no other
        last = order(client, item="cake", price=5)
        wait_until(lambda: paid(path) == [first, last])
        shown = (json.loads(line[5:]) for line in lines if line.startswith("data:") and "orders." in line)
        topics = [next(shown)["metadata"]["topic"] for _ in range(5)]
        assert sorted(topics) == ["orders.created"] * 3 + ["orders.paid"] * 2
        assert client.get("/health").json() == {"structlog": "ok", "charge": "losing", "archive": "ok"}
    assert sum("orders.paid" in line for line in printed) == 2


def test_the_durable_shop_charges_after_a_kill_what_it_has_answered_with_201(shop):
    kind, path = shop
    with serving(path, end=signal.SIGKILL) as (client, printed):
        client.put("/payments", json={"available": False})
        ids = [order(client, item="tea", price=4) for _ in range(5)]
        wait_until(lambda: client.get("/health").json()["charge"] != "ok")
    assert any("circuit_breaker.pybreaker.payments" in line for line in printed)
    assert paid(path) == []
    with serving(path) as (client, printed):
        if kind == "memory":
            assert client.get("/health").json()["charge"] == "ok"
        else:
            wait_until(lambda: len(paid(path)) == len(ids))
    assert paid(path) == ([] if kind == "memory" else ids)
