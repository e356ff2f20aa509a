"""The sources `http`, `alertmanager_webhook` and `sse`: events from other programs over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.durable import EventTooLargeError, StoreUnavailableError
from codomyrmex.integrations.pipelines.parts import (
    Address,
    Context,
    PartConfig,
    Push,
    Server,
    Size,
    Source,
    Token,
    Topic,
)
from codomyrmex.streaming import Event, InMemoryStream

_STORE_TIMEOUT = 5.0  # seconds to store an event, before its sender is told to try again

_log = Diagnostics(__name__)


class Http(PartConfig, frozen=True):
    """Events that are posted over HTTP."""

    listen: Address = Address("127.0.0.1", 8080)
    token: Token | None = None
    rate: float | None = None
    max_bytes: Size = Size(1_048_576)
    topic: Topic = Topic("http")
    metadata: dict[str, Any] = {}

    def build(self, name: str, context: Context) -> Source:
        return HttpSource(name, self, context)


class AlertmanagerWebhook(Http, frozen=True):
    """Alerts that Alertmanager or Grafana sends to a webhook."""

    topic: Topic = Topic("alerts")


class _Posted(InMemoryStream):
    """Passes on each event that is posted; unlike with a handler, an error reaches whoever posted it."""

    def __init__(self, receive: Callable[[Event], Awaitable[None]]) -> None:
        super().__init__(buffer_size=1)
        self._receive = receive

    async def publish(self, event: Event) -> None:
        await self._receive(event)


class HttpSource(Source):
    """Serves an address that accepts events.

    A post is answered when its events have gone to the sinks, or are in the spool.
    """

    def __init__(self, name: str, config: Http, context: Context) -> None:
        from codomyrmex.integrations.web.ingest import event_ingest

        super().__init__(name)
        self._metadata = {"topic": str(config.topic), **config.metadata}
        self.keeps = context.spool is not None
        self._timeout = None if context.spool is None else _STORE_TIMEOUT
        app = event_ingest(
            _Posted(self._receive),
            max_bytes=config.max_bytes,
            rate=config.rate,
            alert_topic=config.topic,
            alerts_only=isinstance(config, AlertmanagerWebhook),
        )
        self.server = Server(lambda: app, config.listen, config.token, context)
        self._push: asyncio.Future[Push] | None = None

    async def open(self) -> None:
        self._push = asyncio.get_running_loop().create_future()
        await self.server.open()

    async def _receive(self, event: Event) -> None:
        assert self._push is not None  # noqa: S101 - open was called
        push = await asyncio.shield(self._push)  # a post that comes before `run` waits for it
        try:
            async with asyncio.timeout(self._timeout):
                stored = await push([event.replace(metadata={**self._metadata, **event.metadata})])
        except TimeoutError:
            raise StoreUnavailableError(f"source {self.name}: the spool is not available") from None
        if not stored:
            raise EventTooLargeError(f"event {event.id}: the store refuses it, it may be too large")

    async def run(self, push: Push) -> None:
        assert self._push is not None  # noqa: S101 - open was called
        self._push.set_result(push)
        await self.finishing.wait()

    async def aclose(self) -> None:
        await self.server.aclose()  # posts in progress are answered


class Sse(PartConfig, frozen=True):
    """Events of another server, over server-sent events."""

    url: Secret = Secret()
    token: Secret | None = None
    topic: Topic | None = None
    metadata: dict[str, Any] = {}

    def build(self, name: str, _: Context) -> Source:
        return _SseSource(name, self)


class _SseSource(Source):
    def __init__(self, name: str, config: Sse) -> None:
        from codomyrmex.integrations.web.sse_client import EventSource

        super().__init__(name)
        self._metadata = config.metadata
        self._gaps = 0
        self._client = EventSource(
            config.url, topic=config.topic, token=config.token, on_status=self._on_change
        )

    async def run(self, push: Push) -> None:
        async with self._client, aclosing(self._client.events()) as events:
            while (event := await self.unless_finishing(anext(events, None))) is not None:
                await push([event.replace(metadata={**self._metadata, **event.metadata})])

    def skipped(self) -> dict[str, int]:
        return {"invalid events": self._client.invalid, "gaps that the server could not fill": self._gaps}

    def _on_change(self, status: str, details: Any) -> None:
        if status == "lost":
            message = "source %s: connection lost (%s), trying again in %.1f s"
            _log.warning(self.name, message, self.name, details["why"], details["seconds"])
        elif status == "missed":
            self._gaps += 1
            _log.warning(
                f"{self.name} missed",
                "source %s: events were missed: the server no longer has all events since the last one",
                self.name,
            )
