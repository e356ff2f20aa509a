"""What the adapters of circuit breakers have in common."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import uuid4

from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.service_mesh.breaker_event import (
    BreakerEventKind,
    BreakerState,
    CircuitBreakerEvent,
    state_of,
    transition_id,
)
from codomyrmex.streaming import Stream
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.forks import renew_in_children

_log = Diagnostics(__name__)


class _Moments:
    """Names the moments that only this process can see; a forked child is another process."""

    def __init__(self) -> None:
        self.after_fork()
        renew_in_children(self)

    def after_fork(self) -> None:
        self._run, self._steps = uuid4(), count()

    def next(self) -> str:
        return f"{self._run}/{next(self._steps)}"


_moments = _Moments()


def put_before(thing: object, name: str, wrapper: Callable[..., Any]) -> Callable[[], None]:
    """Put a function in the place of a method of one object; give what takes it away again.

    Where somebody has put another one over it meanwhile, that one stays, and goes on calling this one.
    """
    own = vars(thing)
    before = own.get(name)
    own[name] = wrapper

    def take_away() -> None:
        if own.get(name) is not wrapper:
            return
        if before is None:
            del own[name]
        else:
            own[name] = before

    return take_away


def expect(thing: object, library: str, *kinds: type) -> None:
    """Raise a TypeError that tells what to give, unless it is one of these kinds of a library."""
    if not isinstance(thing, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"what to attach to is {library}'s {names}, not {type(thing).__name__}")


def check_stream(stream: object) -> None:
    """Raise a TypeError unless it is a stream."""
    if not isinstance(stream, Stream):
        raise TypeError(f"breakers and retries are published to a stream, not to {type(stream).__name__}")


class BreakerFeed:
    """Publishes what circuit breakers of one source tell. Takes no lock, never raises, never waits.

    Args:
        stream: where to.
        source: the library or mesh.
        service: the service that the breakers guard.
        calls: publish each success and failure too, and not only changes, rejections and resets.
    """

    def __init__(self, stream: Stream, source: str, service: str | None, *, calls: bool) -> None:
        check_stream(stream)
        self.source = source
        self.calls = calls
        self.attached = True
        self._stream = stream
        self._service = service
        self._opened_at: dict[tuple[str | None, str], datetime] = {}
        self._why: dict[str, str] = {}

    def detach(self) -> None:
        """Publish no more. May be called twice."""
        self.attached = False

    def note_failure(self, breaker: str, error: BaseException | None) -> None:
        """Remember why a call failed, as the reason if the circuit opens because of it."""
        if error is not None:
            self._why[breaker] = describe(error)

    def change(
        self,
        breaker: str,
        old: object,
        new: object,
        *,
        failure_count: int | None = None,
        opened_at: datetime | None = None,
        shared: bool = False,
        service: str | None = None,
        **details: Any,
    ) -> None:
        """Publish a change of state.

        Args:
            breaker: its name.
            old: the state before, as the source calls it.
            new: the state now.
            failure_count: failures in a row.
            opened_at: when the circuit was opened, where the source tells.
            shared: the source's `opened_at` comes from a store that other processes see too.
            service: the service that this breaker guards, if it is not that of all.
            **details: what only this source tells.
        """
        before, after = state_of(old), state_of(new)
        if before is after:
            return
        if opened_at is not None:
            self._opened_at[service, breaker] = opened_at
        elif after is BreakerState.OPEN:
            self._opened_at[service, breaker] = datetime.now(UTC)
        when = self._opened_at.get((service, breaker))
        moment = when.isoformat() if shared and when is not None else _moments.next()
        self.emit(
            breaker,
            BreakerEventKind.STATE_CHANGE,
            from_state=before,
            to_state=after,
            native_state=str(getattr(new, "value", new)),
            reason=self._why.get(breaker) if after is BreakerState.OPEN else None,
            failure_count=failure_count,
            opened_at=when,
            details=details,
            transition_id=transition_id(
                self.source, service or self._service, breaker, before, after, moment
            ),
            service=service,
        )
        if after is BreakerState.CLOSED:
            self._opened_at.pop((service, breaker), None)
            self._why.pop(breaker, None)

    def snapshot(self, breaker: str, state: object, **fields: Any) -> None:
        """Publish the present state, when attached."""
        self.emit(
            breaker,
            BreakerEventKind.SNAPSHOT,
            to_state=state_of(state),
            native_state=str(getattr(state, "value", state)),
            **fields,
        )

    def rejected(self, breaker: str, native_state: str, **fields: Any) -> None:
        """Publish that a call was not let through."""
        self.emit(
            breaker,
            BreakerEventKind.REJECTED,
            to_state=BreakerState.OPEN,
            native_state=native_state,
            **fields,
        )

    def emit(
        self, breaker: str, kind: BreakerEventKind, *, service: str | None = None, **fields: Any
    ) -> None:
        """Publish something; what goes wrong stays here, as it would reach the guarded call."""
        if not self.attached:
            return
        try:
            event = CircuitBreakerEvent(
                breaker=breaker, kind=kind, source=self.source, service=service or self._service, **fields
            )
            self._stream.publish_nowait(event.to_event())
        except Exception as error:  # noqa: BLE001 - as above
            self.complain(breaker, error)

    def complain(self, breaker: str, error: Exception) -> None:
        """Log that something could not be published."""
        key = f"{self.source} {breaker}"
        _log.warning(key, "an event of breaker %r was not published", breaker, error=error)
