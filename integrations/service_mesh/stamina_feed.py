"""`attach_stamina`: publishes the retries that stamina schedules."""

from __future__ import annotations

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.service_mesh.feed import RetryFeed
from codomyrmex.streaming import Stream

try:
    from stamina.instrumentation import RetryDetails, get_on_retry_hooks, set_on_retry_hooks
except ImportError as error:
    raise MissingExtraError("attach_stamina", "stamina", "stamina") from error


def attach_stamina(stream: Stream) -> StaminaFeed:
    """Publish each retry that stamina schedules; other hooks keep working.

    The topic is `retry.<name>`. The data are `kind`, `name`, `source`, `attempt` (the one that failed),
    `wait` and `waited` in seconds, and `reason`, but not the arguments of the call.

    Args:
        stream: where events are published.

    Returns:
        A handle; its `close()` ends the feed.

    Raises:
        TypeError: `stream` is not a stream.
    """
    return StaminaFeed(stream)


class StaminaFeed(RetryFeed):
    """A hook of stamina; made by `attach_stamina`."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream, "stamina")
        set_on_retry_hooks([*get_on_retry_hooks(), self])

    def __call__(self, details: RetryDetails) -> None:
        """Publish a retry."""
        self.publish(
            details.name,
            attempt=details.retry_num,
            wait=details.wait_for,
            waited=details.waited_so_far,
            error=details.caused_by,
        )

    def close(self) -> None:
        """Stop publishing; other hooks stay. Closing twice is allowed."""
        super().close()
        hooks = get_on_retry_hooks()
        if self in hooks:
            set_on_retry_hooks([hook for hook in hooks if hook is not self])
