"""A feed that looks somewhere again and again, on a thread of its own."""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class BackgroundFeed(ABC):
    """Calls `poll` on a thread; `with Feed(...)`, or `start()` and `stop()`."""

    _thread: threading.Thread | None = None

    def __init__(self, name: str) -> None:
        self._thread_name = name
        self._ended = threading.Event()

    @abstractmethod
    def poll(self) -> float:
        """Look once; give the seconds until the next look. Does not raise."""

    def start(self) -> Self:
        """Begin.

        Raises:
            RuntimeError: it was started before.
        """
        if self._thread is not None:
            raise RuntimeError("a feed is started once")
        self._thread = threading.Thread(target=self._run, name=self._thread_name, daemon=True)
        self._thread.start()
        return self

    def stop(self, timeout: float = 5.0) -> None:
        """End it. May be called twice.

        Args:
            timeout: seconds to wait for a look that is under way.
        """
        self._ended.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        wait = 0.0
        while not self._ended.wait(wait):
            wait = self.poll()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def backoff(failures: int, initial: float, most: float = 30.0) -> float:
    """Give the seconds to wait after so many failures: doubling, half of it random."""
    limit = min(most, initial * 2.0 ** min(failures - 1, 30))
    return limit * (0.5 + random.random() / 2)  # noqa: S311 - no secret
