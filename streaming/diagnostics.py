"""Rate-limited log lines of the package, written to stdlib loggers."""

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
    """Logs the first line of a kind at once, then at most one in ten seconds with the number held back.

    Args:
        name: the name of the logger, usually that of the module.
        now: returns monotonic seconds.
    """

    def __init__(self, name: str, now: Callable[[], float] = time.monotonic) -> None:
        self._logger = logging.getLogger(name)
        self._now = now
        self._kinds: dict[
            str, tuple[float, int]
        ] = {}  # key -> (time of the last line, lines held back since)
        self.after_fork()
        renew_in_children(self)

    def after_fork(self) -> None:
        """Replace the lock, which a thread of the parent process may have held."""
        self._lock = threading.RLock()

    def warning(self, key: str, message: str, *args: object, error: BaseException | None = None) -> None:
        """Log a warning.

        Args:
            key: the kind of the line; each kind has its own limit.
            message: a %-format string for `args`.
            *args: its values.
            error: an exception to log with its traceback.
        """
        now = self._now()
        with self._lock:
            last, held_back = self._kinds.get(key, (float("-inf"), 0))
            due = now - last >= _INTERVAL
            if not due:
                self._kinds[key] = (last, held_back + 1)
                return
            self._kinds.pop(key, None)  # so that the first key is the oldest
            if len(self._kinds) >= _MAX_KEYS:
                del self._kinds[next(iter(self._kinds))]
            self._kinds[key] = (now, 0)
        if held_back:
            message += " (and %d more since the last such line)"
            args = (*args, held_back)
        with contextlib.suppress(Exception):  # a logging filter or handler may raise
            self._logger.warning(message, *args, exc_info=error, stacklevel=2)
