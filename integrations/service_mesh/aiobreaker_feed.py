"""`attach_aiobreaker`: publishes what an aiobreaker circuit breaker does."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.service_mesh.feed import wrap_method
from codomyrmex.integrations.service_mesh.listener_feed import ListenerFeed
from codomyrmex.integrations.service_mesh.open_circuits import REPEAT_INTERVAL
from codomyrmex.streaming import Stream

try:
    from aiobreaker import CircuitBreaker, CircuitBreakerError  # type: ignore[import-untyped]
    from aiobreaker.storage.memory import CircuitMemoryStorage  # type: ignore[import-untyped]
except ImportError as error:
    raise MissingExtraError("attach_aiobreaker", "aiobreaker", "aiobreaker") from error


def attach_aiobreaker(
    breaker: CircuitBreaker,
    stream: Stream,
    *,
    service: str | None = None,
    calls: bool = False,
    repeat_interval: float = REPEAT_INTERVAL,
) -> AiobreakerFeed:
    """Publish what a breaker does; arguments, result and errors are those of `attach_pybreaker`."""
    return AiobreakerFeed(breaker, stream, service, calls=calls, repeat_interval=repeat_interval)


class AiobreakerFeed(ListenerFeed):
    """The feed of one breaker; made by `attach_aiobreaker`."""

    library = "aiobreaker"
    breaker_type = CircuitBreaker
    rejection = CircuitBreakerError
    local_storage = CircuitMemoryStorage

    def wrap_calls(self, undo: ExitStack) -> None:
        super().wrap_calls(undo)
        original = self.breaker.call_async

        async def call_async(func: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **kwargs: Any) -> Any:
            with self.publishing_rejections():
                return await original(func, *args, **kwargs)

        wrap_method(self.breaker, "call_async", call_async, undo)
