"""The records of an alert engine's state in a store: values by name, and a log of their changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.durable.names import Names, decode_name, encode_name

_CHANGES = ".changes"
_PART_BYTES = 256 * 1024  # of the changes in an entry, unless a single one is larger
_NOT_IN_JSON = (msgspec.MsgspecError, UnicodeError, TypeError, ValueError)

_log = Diagnostics(__name__)

Change = tuple[str, str, Any]
"""The kind, the key and the new value of what has changed; the value is None if it was deleted."""


class StateNames:
    """The names that the state of an alert sink has in a store.

    Args:
        stream: the name of the log from which its alerts come.
        sink: the name of the sink.

    Attributes:
        prefix: the prefix of the names of all values.
        head: the name of the value that is the head.
        changes: the name of the log of changes.
    """

    def __init__(self, stream: str, sink: str) -> None:
        encoded = encode_name(sink)
        self.prefix = Names(stream, sink).state
        self.head = f"{self.prefix}head"
        self.changes = f"{stream}.{encoded}{_CHANGES}"

    def values_of(self, head: Head, encoded: Encoded) -> dict[str, bytes | None]:
        """Return the values that a store saves for changes, by name, with their head."""
        values = {f"{self.prefix}{name}": value for name, value in encoded.values.items()}
        return {**values, self.head: msgspec.json.encode(head)}


def parse_changes_name(log: str) -> tuple[str, str] | None:
    """Return the stream and the sink whose log of changes has a name, None if it is another log."""
    stream, dot, encoded = log.removesuffix(_CHANGES).partition(".")
    return (stream, decode_name(encoded)) if dot and encoded and log.endswith(_CHANGES) else None


class Head(msgspec.Struct, frozen=True):
    """A record that is saved together with every change, and identifies the state.

    Attributes:
        number: a number that grows with every save.
        token: the token of the lease under which it was saved.
        epoch: the epoch of the log of events.
        position: the position up to which the events of the log are in the state.
        at: when it was saved, in seconds since 1970.
        process: the name of the process that saved it; empty once that process has closed the sink.
        config: identifies the configuration in force.
    """

    number: int = 0
    token: int = 0
    epoch: str = ""
    position: int = 0
    at: float = 0.0
    process: str = ""
    config: str = ""


class Encoded(NamedTuple):
    """Changes as they are saved.

    Attributes:
        values: the values by name; None for those that were deleted.
        parts: the changes as JSON arrays, each small enough for a log entry.
    """

    values: dict[str, bytes | None]
    parts: list[bytes]


def encode_changes(changes: Mapping[tuple[str, str], Any]) -> Encoded:
    """Encode the result of `AlertEngine.pop_changes`."""
    values: dict[str, bytes | None] = {}
    parts: list[bytes] = []
    part: list[bytes] = []
    size = 0
    for (kind, key), value in changes.items():
        text = _encode([kind, key, value])
        values[value_name(kind, key)] = None if value is None else text
        if size + len(text) > _PART_BYTES and part:
            parts.append(b"[%b]" % b",".join(part))
            part, size = [], 0
        part.append(text)
        size += len(text)
    if part:
        parts.append(b"[%b]" % b",".join(part))
    return Encoded(values, parts)


def value_name(kind: str, key: str) -> str:
    """Return the name of a value; keys may contain anything, and names may not."""
    digest = hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    return f"{kind}/{digest}"


def decode_change(value: bytes) -> Change:
    """Decode a change from a value.

    Raises:
        ValueError: the value is not a change.
    """
    decoded = _decode(value)
    match decoded:
        case [str(kind), str(key), record]:
            return kind, key, record
    raise ValueError("not a part of the state of an alert engine")


def encode_entries(head: Head, parts: Iterable[bytes]) -> list[bytes]:
    """Return the entries of the log of changes for a save."""
    text = msgspec.json.encode(head)
    bodies = list(parts) or [b"[]"]
    last = len(bodies) - 1
    return [
        b'{"head":%b,"last":%b,"changes":%b}' % (text, b"true" if number == last else b"false", body)
        for number, body in enumerate(bodies)
    ]


def decode_entry(entry: bytes) -> tuple[Head, bool, list[Change]]:
    """Return the head, whether this is the last entry of its save, and the changes.

    Raises:
        ValueError: it is not an entry of the log of changes.
    """
    try:
        decoded = _decode(entry)
        changes = [(str(kind), str(key), value) for kind, key, value in decoded["changes"]]
        return msgspec.convert(decoded["head"], Head), bool(decoded["last"]), changes
    except (KeyError, TypeError, ValueError, msgspec.MsgspecError) as error:
        raise ValueError(f"not an entry of the log of changes: {error}") from None


def decode_head(value: bytes | None) -> Head:
    """Return the head that was saved last; the first one if there is none, or if it is damaged."""
    if value is None:
        return Head()
    try:
        return msgspec.json.decode(value, type=Head)
    except (*_NOT_IN_JSON, RecursionError) as error:
        _log.warning("head", "the number of the saved state is damaged, and begins again: %s", error)
        return Head()


def decode_state(values: Mapping[str, bytes], names: StateNames) -> tuple[Head, dict[tuple[str, str], Any]]:
    """Return the head and the state, by kinds and keys; a damaged value is skipped and logged."""
    state: dict[tuple[str, str], Any] = {}
    for name, value in values.items():
        if name == names.head:
            continue
        try:
            kind, key, record = _decode_value(name.removeprefix(names.prefix), value)
        except ValueError as error:
            _log.warning("value", "the value %s of the state is skipped: %s", name, error)
        else:
            state[kind, key] = record
    return decode_head(values.get(names.head)), state


def _decode_value(name: str, value: bytes) -> Change:
    kind, key, record = decode_change(value)
    if name != value_name(kind, key):
        raise ValueError("it has the name of another value")
    return kind, key, record


# Labels may contain lone surrogates, which msgspec refuses, and `json` escapes.
def _encode(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except _NOT_IN_JSON:
        return json.dumps(value).encode()


def _decode(value: bytes) -> Any:
    try:
        return msgspec.json.decode(value)
    except _NOT_IN_JSON:
        try:
            return json.loads(value)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
