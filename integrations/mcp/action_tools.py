"""The tools that change something, which a server offers only if actions are allowed."""

from __future__ import annotations

import json
import logging
from typing import Annotated, Any

from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.mcp.access import require_everything
from codomyrmex.integrations.mcp.backend import Backend, BackendError
from codomyrmex.integrations.mcp.results import (
    AddedSilence,
    CreatedStream,
    ExpiredSilence,
    PublishedEvent,
    Replayed,
)
from codomyrmex.integrations.mcp.results import CreatableType as StreamType
from codomyrmex.integrations.mcp.shaping import shaped
from codomyrmex.integrations.mcp.tools import Matchers, Name
from codomyrmex.streaming.errors import shorten
from pydantic import Field

MAX_SILENCE = 24 * 3600.0  # seconds
MAX_BUFFER = 10_000  # events
_MAX_DATA = 100_000  # characters of JSON
_PREVIEW = 10  # groups

EventTypeName = Annotated[
    str, Field(max_length=50, description="message, error, connect, disconnect or heartbeat.")
]
Person = Annotated[
    str, Field(min_length=1, max_length=200, description="The person on whose behalf this is done.")
]

_logger = logging.getLogger(__name__)


class StreamActions:
    """The tools that create streams and publish; each public method is a tool.

    Args:
        backend: what the tools change.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def stream_create(
        self,
        name: Name,
        stream_type: Annotated[
            StreamType, Field(description="topic keeps a buffer for each topic; sse is for slow readers.")
        ] = "in_memory",
        buffer_size: Annotated[
            int, Field(ge=1, le=MAX_BUFFER, description="How many of the newest events are kept.")
        ] = 1_000,
    ) -> CreatedStream:
        """Create a stream in the memory of the server."""
        require_everything()
        return await self._backend.create_stream(name, stream_type, buffer_size)

    async def stream_publish(
        self,
        stream_name: Name,
        data: Annotated[Any, Field(description="Any JSON value of at most 100,000 characters.")],
        event_type: EventTypeName = "message",
        topic: Annotated[
            str | None, Field(max_length=500, description="The topic, such as orders.created.")
        ] = None,
        metadata: Annotated[
            dict[str, Any] | None, Field(description="Metadata of the event, such as labels.")
        ] = None,
    ) -> PublishedEvent:
        """Publish an event to a stream. An event of type `error` can become an alert that pages someone."""
        require_everything()
        size = len(json.dumps([data, metadata]))
        if size > _MAX_DATA:
            raise BackendError(f"data: must have at most {_MAX_DATA:,} characters of JSON, got {size:,}")
        published = await self._backend.publish(stream_name, data, event_type, topic, metadata or {})
        _logger.info("event %s was published by a tool", shorten(published.event_id))
        return published


class AlertActions:
    """The tools that add and expire silences, and replay dead letters; each public method is a tool.

    Args:
        backend: what the tools change.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def add_silence(
        self,
        matchers: Matchers,
        duration: Annotated[
            str, Field(max_length=50, description="How long from now, such as 2h30m; at most 24h.")
        ],
        created_by: Person,
        comment: Annotated[str, Field(max_length=1_000, description="The reason.")] = "",
        dry_run: Annotated[  # noqa: FBT002 - a parameter of the tool
            bool, Field(description="Only show which alerts the silence would match, without adding it.")
        ] = False,
    ) -> AddedSilence:
        """Silence all alerts that match, so that nobody is notified about them for some time.

        The result shows which alerts match now. Call it with dry_run first, and ask the person to confirm.
        """
        require_everything()
        if not created_by.strip():
            raise BackendError(f"created_by: must be the name of a person, got {shorten(created_by)}")
        seconds = _seconds(duration)
        silence = await self._backend.add_silence(matchers, seconds, created_by, comment, dry_run=True)
        matching = await self._backend.groups(matchers, None, _PREVIEW)
        if not dry_run:
            silence = await self._backend.add_silence(matchers, seconds, created_by, comment, dry_run=False)
            _logger.info("silence %s was added by a tool for %s", shorten(silence.id), shorten(created_by))
        return AddedSilence(
            status="preview" if dry_run else "added",
            silence=shaped(silence),
            matching_groups=shaped(matching),
        )

    async def expire_silence(
        self,
        silence_id: Annotated[
            str, Field(min_length=1, max_length=200, description="The `id` of a silence, from silences.")
        ],
    ) -> ExpiredSilence:
        """Expire a silence now, so that people are notified again."""
        require_everything()
        expired = await self._backend.expire_silence(silence_id)
        _logger.info("silence %s was expired by a tool", shorten(silence_id))
        return expired

    async def replay_dead_letters(self) -> Replayed:
        """Queue the dead letters again: events that sinks failed to deliver. Fix the cause first."""
        require_everything()
        replayed = await self._backend.replay_dead_letters()
        _logger.info("%d dead letters were replayed by a tool", replayed.replayed)
        return replayed


def _seconds(text: str) -> float:
    try:
        seconds = Duration.parse(text.strip())
    except ValueError as error:
        raise BackendError(f"duration: {error}") from None
    if not 0 < seconds <= MAX_SILENCE:
        raise BackendError(f"duration: must be greater than 0 and at most 24h, got {text.strip()}")
    return seconds
