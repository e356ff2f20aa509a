"""`attach_circuitbreaker`: what a breaker of the package circuitbreaker does becomes events.

The package has no hook. A poll would miss what happens between two looks, and cost where nothing happens. So
the one object is given a subclass of its own class, which looks at the public state around each call: that
is exact, and costs two comparisons. Half-open is derived by the library itself, when its state is read.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.service_mesh.breaker_event import BreakerEventKind, BreakerState
from codomyrmex.integrations.service_mesh.feed import BreakerFeed, expect
from codomyrmex.streaming import Stream

try:
    from circuitbreaker import CircuitBreaker  # type: ignore[import-untyped]
except ImportError as error:
    raise MissingExtraError("attach_circuitbreaker", "circuitbreaker", "circuitbreaker") from error


def attach_circuitbreaker(
    breaker: CircuitBreaker, stream: Stream, *, service: str | None = None, calls: bool = False
) -> CircuitbreakerFeed:
    """Publish what a breaker does; arguments, result and errors as for `attach_pybreaker`.

    A breaker that was made by the decorator `@circuit` is found by `CircuitBreakerMonitor.get(name)`.
    """
    return CircuitbreakerFeed(breaker, stream, service, calls=calls)


class CircuitbreakerFeed(BreakerFeed):
    """Observes one breaker; made by `attach_circuitbreaker`."""

    def __init__(self, breaker: CircuitBreaker, stream: Stream, service: str | None, *, calls: bool) -> None:
        expect(breaker, "circuitbreaker", CircuitBreaker)
        super().__init__(stream, "circuitbreaker", service, calls=calls)
        self._breaker = breaker
        self._kind = type(breaker)
        self._state = breaker.state
        self._asked = threading.local()
        breaker.__class__ = _observed(self._kind, self)
        self.snapshot(self._name, self._state, failure_count=breaker.failure_count)

    @property
    def _name(self) -> str:
        return str(self._breaker.name or "unnamed")

    def detach(self) -> None:
        super().detach()
        if getattr(type(self._breaker), "feed", None) is self:
            self._breaker.__class__ = self._kind

    def look(self) -> None:
        """Publish the change, if the state is another one than at the last look."""
        state = self._breaker.state
        if state != self._state:
            old, self._state = self._state, state
            self.change(self._name, old, state, failure_count=self._breaker.failure_count)

    def was_reset(self) -> None:
        """Tell of a reset that somebody asked for."""
        self.emit(self._name, BreakerEventKind.RESET, to_state=BreakerState.CLOSED, native_state="closed")

    def ended(self, error: BaseException | None, *, failed: bool) -> None:
        """Note how a call has ended."""
        if failed:
            self.note_failure(self._name, error)
        self.look()
        if self.calls:
            kind = BreakerEventKind.FAILURE if failed else BreakerEventKind.SUCCESS
            self.emit(self._name, kind, failure_count=self._breaker.failure_count)

    # The library's wrapper asks `opened` and then, if it is, for the fallback. Who only wants to know the
    # state does not ask for the fallback.

    def opened_is(self, *, opened: bool) -> None:
        self._asked.opened = opened

    def fallback_is_wanted(self) -> None:
        if getattr(self._asked, "opened", False):
            self._asked.opened = False
            self.rejected(self._name, "open", failure_count=self._breaker.failure_count)


def _observed(kind: type[Any], feed: CircuitbreakerFeed) -> type[Any]:
    in_call = threading.local()

    class Observed(kind):  # type: ignore[misc] # any class of breakers
        def __enter__(self) -> Any:
            feed.look()  # here an open circuit that tries again is seen to be half open
            return super().__enter__()

        def __exit__(
            self,
            exc_type: type[BaseException] | None,
            exc_value: BaseException | None,
            traceback: TracebackType | None,
        ) -> Any:
            failed = exc_type is not None and self.is_failure(exc_type, exc_value)
            in_call.now = True
            try:
                return super().__exit__(exc_type, exc_value, traceback)
            finally:
                in_call.now = False
                feed.ended(exc_value, failed=failed)

        def reset(self) -> None:
            super().reset()
            if not getattr(in_call, "now", False):
                feed.look()
                feed.was_reset()

        @property
        def opened(self) -> bool:
            opened = bool(super().opened)
            feed.opened_is(opened=opened)
            return opened

        @property
        def fallback_function(self) -> Any:
            feed.fallback_is_wanted()
            return super().fallback_function

    Observed.__name__, Observed.__qualname__ = kind.__name__, kind.__qualname__
    Observed.feed = feed
    return Observed
