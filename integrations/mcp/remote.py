"""`RemoteBackend`: gives the tools the application behind a live page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from codomyrmex.integrations.mcp import conversion
from codomyrmex.integrations.mcp.backend import DEFAULT_STREAM, Backend, BackendError
from codomyrmex.integrations.mcp.results import (
    AlertState,
    BreakerList,
    CreatedStream,
    EventPage,
    ExpiredSilence,
    GroupPage,
    PublishedEvent,
    Replayed,
    RouteExplanation,
    SilenceItem,
    SilencePage,
    SilenceState,
    SinkList,
    StreamInfo,
    StreamType,
    WhyNotNotified,
)
from codomyrmex.integrations.web.page_client import PageClient, PageError


class RemoteBackend(Backend):
    """A backend that sends requests to a live page, which `dashboard` serves.

    Reading needs the token that the page needs for reading, if any. Actions need the token of the page's
    `allow_actions`, and publishing also its `allow_publish`.

    Args:
        client: a client of the page; it is closed with the backend.
    """

    def __init__(self, client: PageClient) -> None:
        self._client = client

    async def aclose(self) -> None:
        await self._client.aclose()

    # Streams

    async def create_stream(
        self,
        name: str,
        stream_type: StreamType,  # noqa: ARG002 - nothing can be created
        buffer_size: int,  # noqa: ARG002 - as above
    ) -> CreatedStream:
        raise BackendError(
            f"name: cannot create {name!r}: a live page has only one stream, {DEFAULT_STREAM!r}"
        )

    async def publish(
        self,
        stream_name: str,
        data: Any,
        event_type: str,
        topic: str | None,
        metadata: Mapping[str, Any],
    ) -> PublishedEvent:
        _check_stream(stream_name)
        form = {"data": data, "type": event_type, "metadata": _metadata(topic, metadata)}
        answer = await self._post("publish", form)
        return conversion.published_event(answer)

    async def streams(self, name: str | None) -> list[StreamInfo]:
        if name not in {None, DEFAULT_STREAM}:
            return []
        return [conversion.stream_info(await self._get("stream"))]

    async def events(
        self,
        stream_name: str,
        topic: str,
        cursor: str | None,
        limit: int,
        wait: float,
    ) -> EventPage:
        _check_stream(stream_name)
        answer = await self._get("recent", wait, topic=topic, after=cursor or "", limit=limit)
        return conversion.event_page(answer)

    # Alerts

    async def groups(self, matchers: str, state: AlertState | None, limit: int) -> GroupPage:
        answer = await self._get("groups", matchers=matchers, state=state or "", limit=limit)
        return conversion.group_page(answer)

    async def explain(self, labels: Mapping[str, str]) -> RouteExplanation:
        return conversion.explanation(await self._get("explain", labels=_json(labels)))

    async def why_not_notified(
        self, labels: Mapping[str, str], group: str | None, limit: int
    ) -> WhyNotNotified:
        answer = await self._get("why", labels=_json(labels), group=group or "", limit=limit)
        return conversion.reasons(answer)

    async def silences(self, state: SilenceState | None, limit: int) -> SilencePage:
        return conversion.silence_page(await self._get("silences", state=state or "", limit=limit))

    async def add_silence(
        self, matchers: str, seconds: float, created_by: str, comment: str, *, dry_run: bool
    ) -> SilenceItem:
        form = {
            "matchers": matchers,
            "duration": f"{round(1_000 * seconds)}ms",
            "created_by": created_by,
            "comment": comment,
        }
        path = "silences/preview" if dry_run else "silences"
        return conversion.silence_item(await self._post(path, form))

    async def expire_silence(self, silence_id: str) -> ExpiredSilence:
        await self._post("silences/expire", {"id": silence_id})
        return ExpiredSilence(id=silence_id)

    # Delivery

    async def sinks(self, limit: int) -> SinkList:
        return conversion.sink_list(conversion.section(await self._get("state"), "sinks"), limit)

    async def breakers(self, limit: int) -> BreakerList:
        return conversion.breaker_list(conversion.section(await self._get("state"), "breakers"), limit)

    async def replay_dead_letters(self) -> Replayed:
        return conversion.replayed(await self._post("dead_letters/replay", {}))

    # Requests

    async def _get(self, path: str, wait: float = 0.0, **query: str | float) -> dict[str, Any]:
        try:
            return await self._client.get(path, wait, **query)
        except PageError as error:
            raise BackendError(str(error)) from None

    async def _post(self, path: str, form: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return await self._client.post(path, form)
        except PageError as error:
            raise BackendError(str(error)) from None


def _check_stream(name: str) -> None:
    if name != DEFAULT_STREAM:
        raise BackendError(
            f"stream_name: there is no stream {name!r}: a live page has only one, {DEFAULT_STREAM!r}"
        )


def _metadata(topic: str | None, metadata: Mapping[str, Any]) -> dict[str, Any]:
    return dict(metadata) if topic is None else {**metadata, "topic": topic}


def _json(labels: Mapping[str, str]) -> str:
    return json.dumps(dict(labels), ensure_ascii=False)
