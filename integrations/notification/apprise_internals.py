"""Workarounds that use the internals of Apprise, which reports only whether a notification was sent.

To learn why it was not, the name `requests` in the module of a plugin is replaced by a proxy, which records
the responses during our own calls. The log lines of these calls are silenced, as they contain the URL.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from inspect import isasyncgenfunction, isgeneratorfunction
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from codomyrmex.integrations.delivery.sink import is_async
from codomyrmex.integrations.notification.channels import parse_retry_after

# Where Apprise stores a function under `@notify`, since 1.9.0 at least.
_ADDRESS = re.compile(r"[^\s,;<>\"]+@[^\s,;<>\"]+")
_FUNCTION = "_CustomNotifyPluginWrapper__send"

# The loggers that show the URL or what it is turned into. A filter of a logger does not apply to its
# children, so each is listed.
_LOGGERS = (
    "apprise",
    "urllib3.connection",
    "urllib3.connectionpool",
    "urllib3.util.retry",
    "requests_oauthlib.oauth1_auth",
    "oauthlib.oauth1.rfc5849",
)
_LOGGED_STATUS = re.compile(r"\berror=([1-5][0-9]{2})\b")
_TITLE_MARKUP = 20  # characters around a title that becomes a part of the body, as in `<b>...</b><br />`
_METHODS = frozenset({"delete", "get", "head", "options", "patch", "post", "put", "request"})
_CONNECTION_ERRORS = ("ConnectionError", "Timeout", "ChunkedEncodingError")  # of `requests`


# A call of `Apprise.notify` with a title, a body, a type and a format.
Send = Callable[[str, str, Any, Any], Any]


def one_attempt(apprise: Any, service: Any) -> Send:
    """Return a function that sends what `Apprise.notify` would, once, in the thread that calls it.

    Since 2.0 `Apprise` calls services on shared threads, so they are called directly. As some of them then
    convert nothing (Telegram), the format is converted here.
    """
    service.retry, service.wait, service.optional = 0, 0.0, False
    if not hasattr(service, "resolve_format"):
        alone = apprise.Apprise()
        alone.add(service)
        return lambda title, body, type_, format_: alone.notify(
            title=title, body=body, notify_type=type_, body_format=format_
        )

    def send(title: str, body: str, type_: Any, format_: Any) -> Any:
        target, body = converted(service, format_, body)
        if title and service.title_maxlen <= 0:
            _, title = converted(service, format_, title)
        options = {"body_format": target, "body_passthrough": False}
        return service.notify(title=title, body=body, notify_type=type_, **options)

    return send


def converted(service: Any, format_: Any, text: str) -> tuple[Any, str]:
    """Return the format that a service uses for a text, and the text in it."""
    if not hasattr(service, "resolve_format"):
        return format_, text
    target = service.resolve_format(format_)
    return target, convert(format_, target, text)


def convert(source: Any, target: Any, text: str) -> str:
    """Return a text in another format."""
    function: Any = import_module("apprise.conversion").convert_between
    return str(function(source, target, text))


def room_for_body(service: Any, title: str) -> int | None:
    """Return the maximum length of a body; None if the URL says what happens to a longer one."""
    if service.overflow_mode != type(service).overflow_mode or service.body_maxlen <= 0:
        return None
    shares = service.title_maxlen <= 0 or getattr(service, "overflow_amalgamate_title", False)
    room: int = service.body_maxlen - (len(title) + _TITLE_MARKUP if shares else 0)
    return max(room, 1)


def find_false_success(service: Any, url: str) -> str | None:
    """Return why nothing would arrive at a target although Apprise reports success; None if it may."""
    kind = type(service)
    if kind.__module__.startswith("apprise.plugins.email"):
        lost = _lost_recipients(service, url)
        if lost:
            return f"Apprise does not accept the address {lost[0]}; use a complete one"
    is_syslog = kind.__module__ == "apprise.plugins.syslog"
    if is_syslog and sys.platform == "linux" and not Path("/dev/log").exists():
        return "there is no /dev/log, so no message would arrive"
    function = getattr(kind, _FUNCTION, None)
    if is_async(function) or isasyncgenfunction(function):
        return "the function under @notify is an `async def`, which Apprise never awaits; use a plain `def`"
    if isgeneratorfunction(function):
        return "the function under @notify contains a `yield`, so Apprise would never run it"
    return None


def _lost_recipients(service: Any, url: str) -> list[str]:
    """Return the addresses in the URL of a mail service that Apprise has left out."""
    lost = []
    query = parse_qs(urlsplit(url).query)
    for name, kept in (
        ("to", [each for _, each in service.targets]),
        ("cc", service.cc),
        ("bcc", service.bcc),
    ):
        accepted = {each.lower() for each in kept}
        wanted = _ADDRESS.findall(" ".join(query.get(name, ())))
        lost += [each for each in wanted if each.lower() not in accepted]
    return lost


# Responses of HTTP servers


class Response(NamedTuple):
    """The outcome of one HTTP request."""

    status: int | None = None
    retry_after: float | None = None  # seconds
    error: str | None = None  # the class of the exception, if there was no response
    redirected: bool = False  # to a request with another method, so without the notification
    connection_failed: bool = False  # or timed out

    def __str__(self) -> str:
        if self.redirected:
            return (
                f"status {self.status}, a redirection that does not send the notification; use the final URL"
            )
        return self.error or f"status {self.status}"


_responses: ContextVar[list[Response] | None] = ContextVar("responses during a call", default=None)


@contextmanager
def recorded_responses() -> Iterator[list[Response]]:
    """Yield a list that collects the responses to the requests of watched services in this context."""
    responses: list[Response] = []
    token = _responses.set(responses)
    try:
        yield responses
    finally:
        _responses.reset(token)


def watch_requests(service: object) -> None:
    """Record the responses to a service if its plugin is one of Apprise's own and uses `requests`."""
    for kind in type(service).__mro__:
        module: Any = sys.modules.get(kind.__module__)
        requests = getattr(module, "requests", None)
        if kind.__module__.startswith("apprise.") and isinstance(requests, ModuleType):
            module.requests = _RequestsProxy(requests)  # idempotent, so it needs no lock


class _RequestsProxy:
    """Stands in for the module `requests`; attributes that are set, as by `mock.patch`, are set there."""

    __slots__ = ("_module",)

    def __init__(self, module: ModuleType) -> None:
        object.__setattr__(self, "_module", module)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        responses = _responses.get()
        if responses is None or name not in _METHODS:
            return value
        return partial(_record, responses, self._module, value)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._module, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._module, name)

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        module: ModuleType = self._module
        return vars(module)


def _record(
    responses: list[Response], requests: ModuleType, call: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    try:
        response = call(*args, **kwargs)
    except Exception as error:
        connection_errors = tuple(getattr(requests.exceptions, name) for name in _CONNECTION_ERRORS)
        failed = isinstance(error, connection_errors)
        responses.append(Response(error=type(error).__name__, connection_failed=failed))
        raise
    wait = parse_retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
    lost = next((each for each in response.history if _changes_method(each, response)), None)
    if lost is not None:
        responses.append(Response(lost.status_code, redirected=True))
    else:
        responses.append(Response(response.status_code, wait))
    return response


def _changes_method(first: Any, last: Any) -> bool:
    """Return whether a request was redirected to one with another method (RFC 9110, section 15.4)."""
    return bool(first.request.method != last.request.method)


# Log lines

_statuses: ContextVar[list[int] | None] = ContextVar("statuses in the log of a call", default=None)


@contextmanager
def silenced() -> Iterator[list[int]]:
    """Silence the log lines of a call, and yield a list that collects the HTTP statuses in them.

    Only lines from this context are silenced: other users of Apprise keep theirs.
    """
    for logger in map(logging.getLogger, _LOGGERS):
        if _reject_silenced not in logger.filters:  # replaced, as another thread may be iterating over it
            logger.filters = [*logger.filters, _reject_silenced]
    statuses: list[int] = []
    token = _statuses.set(statuses)
    try:
        yield statuses
    finally:
        _statuses.reset(token)


def _reject_silenced(record: logging.LogRecord) -> bool:
    """Reject the records of silenced calls, in the thread that logs them."""
    statuses = _statuses.get()
    if statuses is None:
        return True
    with suppress(Exception):  # a record whose arguments do not fit its message has no status
        statuses += map(int, _LOGGED_STATUS.findall(record.getMessage()))
    return False
