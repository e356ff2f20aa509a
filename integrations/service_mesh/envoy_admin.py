"""`EnvoyAdmin`: publishes Envoy's circuit breakers and the health of its hosts."""

from __future__ import annotations

import re
from typing import Any

from codomyrmex.integrations.configuration.durations import check_seconds
from codomyrmex.integrations.service_mesh.breaker_event import BreakerEventKind, BreakerState
from codomyrmex.integrations.service_mesh.remote import RemoteFeed
from codomyrmex.streaming import Stream

# The names of clusters may contain dots.
_GAUGE = re.compile(
    r"cluster\.(?P<cluster>.+)\.circuit_breakers\.(?P<priority>default|high)\."
    r"(?P<limit>cx_open|cx_pool_open|rq_open|rq_pending_open|rq_retry_open): (?P<value>\d+)"
)
_OVERFLOW = re.compile(
    r"cluster\.(?P<cluster>.+)\.(?P<counter>upstream_(?:cx|cx_pool|rq_pending|rq_active|rq_retry)_overflow): "
    r"(?P<value>\d+)"
)
_FILTER = r"circuit_breakers\..*_open$|upstream_.*_overflow$"


class EnvoyAdmin(RemoteFeed):
    """Polls `/stats` and `/clusters` of Envoy's admin endpoint.

    A circuit breaker of Envoy is a limit of a cluster, such as `default.rq_pending`. Reaching the limit is a
    `state_change` to `open`. These gauges change within milliseconds, so the growth of the overflow
    counters between two polls is a `rejected` event, with `overflow` in its details. A host that outlier
    detection has ejected is a `state_change` to `ejected`. An unreachable endpoint is an event of the
    breaker `admin`; it is polled again after a delay that doubles up to 30 s.

    Args:
        url: the admin endpoint, such as `http://127.0.0.1:9901`.
        stream: where events are published.
        poll_interval: seconds between two polls.
        timeout: seconds for each request.

    Raises:
        TypeError: `stream` is not a stream, or a time is not a number.
        ValueError: a time is not greater than 0, or the URL is not an HTTP URL.
    """

    def __init__(self, url: str, stream: Stream, poll_interval: float = 5.0, *, timeout: float = 5.0) -> None:
        check_seconds("poll_interval", poll_interval, finite=True)
        super().__init__(
            url.rstrip("/"),
            stream,
            "envoy",
            "admin",
            calls=False,
            backoff_initial=poll_interval,
            timeout=timeout,
        )
        self._poll_interval = poll_interval
        self._states: dict[tuple[str, str], BreakerState] = {}
        self._counters: dict[tuple[str, str], int] = {}

    def read(self) -> float:
        stats = self._get("/stats", filter=_FILTER).text
        clusters = self._get("/clusters", format="json").json()
        self._read_stats(stats)
        self._read_hosts(clusters)
        self.connected()
        return self._poll_interval

    def _get(self, path: str, **query: str) -> Any:
        return self.client.get(f"{self.url}{path}", params=query).raise_for_status()

    def _read_stats(self, text: str) -> None:
        for line in text.splitlines():
            gauge = _GAUGE.fullmatch(line)
            if gauge is not None:
                name = f"{gauge['priority']}.{gauge['limit'].removesuffix('_open')}"
                state = BreakerState.OPEN if gauge["value"] != "0" else BreakerState.CLOSED
                self._update_state(gauge["cluster"], name, state)
                continue
            overflow = _OVERFLOW.fullmatch(line)
            if overflow is not None:
                self._update_counter(overflow["cluster"], overflow["counter"], int(overflow["value"]))

    def _update_counter(self, cluster: str, counter: str, value: int) -> None:
        previous = self._counters.get((cluster, counter))
        self._counters[cluster, counter] = value
        if previous is None:
            return
        growth = value - previous if value >= previous else value  # a lower value: Envoy was restarted
        if growth:
            name = counter.removeprefix("upstream_").removesuffix("_overflow")
            self.feed.publish(
                f"default.{name}",
                BreakerEventKind.REJECTED,
                service=cluster,
                native_state=counter,
                details={"overflow": growth, "total": value},
            )

    def _read_hosts(self, clusters: Any) -> None:
        for cluster in clusters.get("cluster_statuses", ()):
            for host in cluster.get("host_statuses", ()):
                address = host.get("address", {}).get("socket_address")
                if not address:
                    continue
                health = host.get("health_status", {})
                ejected = bool(health.get("failed_outlier_check"))
                state = BreakerState.EJECTED if ejected else BreakerState.CLOSED
                name = f"{address['address']}:{address['port_value']}"
                self._update_state(cluster["name"], name, state, health=health)

    def _update_state(self, cluster: str, name: str, state: BreakerState, **details: Any) -> None:
        previous = self._states.get((cluster, name), BreakerState.CLOSED)
        self._states[cluster, name] = state
        self.feed.publish_change(name, previous, state, service=cluster, **details)
