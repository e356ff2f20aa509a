"""`attach_pyresilience`: publishes what the circuit breaker of pyresilience does."""

from __future__ import annotations

from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.service_mesh.feed import BreakerFeed
from codomyrmex.integrations.service_mesh.open_circuits import REPEAT_INTERVAL
from codomyrmex.streaming import Stream

try:
    from pyresilience import EventType, ResilienceConfig, ResilienceEvent
except ImportError as error:
    raise MissingExtraError("attach_pyresilience", "pyresilience", "pyresilience") from error


def attach_pyresilience(
    guarded: Any,
    stream: Stream,
    *,
    service: str | None = None,
    calls: bool = False,
    repeat_interval: float = REPEAT_INTERVAL,
) -> PyresilienceFeed:
    """Publish what the circuit breaker of a guarded function does.

    Args:
        guarded: a function decorated with `@resilient(circuit_breaker=...)`, or a `ResilienceConfig` that
            is used afterwards, for example in a `ResilienceRegistry`.
        stream: where events are published.
        service: the service that the breaker guards.
        calls: publish each success and failure as well.
        repeat_interval: seconds after which an open circuit is published again, as a snapshot, so that its
            alert does not end while nobody calls the breaker; 0 for never.

    Returns:
        A handle; its `close()` ends the feed.

    Raises:
        TypeError: `stream` is not a stream, or `guarded` is not guarded by pyresilience.
    """
    return PyresilienceFeed(guarded, stream, service, calls=calls, repeat_interval=repeat_interval)


class PyresilienceFeed(BreakerFeed):
    """The feed of one guarded function or configuration; made by `attach_pyresilience`."""

    def __init__(
        self, guarded: Any, stream: Stream, service: str | None, *, calls: bool, repeat_interval: float
    ) -> None:
        super().__init__(stream, "pyresilience", service, calls=calls, repeat_interval=repeat_interval)
        self._states: dict[str, str] = {}
        self._listener = self._on_event
        if isinstance(guarded, ResilienceConfig):
            self._listeners = guarded.listeners
            self._listeners.append(self._listener)
            return
        executor = getattr(guarded, "_executor", None)
        if executor is None:
            raise TypeError(
                f"guarded: must be a function or ResilienceConfig of pyresilience, got {guarded!r}"
            )
        # There is no public access to the listeners of a function that is already decorated.
        self._listeners = executor._listeners  # noqa: SLF001 - as above
        self._listeners.append(self._listener)
        executor._has_listeners = True  # noqa: SLF001 - as above
        breaker = executor._circuit_breaker  # noqa: SLF001 - as above
        if breaker is not None:
            name, state = guarded.__name__, breaker.state.value
            self._states[name] = state
            self.publish_snapshot(name, state, failure_count=breaker.failure_count)

    def close(self) -> None:
        if not self.closed and self._listener in self._listeners:
            self._listeners.remove(self._listener)
        super().close()

    def _on_event(self, event: ResilienceEvent) -> None:
        name, kind = event.function_name, event.event_type
        details: dict[str, Any] = {"attempt": event.attempt} if event.attempt else {}
        if kind is EventType.CIRCUIT_OPEN and event.error is None:
            # The event with an error is the change of state, each one without is a rejected call.
            self.publish_rejection(name, "open", details=details)
        elif kind in _STATES:
            self.record_failure(name, event.error)
            state = _STATES[kind]
            previous, self._states[name] = self._states.get(name, "closed"), state
            if state == "closed" and previous == "open":  # half-open is reported late, or not at all
                self.publish_change(name, previous, "half_open", **details)
                previous = "half_open"
            self.publish_change(name, previous, state, **details)
        elif kind is EventType.SUCCESS:
            self.publish_success(name, details=details)
        elif kind is EventType.FAILURE:
            self.publish_failure(name, event.error, details=details)


_STATES = {
    EventType.CIRCUIT_OPEN: "open",
    EventType.CIRCUIT_HALF_OPEN: "half_open",
    EventType.CIRCUIT_CLOSED: "closed",
}
