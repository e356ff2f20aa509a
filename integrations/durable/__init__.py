"""Streams whose events are kept in SQLite, PostgreSQL, Redis or NATS, for many processes and hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codomyrmex.integrations._extras import lazy_exports

if TYPE_CHECKING:
    from codomyrmex.integrations.durable.opening import open_store
    from codomyrmex.integrations.durable.sqlite_store import SQLiteStore
    from codomyrmex.integrations.durable.store import (
        LeaseLostError,
        Retention,
        Store,
        StoreConfigError,
        StoreError,
        StoreUnavailableError,
    )

__all__ = [
    "LeaseLostError",
    "Retention",
    "SQLiteStore",
    "Store",
    "StoreConfigError",
    "StoreError",
    "StoreUnavailableError",
    "open_store",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "LeaseLostError": "store",
        "Retention": "store",
        "SQLiteStore": "sqlite_store",
        "Store": "store",
        "StoreConfigError": "store",
        "StoreError": "store",
        "StoreUnavailableError": "store",
        "open_store": "opening",
    },
)
