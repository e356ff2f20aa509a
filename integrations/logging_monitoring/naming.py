"""The names and levels of events in logs, metrics and traces, and the trace context they carry."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from codomyrmex.streaming import Event, EventType
from codomyrmex.streaming.errors import ENDS_PROGRAM

MAX_NAME = 200

LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "notice": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "exception": logging.ERROR,
    "critical": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}
NAMES = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "critical",
}

_ERROR, _HEARTBEAT = EventType.ERROR, EventType.HEARTBEAT  # looking up members of an Enum is slow


def event_name(event: Event) -> str:
    """Return the name of an event: `metadata["event"]`, else its topic, else its type.

    Control characters and line separators are escaped, because a renderer may print the name as it is and
    it must not be possible to forge a log line. The length is capped.
    """
    name = event.metadata.get("event")
    if name is None or (name.__class__ is str and not name):
        name = event.topic or event.type._value_
    return as_name(name)


def as_name(value: object) -> str:
    """Return `value` as a name that fits on one line."""
    if type(value) is str and len(value) <= MAX_NAME and value.isprintable():
        return value
    try:
        text = printable(str(value))
    except ENDS_PROGRAM:
        raise
    except BaseException:  # noqa: BLE001 - for example, a number with thousands of digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= MAX_NAME else f"{text[: MAX_NAME - 3]}..."


def printable(text: str) -> str:
    """Return `text` with every character escaped that a terminal or a log file could misinterpret."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def event_level(event: Event) -> int:
    """Return the level of an event, as `logging` numbers it.

    It is `level` or `severity` in the metadata; otherwise it depends on the type.
    """
    metadata = event.metadata
    name = metadata.get("level") if "level" in metadata else metadata.get("severity")
    if isinstance(name, str):
        level = LEVELS.get(name.lower())
        if level is not None:
            return level
    kind = event.type
    if kind is _ERROR:
        return logging.ERROR
    return logging.DEBUG if kind is _HEARTBEAT else logging.INFO


def level_number(level: str | int) -> int:
    """Return the number of a level.

    Raises:
        ValueError: no level has that name.
        TypeError: `level` is neither a name nor a number.
    """
    if isinstance(level, bool) or not isinstance(level, (str, int)):
        raise TypeError(f"level: must be a name or a number, got {level!r}")
    if isinstance(level, int):
        return level
    number = LEVELS.get(level.lower())
    if number is None:
        raise ValueError(f"level: must be one of {', '.join(LEVELS)}, got {level!r}")
    return number


def level_name(level: int) -> str:
    """Return the name of the highest named level that is not above `level`."""
    return NAMES[max((number for number in NAMES if number <= level), default=logging.DEBUG)]


_TRACEPARENT = re.compile(
    r"(?!ff)(?:00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"|(?!00)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?)"
)
_MEMBER = r"[a-z0-9][a-z0-9_\-*/@]*=[ -+\--<>-~]+"
_TRACESTATE = re.compile(rf"{_MEMBER}(?:[ \t]*,[ \t]*{_MEMBER})*")
_MAX_TRACESTATE = 512  # the length that must be propagated (W3C Trace Context, section 3.3.1.5)


def carrier_of(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the valid part of the trace context in an event's metadata.

    OpenTelemetry logs a warning for each malformed value, so it does not get to see them.
    """
    traceparent = metadata.get("traceparent")
    if not isinstance(traceparent, str) or not _TRACEPARENT.fullmatch(traceparent[:512]):
        return {}
    carrier = {"traceparent": traceparent}
    tracestate = metadata.get("tracestate")
    if (
        isinstance(tracestate, str)
        and len(tracestate) <= _MAX_TRACESTATE
        and _TRACESTATE.fullmatch(tracestate)
    ):
        carrier["tracestate"] = tracestate
    return carrier
