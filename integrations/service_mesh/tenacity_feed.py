"""`attach_tenacity`: the retries that tenacity schedules become events."""

from __future__ import annotations

from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.service_mesh.feed import check_stream
from codomyrmex.integrations.service_mesh.retries import publish_retry
from codomyrmex.streaming import Stream

try:
    from tenacity import BaseRetrying, RetryCallState
except ImportError as error:
    raise MissingExtraError("attach_tenacity", "tenacity", "tenacity") from error


def attach_tenacity(retrying: Any, stream: Stream, *, name: str | None = None) -> TenacityFeed:
    """Publish each retry that a function or a retrying object schedules, beside its own `before_sleep`.

    Events are as those of `attach_stamina`. There is no hook for all of tenacity.

    Args:
        retrying: a function decorated with `@retry`, or a `Retrying` or `AsyncRetrying`.
        stream: where to.
        name: what it is called; the name of the function if left out.

    Returns:
        A handle whose `detach()` ends it.

    Raises:
        TypeError: it is neither, or it is no stream.
    """
    return TenacityFeed(retrying, stream, name)


class TenacityFeed:
    """Stands before the `before_sleep` of one retrying object; made by `attach_tenacity`."""

    def __init__(self, retrying: Any, stream: Stream, name: str | None) -> None:
        check_stream(stream)
        controller = getattr(retrying, "retry", retrying)
        if not isinstance(controller, BaseRetrying):
            raise TypeError(f"{retrying!r} is neither decorated with tenacity's retry nor a Retrying")
        self._controller = controller
        self._stream = stream
        self._name = name
        self._before = controller.before_sleep
        self._hook = self._publish
        controller.before_sleep = self._hook

    def _publish(self, state: RetryCallState) -> Any:
        outcome = state.outcome
        publish_retry(
            self._stream,
            "tenacity",
            self._name or getattr(state.fn, "__qualname__", None) or "unnamed",
            attempt=state.attempt_number,
            wait=float(state.next_action.sleep) if state.next_action is not None else 0.0,
            waited=state.idle_for,
            error=outcome.exception() if outcome is not None and outcome.failed else None,
        )
        return None if self._before is None else self._before(state)

    def detach(self) -> None:
        """Publish no more; what was there before is there again. May be called twice."""
        if self._controller.before_sleep == self._hook:
            self._controller.before_sleep = self._before
        self._stream = _Nowhere  # type: ignore[assignment] # somebody has put another hook over this one


class _Nowhere:
    @staticmethod
    def publish_nowait(_: object) -> None:
        """Take it and say nothing."""
