"""`AppriseReceiver`: a receiver of Alertmanager that Apprise delivers to; its options become a URL."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.notification.apprise_channel import AppriseChannel
from codomyrmex.integrations.notification.apprise_target import AppriseTarget, key_parameter
from codomyrmex.integrations.notification.channels import ChannelError, ChannelPermanentError
from codomyrmex.integrations.notification.event_renderer import Message, one_line
from codomyrmex.integrations.notification.receivers.http_config import HttpConfig
from codomyrmex.integrations.notification.receivers.receiver_config import ReceiverConfig

_UNUSED = "not used here: Apprise sends this, with the certificates and the proxy of the environment"


class AppriseReceiver(ReceiverConfig, kw_only=True, frozen=True):
    """The options of a receiver that Apprise delivers to."""

    __title__: ClassVar[str] = ""  # the option with the text of the title
    __body__: ClassVar[str] = "message"  # and with that of the body
    __url_texts__: ClassVar[tuple[str, ...]] = ()  # options that are templates and a part of the URL
    __authorized__: ClassVar[bool] = False  # whether the token is in `http_config.authorization`
    __api_url__: ClassVar[str] = ""  # where Apprise sends to, whatever `api_url` says

    http_config: HttpConfig | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        for name, message in () if self.http_config is None else self.http_config.problems():
            yield f"http_config.{name}", message

    def notes(self) -> Iterator[tuple[str, str]]:
        yield from super().notes()
        given = self.http_config
        if given is not None and self.__authorized__:
            if given != HttpConfig(authorization=given.authorization):
                yield "http_config", f"except for its authorization, {_UNUSED}"
        elif given is not None:
            yield "http_config", _UNUSED
        elif self.context.defaults.http_config is not None and "http_config" not in self.__internal__:
            yield "", f"http_config of global is {_UNUSED}"
        used, chosen = self.__api_url__, getattr(self, "api_url", "")
        if used and chosen and chosen.rstrip("/") != used:
            yield "api_url", f"not used here: messages go to {used}"

    def findings(self) -> Iterator[tuple[str, str]]:
        """Yield why Apprise does not accept the URL, unless it is known only later."""
        files = [name for name in self.__struct_fields__ if name.endswith("_file") and getattr(self, name)]
        given = None if self.http_config is None else self.http_config.authorization
        if self.__authorized__ and given is not None and given.credentials_file:
            files.append("http_config")
        if not files and not any("{{" in getattr(self, name) for name in self.__url_texts__):
            try:
                reason = AppriseTarget(self.name, self.target_url, (), None, expand_url=False).check()
            except ChannelError as error:
                reason = str(error)
            if reason is not None:
                yield "", f"{reason}; check the values of this receiver"

    def sends_groups_separately(self) -> bool:
        return key_parameter(f"{self.scheme}://") is not None

    def authorization(self) -> Secret:
        """Return the credentials of `http_config`; this may block."""
        given = None if self.http_config is None else self.http_config.authorization
        if given is None:
            return Secret()
        return self.read_secret(given.credentials_file) if given.credentials_file else given.credentials

    @property
    @abstractmethod
    def scheme(self) -> str:
        """The scheme of the URL."""

    @abstractmethod
    def url_of(self, texts: Mapping[str, Any]) -> str:
        """Return the URL; this may block.

        Args:
            texts: the options of `__url_texts__`, rendered, and what else is in the payload.
        """

    def target_url(self, payload: object) -> Secret:
        """Return the URL for the payload of a message; for None, with the texts as they are."""
        given = payload if isinstance(payload, Mapping) else {}
        texts = {name: getattr(self, name) for name in self.__url_texts__}
        plain = {name: "" if "{{" in text else text for name, text in texts.items()}
        return Secret(self.url_of({**plain, **given}))

    def text_format(self) -> str:
        """Return the format of the body."""
        return "text"

    def title_text(self) -> str:
        """Return the template of the title."""
        return getattr(self, self.__title__) or "" if self.__title__ else ""

    def body_option(self) -> str:
        """Return the option with the text of the body."""
        return self.__body__

    def compose(self, notification: Mapping[str, Any], default: Message) -> Message:
        data = self.data(notification)
        title = one_line(self.rendered(self.title_text(), data))
        option = self.body_option()
        body = self.context.compile(getattr(self, option), html=option == self.html_option()).render(data)
        payload = {name: self.rendered(getattr(self, name), data) for name in self.__url_texts__}
        format_ = self.text_format()
        return replace(default, title=title, body=body, cuts=(), format=format_, payload=payload or None)

    def outline(self, notification: Mapping[str, Any], default: Message) -> Message:
        texts = self.rendered_if_possible(self.__url_texts__, self.data(notification))
        return replace(default, payload=texts or None)

    def needed(self, option: str, text: str) -> str:
        """Return a text that must not be empty, or raise a `ChannelPermanentError`."""
        if not text.strip():
            raise ChannelPermanentError(f"channel {self.name}: its {option} is empty")
        return text

    def create(self) -> AppriseChannel:
        return AppriseChannel(self.name, self.target_url, timeout=self.timeout, scheme=self.scheme)


def apprise_url(
    scheme: str,
    host: str,
    *path: str,
    user: str = "",
    password: str = "",
    port: int | None = None,
    query: Mapping[str, str] | None = None,
) -> str:
    """Return a URL with all parts encoded; a parameter that is empty is left out."""
    login = f"{_encoded(user)}{f':{_encoded(password)}' if password else ''}@" if user else ""
    place = _encoded(host) if port is None else f"{host}:{port}"
    return with_query(f"{scheme}://{login}{place}/{'/'.join(map(_encoded, path))}", query or {})


class Place(NamedTuple):
    """Where an HTTP URL goes."""

    host: str
    port: int | None
    is_tls: bool


def host_of(url: str) -> Place:
    """Return where an HTTP URL goes."""
    parts = urlsplit(url.strip())
    return Place(parts.hostname or "", parts.port, parts.scheme == "https")


def with_query(url: str, query: Mapping[str, str]) -> str:
    """Return a URL with more parameters; one that is empty is left out."""
    given = {name: value for name, value in query.items() if value}
    more = urlencode(given, quote_via=quote, errors="replace")
    return f"{url}{'&' if '?' in url else '?'}{more}" if more else url


def with_payload(message: Message, more: Mapping[str, Any]) -> Message:
    """Return a message with more in its payload."""
    return replace(message, payload={**(message.payload or {}), **more})


def _encoded(text: str) -> str:
    return quote(text, safe="", errors="replace")
