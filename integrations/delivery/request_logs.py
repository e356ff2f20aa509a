"""`without_request_logs`: keeps httpx from logging the URLs of this package's own requests.

httpx logs each request at INFO with its URL, which may contain a token.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_is_own: ContextVar[bool] = ContextVar("codomyrmex.integrations.is_own_request", default=False)


def _is_foreign(_: logging.LogRecord) -> bool:
    return not _is_own.get()


@contextmanager
def without_request_logs() -> Iterator[None]:
    """Drop the log records of httpx about requests sent within the context; other records are kept."""
    logging.getLogger("httpx").addFilter(_is_foreign)  # once, however often it is called
    token = _is_own.set(True)
    try:
        yield
    finally:
        _is_own.reset(token)
