"""What happened: `Event`, its `EventType`, and `create_event` to make one."""

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
    """The kind of an event; the value is what stands on the wire."""

    MESSAGE = "message"
    ERROR = "error"
    CONNECT = "connect"
    DISCONNECT = "disconnect"
    HEARTBEAT = "heartbeat"


_TYPES = frozenset(EventType)
_HEARTBEAT = EventType.HEARTBEAT  # the members of an Enum are slow to look up


def new_id() -> str:
    """Make a UUID version 7 (RFC 9562): unique, and sorted by the time of its making."""
    return str(uuid7())


def _now() -> datetime:
    return datetime.now(UTC)


# A msgspec Struct because it is made in C: an application makes one for each thing that happens.
class Event(msgspec.Struct, frozen=True, weakref=True):
    """Something that happened. Not to be changed once it exists; `replace` gives a changed copy.

    Args:
        id: a UUID string; made automatically, version 7.
        type: the kind of event; the value of an `EventType` is taken too.
        data: the payload, any object.
        metadata: what describes the payload; `metadata["topic"]` is the topic.
        timestamp: when it happened, an aware `datetime`; a naive one is taken as UTC, any other
            zone is converted to UTC.

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
        # Four identity tests on the way everyone takes; the rest is for what needs mending.
        if (
            self.type.__class__ is EventType
            and self.metadata.__class__ is dict
            and self.id.__class__ is str
            and self.timestamp.__class__ is datetime
            and self.timestamp.tzinfo is UTC
        ):
            return
        _normalise(self)

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def topic(self) -> str | None:
        """The topic, `metadata["topic"]`, or None where there is none or it is not a string."""
        topic = self.metadata.get("topic")
        return topic if isinstance(topic, str) else None

    def replace(self, **changes: Any) -> Self:
        """Give a copy with some fields changed; the metadata of the copy is its own."""
        changes.setdefault("metadata", dict(self.metadata))
        return msgspec.structs.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Give the event as JSON-ready built-in types; `Event.from_dict` is the inverse.

        Returns:
            A new dict with `id`, `type`, `data`, `metadata` and `timestamp` (ISO 8601, UTC). Values
            that JSON does not know are converted as in `to_sse`.
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
        """Make an event from a mapping such as `to_dict` gives.

        Args:
            d: missing keys take their defaults, unknown keys are ignored. The timestamp is ISO 8601
                text or a `datetime`; without an offset it is UTC.

        Raises:
            EventDecodeError: `d` is not a mapping or a field has a wrong value; a `ValueError` that
                names the field and shows the value shortened.
        """
        if not isinstance(d, Mapping):
            raise EventDecodeError("event", "expected a mapping", d)
        fields: dict[str, Any] = {}
        for name, decode in _DECODERS.items():
            if name in d:
                fields[name] = decode(d[name])
        return cls(**fields)

    def to_sse(self) -> str:
        r"""Give the event as one frame of an event stream (WHATWG HTML, section 9.2).

        Returns:
            `id: ...\nevent: ...\ndata: ...\n\n`, the data as JSON on one line. A HEARTBEAT has no id
            line, so that it never moves a client's Last-Event-ID.
        """
        if self.type is _HEARTBEAT:
            return encode_frame(None, "heartbeat", self.data)
        return encode_frame(self.id, self.type._value_, self.data)


def create_event(data: Any, event_type: EventType = EventType.MESSAGE, **metadata: Any) -> Event:
    """Make an event that happens now.

    Args:
        data: the payload, any object.
        event_type: the kind of event.
        **metadata: what describes it, for example `topic="orders.created"`.
    """
    # Positional, with the defaults made here: half the cost of leaving them to the Struct.
    return Event(str(uuid7()), event_type, data, metadata, datetime.now(UTC))


def _normalise(event: Event) -> None:
    put = msgspec.structs.force_setattr
    if not isinstance(event.id, str):
        raise TypeError(f"id must be a string, not {type(event.id).__name__}")
    if not isinstance(event.type, EventType):
        put(event, "type", EventType(event.type))
    if not isinstance(event.metadata, Mapping):
        raise TypeError(f"metadata must be a mapping, not {type(event.metadata).__name__}")
    if type(event.metadata) is not dict:
        put(event, "metadata", dict(event.metadata))
    if not isinstance(event.timestamp, datetime):
        raise TypeError(f"timestamp must be a datetime, not {type(event.timestamp).__name__}")
    try:
        put(event, "timestamp", _in_utc(event.timestamp))
    except OverflowError:
        raise ValueError(f"timestamp {event.timestamp} is out of range in UTC") from None


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is UTC:
        return moment
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _decode_id(value: Any) -> str:
    if not isinstance(value, str):
        raise EventDecodeError("id", "expected a string", value)
    return value


def _decode_type(value: Any) -> EventType:
    if isinstance(value, str) and value in _TYPES:
        return EventType(value)
    raise EventDecodeError("type", f"expected one of {', '.join(EventType)}", value)


def _decode_metadata(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise EventDecodeError("metadata", "expected a mapping", value)
    return dict(value)


def _decode_timestamp(value: Any) -> datetime:
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise EventDecodeError("timestamp", "expected an ISO 8601 time", value) from None
    else:
        raise EventDecodeError("timestamp", "expected an ISO 8601 time", value)
    try:
        return _in_utc(moment)
    except OverflowError:
        raise EventDecodeError("timestamp", "out of range in UTC", value) from None


def _decode_data(value: Any) -> Any:
    return value


_DECODERS = {
    "id": _decode_id,
    "type": _decode_type,
    "data": _decode_data,
    "metadata": _decode_metadata,
    "timestamp": _decode_timestamp,
}
