"""`attach_aiobreaker`: what an aiobreaker circuit breaker does becomes events."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.service_mesh.breaker_event import BreakerEventKind, as_utc
from codomyrmex.integrations.service_mesh.feed import BreakerFeed, expect, put_before
from codomyrmex.streaming import Stream

try:
    from aiobreaker import CircuitBreaker, CircuitBreakerError, CircuitBreakerListener  # type: ignore[import-untyped]
    from aiobreaker.storage.memory import CircuitMemoryStorage  # type: ignore[import-untyped]
except ImportError as error:
    raise MissingExtraError("attach_aiobreaker", "aiobreaker", "aiobreaker") from error


def attach_aiobreaker(
    breaker: CircuitBreaker, stream: Stream, *, service: str | None = None, calls: bool = False
) -> AiobreakerFeed:
    """Publish what a breaker does; arguments, result and errors as for `attach_pybreaker`."""
    return AiobreakerFeed(breaker, stream, service, calls=calls)


class AiobreakerFeed(BreakerFeed):
    """Listens to one breaker; made by `attach_aiobreaker`."""

    def __init__(self, breaker: CircuitBreaker, stream: Stream, service: str | None, *, calls: bool) -> None:
        expect(breaker, "aiobreaker", CircuitBreaker)
        super().__init__(stream, "aiobreaker", service, calls=calls)
        self.name = str(getattr(breaker, "_name", None) or "unnamed")  # it has no public one
        self._breaker = breaker
        self._changes = 0
        self._stop_watching: list[Callable[[], None]] = []
        self._listener = (_CallListener if calls else _Listener)(self)
        breaker.add_listener(self._listener)
        state = breaker.current_state.name
        self.snapshot(self.name, state, failure_count=breaker.fail_counter)
        if state == "OPEN":
            self._watch_rejections()

    def detach(self) -> None:
        super().detach()
        if self._listener in self._breaker.listeners:
            self._breaker.remove_listener(self._listener)
        self._watch_no_more()

    def changed(self, old: Any, new: Any) -> None:
        """Publish a change; the library gives objects whose `state` is the name."""
        self._changes += 1
        storage = getattr(self._breaker, "_state_storage", None)
        name = new.state.name
        self.change(
            self.name,
            old and old.state.name,
            name,
            failure_count=self._breaker.fail_counter,
            opened_at=as_utc(getattr(storage, "opened_at", None)) if name == "OPEN" else None,
            shared=not isinstance(storage, CircuitMemoryStorage),
        )
        if name == "OPEN":
            self._watch_rejections()
        else:
            self._watch_no_more()

    # As in pybreaker: the calls are wrapped only while the circuit is open.

    def _watch_rejections(self) -> None:
        if self._stop_watching:
            return
        original, original_async = self._breaker.call, self._breaker.call_async

        def call(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            changes = self._changes
            try:
                return original(func, *args, **kwargs)
            except CircuitBreakerError as error:
                self._refused(changes, error)
                raise

        async def call_async(func: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **kwargs: Any) -> Any:
            changes = self._changes
            try:
                return await original_async(func, *args, **kwargs)
            except CircuitBreakerError as error:
                self._refused(changes, error)
                raise

        self._stop_watching = [
            put_before(self._breaker, "call", call),
            put_before(self._breaker, "call_async", call_async),
        ]

    def _refused(self, changes: int, error: Exception) -> None:
        # If the state has changed it was tried, and has failed.
        if changes == self._changes and self._stop_watching:
            self.rejected(self.name, "OPEN", reason=describe(error))

    def _watch_no_more(self) -> None:
        take_away, self._stop_watching = self._stop_watching, []
        for undo in take_away:
            undo()


class _Listener(CircuitBreakerListener):  # type: ignore[misc] # it has no types
    def __init__(self, feed: AiobreakerFeed) -> None:
        self.feed = feed

    def failure(self, breaker: CircuitBreaker, exception: Exception) -> None:  # noqa: ARG002
        self.feed.note_failure(self.feed.name, exception)

    def state_change(self, breaker: CircuitBreaker, old: Any, new: Any) -> None:  # noqa: ARG002
        self.feed.changed(old, new)


class _CallListener(_Listener):
    """Tells of each call too."""

    def success(self, breaker: CircuitBreaker) -> None:
        self.feed.emit(self.feed.name, BreakerEventKind.SUCCESS, failure_count=breaker.fail_counter)

    def failure(self, breaker: CircuitBreaker, exception: Exception) -> None:
        super().failure(breaker, exception)
        self.feed.emit(
            self.feed.name,
            BreakerEventKind.FAILURE,
            reason=describe(exception),
            failure_count=breaker.fail_counter,
        )
