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


def message_of(error: BaseException, *, notes: bool = False) -> str:
    """Return the message of an exception, perhaps with its notes. Nothing escapes that its methods raise."""
    try:
        message = str(error)
        if notes and (added := getattr(error, "__notes__", None)):
            message = f"{message} ({'; '.join(map(str, added))})"
        return message  # noqa: TRY300 - a hostile note may raise before
    except BaseException as second:  # noqa: BLE001 - even SystemExit: it says nothing about the program
        return f"<its message raised {type(second).__name__}>"


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {message_of(error)}"


# How an exception is shown in a log, with its traceback, and in one line; the integrations remove secrets.
format_error: Callable[[BaseException], object] | None = None
describe_error: Callable[[BaseException], str] = _describe


class Diagnostics:
    """Logs the first line of a kind at once, then at most one in ten seconds with the number suppressed.

    Args:
        name: the name of the logger, usually that of the module.
        now: returns monotonic seconds.
    """

    def __init__(self, name: str, now: Callable[[], float] = time.monotonic) -> None:
        self._logger = logging.getLogger(name)
        self._now = now
        # By key: the time of the last line, and the number of lines suppressed since.
        self._kinds: dict[str, tuple[float, int]] = {}
        self.after_fork()
        renew_in_children(self)

    def after_fork(self) -> None:
        """Replace the lock, which a thread of the parent process may have held."""
        self._lock = threading.RLock()

    def warning(self, key: str, message: str, *args: object, error: BaseException | None = None) -> None:
        """Log a %-format `message` with `args` and the traceback of `error`; each `key` has its own limit."""
        now = self._now()
        with self._lock:
            last, held_back = self._kinds.get(key, (float("-inf"), 0))
            if now - last < _INTERVAL:
                self._kinds[key] = (last, held_back + 1)
                return
            self._kinds.pop(key, None)  # so that the first key is the oldest
            if len(self._kinds) >= _MAX_KEYS:
                del self._kinds[next(iter(self._kinds))]
            self._kinds[key] = (now, 0)
        if held_back:
            message += " (and %d more since the last such line)"
            args = (*args, held_back)
        if error is not None and format_error is not None:
            message, args, error = f"{message}\n%s", (*args, format_error(error)), None
        with contextlib.suppress(Exception):  # a logging filter or handler may raise
            self._logger.warning(message, *args, exc_info=error, stacklevel=2)
