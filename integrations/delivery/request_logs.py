"""`without_request_logs`: keeps httpx from logging this package's own requests.

httpx logs each request at INFO with its URL, which may contain a token; httpcore logs the headers of each
answer at DEBUG, which may repeat it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# A filter of a logger does not apply to its children, so each is listed.
_LOGGERS = (
    "httpx",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.http2",
    "httpcore.proxy",
    "httpcore.socks",
)
_is_own: ContextVar[bool] = ContextVar("codomyrmex.integrations.is_own_request", default=False)


def _is_foreign(_: logging.LogRecord) -> bool:
    return not _is_own.get()


@contextmanager
def without_request_logs() -> Iterator[None]:
    """Drop the log records of httpx about requests sent within the context; other records are kept."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_foreign)  # once, however often it is called
    token = _is_own.set(True)
    try:
        yield
    finally:
        _is_own.reset(token)
