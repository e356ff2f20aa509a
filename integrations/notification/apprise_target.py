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
    Send,
    convert,
    converted,
    find_false_success,
    one_attempt,
    recorded_responses,
    room_for_body,
    silenced,
    watch_requests,
)
from codomyrmex.integrations.notification.channels import (
    ChannelError,
    ChannelPermanentError,
    ChannelRetryableError,
    is_retryable,
)
from codomyrmex.integrations.notification.event_renderer import Message
from codomyrmex.integrations.notification.templates import escape

# The services in which a label could mention everybody, and how; `?ping=` in a URL still does.
_CHATS = frozenset({"discord", "guilded", "mmost", "mmosts", "rocket", "rockets", "slack", "zulip"})
_MENTION = re.compile(r"(?<![\w.])@(?=everyone\b|here\b|channel\b|all\b)|<(?=[@!])")

# The services whose Markdown has no entities such as `&lt;`; all of them take the backslashes of CommonMark.
_WITHOUT_ENTITIES = frozenset({"discord", "slack", "tgram"})

_MAX_SERVICES = 256

# The parameter of services that close an incident under the key with which it was opened.
_KEYS = {
    **dict.fromkeys(("firehydrant", "goalert", "goalerts", "ilert", "incidentio", "pagerduty"), "dedup"),
    **dict.fromkeys(("opsimate", "opsimates"), "dedup"),
    **dict.fromkeys(("jira", "opsgenie"), "alias"),
    **dict.fromkeys(("splunk", "victorops"), "entity_id"),
}

# Returns a URL from the payload of a notification, or from None without one; it may block.
UrlSource = Callable[[object], str]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)")


class AppriseTarget:
    """The service behind an Apprise URL; the arguments are those of `AppriseChannel`.

    Attributes:
        scheme: the scheme of the URL, the only part of it that is shown.
    """

    def __init__(
        self,
        name: str,
        url: str | UrlSource,
        tags: Sequence[str],
        environ: Mapping[str, str] | None,
        *,
        expand_url: bool,
        scheme: str | None = None,
    ) -> None:
        self.scheme = scheme or (_scheme(url) if isinstance(url, str) else "apprise")
        self._name = name
        self._given_url = url
        self._url = url
        self._tags = tags
        self._environ = environ
        self._expand_url = expand_url
        self._apprise: Any = None
        self._services: dict[str, AppriseService] = {}  # by URL, the last one used most recently

    def __str__(self) -> str:
        return f"channel {self._name} ({self.scheme})"

    def load(self) -> None:
        """Import Apprise, and create the service unless its URL depends on the notification.

        Raises:
            MissingExtraError: Apprise is not installed.
            ChannelError: Apprise does not accept the URL, or nothing sent to it would arrive.
        """
        try:
            self._apprise = import_module("apprise")
        except ImportError as error:
            raise MissingExtraError("AppriseChannel", "apprise", "apprise") from error
        if isinstance(self._given_url, str):
            try:
                self._url = expand(self._given_url, self._environ) if self._expand_url else self._given_url
            except ExpansionError as error:  # it names the variable, never the URL
                raise ChannelError(f"{self} cannot be set up: {error}") from None
            self._service(self._url)

    def check(self) -> str | None:
        """Return why Apprise does not accept the URL; None if it does or is not installed."""
        try:
            self._apprise = import_module("apprise")
        except ImportError:
            return None
        reason = self._set_up(self._url if isinstance(self._url, str) else self._url(None))
        return reason if isinstance(reason, str) else None

    def notify(self, message: Message, payload: object = None, key: str = "") -> None:
        """Send a notification, once.

        Args:
            message: the notification.
            payload: what the URL depends on.
            key: what identifies the incident, for services that have a parameter for it.

        Raises:
            ChannelRetryableError: it was not delivered, and a retry may succeed.
            ChannelPermanentError: it was not delivered, and a retry would fail.
            ChannelError: it was not delivered, and Apprise does not report why.
        """
        if self._apprise is None:
            raise ChannelError(f"{self} is not open")
        self._service(self._url if isinstance(self._url, str) else self._url(payload), key).notify(message)

    def _service(self, url: str, key: str = "") -> AppriseService:
        """Return the service of a URL. Some remember what they have opened, so the latest are kept."""
        url = _with_key(url, key)
        service = self._services.pop(url, None) or self._set_up(url)
        if isinstance(service, str):
            del url  # some error reports show the variables of a frame
            raise ChannelPermanentError(f"{self} cannot be set up: {service}")
        self._services[url] = service
        if len(self._services) > _MAX_SERVICES:
            self._services.pop(next(iter(self._services)), None)
        return service

    def _set_up(self, url: str) -> AppriseService | str:
        """Create the service, or return why that fails; no error leaves this frame, which has the URL."""
        self.scheme = _scheme(url)
        try:
            with silenced():
                service = self._apprise.Apprise.instantiate(str(url), tag=list(self._tags))
                if not service:
                    return "Apprise does not support this URL"
                send = one_attempt(self._apprise, service)
        except Exception as error:  # noqa: BLE001 - its message may contain the URL
            return f"Apprise raised {type(error).__name__}"
        if not isinstance(self._url, str):  # Alertmanager waits only when a service asks for it
            service.request_rate_per_sec = 0
        reason = find_false_success(service, url)
        if reason is not None:
            return reason
        watch_requests(service)
        return AppriseService(self._apprise, service, send, str(self), self.scheme.lower())


class AppriseService:
    """A service that Apprise has created; `shown` names it in errors."""

    def __init__(self, apprise: Any, service: Any, send: Send, shown: str, scheme: str) -> None:
        self._apprise = apprise
        self._service = service
        self._send = send
        self._shown = shown
        self._scheme = service.secure_protocol if scheme in {"http", "https"} else scheme

    def __str__(self) -> str:
        return self._shown

    def notify(self, message: Message) -> None:
        """Send a notification, once; raises as `AppriseTarget.notify`."""
        sent, raised = False, None
        with silenced() as logged_statuses, recorded_responses() as responses:
            try:
                message = self._fitted(message)
                type_ = getattr(self._apprise.NotifyType, message.type.upper())
                sent = self._send(message.title, message.body, type_, self._format(message))
            except BaseException as error:  # noqa: BLE001 - its message may contain the URL
                raised = type(error).__name__
        if not sent or any(each.redirected for each in responses):
            failed = [each for each in responses if _has_failed(each)]
            raise self._failure(failed or [Response(status) for status in logged_statuses], raised)

    def _format(self, message: Message) -> Any:
        return getattr(self._apprise.NotifyFormat, message.format.upper())

    def _fitted(self, message: Message) -> Message:
        """Return a message that the service accepts: not too long, and without mentions."""
        service = self._service
        if self._scheme in _CHATS:
            message = _without_mentions(message)
        if service.title_maxlen <= 0:  # Apprise puts the title into the body, in the body's format
            message = replace(message, title=escape(message.title, message.format))
        else:
            message = replace(message, title=message.title[: service.title_maxlen])
        if message.format == "markdown" and self._scheme in _WITHOUT_ENTITIES:
            body = message.body.replace("&lt;", "\\<").replace("&gt;", "\\>").replace("&amp;", "&")
            message = replace(message, body=body)
        room = room_for_body(service, message.title)
        if room is None:
            return message
        if message.format == "html" and self._size(message) > room:  # cut tags would be refused
            text_format = self._apprise.NotifyFormat.TEXT
            text = convert(self._format(message), text_format, message.body)
            message = replace(message, body=text, format="text")
        limit, whole = room, message
        while (size := self._size(message)) > room and limit > 1:
            limit = min(limit, len(message.body), max(len(message.body) * room // size, 1))
            message = replace(message, body=whole.shortened(limit))
            limit -= 1
        return message

    def _size(self, message: Message) -> int:
        """Return the length of the body as the service gets it."""
        return len(converted(self._service, self._format(message), message.body)[1])

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
        refused = [
            each
            for each in responses
            if each.redirected or 400 <= (each.status or 0) < 500  # noqa: PLR2004
        ]
        if refused:
            return ChannelPermanentError(f"{message}: {refused[-1]}")
        if raised is not None:
            return ChannelError(f"{message}: Apprise raised {raised}")
        return ChannelError(f"{message}: {responses[-1]}" if responses else message)


def _without_mentions(message: Message) -> Message:
    title, body = (_MENTION.sub("\\g<0>\u200b", text) for text in (message.title, message.body))
    if body == message.body:
        return replace(message, title=title)
    cuts = [(end + len(_MENTION.findall(message.body[:end])), left_out) for end, left_out in message.cuts]
    return replace(message, title=title, body=body, cuts=cuts)


def _has_failed(response: Response) -> bool:
    return response.redirected or response.error is not None or (response.status or 0) >= 400  # noqa: PLR2004


def _is_retryable(response: Response) -> bool:
    return response.connection_failed or is_retryable(response.status or 0)


def _scheme(url: str) -> str:
    match = _SCHEME.match(url)
    return "no scheme" if match is None else match[0]


def key_parameter(url: str) -> str | None:
    """Return the parameter for the key of an incident; None if there is none, or the URL has its own."""
    name = _KEYS.get(_scheme(url).lower())
    return None if name is None or re.search(rf"[?&]{name}=", url) else name


def _with_key(url: str, key: str) -> str:
    name = key_parameter(url)
    if not key or name is None:
        return url
    return f"{url}{'&' if '?' in url else '?'}{name}={key}"
