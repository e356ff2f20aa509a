"""The routes of a live page that change something: silences, dead letters, events."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from codomyrmex.integrations.delivery.attachment import Attachment
from codomyrmex.integrations.delivery.blocking import BlockingAttachment
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.web import http, snapshot
from codomyrmex.integrations.web.alert_sections import show_silence
from codomyrmex.integrations.web.health import HasHealth
from codomyrmex.integrations.web.silence_form import FormError, parse_silence, text_fields
from codomyrmex.streaming import Clock, EventDecodeError, Stream, TopicError
from codomyrmex.streaming.errors import shorten
from codomyrmex.streaming.external import decode_external
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from codomyrmex.integrations.notification import AlertSink, Silence

T = TypeVar("T")

_MAX_FORM_BYTES = 16_384
_MAX_FORMS = 100  # of the maximum size, in memory at once
_FORM_TIMEOUT = 10.0  # seconds
_TIMEOUT = 10.0  # seconds to wait for space in the queues of sinks, or for a stream

_logger = logging.getLogger(__name__)


class Actions:
    """The routes of a live page that change something.

    Args:
        snapshots: the snapshots that a change invalidates.
        attachment: provides the dead letters.
        alerts: provides the silences.
        stream: the stream to publish to; None if the page accepts no events.
        may_act: returns whether a request has the token; None if the page is read-only.
        headers: the headers of each response.
        clock: the clock.

    Attributes:
        routes: the routes.
    """

    def __init__(
        self,
        snapshots: snapshot.Snapshots,
        attachment: HasHealth | None,
        alerts: AlertSink | None,
        stream: Stream | None,
        may_act: Callable[[Request], bool] | None,
        headers: Mapping[str, str],
        clock: Clock,
    ) -> None:
        self._snapshots = snapshots
        self._attachment = attachment
        self._alerts = alerts
        self._stream = stream
        self._may_act = may_act
        self._headers = headers
        self._clock = clock
        self._forms = http.BodyReader(_MAX_FORM_BYTES, _FORM_TIMEOUT, _MAX_FORMS, clock)
        self.routes = [
            Route("/silences", self._add_silence, methods=["POST"]),
            Route("/silences/preview", self._preview_silence, methods=["POST"]),
            Route("/silences/expire", self._expire_silence, methods=["POST"]),
            Route("/dead_letters/replay", self._replay, methods=["POST"]),
            Route("/publish", self._publish, methods=["POST"]),
        ]

    async def _add_silence(self, request: Request) -> Response:
        silence = await self._read_silence(request)
        await self._ask(lambda alerts: alerts.add_silence(silence))
        self._snapshots.invalidate()
        _logger.info("silence %s was added on the live page", shorten(silence.id))
        return self._respond(show_silence(silence, self._clock.time()), 201)

    async def _preview_silence(self, request: Request) -> Response:
        """Respond with the silence that the form would add."""
        return self._respond(show_silence(await self._read_silence(request), self._clock.time()))

    async def _read_silence(self, request: Request) -> Silence:
        return parse_silence(await self._read_form(request, self._alerts), self._clock.time())

    async def _expire_silence(self, request: Request) -> Response:
        silence_id = text_fields(await self._read_form(request, self._alerts), {"id": 200})["id"]
        if not silence_id:
            raise HTTPException(400, "id: the id of a silence is required")
        try:
            await self._ask(lambda alerts: alerts.expire_silence(silence_id))
        except KeyError:
            raise HTTPException(404, "there is no such silence") from None
        self._snapshots.invalidate()
        _logger.info("silence %s was expired on the live page", shorten(silence_id))
        return self._respond({"id": silence_id})

    async def _replay(self, request: Request) -> Response:
        """Queue the dead letters of the attachment again."""
        attachment = self._attachment
        text_fields(await self._read_form(request, attachment), {})
        if not isinstance(attachment, Attachment | BlockingAttachment):
            raise HTTPException(404, "the sinks of this page keep no dead letters")
        try:
            async with asyncio.timeout(_TIMEOUT):
                if isinstance(attachment, BlockingAttachment):
                    count = await asyncio.to_thread(attachment.replay)
                else:
                    count = await attachment.replay()
        except ValueError as error:
            raise HTTPException(404, str(error)) from None
        except Exception as error:  # noqa: BLE001 - a store or a sink can fail in many ways
            raise HTTPException(503, f"the dead letters were not replayed: {describe(error)}") from None
        self._snapshots.invalidate()
        _logger.info("%d dead letters were replayed on the live page", count)
        return self._respond({"replayed": count})

    async def _publish(self, request: Request) -> Response:
        """Publish an event in the format of `event_ingest`."""
        if self._stream is None:
            raise HTTPException(403, "this page accepts no events; pass allow_publish=True to `dashboard`")
        form = await self._read_form(request, self._stream)
        try:
            event = decode_external(form)
        except (EventDecodeError, TopicError) as error:
            raise HTTPException(400, str(error)) from None
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._stream.publish(event)
        except Exception as error:  # noqa: BLE001 - a stream can fail in many ways
            raise HTTPException(503, f"the event was not published: {describe(error)}") from None
        _logger.info("event %s was published on the live page", shorten(event.id))
        return self._respond({"id": event.id, "timestamp": event.timestamp.isoformat()}, 202)

    async def _ask(self, call: Callable[[AlertSink], Coroutine[Any, Any, T]]) -> T:
        assert self._alerts is not None  # noqa: S101 - checked by the caller
        try:
            return await snapshot.run_on_sink_loop(self._alerts, call)
        except KeyError:
            raise
        except Exception as error:  # noqa: BLE001 - a state can fail in many ways
            raise HTTPException(503, f"the alert sink is not available: {describe(error)}") from None

    async def _read_form(self, request: Request, target: object) -> object:
        """Return the form of a request; raise an HTTPException if it may not change the target."""
        if self._may_act is None or target is None:
            raise HTTPException(403, "this page is read-only")
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":  # which pages of other origins cannot send
            raise HTTPException(415, "the content type must be application/json")
        if not self._may_act(request):
            raise HTTPException(401, "the token is missing or wrong", http.UNAUTHORIZED)
        try:
            async with self._forms.reading(request) as body:
                return json.loads(body)
        except (ValueError, RecursionError):
            raise FormError({"": "the form is not valid JSON"}) from None

    def _respond(self, content: Any, status: int = 200) -> Response:
        return http.JsonResponse(content, status, self._headers)
