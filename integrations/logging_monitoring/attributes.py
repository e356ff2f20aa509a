"""An event as OpenTelemetry attributes: flat, bounded, and of types that every SDK takes as they are."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from typing import Any

from codomyrmex.streaming import Event, EventType
from codomyrmex.streaming.encoding import replace_surrogates, to_builtins, to_json

Attribute = (
    str | bool | int | float | tuple[str, ...] | tuple[bool, ...] | tuple[int, ...] | tuple[float, ...]
)

_MAX_DEPTH = 4
_MAX_ATTRIBUTES = 100  # an SDK keeps 128 for each event
_MAX_TEXT = 8_192  # characters
_MAX_ITEMS = 128
_LEAST, _MOST = -(2**63), 2**63 - 1  # what OTLP can carry
_PRIMITIVES = (str, bool, int, float)


def attributes_of(event: Event) -> dict[str, Attribute]:
    """Give `event.id`, `event.type`, `event.topic`, `event.data.*` and `event.metadata.*`.

    Mappings are flattened with dots, to a depth and up to a number of attributes. What an SDK would warn
    about, drop or fail on is converted: integers beyond 64 bit, sets, datetimes and objects to text, lone
    surrogates to U+FFFD, mixed and nested lists to JSON; what is None is left out.

    An ERROR event whose data is an exception has `exception.type`, `exception.message` and
    `exception.stacktrace` (semantic conventions for exceptions) in place of `event.data`.
    """
    out: dict[str, Attribute] = {"event.id": _text(event.id), "event.type": event.type._value_}
    topic = event.topic
    if topic is not None:
        out["event.topic"] = _text(topic)
    data = event.data
    if isinstance(data, BaseException) and event.type is EventType.ERROR:
        out.update(_exception(data))
    else:
        _put(out, "event.data", data, 0)
    _put(out, "event.metadata", event.metadata, 0)
    return out


def is_exception(event: Event) -> bool:
    """Tell whether an event follows the conventions for exceptions."""
    return event.type is EventType.ERROR and isinstance(event.data, BaseException)


# One test of the class for each value of the usual types; the rest is for what is unusual.
def _put(out: dict[str, Attribute], key: str, value: Any, depth: int) -> None:  # noqa: C901 - flat, one kind after the other
    kind = value.__class__
    if kind is str:
        out[key] = value if len(value) <= _MAX_TEXT and value.isascii() else _text(value)
    elif kind is bool or kind is float:
        out[key] = value
    elif kind is int:
        out[key] = value if _LEAST <= value <= _MOST else str(value)
    elif value is None:
        return
    elif kind is dict:
        if depth >= _MAX_DEPTH:
            out[key] = _json(value)
            return
        prefix = f"{key}."
        for name, inner in _items(value):
            if len(out) >= _MAX_ATTRIBUTES:
                return
            _put(
                out,
                prefix + (name if name.__class__ is str and name.isascii() else _key(name)),
                inner,
                depth + 1,
            )
    elif kind is list or kind is tuple:
        out[key] = _sequence(value)
    else:
        plain = to_builtins(value)
        if plain.__class__ in (list, tuple):
            out[key] = _sequence(plain)
        elif plain is not None:
            _put(out, key, plain, depth)


def _items(value: dict[Any, Any]) -> Iterable[tuple[Any, Any]]:
    # A copy, as another thread may be changing it; but not of more than can be used.
    if len(value) > _MAX_ATTRIBUTES:
        return [item for item, _ in zip(value.items(), range(_MAX_ATTRIBUTES), strict=False)]
    return list(value.items())


def _key(name: Any) -> str:
    return _text(name) if isinstance(name, str) else _text(str(next(iter(to_builtins({name: None})), "")))


def _text(text: str) -> str:
    if text.__class__ is not str:
        text = str.__str__(text)
    if len(text) > _MAX_TEXT:
        text = f"{text[: _MAX_TEXT - 3]}..."
    return text if text.isascii() else replace_surrogates(text)


def _sequence(values: list[Any] | tuple[Any, ...]) -> Attribute:
    """Give values of one primitive type as they are, which old SDKs take too; else JSON."""
    kinds = {value.__class__ for value in values[: _MAX_ITEMS + 1]}
    if len(values) > _MAX_ITEMS or len(kinds) > 1 or not kinds <= set(_PRIMITIVES):
        return _json(values)
    if kinds == {str}:
        return tuple(_text(value) for value in values)
    if kinds == {int} and not all(_LEAST <= value <= _MOST for value in values):
        return tuple(str(value) for value in values)
    return tuple(values)


def _json(value: Any) -> str:
    return _text(to_json(value))


def _exception(error: BaseException) -> dict[str, Attribute]:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    attributes: dict[str, Attribute] = {"exception.type": name}
    try:
        message = str(error)
    except Exception as second:  # noqa: BLE001 - a broken exception is told of all the same
        message = f"<its message raised {type(second).__name__}>"
    if message:
        attributes["exception.message"] = _text(message)
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - as above
        return attributes
    if len(text) > _MAX_TEXT:  # the end is what says most
        text = f"...{text[-_MAX_TEXT + 3 :]}"
    attributes["exception.stacktrace"] = _text(text)
    return attributes
