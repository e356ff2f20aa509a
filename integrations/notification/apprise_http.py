"""What the HTTP servers answered during a call of Apprise, which itself tells only whether it worked.

The name `requests` in the module of a plugin is given a stand-in. It does what `requests` does, and during
our own calls it notes what comes of each request.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

_METHODS = frozenset({"delete", "get", "head", "options", "patch", "post", "put", "request"})
_LONGEST_WAIT = 86_400.0  # seconds; a wrong header must not end a channel for good
_LOST = ("ConnectionError", "Timeout", "ChunkedEncodingError")  # as `requests` calls them


class Answer(NamedTuple):
    """What came of one request.

    Attributes:
        status: the HTTP status; None where there was no answer.
        retry_after: seconds that the server asked to wait.
        raised: the class of the exception where there was no answer.
        lost: it was the connection that failed, or the time that was over.
    """

    status: int | None = None
    retry_after: float | None = None
    raised: str | None = None
    lost: bool = False


_answers: ContextVar[list[Answer] | None] = ContextVar("answers to the requests of a call", default=None)


@contextmanager
def noted() -> Iterator[list[Answer]]:
    """Give the list of what comes of the requests that watched plugins make in this context."""
    answers: list[Answer] = []
    token = _answers.set(answers)
    try:
        yield answers
    finally:
        _answers.reset(token)


def watch(service: object) -> None:
    """Have the requests of a service noted, where its plugin is Apprise's own and uses `requests`."""
    for kind in type(service).__mro__:
        module: Any = sys.modules.get(kind.__module__)
        used = getattr(module, "requests", None)
        if kind.__module__.startswith("apprise.") and isinstance(used, ModuleType):
            module.requests = _Requests(used)  # two threads at once do the same: no lock is needed


class _Requests:
    """Stands for the module `requests`; what is set on it, as tests do, is set there."""

    __slots__ = ("_real",)

    def __init__(self, real: ModuleType) -> None:
        object.__setattr__(self, "_real", real)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        answers = _answers.get()
        return (
            value if answers is None or name not in _METHODS else partial(_note, answers, self._real, value)
        )

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._real, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._real, name)

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        real: ModuleType = self._real
        return vars(real)

    def __repr__(self) -> str:
        return repr(self._real)


def _note(answers: list[Answer], real: ModuleType, call: Callable[..., Any], *args: Any, **named: Any) -> Any:
    try:
        response = call(*args, **named)
    except Exception as error:
        lost = tuple(getattr(real.exceptions, name) for name in _LOST)
        answers.append(Answer(raised=type(error).__name__, lost=isinstance(error, lost)))
        raise
    header = response.headers.get("Retry-After")
    answers.append(Answer(response.status_code, retry_after(header, datetime.now(UTC))))
    return response


def retry_after(header: str | None, now: datetime) -> float | None:
    """Read a `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date; None where it is neither.

    Args:
        header: what stands there.
        now: an aware time, from which a date is counted.
    """
    if header is None:
        return None
    if re.fullmatch(r"\s*[0-9]+\s*", header, re.ASCII):
        seconds = float(header)
    else:
        try:
            date = parsedate_to_datetime(header)
        except (TypeError, ValueError):
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
    return min(max(seconds, 0.0), _LONGEST_WAIT)
