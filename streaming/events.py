"""`Event`, `EventType` and `create_event`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

import msgspec
from codomyrmex.streaming.encoding import to_builtins
from codomyrmex.streaming.errors import EventDecodeError
from codomyrmex.streaming.sse_format import encode_frame
from uuid_utils import uuid7


class EventType(StrEnum):
    """The kind of an event; the value is its name on the wire."""

    MESSAGE = "message"
    ERROR = "error"
    CONNECT = "connect"
    DISCONNECT = "disconnect"
    HEARTBEAT = "heartbeat"


_TYPES = frozenset(EventType)
_HEARTBEAT = EventType.HEARTBEAT  # the members of an Enum are slow to look up


def new_id() -> str:
    """Return a new UUID version 7 (RFC 9562); these sort by creation time."""
    return str(uuid7())


def _now() -> datetime:
    return datetime.now(UTC)


# A msgspec Struct is created in C: an application creates one for each thing that happens.
class Event(msgspec.Struct, frozen=True, weakref=True):
    """Something that happened. Events are immutable; `replace` returns a modified copy.

    Attributes:
        id: a UUID string; by default a new UUID version 7.
        type: the kind of event, or its value.
        data: the payload, any object.
        metadata: describes the payload; `metadata["topic"]` is the topic.
        timestamp: when it happened, as an aware `datetime`. A naive one is interpreted as UTC, and other
            zones are converted to UTC.

    Raises:
        ValueError: the type is unknown, or the timestamp out of range in UTC.
        TypeError: the id is not a string, the metadata not a mapping, or the timestamp not a
            `datetime`.
    """

    id: str = msgspec.field(default_factory=new_id)
    type: EventType = EventType.MESSAGE
    data: Any = None
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    timestamp: datetime = msgspec.field(default_factory=_now)

    def __post_init__(self) -> None:
        # Identity checks for the usual case; the rest normalises unusual arguments.
        if not (
            self.type.__class__ is EventType
            and self.metadata.__class__ is dict
            and self.id.__class__ is str
            and self.timestamp.__class__ is datetime
            and self.timestamp.tzinfo is UTC
        ):
            _normalise(self)

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def topic(self) -> str | None:
        """The topic, `metadata["topic"]`, or None if there is none or it is not a string."""
        topic = self.metadata.get("topic")
        return topic if isinstance(topic, str) else None

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields replaced; the metadata dict is copied too."""
        changes.setdefault("metadata", dict(self.metadata))
        return msgspec.structs.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as built-in types that JSON can encode; `Event.from_dict` is the inverse.

        The timestamp is ISO 8601 text in UTC. Values of other types are converted as in `to_sse`.
        """
        return {
            "id": to_builtins(self.id),
            "type": self.type._value_,
            "data": to_builtins(self.data),
            "metadata": to_builtins(self.metadata),
            "timestamp": self.timestamp.isoformat(),
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """Return the event that a mapping describes, such as one from `to_dict`.

        Missing keys have their defaults, and unknown keys are ignored. The timestamp is ISO 8601 text or a
        `datetime`; without an offset it is UTC.

        Raises:
            EventDecodeError: `d` is not a mapping or a field has a wrong value; a `ValueError`.
        """
        if not isinstance(d, Mapping):
            raise EventDecodeError("event", "must be a mapping", d)
        return cls(**{field: _decode(field, d[field]) for field in cls.__struct_fields__ if field in d})

    def to_sse(self) -> str:
        """Return the event as one frame of an event stream (WHATWG HTML, section 9.2).

        The data is JSON on one line. A HEARTBEAT has no id line, so that it does not change a client's
        Last-Event-ID.
        """
        event_id = None if self.type is _HEARTBEAT else self.id
        return encode_frame(event_id, self.type._value_, self.data)


def create_event(data: Any, event_type: EventType = EventType.MESSAGE, **metadata: Any) -> Event:
    """Return a new event with the current time.

    Args:
        data: the payload, any object.
        event_type: the kind of event.
        **metadata: the metadata, for example `topic="orders.created"`. The topic is not checked here, which
            would cost a tenth of the call: an event with a malformed one, such as `a..b`, is delivered, but
            no subscription can name its topic.
    """
    # Positional arguments for all fields cost half as much as the defaults of the Struct.
    return Event(str(uuid7()), event_type, data, metadata, datetime.now(UTC))


def _normalise(event: Event) -> None:
    put = msgspec.structs.force_setattr
    if not isinstance(event.id, str):
        raise TypeError(f"id: must be a string, got {type(event.id).__name__}")
    if not isinstance(event.type, EventType):
        put(event, "type", EventType(event.type))
    if not isinstance(event.metadata, Mapping):
        raise TypeError(f"metadata: must be a mapping, got {type(event.metadata).__name__}")
    if type(event.metadata) is not dict:
        put(event, "metadata", dict(event.metadata))
    if not isinstance(event.timestamp, datetime):
        raise TypeError(f"timestamp: must be a datetime, got {type(event.timestamp).__name__}")
    put(event, "timestamp", _in_utc(event.timestamp))


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"timestamp: must be in range in UTC, got {moment}") from None


def _decode(field: str, value: Any) -> Any:
    """Return the value of a field of `from_dict`, checked."""
    if field == "id" and not isinstance(value, str):
        raise EventDecodeError(field, "must be a string", value)
    if field == "type":
        if not isinstance(value, str) or value not in _TYPES:
            raise EventDecodeError(field, f"must be one of {', '.join(EventType)}", value)
        return EventType(value)
    if field == "metadata":
        if not isinstance(value, Mapping):
            raise EventDecodeError(field, "must be a mapping", value)
        return dict(value)
    if field == "timestamp":
        try:
            return _in_utc(value if isinstance(value, datetime) else datetime.fromisoformat(value))
        except (TypeError, ValueError):
            raise EventDecodeError(field, "must be an ISO 8601 time", value) from None
    return value
