"""The command `demo --workers` in-process: what it counts, its options and its errors."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from itertools import permutations

import httpx
import pytest
from codomyrmex.demo.ledger import Balance, Books
from codomyrmex.demo.worker import ALERTS, Recorder
from codomyrmex.demo.workers import reading_the_log, receiving
from codomyrmex.integrations import DeliveryPolicy, attach
from codomyrmex.integrations.cli.app import app
from codomyrmex.integrations.durable import DurableStream, SQLiteStore
from codomyrmex.streaming import create_event
from helpers import DEADLINE
from typer.testing import CliRunner


def run(*options: str):
    return CliRunner().invoke(app, ["demo", *options], env={"COLUMNS": "200"})


# What it counts


@pytest.mark.parametrize("steps", list(permutations(["accepted", "logged", "delivered"])))
def test_an_event_is_published_and_delivered_in_whichever_order_that_is_noted(steps):
    books = Books()
    books.events.begin("a")
    for step in steps:
        books.events.note("a", step)
    assert books.balance() == Balance(published=1, delivered=1, notified=0, duplicates=0, lost=0)
    assert books.events.is_complete("a")


@pytest.mark.parametrize("step", ["accepted", "logged", "delivered"])
def test_an_event_of_which_a_step_is_missing_is_lost(step):
    books = Books()
    books.events.begin("a")
    assert books.balance().lost == 0  # nobody has accepted it
    books.events.note("a", step)
    assert books.balance().lost == 1


@pytest.mark.parametrize("step", ["logged", "notified"])
def test_an_alert_of_which_a_step_is_missing_is_lost(step):
    books = Books()
    books.alerts.begin("17 firing")
    books.alerts.begin("17 resolved")
    books.alerts.note("17 firing", step)
    assert books.balance().lost == 1


def test_what_arrives_again_is_a_duplicate_before_and_after_everything_else_has_arrived():
    books = Books()
    books.events.begin("a")
    for step in ("delivered", "delivered", "logged", "delivered"):
        books.events.note("a", step)
    books.alerts.note("an order that was never stuck", "notified")
    assert books.balance() == Balance(published=1, delivered=1, notified=0, duplicates=3, lost=0)


async def balance_after(books: Books, **expected: int) -> Balance:
    """Return the balance once it has some figures."""
    async with asyncio.timeout(DEADLINE):
        while any(getattr(books.balance(), name) != number for name, number in expected.items()):
            await asyncio.sleep(0.005)
    return books.balance()


async def test_events_that_a_sink_never_receives_are_lost(tmp_path):
    """The log and a sink of a real stream: its group is moved past three of five events."""
    books = Books()
    store, at_once = SQLiteStore(tmp_path / "shop.db"), DeliveryPolicy(batch_age=0)
    with receiving(books) as address:
        recorder = Recorder("recorder", f"http://{address}/events", lambda event: event.id)
        async with reading_the_log(DurableStream(store, "shop", lease=0.3), books) as stream:

            async def publish(number: int) -> None:
                for _ in range(number):
                    event = create_event({"order": 1}, topic="orders.placed")
                    books.events.begin(event.id)
                    await stream.publish(event)
                    books.events.note(event.id, "accepted")

            async with attach(stream, recorder, policy=at_once):
                await publish(1)
                await balance_after(books, delivered=1)
            await publish(3)
            assert (await balance_after(books, published=4)).lost == 3  # still to be delivered
            await stream.call(stream.admin.seek("recorder", None, stream.owner("test")))
            async with attach(stream, recorder, policy=at_once):
                await publish(1)
                found = await balance_after(books, delivered=2, published=5)
    assert found == Balance(published=5, delivered=2, notified=0, duplicates=0, lost=3)


def test_a_report_that_breaks_off_counts_nothing():
    books = Books()
    with receiving(books) as address:
        host, port = address.split(":")
        with socket.create_connection((host, int(port))) as worker:
            worker.sendall(b'POST /events HTTP/1.1\r\nContent-Length: 10\r\n\r\n["a')
        answer = httpx.post(f"http://{address}/events", json=["b"])
    assert answer.status_code == 204
    assert books.balance().duplicates == 1  # b, of which nobody has heard


# The command


def test_its_options_are_in_its_help():
    help_text = run("--help").stdout
    for option in ("--workers", "--kill-every", "--for"):
        assert option in help_text


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--kill-every", "3s"], "--kill-every: needs --workers"),
        (["--workers", "2", "--cycle", "5"], "--cycle: cannot be used with --workers"),
        (
            ["--workers", "2", "--kill-every", "0.5"],
            "--kill-every: must be at least 1s and finite, got 0.5",
        ),
        (["--workers", "2", "--for", "inf"], "--for: must be at least 1s and finite, got inf"),
        (["--workers", "2", "--for", "soon"], "--for: 'soon' is not a duration like 30s, 5m or 1h30m"),
        (["--workers", "0"], "'--workers': Input should be greater than or equal to 1"),
    ],
)
def test_a_wrong_option_is_one_sentence(options, problem):
    done = run(*options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert problem in done.stderr


def test_a_port_in_use_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("--workers", "2", "--port", port)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"port {port} is in use; choose another with --port\n"


def test_a_temporary_folder_that_cannot_be_created_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    done = run("--workers", "2", "--port", "0")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "no temporary folder can be created; set TMPDIR to another place: [Errno 2]"
    )
    assert done.stderr.count("\n") == 1


def test_its_alerts_pass_their_tests():
    for command in ("check", "test"):
        done = CliRunner().invoke(app, ["alerts", command, str(ALERTS)])
        assert done.exit_code == 0, done.output
