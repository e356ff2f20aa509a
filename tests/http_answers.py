"""`answers`: what a server answers to the next requests of `httpx`, without a server."""

from __future__ import annotations

from typing import Any

import httpx
import pytest


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list of what the server answers to the next requests: a body, or an exception."""
    bodies: list[Any] = []

    def answer(_: httpx.Request) -> httpx.Response:
        body = bodies.pop(0)
        if isinstance(body, Exception):
            raise body
        return httpx.Response(200, content=body)

    original = httpx.Client

    def client(**options: Any) -> httpx.Client:
        return original(transport=httpx.MockTransport(answer), **options)

    monkeypatch.setattr(httpx, "Client", client)
    return bodies
