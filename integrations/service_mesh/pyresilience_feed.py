"""`attach_pyresilience`: what the circuit breaker of pyresilience does becomes events."""

from __future__ import annotations

from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.service_mesh.breaker_event import BreakerEventKind
from codomyrmex.integrations.service_mesh.feed import BreakerFeed
from codomyrmex.streaming import Stream

try:
    from pyresilience import EventType, ResilienceConfig, ResilienceEvent
except ImportError as error:
    raise MissingExtraError("attach_pyresilience", "pyresilience", "pyresilience") from error


def attach_pyresilience(
    guarded: Any, stream: Stream, *, service: str | None = None, calls: bool = False
) -> PyresilienceFeed:
    """Publish what the circuit breaker of a guarded function does.

    Args:
        guarded: a function decorated with `@resilient(circuit_breaker=...)`, or a `ResilienceConfig` that
            is used afterwards, in a `ResilienceRegistry` for example.
        stream: where to.
        service: the service that it guards.
        calls: publish each success and failure too.

    Returns:
        A handle whose `detach()` ends it.

    Raises:
        TypeError: it is no stream, or not guarded by pyresilience.
    """
    return PyresilienceFeed(guarded, stream, service, calls=calls)


class PyresilienceFeed(BreakerFeed):
    """Listens to one guarded function or configuration; made by `attach_pyresilience`."""

    def __init__(self, guarded: Any, stream: Stream, service: str | None, *, calls: bool) -> None:
        super().__init__(stream, "pyresilience", service, calls=calls)
        self._states: dict[str, str] = {}
        self._listener = self._told
        if isinstance(guarded, ResilienceConfig):
            self._listeners = guarded.listeners
            self._listeners.append(self._listener)
            return
        executor = getattr(guarded, "_executor", None)
        if executor is None:
            raise TypeError(
                f"{guarded!r} is not guarded by pyresilience: give a function decorated with @resilient, "
                "or a ResilienceConfig"
            )
        # There is no public way to the listeners of a function that is already decorated.
        self._listeners = executor._listeners  # noqa: SLF001 - as above
        self._listeners.append(self._listener)
        executor._has_listeners = True  # noqa: SLF001 - as above
        breaker = executor._circuit_breaker  # noqa: SLF001 - as above
        if breaker is not None:
            name, state = guarded.__name__, breaker.state.value
            self._states[name] = state
            self.snapshot(name, state, failure_count=breaker.failure_count)

    def detach(self) -> None:
        if self.attached and self._listener in self._listeners:
            self._listeners.remove(self._listener)
        super().detach()

    def _told(self, event: ResilienceEvent) -> None:
        name, kind = event.function_name, event.event_type
        if kind is EventType.CIRCUIT_OPEN and event.error is None:
            # The same event is the change, where it has the error, and each rejected call, where not.
            self.rejected(name, "open", details=_details(event))
        elif kind in _STATES:
            self.note_failure(name, event.error)
            now = _STATES[kind]
            old, self._states[name] = self._states.get(name, "closed"), now
            if now == "closed" and old == "open":  # it tells of half-open late, or not at all
                self.change(name, old, "half_open", **_details(event))
                old = "half_open"
            self.change(name, old, now, **_details(event))
        elif self.calls and kind is EventType.SUCCESS:
            self.emit(name, BreakerEventKind.SUCCESS, details=_details(event))
        elif self.calls and kind is EventType.FAILURE:
            reason = None if event.error is None else describe(event.error)
            self.emit(name, BreakerEventKind.FAILURE, reason=reason, details=_details(event))


_STATES = {
    EventType.CIRCUIT_OPEN: "open",
    EventType.CIRCUIT_HALF_OPEN: "half_open",
    EventType.CIRCUIT_CLOSED: "closed",
}


def _details(event: ResilienceEvent) -> dict[str, Any]:
    return {"attempt": event.attempt} if event.attempt else {}
