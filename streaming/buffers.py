"""A bounded queue between publishers in any thread and one reader, with an overflow policy."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextvars import ContextVar
from enum import StrEnum
from threading import get_ident
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# How long a publisher that the reader itself has started waits for a reader that does not read.
_PATIENCE = 30.0

# The queues that the code running in this context reads from, by identity.
_reading: ContextVar[frozenset[int]] = ContextVar("codomyrmex.streaming.reading", default=frozenset())


class Overflow(StrEnum):
    """What happens to an event for which a queue has no room.

    `BLOCK` makes `await publish()` wait, `DROP_OLDEST` makes room, `DROP_NEWEST` refuses the event, and
    `DISCONNECT` ends the subscription after what it has queued, so that a client which reconnects is
    replayed what it missed.
    """

    BLOCK = "block"
    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"
    DISCONNECT = "disconnect"


class BoundedQueue(Generic[T]):
    """A bounded queue; puts come from any thread, one task reads.

    Args:
        size: how many items it holds, at least 1.
        overflow: what happens to an item more.
        on_drop: called with each item that is lost and the reason, or None where nobody but the policy
            is to blame; never called with a lock held.
        on_disconnect: called once when `Overflow.DISCONNECT` ends the queue.

    Attributes:
        items: what is queued; the reader looks here first, and takes with `take`.
        closed: whether it takes nothing more; what it holds can still be read.
        enough: how many items wake a waiting reader.
        taken: how many items the reader has taken; those of `take` only with `Overflow.BLOCK`.
        evicted: how many items had to make room for newer ones.
        blocks: whether the policy is `Overflow.BLOCK`, so that `reader` has to be kept up to date.
        reader: the task that reads.
        reader_waits: it reads nothing while code runs that it has called.
        owner: the task that it was opened in, if it was opened in one.

    Raises:
        ValueError: the size is below 1, or the policy unknown.
    """

    __slots__ = (
        "__weakref__",
        "_lock",
        "_makes_room",
        "_on_disconnect",
        "_on_drop",
        "_overflow",
        "_putters",
        "_size",
        "_thread",
        "_waiter",
        "blocks",
        "closed",
        "enough",
        "evicted",
        "items",
        "owner",
        "reader",
        "reader_waits",
        "taken",
    )

    def __init__(
        self,
        size: int,
        overflow: Overflow,
        on_drop: Callable[[T, str | None], None],
        on_disconnect: Callable[[], None] | None = None,
    ) -> None:
        if size < 1:
            raise ValueError(f"a queue holds at least 1 event, not {size}")
        self.items: deque[T] = deque()
        self.reader: asyncio.Task[Any] | None = None
        self.reader_waits = False
        self.owner: asyncio.Task[Any] | None = None
        self.blocks = overflow == Overflow.BLOCK
        self._size = size
        self._overflow = Overflow(overflow)
        self._makes_room = self._overflow is Overflow.DROP_OLDEST
        self._on_drop = on_drop
        self._on_disconnect = on_disconnect
        self.closed = False
        self.enough = 1
        self.taken = 0
        self.evicted = 0
        self._waiter: asyncio.Future[None] | None = None
        self._thread = 0  # where the waiter's loop runs
        self._putters: deque[PutLater[T]] | None = None  # made late: most policies never wait
        # Reentrant: any allocation may run the garbage collector, that a finalizer, and that a logger
        # which publishes to this queue.
        self._lock = threading.RLock()

    def put(self, item: T) -> PutLater[T] | None:
        """Put an item; where that has to wait, give what to await for it."""
        lost = None
        with self._lock:
            items = self.items
            full = len(items) >= self._size
            admitted = not self.closed and (self._makes_room or not full)
            if admitted:
                if full:  # the short way, as a reader that hangs must not make publishing slow
                    lost = self._evict(items)
                items.append(item)
        if not admitted:
            return self._overflowed(item)
        if self._waiter is not None and len(items) >= self.enough:
            self.wake()
        if lost is not None:
            self._on_drop(lost[0], None)
        return None

    def put_alone(self, item: T) -> PutLater[T] | None:
        """Put an item where the caller sees to it that nobody else puts at the same time."""
        if self.blocks:
            return self.put(item)
        if self.closed or len(self.items) >= self._size:
            return self._overflowed(item)
        self.items.append(item)
        if self._waiter is not None:
            self.wake()
        return None

    def _overflowed(self, item: T) -> PutLater[T] | None:
        lost: tuple[T] | None = (item,)
        disconnected = False
        with self._lock:
            if not self.closed:
                room = len(self.items) < self._size
                if not room and self.blocks:
                    return self._line_up(item)
                if room or self._makes_room:
                    lost = None if room else self._evict(self.items)
                    self.items.append(item)
                else:
                    self.closed = disconnected = self._overflow is Overflow.DISCONNECT
        self.wake()
        if lost is not None:
            self._on_drop(lost[0], None)
        if disconnected and self._on_disconnect is not None:
            self._on_disconnect()
        return None

    def _evict(self, items: deque[T]) -> tuple[T] | None:
        """Take the oldest item out for a newer one; the caller holds the lock."""
        try:
            lost = items.popleft()
        except IndexError:  # the reader, which needs no lock, was faster
            return None
        self.evicted += 1
        return (lost,)

    def _line_up(self, item: T) -> PutLater[T]:
        putter = PutLater(self, item)
        if self._putters is None:
            self._putters = deque()
        self._putters.append(putter)
        return putter

    def force(self, item: T) -> None:
        """Put an item without asking for room: what the queue's owner itself has to say."""
        self.items.append(item)
        self.wake()

    def take(self) -> T:
        """Give the next item, and let in who waits for room.

        Raises:
            IndexError: there is none now.
        """
        if not self.blocks:
            return self.items.popleft()
        return self.take_many(1)[0]

    def take_many(self, most: int) -> list[T]:
        """Give the next items, at most so many, under one lock for all of them.

        Raises:
            IndexError: there is none now.
        """
        with self._lock:
            items = self.items
            if not items:
                raise IndexError("the queue is empty")
            if len(items) <= most:
                batch = list(items)
                items.clear()
            else:
                batch = [items.popleft() for _ in range(most)]
            self.taken += len(batch)
            let_in = []
            while self._putters and len(items) < self._size:
                putter = self._putters.popleft()
                items.append(putter.item)
                let_in.append(putter)
        for putter in let_in:
            putter.finish(accepted=True)
        return batch

    def place(self) -> int:
        """Tell how many items have been in it up to now: those that have left it and those in it."""
        with self._lock:
            return self.taken + self.evicted + len(self.items)

    def waiting(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None] | None:
        """Give what the reader is to await before it looks again, or None if it may look at once.

        No lock: a put appends and then looks for a waiter, while here the waiter is set and then the
        items are looked for, so that at least one of the two sees the other.
        """
        if self._waiter is not None and not self._waiter.done():
            raise RuntimeError("two tasks read from one place at the same time")
        future: asyncio.Future[None] = asyncio.Future(loop=loop)
        self._thread = get_ident()
        self._waiter = future
        if len(self.items) >= self.enough or self.closed:
            self._waiter = None
            return None
        return future

    def wake(self) -> None:
        """Make the reader look again; from any thread."""
        waiter, self._waiter = self._waiter, None
        if waiter is None:
            return
        try:
            if self._thread != get_ident():
                waiter.get_loop().call_soon_threadsafe(_set, waiter)
            elif not waiter.done():
                waiter.set_result(None)
        except RuntimeError:  # the loop is closed: nobody reads any more
            pass

    def close(self, *, discard: bool = False) -> None:
        """Take nothing more; the reader ends after what is queued, or at once with `discard`."""
        with self._lock:
            self.closed = True
            if discard:
                self.items = deque()
        self.let_go()
        self.wake()

    def read_here(self) -> None:
        """Note that the current task reads, so that a publisher can tell whether it waits for itself."""
        self.reader = asyncio.current_task()
        reading = _reading.get()
        if id(self) not in reading:
            _reading.set(reading | {id(self)})

    def read_no_more(self) -> None:
        """Note that nobody reads now, and let those go who wait for room."""
        self.reader = None
        _reading.set(_reading.get() - {id(self)})
        self.let_go()

    def let_go(self) -> None:
        """Tell those who wait for room that there will be none."""
        with self._lock:
            putters, self._putters = self._putters, None
        for putter in putters or ():
            putter.finish(accepted=False)

    def _withdraw(self, putter: PutLater[T]) -> bool:
        with self._lock:
            if self._putters is None or putter not in self._putters:
                return False
            self._putters.remove(putter)
            return True


class PutLater(Generic[T]):
    """A put in line for room, from the moment of publishing on. To be awaited, or else given up."""

    __slots__ = ("_accepted", "_future", "_queue", "item")

    def __init__(self, queue: BoundedQueue[T], item: T) -> None:
        self.item = item
        self._queue = queue
        self._accepted: bool | None = None
        self._future: asyncio.Future[None] | None = None

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()

    def give_up(self, reason: str = "a publish that cannot wait found its queue full") -> None:
        """Leave the line and drop the item, if it is not in yet."""
        if self._queue._withdraw(self) or self._accepted is False:
            self._queue._on_drop(self.item, reason)

    def finish(self, *, accepted: bool) -> None:
        """Note, from any thread, that the item is in or never will be, and tell who waits for that."""
        self._accepted = accepted
        future = self._future
        if future is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits any more
                future.get_loop().call_soon_threadsafe(_set, future)

    async def _wait(self) -> None:
        queue = self._queue
        # Only a reader in another task can make room. Waiting for ourselves would be for ever.
        if queue.reader is None:
            self.give_up("its queue is full and nobody reads it")
        elif asyncio.current_task() is (queue.owner if queue.reader.done() else queue.reader):
            self.give_up("its queue is full and the publisher is the very task that reads it")
        elif queue.reader_waits and id(queue) in _reading.get():
            self.give_up("its queue is full and the publisher is part of what reads it")
        else:
            self._future = asyncio.get_running_loop().create_future()
            try:
                await self._wait_in_line(self._future)
            except BaseException:
                self.give_up("its publisher was cancelled while it waited for room")
                raise

    async def _wait_in_line(self, news: asyncio.Future[None]) -> None:
        """Wait for room, but not for a reader that is gone, or that seems to wait for us in turn."""
        queue = self._queue
        may_be_awaited_by_a_reader = bool(_reading.get())
        while self._accepted is None:  # looked at after the future was set, so that no news is missed
            taken = queue.taken
            await asyncio.wait({news}, timeout=_PATIENCE)
            if self._accepted is not None or queue.taken != taken:
                continue
            if not _can_read(queue.reader):
                self.give_up("its queue is full and nobody reads it any more")
                return
            if may_be_awaited_by_a_reader:
                self.give_up(
                    "its queue is full, its reader reads nothing, and the publisher belongs to a reader "
                    "itself: they seem to wait for each other"
                )
                return
        if not self._accepted:
            self.give_up("its queue was closed, or left by its reader, while it waited for room")


def _can_read(reader: asyncio.Task[Any] | None) -> bool:
    return reader is not None and not reader.done() and reader.get_loop().is_running()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def ring(size: int) -> deque[Any]:
    """Make a buffer of the newest `size` items.

    Raises:
        ValueError: the size is negative.
    """
    if size < 0:
        raise ValueError(f"a buffer size is 0 or more, not {size}")
    return deque(maxlen=size)


def newest(buffer: deque[T], count: int) -> list[T]:
    """Give the newest `count` items, oldest first; none if `count` is 0 or less."""
    return list(buffer)[-count:] if count > 0 else []
