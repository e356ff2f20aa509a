"""What led to an event, so that its consequences do not lead to it again.

A log line that becomes an event, and whose delivery writes log lines, would go round for ever. The
event says in its metadata where it comes from, and the context says it of the code that runs because
of it. The context variable goes where Python takes it (tasks, `asyncio.to_thread`); mailboxes and
listeners hand it on, and a thread that is started by hand gets it from the event's metadata.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codomyrmex.streaming.events import Event

ORIGIN = "codomyrmex.origin"  # the key in an event's metadata
LOGS = "logs"  # its value for what log records became

# The origin of the event that the running code deals with, where it has one.
cause: ContextVar[str | None] = ContextVar("codomyrmex.streaming.cause", default=None)


def origin_of(event: Event) -> str | None:
    """Give what an event says of where it comes from: one word, or several with spaces between."""
    origin = event.metadata.get(ORIGIN)
    return origin if isinstance(origin, str) else None


def stems_from_logs(origin: str | None) -> bool:
    """Tell whether an origin, or a cause, is a log record."""
    return origin is not None and LOGS in origin.split()


def marked(origin: str) -> str:
    """Give an origin with the word for logs, where what led here is a log record."""
    return f"{LOGS} {origin}" if stems_from_logs(cause.get()) else origin
