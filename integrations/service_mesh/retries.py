"""What the feeds of stamina and tenacity share: a retry that is to come, as an event."""

from __future__ import annotations

from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.service_mesh.breaker_event import token
from codomyrmex.streaming import Stream, create_event
from codomyrmex.streaming.diagnostics import Diagnostics

_log = Diagnostics(__name__)


def publish_retry(
    stream: Stream,
    source: str,
    name: str,
    *,
    attempt: int,
    wait: float,
    waited: float,
    error: BaseException | None,
) -> None:
    """Publish `retry_scheduled` under the topic `retry.<name>`; never raises.

    The arguments of the call are left out, as they may be secret.
    """
    try:
        data = {
            "kind": "retry_scheduled",
            "name": name,
            "source": source,
            "attempt": attempt,
            "wait": wait,
            "waited": waited,
            "reason": None if error is None else describe(error),
        }
        stream.publish_nowait(create_event(data, topic=f"retry.{token(name)}", level="warning"))
    except Exception as mistake:  # noqa: BLE001 - it would reach the call that is retried
        _log.warning(name, "a retry of %r was not published", name, error=mistake)
