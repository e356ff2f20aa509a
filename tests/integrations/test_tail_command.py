"""The command `codomyrmex-streaming tail`, as a person runs it, against a server on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest
from codomyrmex.integrations.cli.app import app
from codomyrmex.integrations.web import dashboard, event_stream, require_token, serving
from codomyrmex.streaming import Event, EventType, InMemoryStream, create_event
from typer.testing import CliRunner

TOKEN = "s3cret"
PATIENCE = 60.0  # of a test that waits for a program to start


class Server:
    """An event stream on a thread; it can be restarted, with or without what it remembers."""

    def __init__(self) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port: int = found.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.stream = InMemoryStream()
        self.options: dict[str, Any] = {"reconnect_within": 0, "signals": False}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = AsyncExitStack()

    def run(self, work: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result(PATIENCE)

    def up(self, served: Any = None) -> None:
        self.app = served or event_stream(self.stream, **self.options)
        self.run(self._server.enter_async_context(serving(self, port=self.port)))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self._task = asyncio.current_task()
        await self.app(scope, receive, send)

    async def aclose(self) -> None:
        await self.app.aclose()

    def break_connection(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        until(lambda: self.app.clients == 0)

    def down(self) -> None:
        self.run(self._server.aclose())

    def publish(self, *events: Event) -> None:
        for event in events:
            self.run(self.stream.publish(event))

    def end(self) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    made.up()
    yield made
    made.end()


# A run of tests in several processes sets the width of a terminal that there is none of.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "codomyrmex.integrations.cli", "tail", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, "NO_COLOR": "1", "TZ": "UTC", **environment},
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    output, messages = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in messages
    assert TOKEN not in output + messages
    return process.returncode, output.splitlines(), messages


def run(*arguments: str, **environment: str) -> tuple[int, list[str], str]:
    """Run it to its end."""
    with start(*arguments, **environment) as process:
        return finish(process)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def tailing(server: Server, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run it until it is connected."""
    with start(*arguments, **environment) as process:
        try:
            until(lambda: server.app.clients == 1 or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            yield process
        finally:
            process.kill()


def order(number: int, topic: str = "orders.placed", **more: Any) -> Event:
    return create_event({"order": number, **more}, topic=topic)


def test_each_event_is_a_line_with_time_type_topic_and_payload(server):
    with tailing(server, server.url, "--count", "2") as process:
        happened = order(1, note="zwölf\nlines\x1b[31m")
        server.publish(happened, create_event("away", EventType.ERROR, topic="orders.failed"))
        code, lines, messages = finish(process)
    assert (code, messages) == (0, "")
    assert lines[0][12:] == ' message   orders.placed  {"order":1,"note":"zwölf\\nlines\\u001b[31m"}'
    assert lines[0].startswith(f"{happened.timestamp:%H:%M:%S}.")
    assert lines[1][12:] == " error     orders.failed  away"


def test_a_line_is_no_wider_than_the_terminal(server):
    with tailing(server, server.url, "--count", "1", COLUMNS="60") as process:
        server.publish(order(1, note="long " * 1_000))
        _, [line], _ = finish(process)
    assert len(line) == 60
    assert line.endswith("…")


def test_what_is_piped_is_whole(server):
    with tailing(server, server.url, "--count", "1") as process:
        server.publish(order(1, note="x" * 20_000))
        _, [line], _ = finish(process)
    assert len(line) > 20_000


def test_as_json_it_is_the_event_as_it_was(server):
    sent = [order(1, note="line\nbreak"), order(2)]
    with tailing(server, server.url, "--json", "--count", "2") as process:
        server.publish(*sent)
        _, lines, _ = finish(process)
    assert [Event.from_dict(json.loads(line)) for line in lines] == sent


def test_filters_all_have_to_hold(server):
    options = ["--type", "message", "--topic", "orders.>", "--where", "data.order=~[1-5]"]
    with tailing(server, server.url, *options, "--where", "data.by=ada", "--json", "--count", "1") as process:
        server.publish(
            order(1, "carts.left", by="ada"),
            order(2, by="bob"),
            order(3, by="ada").replace(type=EventType.ERROR),
            order(9, by="ada"),
            order(5, by="ada"),
        )
        _, lines, _ = finish(process)
    assert [json.loads(line)["data"]["order"] for line in lines] == [5]


def test_payloads_without_events_around_them_are_shown_too(server):
    server.down()
    server.options["data"] = "payload"
    server.up()
    with tailing(server, server.url, "--count", "1") as process:
        server.publish(order(1))
        _, [line], _ = finish(process)
    assert line.endswith(' message   -  {"order":1}')


def test_since_an_event_it_goes_on(server):
    sent = [order(number) for number in range(3)]
    server.publish(*sent)
    code, lines, messages = run(server.url, "--since", sent[0].id, "--json", "--count", "2")
    assert (code, messages) == (0, "")
    assert [json.loads(line)["id"] for line in lines] == [event.id for event in sent[1:]]


def test_since_an_event_that_is_gone_it_says_so_and_shows_what_is_there(server):
    server.publish(order(1))
    code, lines, messages = run(server.url, "--since", "long-gone", "--json", "--count", "1")
    assert code == 0
    assert len(lines) == 1
    assert "events may be missing: the server does not have event long-gone any more" in messages


def test_after_a_break_it_goes_on_where_it_was(server):
    with tailing(server, server.url, "--json", "--count", "3") as process:
        server.publish(order(1))
        assert json.loads(process.stdout.readline())["data"] == {"order": 1}
        server.break_connection()
        server.publish(order(2), order(3))
        code, lines, messages = finish(process)
    assert code == 0
    assert [json.loads(line)["data"]["order"] for line in lines] == [2, 3]
    assert re.fullmatch(
        r"connection lost: the connection broke; trying again in \d\.\d s\nconnected again after \d+\.\d s\n",
        messages,
    )


def test_after_a_restart_that_has_forgotten_it_says_that_something_is_missing(server):
    with tailing(server, server.url, "--json", "--count", "2") as process:
        server.publish(order(1))
        process.stdout.readline()
        server.down()
        server.stream = InMemoryStream()
        anew = event_stream(server.stream, **server.options)
        server.publish(order(7))
        server.up(anew)
        _, lines, messages = finish(process)
    assert [json.loads(line)["data"]["order"] for line in lines] == [7]
    assert "connection lost: the server has ended the stream; trying again in" in messages
    assert "events may be missing" in messages
    assert "what it still has follows" in messages


@pytest.mark.parametrize("how", ["option", "environment"])
def test_a_token_is_sent_and_never_shown(server, how):
    server.down()
    server.options["authorize"] = require_token(TOKEN)
    server.up()
    given = {"CODOMYRMEX_TOKEN": TOKEN} if how == "environment" else {}
    options = [] if given else ["--token", TOKEN]
    with tailing(server, server.url, *options, "--count", "1", **given) as process:
        server.publish(order(1))
        code, lines, _ = finish(process)
    assert (code, len(lines)) == (0, 1)


def test_a_refusal_is_one_sentence(server):
    server.down()
    server.options["authorize"] = require_token(TOKEN)
    server.up()
    for options in ([], ["--token", "wrong"]):
        code, lines, messages = run(f"{server.url}?secret={TOKEN}", *options)
        assert (code, lines) == (1, [])
        assert messages.startswith("the server answers 401: ")
        assert messages.count("\n") == 1


def test_a_page_is_no_stream_and_where_that_is_is_said(server):
    server.down()
    server.up(dashboard(server.stream, signals=False))
    code, _, messages = run(server.url)
    assert code == 1
    assert (
        "text/html, not text/event-stream; the events of a live page are below it, at api/events" in messages
    )
    code, _, messages = run(f"{server.url}nothing")
    assert code == 1
    assert messages.startswith("the server answers 404")
    with tailing(server, f"{server.url}api/events", "--count", "1") as process:
        server.publish(order(1))
        assert finish(process)[0] == 0


def test_a_server_that_was_never_there_is_not_waited_for(server):
    server.down()
    assert run(f"{server.url}?{TOKEN}") == (1, [], "the server cannot be reached\n")


@pytest.mark.parametrize(
    "wrong",
    [
        [f"ftp://example/{TOKEN}"],
        ["http://localhost/", "--topic", "a..b"],
        ["http://localhost/", "--type", "eror"],
        ["http://localhost/", "--where", "data.order=~["],
        ["http://localhost/", "--token", "two\nlines"],
        ["http://localhost/", "--since", "zwölf"],
        ["http://localhost/", "--count", "0"],
        [],
    ],
)
def test_wrong_use_is_told_before_anything_is_asked(wrong):
    done = CliRunner().invoke(app, ["tail", *wrong])
    assert (done.exit_code, done.stdout) == (2, "")
    assert TOKEN not in done.stderr


def test_ctrl_c_ends_it_well(server):
    with tailing(server, server.url) as process:
        server.publish(order(1))
        assert "orders.placed" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert finish(process) == (0, [], "")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_has_gone_ends_it_quietly(server, options):
    with tailing(server, server.url, *options) as process:
        server.publish(order(1))
        assert "orders.placed" in process.stdout.readline()
        process.stdout.close()
        server.publish(*(order(number) for number in range(5)))
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""
