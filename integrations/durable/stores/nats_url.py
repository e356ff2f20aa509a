"""The URL of a `NatsStore`."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.durable.store import StoreConfigError


class Place(NamedTuple):
    """What a URL says; `url` is without credentials."""

    url: str
    servers: list[str]
    credentials: dict[str, Secret]
    tls: bool
    prefix: str
    replicas: int


def parse_url(text: str) -> Place:
    """Return what a URL says.

    Raises:
        StoreConfigError: the URL is malformed, or has parameters that do not exist.
    """
    parts = urlsplit(text)
    if "@" in parts.path + parts.query + parts.fragment:
        raise StoreConfigError(
            "nats: the user and the password must be percent-encoded, for example %2F instead of a slash"
        )
    user_info, _, hosts = parts.netloc.rpartition("@")
    scheme = parts.scheme
    try:
        servers = [f"{scheme}://{host}" for host in hosts.split(",") if _is_host(host)]
    except ValueError:
        servers = []
    if scheme not in {"nats", "tls"} or len(servers) != len(hosts.split(",")):
        raise StoreConfigError("nats: the URL must be like nats://host:4222, or tls://host:4222 for TLS")
    url = f"{scheme}://{hosts}"
    if parts.path.strip("/") or parts.fragment:
        raise StoreConfigError(f"{url}: nothing but ?prefix= and ?replicas= can follow the host")
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = {"prefix": "codomyrmex", "replicas": "1", **dict(pairs)}
    if unknown := sorted(query.keys() - {"prefix", "replicas"}):
        raise StoreConfigError(
            f"{url}: unknown parameter {', '.join(unknown)}; the only ones are prefix and replicas"
        )
    if len({name for name, _ in pairs}) != len(pairs):
        raise StoreConfigError(f"{url}: each parameter can be used once")
    prefix, replicas = query["prefix"], query["replicas"]
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", prefix):
        raise StoreConfigError(
            f"{url}: prefix: must be 1 to 40 characters of A-Z, a-z, 0-9, - and _, got {prefix!r}"
        )
    if not re.fullmatch(r"[1-5]", replicas):
        raise StoreConfigError(f"{url}: replicas: must be 1 to 5, got {replicas!r}")
    if parts.query:
        url += f"?{parts.query}"
    return Place(url, servers, _credentials(user_info), scheme == "tls", prefix, int(replicas))


def _is_host(text: str) -> bool:
    host = urlsplit(f"//{text}")
    return bool(host.hostname) and host.port != 0


def _credentials(user_info: str) -> dict[str, Secret]:
    user, separator, password = user_info.partition(":")
    if separator:
        return {"user": Secret(unquote(user)), "password": Secret(unquote(password))}
    return {"token": Secret(unquote(user))} if user else {}
