"""`Observers`: everything that is called when a sink sends, fails, or changes its state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from codomyrmex.integrations.delivery.dead_letters import (
    DeadLetter,
    DeadLetters,
    is_dead_letter,
    letter_event,
)
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.health import SinkHealth, SinkReport, SinkState, state_event
from codomyrmex.integrations.delivery.sink import Sink
from codomyrmex.streaming import Event, Stream
from codomyrmex.streaming.errors import MUST_PASS

AttemptObserver = Callable[[str, float, str | None], None]
SendHook = Callable[[Sink, Sequence[Event]], AbstractContextManager[object]]

_NO_HOOKS = nullcontext()

_log = Diagnostics(__name__)


class Observers:
    """Everything that is called when a queued sink of an attachment sends, fails, or changes its state.

    No method raises or waits: failures are logged.

    Args:
        dead_letters: keeps or publishes dead letters.
        health_stream: receives the changes of state.

    Attributes:
        attempts: called after each attempt, with the name of the sink, seconds, and the class of the error.
        sends: context managers entered around each `sink.send(events)`.
    """

    def __init__(self, dead_letters: DeadLetters | Stream | None, health_stream: Stream | None) -> None:
        self._dead_letters = dead_letters
        self._health_stream = health_stream
        self.attempts: tuple[AttemptObserver, ...] = ()
        self.sends: tuple[SendHook, ...] = ()

    def gave_up(self, sink: Sink, letters: list[DeadLetter]) -> None:
        """Keep or publish dead letters."""
        target = self._dead_letters
        for letter in letters:
            if isinstance(target, DeadLetters):
                with _failures_logged("a dead letter could not be kept"):
                    target.put(letter)
            elif target is not None and not is_dead_letter(letter.event):
                with _failures_logged("a dead letter could not be published"):
                    target.publish_nowait(letter_event(sink, letter))

    def state_changed(self, sink: Sink, old: SinkState, health: SinkHealth, report: SinkReport) -> None:
        """Publish a change of state."""
        if self._health_stream is not None:
            with _failures_logged("a change of a sink's state could not be published"):
                self._health_stream.publish_nowait(state_event(sink, sink.name, old, health, report))

    def attempted(self, name: str, seconds: float, error_type: str | None) -> None:
        """Report an attempt to send a batch."""
        for observer in self.attempts:
            with _failures_logged("a function of on_attempt failed"):
                observer(name, seconds, error_type)

    def sending(self, sink: Sink, events: Sequence[Event]) -> AbstractContextManager[None]:
        """Return a context manager that enters those of `sends`; they cannot suppress an error."""
        return self._sending(sink, events) if self.sends else _NO_HOOKS

    @contextmanager
    def _sending(self, sink: Sink, events: Sequence[Event]) -> Iterator[None]:
        stack, problem = ExitStack(), "a hook of on_send failed"
        for hook in self.sends:
            with _failures_logged(problem):
                stack.enter_context(hook(sink, events))
        try:
            yield
        except BaseException as error:
            with _failures_logged(problem):
                stack.__exit__(type(error), error, error.__traceback__)
            raise
        with _failures_logged(problem):
            stack.close()


@contextmanager
def _failures_logged(problem: str) -> Iterator[None]:
    try:
        yield
    except MUST_PASS:
        raise
    except BaseException as error:  # noqa: BLE001 - foreign code must not affect the delivery
        _log.warning(problem, problem, error=error)
