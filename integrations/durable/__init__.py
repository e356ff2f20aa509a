"""Streams whose events are kept in SQLite, PostgreSQL, Redis or NATS, for many processes and hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codomyrmex.integrations._extras import lazy_exports

if TYPE_CHECKING:
    from codomyrmex.integrations.durable.admin import StreamAdmin, StreamBounds
    from codomyrmex.integrations.durable.entries import CursorError, EventTooLargeError, Record, StoredLetter
    from codomyrmex.integrations.durable.feed_runner import FeedHealth, FeedRunner, FeedState, run_once
    from codomyrmex.integrations.durable.group import GroupError
    from codomyrmex.integrations.durable.health import StreamHealth
    from codomyrmex.integrations.durable.opening import open_store
    from codomyrmex.integrations.durable.reports import ProcessInfo, ProcessState
    from codomyrmex.integrations.durable.saved_groups import GroupInfo
    from codomyrmex.integrations.durable.store import (
        LeaseLostError,
        Retention,
        Store,
        StoreConfigError,
        StoreError,
        StoreUnavailableError,
        UnconfirmedError,
    )
    from codomyrmex.integrations.durable.stores.nats_store import NatsStore
    from codomyrmex.integrations.durable.stores.postgres_store import PostgresStore
    from codomyrmex.integrations.durable.stores.redis_store import RedisStore
    from codomyrmex.integrations.durable.stores.sqlite_store import SQLiteStore
    from codomyrmex.integrations.durable.stream import DurableStream

__all__ = [
    "CursorError",
    "DurableStream",
    "EventTooLargeError",
    "FeedHealth",
    "FeedRunner",
    "FeedState",
    "GroupError",
    "GroupInfo",
    "LeaseLostError",
    "NatsStore",
    "PostgresStore",
    "ProcessInfo",
    "ProcessState",
    "Record",
    "RedisStore",
    "Retention",
    "SQLiteStore",
    "Store",
    "StoreConfigError",
    "StoreError",
    "StoreUnavailableError",
    "StoredLetter",
    "StreamAdmin",
    "StreamBounds",
    "StreamHealth",
    "UnconfirmedError",
    "open_store",
    "run_once",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "CursorError": "entries",
        "DurableStream": "stream",
        "EventTooLargeError": "entries",
        "FeedHealth": "feed_runner",
        "FeedRunner": "feed_runner",
        "FeedState": "feed_runner",
        "GroupError": "group",
        "GroupInfo": "saved_groups",
        "LeaseLostError": "store",
        "NatsStore": "stores.nats_store",
        "PostgresStore": "stores.postgres_store",
        "ProcessInfo": "reports",
        "ProcessState": "reports",
        "Record": "entries",
        "RedisStore": "stores.redis_store",
        "Retention": "store",
        "SQLiteStore": "stores.sqlite_store",
        "Store": "store",
        "StoreConfigError": "store",
        "StoreError": "store",
        "StoreUnavailableError": "store",
        "StoredLetter": "entries",
        "StreamAdmin": "admin",
        "StreamBounds": "admin",
        "StreamHealth": "health",
        "UnconfirmedError": "store",
        "open_store": "opening",
        "run_once": "feed_runner",
    },
)
