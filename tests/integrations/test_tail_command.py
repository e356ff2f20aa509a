"""The command `codomyrmex-streaming tail`, in-process, against a server on a thread."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import datetime
from unittest.mock import patch

import pytest
from codomyrmex.integrations.cli.app import app
from codomyrmex.integrations.web import dashboard, event_stream, require_token
from codomyrmex.streaming import Event, EventType, InMemoryStream, create_event
from event_server import PATIENCE, Server, order, until
from typer.testing import CliRunner

TOKEN = "s3cret"


class Tail(threading.Thread):
    """The command, on a thread of its own."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        super().__init__(daemon=True)
        self._arguments = ["tail", *arguments]
        self._environment = {"NO_COLOR": "1", **environment}
        self._out, self._err = io.StringIO(), io.StringIO()
        self._code: object = None

    def run(self) -> None:
        with patch.dict(os.environ), redirect_stdout(self._out), redirect_stderr(self._err):
            os.environ.pop("COLUMNS", None)  # several test processes set the width of a terminal
            os.environ.update(self._environment)
            try:
                app(self._arguments)
            except SystemExit as exit_:
                self._code = exit_.code

    def wait_for_line(self) -> str:
        until(lambda: "\n" in self._out.getvalue())
        return self._out.getvalue().partition("\n")[0]

    def finish(self) -> tuple[object, list[str], str]:
        self.join(PATIENCE)
        assert not self.is_alive()
        output, messages = self._out.getvalue(), self._err.getvalue()
        assert TOKEN not in output + messages
        return self._code, output.splitlines(), messages


def run(*arguments: str, **environment: str) -> tuple[object, list[str], str]:
    """Run it to its end."""
    tail = Tail(*arguments, **environment)
    tail.start()
    return tail.finish()


@contextmanager
def tailing(server: Server, *arguments: str, **environment: str) -> Iterator[Tail]:
    """Run it until it is connected."""
    stdout, stderr = sys.stdout, sys.stderr
    tail = Tail(*arguments, **environment)
    tail.start()
    try:
        until(lambda: server.app.clients == 1 or not tail.is_alive())
        yield tail
        tail.join(PATIENCE)
    finally:
        sys.stdout, sys.stderr = stdout, stderr


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    started.up()
    yield started
    started.end()


def test_each_event_is_a_line_with_time_type_topic_and_payload(server):
    with tailing(server, server.url, "--count", "2") as tail:
        happened = order(1, note="zwölf\nlines\x1b[31m")
        server.publish(happened, create_event("away", EventType.ERROR, topic="orders.failed"))
        code, lines, messages = tail.finish()
    assert (code, messages) == (0, "")
    assert lines[0][12:] == ' message   orders.placed  {"order":1,"note":"zwölf\\nlines\\u001b[31m"}'
    assert lines[0].startswith(f"{happened.timestamp.astimezone():%H:%M:%S}.")
    assert lines[1][12:] == " error     orders.failed  away"


def test_a_line_is_not_wider_than_the_terminal(server):
    with tailing(server, server.url, "--count", "1", COLUMNS="60") as tail:
        server.publish(order(1, note="long " * 1_000))
        _, [line], _ = tail.finish()
    assert len(line) == 60
    assert line.endswith("…")


@pytest.mark.parametrize(
    ("zone", "moment"), [("XXX+12", "0001-01-01T00:00:01"), ("XXX-12", "9999-12-31T23:59:59")]
)
def test_a_time_that_is_out_of_range_here_ends_nothing(server, monkeypatch, zone, moment):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    event = order(1).replace(timestamp=datetime.fromisoformat(f"{moment}Z"))
    try:
        for options in ([], ["--json"]):
            with tailing(server, server.url, "--count", "1", *options) as tail:
                server.publish(event)
                code, [line], _ = tail.finish()
            assert code == 0
            until(lambda: server.app.clients == 0)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert json.loads(line)["metadata"]["original_timestamp"].startswith(moment)  # replaced by the present


def test_lines_in_a_pipe_are_not_cut(server):
    with tailing(server, server.url, "--count", "1") as tail:
        server.publish(order(1, note="x" * 20_000))
        _, [line], _ = tail.finish()
    assert len(line) > 20_000


def test_as_json_it_is_the_event_as_it_was(server):
    sent = [order(1, note="line\nbreak"), order(2)]
    with tailing(server, server.url, "--json", "--count", "2") as tail:
        server.publish(*sent)
        _, lines, _ = tail.finish()
    assert [Event.from_dict(json.loads(line)) for line in lines] == sent


def test_all_filters_have_to_hold(server):
    options = ["--type", "message", "--topic", "orders.>", "--where", "data.order=~[1-5]"]
    with tailing(server, server.url, *options, "--where", "data.by=ada", "--json", "--count", "1") as tail:
        server.publish(
            order(1, "carts.left", by="ada"),
            order(2, by="bob"),
            order(3, by="ada").replace(type=EventType.ERROR),
            order(9, by="ada"),
            order(5, by="ada"),
        )
        _, lines, _ = tail.finish()
    assert [json.loads(line)["data"]["order"] for line in lines] == [5]


def test_bare_payloads_are_shown_too(server):
    server.down()
    server.options["data"] = "payload"
    server.up()
    with tailing(server, server.url, "--count", "1") as tail:
        server.publish(order(1))
        _, [line], _ = tail.finish()
    assert line.endswith(' message   -  {"order":1}')


def test_since_continues_after_an_event(server):
    sent = [order(number) for number in range(3)]
    server.publish(*sent)
    code, lines, messages = run(server.url, "--since", sent[0].id, "--json", "--count", "2")
    assert (code, messages) == (0, "")
    assert [json.loads(line)["id"] for line in lines] == [event.id for event in sent[1:]]


def test_since_an_event_that_is_gone_reports_a_gap_and_shows_the_others(server):
    server.publish(order(1))
    code, lines, messages = run(server.url, "--since", "long-gone", "--json", "--count", "1")
    assert code == 0
    assert len(lines) == 1
    assert "events may be missing: the server no longer has event long-gone" in messages


def test_after_an_interruption_it_continues_where_it_was(server):
    with tailing(server, server.url, "--json", "--count", "3") as tail:
        server.publish(order(1))
        assert json.loads(tail.wait_for_line())["data"] == {"order": 1}
        server.break_connection()
        server.publish(order(2), order(3))
        code, lines, messages = tail.finish()
    assert code == 0
    assert [json.loads(line)["data"]["order"] for line in lines] == [1, 2, 3]
    assert re.fullmatch(
        r"connection lost: the connection was interrupted; trying again in \d\.\d s\n"
        r"reconnected after \d+\.\d s\n",
        messages,
    )


def test_after_a_restart_without_events_it_reports_a_gap(server):
    with tailing(server, server.url, "--json", "--count", "2") as tail:
        server.publish(order(1))
        tail.wait_for_line()
        server.down()
        server.stream = InMemoryStream()
        anew = event_stream(server.stream, **server.options)
        server.publish(order(7))
        server.up(anew)
        _, lines, messages = tail.finish()
    assert [json.loads(line)["data"]["order"] for line in lines] == [1, 7]
    assert "connection lost: the server has closed the stream; trying again in" in messages
    assert "events may be missing" in messages
    assert "the events it has follow" in messages


@pytest.mark.parametrize("how", ["option", "environment"])
def test_a_token_is_sent_and_never_shown(server, how):
    server.down()
    server.options["authorize"] = require_token(TOKEN)
    server.up()
    given = {"CODOMYRMEX_TOKEN": TOKEN} if how == "environment" else {}
    options = [] if given else ["--token", TOKEN]
    with tailing(server, server.url, *options, "--count", "1", **given) as tail:
        server.publish(order(1))
        code, lines, _ = tail.finish()
    assert (code, len(lines)) == (0, 1)


def test_a_refusal_is_one_sentence(server):
    server.down()
    server.options["authorize"] = require_token(TOKEN)
    server.up()
    for options in ([], ["--token", "wrong"]):
        code, lines, messages = run(f"{server.url}?secret={TOKEN}", *options)
        assert (code, lines) == (1, [])
        assert messages.startswith("the server answered 401: ")
        assert messages.count("\n") == 1


def test_a_page_is_not_a_stream_and_the_message_says_where_that_is(server):
    server.down()
    server.up(dashboard(server.stream, signals=False))
    code, _, messages = run(server.url)
    assert code == 1
    assert (
        "text/html instead of text/event-stream; the events of a live page are at api/events below it"
        in messages
    )
    code, _, messages = run(f"{server.url}nothing")
    assert code == 1
    assert messages.startswith("the server answered 404")
    with tailing(server, f"{server.url}api/events", "--count", "1") as tail:
        server.publish(order(1))
        assert tail.finish()[0] == 0


def test_a_server_that_cannot_be_reached_at_the_start_is_an_error(server):
    server.down()
    message = "the server cannot be reached; check the address and that it is running\n"
    assert run(f"{server.url}?{TOKEN}") == (1, [], message)


@pytest.mark.parametrize(
    "wrong",
    [
        [f"ftp://example/{TOKEN}"],
        ["http://localhost/", "--topic", "a..b"],
        ["http://localhost/", "--type", "eror"],
        ["http://localhost/", "--where", "data.order=~["],
        ["http://localhost/", "--where", "data.order>=x"],
        ["http://localhost/", "--token", "two\nlines"],
        ["http://localhost/", "--since", "zwölf"],
        ["http://localhost/", "--count", "0"],
        [],
    ],
)
def test_wrong_usage_is_reported_without_a_request(wrong):
    done = CliRunner().invoke(app, ["tail", *wrong])
    assert (done.exit_code, done.stdout) == (2, "")
    assert TOKEN not in done.stderr
