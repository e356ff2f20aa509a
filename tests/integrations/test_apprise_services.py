"""What the services of Apprise get: their formats and limits, mentions, and redirections."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from codomyrmex.integrations import PartialDeliveryError, PermanentError
from codomyrmex.integrations.notification import Alert, AppriseChannel, load_alert_config, simulate
from codomyrmex.integrations.notification.alerts.messages import NotificationRenderer
from codomyrmex.integrations.notification.channels import ChannelConfig
from codomyrmex.streaming import Event, create_event
from helpers import DEADLINE

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

DISCORD = "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js"
TELEGRAM = "tgram://123456789:abcdefg_hijklmnop/12315544/"
SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/"
SERVICES = [
    DISCORD,
    TELEGRAM,
    SLACK,
    "mmost://localhost/3ccdd113474722377935511fc85d3dd4",
    "ntfy://localhost/topic",
    "gotify://localhost/tokentokentoken",
    "json://localhost",
    "json://localhost?format=html",
    "form://localhost",
    "matrixs://localhost/#room?mode=slack&token=abcdef",
]


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that collects what is posted, as text."""
    import requests

    found: list[str] = []

    def respond(*arguments: Any, **options: Any) -> Any:
        sent = str(options.get("data") or options.get("json"))
        found.append(re.sub(r'"ts": [0-9.]+', '"ts": 0', sent))
        content = b"ok" if "slack.com" in str(arguments) else b'{"ok": true}'
        return SimpleNamespace(
            status_code=200, content=content, text=content.decode(), headers={}, history=[], json=dict
        )

    for method in ("post", "put", "request"):
        monkeypatch.setattr(requests, method, respond)
    return found


async def send(url: str, event: Event, **options: Any) -> None:
    channel = AppriseChannel("operations", url, **options)
    await channel.open()
    try:
        await channel.send([event])
    finally:
        await channel.close()


def message(body: str, title: str = "disk <full>", format: str = "text", **more: Any) -> Event:  # noqa: A002 - the metadata's key
    return create_event(None, title=title, body=body, format=format, **more)


# Formats


@pytest.mark.parametrize("kind", ["text", "markdown", "html"])
@pytest.mark.parametrize("url", SERVICES)
async def test_a_service_gets_what_apprise_notify_would_send(url: str, kind: str, posted: list[str]) -> None:
    import apprise

    body = {
        "text": "host=<none> & a_b\n\n  *x*",
        "markdown": r"**a** host=\<b\>",
        "html": "<b>a</b> &lt;x&gt;",
    }
    service = apprise.Apprise()
    service.add(url)
    service.notify(title="disk", body=body[kind], body_format=kind)
    expected = list(posted)
    posted.clear()
    await send(url, message(body[kind], "disk", kind))
    assert posted == expected != []


async def test_labels_are_escaped_for_telegram(posted: list[str]) -> None:
    await send(TELEGRAM, message("host=<none> <a href='x'>y</a>"))
    [sent] = posted
    text = json.loads(sent)["text"]
    assert text.startswith("<b>disk &lt;full&gt;</b>")
    assert "host=&lt;none&gt; &lt;a href=" in text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (DISCORD, r"**a\_b \<c\> & d**"),
        (SLACK, r"*a\_b &lt;c&gt; &amp; d*"),
        (TELEGRAM, r"*a\_b <c> & d*"),
        ("mmost://localhost/3ccdd113474722377935511fc85d3dd4", r"**a\_b &lt;c&gt; &amp; d**"),
    ],
)
async def test_values_in_markdown_are_escaped_for_the_dialect_of_the_service(
    url: str, shown: str, posted: list[str]
) -> None:
    event = create_event({"label": "a_b <c> & d"}, title="t")
    await send(url, event, body="**{{ event.data.label }}**", format="markdown")
    sent = json.loads(posted[0])
    text = sent.get("content") or sent.get("text") or sent["attachments"][0]["text"]
    assert text.endswith(shown)


# Mentions


async def test_no_label_mentions_everybody(posted: list[str]) -> None:
    await send(DISCORD, message("@everyone @here <@123> a@here.org", "@everyone"))
    [sent] = posted
    content = json.loads(sent)["content"]
    assert content.split() == [
        "@\u200beveryone",
        "@\u200beveryone",
        "@\u200bhere",
        "<\u200b@123>",
        "a@here.org",
    ]


async def test_other_services_get_the_text_as_it_is(posted: list[str]) -> None:
    await send("json://localhost", message("@everyone"))
    assert "@everyone" in posted[0]


# Limits


def storm(count: int) -> Event:
    """Return the event of a notification about some alerts with long labels."""
    config = load_alert_config(
        {
            "route": {"receiver": "ops", "group_wait": "0s"},
            "receivers": [{"name": "ops", "apprise_configs": [{"url": DISCORD}]}],
        }
    )
    alerts = [
        (0.0, Alert({"host": f"{number:03}", "long": "x" * 100 + str(number)})) for number in range(count)
    ]
    [sent] = simulate(config, alerts, 0.0)
    rendered = NotificationRenderer(config).message(sent.notification, ChannelConfig(name="ops[0]"))
    return message(rendered.body, rendered.title, body_cuts=rendered.cuts)


@pytest.mark.parametrize("count", [40, 400])
async def test_what_is_too_long_for_a_service_says_how_many_more_there_are(
    count: int, posted: list[str]
) -> None:
    await send(DISCORD, storm(count))
    content = json.loads(posted[0])["content"]
    shown = content.count("FIRING since")
    assert 1500 < len(content) <= 2000
    assert content.endswith(f"\n\nand {count - shown} more")


async def test_a_limit_counts_what_escaping_adds(posted: list[str]) -> None:
    await send(TELEGRAM, message("<" * 4000))
    text = json.loads(posted[0])["text"]
    assert 3900 < len(text) <= 4096
    assert text.endswith("[cut]")


async def test_html_is_cut_as_text_so_that_no_tag_is_cut(posted: list[str]) -> None:
    await send(TELEGRAM, message("<b>bold</b> " * 1000, format="html"))
    text = json.loads(posted[0])["text"]
    assert len(text) <= 4096
    assert text.count("<b>") == text.count("</b>") == 1  # of the title


async def test_overflow_in_the_url_is_respected(posted: list[str]) -> None:
    await send(f"{DISCORD}?overflow=split", message("x" * 3000))
    assert len(posted) == 2


# Redirections


class Redirecting(BaseHTTPRequestHandler):
    status = 302

    def do_POST(self) -> None:
        self.send_response(type(self).status)
        self.send_header("Location", "/login")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is called there
        """Log nothing."""


@pytest.fixture
def redirecting() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Redirecting)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"json://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join(DEADLINE)


async def test_a_redirection_that_drops_the_notification_is_a_failure(redirecting: str) -> None:
    event = message("lost")
    with pytest.raises(PartialDeliveryError) as caught:
        await send(redirecting, event)
    error = caught.value.failed[event.id]
    assert isinstance(error, PermanentError)
    assert "status 302, a redirection that does not send the notification; use the final URL" in str(error)
