"""`AppriseTarget`: the service behind one Apprise URL. It blocks, and it never shows the URL."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.configuration.environment import ExpansionError, expand
from codomyrmex.integrations.notification.apprise_http import noted, watch
from codomyrmex.integrations.notification.apprise_outcome import failure
from codomyrmex.integrations.notification.apprise_quiet import quiet
from codomyrmex.integrations.notification.apprise_traps import false_success
from codomyrmex.integrations.notification.channel_errors import ChannelError
from codomyrmex.integrations.notification.templates import escape
from codomyrmex.integrations.notification.wording import Message

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)")


class AppriseTarget:
    """The service behind one Apprise URL.

    Args:
        name: the channel's.
        url: the URL, with places for values of the environment.
        tags: what functions under `@notify` find in `meta["tag"]`.
        environ: the variables; those of the process if None.

    Attributes:
        scheme: of the URL; the one thing of it that is shown.
    """

    def __init__(self, name: str, url: str, tags: Sequence[str], environ: Mapping[str, str] | None) -> None:
        self.scheme = _scheme(url)
        self._name = name
        self._url = url
        self._tags = tags
        self._environ = environ
        self._apprise: Any = None
        self._service: Any = None
        self._send: Callable[..., Any] | None = None

    def __str__(self) -> str:
        return f"channel {self._name} ({self.scheme})"

    def load(self) -> None:
        """Import Apprise and make the service; errors as for `AppriseChannel.open`."""
        try:
            self._apprise = import_module("apprise")
        except ImportError as error:
            raise MissingExtraError("AppriseChannel", "apprise", "apprise") from error
        try:
            why = self._set_up() or false_success(self._service)
        except ExpansionError as error:  # it names the variable, never the URL
            raise ChannelError(f"{self} cannot be set up: {error}") from None
        if why is not None:
            raise ChannelError(f"{self} cannot be set up: {why}")
        watch(self._service)

    def _set_up(self) -> str | None:
        """Make the service, or say why there is none; raises nothing while it knows the URL."""
        url = expand(self._url, self._environ)
        self.scheme = _scheme(url)
        try:
            with quiet():
                self._service = self._apprise.Apprise.instantiate(url, tag=list(self._tags))
                if not self._service:
                    return "Apprise does not know such a URL"
                self._send = _one_attempt(self._apprise, self._service)
        except Exception as error:  # noqa: BLE001 - what it says may hold the URL, so only its type goes on
            return f"Apprise raised {type(error).__name__}"
        return None

    def notify(self, message: Message) -> None:
        """Send a notification, once.

        Raises:
            ChannelRetryableError: it was not delivered, and later it may be.
            ChannelPermanentError: it was not, and will not be.
            ChannelError: it was not, and Apprise does not tell why.
        """
        if self._send is None:
            raise ChannelError(f"{self} is not open")
        if self._service.title_maxlen <= 0:  # it will stand in the body, and is read as what that is
            message = replace(message, title=escape(message.title, message.format))
        sent, raised = False, None
        with quiet() as codes, noted() as answers:
            try:
                sent = self._send(
                    title=message.title,
                    body=message.body,
                    notify_type=getattr(self._apprise.NotifyType, message.type.upper()),
                    body_format=getattr(self._apprise.NotifyFormat, message.format.upper()),
                )
            except BaseException as error:  # noqa: BLE001 - it may quote the URL, so only its type goes on
                raised = type(error).__name__
        if not sent:
            raise failure(str(self), answers, codes, raised)


def _one_attempt(apprise: Any, service: Any) -> Callable[..., Any]:
    """Give what sends a notification once, in the thread that calls it.

    From 2.0 on a service converts the format itself, and an `Apprise` calls it on threads that all share.
    Before, it is the `Apprise` that converts, and it calls a single service as it is.
    """
    service.retry, service.wait, service.optional = 0, 0.0, False
    if hasattr(service, "resolve_format"):
        return service.notify  # type: ignore[no-any-return]
    alone = apprise.Apprise()
    alone.add(service)
    return alone.notify  # type: ignore[no-any-return]


def _scheme(url: str) -> str:
    found = _SCHEME.match(url)
    return "no scheme" if found is None else found[0]
