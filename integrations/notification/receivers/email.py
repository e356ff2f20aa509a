"""`email_configs`: mails, through Apprise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import msgspec
from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.notification.event_renderer import Message, one_line
from codomyrmex.integrations.notification.receivers.apprise_receiver import (
    AppriseReceiver,
    apprise_url,
    with_payload,
)
from codomyrmex.integrations.notification.receivers.http_config import TlsConfig
from codomyrmex.integrations.notification.receivers.receiver_config import Context

_TLS_PORT = 465
_PORTS = {"smtp": 25, "smtps": _TLS_PORT, "submission": 587, "submissions": _TLS_PORT}
_SUBJECT = '{{ template "email.default.subject" . }}'
_PARAMETERS = {"cc": "cc", "bcc": "bcc", "reply-to": "reply"}  # of Apprise, by header
_ADDRESS = "alerts@example.org"
_LOST_HEADERS = frozenset({"from", "to"})


class EmailConfig(AppriseReceiver, kw_only=True, frozen=True):
    """An item of `email_configs`; its options are those of Alertmanager.

    Args:
        to: the addresses; a template.
        smarthost: the server, as `host:port`.
        html: the text as HTML, whose values are escaped; `text` is used if it is empty.
        headers: the subject and other headers; their values are templates.
    """

    __internal__ = AppriseReceiver.__internal__ | {"http_config"}
    __literal__ = frozenset({"auth_identity", "auth_username", "hello", "smarthost"})
    __url_texts__ = ("from_", "to")
    __ignored__: ClassVar[dict[str, str]] = {
        "threading": "not done here: each mail is a conversation of its own",
    }
    __file_first__ = frozenset({"auth_password_file", "auth_secret_file"})
    __global__ = (
        {"from_": "smtp_from"},
        {"hello": "smtp_hello"},
        {"smarthost": "smtp_smarthost"},
        {"auth_username": "smtp_auth_username"},
        {"auth_password": "smtp_auth_password", "auth_password_file": "smtp_auth_password_file"},
        {"auth_secret": "smtp_auth_secret", "auth_secret_file": "smtp_auth_secret_file"},
        {"auth_identity": "smtp_auth_identity"},
        {"tls_config": "smtp_tls_config"},
    )

    send_resolved: bool = False
    to: str = ""
    from_: str = msgspec.field(default="", name="from")
    hello: str = ""
    smarthost: str = ""
    auth_username: str = ""
    auth_password: Secret = Secret()
    auth_password_file: str = ""
    auth_secret: Secret = Secret()
    auth_secret_file: str = ""
    auth_identity: str = ""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    html: str = '{{ template "email.default.html" . }}'
    text: str = ""
    require_tls: bool | None = None
    force_implicit_tls: bool | None = None
    tls_config: TlsConfig | None = None

    def completed(self, context: Context) -> Self:
        config = super().completed(context)
        defaults = {"force_implicit_tls": context.defaults.smtp_force_implicit_tls}
        defaults["require_tls"] = context.defaults.smtp_require_tls
        missing = {name: value for name, value in defaults.items() if getattr(config, name) is None}
        return msgspec.structs.replace(config, **missing)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        for name in ("to", "from_", "smarthost"):
            yield from self.required(name)
        if self.smarthost and not _port(self.smarthost):
            yield (
                "smarthost",
                f"must be a host and a port, such as mail.example.org:587, got {self.smarthost}",
            )
        seen: set[str] = set()
        for name in self.headers:
            if name.lower() in seen:
                yield f"headers.{name}", "this header is given twice"
            seen.add(name.lower())
        for name, message in () if self.tls_config is None else self.tls_config.problems():
            yield f"tls_config.{name}" if name else "tls_config", message

    def notes(self) -> Iterator[tuple[str, str]]:
        yield from super().notes()
        if self.hello:
            yield "hello", "not used here: the name of this host is sent"
        if self.auth_identity:
            yield "auth_identity", "not used here: only a user name and a password are sent"
        if self.html and self.text:
            yield "text", "not used here: the plain text of a mail is derived from `html`"
        for name in self.headers:
            if name.lower() in _LOST_HEADERS:
                yield f"headers.{name}", f"not used here: the header has the addresses of `{name.lower()}`"
        tls = self.tls_config
        if tls is not None and tls != TlsConfig(insecure_skip_verify=tls.insecure_skip_verify):
            yield "tls_config", "only insecure_skip_verify is used here; trust a certificate on this host"

    def findings(self) -> Iterator[tuple[str, str]]:
        for path, message in super().findings():
            name = next((each for each in ("from_", "to") if self._is_at_fault(each)), None)
            if name is None:
                yield path, message
            else:
                problem = f"Apprise does not accept {getattr(self, name)}"
                yield name.rstrip("_"), f"{problem}; use complete addresses, such as {_ADDRESS}"

    def _is_at_fault(self, name: str) -> bool:
        other = msgspec.structs.replace(self, **{name: _ADDRESS})
        return not any(AppriseReceiver.findings(other))

    def templates(self) -> Iterator[tuple[str, str]]:
        yield from super().templates()
        yield "headers.Subject", self.title_text()

    @property
    def scheme(self) -> str:
        return "mailto" if self._mode() == "insecure" else "mailtos"

    def title_text(self) -> str:
        return next((text for name, text in self.headers.items() if name.lower() == "subject"), _SUBJECT)

    def body_option(self) -> str:
        return "html" if self.html else "text"

    def html_option(self) -> str:
        return "html"

    def text_format(self) -> str:
        return self.body_option()

    def compose(self, notification: Mapping[str, Any], default: Message) -> Message:
        message = super().compose(notification, default)
        data = self.data(notification)
        headers = {name: one_line(self.rendered(text, data)) for name, text in self.headers.items()}
        return with_payload(message, {"headers": headers})

    def url_of(self, texts: Mapping[str, Any]) -> str:
        query = {"from": texts["from_"], "to": self.needed("to", texts["to"]), "mode": self._mode()}
        for name, text in texts.get("headers", {}).items():
            if name.lower() in _PARAMETERS:
                query[_PARAMETERS[name.lower()]] = text
            elif name.lower() not in {*_LOST_HEADERS, "subject"}:
                query[f"+{name}"] = text
        if self.tls_config is not None and self.tls_config.insecure_skip_verify:
            query["verify"] = "no"
        host, port = self.smarthost.rpartition(":")[0], _port(self.smarthost)
        password = ""
        if self.auth_username:
            password = self.secret("auth_password") or self.secret("auth_secret")
        query["smtp"] = host.strip("[]")
        login = {"user": self.auth_username, "password": password}
        return apprise_url(self.scheme, host, port=port, query=query, **login)

    def _mode(self) -> str:
        is_tls = _port(self.smarthost) == _TLS_PORT
        if is_tls if self.force_implicit_tls is None else self.force_implicit_tls:
            return "ssl"
        return "insecure" if self.require_tls is False else "starttls"


def _port(smarthost: str) -> int | None:
    port = smarthost.rpartition(":")[2]
    if ":" not in smarthost:
        return None
    return int(port) if port.isascii() and port.isdigit() else _PORTS.get(port)
