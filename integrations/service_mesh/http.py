"""The HTTP client of the remote feeds."""

from __future__ import annotations

from codomyrmex.integrations._extras import MissingExtraError

try:
    import httpx
except ImportError as error:
    raise MissingExtraError("a remote feed", "httpx", "mesh") from error

HTTPError = httpx.HTTPError


def client(timeout: float) -> httpx.Client:
    """Make a client; no redirects, as a feed is where it is said to be."""
    return httpx.Client(timeout=timeout, headers={"User-Agent": "codomyrmex-streaming"})
