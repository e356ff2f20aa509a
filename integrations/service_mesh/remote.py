"""`RemoteFeed`: a background feed that reads its source over HTTP."""

from __future__ import annotations

import random
import re
import socket
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.configuration.durations import check_seconds
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.request_logs import without_request_logs
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.service_mesh.background import BackgroundFeed
from codomyrmex.integrations.service_mesh.breaker_event import BreakerState
from codomyrmex.integrations.service_mesh.breaker_table import Row
from codomyrmex.integrations.service_mesh.feed import BreakerFeed
from codomyrmex.streaming import Stream

try:
    import httpx
except ImportError as error:
    raise MissingExtraError("a remote feed", "httpx", "mesh") from error

_log = Diagnostics(__name__)

_MAX_BACKOFF = 30.0  # seconds
_LOOPBACK = re.compile(r"localhost|127\..*|::1")


class RemoteFeed(BackgroundFeed):
    """Reads a source over HTTP. A source that cannot be read is itself an event, of the breaker `name`.

    Args:
        url: the address of the source.
        stream: where events are published.
        source: the kind of mesh or library.
        name: the name of the breaker that stands for the source.
        calls: whether to publish successes and failures as well.
        backoff_initial: seconds before the second attempt; doubles up to 30 s.
        timeout: seconds for each request, or without data.
        repeat_interval: seconds after which open circuits are published again; also while the source cannot
            be read, as they may still be open.
        instance: whose breakers they are; by default the host and port of the source, and this host's name
            for a loopback address.

    Attributes:
        invalid: records that could not be read and were skipped.

    Raises:
        TypeError: `stream` is not a stream, or a time is not a number.
        ValueError: a time is not greater than 0, or the URL is not an HTTP URL.
    """

    def __init__(
        self,
        url: str,
        stream: Stream,
        source: str,
        name: str,
        *,
        calls: bool,
        backoff_initial: float,
        timeout: float,
        repeat_interval: float,
        instance: str | None,
    ) -> None:
        check_seconds("timeout", timeout, finite=True)
        super().__init__(f"{source} {name}")
        self.url = url
        self._name = name
        self._backoff_initial = backoff_initial
        self._failures = 0
        self._began = False
        self.invalid = 0
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL:
            address = httpx.URL()
        if address.scheme not in ("http", "https") or not address.host:
            raise ValueError(  # without the URL, which may contain a secret
                "url: must begin with http:// or https:// and a host"
            )
        self.feed = BreakerFeed(
            stream,
            source,
            calls=calls,
            repeat_interval=repeat_interval,
            shared=True,
            instance=_instance_of(address) if instance is None else instance,
        )
        # No redirects: the source is where the application says it is.
        self.client = httpx.Client(timeout=timeout, headers={"User-Agent": "codomyrmex-streaming"})

    @abstractmethod
    def read(self) -> float:
        """Read the source, call `connected`, and return the seconds until the next poll; may raise."""

    def poll(self) -> float:
        """Read the source once; an error is published."""
        try:
            if not self._began:
                self._began = True
                self._continue()
            return self.read()
        except Exception as error:  # noqa: BLE001 - the source may answer anything, and the thread continues
            return self._on_failure(error)

    def _continue(self) -> None:
        """Continue where another process has left off that has read the source before."""
        for row in self.feed.left():
            if (row.service, row.breaker) != (None, self._name):
                self.adopt(row)
            else:
                self.feed.adopt(row)
                self._failures = 1

    @abstractmethod
    def adopt(self, row: Row) -> None:
        """Continue with a circuit that another process has published as open."""

    @contextmanager
    def get(self, url: str, **options: Any) -> Iterator[httpx.Response]:
        """Send a request and yield its response, whose status is checked and whose body is not read yet."""
        request = self.client.build_request("GET", url, **options)
        with without_request_logs():
            response = self.client.send(request, stream=True)
        try:
            yield response.raise_for_status()
        finally:
            response.close()

    def connected(self) -> None:
        """Publish that the source can be read again, if it could not be."""
        if self._failures:
            self._failures = 0
            self.reconnected()
            self.feed.publish_change(self._name, BreakerState.OPEN, BreakerState.CLOSED)

    def skip_invalid(self, read: Callable[..., None], *args: Any) -> None:
        """Read a record; whatever it contains, the next one is read."""
        try:
            read(*args)
        except Exception as error:  # noqa: BLE001 - foreign data may raise anything
            self.invalid += 1
            source = self.feed.source
            _log.warning(source, "%s: a record was skipped: %s", source, describe(error))

    def reconnected(self) -> None:
        """Forget what may have changed while the source could not be read."""

    def close(self, timeout: float = 5.0) -> None:
        self.feed.close()
        self.closing.set()
        self.client.close()  # ends a request that waits for data
        super().close(timeout)

    def _on_failure(self, error: Exception) -> float:
        self._failures += 1
        if self._failures == 1:
            if isinstance(error, httpx.HTTPStatusError):
                error = ConnectionError(f"HTTP status {error.response.status_code}")
            elif isinstance(error, httpx.HTTPError):  # its message may quote the URL
                error = ConnectionError(type(error).__name__)
            self.feed.record_failure(self._name, error)
            self.feed.publish_change(self._name, BreakerState.CLOSED, BreakerState.OPEN)
        limit = min(_MAX_BACKOFF, self._backoff_initial * 2.0 ** min(self._failures - 1, 30))
        return limit * (0.5 + random.random() / 2)  # noqa: S311 - not a secret


def _instance_of(address: httpx.URL) -> str:
    """Return the name of a source, the same for each process that reads it."""
    host = socket.gethostname() if _LOOPBACK.fullmatch(address.host) else address.host
    port = address.port or {"http": 80, "https": 443}[address.scheme]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
