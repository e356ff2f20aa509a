"""Events as OpenTelemetry attributes: flat, bounded, and of types that every SDK accepts."""

from __future__ import annotations

import traceback
from itertools import islice
from typing import Any

from codomyrmex.streaming import Event, EventType
from codomyrmex.streaming.diagnostics import message_of
from codomyrmex.streaming.encoding import encode_usual, replace_surrogates, to_builtins, to_json
from codomyrmex.streaming.errors import ENDS_PROGRAM

Attribute = (
    str | bool | int | float | tuple[str, ...] | tuple[bool, ...] | tuple[int, ...] | tuple[float, ...]
)

_ERROR = EventType.ERROR  # looking up a member of an Enum is slow
_MAX_DEPTH = 4
_MAX_ATTRIBUTES = 100  # an SDK keeps 128 per event
_MAX_TEXT = 8_192  # characters
_MAX_ITEMS = 128
_MAX_CACHED_KEYS = 4_096
_MAX_CACHED_KEY = 100  # characters
_DROPPED = "event.dropped_attributes"
_MIN_INT, _MAX_INT = -(2**63), 2**63 - 1  # the range of OTLP
_PRIMITIVES = frozenset({str, bool, int, float})

_cached_keys: dict[str, dict[Any, str]] = {"event.data.": {}, "event.metadata.": {}}


def attributes_of(event: Event) -> dict[str, Attribute]:
    """Return `event.id`, `event.type`, `event.topic`, `event.data.*` and `event.metadata.*`.

    Mappings are flattened with dots, down to a depth of 4 and up to 100 attributes; what is beyond that is
    counted in `event.dropped_attributes`. Values that an SDK would drop, warn about or fail on are converted:
    integers beyond 64 bits, sets, datetimes and objects to strings, lone surrogates to U+FFFD, mixed and
    nested lists to JSON, empty mappings to `{}`. Of two values with the same name, such as those of
    `{"a": {"b": 1}, "a.b": 2}`, the second gets an underscore.

    An ERROR event whose data is an exception has `exception.type`, `exception.message` and
    `exception.stacktrace` (semantic conventions for exceptions) instead of `event.data`.
    """
    try:
        return _attributes(event)
    except ENDS_PROGRAM:
        raise
    except BaseException:  # noqa: BLE001 - such as a number with thousands of digits
        plain = event.to_dict()
        data = event.data if is_exception(event) else plain["data"]
        return _attributes(Event(plain["id"], event.type, data, plain["metadata"]))


def _attributes(event: Event) -> dict[str, Attribute]:
    event_id, topic = event.id, event.topic
    out: dict[str, Attribute] = {
        "event.id": event_id if event_id.isascii() and len(event_id) <= _MAX_TEXT else text_of(event_id),
        "event.type": event.type._value_,
    }
    if topic is not None:
        out["event.topic"] = topic if topic.isascii() and len(topic) <= _MAX_TEXT else text_of(topic)
    data = event.data
    if type(data) is dict and data:
        _put_all(out, "event.data.", data, 0)
    elif is_exception(event):
        out.update(exception_attributes(data))
    else:
        _put(out, "event.data", data, 0)
    metadata = event.metadata
    if topic is not None and len(metadata) == 1:
        out["event.metadata.topic"] = out["event.topic"]
    elif metadata:
        _put(out, "event.metadata", metadata, 0)
    return out


def is_exception(event: Event) -> bool:
    """Return whether an event follows the semantic conventions for exceptions."""
    return event.type is _ERROR and isinstance(event.data, BaseException)


def _put(out: dict[str, Attribute], key: str, value: Any, depth: int) -> None:
    kind = type(value)
    if kind is dict:
        if depth >= _MAX_DEPTH or not value:
            out[key] = _json(value)
        else:
            _put_all(out, f"{key}.", value, depth)
    elif kind is str:
        out[key] = text_of(value)
    elif kind is bool or kind is float:
        out[key] = value
    elif kind is int:
        out[key] = value if _MIN_INT <= value <= _MAX_INT else str(value)
    elif kind is list or kind is tuple:
        out[key] = _sequence(value)
    elif value is not None:
        plain = to_builtins(value)
        if plain is not None:
            _put(out, key, plain, depth)


def _put_all(out: dict[str, Attribute], prefix: str, values: dict[Any, Any], depth: int) -> None:
    keys = _cached_keys[prefix] if depth == 0 else {}
    try:
        _put_each(out, prefix, values, depth, keys)
    except RuntimeError:  # another thread is changing it
        _put_each(out, prefix, dict(islice(list(values.items()), _MAX_ATTRIBUTES)), depth, keys)


# The hot path: one loop for the usual values, without a call for each. Keys of the first level are cached,
# which saves building and hashing them; applications have few of them.
def _put_each(
    out: dict[str, Attribute], prefix: str, values: dict[Any, Any], depth: int, keys: dict[Any, str]
) -> None:
    may_collide = depth > 0  # at the first level, no other value has a name without a dot
    for number, (name, value) in enumerate(values.items()):
        if len(out) >= _MAX_ATTRIBUTES:
            dropped = out.get(_DROPPED, 0)
            assert isinstance(dropped, int)  # noqa: S101 - nothing else puts it there
            out[_DROPPED] = dropped + len(values) - number
            return
        key = keys.get(name)
        if key is None:
            text = _key(name)
            key = prefix + text
            if text is not name:  # the names after it may be like it
                keys, may_collide = {}, True
            if may_collide or "." in text:
                key = _free_key(out, key)
            elif len(text) <= _MAX_CACHED_KEY and len(keys) < _MAX_CACHED_KEYS:
                keys[name] = key
        kind = type(value)
        if (
            (kind is str and len(value) <= _MAX_TEXT and value.isascii())
            or (kind is int and _MIN_INT <= value <= _MAX_INT)
            or kind is bool
            or kind is float
        ):
            out[key] = value
        elif kind is list:
            out[key] = _sequence(value)
        elif value is not None:
            _put(out, key, value, depth + 1)


def _free_key(out: dict[str, Attribute], key: str) -> str:
    while key in out:
        key += "_"
    return key


def _key(name: Any) -> str:
    return text_of(name) if isinstance(name, str) else text_of(str(next(iter(to_builtins({name: None})), "")))


def text_of(text: str) -> str:
    """Return a string that OTLP can carry: shortened, and without lone surrogates."""
    if type(text) is str and text.isascii() and len(text) <= _MAX_TEXT:
        return text
    if type(text) is not str:
        text = str.__str__(text)
    if len(text) > _MAX_TEXT:
        text = f"{text[: _MAX_TEXT - 3]}..."
    return text if text.isascii() else replace_surrogates(text)


def _sequence(values: list[Any] | tuple[Any, ...]) -> Attribute:
    """Return values of one primitive type unchanged, as old SDKs require, and others as JSON."""
    kind = type(values[0]) if values else str
    if (
        kind is dict
        or kind not in _PRIMITIVES
        or len(values) > _MAX_ITEMS
        or any(v.__class__ is not kind for v in values)
    ):
        return _json(values)
    if kind is str:
        return tuple([text_of(value) for value in values])
    if kind is int and not all(_MIN_INT <= value <= _MAX_INT for value in values):
        return tuple([str(value) for value in values])
    return tuple(values)


def _json(value: Any) -> str:
    try:
        text = encode_usual(value).decode()
    except Exception:  # noqa: BLE001 - the slower encoder accepts anything
        text = to_json(value)
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 3]}..."


def exception_attributes(error: BaseException) -> dict[str, Attribute]:
    """Return the attributes of an exception (semantic conventions for exceptions)."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    attributes: dict[str, Attribute] = {"exception.type": name}
    message = message_of(error)
    if message:
        attributes["exception.message"] = text_of(message)
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - as above
        return attributes
    if len(text) > _MAX_TEXT:  # its end says most
        text = f"...{text[-_MAX_TEXT + 3 :]}"
    attributes["exception.stacktrace"] = text_of(text)
    return attributes
