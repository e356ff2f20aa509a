"""`AppriseChannel` with the real Apprise and a local HTTP server: what is sent, and what is never shown."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from codomyrmex.integrations import DeliveryPolicy, PartialDeliveryError, Sink, SinkReport, attach
from codomyrmex.integrations.notification import AppriseChannel, ChannelError
from codomyrmex.streaming import Event, EventType, InMemoryStream, create_event

# A plugin of Apprise imports it, though it needs nothing of it.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

ONCE = DeliveryPolicy(batch_age=0, max_attempts=1)
DEADLINE = 10.0  # the first one loads all plugins of Apprise

USER, PASSWORD, PATH, QUERY, HEADER = "usr3cr3t", "p4ssw0rd", "t0ken-in-path", "qu3ry-value", "h34der-value"
SECRETS = (USER, PASSWORD, PATH, QUERY, HEADER)


class Server(ThreadingHTTPServer):
    """Takes what Apprise posts."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.status = 200
        self.refuses = ""
        self.hangs = ""  # at a message with this in it; at every one where it is empty
        self.entered = threading.Event()
        self.free = threading.Event()
        self.free.set()

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.server_port}/"

    @property
    def secret_url(self) -> str:
        return f"json://{USER}:{PASSWORD}@127.0.0.1:{self.server_port}/{PATH}?-key={QUERY}&+X-Token={HEADER}&rto=5&cto=5"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about clients that have left."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.paths.append(self.path)
        self.server.entered.set()
        if self.server.hangs in sent["message"]:
            self.server.free.wait(DEADLINE)
        refused = self.server.refuses and self.server.refuses in sent["message"]
        if not refused:
            self.server.received.append(sent)
        self.send_response(503 if refused else self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is called there
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.free.set()
    made.shutdown()
    made.server_close()
    thread.join(5)


async def send(url: str, *events: Event, name: str = "operations") -> None:
    channel = AppriseChannel(name, url)
    async with asyncio.timeout(DEADLINE):
        await channel.open()
        try:
            await channel.send(events)
        finally:
            await channel.close()


def whole_chain(error: BaseException | None) -> list[BaseException]:
    """Give an error and all that it came from, shown or not."""
    found: list[BaseException] = []
    left = [error]
    while left:
        one = left.pop()
        if one is None or one in found:
            continue
        found.append(one)
        left += [one.__cause__, one.__context__]
        left += getattr(one, "failed", {}).values()
    return found


def everything_said(error: BaseException) -> str:
    """Give what any report of an error could show, also one with the variables of its frames."""
    said: list[str] = []
    for one in whole_chain(error):
        said += [str(one), repr(one), repr(one.args)]
        frames = traceback.StackSummary.extract(traceback.walk_tb(one.__traceback__), capture_locals=True)
        said += [f"{frame.name} {frame.locals}" for frame in frames if frame.filename != __file__]
    return "\n".join(said)


def assert_no_secret(text: str, *more: str) -> None:
    shown = [secret for secret in (*SECRETS, *more) if secret in text]
    assert shown == [], text[:2_000]


# What is sent


async def test_an_event_becomes_a_notification(server):
    await send(server.url, create_event({"order": 42, "by": "Zoë"}, topic="orders.created"))
    [sent] = server.received
    assert sent["title"] == "MESSAGE orders.created"
    assert json.loads(sent["message"]) == {"order": 42, "by": "Zoë"}
    assert sent["type"] == "info"


@pytest.mark.parametrize(
    ("event_type", "kind"),
    [(EventType.ERROR, "failure"), (EventType.MESSAGE, "info"), (EventType.CONNECT, "info")],
)
async def test_only_an_error_is_a_failure(server, event_type, kind):
    await send(server.url, create_event(1, event_type))
    assert [sent["type"] for sent in server.received] == [kind]


@pytest.mark.parametrize(
    ("metadata", "title"),
    [
        ({"event": "order placed", "topic": "orders"}, "MESSAGE order placed"),
        ({"topic": "orders"}, "MESSAGE orders"),
        ({}, "MESSAGE message"),
        ({"event": 42}, "MESSAGE 42"),
        ({"event": "a\r\nBcc: eve@example.org"}, "MESSAGE a Bcc: eve@example.org"),
        ({"topic": "a\rb\nc"}, "MESSAGE a b c"),
        ({"event": "a\u2028b\u2029c\x85d\x0be\x0cf"}, "MESSAGE a b c d e f"),
        ({"event": "100% {x} %s $y"}, "MESSAGE 100% {x} %s $y"),
    ],
    ids=repr,
)
async def test_the_title_is_one_line(server, metadata, title):
    await send(server.url, Event(metadata=metadata))
    assert [sent["title"] for sent in server.received] == [title]


@pytest.mark.parametrize("text", ["a\x00b", "a\x1b[31mb", "a\x7fb", "a\x9bb", "a\x08b"], ids=repr)
async def test_no_control_character_is_in_a_title(server, text):
    await send(server.url, create_event(1, event=text))
    assert server.received[0]["title"].isprintable()


async def test_a_very_long_title_is_cut(server):
    await send(server.url, create_event(1, event="x" * 10_000))
    assert len(server.received[0]["title"]) <= 200


@pytest.mark.parametrize(
    ("data", "body"),
    [
        ("a text\nof two lines", "a text\nof two lines"),
        ("<b>bold</b> & *stars* @everyone", "<b>bold</b> & *stars* @everyone"),
        ("", "(no data)"),
        (None, "null"),
        (0, "0"),
        (False, "false"),
        ([], "[]"),
        ({}, "{}"),
        ("a\\nb", "a\\nb"),
    ],
    ids=repr,
)
async def test_the_body_is_the_data_as_it_is(server, data, body):
    await send(server.url, create_event(data))
    assert [sent["message"] for sent in server.received] == [body]


async def test_what_json_does_not_know_is_sent_all_the_same(server):
    circle: dict[str, Any] = {"bytes": b"\xff", "surrogate": "\udcff", "set": {1}}
    circle["self"] = circle
    await send(server.url, create_event(circle, event="\udcff"))
    assert "surrogate" in server.received[0]["message"]


async def test_events_are_sent_in_order_one_notification_each(server):
    await send(server.url, *(create_event(str(number)) for number in range(20)))
    assert [sent["message"] for sent in server.received] == [str(number) for number in range(20)]


# What fails


async def test_a_failing_server_is_told_for_each_event_without_the_url(server):
    server.status = 503
    events = [create_event(number) for number in range(2)]
    with pytest.raises(PartialDeliveryError) as caught:
        await send(server.secret_url, *events)
    assert set(caught.value.failed) == {event.id for event in events}
    for error in caught.value.failed.values():
        assert isinstance(error, ChannelError)
        assert "operations" in str(error)
    assert_no_secret(everything_said(caught.value), str(server.server_port))


async def test_only_the_notification_that_was_refused_has_failed(server):
    server.refuses = "bad"
    good, bad, last = create_event("good"), create_event("bad"), create_event("last")
    with pytest.raises(PartialDeliveryError) as caught:
        await send(server.url, good, bad, last)
    assert list(caught.value.failed) == [bad.id]
    assert [sent["message"] for sent in server.received] == ["good", "last"]


async def test_a_server_that_is_not_there_is_told(server):
    url = server.secret_url
    server.shutdown()
    server.server_close()
    with pytest.raises(PartialDeliveryError) as caught:
        await send(url, create_event(1))
    assert_no_secret(everything_said(caught.value))


WRONG_URLS = {
    "unknown scheme": "nosuchscheme://hunter2hunter2/path",
    "no scheme": "hunter2hunter2",
    "empty": "",
    "a wrong token": "telegram://hunter2hunter2",
    "a wrong webhook": "https://hooks.slack.com/services/hunter2hunter2",
    "slack without tokens": "slack://hunter2hunter2",
    "no host": "json://",
    "a mistyped scheme": "tgram:hunter2hunter2/42?next=https://example.org/",
    "a scheme that is a secret": "hunter2hunter2@json://127.0.0.1/",
    "line feeds": "json\n://hunter2hunter2\n",
}


@pytest.mark.parametrize("url", WRONG_URLS.values(), ids=WRONG_URLS.keys())
async def test_a_wrong_url_is_told_without_showing_it(url, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    channel = AppriseChannel("operations", url)
    with pytest.raises(ChannelError, match="operations") as caught:
        async with asyncio.timeout(DEADLINE), attach(InMemoryStream(), channel):
            pass
    said = "".join(
        [str(caught.value), everything_said(caught.value), repr(channel), caplog.text, *capfd.readouterr()]
    )
    assert_no_secret(said, "hunter2hunter2")
    assert "\n" not in str(caught.value)


async def test_what_apprise_raises_does_not_carry_the_url_along(server):
    apprise = importlib.import_module("apprise")
    secret = "inst4nce-s3cret"

    class Broken(apprise.NotifyBase):
        service_name = "Broken"
        protocol = "brokenforthistest"
        service_url = "https://example.org/"
        setup_url = "https://example.org/"
        templates = ("{schema}://{host}",)
        template_tokens = {"host": {"name": "Host", "type": "string"}}  # noqa: RUF012 - as Apprise has it

        def url(self, privacy: bool = False, *args: Any, **kwargs: Any) -> str:
            return f"{self.protocol}://{secret}"

        def send(self, body: str, **kwargs: Any) -> bool:
            raise RuntimeError(f"cannot reach {self.url()}")

    plugins = importlib.import_module("apprise.manager_plugins").NotificationManager()
    plugins.add(Broken, schemas="brokenforthistest")
    try:
        with pytest.raises(PartialDeliveryError) as caught:
            await send(f"brokenforthistest://{secret}", create_event(1))
    finally:
        plugins.remove("brokenforthistest")
    [error] = caught.value.failed.values()
    assert isinstance(error, ChannelError)
    text = "\n".join(f"{one} {one!r}" for one in whole_chain(caught.value))
    assert_no_secret(text, secret)


# What is never shown


async def test_no_log_at_any_level_shows_the_url(server, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("apprise").setLevel(logging.DEBUG)
    stream = InMemoryStream()
    try:
        async with (
            asyncio.timeout(DEADLINE),
            attach(stream, AppriseChannel("operations 1", server.secret_url), policy=ONCE),
        ):
            await stream.publish(create_event(1))
        server.status = 503
        async with (
            asyncio.timeout(DEADLINE),
            attach(stream, AppriseChannel("operations 2", server.secret_url), policy=ONCE),
        ):
            await stream.publish(create_event(2))
    finally:
        logging.getLogger("apprise").setLevel(logging.NOTSET)
    assert [path.startswith(f"/{PATH}") for path in server.paths] == [True, True]
    assert "operations 2" in caplog.text
    assert_no_secret("".join([caplog.text, *(repr(vars(r)) for r in caplog.records), *capfd.readouterr()]))


async def test_no_log_shows_the_url_where_records_do_not_name_their_thread(server, caplog, monkeypatch):
    monkeypatch.setattr(logging, "logThreads", False)
    caplog.set_level(logging.DEBUG, "apprise")
    server.status = 503
    with pytest.raises(PartialDeliveryError):
        await send(server.secret_url, create_event(1))
    assert_no_secret(caplog.text)


async def test_other_users_of_apprise_keep_their_log(server, caplog):
    caplog.set_level(logging.DEBUG, "apprise")
    server.free.clear()
    task = asyncio.create_task(send(server.url, create_event(1)))
    assert await asyncio.to_thread(server.entered.wait, DEADLINE)
    logging.getLogger("apprise").warning("a line of the application")
    server.free.set()
    await task
    logging.getLogger("apprise").warning("another line")
    lines = [record.getMessage() for record in caplog.records if record.name == "apprise"]
    assert lines[-2:] == ["a line of the application", "another line"]
    assert logging.getLogger("apprise").filters == []


def test_a_channel_shows_its_name_and_scheme_only():
    url = f"json://{USER}:{PASSWORD}@127.0.0.1/{PATH}?+X={HEADER}"
    channel = AppriseChannel("operations", url)
    assert_no_secret(f"{channel} {channel!r} {[channel]}")
    assert "operations" in repr(channel)
    assert "json" in repr(channel)
    assert isinstance(channel, Sink)
    assert channel.name == "operations"


async def test_an_event_that_cannot_be_shown_fails_alone(server):
    class Unprintable:
        def __str__(self) -> str:
            raise ValueError("no")

    good, bad = create_event("good"), create_event(1, event=Unprintable())
    with pytest.raises(PartialDeliveryError) as caught:
        await send(server.url, bad, good)
    assert list(caught.value.failed) == [bad.id]
    assert [sent["message"] for sent in server.received] == ["good"]


# On a stream


async def test_attached_to_a_stream_it_delivers_and_counts(server):
    server.refuses = "bad"
    stream, channel = InMemoryStream(), AppriseChannel("operations 3", server.url)
    async with asyncio.timeout(DEADLINE), attach(stream, channel, policy=ONCE) as attachment:
        for data in ("good", "bad", "good"):
            await stream.publish(create_event(data))
    assert attachment.report().sinks["operations 3"] == SinkReport(2, 1, {}, 0)
    assert len(server.received) == 2


async def test_the_event_loop_goes_on_while_the_server_hangs(server):
    server.free.clear()
    stream, channel = InMemoryStream(), AppriseChannel("operations 4", server.url)
    async with asyncio.timeout(DEADLINE), attach(stream, channel, policy=ONCE) as attachment:
        await stream.publish(create_event(1))
        assert await asyncio.to_thread(server.entered.wait, DEADLINE)
        for number in range(100):  # with the call on the loop this would never be reached
            await stream.publish(create_event(number))
            await asyncio.sleep(0)
        assert attachment.report().sinks[channel.name].delivered == 0
        server.free.set()
        assert (await attachment.aclose(DEADLINE)).complete
    assert len(server.received) == 101


async def test_a_hanging_channel_does_not_hold_up_another(server):
    server.free.clear()
    other = Server()
    threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True).start()
    stream = InMemoryStream()
    hanging, good = AppriseChannel("operations 5", server.url), AppriseChannel("operations 6", other.url)
    try:
        async with asyncio.timeout(DEADLINE), attach(stream, hanging, good, policy=ONCE) as attachment:
            await stream.publish(create_event(1))
            assert await asyncio.to_thread(other.entered.wait, DEADLINE)
            assert attachment.report().sinks[hanging.name].delivered == 0
            server.free.set()
    finally:
        other.shutdown()
        other.server_close()


async def test_a_server_that_hangs_through_the_drain_is_left_and_its_events_are_lost(server):
    server.free.clear()
    stream, channel = InMemoryStream(), AppriseChannel("operations 7", server.url)
    async with asyncio.timeout(DEADLINE), attach(stream, channel, policy=ONCE) as attachment:
        for number in range(3):
            await stream.publish(create_event(number))
        assert await asyncio.to_thread(server.entered.wait, DEADLINE)
        report = await attachment.aclose(timeout=0.01)
    assert report.sinks[channel.name] == SinkReport(0, 0, {}, 3)


async def test_a_channel_can_be_closed_twice_and_unopened(server):
    channel = AppriseChannel("operations", server.url)
    await channel.close()
    await channel.open()
    await channel.close()
    await channel.close()
    assert server.received == []


def test_apprise_is_loaded_only_when_a_channel_opens():
    code = (
        "import sys, asyncio\n"
        "from codomyrmex.integrations.notification import AppriseChannel\n"
        "channel = AppriseChannel('operations', 'json://127.0.0.1/')\n"
        "assert 'apprise' not in sys.modules\n"
        "asyncio.run(channel.open())\n"
        "assert 'apprise' in sys.modules\n"
        "asyncio.run(channel.close())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


async def test_cut_off_by_the_timeout_only_the_rest_is_sent_again(server):
    stream, channel = InMemoryStream(), AppriseChannel("operations", server.url)
    rules = DeliveryPolicy(batch_age=0.2, timeout=1, backoff_initial=0)
    async with asyncio.timeout(DEADLINE), attach(stream, channel, policy=rules) as attachment:
        server.hangs = "event 2"
        server.free.clear()
        for number in range(4):
            await stream.publish(create_event(f"event {number}"))
        while attachment.health()["operations"].last_error is None:
            await asyncio.sleep(0.01)
        server.free.set()
        assert await attachment.flush(5)
        report = attachment.report().sinks["operations"]
    assert (report.delivered, report.given_up) == (4, 0)
    messages = [sent["message"] for sent in server.received]
    assert messages[:2] == ["event 0", "event 1"]
    assert messages.count("event 0") == messages.count("event 1") == messages.count("event 3") == 1
    assert "event 2" in messages  # perhaps twice: the service may have taken what was cut off
