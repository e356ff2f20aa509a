"""`attach_circuitbreaker`: publishes what a breaker of the package circuitbreaker does.

The package has no hook, and polling would miss whatever happens between two polls. So the class of the one
object is replaced by a subclass that reads the public state around each call: this is exact and costs two
comparisons. The library itself derives `half_open` when the state is read.
"""

from __future__ import annotations

import threading
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.service_mesh.breaker_event import BreakerEventKind, BreakerState
from codomyrmex.integrations.service_mesh.feed import BreakerFeed, check_type
from codomyrmex.integrations.service_mesh.open_circuits import REPEAT_INTERVAL
from codomyrmex.streaming import Stream

try:
    from circuitbreaker import CircuitBreaker  # type: ignore[import-untyped]
except ImportError as error:
    raise MissingExtraError("attach_circuitbreaker", "circuitbreaker", "circuitbreaker") from error


def attach_circuitbreaker(
    breaker: CircuitBreaker,
    stream: Stream,
    *,
    service: str | None = None,
    calls: bool = False,
    repeat_interval: float = REPEAT_INTERVAL,
) -> CircuitbreakerFeed:
    """Publish what a breaker does; arguments, result and errors are those of `attach_pybreaker`.

    `CircuitBreakerMonitor.get(name)` returns a breaker that the decorator `@circuit` has made.
    """
    return CircuitbreakerFeed(breaker, stream, service, calls=calls, repeat_interval=repeat_interval)


class CircuitbreakerFeed(BreakerFeed):
    """The feed of one breaker; made by `attach_circuitbreaker`."""

    def __init__(
        self,
        breaker: CircuitBreaker,
        stream: Stream,
        service: str | None,
        *,
        calls: bool,
        repeat_interval: float,
    ) -> None:
        check_type("breaker", breaker, "circuitbreaker", CircuitBreaker)
        super().__init__(stream, "circuitbreaker", service, calls=calls, repeat_interval=repeat_interval)
        self._breaker = breaker
        self._original_class = type(breaker)
        self._state = breaker.state
        breaker.__class__ = _observed(self._original_class, self)
        self.publish_snapshot(self._name, self._state, failure_count=breaker.failure_count)

    @property
    def _name(self) -> str:
        return str(self._breaker.name or "unnamed")

    def close(self) -> None:
        super().close()
        if getattr(type(self._breaker), "feed", None) is self:
            self._breaker.__class__ = self._original_class

    def compare_state(self) -> None:
        """Publish a change if the state differs from the last one that was read."""
        state = self._breaker.state
        if state != self._state:
            previous, self._state = self._state, state
            self.publish_change(self._name, previous, state, failure_count=self._breaker.failure_count)

    def on_reset(self) -> None:
        """Publish a reset that the application has asked for."""
        self.compare_state()
        self.publish(self._name, BreakerEventKind.RESET, to_state=BreakerState.CLOSED, native_state="closed")

    def on_call_ended(self, error: BaseException | None, *, failed: bool) -> None:
        """Publish what follows from a call that has ended."""
        count = self._breaker.failure_count
        if failed:
            self.record_failure(self._name, error)
        self.compare_state()
        if failed:
            self.publish_failure(self._name, error, failure_count=count)
        else:
            self.publish_success(self._name, failure_count=count)

    def on_rejection(self) -> None:
        """Publish a rejected call."""
        self.publish_rejection(self._name, "open", failure_count=self._breaker.failure_count)


def _observed(original: type[Any], feed: CircuitbreakerFeed) -> type[Any]:
    thread = threading.local()

    class Observed(original):  # type: ignore[misc] # any class of breakers
        def __enter__(self) -> Any:
            feed.compare_state()  # an open circuit that lets a call through is half open from here on
            return super().__enter__()

        def __exit__(
            self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: object
        ) -> Any:
            failed = exc_type is not None and self.is_failure(exc_type, exc_value)
            thread.in_exit = True
            try:
                return super().__exit__(exc_type, exc_value, traceback)
            finally:
                thread.in_exit = False
                feed.on_call_ended(exc_value, failed=failed)

        def reset(self) -> None:
            super().reset()
            if not getattr(thread, "in_exit", False):
                feed.on_reset()

        @property
        def opened(self) -> bool:
            opened = thread.opened = bool(super().opened)
            return opened

        @property
        def fallback_function(self) -> Any:
            # Only the library's wrapper reads this right after `opened`: when it rejects a call.
            if getattr(thread, "opened", False):
                thread.opened = False
                feed.on_rejection()
            return super().fallback_function

    Observed.__name__, Observed.__qualname__ = original.__name__, original.__qualname__
    Observed.feed = feed
    return Observed
