"""The routes of a live page for programs that read: events, groups, silences, explanations."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.durable import StoreError
from codomyrmex.integrations.web import http, paging, snapshot
from codomyrmex.integrations.web.alert_sections import ALERT_STATES, SILENCE_STATES
from codomyrmex.integrations.web.event_pages import EventPage, EventPages
from codomyrmex.streaming import StreamClosedError
from codomyrmex.streaming.errors import shorten
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from codomyrmex.integrations.notification import Matcher

T = TypeVar("T")

_MAX_WAIT = 30.0  # seconds
_MAX_TEXT = 8_000  # characters of labels or matchers


class Queries:
    """The routes of a live page for programs that read.

    Args:
        topics: returns the topics that a request may see.
        snapshots: provides groups, silences and explanations.
        headers: the headers of each response.
        max_waiting: the maximum number of requests that wait for events at once.

    Attributes:
        pages: the events of the stream; to be set before the first request.
        routes: the routes.
    """

    def __init__(
        self,
        topics: http.Authorize,
        snapshots: snapshot.Snapshots,
        headers: Mapping[str, str],
        max_waiting: int,
    ) -> None:
        self._topics = topics
        self._snapshots = snapshots
        self._headers = headers
        self._max_waiting = max_waiting
        self._waiting = 0
        self.pages: EventPages
        self.routes = [
            Route("/recent", self._recent),
            Route("/groups", self._groups),
            Route("/silences", self._silences),
            Route("/explain", self._explain),
            Route("/why", self._why),
        ]

    # Events

    async def _recent(self, request: Request) -> Response:
        """Respond with a page of events; parameters: `topic`, `after`, `limit`, and `wait` in seconds."""
        allowed = await http.authorized_topics(self._topics, request.scope)
        query = request.query_params
        limit, wait = _number(query.get("limit", "50"), "limit"), _number(query.get("wait", "0"), "wait")
        if wait > 0 and self._waiting >= self._max_waiting:
            raise HTTPException(503, "too many requests are waiting; try again soon", {"retry-after": "1"})
        page = self.pages.page(
            query.get("topic") or "*",
            query.get("after") or None,
            int(limit),
            min(wait, _MAX_WAIT),
            None if allowed.everything else lambda event: allowed.allow(event.topic),
        )
        self._waiting += 1
        reading = asyncio.ensure_future(page)
        disconnect = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({reading, disconnect}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                return Response(status_code=204)  # the client is gone
            return self._respond(_shown(await reading, newest=not query.get("after")))
        except ValueError as error:  # the topic or the limit is invalid
            raise HTTPException(400, str(error)) from None
        except (StoreError, StreamClosedError) as error:
            raise HTTPException(503, f"the stream is not available: {describe(error)}") from None
        finally:
            self._waiting -= 1
            reading.cancel()
            disconnect.cancel()

    # Alerts

    async def _groups(self, request: Request) -> Response:
        """Respond with the groups that have alerts with a `state` that match `matchers`, and these alerts."""
        await self._check(request)
        query = request.query_params
        limit = int(_number(query.get("limit", "50"), "limit"))
        matchers = _matchers(query.get("matchers", ""))
        state = _state(query, ALERT_STATES)
        return self._respond(await self._ask(self._snapshots.find_groups(matchers, state, limit)))

    async def _silences(self, request: Request) -> Response:
        """Respond with the silences that have a `state`."""
        await self._check(request)
        query = request.query_params
        limit = int(_number(query.get("limit", "50"), "limit"))
        state = _state(query, SILENCE_STATES)
        return self._respond(await self._ask(self._snapshots.find_silences(state, limit)))

    async def _explain(self, request: Request) -> Response:
        """Respond with where an alert is sent and why: the one with a `fingerprint`, or one with `labels`."""
        await self._check(request)
        query = request.query_params
        if "labels" in query:
            return self._respond(await self._ask(self._snapshots.explain_labels(_labels(query["labels"]))))
        fingerprint = query.get("fingerprint", "")
        if not fingerprint:
            raise HTTPException(400, "fingerprint: the fingerprint of an alert, or labels, are required")
        explanation = await self._ask(self._snapshots.explain(fingerprint))
        if explanation is None:
            raise HTTPException(404, "there is no such alert, or it is no longer active")
        return self._respond(explanation)

    async def _why(self, request: Request) -> Response:
        """Respond with why receivers were not notified about a `group`, or alerts with at least `labels`."""
        await self._check(request)
        query = request.query_params
        labels, group = _labels(query.get("labels", "{}")), query.get("group") or None
        if not any(labels.values()) and group is None:
            raise HTTPException(400, "labels: at least one label, or a group, is required")
        limit = int(_number(query.get("limit", "20"), "limit"))
        return self._respond(await self._ask(self._snapshots.why_not_notified(labels, group, limit)))

    async def _check(self, request: Request) -> None:
        allowed = await http.authorized_topics(self._topics, request.scope)
        if not allowed.everything:
            raise HTTPException(403, "alerts are shown only to clients that may see all topics")
        if not self._snapshots.has_alerts:
            raise HTTPException(404, "no alert sink is connected to this page")

    async def _ask(self, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except snapshot.BusyError as error:
            raise HTTPException(503, str(error), {"retry-after": "1"}) from None
        except Exception as error:  # noqa: BLE001 - a state can fail in many ways
            raise HTTPException(503, f"the alert sink is not available: {describe(error)}") from None

    def _respond(self, content: Any) -> Response:
        return http.JsonResponse(content, headers=self._headers)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _shown(page: EventPage, *, newest: bool) -> dict[str, Any]:
    """Return a page with as many of its events as fit."""
    items = [{"cursor": cursor, "event": event.to_dict()} for cursor, event in page.events]
    cursor = page.cursor
    if newest:
        events = paging.page(reversed(items))[::-1]
    else:
        events = paging.page(items)
        if len(events) < len(items):
            cursor = page.events[len(events) - 1][0]
    has_more = page.has_more or len(events) < len(items)
    return {"events": events, "cursor": cursor, "has_more": has_more, "missed": page.missed}


def _state(query: Mapping[str, str], states: Sequence[str]) -> str:
    state = query.get("state", "")
    if state not in {"", *states}:
        raise HTTPException(400, f"state: must be one of {', '.join(states)}, got {shorten(state)}")
    return state


def _number(text: str, name: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise HTTPException(400, f"{name}: must be a number of at least 0, got {shorten(text)}")
    return number


def _matchers(text: str) -> Sequence[Matcher]:
    from codomyrmex.integrations.notification import parse_matchers  # needs the extra `alerts`

    if len(text) > _MAX_TEXT:
        raise HTTPException(400, f"matchers: must have at most {_MAX_TEXT} characters, got {len(text)}")
    try:
        return parse_matchers(text)
    except ValueError as error:
        raise HTTPException(400, f"matchers: {error}") from None


def _labels(text: str) -> dict[str, str]:
    if len(text) > _MAX_TEXT:
        raise HTTPException(400, f"labels: must have at most {_MAX_TEXT} characters, got {len(text)}")
    try:
        labels = json.loads(text)
    except (ValueError, RecursionError):
        labels = None
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise HTTPException(400, "labels: must be a JSON object with text values")
    return labels
