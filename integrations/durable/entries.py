"""Entries of a log: how events and cursors are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
from codomyrmex.integrations.durable.store import StoreError
from codomyrmex.streaming import Event
from codomyrmex.streaming.encoding import encode_usual, to_json_bytes
from codomyrmex.streaming.errors import shorten

MAX_ENTRY_SIZE = 1024 * 1024
"""The size of an encoded event at most, in bytes."""

FOR = b'{"for":'
"""How an entry begins that is for one group only."""

_UNREADABLE = (msgspec.MsgspecError, TypeError, ValueError, RecursionError)
"""What msgspec raises for JSON that is not what is expected, not in UTF-8, or nested too deeply."""

_decode_event = msgspec.json.Decoder(Event).decode
_decode_letter = msgspec.json.Decoder(dict[str, Any]).decode


class EventTooLargeError(StoreError, ValueError):
    """An encoded event is larger than 1 MiB."""


class CursorError(StoreError, ValueError):
    """A cursor does not name a position from which the log can be read on."""


class Record(NamedTuple):
    """An event and its position in a durable stream.

    Attributes:
        cursor: names the position of the event; pass it as `after` to continue after it.
        event: the event, with what JSON keeps of its payload.
    """

    cursor: str
    event: Event


class LogEntry(NamedTuple):
    """An event with its place in the log.

    Attributes:
        position: its position.
        time: when it was appended, in seconds since 1970, by the clock of the store where it has one.
        event: the event, with what JSON keeps of its payload.
    """

    position: int
    time: float
    event: Event


class Place(msgspec.Struct, frozen=True):
    """Up to where the events of a shard were delivered."""

    epoch: str
    position: int


class StoredLetter(NamedTuple):
    """A dead letter in a store.

    Attributes:
        position: its position in the log of dead letters.
        group: the group that gave the event up: the name of a sink, or of a subscription's group.
        reason: the last error in one line without secrets.
        attempts: how often the event was sent.
        time: when it was given up, in seconds since 1970.
        event: the event, or None if its entry could not be decoded.
        entry: the entry as it was in the log.
    """

    position: int
    group: str
    reason: str
    attempts: int
    time: float
    event: Event | None
    entry: bytes


def encode_event(event: Event) -> bytes:
    """Return the entry of an event.

    Raises:
        EventTooLargeError: it is larger than 1 MiB.
    """
    try:
        entry = encode_usual(event)
    except Exception:  # noqa: BLE001 - it can be encoded in another way
        entry = to_json_bytes(event)
    if len(entry) > MAX_ENTRY_SIZE:
        raise EventTooLargeError(
            f"event {shorten(event.id)}: encoded it has {len(entry)} bytes, the limit is {MAX_ENTRY_SIZE}"
        )
    return entry


def decode_event(entry: bytes) -> Event:
    """Return the event of an entry.

    Raises:
        ValueError: it is not the entry of an event.
    """
    try:
        return _decode_event(entry)
    except _UNREADABLE as error:
        raise ValueError(f"not an event: {error}") from None


def decode_or_none(entry: bytes) -> Event | None:
    """Return the event of an entry, or None if it is not one."""
    try:
        return _decode_event(entry)
    except _UNREADABLE:
        return None


def address_entry(entry: bytes, group: str) -> bytes:
    """Return a copy of an entry that is for one group only."""
    head = to_json_bytes({"for": group})
    return head[:-1] + b"," + entry[1:] if not entry.startswith(FOR) else entry


def decode_events(
    entries: Iterable[tuple[int, float, bytes]], containing: bytes
) -> Iterator[tuple[int, float, Event | None]]:
    """Yield the events of entries that contain some bytes, without those that are for one group only.

    None stands for an entry that is not an event. Each is decoded when it is needed: events that live only as
    long as the handler runs cost half of what those of a whole page do.
    """
    decode = _decode_event
    for position, time, entry in entries:
        if entry.startswith(FOR) or containing not in entry:
            continue
        try:
            event = decode(entry)
        except _UNREADABLE:
            yield position, time, None
        else:
            yield position, time, event


def addressee(entry: bytes) -> str | None:
    """Return the group that an entry is for, or None if it is for everyone."""
    if not entry.startswith(FOR):
        return None
    try:
        return str(_decode_letter(entry)["for"])
    except (*_UNREADABLE, KeyError):
        return ""


def encode_letter(group: str, reason: str, attempts: int, entry: bytes) -> bytes:
    """Return the entry of a dead letter."""
    letter = {"group": group, "reason": reason, "attempts": attempts}
    try:
        return to_json_bytes({**letter, "event": msgspec.Raw(entry)} if is_json(entry) else letter)
    except msgspec.MsgspecError:
        return to_json_bytes(letter)


def without_event(letter: bytes) -> bytes:
    """Return a dead letter that takes little space: it has only the group and the reason."""
    found = _decode_stored_letter(letter)
    return encode_letter(found.group, found.reason, found.attempts, b"")


def is_json(entry: bytes) -> bool:
    """Return whether an entry is valid JSON, so that it can be part of another one."""
    try:
        msgspec.json.decode(entry)
    except _UNREADABLE:
        return False
    return True


class _Letter(msgspec.Struct):
    group: str
    reason: str
    attempts: int
    event: msgspec.Raw = msgspec.Raw()


_decode_stored_letter = msgspec.json.Decoder(_Letter).decode


def decode_stored_letter(position: int, time: float, entry: bytes) -> StoredLetter:
    """Return a dead letter from its entry; one that cannot be decoded has the reason for that."""
    try:
        letter = _decode_stored_letter(entry)
    except _UNREADABLE as error:
        return StoredLetter(position, "", f"not a dead letter: {error}", 0, time, None, entry)
    raw = bytes(letter.event)
    try:
        event = decode_event(raw)
    except ValueError:
        event = None
    return StoredLetter(position, letter.group, letter.reason, letter.attempts, time, event, raw)


def format_cursor(epoch: str, position: int) -> str:
    """Return the cursor of a position."""
    return f"{epoch}:{position}"


def parse_cursor(cursor: str) -> tuple[str, int]:
    """Return the epoch and the position of a cursor.

    Raises:
        CursorError: it is malformed.
    """
    epoch, _, number = cursor.partition(":") if isinstance(cursor, str) else ("", "", "")
    if not epoch or not number.isascii() or not number.isdecimal() or len(number) > 18:  # noqa: PLR2004 - fits into 64 bits
        raise CursorError(f"after: must be a cursor, 'earliest' or None, got {shorten(cursor)}")
    return epoch, int(number)
