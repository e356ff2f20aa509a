"""Keeps out of the log what Apprise says of a URL, and reads from it the codes of errors."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from codomyrmex.streaming.forks import renew_in_children

# Who logs what Apprise does, with the URL or what it is turned into. A filter of a logger does not see
# what its children log, so each has to be named.
_TALKATIVE = (
    "apprise",
    "urllib3.connection",
    "urllib3.connectionpool",
    "urllib3.util.retry",
    "requests_oauthlib.oauth1_auth",
    "oauthlib.oauth1.rfc5849",
)
_CODE = re.compile(r"\berror=([1-5][0-9]{2})\b")
_codes: ContextVar[list[int] | None] = ContextVar("codes in the log of a call", default=None)


@contextmanager
def quiet() -> Iterator[list[int]]:
    """Silence what is logged of a call of Apprise, and give the codes of errors that stand there.

    Only what is logged in this context is silenced: other users of Apprise keep their log.
    """
    found: list[int] = []
    token = _codes.set(found)
    _filter.add()
    try:
        yield found
    finally:
        _filter.remove()
        _codes.reset(token)


class _Filter:
    """A filter that the loggers have while there are such calls.

    The lists of filters are replaced and not changed: another thread may be going through them, and would
    pass one over.
    """

    def __init__(self) -> None:
        self.after_fork()
        renew_in_children(self)

    def after_fork(self) -> None:
        """Forget the calls of the parent process, and its threads that may hold the lock."""
        self._lock = threading.Lock()
        self._calls = 0

    def add(self) -> None:
        with self._lock:
            self._calls += 1
            for logger in map(logging.getLogger, _TALKATIVE):
                if self not in logger.filters:
                    logger.filters = [*logger.filters, self]

    def remove(self) -> None:
        with self._lock:
            self._calls -= 1
            if self._calls == 0:
                for logger in map(logging.getLogger, _TALKATIVE):
                    logger.filters = [other for other in logger.filters if other is not self]

    def filter(self, record: logging.LogRecord) -> bool:
        """Take a record of a call that is silenced, in the thread that logs it."""
        codes = _codes.get()
        if codes is None:
            return True
        with suppress(Exception):  # a message whose values do not fit it has no code
            codes += map(int, _CODE.findall(record.getMessage()))
        return False


_filter = _Filter()
