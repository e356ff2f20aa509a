"""How an event is named and rated where it is logged, counted or traced."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from codomyrmex.streaming import Event, EventType

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

_ERROR, _HEARTBEAT = EventType.ERROR, EventType.HEARTBEAT  # the members of an Enum are slow to look up


def event_name(event: Event) -> str:
    """Name an event: `metadata["event"]`, else its topic, else its type.

    Control characters and line separators are escaped, as a renderer may print a name as it is and a
    forged line must not come of it; the length is capped.
    """
    name = event.metadata.get("event")
    if name is None or name == "":
        name = event.topic or event.type._value_
    return as_name(name)


def as_name(name: object) -> str:
    """Make of anything a name that fits in a line."""
    if isinstance(name, str) and len(name) <= MAX_NAME and name.isprintable():
        return name
    try:
        text = printable(str(name))
    except Exception:  # noqa: BLE001 - an object that cannot be shown, a number of thousands of digits
        text = f"<{type(name).__name__}>"
    return text if len(text) <= MAX_NAME else f"{text[: MAX_NAME - 3]}..."


def printable(text: str) -> str:
    """Escape what a terminal or a log file could take for more than text."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def event_level(event: Event) -> int:
    """Give the level of `logging`: what the metadata says as `level` or `severity`, else by type."""
    metadata = event.metadata
    said = metadata.get("level") if "level" in metadata else metadata.get("severity")
    if said is not None:
        known = LEVELS.get(said.lower()) if isinstance(said, str) else None
        if known is not None:
            return known
    kind = event.type
    if kind is _ERROR:
        return logging.ERROR
    return logging.DEBUG if kind is _HEARTBEAT else logging.INFO


def level_number(level: str | int) -> int:
    """Give the number of a level.

    Raises:
        ValueError: there is no level of that name; the message lists them.
        TypeError: it is neither a name nor a number.
    """
    if isinstance(level, bool) or not isinstance(level, (str, int)):
        raise TypeError(f"a level is a name or a number, not {level!r}")
    if isinstance(level, int):
        return level
    number = LEVELS.get(level.lower())
    if number is None:
        raise ValueError(f"{level!r} is no level; known are {', '.join(LEVELS)}")
    return number


def level_name(level: int) -> str:
    """Name a level: that of the highest known one which it reaches."""
    return NAMES[max((known for known in NAMES if known <= level), default=logging.DEBUG)]


_TRACEPARENT = re.compile(
    r"(?!ff)(?:00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"|(?!00)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?)"
)
_MEMBER = r"[a-z0-9][a-z0-9_\-*/@]*=[ -+\--<>-~]+"
_TRACESTATE = re.compile(rf"{_MEMBER}(?:[ \t]*,[ \t]*{_MEMBER})*")
_MAX_TRACESTATE = 512  # what everyone has to carry (W3C Trace Context, section 3.3.1.5)


def carrier_of(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Give the trace context of an event's metadata, as far as it is one.

    OpenTelemetry warns about what is malformed, each time, so it does not get to see it.
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
