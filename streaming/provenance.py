"""The provenance of events, so that the consequences of an event do not cause it again.

A log line that becomes an event whose delivery writes log lines would never end. The event's metadata
therefore names its origin, and a context variable marks the code that runs because of it. The variable
follows Python's contexts (tasks, `asyncio.to_thread`); mailboxes and listeners pass it on.
"""

from __future__ import annotations

from contextvars import ContextVar

from codomyrmex.streaming.events import Event

ORIGIN = "codomyrmex.origin"  # the key in an event's metadata
LOGS = "logs"  # the origin of events made from log records

# The origin of the event that the running code processes, if it has one.
cause: ContextVar[str | None] = ContextVar("codomyrmex.streaming.cause", default=None)


def origin_of(event: Event) -> str | None:
    """Return the origin in an event's metadata: one word, or several separated by spaces."""
    origin = event.metadata.get(ORIGIN)
    return origin if isinstance(origin, str) else None


def stems_from_logs(origin: str | None) -> bool:
    """Return whether an origin, or a cause, is a log record."""
    return origin is not None and LOGS in origin.split()


def marked(origin: str) -> str:
    """Return an origin, marked as coming from logs if the running code is caused by a log record."""
    return f"{LOGS} {origin}" if stems_from_logs(cause.get()) else origin
