"""`BackgroundFeed`: a feed that polls its source in a separate thread."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Self


class BackgroundFeed(ABC):
    """Calls `poll` in a thread, between `start()` and `close()`; also a context manager.

    Args:
        name: the name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.closing = threading.Event()

    @abstractmethod
    def poll(self) -> float:
        """Poll once and return the seconds until the next poll. Must not raise."""

    def start(self) -> Self:
        """Start polling.

        Raises:
            RuntimeError: the feed was started before.
        """
        self._thread.start()
        return self

    def close(self, timeout: float = 5.0) -> None:
        """Stop polling. Closing twice is allowed.

        Args:
            timeout: seconds to wait for a poll that is in progress.
        """
        self.closing.set()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        delay = 0.0
        while not self.closing.wait(delay):
            delay = self.poll()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()
