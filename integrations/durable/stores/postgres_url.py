"""URLs of PostgreSQL databases, checked strictly and shown without credentials."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from codomyrmex.integrations.durable.store import StoreConfigError

_LIBPQ = {
    "application_name",
    "host",
    "passfile",
    "port",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "target_session_attrs",
}
_HOST = re.compile(r"(?:\[[\w:.%]+\]|[^:\[\]]*)(?::(\d+))?")
_MAX_PORT = 65_535


@dataclass(frozen=True)
class PostgresURL:
    """The parts of a URL.

    Attributes:
        dsn: what the driver is given.
        schema: the name of the schema.
        shown: the URL without user and password.
        passwords: the password as it is and as it is written; not shown.
    """

    dsn: str = field(repr=False)
    schema: str
    shown: str
    passwords: frozenset[str] = field(repr=False)


def parse_url(url: str) -> PostgresURL:
    """Return the parts of a URL.

    Raises:
        StoreConfigError: the URL is malformed, or has an unknown parameter.
    """
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:  # its message may quote the password
        raise StoreConfigError(_MALFORMED) from None
    user, _, host = parts.netloc.rpartition("@")
    if parts.scheme not in {"postgresql", "postgres"} or parts.fragment:
        raise StoreConfigError(_MALFORMED)
    # With another @ or a strange host, a part of the password may be where something else should be.
    hosts = [_HOST.fullmatch(part) for part in host.split(",")]
    if url.count("@") != parts.netloc.count("@") or "@" in user or not all(hosts):
        raise StoreConfigError(_MALFORMED)
    parameters = dict(pairs)
    shown = f"postgresql://{host or parameters.get('host', '')}{parts.path}"
    ports = [found[1] for found in hosts if found and found[1]]
    ports += filter(None, parameters.get("port", "").split(","))
    if not all(port.isdecimal() and 0 < int(port) <= _MAX_PORT for port in ports):
        raise StoreConfigError(f"{shown}: port: must be from 1 to {_MAX_PORT}, got {', '.join(ports)}")
    if unknown := sorted(parameters.keys() - {"schema", *_LIBPQ}):
        raise StoreConfigError(f"{shown}: unknown parameters: {', '.join(unknown)}; remove them")
    schema = parameters.pop("schema", "codomyrmex")
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema):
        raise StoreConfigError(f"{shown}: schema: must consist of a-z, 0-9 and _, got {schema!r}")
    if schema != "codomyrmex":
        shown += f"?schema={schema}"
    query = urlencode({"application_name": "codomyrmex-streaming", **parameters})
    password = user.partition(":")[2]
    passwords = frozenset({password, unquote(password)} - {""})
    return PostgresURL(parts._replace(query=query).geturl(), schema, shown, passwords)


_MALFORMED = (
    "store: the URL must be like postgresql://user:password@host:port/database;"
    " write @, /, ? and # in a password as %40, %2F, %3F and %23"
)
