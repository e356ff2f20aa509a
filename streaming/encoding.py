"""JSON for any payload: unknown types are converted, and nothing raises.

msgspec encodes the usual payload in one C call. Only what it refuses (lone surrogates, cycles, an object
whose conversion fails) is rebuilt by `_Walk` first.
"""

from __future__ import annotations

import dataclasses
import enum
import numbers
import os
from collections import UserString, deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
import uuid_utils
from codomyrmex.streaming.errors import ENDS_PROGRAM

_MAX_DEPTH = 100
_MAX_REPR = 10_000
_MAX_LENGTH = 1_000_000  # of a lazy sequence, such as a range
_MAX_AGAIN = 10_000

_CONTAINERS = (dict, list, tuple, set, frozenset, deque, Mapping)


def to_json(value: Any) -> str:
    """Encode `value` as JSON text on one line.

    No payload makes it raise: NaN and infinity become `null`, lone surrogates U+FFFD, mappings and
    collections objects and arrays, and any other object its `repr`. U+0085, U+2028 and U+2029 are
    escaped, because many SSE clients treat them as line ends.
    """
    raw = to_json_bytes(value)
    if raw.isascii():
        return raw.decode("ascii")
    text = raw.decode("utf-8")  # in JSON these three can only occur in strings
    return text.replace("\x85", "\\u0085").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def to_builtins(value: Any) -> Any:
    """Convert `value` to what its JSON text decodes to: dict, list, str, int, float, bool, None."""
    return decode_usual(to_json_bytes(value))


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, with U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def to_json_bytes(value: Any) -> bytes:
    """Encode `value` as `to_json` does, but as UTF-8 and without escaping line separators."""
    try:
        return _encoder.encode(value)
    except ENDS_PROGRAM:
        raise
    except BaseException:  # noqa: BLE001 - the walk handles whatever it was
        return _encoder.encode(_Walk().plain(value))


def _convert(value: Any) -> Any:  # noqa: C901, PLR0911 - one return for each kind of value
    """Convert a type that msgspec does not know; also called for keys such as None and True."""
    if value is None:
        return "null"  # only as a key, like the next one; msgspec encodes the values
    if isinstance(value, bool):
        return "true" if value else "false"
    for base in (str, int, float):  # msgspec does not encode subclasses
        if isinstance(value, base):
            return base.__str__(value) if base is str else base(value)
    if isinstance(value, (uuid_utils.UUID, UserString)):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Collection) and not isinstance(value, type) and len(value) <= _MAX_LENGTH:
        return list(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, numbers.Real):  # the scalars of numpy among them
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    names = getattr(type(value), "model_fields", None)  # a model of pydantic
    if isinstance(names, Mapping):
        return {name: getattr(value, name, None) for name in names}
    return _repr(value)


_encoder = msgspec.json.Encoder(enc_hook=_convert)

# The two halves of the usual case of `to_builtins`, for hot paths.
encode_usual = _encoder.encode
decode_usual = msgspec.json.Decoder().decode


class _Walk:
    """Rebuilds a payload from types that any JSON encoder knows.

    Its depth is limited, and so are cycles and repetitions, which could be walked in a great many orders.
    """

    def __init__(self) -> None:
        self._path: set[int] = set()
        self._seen: dict[int, object] = {}  # keeps the objects alive, so that no id is reused
        self._again = 0

    def plain(self, value: Any, depth: int = 0) -> Any:
        try:
            if value is None or isinstance(value, bool):
                return value
            if isinstance(value, enum.Enum):
                return self.plain(value.value, depth + 1)
            if isinstance(value, str):
                return replace_surrogates(str.__str__(value))
            if isinstance(value, _CONTAINERS) or _field_names(value) is not None:
                return self._container(value, depth)
            return msgspec.json.decode(_encoder.encode(value))
        except ENDS_PROGRAM:
            raise
        except BaseException:  # noqa: BLE001 - hostile objects may raise anything, RecursionError included
            return _repr(value)

    def _container(self, value: Any, depth: int) -> Any:  # noqa: PLR0911 - one return for each kind
        kind = type(value).__name__
        if id(value) in self._path:
            return f"<{kind} that contains itself>"
        if depth >= _MAX_DEPTH:
            return f"<{kind} nested deeper than {_MAX_DEPTH}>"
        self._again += id(value) in self._seen
        if self._again > _MAX_AGAIN:
            return f"<{kind} among too many that are repeated>"
        self._seen[id(value)] = value
        self._path.add(id(value))
        try:
            # list() first: another thread may be changing the container.
            names = _field_names(value)
            if names is not None:
                return {name: self.plain(getattr(value, name, None), depth + 1) for name in names}
            if isinstance(value, Mapping):
                return {_key(k): self.plain(v, depth + 1) for k, v in list(value.items())}
            if len(value) > _MAX_LENGTH:
                return _repr(value)
            return [self.plain(item, depth + 1) for item in list(value)]
        finally:
            self._path.discard(id(value))


def _field_names(value: Any) -> Sequence[str] | None:
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [field.name for field in dataclasses.fields(value)]
    return None


def _key(key: Any) -> str:
    if isinstance(key, str):
        return replace_surrogates(str.__str__(key))
    try:
        [text] = msgspec.json.decode(_encoder.encode({key: None}))
    except ENDS_PROGRAM:
        raise
    except BaseException:  # noqa: BLE001 - as in `_Walk.plain`
        return _repr(key)
    return str(text)


def _repr(value: Any) -> str:
    try:
        text = str.__str__(repr(value))  # a repr may be of a subclass of str
    except ENDS_PROGRAM:
        raise
    except BaseException as error:  # noqa: BLE001 - a raising repr is what this is for
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return replace_surrogates(text[:_MAX_REPR])
