"""`PageClient`: an HTTP client of a live page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.configuration.environment import is_header_text

try:
    import httpx
except ImportError as error:
    raise MissingExtraError("PageClient", "httpx", "web") from error

_TIMEOUT = 10.0  # seconds, in addition to those for which the page is to wait
_MAX_BYTES = 16 * 1024 * 1024  # of a response
_MAX_ERROR = 500  # characters of an error of the page
_UNAUTHORIZED, _NOT_FOUND = 401, 404
_NO_SUCH_PATH = "Not Found"  # the error of Starlette for a path that no route has


class PageError(Exception):
    """A request to a live page failed; the message is one sentence without secrets."""


class PageClient:
    """Sends requests to a live page, which `dashboard` serves.

    Args:
        url: the URL of the page.
        token: a token, sent as `Authorization: Bearer`.
        transport: sends the requests; for tests.

    Raises:
        ValueError: the URL is not an HTTP URL, or the token cannot be sent.
    """

    def __init__(
        self, url: str, token: str | None = None, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.address = _address(url)
        headers = {"accept": "application/json"}
        if token is not None:
            token = token.strip()
            if not token or not is_header_text(token):
                raise ValueError("token: must be printable ASCII and not empty")
            headers["authorization"] = f"Bearer {token}"
        self._client = httpx.AsyncClient(
            base_url=f"{self.address}api/",
            headers=headers,
            timeout=_TIMEOUT,
            limits=httpx.Limits(max_connections=None),  # calls that wait must not block others
            transport=transport,
        )

    async def get(self, path: str, wait: float = 0.0, **query: str | float) -> dict[str, Any]:
        """Send a GET request, and return the JSON object in the response.

        Args:
            path: the path below `api/`.
            wait: how many seconds the page may wait before it responds; also sent as a parameter.
            query: the parameters.

        Raises:
            PageError: the page did not respond, or responded with an error.
        """
        if wait:
            query["wait"] = wait
        timeout = httpx.Timeout(_TIMEOUT, read=_TIMEOUT + wait)
        return await self._send(self._client.build_request("GET", path, params=query, timeout=timeout))

    async def post(self, path: str, form: Mapping[str, Any]) -> dict[str, Any]:
        """Send a POST request with a JSON object, and return the one in the response; errors as for `get`."""
        content = json.dumps(form).encode()
        headers = {"content-type": "application/json"}
        return await self._send(self._client.build_request("POST", path, content=content, headers=headers))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _send(self, request: httpx.Request) -> dict[str, Any]:
        try:
            response = await self._client.send(request, stream=True)
            try:
                body = await self._read(response)
            finally:
                await response.aclose()
        except httpx.TimeoutException:
            raise PageError(
                f"{self.address}: no response in time; try again, or check that the application is healthy"
            ) from None
        except (httpx.HTTPError, OSError) as error:  # the message may hold the URL
            raise PageError(
                f"{self.address}: cannot be reached ({type(error).__name__}); "
                "check the address, and that the application is running"
            ) from None
        answer = _decode(body)
        if response.status_code == _UNAUTHORIZED:
            raise PageError(
                f"{self.address}: the token is missing or wrong; pass it with --token or CODOMYRMEX_TOKEN"
            )
        refused = response.is_error and response.status_code != _NOT_FOUND
        if answer is None and refused and response.headers.get("content-type", "").startswith("text/plain"):
            # From a proxy, or a check that comes before the page.
            text = body.decode("utf-8", "replace").strip()
            raise PageError(f"{self.address}: status {response.status_code}: {_shortened(text)}")
        if answer is None:
            raise PageError(
                f"{self.address}: this is not a live page: {request.url.path} was answered "
                f"with status {response.status_code} and without JSON"
            )
        if response.status_code == _NOT_FOUND and answer.get("error") == _NO_SUCH_PATH:
            raise PageError(
                f"{self.address}: this is not the address of a live page: it has no {request.url.path}"
            )
        if response.is_success:
            return answer
        problem = answer.get("error")
        text = problem if isinstance(problem, str) else f"status {response.status_code}"
        raise PageError(_shortened(text))

    async def _read(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > _MAX_BYTES:
                raise PageError(f"{self.address}: the response has more than {_MAX_BYTES:,} bytes")
        return bytes(body)


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_ERROR else f"{text[:_MAX_ERROR]}\u2026"


def _address(url: str) -> str:
    """Return the URL of a page with a slash at its end. Errors do not contain it, as it can hold a secret."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = "" if parts.port is None else f":{parts.port}"
        valid = parts.scheme in {"http", "https"} and host and httpx.URL(url).host
    except (ValueError, httpx.InvalidURL):
        valid = False
    if not valid:
        raise ValueError("url: must begin with http:// or https:// and a host; a port is at most 65535")
    if "@" in parts.netloc:
        raise ValueError("url: must not have a user or a password; pass a token instead")
    host = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, host + port, parts.path.rstrip("/") + "/", "", ""))


def _decode(body: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None
