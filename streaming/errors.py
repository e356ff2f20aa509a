"""Every exception of the package; all derive from `StreamingError`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codomyrmex.streaming.sse_format import SSERecord

_SHOWN = 80


def shorten(value: object) -> str:
    """Give the `repr` of a value, cut to a length that fits into a message."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - a broken repr must not hide the real error
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def _rebuild(kind: type[Exception], args: tuple[object, ...], state: dict[str, object]) -> Exception:
    """Make an error again on the other side of a process boundary, whatever its `__init__` takes."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class StreamingError(Exception):
    """Base of all errors raised by `codomyrmex.streaming`."""


class StreamClosedError(StreamingError):
    """The stream was closed by `aclose()` and takes nothing more."""


class TopicError(StreamingError, ValueError):
    """A topic or topic pattern is malformed; the message says which and why."""


class EventDecodeError(StreamingError, ValueError):
    """A mapping is not an event.

    Attributes:
        field: the key that was wrong, or `"event"` when the whole is not a mapping.
    """

    def __init__(self, field: str, problem: str, value: object) -> None:
        super().__init__(f"{field}: {problem}, got {shorten(value)}")
        self.field = field

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class SSEDecodeError(StreamingError, ValueError):
    """An SSE byte stream holds an event larger than the decoder allows.

    Attributes:
        records: what the same call had decoded before the error.
    """

    def __init__(self, message: str, records: list[SSERecord]) -> None:
        super().__init__(message)
        self.records = records

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class HandlerLoopError(StreamingError, RuntimeError):
    """The event loop that an async handler was subscribed on does not run any more."""


class StageResultError(StreamingError, TypeError):
    """A stage of a `StreamProcessor` returned something that is not an event."""
