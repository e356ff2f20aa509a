"""`Monitoring`: the paths `/livez`, `/readyz` and `/metrics` beside another application."""

from __future__ import annotations

from collections.abc import Iterable

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.attachment import Attachment
from codomyrmex.integrations.delivery.blocking import BlockingAttachment
from codomyrmex.integrations.web import http
from codomyrmex.integrations.web.health import HasHealth, HealthApp
from codomyrmex.integrations.web.metrics import MetricsApp
from codomyrmex.streaming import Stream
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = HealthApp.open_paths
"""The paths that need no token; see `TokenGate`."""


class Monitoring:
    """What an application serves beside its own paths.

    `/metrics` is 501 if prometheus-client is not installed.

    Args:
        attachment: the sinks.
        stream: the stream.
        authorize: who may read the metrics, as for `metrics_app`.
        allowed_hosts: as for `metrics_app`.
    """

    def __init__(
        self,
        attachment: HasHealth | None,
        stream: Stream | None,
        *,
        authorize: http.Authorize | None = None,
        allowed_hosts: Iterable[str] | None = None,
    ) -> None:
        known = attachment if isinstance(attachment, Attachment | BlockingAttachment) else None
        metrics: ASGIApp
        try:
            metrics = MetricsApp(known, stream, authorize=authorize, allowed_hosts=allowed_hosts)
        except MissingExtraError as error:
            metrics = PlainTextResponse(f"{error}\n", 501, http.RESPONSE_HEADERS)
        self._apps: dict[str, ASGIApp] = {
            **dict.fromkeys(OPEN_PATHS, HealthApp(attachment, stream)),
            "/metrics": metrics,
        }

    def find(self, scope: Scope) -> ASGIApp | None:
        """Return the application for a request, None if it is for another path."""
        return self._apps.get(scope["path"].removeprefix(scope.get("root_path", "")))


class Monitored:
    """ASGI middleware that serves the paths of `Monitoring` beside an application.

    Args:
        app: the application.
        attachment: the sinks.
        stream: the stream.
    """

    open_paths = OPEN_PATHS

    def __init__(self, app: ASGIApp, attachment: HasHealth | None, stream: Stream | None) -> None:
        self._app = app
        self._monitoring = Monitoring(attachment, stream)
        self.allow_origins = getattr(app, "allow_origins", ())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._monitoring.find(scope) if scope["type"] == "http" else None
        await (endpoint or self._app)(scope, receive, send)

    async def aclose(self) -> None:
        """Close the application, if it can be closed."""
        aclose = getattr(self._app, "aclose", None)
        if aclose is not None:
            await aclose()
