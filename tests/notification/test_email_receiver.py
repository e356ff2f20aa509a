"""`email_configs`: the mails that arrive at a mail server."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any, NamedTuple

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from helpers import in_time
from mail_certificates import server_context
from receivers import findings, fires, notes, outcome, problems, receiver

PASSWORD = "p@ss:w/o#?rd"
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")


class Mail(NamedTuple):
    sender: str
    recipients: list[str]
    content: EmailMessage
    user: str | None


@contextmanager
def mail_server(**options: Any) -> Iterator[tuple[str, list[Mail]]]:
    received: list[Mail] = []

    class Handler:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
            content = message_from_bytes(envelope.content, policy=default)
            user = session.auth_data.login.decode() if session.authenticated else None
            received.append(Mail(envelope.mail_from, envelope.rcpt_tos, content, user))
            return "250 accepted"

    def login(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=data.password == PASSWORD.encode(), handled=False, auth_data=data)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    more = {"authenticator": login, "auth_require_tls": False, **options}
    server = Controller(Handler(), hostname="127.0.0.1", port=port, **more)
    server.start()
    try:
        yield f"127.0.0.1:{port}", received
    finally:
        server.stop()


def mail(server: str, *, settings: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    config = receiver("email_configs", {"to": "oncall@example.org", **options})
    defaults = {"smtp_smarthost": server, "smtp_from": "Alerts <alerts@example.org>"}
    return {**config, "global": {**config["global"], **defaults, **(settings or {})}}


def text_of(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    return part.get_content()


@in_time
async def test_a_mail_has_the_texts_the_headers_and_the_sender_of_the_file():
    options = {
        "to": "{{ .CommonLabels.team }}@example.org, Bob <bob@example.org>",
        "headers": {
            "subject": "{{ .Status }} {{ .GroupLabels.alertname }}",
            "X-Team": "{{ .CommonLabels.team }}",
            "Reply-To": "reply@example.org",
        },
        "html": '<a href="{{ .ExternalURL }}">{{ .CommonLabels.text }}</a>',
    }
    settings = {
        "smtp_auth_username": "me@example.org",
        "smtp_auth_password": PASSWORD,
        "smtp_require_tls": False,
        "external_url": "http://alerts/?a=1&b",
    }
    with mail_server() as (smarthost, received):
        config = mail(smarthost, settings=settings, **options)
        health = await outcome(config, fires("disk", labels={"team": "db", "text": "a < b"}))
    assert health.last_error is None
    assert [each.recipients for each in received] == [["db@example.org"], ["bob@example.org"]]
    first = received[0]
    assert (first.sender, first.user) == ("alerts@example.org", "me@example.org")
    headers = {name: first.content[name] for name in ("From", "Subject", "X-Team", "Reply-To")}
    assert headers == {
        "From": "Alerts <alerts@example.org>",
        "Subject": "firing disk",
        "X-Team": "db",
        "Reply-To": "reply@example.org",
    }
    assert '<a href="http://alerts/?a=1&amp;b">a &lt; b</a>' in text_of(first.content, "html")
    assert "a < b" in text_of(first.content, "plain")


@in_time
async def test_the_default_mail_and_a_mail_of_text_only():
    with mail_server() as (smarthost, received):
        assert (await outcome(mail(smarthost, require_tls=False))).last_error is None
        options = {"html": "", "text": "{{ .Status }} <b>", "require_tls": False, "from": "own@example.org"}
        assert (await outcome(mail(smarthost, **options))).last_error is None
    default_mail, text_mail = received
    assert "[FIRING:1] disk" in default_mail.content["Subject"]
    assert "disk" in text_of(default_mail.content, "html")
    assert text_of(text_mail.content, "plain").strip() == "firing <b>"
    assert text_mail.content.get_body(("html",)) is None
    assert text_mail.sender == "own@example.org"


@in_time
async def test_a_mail_to_nobody_is_a_failure_and_not_sent_to_the_sender():
    with mail_server() as (smarthost, received):
        health = await outcome(mail(smarthost, require_tls=False, to="{{ .CommonLabels.missing }}"))
    assert (health.dead, received) == (1, [])
    assert "its to is empty" in (health.last_error or "")


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    return server_context(tmp_path_factory.mktemp("tls"))


@in_time
async def test_tls_is_required_by_default_and_its_certificate_is_verified(tls):
    with mail_server() as (smarthost, received):
        assert (await outcome(mail(smarthost))).last_error is not None
    assert received == []
    with mail_server(tls_context=tls) as (smarthost, received):
        assert (await outcome(mail(smarthost))).last_error is not None
        trusting = mail(smarthost, tls_config={"insecure_skip_verify": True})
        assert (await outcome(trusting)).last_error is None
    assert len(received) == 1


@in_time
async def test_tls_from_the_start_is_used_if_asked_for(tls):
    with mail_server(ssl_context=tls) as (smarthost, received):
        options = {"force_implicit_tls": True, "tls_config": {"insecure_skip_verify": True}}
        assert (await outcome(mail(smarthost, **options))).last_error is None
    assert len(received) == 1


@in_time
async def test_a_password_can_be_in_a_file_and_a_wrong_one_is_not_shown(tmp_path):
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    settings = {"smtp_auth_username": "me", "smtp_require_tls": False}
    with mail_server(auth_required=True) as (smarthost, received):
        file = {"smtp_auth_password_file": str(tmp_path / "password")}
        assert (await outcome(mail(smarthost, settings={**settings, **file}))).last_error is None
        wrong = {"smtp_auth_password": "wr0ng"}
        health = await outcome(mail(smarthost, settings={**settings, **wrong}))
    assert len(received) == 1
    assert health.dead == 0  # the reason of a mail server is not known, so it is retried
    assert "wr0ng" not in repr(health)


@pytest.mark.parametrize(
    ("options", "settings", "path", "message"),
    [
        ({"to": ""}, {}, "", "to is required"),
        ({}, {"smtp_from": ""}, "", "from is required, here or as smtp_from in global"),
        ({}, {"smtp_smarthost": ""}, "", "smarthost is required, here or as smtp_smarthost in global"),
        ({"smarthost": "mail.example"}, {}, ".smarthost", "must be a host and a port"),
        ({"headers": {"Subject": "x", "subject": "y"}}, {}, ".headers.subject", "given twice"),
        ({"headers": {"Subject": "{{ nope }}"}}, {}, ".headers.Subject", "nope"),
        ({"html": "{{ nope }}"}, {}, ".html", "nope"),
        ({"subject": "x"}, {}, ".subject", "unknown key subject"),
        ({"http_config": {}}, {}, ".http_config", "unknown key http_config"),
        ({"tls_config": {"ca": "x", "ca_file": "x"}}, {}, ".tls_config.ca_file", "remove one"),
    ],
)
def test_problems_have_their_position(options, settings, path, message):
    found = problems(mail("mail.example:587", settings=settings, **options))
    assert message in found[f"receivers[0].email_configs[0]{path}"]


def test_what_a_mail_loses_is_noted_with_its_place():
    options = {
        "hello": "host",
        "auth_identity": "me",
        "text": "t",
        "threading": {"enabled": True},
        "tls_config": {"ca_file": "x"},
        "headers": {"To": "x"},
    }
    found = notes(mail("mail.example:587", **options))
    path = "receivers[0].email_configs[0]"
    names = {*options, "headers.To"} - {"headers"}
    assert set(found) == {f"{path}.{name}" for name in names}


@pytest.mark.parametrize(
    ("options", "path"),
    [({"from": "am@host"}, "from"), ({"to": "a@b.org, x@y.z"}, "to"), ({"from": "am@monitor"}, "")],
)
def test_an_address_that_apprise_does_not_accept_is_named(options: dict[str, Any], path: str):
    found = [each for each in findings(mail("mail.example.org:25", **options)) if each.kind != "note"]
    assert [each.path for each in found] == [f"receivers[0].email_configs[0].{path}"] * bool(path)
    if path:
        assert f"does not accept {options[path]}; use complete addresses" in found[0].message


@in_time
async def test_a_mail_is_not_sent_to_some_of_its_recipients_only():
    to = "{{ .CommonLabels.team }}@example.org, x@y.z"
    with mail_server() as (smarthost, received):
        health = await outcome(
            mail(smarthost, require_tls=False, to=to), fires("disk", labels={"team": "db"})
        )
        assert received == []
        assert "does not accept the address x@y.z; use a complete one" in (health.last_error or "")
        to = "Db <db@example.org>, WEB@example.org,web@example.org"
        assert (await outcome(mail(smarthost, require_tls=False, to=to))).last_error is None
    assert {each.recipients[0].lower() for each in received} == {"db@example.org", "web@example.org"}
