"""`Store`: what a durable stream needs from an engine, and the types and errors of all stores.

A store knows nothing of streams, sinks or alerts. It appends batches to named logs, reads a log after a
position and waits for more, leases a name to one owner for some seconds, and saves values that only the
holder of a lease can write.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from codomyrmex.integrations.delivery.loop_thread import LoopThread

READ_BYTES = 8 * 1024 * 1024
"""The size of the entries that one `read` returns at most, unless a single entry is larger."""


class StoreError(Exception):
    """A store cannot do what it was asked to; the message never contains credentials."""


class StoreUnavailableError(StoreError):
    """The engine cannot be reached or does not answer; the operation can be tried again."""


class UnconfirmedError(StoreUnavailableError):
    """The store did not answer in time while an event was being stored; it may be stored later."""


class StoreConfigError(StoreError):
    """The engine, its version, its schema or the URL is not usable; trying again does not help."""


class LeaseLostError(StoreError):
    """The lease has expired or belongs to another owner now; nothing was written."""


class Batch(NamedTuple):
    """Entries that are appended together.

    Attributes:
        producer: the id of the producer, unique to a process and stream: at most 64 characters of A-Z, a-z,
            0-9, `-` and `_`.
        number: the number of the batch; each producer counts its batches from 1, separately for each log.
        entries: the entries, at least one and at most 1,000.
    """

    producer: str
    number: int
    entries: Sequence[bytes]


class Stored(NamedTuple):
    """An entry of a log.

    Attributes:
        position: its position: the first entry of a log has 1, and each entry has one more than the one
            before it.
        time: when it was appended, in seconds since 1970.
        value: the entry.
    """

    position: int
    time: float
    value: bytes


class Bounds(NamedTuple):
    """What a log holds.

    Attributes:
        epoch: changes when positions of the log cannot be relied on any more; see `Store.renew_epoch`.
        first: the position of the oldest entry that is kept, `last + 1` if there is none.
        last: the position of the newest entry that was ever appended, 0 if there was none.
        size: the approximate size of the entries that are kept, in bytes.
    """

    epoch: str
    first: int
    last: int
    size: int


class Lease(NamedTuple):
    """The exclusive right of an owner to a name, until it expires or is released.

    Attributes:
        name: what is leased.
        owner: who holds it.
        token: grows each time that the name is acquired.
    """

    name: str
    owner: str
    token: int


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How much of a log is kept: entries beyond any of the limits are removed, the oldest first.

    Attributes:
        max_events: the number of entries.
        max_bytes: their size.
        max_age: seconds since they were appended.

    Raises:
        ValueError: a limit is not greater than 0.
    """

    max_events: float = 1_000_000
    max_bytes: float = 1024**3
    max_age: float = 7 * 86_400.0

    def __post_init__(self) -> None:
        for name in ("max_events", "max_bytes", "max_age"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name}: must be a number, got {value!r}")
            if not value > 0:
                raise ValueError(f"{name}: must be greater than 0, got {value}")


class Store(ABC):
    """An engine that keeps logs, leases and values.

    All methods are called on one event loop, several at a time. A method that is cancelled may or may not
    have taken effect, and leaves the store usable.

    Names of logs, of leases and of values are at most 200 characters of A-Z, a-z, 0-9, `-`, `_`, `.`, `/`,
    `:` and `@`. Every method may raise a `StoreUnavailableError` once the engine has not answered within the
    store's `timeout`, and does not retry by itself, except that it connects again when it is called again.

    Attributes:
        warnings: after `open`, one sentence for each thing that this engine, as it is configured, will not
            preserve.
        on_this_host: whether all processes that use the store are on this host, and have the same clock.
        must_exist: whether `open` raises a `StoreConfigError` where there is no store yet, and makes none.
    """

    warnings: tuple[str, ...] = ()
    must_exist = False
    on_this_host = False
    _loop: asyncio.AbstractEventLoop | None = None  # on which a store without a thread was opened

    def _check_loop(self) -> None:
        """Raise a `StoreConfigError` unless the store was opened on the running event loop."""
        if self._loop is not asyncio.get_running_loop():
            raise StoreConfigError(
                f"{self.url}: this store object was opened on another event loop; close it there first, or "
                "use another object"
            )

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL of the store, without a password, for messages."""

    @abstractmethod
    async def open(self) -> None:
        """Connect, check the server, and create or migrate the schema; do nothing if the store is open.

        Several processes may do this at the same time. A schema of a newer version is used if it declares
        that it is compatible with this version.

        Raises:
            StoreConfigError: the URL, the server or the schema is not usable.
            StoreUnavailableError: the server cannot be reached.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close the connections; the store can be opened again. Does not raise."""

    @abstractmethod
    def abandon(self) -> None:
        """Forget the connections in a forked process without closing them: they belong to the parent.

        Called in the child before the store is opened again there, on another event loop.
        """

    def join_thread(self) -> LoopThread | None:
        """Return the thread on which the driver of the store blocks, for a stream to run on it as well.

        None, the default, says that the driver does not block. The stream calls `leave_thread` at its end.
        """
        return None

    def leave_thread(self) -> None:  # noqa: B027 - only for stores with a thread
        """End the thread if no other stream runs on it."""

    # Logs

    @abstractmethod
    async def create_log(self, log: str) -> Bounds:
        """Return what a log holds, and create it with a new epoch if there is none."""

    @abstractmethod
    async def bounds(self, log: str) -> Bounds | None:
        """Return what a log holds, or None if there is no such log."""

    @abstractmethod
    async def logs(self) -> list[str]:
        """Return the names of all logs, sorted."""

    @abstractmethod
    async def renew_epoch(self, log: str, epoch: str) -> Bounds:
        """Replace the epoch of a log if it is still this one, and return what the log holds.

        This happens when the end of a log went back: a part of it was lost, or a backup was restored.
        """

    @abstractmethod
    async def append(self, log: str, batch: Batch) -> int:
        """Append a batch in one step, and return the position of its first entry; the others follow it.

        Repeating the newest batch of a producer, whose answer may have been lost, appends nothing and returns
        the same position. The log has been created before.

        Raises:
            StoreError: there is no such log, or the engine does not accept the size of an entry or a batch.
        """

    @abstractmethod
    async def read(self, log: str, after: int, limit: int, max_bytes: int = READ_BYTES) -> list[Stored]:
        """Return the entries after a position, in order, as many as the limits allow and at least one.

        Entries between `after` and the oldest one that is kept are skipped. The result is never empty if
        there is an entry after the position, and never passes over an entry that appears later.

        Args:
            log: the name of the log; one that does not exist is empty.
            after: the position after which to read; 0 is the beginning.
            limit: the number of entries returned at most.
            max_bytes: their size at most; the first one is returned in any case.
        """

    @abstractmethod
    async def wait(self, log: str, after: int, seconds: float) -> None:
        """Wait until the log has an entry after the position, for at most some seconds.

        It may return early; the caller reads to see what there is. Any number of calls can wait at a time.
        """

    @abstractmethod
    async def trim(self, log: str, retention: Retention, keep_after: int) -> int:
        """Remove entries beyond the retention, but none after the position `keep_after`.

        Returns:
            How many entries were removed.
        """

    # Leases

    @abstractmethod
    async def acquire(self, name: str, owner: str, seconds: float) -> Lease | None:
        """Lease a name to an owner, unless another owner holds it; an owner's own lease is renewed.

        An owner that acquires its own lease again keeps the token if the lease has not expired.

        A store without a clock of its own measures a lease of another owner from when it saw the last change
        of it, so a lease that was just discovered counts as fresh.

        Args:
            name: what to lease.
            owner: who asks: unique to a process.
            seconds: when the lease expires if it is not renewed.
        """

    @abstractmethod
    async def renew(self, lease: Lease, seconds: float) -> None:
        """Extend a lease by some seconds from now.

        Raises:
            LeaseLostError: another owner has acquired the name, or the lease was released.
        """

    @abstractmethod
    async def release(self, lease: Lease) -> None:
        """End a lease, so that another owner can acquire the name at once; no error if it was lost."""

    @abstractmethod
    async def leases(self, prefix: str) -> list[Lease]:
        """Return the leases that are held, whose name starts with a prefix, sorted by name.

        One that has expired without being acquired by another owner may be among them with SQLite and NATS,
        until this store has seen it unchanged for its duration.
        """

    # Values

    @abstractmethod
    async def load(self, prefix: str) -> Mapping[str, bytes]:
        """Return the values whose name starts with a prefix."""

    @abstractmethod
    async def save(self, lease: Lease, values: Mapping[str, bytes | None]) -> None:
        """Save values in one step, if the lease is held; None removes a value.

        Raises:
            LeaseLostError: another owner has acquired the lease, or it was released; nothing was saved.
        """

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()
