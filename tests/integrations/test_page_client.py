"""`PageClient`: requests to a live page, and to servers that are none."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import pytest
from codomyrmex.integrations import DeadLetters, attach
from codomyrmex.integrations.web import dashboard, require_token
from codomyrmex.integrations.web.page_client import PageClient, PageError
from codomyrmex.streaming import InMemoryStream, create_event
from helpers import in_time

URL = "http://page.localhost/live"


def asking(answer: Any) -> PageClient:
    """Return a client whose server responds with this, or raises it."""

    def handle(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return PageClient(URL, transport=httpx.MockTransport(handle))


@in_time
async def test_it_sends_its_token_with_queries_and_actions():
    stream = InMemoryStream()
    async with attach(stream, dead_letters=DeadLetters()) as attachment:
        app = dashboard(stream, attachment, allow_actions="t-t", authorize=lambda _: None)
        client = PageClient("http://page.localhost", " t-t ", transport=httpx.ASGITransport(app))
        await stream.publish(create_event({"n": 1}, topic="a"))
        [event] = (await client.get("recent", topic="a", limit=3))["events"]
        assert event["event"]["data"] == {"n": 1}
        assert await client.post("dead_letters/replay", {}) == {"replayed": 0}
        await client.aclose()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://host", "http://host/"),
        ("https://host:8/live/", "https://host:8/live/"),
        ("http://[::1]:8/?access_token=secret#x", "http://[::1]:8/"),
    ],
)
def test_its_address_is_that_of_the_page(url, address):
    assert PageClient(url).address == address


@pytest.mark.parametrize("url", ["", "host:80", "ftp://host", "http://", "http://h:99999", "http://[::1"])
def test_other_urls_are_rejected(url):
    with pytest.raises(ValueError, match="url: must begin with http:// or https:// and a host"):
        PageClient(url)


def test_a_url_with_a_password_is_rejected_without_showing_it():
    with pytest.raises(ValueError, match="url: must not have a user") as caught:
        PageClient("http://ann:hunter2@host/")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "  ", "\u00e4", "a\nb"])
def test_a_token_that_cannot_be_sent_is_rejected(token):
    with pytest.raises(ValueError, match="token: must be printable ASCII and not empty"):
        PageClient(URL, token)


@in_time
async def test_a_wrong_token_is_one_sentence():
    app = dashboard(InMemoryStream(), authorize=require_token("right"))
    client = PageClient(URL, "wrong", transport=httpx.ASGITransport(app, root_path="/live"))
    with pytest.raises(PageError, match="/live/: the token is missing or wrong; pass it with"):
        await client.get("state")


@in_time
async def test_a_server_that_is_down_is_one_sentence():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        client = PageClient(f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(PageError, match=r"cannot be reached \(ConnectError\); check the address"):
            await client.get("state")
    await client.aclose()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (httpx.ReadTimeout("x"), f"{URL}/: no response in time"),
        (httpx.ReadError("http://secret"), f"{URL}/: cannot be reached (ReadError)"),
        (
            httpx.Response(200, text="<html>"),
            "this is not a live page: /live/api/x was answered with status 200",
        ),
        (
            httpx.Response(404, text="Not Found"),
            "this is not a live page: /live/api/x was answered with status 404",
        ),
        (httpx.Response(421, text="no such host"), f"{URL}/: status 421: no such host"),
        (httpx.Response(302, headers={"location": "http://x"}), "this is not a live page"),
        (httpx.Response(200, content=b"\xff"), "this is not a live page"),
        (httpx.Response(200, content=b"[" * 100_000), "this is not a live page"),
        (httpx.Response(200, json=[1]), "this is not a live page"),
        (httpx.Response(503, json={"error": "busy"}), "busy"),
        (httpx.Response(500, json={"error": 7}), "status 500"),
        (httpx.Response(500, json={"error": "x" * 5_000}), "x" * 500 + "\u2026"),
        (httpx.Response(200, content=b" " * 17_000_000), "the response has more than 16,777,216 bytes"),
    ],
)
@in_time
async def test_every_unexpected_response_is_an_error_of_one_sentence(answer, problem):
    with pytest.raises(PageError) as caught:
        await asking(answer).get("x")
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)


@in_time
async def test_it_waits_longer_if_the_page_was_asked_to_wait():
    seen: list[Any] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append((request.extensions["timeout"]["read"], dict(request.url.params)))
        return httpx.Response(200, content=json.dumps({}))

    client = PageClient(URL, transport=httpx.MockTransport(handle))
    assert await client.get("recent", wait=30, topic="a.>") == {}
    assert seen == [(40, {"topic": "a.>", "wait": "30"})]
