"""`attach_pybreaker`: publishes what a pybreaker circuit breaker does."""

from __future__ import annotations

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.service_mesh.listener_feed import ListenerFeed
from codomyrmex.integrations.service_mesh.open_circuits import REPEAT_INTERVAL
from codomyrmex.streaming import Stream

try:
    from pybreaker import CircuitBreaker, CircuitBreakerError, CircuitMemoryStorage
except ImportError as error:
    raise MissingExtraError("attach_pybreaker", "pybreaker", "pybreaker") from error


def attach_pybreaker(
    breaker: CircuitBreaker,
    stream: Stream,
    *,
    service: str | None = None,
    calls: bool = False,
    repeat_interval: float = REPEAT_INTERVAL,
) -> PybreakerFeed:
    """Publish the state of a breaker, its changes, and rejected calls, each as a `CircuitBreakerEvent`.

    The topic is `circuit_breaker.pybreaker.<name>`. It works from any thread, with or without an event loop.

    Args:
        breaker: the breaker to observe.
        stream: where events are published.
        service: the service that the breaker guards.
        calls: publish each success and failure as well.
        repeat_interval: seconds after which an open circuit is published again, as a snapshot, so that its
            alert does not end while nobody calls the breaker; 0 for never.

    Returns:
        A handle; its `close()` ends the feed.

    Raises:
        TypeError: `stream` is not a stream, or `breaker` is not a breaker of the library.
    """
    return PybreakerFeed(breaker, stream, service, calls=calls, repeat_interval=repeat_interval)


class PybreakerFeed(ListenerFeed):
    """The feed of one breaker; made by `attach_pybreaker`."""

    library = "pybreaker"
    breaker_type = CircuitBreaker
    rejection = CircuitBreakerError
    local_storage = CircuitMemoryStorage
