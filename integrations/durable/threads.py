"""`StoreThread`: the thread on which all streams of a store use it."""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

from codomyrmex.integrations.delivery.forks import keep_in_children
from codomyrmex.integrations.delivery.loop_thread import LoopThread
from codomyrmex.integrations.durable.store import Store

_THREAD_GRACE = 2.0  # seconds to wait for the thread at the end


class StoreThread:
    """The thread of a store, for as long as streams use it; that of its driver if it has one."""

    def __init__(self) -> None:
        self._streams = 0
        self._thread: LoopThread | None = None
        self._borrowed = False
        self._lock = threading.RLock()

    def join(self, store: Store) -> LoopThread:
        """Return the thread for a stream, which calls `leave` and `stop` at its end."""
        with self._lock:
            if self._thread is None:
                thread = store.join_thread()
                self._borrowed = thread is not None
                if thread is None:
                    thread = LoopThread("codomyrmex store")
                    keep_in_children(thread.loop)
                self._thread = thread
            self._streams += 1
            return self._thread

    def leave(self) -> bool:
        """Note that a stream has ended, and return whether it was the last one."""
        with self._lock:
            self._streams -= 1
            return self._streams == 0

    def stop(self, store: Store) -> None:
        """End the thread, unless a stream uses it again."""
        with self._lock:
            if self._streams or self._thread is None:
                return
            thread, self._thread = self._thread, None
        if self._borrowed:
            store.leave_thread()
        else:
            thread.stop(_THREAD_GRACE)


_threads: WeakKeyDictionary[Store, StoreThread] = WeakKeyDictionary()


def thread_of(store: Store) -> StoreThread:
    """Return the thread of a store."""
    thread = _threads.get(store)
    return _threads.setdefault(store, StoreThread()) if thread is None else thread


def forget_thread(store: Store) -> None:
    """Forget, in a child process, a thread of the parent."""
    _threads.pop(store, None)
