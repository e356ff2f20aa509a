"""`attach_stamina`: the retries that stamina schedules become events."""

from __future__ import annotations

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.service_mesh.feed import check_stream
from codomyrmex.integrations.service_mesh.retries import publish_retry
from codomyrmex.streaming import Stream

try:
    from stamina.instrumentation import RetryDetails, get_on_retry_hooks, set_on_retry_hooks
except ImportError as error:
    raise MissingExtraError("attach_stamina", "stamina", "stamina") from error


def attach_stamina(stream: Stream) -> StaminaFeed:
    """Publish each retry that stamina schedules, beside the hooks that are there.

    An event has the topic `retry.<name>`; its data have `kind`, `name`, `source`, `attempt` (the one that
    failed), `wait` and `waited` in seconds, and `reason`. The arguments of the call are not in it.

    Returns:
        A handle whose `detach()` ends it.

    Raises:
        TypeError: it is no stream.
    """
    return StaminaFeed(stream)


class StaminaFeed:
    """A hook of stamina; made by `attach_stamina`."""

    def __init__(self, stream: Stream) -> None:
        check_stream(stream)
        self._stream = stream
        set_on_retry_hooks([*get_on_retry_hooks(), self])

    def __call__(self, details: RetryDetails) -> None:
        """Publish a retry."""
        publish_retry(
            self._stream,
            "stamina",
            details.name,
            attempt=details.retry_num,
            wait=details.wait_for,
            waited=details.waited_so_far,
            error=details.caused_by,
        )

    def detach(self) -> None:
        """Publish no more; the other hooks stay. May be called twice."""
        hooks = get_on_retry_hooks()
        if self in hooks:
            set_on_retry_hooks([hook for hook in hooks if hook is not self])
