"""Fixtures of the tests of receivers."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import pytest
from http_service import HttpService, Reply, http_service


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpService]:
    """Yield a server that answers in place of all hosts that `requests` is asked to reach."""
    import requests

    real = requests.adapters.HTTPAdapter.send
    with http_service(Reply(body='{"ok": true}', type="application/json")) as service:

        def send(adapter, request, **options):
            parts = urlsplit(request.url)
            request.headers["X-Host"] = parts.netloc
            request.url = urlunsplit(("http", urlsplit(service.url).netloc, *parts[2:]))
            return real(adapter, request, **options)

        monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
        yield service
