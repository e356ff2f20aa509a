"""The package's own log lines: to stdlib loggers, and never more than a few."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from codomyrmex.streaming.forks import renew_in_children

_INTERVAL = 10.0
_MAX_KEYS = 1_000


class Diagnostics:
    """Logs the first of a kind at once, then at most one in ten seconds with the count between.

    Args:
        name: the logger's name, that of the module.
        now: gives seconds; for tests.
    """

    def __init__(self, name: str, now: Callable[[], float] = time.monotonic) -> None:
        self._logger = logging.getLogger(name)
        self._now = now
        self._kinds: dict[str, tuple[float, int]] = {}  # key -> last logged, held back since
        self.after_fork()
        renew_in_children(self)

    def after_fork(self) -> None:
        """Take a lock that no thread of the parent process holds."""
        self._lock = threading.RLock()

    def warning(self, key: str, message: str, *args: object, error: BaseException | None = None) -> None:
        """Log a warning.

        Args:
            key: the kind; lines of one kind share the limit.
            message: a %-format for `args`.
            *args: its values.
            error: the exception whose traceback goes along.
        """
        now = self._now()
        with self._lock:
            last, held_back = self._kinds.get(key, (float("-inf"), 0))
            due = now - last >= _INTERVAL
            if not due:
                self._kinds[key] = (last, held_back + 1)
                return
            self._kinds.pop(key, None)  # so that the first of the dict is the longest ago
            if len(self._kinds) >= _MAX_KEYS:
                del self._kinds[next(iter(self._kinds))]
            self._kinds[key] = (now, 0)
        if held_back:
            message += " (and %d more since the last such line)"
            args = (*args, held_back)
        with contextlib.suppress(Exception):  # a filter or handler that raises is not ours to mend
            self._logger.warning(message, *args, exc_info=error, stacklevel=2)
