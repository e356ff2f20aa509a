"""`attach_tenacity`: publishes the retries that tenacity schedules."""

from __future__ import annotations

from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.sink import is_async
from codomyrmex.integrations.service_mesh.feed import RetryFeed
from codomyrmex.streaming import Stream

try:
    from tenacity import BaseRetrying, RetryCallState
except ImportError as error:
    raise MissingExtraError("attach_tenacity", "tenacity", "tenacity") from error


def attach_tenacity(retrying: Any, stream: Stream, *, name: str | None = None) -> TenacityFeed:
    """Publish each retry of one function or retrying object; its own `before_sleep` keeps working.

    The events are those of `attach_stamina`. Tenacity has no hook for all retries.

    Args:
        retrying: a function decorated with `@retry`, or a `Retrying` or `AsyncRetrying`.
        stream: where events are published.
        name: the name in the events; the name of the function by default.

    Returns:
        A handle; its `close()` ends the feed.

    Raises:
        TypeError: `retrying` is none of these, or `stream` is not a stream.
    """
    return TenacityFeed(retrying, stream, name)


class TenacityFeed(RetryFeed):
    """A `before_sleep` that calls the previous one; made by `attach_tenacity`."""

    def __init__(self, retrying: Any, stream: Stream, name: str | None) -> None:
        super().__init__(stream, "tenacity")
        # A function has its controller as `retry`, which is a condition of a controller.
        is_controller = isinstance(retrying, BaseRetrying)
        controller = retrying if is_controller else getattr(retrying, "retry", None)
        if not isinstance(controller, BaseRetrying):
            raise TypeError(
                f"retrying: must be a Retrying or decorated with tenacity's retry, got {retrying!r}"
            )
        self._controller: Any = controller
        self._name = name
        self._previous: Any = controller.before_sleep
        self._hook: Any = self._before_sync
        if is_async(self._previous):
            self._hook = self._before_async
        self._controller.before_sleep = self._hook

    def _before_sync(self, state: RetryCallState) -> Any:
        self._publish_retry(state)
        return None if self._previous is None else self._previous(state)

    async def _before_async(self, state: RetryCallState) -> Any:
        self._publish_retry(state)
        return await self._previous(state)

    def _publish_retry(self, state: RetryCallState) -> None:
        outcome = state.outcome
        self.publish(
            self._name or getattr(state.fn, "__qualname__", None) or "unnamed",
            attempt=state.attempt_number,
            wait=float(state.next_action.sleep) if state.next_action is not None else 0.0,
            waited=state.idle_for,
            error=outcome.exception() if outcome is not None and outcome.failed else None,
        )

    def close(self) -> None:
        """Stop publishing and restore the previous `before_sleep`. Closing twice is allowed."""
        super().close()
        if self._controller.before_sleep == self._hook:  # otherwise someone has replaced it
            self._controller.before_sleep = self._previous
