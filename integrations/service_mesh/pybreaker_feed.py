"""`attach_pybreaker`: what a pybreaker circuit breaker does becomes events."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.service_mesh.breaker_event import BreakerEventKind, as_utc
from codomyrmex.integrations.service_mesh.feed import BreakerFeed, expect, put_before
from codomyrmex.streaming import Stream

try:
    from pybreaker import (
        CircuitBreaker,
        CircuitBreakerError,
        CircuitBreakerListener,
        CircuitBreakerState,
        CircuitMemoryStorage,
    )
except ImportError as error:
    raise MissingExtraError("attach_pybreaker", "pybreaker", "pybreaker") from error


def attach_pybreaker(
    breaker: CircuitBreaker, stream: Stream, *, service: str | None = None, calls: bool = False
) -> PybreakerFeed:
    """Publish what a breaker does, as `CircuitBreakerEvent`s: its state now, its changes, and rejected calls.

    The topic is `circuit_breaker.pybreaker.<name>`. Works from any thread, with or without an event loop.

    Args:
        breaker: whose doings to publish.
        stream: where to.
        service: the service that it guards.
        calls: publish each success and failure too.

    Returns:
        A handle whose `detach()` ends it.

    Raises:
        TypeError: it is no stream, or no breaker of the library.
    """
    return PybreakerFeed(breaker, stream, service, calls=calls)


class PybreakerFeed(BreakerFeed):
    """Listens to one breaker; made by `attach_pybreaker`."""

    def __init__(self, breaker: CircuitBreaker, stream: Stream, service: str | None, *, calls: bool) -> None:
        expect(breaker, "pybreaker", CircuitBreaker)
        super().__init__(stream, "pybreaker", service, calls=calls)
        self._breaker = breaker
        self.name = str(breaker.name or "unnamed")
        self._changes = 0
        self._stop_watching: Callable[[], None] | None = None
        self._listener = (_CallListener if calls else _Listener)(self)
        breaker.add_listener(self._listener)
        self.snapshot(self.name, breaker.current_state, failure_count=breaker.fail_counter)
        if breaker.current_state == "open":
            self._watch_rejections()

    def detach(self) -> None:
        super().detach()
        if self._listener in self._breaker.listeners:
            self._breaker.remove_listener(self._listener)
        self._watch_no_more()

    def changed(self, old: CircuitBreakerState | None, new: CircuitBreakerState) -> None:
        self._changes += 1
        breaker = self._breaker
        # The moment of opening is what processes that share a store have in common; there is no public
        # way to it.
        storage = getattr(breaker, "_state_storage", None)
        opened_at: datetime | None = getattr(storage, "opened_at", None)
        self.change(
            self.name,
            old and old.name,
            new.name,
            failure_count=breaker.fail_counter,
            opened_at=as_utc(opened_at) if new.name == "open" else None,
            shared=not isinstance(storage, CircuitMemoryStorage),
        )
        if new.name == "open":
            self._watch_rejections()
        else:
            self._watch_no_more()

    # Rejected calls raise no hook, so `call` is wrapped; only while the circuit is open, so that calls
    # which are let through cost nothing more.

    def _watch_rejections(self) -> None:
        if self._stop_watching is not None:
            return
        original = self._breaker.call

        def call(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            changes = self._changes
            try:
                return original(func, *args, **kwargs)
            except CircuitBreakerError as error:
                # If the state has changed it was tried, and has failed.
                if changes == self._changes and self._stop_watching is not None:
                    self.rejected(self.name, "open", reason=describe(error))
                raise

        self._stop_watching = put_before(self._breaker, "call", call)

    def _watch_no_more(self) -> None:
        take_away, self._stop_watching = self._stop_watching, None
        if take_away is not None:
            take_away()


class _Listener(CircuitBreakerListener):
    """Runs inside the breaker's lock; a successful call costs what it costs with an empty listener."""

    def __init__(self, feed: PybreakerFeed) -> None:
        self.feed = feed

    def failure(self, cb: CircuitBreaker, exc: BaseException) -> None:  # noqa: ARG002
        self.feed.note_failure(self.feed.name, exc)

    def state_change(
        self,
        cb: CircuitBreaker,  # noqa: ARG002 - the feed knows it
        old_state: CircuitBreakerState | None,
        new_state: CircuitBreakerState,
    ) -> None:
        self.feed.changed(old_state, new_state)


class _CallListener(_Listener):
    """Tells of each call too."""

    def success(self, cb: CircuitBreaker) -> None:
        self.feed.emit(self.feed.name, BreakerEventKind.SUCCESS, failure_count=cb.fail_counter)

    def failure(self, cb: CircuitBreaker, exc: BaseException) -> None:
        super().failure(cb, exc)
        self.feed.emit(
            self.feed.name,
            BreakerEventKind.FAILURE,
            reason=describe(exc),
            failure_count=cb.fail_counter,
        )
