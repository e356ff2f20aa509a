"""`open_store`: a store from its URL."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from urllib.parse import quote, unquote

from codomyrmex.integrations.durable.store import Store, StoreConfigError
from codomyrmex.streaming.errors import shorten

STORES = {
    "sqlite": ("sqlite_store", "SQLiteStore"),
    "postgresql": ("postgres_store", "PostgresStore"),
    "redis": ("redis_store", "RedisStore"),
    "nats": ("nats_store", "NatsStore"),
}
"""The module and the class of each kind of store, by the scheme of its URL."""


_RELATIVE = "sqlite:///"


def resolve_url(url: str, folder: Path) -> str:
    """Return the URL of a store with the relative path of a SQLite file beginning at a folder."""
    if not url.startswith(_RELATIVE) or url.startswith(f"{_RELATIVE}/"):
        return url
    return f"{_RELATIVE}{quote(str(folder.absolute()))}/{url.removeprefix(_RELATIVE)}"


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file."""
    return f"{_RELATIVE}{quote(str(path.absolute()))}"


def sqlite_path(url: str) -> Path | None:
    """Return the path of the SQLite file that the URL of a store names, None for another store."""
    if not url.startswith(_RELATIVE):
        return None
    return Path(unquote(url.removeprefix(_RELATIVE).partition("?")[0]))


def open_store(url: str, *, must_exist: bool = False) -> Store:
    """Return the store that a URL names; it connects when it is first used.

    | URL | store |
    | --- | --- |
    | `sqlite:///relative.db`, `sqlite:////absolute.db` | a file; `?durability=power` syncs each commit |
    | `postgresql://user:password@host/database` | PostgreSQL; `?schema=` names a schema |
    | `redis://host:6379/0`, `rediss://` for TLS | Redis or Valkey; `?prefix=` begins every key |
    | `nats://host:4222`, `tls://` for TLS | NATS JetStream; `?prefix=` begins every name, `?replicas=3` |

    Args:
        url: the URL, without references to environment variables.
        must_exist: whether opening it raises a `StoreConfigError` where there is no store yet.

    Raises:
        TypeError: it is not a string.
        StoreConfigError: the URL is malformed, or its scheme is unknown.
        MissingExtraError: the package of the store is not installed.
    """
    if not isinstance(url, str):
        raise TypeError(f"store: must be the URL of a store, got {shorten(url)}")
    scheme, separator, _ = url.partition("://")
    kind = {"postgres": "postgresql", "rediss": "redis", "tls": "nats"}.get(scheme.lower(), scheme.lower())
    if not separator or kind not in STORES:
        known = " or ".join(f"{name}://" for name in STORES)
        raise StoreConfigError(f"store: the URL must start with {known}; for example sqlite:///events.db")
    module, name = STORES[kind]
    store: Store = getattr(import_module(f"codomyrmex.integrations.durable.stores.{module}"), name)(url)
    store.must_exist = must_exist
    return store
