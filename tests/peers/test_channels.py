"""`AppriseChannel` with real servers: HTTP, SMTP and syslog over UDP; what arrives, and what fails how."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import Message
from email.policy import default
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from codomyrmex.integrations import (
    DeadLetters,
    DeliveryPolicy,
    PartialDeliveryError,
    PermanentError,
    RetryableError,
    SinkState,
    attach,
)
from codomyrmex.integrations.notification import AppriseChannel, ChannelError
from codomyrmex.streaming import Event, EventType, InMemoryStream, create_event
from codomyrmex.streaming.testing import FakeClock
from helpers import DEADLINE, settle

PROMPT = DeliveryPolicy(batch_age=0, backoff_initial=0, backoff_max=0)

USER, PASSWORD, PATH, QUERY, HEADER = "usr3cr3t", "p4ssw0rd", "t0ken-in-path", "qu3ry-value", "h34der-value"
SECRETS = (USER, PASSWORD, PATH, QUERY, HEADER)

HANG, CUT = "hang", "cut"


class Service(ThreadingHTTPServer):
    """Answers as it is told to, each request with the next answer; 200 where none is left."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[tuple[str, Any, bytes]] = []
        self.answers: deque[int | str | tuple[int, str]] = deque()
        self.entered = threading.Event()
        self.free = threading.Event()

    def url(self, scheme: str = "json") -> str:
        """Return a URL with secrets in each of its parts."""
        query = f"?-key={QUERY}&+X-Token={HEADER}" if scheme in {"json", "form"} else ""
        return f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:{self.server_port}/{PATH}{query}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing about clients that have left."""


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, self.headers, body))
        answer = self.server.answers.popleft() if self.server.answers else 200
        if answer == HANG:
            self.server.entered.set()
            self.server.free.wait(DEADLINE)
        if isinstance(answer, str):
            self.close_connection = True
            return
        status, retry_after = answer if isinstance(answer, tuple) else (answer, None)
        self.send_response(status)
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is called there
        """Log nothing."""


@pytest.fixture
def services() -> Iterator[list[Service]]:
    made = [Service(), Service()]
    threads = [threading.Thread(target=one.serve_forever, args=(0.01,), daemon=True) for one in made]
    for thread in threads:
        thread.start()
    yield made
    for one, thread in zip(made, threads, strict=True):
        one.free.set()
        one.shutdown()
        one.server_close()
        thread.join(DEADLINE)


@pytest.fixture
def service(services: list[Service]) -> Service:
    return services[0]


def alert(**metadata: Any) -> Event:
    metadata = {"title": "Disk full", "body": "db-1 has 2 % left", "labels": {"severity": "page"}} | metadata
    return Event(metadata=metadata)


async def send(url: str, *events: Event, **options: Any) -> None:
    channel = AppriseChannel("operations", url, **options)
    async with asyncio.timeout(DEADLINE):
        await channel.open()
        try:
            await channel.send(events)
        finally:
            await channel.close()


async def failure(url: str, **options: Any) -> Exception:
    event = alert()
    with pytest.raises(PartialDeliveryError) as caught:
        await send(url, event, **options)
    assert list(caught.value.failed) == [event.id]
    [error] = caught.value.failed.values()
    assert isinstance(error, ChannelError)
    return error


# What arrives


async def test_json_arrives_with_title_body_and_type(service):
    await send(service.url("json"), alert())
    [(path, headers, body)] = service.received
    sent = json.loads(body)
    assert (sent["title"], sent["message"], sent["type"]) == ("Disk full", "db-1 has 2 % left", "failure")
    assert path == f"/{PATH}?key={QUERY}"
    assert headers["X-Token"] == HEADER


async def test_a_form_arrives_with_title_body_and_type(service):
    await send(service.url("form"), alert(labels={"severity": "warning"}))
    [(_, _, body)] = service.received
    sent = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    assert (sent["title"], sent["message"], sent["type"]) == ("Disk full", "db-1 has 2 % left", "warning")


async def test_gotify_gets_title_and_body(service):
    await send(service.url("gotify"), alert())
    [(path, headers, body)] = service.received
    sent = json.loads(body)
    assert (sent["title"], sent["message"]) == ("Disk full", "db-1 has 2 % left")
    assert PATH in path + headers["X-Gotify-Key"]


async def test_ntfy_gets_title_and_body(service):
    await send(f"{service.url('ntfy')}?mode=private", alert())
    [(_, headers, body)] = service.received
    sent = json.loads(body)
    assert (sent["topic"], sent["title"], sent["message"]) == (PATH, "Disk full", "db-1 has 2 % left")
    assert headers["Authorization"].startswith("Basic ")


@pytest.fixture
def mailbox() -> Iterator[tuple[int, list[Message]]]:
    received: list[Message] = []

    class Takes:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
            received.append(message_from_bytes(envelope.content, policy=default))
            return "250 taken"

    def login(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> Any:
        return AuthResult(success=data.password == PASSWORD.encode(), handled=False)

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    options = {"authenticator": login, "auth_require_tls": False}
    server = Controller(Takes(), hostname="127.0.0.1", port=port, **options)
    server.start()
    yield port, received
    server.stop()


def mail_url(port: int, password: str = PASSWORD) -> str:
    people = "from=alerts@example.org&to=oncall@example.org"
    return f"mailto://{USER}:{password}@127.0.0.1:{port}?{people}&mode=insecure"


# It warns of a login without TLS, as it should.
@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
@pytest.mark.parametrize(
    ("body", "kind", "shown"),
    [
        ("a < b\nc", "text", {"plain": "a < b", "html": "a &lt; b"}),  # Apprise 1 makes HTML of it
        ("<b>now</b>", "html", {"html": "<b>now</b>"}),
        ("**now**", "markdown", {"html": "now</strong>", "plain": "**now**"}),
    ],
)
async def test_a_mail_arrives_in_the_format_that_it_has(mailbox, body, kind, shown):
    port, received = mailbox
    await send(mail_url(port), alert(body=body, format=kind, title="Disk\r\nBcc: eve@example.org"))
    [mail] = received
    assert mail["Subject"] == "Disk Bcc: eve@example.org"
    assert "oncall@example.org" in mail["To"]
    assert mail["Bcc"] is None
    part = mail.get_body(tuple(shown))
    assert shown[part.get_content_subtype()] in part.get_content()


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
async def test_a_refusal_of_a_mail_server_is_retried_as_its_reason_is_unknown(mailbox):
    port, received = mailbox
    error = await failure(mail_url(port, "wr0ng-passw0rd"))
    assert not isinstance(error, (PermanentError, RetryableError))
    assert "wr0ng" not in str(error)
    assert received == []


async def test_syslog_over_the_network_arrives(service):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(DEADLINE)
        url = f"rsyslog://127.0.0.1:{listening.getsockname()[1]}/local0?logpid=no"
        await send(url, alert())
        packet = await asyncio.to_thread(listening.recv, 4_096)
    priority, _, text = packet.partition(b">")
    assert int(priority[1:]) % 8 == 2  # critical; its facility was wrong before Apprise 2.2
    assert b"Disk full: db-1 has 2 % left" in text


# What fails, and how


@pytest.mark.parametrize("scheme", ["json", "form", "gotify", "ntfy"])
@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
async def test_a_server_that_may_take_it_later_is_retryable(service, scheme, status):
    service.answers.append(status)
    url = service.url(scheme) + ("?mode=private" if scheme == "ntfy" else "")
    error = await failure(url)
    assert isinstance(error, RetryableError)
    assert f"status {status}" in str(error)
    assert error.retry_after is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413, 422])
async def test_a_server_that_will_never_take_it_is_permanent(service, status):
    service.answers.append(status)
    error = await failure(service.url())
    assert isinstance(error, PermanentError)
    assert f"status {status}" in str(error)


async def test_a_redirect_that_is_not_followed_leaves_it_open_whether_it_will_work(service):
    service.answers.append(304)
    error = await failure(service.url())
    assert not isinstance(error, (PermanentError, RetryableError))


@pytest.mark.parametrize("status", [429, 503])
async def test_the_seconds_of_retry_after_are_reported(service, status):
    service.answers.append((status, "7"))
    error = await failure(service.url())
    assert isinstance(error, RetryableError)
    assert error.retry_after == 7


async def test_a_date_in_retry_after_is_reported_in_seconds(service):
    service.answers.append((429, format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)))
    error = await failure(service.url())
    assert isinstance(error, RetryableError)
    assert error.retry_after is not None
    assert 7_000 < error.retry_after <= 7_200


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("1" + "0" * 400, 86_400),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400),
    ],
)
async def test_an_odd_wait_is_read_with_care(service, header, seconds):
    service.answers.append((429, header))
    error = await failure(service.url())
    assert isinstance(error, RetryableError)
    assert error.retry_after == seconds


async def test_a_connection_that_is_cut_is_retryable(service):
    service.answers.append(CUT)
    error = await failure(service.url())
    assert isinstance(error, RetryableError)
    assert "ConnectionError" in str(error)


async def test_an_unreachable_server_is_retryable(service):
    url = service.url()
    service.shutdown()
    service.server_close()
    assert isinstance(await failure(url), RetryableError)


async def test_a_call_that_hangs_is_abandoned_after_the_timeout(service):
    service.answers.append(HANG)
    error = await failure(service.url(), timeout=0.05)
    assert isinstance(error, RetryableError)
    assert "no answer within 0.05 s" in str(error)


async def test_after_four_calls_that_hang_a_fifth_is_not_made(service):
    service.answers.extend([HANG] * 4)
    channel = AppriseChannel("operations", service.url(), timeout=0.05)
    events = [alert() for _ in range(5)]
    async with asyncio.timeout(DEADLINE):
        await channel.open()
        with pytest.raises(PartialDeliveryError) as caught:
            await channel.send(events)
        texts = [str(caught.value.failed[event.id]) for event in events]
        assert [("no answer" in text, "4 calls hang" in text) for text in texts] == [(True, False)] * 4 + [
            (False, True)
        ]
        assert isinstance(caught.value.failed[events[4].id], RetryableError)
        service.free.set()
        while True:  # once the calls have ended, the channel works again
            try:
                await channel.send([alert(title="works again")])
                break
            except PartialDeliveryError:
                await asyncio.sleep(0.01)
        await channel.close()
    assert any(b"works again" in body for _, _, body in service.received)


async def test_closing_does_not_wait_for_a_call_that_hangs(service):
    service.answers.append(HANG)
    channel = AppriseChannel("operations", service.url())
    async with asyncio.timeout(DEADLINE):
        await channel.open()
        sending = asyncio.create_task(channel.send([alert()]))
        assert await asyncio.to_thread(service.entered.wait, DEADLINE)
        await channel.close()
        assert not service.free.is_set()
        sending.cancel()
        with pytest.raises(PartialDeliveryError):
            await sending


@pytest.mark.parametrize("query", ["retry=3&wait=0", "retry=5", "optional=yes&retry=2&wait=0"])
async def test_the_retries_of_apprise_are_off_and_optional_is_ignored(service, query):
    service.answers.extend([500] * 6)
    error = await failure(f"{service.url()}&{query}")
    assert isinstance(error, RetryableError)
    assert len(service.received) == 1


async def test_where_the_server_asks_for_a_pause_the_rest_of_the_batch_is_not_sent(service):
    service.answers.append((429, "60"))
    first, second = alert(), alert()
    with pytest.raises(PartialDeliveryError) as caught:
        await send(service.url(), first, second)
    assert set(caught.value.failed) == {first.id, second.id}
    assert len(service.received) == 1


async def test_requests_is_unchanged_for_other_callers(service, monkeypatch):
    await send(service.url(), alert())
    import apprise.plugins.custom_json as plugin
    import requests

    assert plugin.requests.post is requests.post
    assert plugin.requests.codes is requests.codes
    monkeypatch.setattr(plugin.requests, "request", lambda *_, **__: pytest.fail("the function was replaced"))
    assert requests.request is plugin.requests.request
    monkeypatch.undo()
    await send(service.url(), alert())
    assert len(service.received) == 2


# On a stream


class Attempts:
    """Counts attempts, and lets a test wait for one."""

    def __init__(self) -> None:
        self.errors: list[str | None] = []
        self._more = asyncio.Event()

    def __call__(self, sink: str, seconds: float, error: str | None) -> None:
        self.errors.append(error)
        self._more.set()

    async def wait_for(self, count: int) -> None:
        while len(self.errors) < count:
            self._more.clear()
            await self._more.wait()
        await settle()


async def test_after_429_it_is_retried_after_the_requested_pause(service):
    service.answers.append((429, "30"))
    stream, clock, attempts = InMemoryStream(), FakeClock(), Attempts()
    channel = AppriseChannel("operations", service.url())
    async with (
        asyncio.timeout(DEADLINE),
        attach(stream, channel, policy=PROMPT, clock=clock) as attachment,
    ):
        attachment.on_attempt(attempts)
        await stream.publish(alert())
        await attempts.wait_for(1)
        assert attachment.health()["operations"].state is SinkState.RETRYING
        clock.advance(29.9)
        await settle()
        assert len(service.received) == len(attempts.errors) == 1
        clock.advance(0.2)
        await attempts.wait_for(2)
        report = attachment.report().sinks["operations"]
    assert (report.delivered, report.given_up, report.retried) == (1, 0, 1)
    assert attempts.errors[1] is None


async def test_after_404_there_is_one_attempt_and_a_dead_letter(service):
    service.answers.append(404)
    stream, letters = InMemoryStream(), DeadLetters()
    channel = AppriseChannel("operations", service.url())
    async with (
        asyncio.timeout(DEADLINE),
        attach(stream, channel, policy=PROMPT, dead_letters=letters) as attachment,
    ):
        await stream.publish(alert())
        assert await attachment.flush()
    [letter] = letters
    assert (letter.attempts, letter.sink) == (1, "operations")
    assert "channel operations (json) did not deliver: status 404" in letter.reason
    assert len(service.received) == 1


async def test_after_500_it_is_sent_again(service):
    service.answers.extend([500, CUT])
    stream = InMemoryStream()
    channel = AppriseChannel("operations", service.url())
    async with asyncio.timeout(DEADLINE), attach(stream, channel, policy=PROMPT) as attachment:
        await stream.publish(alert())
        assert await attachment.flush()
        report = attachment.report().sinks["operations"]
    assert (report.delivered, report.given_up, report.retried) == (1, 0, 2)


async def test_a_channel_that_hangs_does_not_delay_another(services):
    hanging, good = services
    hanging.answers.extend([HANG] * 9)
    stream = InMemoryStream()
    channels = [AppriseChannel("hanging", hanging.url()), AppriseChannel("good", good.url())]
    async with asyncio.timeout(DEADLINE), attach(stream, *channels, policy=PROMPT) as attachment:
        attempts = Attempts()
        attachment.on_attempt(attempts)
        for _ in range(3):
            await stream.publish(alert())
            await attempts.wait_for(len(attempts.errors) + 1)
        assert attachment.report().sinks["good"].delivered == 3
        assert attachment.report().sinks["hanging"].delivered == 0
        assert hanging.entered.is_set()
        await attachment.aclose(timeout=0)


# What is never shown


def all_texts(error: BaseException | None) -> list[str]:
    """Return everything that a report of an error could show, the variables of its frames included."""
    if error is None:
        return []
    texts = [str(error), repr(error), "".join(traceback.format_exception(error))]
    frames = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__), capture_locals=True)
    texts += [f"{frame.name} {frame.locals}" for frame in frames if frame.filename != __file__]
    for other in (error.__cause__, error.__context__, *getattr(error, "failed", {}).values()):
        texts += all_texts(other)
    return texts


async def test_no_secret_of_a_url_is_ever_shown(services, caplog, capfd, monkeypatch):
    caplog.set_level(logging.DEBUG)
    for name in ("apprise", "urllib3"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
    service, gone = services
    gone.shutdown()
    gone.server_close()
    service.answers.extend([404, (429, "0"), 500, CUT, HANG, 302])
    urls = [service.url()] * 6 + [
        gone.url(),
        f"nosuch://{USER}:{PASSWORD}@127.0.0.1/{PATH}",
        "json://${NOT_SET}/" + PATH,
    ]
    once = DeliveryPolicy(batch_age=0, max_attempts=1)
    texts: list[str] = []
    for number, url in enumerate(urls):
        stream, letters = InMemoryStream(), DeadLetters()
        channel = AppriseChannel(f"operations {number}", url, timeout=0.2, environ={})
        texts.append(repr(channel))
        try:
            async with attach(stream, channel, policy=once, dead_letters=letters) as attachment:
                await stream.publish(create_event("a text", EventType.ERROR))
                await attachment.flush()
                texts += [repr(attachment.health()), repr(list(letters)), repr(channel)]
                await channel.open()
                with pytest.raises(PartialDeliveryError) as caught:
                    service.answers.appendleft(500)
                    await channel.send([alert()])
                texts += all_texts(caught.value)
                assert len(letters) == 1
        except ChannelError as error:
            texts += all_texts(error)
    service.free.set()
    texts += [caplog.text, *(repr(vars(record)) for record in caplog.records), *capfd.readouterr()]
    assert "operations 8" in "".join(texts)
    shown = [(secret, text[:500]) for text in texts for secret in SECRETS if secret in text]
    assert shown == []
