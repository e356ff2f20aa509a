"""`attach_pybreaker`: the state changes of a pybreaker circuit breaker become events."""

from __future__ import annotations

import re

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.streaming import EventType, Stream, create_event
from codomyrmex.streaming.diagnostics import Diagnostics

try:
    from pybreaker import CircuitBreaker, CircuitBreakerListener, CircuitBreakerState
except ImportError as error:
    raise MissingExtraError("attach_pybreaker", "pybreaker", "pybreaker") from error

_NOT_IN_A_TOKEN = re.compile(r"[.*>\s]+")

_log = Diagnostics(__name__)


def attach_pybreaker(breaker: CircuitBreaker, stream: Stream) -> PybreakerFeed:
    """Publish each state change of a breaker: ERROR when it opens, else MESSAGE.

    The topic is `circuit_breaker.pybreaker.<name>`; the data has `breaker`, `kind`, `from_state`,
    `to_state`, `failure_count` and `source`. Works from any thread, with or without an event loop.

    Args:
        breaker: whose changes to publish.
        stream: where to.

    Returns:
        A handle whose `detach()` ends it.
    """
    feed = PybreakerFeed(breaker, stream)
    breaker.add_listener(feed)
    return feed


class PybreakerFeed(CircuitBreakerListener):
    """Listens to one breaker; made by `attach_pybreaker`."""

    def __init__(self, breaker: CircuitBreaker, stream: Stream) -> None:
        self._breaker = breaker
        self._stream = stream

    def detach(self) -> None:
        """Publish no more. May be called twice."""
        if self in self._breaker.listeners:
            self._breaker.remove_listener(self)

    def state_change(
        self, cb: CircuitBreaker, old_state: CircuitBreakerState | None, new_state: CircuitBreakerState
    ) -> None:
        """Publish a change. Runs inside the breaker's lock, so what goes wrong here stays here."""
        try:
            name = str(cb.name or "unnamed")
            state = _state(new_state)
            self._stream.publish_nowait(
                create_event(
                    {
                        "breaker": name,
                        "kind": "state_change",
                        "from_state": _state(old_state),
                        "to_state": state,
                        "failure_count": cb.fail_counter,
                        "source": "pybreaker",
                    },
                    EventType.ERROR if state == "open" else EventType.MESSAGE,
                    topic=f"circuit_breaker.pybreaker.{_NOT_IN_A_TOKEN.sub('_', name)}",
                )
            )
        except Exception as error:  # noqa: BLE001 - an exception here would reach the guarded call
            _log.warning(
                repr(cb.name), "a state change of breaker %r was not published", cb.name, error=error
            )


def _state(state: CircuitBreakerState | None) -> str | None:
    return None if state is None else str(state.name).replace("-", "_")
