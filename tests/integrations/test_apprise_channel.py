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
from contextvars import ContextVar
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from codomyrmex.integrations import (
    DeliveryPolicy,
    PartialDeliveryError,
    PermanentError,
    Sink,
    SinkReport,
    attach,
)
from codomyrmex.integrations.notification import AppriseChannel, ChannelError, load_alert_config
from codomyrmex.streaming import Event, EventType, InMemoryStream, create_event
from helpers import DEADLINE

# A plugin of Apprise imports it, though it needs nothing of it.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

ONCE = DeliveryPolicy(batch_age=0, max_attempts=1)

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
        """Log nothing about clients that have left."""


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
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.free.set()
    made.shutdown()
    made.server_close()
    thread.join(DEADLINE)


async def send(url: str, *events: Event, name: str = "operations") -> None:
    channel = AppriseChannel(name, url)
    async with asyncio.timeout(DEADLINE):
        await channel.open()
        try:
            await channel.send(events)
        finally:
            await channel.close()


def whole_chain(error: BaseException | None) -> list[BaseException]:
    """Return an error with its causes and contexts, suppressed ones included."""
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


def all_texts(error: BaseException) -> str:
    """Return everything that a report of an error could show, the variables of its frames included."""
    texts: list[str] = []
    for one in whole_chain(error):
        texts += [str(one), repr(one), repr(one.args)]
        frames = traceback.StackSummary.extract(traceback.walk_tb(one.__traceback__), capture_locals=True)
        texts += [f"{frame.name} {frame.locals}" for frame in frames if frame.filename != __file__]
    return "\n".join(texts)


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
    assert len(server.received[0]["title"]) == 250


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


async def test_a_failing_server_is_reported_for_each_event_without_the_url(server):
    server.status = 503
    events = [create_event(number) for number in range(2)]
    with pytest.raises(PartialDeliveryError) as caught:
        await send(server.secret_url, *events)
    assert set(caught.value.failed) == {event.id for event in events}
    for error in caught.value.failed.values():
        assert isinstance(error, ChannelError)
        assert "operations" in str(error)
    assert_no_secret(all_texts(caught.value), str(server.server_port))


async def test_only_the_notification_that_was_refused_has_failed(server):
    server.refuses = "bad"
    good, bad, last = create_event("good"), create_event("bad"), create_event("last")
    with pytest.raises(PartialDeliveryError) as caught:
        await send(server.url, good, bad, last)
    assert list(caught.value.failed) == [bad.id]
    assert [sent["message"] for sent in server.received] == ["good", "last"]


async def test_an_unreachable_server_is_reported_without_the_url(server):
    url = server.secret_url
    server.shutdown()
    server.server_close()
    with pytest.raises(PartialDeliveryError) as caught:
        await send(url, create_event(1))
    assert_no_secret(all_texts(caught.value))


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
async def test_an_invalid_url_is_reported_without_showing_it(url, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    channel = AppriseChannel("operations", url)
    with pytest.raises(ChannelError, match="operations") as caught:
        async with asyncio.timeout(DEADLINE), attach(InMemoryStream(), channel):
            pass
    texts = "".join(
        [str(caught.value), all_texts(caught.value), repr(channel), caplog.text, *capfd.readouterr()]
    )
    assert_no_secret(texts, "hunter2hunter2")
    assert "\n" not in str(caught.value)


async def test_what_apprise_raises_does_not_carry_the_url_along(server):
    apprise = importlib.import_module("apprise")
    secret = "inst4nce-s3cret"

    class Broken(apprise.NotifyBase):
        service_name = "Broken"
        protocol = "brokentest"
        service_url = "https://example.org/"
        setup_url = "https://example.org/"
        templates = ("{schema}://{host}",)
        template_tokens = {"host": {"name": "Host", "type": "string"}}  # noqa: RUF012 - as Apprise has it

        def url(self, privacy: bool = False, *args: Any, **kwargs: Any) -> str:
            return f"{self.protocol}://{secret}"

        def send(self, body: str, **kwargs: Any) -> bool:
            raise RuntimeError(f"cannot reach {self.url()}")

        @staticmethod
        def parse_url(url: str) -> Any:
            if url.endswith("/wrong"):
                raise RuntimeError(f"cannot read {url}")
            return apprise.NotifyBase.parse_url(url)

    plugins = importlib.import_module("apprise.manager_plugins").NotificationManager()
    plugins.add(Broken, schemas="brokentest")
    try:
        with pytest.raises(PartialDeliveryError) as caught:
            await send(f"brokentest://{secret}", create_event(1))
        with pytest.raises(ChannelError, match="RuntimeError") as refused:
            await send(f"brokentest://{secret}/wrong", create_event(1))
    finally:
        plugins.remove("brokentest")
    [error] = caught.value.failed.values()
    assert isinstance(error, ChannelError)
    chains = [*whole_chain(caught.value), *whole_chain(refused.value)]
    text = "\n".join(f"{one} {one!r}" for one in chains)
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


def test_a_channel_shows_its_name_and_scheme_only():
    url = f"json://{USER}:{PASSWORD}@127.0.0.1/{PATH}?+X={HEADER}"
    channel = AppriseChannel("operations", url)
    assert_no_secret(f"{channel} {channel!r} {[channel]}")
    assert "operations" in repr(channel)
    assert "json" in repr(channel)
    assert isinstance(channel, Sink)
    assert channel.name == "operations"


async def test_an_event_that_cannot_be_rendered_fails_alone(server):
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


async def test_the_event_loop_continues_while_the_server_hangs(server):
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


async def test_the_events_of_a_server_that_hangs_during_the_drain_are_lost(server):
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


# What is worded how


async def sent_for(server: Server, event: Event, **options: Any) -> dict[str, Any]:
    channel = AppriseChannel("operations", server.url, **options)
    async with asyncio.timeout(DEADLINE):
        await channel.open()
        try:
            await channel.send([event])
        finally:
            await channel.close()
    return server.received[-1]


async def test_templates_render_the_notification(server):
    event = create_event({"disk": {"left": "2 %"}}, topic="disks.full", host="db-1")
    options = {
        "title": "{{ event.topic }} on {{ event.metadata.host }}\n(since {{ event.timestamp.year }})",
        "body": "{{ event.data.disk.left }} left, {{ event.type }} {{ event.id }}{{ event.data.no.such }}",
    }
    sent = await sent_for(server, event, **options)
    assert sent["title"] == f"disks.full on db-1 (since {event.timestamp.year})"
    assert sent["message"] == f"2 % left, message {event.id}"


async def test_metadata_takes_precedence_over_templates(server):
    event = create_event(1, title="a\r\ntitle", body="a body")
    sent = await sent_for(server, event, title="{{ 1 / 0 }}", body="{{ 1 / 0 }}")
    assert (sent["title"], sent["message"]) == ("a title", "a body")


async def test_metadata_of_the_wrong_type_is_ignored(server):
    odd = {
        "title": 3,
        "body": ["b"],
        "format": "xml",
        "notify_type": 4,
        "labels": "x",
        "severity": {},
        "status": 5,
    }
    sent = await sent_for(server, Event(data="text", metadata=odd))
    assert (sent["title"], sent["message"], sent["type"]) == ("MESSAGE message", "text", "info")


@pytest.mark.parametrize(
    ("event_type", "metadata", "kind"),
    [
        (EventType.ERROR, {"notify_type": "success", "severity": "critical"}, "success"),
        (EventType.ERROR, {"status": "resolved", "labels": {"severity": "page"}}, "success"),
        (EventType.MESSAGE, {"status": "firing", "labels": {"severity": "page"}}, "failure"),
        (EventType.MESSAGE, {"labels": {"severity": "warning"}, "severity": "critical"}, "warning"),
        (EventType.MESSAGE, {"labels": {"severity": "odd"}, "severity": "Critical"}, "failure"),
        *((EventType.MESSAGE, {"severity": s}, "failure") for s in ("error", "fatal", "emergency", "alert")),
        (EventType.MESSAGE, {"severity": "warn"}, "warning"),
        *((EventType.ERROR, {"severity": s}, "info") for s in ("info", "notice", "debug", "ok")),
        (EventType.ERROR, {"notify_type": "odd", "severity": "odd"}, "failure"),
    ],
)
async def test_the_type_comes_from_status_and_severity(server, event_type, metadata, kind):
    sent = await sent_for(server, Event(type=event_type, metadata=metadata))
    assert sent["type"] == kind


@pytest.mark.parametrize(
    ("options", "metadata"),
    [
        ({"format": "html", "body": "<b>{{ event.data }}</b>"}, {}),
        ({"body": "<b>{{ event.data }}</b>"}, {"format": "html"}),
        ({"format": "html"}, {}),
    ],
)
async def test_a_service_for_plain_text_gets_the_values_as_they_were(server, options, metadata):
    data = "a < b_c_ & d"
    channel = AppriseChannel("operations", f"{server.url}?format=text", **options)
    async with asyncio.timeout(DEADLINE):
        await channel.open()
        await channel.send([create_event(data, **metadata)])
        await channel.close()
    [sent] = server.received
    assert sent["message"] == data


@pytest.fixture
def html_service() -> Iterator[list[str]]:
    """A service that takes only HTML, and no title: Apprise puts it into the body."""
    apprise = importlib.import_module("apprise")
    bodies: list[str] = []

    class Page(apprise.NotifyBase):
        service_name = "Page"
        protocol = "pagetest"
        title_maxlen = 0
        notify_format = apprise.NotifyFormat.HTML

        def url(self, privacy: bool = False, *args: Any, **kwargs: Any) -> str:
            return f"{self.protocol}://"

        def send(self, body: str, **kwargs: Any) -> bool:
            bodies.append(body)
            return True

        @staticmethod
        def parse_url(url: str) -> Any:
            return apprise.NotifyBase.parse_url(url, verify_host=False)

    plugins = importlib.import_module("apprise.manager_plugins").NotificationManager()
    plugins.add(Page, schemas="pagetest")
    yield bodies
    plugins.remove("pagetest")


@pytest.mark.parametrize(
    "metadata",
    [{}, {"body": "<b>b</b>", "format": "html"}, {"body": "**b**", "format": "markdown"}, {"body": "b"}],
)
async def test_no_markup_of_an_event_gets_into_a_page(html_service, metadata):
    await send("pagetest://", create_event("<img>", title="<i>*t*</i>", **metadata))
    [body] = html_service
    assert "&lt;i&gt;*t*&lt;/i&gt;" in body
    assert "<img>" not in body


@pytest.mark.parametrize("kind", ["text", "markdown", "html"])
async def test_data_without_a_template_is_text_whatever_the_format(html_service, kind):
    channel = AppriseChannel("operations", "pagetest://", format=kind)
    await channel.open()
    await channel.send([create_event("<img> *x*")])
    await channel.close()
    [body] = html_service
    assert "&lt;img&gt;" in body
    assert "*x*" in body


@pytest.mark.parametrize("body", ["", " \n", "{{ event.data }}"])
async def test_an_empty_body_is_replaced_by_a_note(server, body):
    sent = await sent_for(server, create_event(""), body=body)
    assert sent["message"] == "(no data)"


async def test_a_failing_template_gives_up_the_event_and_reports_the_line(server):
    with pytest.raises(PartialDeliveryError) as caught:
        await sent_for(server, create_event(1), body="a\n{{ 1 / 0 }}")
    [error] = caught.value.failed.values()
    assert isinstance(error, PermanentError)
    assert "line 2" in str(error)
    assert server.received == []


# What is asked for


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"name": 3}, TypeError),
        ({"name": ""}, ValueError),
        ({"url": 3}, TypeError),
        ({"url": b"json://hunter2/"}, TypeError),
        ({"format": "xml"}, ValueError),
        ({"format": None}, ValueError),
        ({"title": 3}, TypeError),
        ({"body": b"x"}, TypeError),
        ({"body": "{{"}, ValueError),
        ({"tags": "ops"}, TypeError),
        ({"tags": [3]}, TypeError),
        ({"tags": ["a b"]}, ValueError),
        ({"tags": [""]}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"timeout": "10"}, TypeError),
    ],
    ids=repr,
)
def test_a_wrong_argument_is_refused_in_a_sentence(wrong, error):
    arguments = {"name": "operations", "url": "json://127.0.0.1/"} | wrong
    with pytest.raises(error) as caught:
        AppriseChannel(**arguments)
    assert len(str(caught.value)) > 15
    assert "hunter2" not in str(caught.value)


async def test_the_url_is_expanded_with_environment_variables(server):
    environ = {"HOST": f"127.0.0.1:{server.server_port}", "TOKEN": PATH}
    url = "${SCHEME:-json}://${HOST}/${TOKEN}"
    channel = AppriseChannel("operations", url, environ=environ)
    async with asyncio.timeout(DEADLINE):
        await channel.open()
        await channel.send([create_event(1)])
        await channel.close()
    assert server.paths == [f"/{PATH}"]
    assert "json" in repr(channel)
    assert_no_secret(repr(channel))


@pytest.mark.parametrize("value", ["a${b}c", "$${b}", "${HOST}", "$$$${"])
@pytest.mark.parametrize("configured", [True, False])
async def test_the_value_of_a_variable_is_not_expanded_again(server, value, configured):
    environ = {"HOST": f"127.0.0.1:{server.server_port}", "TOKEN": quote(value, safe="")}
    url = "json://${HOST}/${TOKEN}/"
    if configured:
        receivers = [{"name": "ops", "apprise_configs": [{"url": url}]}]
        config = load_alert_config({"route": {"receiver": "ops"}, "receivers": receivers}, environ=environ)
        channel = config.receivers["ops"].channels[0].create()
    else:
        channel = AppriseChannel("operations", url, environ=environ)
    async with asyncio.timeout(DEADLINE):
        await channel.open()
        await channel.send([create_event(1)])
        await channel.close()
    assert [unquote(path) for path in server.paths] == [f"/{value}/"]


async def test_a_url_with_what_looks_like_a_variable_is_sent_as_it_is_if_it_is_not_to_be_expanded(server):
    channel = AppriseChannel("operations", f"{server.url}${{A}}$${{", expand_url=False)
    async with asyncio.timeout(DEADLINE):
        await channel.open()
        await channel.send([create_event(1)])
        await channel.close()
    assert [unquote(path) for path in server.paths] == ["/${A}$${"]


async def test_a_variable_that_is_not_set_is_named_when_the_channel_opens():
    channel = AppriseChannel(
        "operations", f"json://{USER}:${{A_PASSWORD}}@127.0.0.1/{PATH}", environ={"B": PASSWORD}
    )
    with pytest.raises(ChannelError, match="A_PASSWORD") as caught:
        await channel.open()
    assert_no_secret(all_texts(caught.value))


async def test_a_channel_that_is_not_open_delivers_nothing(server):
    with pytest.raises(PartialDeliveryError, match="not open"):
        await AppriseChannel("operations", server.url).send([create_event(1)])


# What Apprise takes for delivered


@pytest.fixture
def notify() -> Iterator[Any]:
    apprise = importlib.import_module("apprise")
    scheme = "forthistest"
    yield apprise.decorators.notify(on=scheme)
    importlib.import_module("apprise.manager_plugins").NotificationManager().remove(scheme)


async def test_a_function_under_notify_gets_the_notification_and_the_tags(notify):
    got: list[Any] = []

    @notify
    def function(body: str, title: str, notify_type: Any, meta: Any, *args: Any, **kwargs: Any) -> None:
        got.append((title, body, str(getattr(notify_type, "value", notify_type)), sorted(meta["tag"])))

    channel = AppriseChannel("operations", "forthistest://", tags=["ops", "db-team"])
    await channel.open()
    await channel.send([create_event("text", title="title")])
    await channel.close()
    assert got == [("title", "text", "info", ["db-team", "ops"])]


@pytest.mark.parametrize("fault", [ValueError("hunter2"), SystemExit("hunter2"), None])
async def test_a_function_under_notify_that_fails_is_reported_without_its_message(notify, fault):
    @notify
    def function(body: str, title: str, notify_type: Any, meta: Any, *args: Any, **kwargs: Any) -> bool:
        if fault is not None:
            raise fault
        return False

    channel = AppriseChannel("operations", "forthistest://hunter2/")
    await channel.open()
    with pytest.raises(PartialDeliveryError) as caught:
        await channel.send([create_event("text")])
    await channel.close()
    assert_no_secret("".join(f"{one} {one!r}" for one in whole_chain(caught.value)), "hunter2")


async def test_a_function_that_apprise_would_never_run_is_refused(notify):
    @notify
    async def function(body: str, title: str, notify_type: Any, meta: Any, *args: Any, **kwargs: Any) -> None:
        pytest.fail("it is never awaited")

    with pytest.raises(ChannelError, match="never awaits"):
        await AppriseChannel("operations", "forthistest://").open()


async def test_a_generator_that_apprise_would_never_run_is_refused(notify):
    @notify
    def function(body: str, title: str, notify_type: Any, meta: Any, *args: Any, **kwargs: Any) -> Any:
        yield pytest.fail("it is never run")

    with pytest.raises(ChannelError, match="never run"):
        await AppriseChannel("operations", "forthistest://").open()


@pytest.mark.skipif(sys.platform != "linux", reason="where syslog listens elsewhere")
@pytest.mark.parametrize("listens", [True, False])
async def test_syslog_is_refused_where_nobody_listens(listens, monkeypatch):
    exists = Path.exists
    monkeypatch.setattr(
        Path, "exists", lambda p, **more: listens if str(p) == "/dev/log" else exists(p, **more)
    )
    channel = AppriseChannel("operations", "syslog://")
    if listens:
        await channel.open()
        await channel.close()
    else:
        with pytest.raises(ChannelError, match="no /dev/log"):
            await channel.open()


# Threads


async def test_a_call_has_the_context_of_its_caller(notify):
    where: ContextVar[str] = ContextVar("where", default="nowhere")
    found: list[str] = []

    @notify
    def function(body: str, title: str, notify_type: Any, meta: Any, *args: Any, **kwargs: Any) -> None:
        found.append(where.get())

    channel = AppriseChannel("operations", "forthistest://")
    await channel.open()
    where.set("here")
    await channel.send([create_event(1)])
    await channel.close()
    assert found == ["here"]


def run_program(code: str, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr


def test_a_call_that_hangs_does_not_keep_the_program_from_ending(server):
    server.free.clear()
    code = (
        "import asyncio, sys\n"
        "from codomyrmex.integrations.notification import AppriseChannel\n"
        "from codomyrmex.streaming import create_event\n"
        "async def main():\n"
        "    channel = AppriseChannel('operations', sys.argv[1], timeout=0.05)\n"
        "    await channel.open()\n"
        "    try:\n"
        "        await channel.send([create_event(1)])\n"
        "    except Exception as error:\n"
        "        assert 'no answer' in str(error), error\n"
        "asyncio.run(main())\n"
    )
    assert run_program(code, f"{server.url}?rto=60") == (0, "")
    assert not server.free.is_set()


def test_what_is_queued_when_a_program_without_a_loop_ends_is_delivered(server):
    code = (
        "import sys\n"
        "from codomyrmex.integrations import attach_blocking\n"
        "from codomyrmex.integrations.notification import AppriseChannel\n"
        "from codomyrmex.streaming import InMemoryStream, create_event\n"
        "stream = InMemoryStream()\n"
        "attach_blocking(stream, AppriseChannel('operations', sys.argv[1])).start()\n"
        "stream.publish_nowait(create_event('at the end'))\n"
    )
    assert run_program(code, server.url) == (0, "")
    assert [sent["message"] for sent in server.received] == ["at the end"]
