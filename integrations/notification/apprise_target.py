"""`AppriseTarget`: the service behind one Apprise URL. Its calls block, and it never shows the URL."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.configuration.environment import ExpansionError, expand
from codomyrmex.integrations.notification.apprise_internals import (
    Response,
    find_false_success,
    one_attempt,
    recorded_responses,
    silenced,
    watch_requests,
)
from codomyrmex.integrations.notification.channels import (
    ChannelError,
    ChannelPermanentError,
    ChannelRetryableError,
)
from codomyrmex.integrations.notification.event_renderer import Message
from codomyrmex.integrations.notification.templates import escape

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)")
_RETRYABLE = frozenset({408, 425, 429})  # RFC 9110, 8470 and 6585: the same request may succeed later


class AppriseTarget:
    """The service behind one Apprise URL; the arguments are those of `AppriseChannel`.

    Attributes:
        scheme: the scheme of the URL, the only part of it that is shown.
    """

    def __init__(
        self, name: str, url: str, tags: Sequence[str], environ: Mapping[str, str] | None, *, expand_url: bool
    ) -> None:
        self.scheme = _scheme(url)
        self._name = name
        self._url = url
        self._tags = tags
        self._environ = environ
        self._expand_url = expand_url
        self._apprise: Any = None
        self._service: Any = None
        self._send: Callable[..., Any] | None = None

    def __str__(self) -> str:
        return f"channel {self._name} ({self.scheme})"

    def load(self) -> None:
        """Import Apprise and create the service; raises the errors of `AppriseChannel.open`."""
        try:
            self._apprise = import_module("apprise")
        except ImportError as error:
            raise MissingExtraError("AppriseChannel", "apprise", "apprise") from error
        try:
            reason = self._set_up() or find_false_success(self._service)
        except ExpansionError as error:  # it names the variable, never the URL
            raise ChannelError(f"{self} cannot be set up: {error}") from None
        if reason is not None:
            raise ChannelError(f"{self} cannot be set up: {reason}")
        watch_requests(self._service)

    def _set_up(self) -> str | None:
        """Create the service, or return why that fails; no error leaves this frame, which has the URL."""
        url = expand(self._url, self._environ) if self._expand_url else self._url
        self.scheme = _scheme(url)
        try:
            with silenced():
                self._service = self._apprise.Apprise.instantiate(str(url), tag=list(self._tags))
                if not self._service:
                    return "Apprise does not support this URL"
                self._send = one_attempt(self._apprise, self._service)
        except Exception as error:  # noqa: BLE001 - its message may contain the URL
            return f"Apprise raised {type(error).__name__}"
        return None

    def notify(self, message: Message) -> None:
        """Send a notification, once.

        Raises:
            ChannelRetryableError: it was not delivered, and a retry may succeed.
            ChannelPermanentError: it was not delivered, and a retry would fail.
            ChannelError: it was not delivered, and Apprise does not report why.
        """
        if self._send is None:
            raise ChannelError(f"{self} is not open")
        if self._service.title_maxlen <= 0:  # Apprise puts the title into the body, in the body's format
            message = replace(message, title=escape(message.title, message.format))
        sent, raised = False, None
        with silenced() as logged_statuses, recorded_responses() as responses:
            try:
                sent = self._send(
                    title=message.title,
                    body=message.body,
                    notify_type=getattr(self._apprise.NotifyType, message.type.upper()),
                    body_format=getattr(self._apprise.NotifyFormat, message.format.upper()),
                )
            except BaseException as error:  # noqa: BLE001 - its message may contain the URL
                raised = type(error).__name__
        if not sent:
            failed = [each for each in responses if each.error or (each.status or 0) >= 400]  # noqa: PLR2004
            raise self._failure(failed or [Response(status) for status in logged_statuses], raised)

    def _failure(self, responses: Sequence[Response], raised: str | None) -> ChannelError:
        """Return the error for a notification that was not delivered.

        With several targets in one URL, some may have succeeded, and some may be worth a retry. Then all
        of it is retried: a duplicate is better than a loss.
        """
        message = f"{self} did not deliver"
        retryable = [each for each in responses if _is_retryable(each)]
        if retryable:
            wait = max((each.retry_after for each in retryable if each.retry_after is not None), default=None)
            return ChannelRetryableError(f"{message}: {retryable[-1]}", retry_after=wait)
        refused = [each for each in responses if 400 <= (each.status or 0) < 500]  # noqa: PLR2004
        if refused:
            return ChannelPermanentError(f"{message}: {refused[-1]}")
        if raised is not None:
            return ChannelError(f"{message}: Apprise raised {raised}")
        return ChannelError(f"{message}: {responses[-1]}" if responses else message)


def _is_retryable(response: Response) -> bool:
    status = response.status or 0
    return response.connection_failed or status in _RETRYABLE or status >= 500  # noqa: PLR2004


def _scheme(url: str) -> str:
    match = _SCHEME.match(url)
    return "no scheme" if match is None else match[0]
