"""`health_app`: an ASGI application that says whether a process lives and is ready."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from codomyrmex.integrations.delivery.health import SinkHealth, SinkState
from codomyrmex.integrations.durable.health import health_of, with_groups
from codomyrmex.integrations.web import http
from codomyrmex.integrations.web.endpoint import Endpoint, quality
from codomyrmex.integrations.web.gates import UNGATED
from codomyrmex.streaming import Stream
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

_NOT_READY = {
    SinkState.LOSING: "events were lost within the last minute",
    SinkState.NOT_OPEN: "it could not be opened yet",
    SinkState.OPEN: "its circuit breaker is open",
    SinkState.NOT_STARTED: "the attachment was not started",
    SinkState.CLOSED: "it is closed and receives no more events",
}


class HasHealth(Protocol):
    """An object that reports the health of sinks: an attachment."""

    def health(self) -> Mapping[str, SinkHealth]:
        """Return the health of each sink by name."""


class HealthApp(Endpoint):
    """An ASGI application with `/livez` and `/readyz`, for Kubernetes, load balancers and systemd.

    Mount it anywhere: `app.mount("/health", health_app(attachment, stream))` serves `/health/livez`. It needs
    no lifespan, and it never waits for a store or a sink.

    `/livez` is 200 as long as the process serves. `/readyz` is 200, or 503 with the reasons: a sink that was
    not started, is not open, is losing events, has an open circuit breaker or is closed; or a store that is
    not available. A sink that is degraded, retrying or on standby is ready. The reasons are JSON, or plain
    text for a client that accepts only that; they name sinks and states but never quote an error, which may
    name hosts of the inside. Behind a token (`serve`) a probe needs none, and gets no reasons without it.

    A request may be for any host, because a probe uses the address of the container: there is nothing to read
    that a page of another site could use.

    Args:
        attachment: what `attach` or `attach_blocking` has returned.
        stream: a durable stream, for the state of its store and of its groups of handlers.
        sinks: the names of the sinks (and groups) that count; by default all. When a service behind a sink is
            down, every process says that it is not ready, so leave out what the application can do without.

    Raises:
        TypeError: an argument has the wrong type.
    """

    open_paths = ("/livez", "/readyz")

    def __init__(
        self,
        attachment: HasHealth | None,
        stream: Stream | None = None,
        *,
        sinks: Iterable[str] | None = None,
    ) -> None:
        if attachment is not None and not callable(getattr(attachment, "health", None)):
            raise TypeError(f"attachment: must have a method health(), got {type(attachment).__name__}")
        if not isinstance(stream, Stream | None):
            raise TypeError(f"stream: must be a Stream, got {type(stream).__name__}")
        if isinstance(sinks, str):
            raise TypeError(f"sinks: must be a list of names, got {sinks!r}")
        self._attachment = attachment
        self._stream = stream
        self._sinks = None if sinks is None else frozenset(sinks)

    async def answer(self, request: Request, name: str) -> Response:
        if name not in {"livez", "readyz"}:
            raise HTTPException(404, "there are only livez and readyz")
        reasons = list(self._reasons()) if name == "readyz" else []
        status = 503 if reasons else 200
        word = ("not ready" if reasons else "ready") if name == "readyz" else "live"
        shown = [] if UNGATED in request.scope else reasons
        accept = request.headers.get("accept", "")
        if quality(accept, "text/plain") and quality(accept, "application/json") is None:
            text = "\n".join([word, *(_line(reason) for reason in shown)]) + "\n"
            return PlainTextResponse(
                text.encode("utf-8", "replace"), status, {**http.RESPONSE_HEADERS, "vary": "accept"}
            )
        content: dict[str, object] = {"status": word}
        if shown:
            content["reasons"] = shown
        return http.JsonResponse(content, status, {"vary": "accept"})

    def _reasons(self) -> Iterator[dict[str, str]]:
        """Yield why the process is not ready."""
        store = health_of(self._stream)
        if store is not None and not store.available:
            seconds = f"{store.unavailable_for:.0f} s"
            yield {"store": "unavailable", "reason": f"it has not answered for {seconds}"}
        sinks = with_groups({} if self._attachment is None else self._attachment.health(), store)
        for name, health in sinks.items():
            reason = _NOT_READY.get(health.state)
            if reason is not None and (self._sinks is None or name in self._sinks):
                yield {"sink": name, "state": health.state.value, "reason": reason}


health_app = HealthApp


def _line(reason: Mapping[str, str]) -> str:
    subject = f"sink {reason['sink']}: {reason['state']}" if "sink" in reason else "store: unavailable"
    return " ".join(f"{subject}: {reason['reason']}".split())
