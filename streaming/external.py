"""`decode_external`: decodes events that another program sends."""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import UUID

from codomyrmex.streaming.errors import EventDecodeError, shorten
from codomyrmex.streaming.events import Event, new_id
from codomyrmex.streaming.topics import check_topic

MAX_ID_LENGTH = 200
OWN_KEYS = "codomyrmex."  # the prefix of metadata keys that only this package sets
_YEARS = range(1900, 9999)  # others overflow in another time zone, or mean "no time" in some programs


def clean_id(event_id: str) -> str:
    """Return an event id that every header, log and client can hold.

    That is printable ASCII without surrounding spaces, at most 200 characters. Any other id is replaced by a
    UUID that is derived from it, so that an event that is sent twice has the same id twice.
    """
    if (
        0 < len(event_id) <= MAX_ID_LENGTH
        and event_id.isascii()
        and event_id.isprintable()
        and event_id[0] != " " != event_id[-1]
    ):
        return event_id
    if not event_id.strip():
        return new_id()
    digest = hashlib.sha256(event_id.encode("utf-8", "surrogatepass")).digest()
    return str(UUID(bytes=digest[:16], version=5))


def decode_external(value: Any) -> Event:
    """Return the event that a mapping from outside the program describes.

    Differs from `Event.from_dict`, which trusts its input: metadata keys that begin with `codomyrmex.` are
    removed; an id that `clean_id` replaces and a timestamp before 1900 or after 9998, which is replaced by
    the current time, are kept in the metadata as `original_id` and `original_timestamp`.

    Raises:
        EventDecodeError: as for `Event.from_dict`, or the topic is not a string.
        TopicError: the topic is malformed.
    """
    event = Event.from_dict(value)
    metadata = {
        key: item
        for key, item in event.metadata.items()
        if not (isinstance(key, str) and key.startswith(OWN_KEYS))
    }
    topic = metadata.get("topic")
    if topic is not None:
        if not isinstance(topic, str):
            raise EventDecodeError("topic", "must be a string", topic)
        check_topic(topic)
    changes: dict[str, Any] = {}
    event_id = clean_id(event.id)
    if event_id != event.id:
        changes["id"] = event_id
        metadata.setdefault("original_id", shorten(event.id))
    if event.timestamp.year not in _YEARS:
        changes["timestamp"] = Event().timestamp
        metadata.setdefault("original_timestamp", event.timestamp.isoformat())
    if changes or len(metadata) != len(event.metadata):
        return event.replace(metadata=metadata, **changes)
    return event
