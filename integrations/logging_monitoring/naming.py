"""What an event is called, and how bad it is, wherever it is written down."""

from __future__ import annotations

import logging

from codomyrmex.streaming import Event, EventType

_MAX_NAME = 200

_LEVELS = {
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


def event_name(event: Event) -> str:
    """Name an event: `metadata["event"]`, else its topic, else its type.

    Control characters and line separators are escaped, as a renderer may print a name as it is and a
    forged line must not come of it; the length is capped.
    """
    text = printable(str(event.metadata.get("event") or event.topic or event.type.value))
    return text if len(text) <= _MAX_NAME else f"{text[: _MAX_NAME - 3]}..."


def printable(text: str) -> str:
    """Escape what a terminal or a log file could take for more than text."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def event_level(event: Event) -> int:
    """Give the level of `logging`: what the metadata says as `level` or `severity`, else by type."""
    said = event.metadata.get("level", event.metadata.get("severity"))
    known = _LEVELS.get(said.lower()) if isinstance(said, str) else None
    if known is not None:
        return known
    if event.type is EventType.ERROR:
        return logging.ERROR
    return logging.DEBUG if event.type is EventType.HEARTBEAT else logging.INFO
