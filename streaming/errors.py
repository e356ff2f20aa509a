"""The exceptions of the package; all derive from `StreamingError`."""

from __future__ import annotations

from asyncio import CancelledError

_MAX_SHOWN = 80

# Exceptions that do not report a failure; they are never swallowed.
MUST_PASS = (KeyboardInterrupt, SystemExit, GeneratorExit, CancelledError)

# The ones that a signal handler may raise at any moment. In plain foreign code, such as a `__repr__`, the
# others are failures like any other.
ENDS_PROGRAM = (KeyboardInterrupt, SystemExit)


def shorten(value: object) -> str:
    """Return the `repr` of a value, cut to a length that fits into a message."""
    try:
        text = repr(value)
    except BaseException as error:  # noqa: BLE001 - a broken repr must not hide the real error
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}... ({len(text)} characters)"


class StreamingError(Exception):
    """Base of all errors raised by `codomyrmex.streaming`."""

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process boundaries, whatever their `__init__` takes.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[Exception], args: tuple[object, ...], state: dict[str, object]) -> Exception:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class StreamClosedError(StreamingError):
    """The stream has been closed by `aclose()`."""


class TopicError(StreamingError, ValueError):
    """A topic or topic pattern is malformed."""


class EventDecodeError(StreamingError, ValueError):
    """A mapping is not an event.

    Attributes:
        field: the key with the wrong value, or `"event"` if the input is not a mapping.
    """

    def __init__(self, field: str, problem: str, value: object) -> None:
        super().__init__(f"{field}: {problem}, got {shorten(value)}")
        self.field = field


class StepResultError(StreamingError, TypeError):
    """A step of a `StreamProcessor` returned something that is not an event."""
