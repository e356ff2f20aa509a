"""`EnvoyAdmin`: publishes Envoy's circuit breakers and the health of its hosts."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from codomyrmex.integrations.configuration.durations import check_seconds
from codomyrmex.integrations.service_mesh.breaker_event import BreakerEventKind, BreakerState
from codomyrmex.integrations.service_mesh.breaker_table import Row
from codomyrmex.integrations.service_mesh.feed import remember
from codomyrmex.integrations.service_mesh.open_circuits import REPEAT_INTERVAL
from codomyrmex.integrations.service_mesh.remote import RemoteFeed
from codomyrmex.streaming import Stream

# The names of clusters may contain dots.
_GAUGE = re.compile(
    r"cluster\.(?P<cluster>.+)\.circuit_breakers\.(?P<priority>default|high)\."
    r"(?P<limit>cx_open|cx_pool_open|rq_open|rq_pending_open|rq_retry_open): (?P<value>\d{1,20})"
)
_OVERFLOW = re.compile(
    r"cluster\.(?P<cluster>.+)\.(?P<counter>upstream_(?:cx|cx_pool|rq_pending|rq_active|rq_retry)_overflow): "
    r"(?P<value>\d{1,20})"
)
_MAX_BODY = 1 << 26
_FILTER = r"circuit_breakers\..*_open$|upstream_.*_overflow$"


class _SocketAddress(msgspec.Struct):
    address: str
    port_value: int = 0


class _Address(msgspec.Struct):
    socket_address: _SocketAddress | None = None


class _Health(msgspec.Struct):
    failed_outlier_check: bool = False


class _Host(msgspec.Struct):
    address: _Address = msgspec.field(default_factory=_Address)
    health_status: _Health = msgspec.field(default_factory=_Health)


class _Cluster(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]
    host_statuses: list[msgspec.Raw] = []


class _Clusters(msgspec.Struct):
    cluster_statuses: list[msgspec.Raw] = []


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
        repeat_interval: seconds after which an open limit or an ejected host is published again, as a
            snapshot; also while the endpoint cannot be read.
        instance: whose breakers they are, for the label `instance`; by default the host and port of the URL,
            and this host's name for a loopback address. Processes that read the same source, such as those
            of `run_once`, need the same one.

    Attributes:
        invalid: clusters and hosts that could not be read and were skipped.

    Raises:
        TypeError: `stream` is not a stream, or a time is not a number.
        ValueError: a time is not greater than 0, or the URL is not an HTTP URL.
    """

    def __init__(
        self,
        url: str,
        stream: Stream,
        poll_interval: float = 5.0,
        *,
        timeout: float = 5.0,
        repeat_interval: float = REPEAT_INTERVAL,
        instance: str | None = None,
    ) -> None:
        check_seconds("poll_interval", poll_interval, finite=True)
        super().__init__(
            url.rstrip("/"),
            stream,
            "envoy",
            "admin",
            calls=False,
            backoff_initial=poll_interval,
            timeout=timeout,
            repeat_interval=repeat_interval,
            instance=instance,
        )
        self._poll_interval = poll_interval
        self._states: dict[tuple[str, str], BreakerState] = {}
        self._seen: dict[tuple[str, str], BreakerState] = {}  # in this poll
        self._counters: dict[tuple[str, str], int] = {}

    def read(self) -> float:
        stats = self._body("/stats", filter=_FILTER)
        clusters = msgspec.json.decode(self._body("/clusters", format="json"), type=_Clusters)
        self._seen = {}
        self._read_stats(stats.decode("utf-8", "replace"))
        for cluster in clusters.cluster_statuses:
            self.skip_invalid(self._read_cluster, cluster)
        for cluster_name, name in self._states.keys() - self._seen.keys():  # no longer configured
            self._update_state(cluster_name, name, BreakerState.CLOSED)
        self._states = self._seen
        self.connected()
        return self._poll_interval

    def adopt(self, row: Row) -> None:
        if row.service is not None and row.state is not None:
            self.feed.adopt(row)
            remember(self._states, (row.service, row.breaker), row.state)

    def _body(self, path: str, **query: str) -> bytes:
        body = bytearray()
        with self.get(f"{self.url}{path}", params=query) as response:
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > _MAX_BODY:
                    raise ValueError(f"{path}: must be at most {_MAX_BODY} bytes, got more")
        return bytes(body)

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
        remember(self._counters, (cluster, counter), value)
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

    def _read_cluster(self, raw: msgspec.Raw) -> None:
        cluster = msgspec.json.decode(raw, type=_Cluster)
        for host in cluster.host_statuses:
            self.skip_invalid(self._read_host, cluster.name, host)

    def _read_host(self, cluster: str, raw: msgspec.Raw) -> None:
        host = msgspec.json.decode(raw, type=_Host)
        address = host.address.socket_address
        if address is not None:
            state = BreakerState.EJECTED if host.health_status.failed_outlier_check else BreakerState.CLOSED
            health = (
                msgspec.json.decode(raw).get("health_status", {}) if state is BreakerState.EJECTED else {}
            )
            self._update_state(cluster, f"{address.address}:{address.port_value}", state, health=health)

    def _update_state(self, cluster: str, name: str, state: BreakerState, **details: Any) -> None:
        previous = self._states.get((cluster, name), BreakerState.CLOSED)
        remember(self._seen, (cluster, name), state)
        self.feed.publish_change(name, previous, state, service=cluster, **details)
