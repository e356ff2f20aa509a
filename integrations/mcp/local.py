"""`LocalBackend`: gives the tools a stream of this process, its sinks, alerts and circuit breakers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.matcher_text import parse_matchers
from codomyrmex.integrations.delivery.attachment import Attachment
from codomyrmex.integrations.delivery.blocking import BlockingAttachment
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.mcp import conversion
from codomyrmex.integrations.mcp.access import allowed_topics
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
from codomyrmex.integrations.notification import AlertSink
from codomyrmex.integrations.web.alert_sections import show_silence
from codomyrmex.integrations.web.event_pages import EventPage as RawPage
from codomyrmex.integrations.web.event_pages import EventPages
from codomyrmex.integrations.web.health import HasHealth
from codomyrmex.integrations.web.silence_form import FormError, parse_silence
from codomyrmex.integrations.web.snapshot import Board, Snapshots, run_on_sink_loop
from codomyrmex.streaming import Clock, InMemoryStream, SSEStream, Stream, TopicStream
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from codomyrmex.streaming.encoding import to_builtins
from codomyrmex.streaming.external import decode_external

T = TypeVar("T")

MAX_STREAMS = 100
_TIMEOUT = 10.0  # seconds to wait for space in the queues of sinks, or for a stream
_MAX_TOPICS = 100  # of a stream
_MAX_EVENTS = 500  # that are searched for topics
_KINDS: Mapping[str, Callable[[int], Stream]] = {
    "in_memory": InMemoryStream,
    "sse": SSEStream,
    "topic": TopicStream,
}


class LocalBackend(Backend):
    """A backend whose stream, sinks, alerts and circuit breakers are in this process.

    Args:
        stream: the stream that is called "default"; by default a new `InMemoryStream`.
        attachment: provides the sinks and their dead letters.
        alerts: provides alerts, silences and channels.
        board: provides the circuit breakers.
        buffer_size: how many of the newest events are kept if the stream is not durable.
        signals: whether SIGTERM and SIGINT end the calls that wait for events. Otherwise a server that
            finishes open requests before it stops would wait for them.
        clock: the clock; tests pass a `FakeClock`.
    """

    def __init__(
        self,
        stream: Stream | None = None,
        attachment: HasHealth | None = None,
        alerts: AlertSink | None = None,
        board: Board | None = None,
        *,
        buffer_size: int = 1_000,
        signals: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        stream = InMemoryStream(buffer_size) if stream is None else stream
        self._attachment, self._alerts, self._board = attachment, alerts, board
        self._clock, self._signals = clock, signals
        self._snapshots = Snapshots(stream, attachment, alerts, board, clock)
        self._streams: dict[str, tuple[Stream, EventPages]] = {}
        self._add_stream(DEFAULT_STREAM, stream, buffer_size)

    def _add_stream(self, name: str, stream: Stream, buffer_size: int) -> None:
        self._streams[name] = stream, EventPages(stream, buffer_size, self._clock, signals=self._signals)

    async def aclose(self) -> None:
        for name, (stream, pages) in self._streams.items():
            await pages.aclose()
            if name != DEFAULT_STREAM:
                await stream.aclose()
        await self._snapshots.aclose()

    # Streams

    async def create_stream(self, name: str, stream_type: StreamType, buffer_size: int) -> CreatedStream:
        if name in self._streams:
            raise BackendError(f"name: there is already a stream {name!r}")
        if len(self._streams) > MAX_STREAMS:
            raise BackendError(f"name: cannot create {name!r}: there are already {MAX_STREAMS} streams")
        self._add_stream(name, _KINDS[stream_type](buffer_size), buffer_size)
        return CreatedStream(stream_name=name, stream_type=stream_type)

    async def publish(
        self, stream_name: str, data: Any, event_type: str, topic: str | None, metadata: Mapping[str, Any]
    ) -> PublishedEvent:
        stream, _ = self._stream(stream_name)
        metadata = dict(metadata) if topic is None else {**metadata, "topic": topic}
        async with _converting_errors("the event was not published"):
            event = decode_external({"data": data, "type": event_type, "metadata": metadata})
            async with asyncio.timeout(_TIMEOUT):
                await stream.publish(event)
        return PublishedEvent(event_id=event.id, timestamp=event.timestamp.isoformat())

    async def streams(self, name: str | None) -> list[StreamInfo]:
        return [
            await self._describe(each, pages)
            for each, (_, pages) in tuple(self._streams.items())
            if name in {None, each}
        ]

    async def _describe(self, name: str, pages: EventPages) -> StreamInfo:
        page = await self._page(pages, "*", None, _MAX_EVENTS, 0)
        topics = dict.fromkeys(event.topic for _, event in reversed(page.events) if event.topic is not None)
        about = pages.describe()
        return StreamInfo(
            name=name,
            type=about["type"],
            subscriber_count=about["subscribers"] - (about["type"] != "durable"),  # not counting `pages`
            buffered_events=about["kept"],
            buffer_capacity=about["capacity"],
            topics=list(topics)[:_MAX_TOPICS],
        )

    async def events(
        self, stream_name: str, topic: str, cursor: str | None, limit: int, wait: float
    ) -> EventPage:
        _, pages = self._stream(stream_name)
        page = await self._page(pages, topic, cursor, limit, wait)
        items = [{"cursor": after, "event": event.to_dict()} for after, event in page.events]
        return conversion.event_page({**page._asdict(), "events": items})

    async def _page(
        self, pages: EventPages, topic: str, cursor: str | None, limit: int, wait: float
    ) -> RawPage:
        allows = allowed_topics.get()
        accepts = None if allows is None else lambda event: allows(event.topic)
        async with _converting_errors("the stream is not available"):
            return await pages.page(topic, cursor, limit, wait, accepts)

    def _stream(self, name: str) -> tuple[Stream, EventPages]:
        try:
            return self._streams[name]
        except KeyError:
            raise BackendError(f"stream_name: there is no stream {name!r}; see stream_status") from None

    # Alerts

    async def groups(self, matchers: str, state: AlertState | None, limit: int) -> GroupPage:
        self._require_alerts()
        async with _converting_errors("the alert sink is not available"):
            parsed = _named("matchers", lambda: parse_matchers(matchers))
            answer = await self._snapshots.find_groups(parsed, state or "", limit)
        return conversion.group_page(answer)

    async def explain(self, labels: Mapping[str, str]) -> RouteExplanation:
        self._require_alerts()
        async with _converting_errors("the alert sink is not available"):
            answer = await self._snapshots.explain_labels(labels)
        return conversion.explanation(answer)

    async def why_not_notified(
        self, labels: Mapping[str, str], group: str | None, limit: int
    ) -> WhyNotNotified:
        self._require_alerts()
        async with _converting_errors("the alert sink is not available"):
            answer = await self._snapshots.why_not_notified(labels, group, limit)
        return conversion.reasons(answer)

    async def silences(self, state: SilenceState | None, limit: int) -> SilencePage:
        self._require_alerts()
        async with _converting_errors("the alert sink is not available"):
            answer = await self._snapshots.find_silences(state or "", limit)
        return conversion.silence_page(answer)

    async def add_silence(
        self, matchers: str, seconds: float, created_by: str, comment: str, *, dry_run: bool
    ) -> SilenceItem:
        form = {
            "matchers": matchers,
            "duration": str(Duration(seconds)),
            "created_by": created_by,
            "comment": comment,
        }
        try:
            silence = parse_silence(form, self._clock.time())
        except FormError as error:
            raise BackendError(error.detail) from None
        if not dry_run:
            await self._act(lambda alerts: alerts.add_silence(silence))
        return conversion.silence_item(show_silence(silence, self._clock.time()))

    async def expire_silence(self, silence_id: str) -> ExpiredSilence:
        try:
            await self._act(lambda alerts: alerts.expire_silence(silence_id))
        except KeyError:
            raise BackendError(f"silence_id: there is no silence {silence_id!r}; see silences") from None
        return ExpiredSilence(id=silence_id)

    def _require_alerts(self) -> AlertSink:
        if self._alerts is None:
            raise BackendError("there is no alert sink, so there are no alerts, routes or silences")
        return self._alerts

    async def _act(self, call: Callable[[AlertSink], Coroutine[Any, Any, T]]) -> T:
        alerts = self._require_alerts()
        async with _converting_errors("the alert sink is not available"):
            result = await run_on_sink_loop(alerts, call)
        self._snapshots.invalidate()
        return result

    # Delivery

    async def sinks(self, limit: int) -> SinkList:
        async with _converting_errors("the sinks are not available"):
            sinks = await self._snapshots.sinks()
        if sinks is None:
            raise BackendError("there are no sinks: neither an attachment nor an alert sink was passed")
        return conversion.sink_list(to_builtins(sinks), limit)

    async def breakers(self, limit: int) -> BreakerList:
        async with _converting_errors("the circuit breakers are not available"):
            breakers = await self._snapshots.breakers()
        if breakers is None:
            raise BackendError("there are no circuit breakers: no CircuitBoard was passed")
        return conversion.breaker_list(to_builtins(breakers), limit)

    async def replay_dead_letters(self) -> Replayed:
        attachment = self._attachment
        if not isinstance(attachment, Attachment | BlockingAttachment):
            raise BackendError("there are no dead letters: no attachment was passed")
        async with _converting_errors("the dead letters were not replayed"):
            if isinstance(attachment, BlockingAttachment):
                count = await asyncio.wait_for(asyncio.to_thread(attachment.replay), _TIMEOUT)
            else:
                count = await asyncio.wait_for(attachment.replay(), _TIMEOUT)
        return Replayed(replayed=count)


@asynccontextmanager
async def _converting_errors(problem: str) -> AsyncIterator[None]:
    """Convert the exceptions of a stream, a sink or a store to a BackendError."""
    try:
        yield
    except (BackendError, KeyError):
        raise
    except ValueError as error:  # an invalid argument, which the message names
        raise BackendError(str(error)) from None
    except Exception as error:  # noqa: BLE001 - a store or a sink can fail in many ways
        raise BackendError(f"{problem}: {describe(error)}") from None


def _named(name: str, parse: Callable[[], T]) -> T:
    try:
        return parse()
    except ValueError as error:
        raise BackendError(f"{name}: {error}") from None
