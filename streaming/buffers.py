"""A bounded queue between publishers in any thread and one reader, with an overflow policy."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from enum import StrEnum
from threading import get_ident
from typing import Any, Generic, TypeVar

from codomyrmex.streaming.clock import SYSTEM_CLOCK, Clock

T = TypeVar("T")


class Overflow(StrEnum):
    """What happens to an event when a queue is full.

    `BLOCK` makes `await publish()` wait for room, `DROP_OLDEST` makes room, `DROP_NEWEST` drops the event,
    and `DISCONNECT` ends the subscription once its queue has been read, so that its client reconnects.
    """

    BLOCK = "block"
    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"
    DISCONNECT = "disconnect"


class PublishWait:
    """Returned by a handler that makes publishers wait: `publish` awaits it, `publish_nowait` skips it."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        raise NotImplementedError

    def skip(self) -> None:
        """Continue without waiting."""


class BoundedQueue(Generic[T]):
    """A bounded queue; any thread puts, one task reads.

    Args:
        size: the number of items it holds.
        overflow: what happens to an item when the queue is full.
        on_drop: called with each dropped item and the reason; None stands for the overflow policy.
        on_disconnect: called once when `Overflow.DISCONNECT` closes the queue.
        block_timeout: seconds that a put waits for room with `Overflow.BLOCK`; None for no limit.
        clock: measures `block_timeout`.

    Raises:
        ValueError: a parameter is out of range; the message names it.
    """

    def __init__(
        self,
        size: int,
        overflow: Overflow,
        on_drop: Callable[[T, str | None], None],
        on_disconnect: Callable[[], None] | None = None,
        block_timeout: float | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if size < 1:
            raise ValueError(f"queue_size: must be at least 1, got {size}")
        if block_timeout is not None and not block_timeout > 0:
            raise ValueError(f"block_timeout: must be greater than 0, got {block_timeout}")
        if overflow not in tuple(Overflow):
            raise ValueError(f"overflow: must be one of {', '.join(Overflow)}, got {overflow!r}")
        self.items: deque[T] = deque()
        self.closed = False  # accepts no more items; queued ones can still be read
        self.wake_size = 1  # the number of items that wakes a waiting reader
        self.read_count = 0  # the number of items read; `get` counts only with `Overflow.BLOCK`
        self.evicted = 0  # the number of items dropped to make room for newer ones
        self.reader: asyncio.Task[Any] | None = None  # the task that reads, if it is known
        self._size = size
        self._overflow = Overflow(overflow)
        self._blocks = overflow == Overflow.BLOCK
        self._on_drop = on_drop
        self._on_disconnect = on_disconnect
        self.block_timeout = block_timeout
        self.clock = clock
        self._waiter: asyncio.Future[None] | None = None
        self._thread = 0  # the thread that the waiter's loop runs in
        self._pending: deque[PendingPut[T]] | None = None  # created on first use; most policies never wait
        # Reentrant: any allocation may run the garbage collector, and so a finalizer that publishes here.
        self._lock = threading.RLock()

    def put(self, item: T) -> PendingPut[T] | None:
        """Put an item; return what to await if the policy is to wait for room."""
        dropped: tuple[T] | None = None
        disconnected = False
        with self._lock:
            items = self.items
            if self.closed:
                dropped = (item,)
            elif len(items) < self._size:
                items.append(item)
            elif self._overflow is Overflow.DROP_OLDEST:
                with suppress(IndexError):  # the reader takes no lock and may be faster
                    dropped = (items.popleft(),)
                    self.evicted += 1
                items.append(item)
            elif self._blocks:
                pending = PendingPut(self, item)
                self._pending = self._pending or deque()
                self._pending.append(pending)
                return pending
            else:
                dropped = (item,)
                self.closed = disconnected = self._overflow is Overflow.DISCONNECT
        if self._waiter is not None and (len(items) >= self.wake_size or disconnected):
            self.wake()
        if dropped is not None:
            self._on_drop(dropped[0], None)
        if disconnected and self._on_disconnect is not None:
            self._on_disconnect()
        return None

    def get(self) -> T:
        """Return the next item, or raise an `IndexError` if there is none."""
        return self.get_many(1)[0] if self._blocks else self.items.popleft()

    def get_many(self, limit: int) -> list[T]:
        """Return up to `limit` items, and let pending puts in; errors as for `get`."""
        admitted = []
        with self._lock:
            items = self.items
            batch = [items.popleft() for _ in range(min(limit, len(items)) or 1)]
            self.read_count += len(batch)
            while self._pending and len(items) < self._size:
                pending = self._pending.popleft()
                pending.accepted = True
                items.append(pending.item)
                admitted.append(pending)
        for pending in admitted:
            pending.wake()
        return batch

    def position(self) -> int:
        """Return the position after the newest item: the number of items that have entered the queue."""
        with self._lock:
            return self.read_count + self.evicted + len(self.items)

    def wait(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None] | None:
        """Return what the reader awaits before it checks again, or None if it can check now."""
        # No lock: `put` appends and then looks for a waiter, while this sets the waiter and then looks for
        # items, so at least one of the two sees the other.
        if self._waiter is not None and not self._waiter.done():
            raise RuntimeError("two tasks read the same queue")
        self._thread = get_ident()
        self._waiter = waiter = loop.create_future()
        if len(self.items) >= self.wake_size or self.closed:
            self._waiter = None
            return None
        return waiter

    def wake(self) -> None:
        """Make the reader check again, from any thread."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            (_complete if self._thread == get_ident() else complete)(waiter)

    def close(self, *, discard: bool = False, final: T | None = None) -> None:
        """Accept no more items, and drop the queued ones with `discard`; `final` becomes the last item."""
        with self._lock:
            self.closed = True
            if discard:
                self.items = deque()
            if final is not None:
                self.items.append(final)
            refused, self._pending = self._pending, None
        for pending in refused or ():
            pending.accepted = False
            pending.wake()
        self.wake()

    def withdraw(self, pending: PendingPut[T], reason: str) -> None:
        """Drop the item of a pending put unless it has been accepted."""
        with self._lock:
            if self._pending and pending in self._pending:
                self._pending.remove(pending)
                pending.accepted = False
        if not pending.accepted:
            self._on_drop(pending.item, reason)


class PendingPut(PublishWait, Generic[T]):
    """A put that waits for room from the moment of publishing; it has to be awaited or skipped."""

    __slots__ = ("_queue", "accepted", "future", "item")

    def __init__(self, queue: BoundedQueue[T], item: T) -> None:
        self.item = item
        self.accepted: bool | None = None
        self.future: asyncio.Future[None] | None = None
        self._queue = queue

    def __await__(self) -> Generator[Any, None, None]:
        queue = self._queue
        if asyncio.current_task() is queue.reader:
            queue.withdraw(self, "its queue is full, and its publisher is the task that reads the queue")
            return
        self.future = asyncio.get_running_loop().create_future()
        timer = None
        if queue.block_timeout is not None:
            timer = queue.clock.call_later(queue.block_timeout, self.wake)
        reason = "its publisher was cancelled while it waited for room"
        try:
            if self.accepted is None:  # checked after the future is set, so that no result is missed
                yield from self.future
            reason = "its queue was closed while its publisher waited for room"
            if self.accepted is None:
                reason = f"its queue had no room for {queue.block_timeout} s (block_timeout)"
        finally:
            if timer is not None:
                timer.cancel()
            queue.withdraw(self, reason)

    def skip(self) -> None:
        self._queue.withdraw(self, "its queue is full, and publish_nowait cannot wait")

    def wake(self) -> None:
        """Wake the publisher, from any thread."""
        if self.future is not None:
            complete(self.future)


def complete(future: asyncio.Future[None]) -> None:
    """Complete a future from any thread, if it is not done."""
    with suppress(RuntimeError):  # its loop is closed, so nobody is waiting
        future.get_loop().call_soon_threadsafe(_complete, future)


def _complete(future: asyncio.Future[None]) -> None:
    if not future.done():
        with suppress(RuntimeError):  # as above
            future.set_result(None)


def ring(size: int) -> deque[Any]:
    """Return a buffer of the newest `size` items, or raise an error if that is not a count."""
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"buffer_size: must be an integer, got {size!r}")
    if size < 0:
        raise ValueError(f"buffer_size: must be at least 0, got {size}")
    if size > sys.maxsize:
        raise ValueError(f"buffer_size: must be at most {sys.maxsize}, got {size}")
    return deque(maxlen=size)


def newest(buffer: deque[T], count: int) -> list[T]:
    """Return the newest `count` items, oldest first; an empty list if `count` is 0 or less."""
    return list(buffer)[-count:] if count > 0 else []
