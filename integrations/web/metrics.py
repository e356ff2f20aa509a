"""`metrics_app`: an ASGI application that serves the figures of an attachment to Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.attachment import Attachment
from codomyrmex.integrations.delivery.blocking import BlockingAttachment
from codomyrmex.integrations.web import http
from codomyrmex.integrations.web.endpoint import Endpoint, quality
from codomyrmex.integrations.web.gates import SiteGate
from codomyrmex.streaming import Stream
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response


class MetricsApp(Endpoint):
    """An ASGI application with `/metrics`, as the text format of Prometheus and as OpenMetrics.

    Mount it anywhere: `app.mount("/internal", metrics_app(attachment, stream))` serves `/internal/metrics`,
    and mounted as `/metrics` it serves that. `DeliveryCollector` of `integrations.logging_monitoring` has the
    metrics, for an application that serves its own already or is not an ASGI application. All metrics are
    about this process: scrape every process, and add them up.

    Args:
        attachment: what `attach` or `attach_blocking` has returned.
        stream: the stream, for its own counters; a durable one has those of its store and its groups too.
        authorize: called with the ASGI scope; returns `"*"` for those who may read, or None. See
            `require_token`.
        allowed_hosts: the names that requests may have in their `Host` header, in addition to those of this
            machine and any IP address; `"*"` allows any. By default any if `authorize` is passed or a gate of
            `serve` has checked them. A scrape by the name of a service needs it.

    Raises:
        MissingExtraError: prometheus-client is not installed.
        TypeError: an argument has the wrong type.
    """

    def __init__(
        self,
        attachment: Attachment | BlockingAttachment | None,
        stream: Stream | None = None,
        *,
        authorize: http.Authorize | None = None,
        allowed_hosts: Iterable[str] | None = None,
    ) -> None:
        try:
            from codomyrmex.integrations.logging_monitoring import delivery_collector
        except MissingExtraError as error:
            raise MissingExtraError("metrics_app", "prometheus-client", "metrics") from error
        self._formats = delivery_collector
        self._collector = delivery_collector.DeliveryCollector(attachment, stream)
        self._authorize = authorize
        self._gate = SiteGate(allowed_hosts, (), authorized=authorize is not None, addresses=True)

    async def answer(self, request: Request, name: str) -> Response:
        self._gate.check(request)
        root = request.scope.get("root_path", "").rstrip("/")
        if name != "metrics" and request.scope["path"].rstrip("/") not in {"", root}:
            raise HTTPException(404, "there is only metrics")
        allowed = await http.authorized_topics(self._authorize, request.scope)
        if not allowed.everything:
            raise HTTPException(403, "metrics are shown only to clients that may see all topics")
        accept = request.headers.get("accept", "")
        wanted = quality(accept, "application/openmetrics-text") or 0.0
        as_openmetrics = wanted > 0 and wanted >= (quality(accept, "text/plain") or 0.0)
        formats = self._formats
        return Response(
            formats.encode(self._collector, as_openmetrics=as_openmetrics),
            headers={
                **http.RESPONSE_HEADERS,
                "content-type": formats.OPENMETRICS_TYPE if as_openmetrics else formats.PLAIN_TYPE,
                "vary": "accept",
            },
        )


metrics_app = MetricsApp
