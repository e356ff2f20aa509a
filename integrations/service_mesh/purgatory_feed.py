"""`attach_purgatory`: publishes what all breakers of a purgatory factory do."""

from __future__ import annotations

from contextlib import ExitStack
from inspect import iscoroutinefunction
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.service_mesh.breaker_event import as_utc
from codomyrmex.integrations.service_mesh.feed import BreakerFeed, check_type, wrap_method
from codomyrmex.integrations.service_mesh.open_circuits import REPEAT_INTERVAL
from codomyrmex.streaming import Stream

try:
    from purgatory import AsyncCircuitBreakerFactory, SyncCircuitBreakerFactory
    from purgatory.domain.model import OpenedState
    from purgatory.service._async.unit_of_work import AsyncInMemoryUnitOfWork
    from purgatory.service._sync.unit_of_work import SyncInMemoryUnitOfWork
except ImportError as error:
    raise MissingExtraError("attach_purgatory", "purgatory", "purgatory") from error

Factory = AsyncCircuitBreakerFactory | SyncCircuitBreakerFactory


def attach_purgatory(
    factory: Factory,
    stream: Stream,
    *,
    service: str | None = None,
    calls: bool = False,
    repeat_interval: float = REPEAT_INTERVAL,
) -> PurgatoryFeed:
    """Publish what the breakers of a factory do, including those that it makes later.

    A snapshot of each breaker is published when the breaker is made. A factory does not list its breakers,
    so a breaker that already exists first appears with its next change.

    Args:
        factory: an `AsyncCircuitBreakerFactory` or a `SyncCircuitBreakerFactory`.
        stream: where events are published.
        service: the service that the breakers guard.
        calls: publish failures as well, and successes that end a row of failures; the library reports no
            other successes.
        repeat_interval: seconds after which an open circuit is published again, as a snapshot, so that its
            alert does not end while nobody calls the breaker; 0 for never.

    Returns:
        A handle; its `close()` ends the feed.

    Raises:
        TypeError: `stream` is not a stream, or `factory` is not a factory of the library.
    """
    return PurgatoryFeed(factory, stream, service, calls=calls, repeat_interval=repeat_interval)


class PurgatoryFeed(BreakerFeed):
    """The feed of one factory; made by `attach_purgatory`.

    Rejected calls reach no listener. While a circuit is open, the factory is wrapped, and the breakers that
    it returns publish their rejections: calls that pass cost nothing extra.
    """

    def __init__(
        self, factory: Factory, stream: Stream, service: str | None, *, calls: bool, repeat_interval: float
    ) -> None:
        check_type("factory", factory, "purgatory", AsyncCircuitBreakerFactory, SyncCircuitBreakerFactory)
        super().__init__(
            stream,
            "purgatory",
            service,
            calls=calls,
            repeat_interval=repeat_interval,
            shared=not isinstance(factory.uow, AsyncInMemoryUnitOfWork | SyncInMemoryUnitOfWork),
        )
        self._factory = factory
        self._states: dict[str, str] = {}
        self._failures: dict[str, int] = {}
        self._open: set[str] = set()
        self._wrapper: ExitStack | None = None
        self._listener = self._on_event  # a bound method is a new object each time; the factory needs one
        factory.add_listener(self._listener)

    def close(self) -> None:
        if not self.closed:
            self._factory.remove_listener(self._listener)
            self._open.clear()
            self._update_wrapper()
        super().close()

    def _on_event(self, name: str, event_type: str, event: Any) -> None:
        try:
            if event_type == "circuit_breaker_created":
                if name not in self._states:
                    self._states[name] = "closed"
                    self.publish_snapshot(name, "closed", failure_count=0)
            elif event_type == "state_changed":
                self._on_state_change(name, event)
            elif event_type == "failed":
                self._failures[name] = event.failure_count
                self.publish_failure(name, None, failure_count=event.failure_count)
            elif event_type == "recovered":
                self._failures[name] = 0
                self.publish_success(name, failure_count=0)
        except Exception as error:  # noqa: BLE001 - it would reach the guarded call
            self.log_error(name, error)

    def _on_state_change(self, name: str, event: Any) -> None:
        previous = self._states.get(name, "closed")
        self._states[name] = event.state
        if event.state == "opened":
            self._open.add(name)
        else:
            self._open.discard(name)
        self._update_wrapper()
        self.publish_change(
            name,
            previous,
            event.state,
            failure_count=self._failures.get(name),
            opened_at=as_utc(event.opened_at),
            shared=True,  # the factory keeps `opened_at` in the store, which processes may share
        )

    def _update_wrapper(self) -> None:
        if self._open and self._wrapper is None:
            self._wrapper = ExitStack()
            self._wrap_factory(self._wrapper)
        elif not self._open and self._wrapper is not None:
            self._wrapper.close()
            self._wrapper = None

    def _wrap_factory(self, undo: ExitStack) -> None:
        original: Any = self._factory.get_breaker

        async def get_async(*args: Any, **kwargs: Any) -> Any:
            return self._observed(await original(*args, **kwargs))

        def get(*args: Any, **kwargs: Any) -> Any:
            return self._observed(original(*args, **kwargs))

        wrap_method(self._factory, "get_breaker", get_async if iscoroutinefunction(original) else get, undo)

    def _observed(self, breaker: Any) -> Any:
        context = breaker.context
        if context.state == "opened":
            original = type(context).handle_new_request

            def handle_new_request() -> None:
                try:
                    original(context)
                except OpenedState as error:
                    self.publish_rejection(
                        context.name,
                        "opened",
                        reason=f"OpenedState: {error}",
                        opened_at=as_utc(context.opened_at),
                    )
                    raise

            context.handle_new_request = handle_new_request
        return breaker
