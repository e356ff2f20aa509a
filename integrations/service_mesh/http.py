"""The HTTP client of the remote feeds."""

from __future__ import annotations

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.seconds import check_seconds

try:
    import httpx
except ImportError as error:
    raise MissingExtraError("a remote feed", "httpx", "mesh") from error

HTTPError = httpx.HTTPError


def client(url: str, timeout: float) -> httpx.Client:
    """Make a client for one address; no redirects, as a feed is where it is said to be."""
    check_seconds("timeout", timeout, finite=True)
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        address = httpx.URL()
    if address.scheme not in ("http", "https") or not address.host:  # not shown, as it may hold a secret
        raise ValueError("the URL of a feed begins with http:// or https:// and a host")
    return httpx.Client(timeout=timeout, headers={"User-Agent": "codomyrmex-streaming"})
