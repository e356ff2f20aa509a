"""`attach_purgatory`: what all breakers of a purgatory factory do becomes events."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.service_mesh.breaker_event import BreakerEventKind, as_utc
from codomyrmex.integrations.service_mesh.feed import BreakerFeed, expect, put_before
from codomyrmex.streaming import Stream

try:
    from purgatory import AsyncCircuitBreakerFactory, SyncCircuitBreakerFactory
    from purgatory.domain.model import OpenedState
except ImportError as error:
    raise MissingExtraError("attach_purgatory", "purgatory", "purgatory") from error

Factory = AsyncCircuitBreakerFactory | SyncCircuitBreakerFactory


def attach_purgatory(
    factory: Factory, stream: Stream, *, service: str | None = None, calls: bool = False
) -> PurgatoryFeed:
    """Publish what the breakers of a factory do, also those that it will make.

    A snapshot is published of each breaker when it is made; one that was made before is heard of with its
    first change, as a factory does not list its breakers.

    Args:
        factory: an `AsyncCircuitBreakerFactory` or a `SyncCircuitBreakerFactory`.
        stream: where to.
        service: the service that the breakers guard.
        calls: publish failures, and the successes that end a row of them, too; the library tells of no
            others.

    Returns:
        A handle whose `detach()` ends it.

    Raises:
        TypeError: it is no stream, or no factory of the library.
    """
    return PurgatoryFeed(factory, stream, service, calls=calls)


class PurgatoryFeed(BreakerFeed):
    """Listens to one factory; made by `attach_purgatory`."""

    def __init__(self, factory: Factory, stream: Stream, service: str | None, *, calls: bool) -> None:
        expect(factory, "purgatory", AsyncCircuitBreakerFactory, SyncCircuitBreakerFactory)
        super().__init__(stream, "purgatory", service, calls=calls)
        self._factory = factory
        self._states: dict[str, str] = {}
        self._failures: dict[str, int] = {}
        self._hook = self._told  # one object, as it is also the key to remove it by
        self._open: set[str] = set()
        self._unwrap: Callable[[], None] | None = None
        factory.add_listener(self._hook)

    def detach(self) -> None:
        if self.attached:
            self._factory.remove_listener(self._hook)
            if self._unwrap is not None:
                self._unwrap()
        super().detach()

    def _told(self, name: str, event_type: str, event: Any) -> None:
        try:
            if event_type == "circuit_breaker_created":
                self._created(name)
            elif event_type == "state_changed":
                old = self._states.get(name, "closed")
                self._states[name] = event.state
                self._noted_state(name, event.state)
                opened_at = as_utc(event.opened_at)
                count = self._failures.get(name)
                # `opened_at` goes with the breaker into the store that processes share.
                self.change(name, old, event.state, failure_count=count, opened_at=opened_at, shared=True)
            elif event_type == "failed":
                self._failures[name] = event.failure_count
                if self.calls:
                    self.emit(name, BreakerEventKind.FAILURE, failure_count=event.failure_count)
            elif event_type == "recovered":
                self._failures[name] = 0
                if self.calls:
                    self.emit(name, BreakerEventKind.SUCCESS, failure_count=0)
        except Exception as error:  # noqa: BLE001 - it would reach the guarded call
            self.complain(name, error)

    def _created(self, name: str) -> None:
        if name not in self._states:
            self._states[name] = "closed"
            self.snapshot(name, "closed", failure_count=0)

    # Rejected calls raise no hook. Only while a breaker is open, the factory is wrapped, and what it gives
    # out gets a request handler of its own, which tells; calls that are let through cost nothing more.

    def _noted_state(self, name: str, state: str) -> None:
        if state == "opened":
            self._open.add(name)
        else:
            self._open.discard(name)
        if self._open and self._unwrap is None:
            self._unwrap = self._wrap_factory()
        elif not self._open and self._unwrap is not None:
            self._unwrap()
            self._unwrap = None

    def _wrap_factory(self) -> Callable[[], None]:
        original = self._factory.get_breaker
        if iscoroutinefunction(original):

            async def get_async(*args: Any, **kwargs: Any) -> Any:
                return self._given_out(await original(*args, **kwargs))

            return put_before(self._factory, "get_breaker", get_async)

        def get(*args: Any, **kwargs: Any) -> Any:
            return self._given_out(original(*args, **kwargs))

        return put_before(self._factory, "get_breaker", get)

    def _given_out(self, breaker: Any) -> Any:
        if breaker.context.state == "opened":
            self._watch_rejections(breaker.context)
        return breaker

    def _watch_rejections(self, context: Any) -> None:
        original = type(context).handle_new_request

        def handle_new_request() -> None:
            try:
                original(context)
            except OpenedState as error:
                opened_at = as_utc(context.opened_at)
                self.rejected(context.name, "opened", reason=f"OpenedState: {error}", opened_at=opened_at)
                raise

        context.handle_new_request = handle_new_request
