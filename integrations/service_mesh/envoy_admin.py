"""`EnvoyAdmin`: Envoy's circuit breakers and the health of its hosts become events."""

from __future__ import annotations

import json
import re
from typing import Any

from codomyrmex.integrations.delivery.seconds import check_seconds
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.service_mesh.background import BackgroundFeed, backoff
from codomyrmex.integrations.service_mesh.breaker_event import BreakerEventKind, BreakerState
from codomyrmex.integrations.service_mesh.feed import BreakerFeed
from codomyrmex.integrations.service_mesh.http import HTTPError, client
from codomyrmex.streaming import Stream

# The names of clusters may have dots.
_GAUGE = re.compile(
    r"cluster\.(?P<cluster>.+)\.circuit_breakers\.(?P<priority>default|high)\."
    r"(?P<limit>cx_open|cx_pool_open|rq_open|rq_pending_open|rq_retry_open): (?P<value>\d+)"
)
_OVERFLOW = re.compile(
    r"cluster\.(?P<cluster>.+)\.(?P<counter>upstream_(?:cx|cx_pool|rq_pending|rq_active|rq_retry)_overflow): "
    r"(?P<value>\d+)"
)
_FILTER = r"circuit_breakers\..*_open$|upstream_.*_overflow$"


class EnvoyAdmin(BackgroundFeed):
    """Asks Envoy's admin endpoint again and again: `/stats` and `/clusters`.

    A circuit breaker of Envoy is a limit of a cluster, such as `default.rq_pending`; that it is reached is a
    `state_change` to `open`. As such gauges flip within milliseconds, what the overflow counters have grown
    by between two looks is a `rejected` event, with `overflow` in its details. A host that outlier
    detection has ejected is a `state_change` to `ejected`. An endpoint that is away is an event too, of the
    breaker `admin`; it is asked again after a while that doubles.

    Args:
        url: of the admin endpoint, such as `http://127.0.0.1:9901`.
        stream: where to.
        interval: seconds between two looks.
        timeout: seconds for each request.

    Raises:
        TypeError: it is no stream, or a time is no number.
        ValueError: a time is not above 0, or the URL is not one of HTTP.
    """

    def __init__(self, url: str, stream: Stream, interval: float = 5.0, *, timeout: float = 5.0) -> None:
        check_seconds("interval", interval, finite=True)
        super().__init__("envoy admin")
        self._feed = BreakerFeed(stream, "envoy", None, calls=False)
        self._url = url.rstrip("/")
        self._interval = interval
        self._client = client(url, timeout)
        self._states: dict[tuple[str, str], BreakerState] = {}
        self._counters: dict[tuple[str, str], int] = {}
        self._admin = BreakerState.CLOSED
        self._failures = 0

    def poll(self) -> float:
        try:
            stats = self._get("/stats", filter=_FILTER).text
            clusters = self._get("/clusters", format="json").json()
            self._read_stats(stats)
            self._read_hosts(clusters)
        except (HTTPError, json.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
            self._failures += 1
            self._feed.note_failure("admin", error)
            self._become("admin", None, BreakerState.OPEN, reason=describe(error))
            return backoff(self._failures, self._interval)
        self._failures = 0
        self._become("admin", None, BreakerState.CLOSED)
        return self._interval

    def stop(self, timeout: float = 5.0) -> None:
        """End it. May be called twice."""
        self._feed.detach()
        super().stop(timeout)
        self._client.close()

    def _get(self, path: str, **query: str) -> Any:
        answer = self._client.get(f"{self._url}{path}", params=query)
        answer.raise_for_status()
        return answer

    def _read_stats(self, text: str) -> None:
        for line in text.splitlines():
            gauge = _GAUGE.fullmatch(line)
            if gauge is not None:
                name = f"{gauge['priority']}.{gauge['limit'].removesuffix('_open')}"
                state = BreakerState.OPEN if gauge["value"] != "0" else BreakerState.CLOSED
                self._become(name, gauge["cluster"], state)
                continue
            overflow = _OVERFLOW.fullmatch(line)
            if overflow is not None:
                self._count(overflow["cluster"], overflow["counter"], int(overflow["value"]))

    def _count(self, cluster: str, counter: str, value: int) -> None:
        before = self._counters.get((cluster, counter))
        self._counters[cluster, counter] = value
        if before is None:
            return
        grown = value - before if value >= before else value  # Envoy was started anew
        if grown:
            name = counter.removeprefix("upstream_").removesuffix("_overflow")
            self._feed.emit(
                f"default.{name}",
                BreakerEventKind.REJECTED,
                service=cluster,
                native_state=counter,
                details={"overflow": grown, "total": value},
            )

    def _read_hosts(self, answer: Any) -> None:
        for cluster in answer.get("cluster_statuses", ()):
            for host in cluster.get("host_statuses", ()):
                address = host.get("address", {}).get("socket_address")
                if not address:
                    continue
                health = host.get("health_status", {})
                ejected = bool(health.get("failed_outlier_check"))
                state = BreakerState.EJECTED if ejected else BreakerState.CLOSED
                name = f"{address['address']}:{address['port_value']}"
                self._become(name, cluster["name"], state, health=health)

    def _become(self, name: str, cluster: str | None, state: BreakerState, **details: Any) -> None:
        key = (cluster or "", name)
        before = self._states.get(key)
        self._states[key] = state
        if before is None and state is BreakerState.CLOSED:
            return  # as it should be
        if before is not state:
            self._feed.change(name, before or BreakerState.CLOSED, state, service=cluster, **details)
