"""`http_config`: authentication, TLS, proxies and headers of the requests to a service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import msgspec
from codomyrmex.integrations.configuration.environment import Secret


class BasicAuth(msgspec.Struct, kw_only=True, frozen=True):
    """A user and a password (RFC 7617)."""

    username: str = ""
    username_file: str = ""
    password: Secret = Secret()
    password_file: str = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield each problem with the option that has it."""
        yield from _both(self, "username", "password")


class Authorization(msgspec.Struct, kw_only=True, frozen=True):
    """The header `Authorization`."""

    type: str = "Bearer"
    credentials: Secret = Secret()
    credentials_file: str = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield each problem with the option that has it."""
        yield from _both(self, "credentials")
        if self.type.strip().lower() == "basic":
            yield "type", "use basic_auth for basic authentication"


class TlsConfig(msgspec.Struct, kw_only=True, frozen=True):
    """Certificates, as PEM text or files."""

    ca: str = ""
    ca_file: str = ""
    cert: str = ""
    cert_file: str = ""
    key: Secret = Secret()
    key_file: str = ""
    server_name: str = ""
    insecure_skip_verify: bool = False
    min_version: str = ""
    max_version: str = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield each problem with the option that has it."""
        yield from _both(self, "ca", "cert", "key")
        for name in ("min_version", "max_version"):
            version = getattr(self, name)
            if version and version not in TLS_VERSIONS:
                yield name, f"must be one of {', '.join(TLS_VERSIONS)}, got {version}"
        if bool(self.cert or self.cert_file) != bool(self.key or self.key_file):
            yield "", "a certificate needs its key, and a key its certificate"


TLS_VERSIONS = {"TLS10": "TLSv1", "TLS11": "TLSv1_1", "TLS12": "TLSv1_2", "TLS13": "TLSv1_3"}


class HttpHeader(msgspec.Struct, kw_only=True, frozen=True):
    """The values of a header."""

    values: list[str] = msgspec.field(default_factory=list)
    secrets: list[Secret] = msgspec.field(default_factory=list)
    files: list[str] = msgspec.field(default_factory=list)


class OAuth2(msgspec.Struct, kw_only=True, frozen=True):
    """The client credentials grant (RFC 6749, section 4.4)."""

    __ignored__: ClassVar[dict[str, str]] = {
        **dict.fromkeys(
            ("proxy_url", "no_proxy", "proxy_from_environment", "proxy_connect_header", "tls_config"),
            "accepted, but not used here: tokens are requested with the settings of http_config itself",
        ),
        **dict.fromkeys(
            (
                *("audience", "claims", "client_certificate_key", "client_certificate_key_file"),
                *("client_certificate_key_id", "grant_type", "iss", "signature_algorithm"),
            ),
            "accepted, but not used here: tokens are requested with client_id and client_secret",
        ),
    }

    client_id: str = ""
    client_secret: Secret = Secret()
    client_secret_file: str = ""
    scopes: list[str] = msgspec.field(default_factory=list)
    token_url: str = ""
    endpoint_params: dict[str, str] = msgspec.field(default_factory=dict)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield each problem with the option that has it."""
        yield from _both(self, "client_secret")
        for name in ("client_id", "client_secret", "token_url"):
            if not (getattr(self, name) or getattr(self, f"{name}_file", "")):
                yield "", f"{name} is required"


class HttpConfig(msgspec.Struct, kw_only=True, frozen=True):
    """How requests are made; the keys are those of Alertmanager."""

    __ignored__: ClassVar[dict[str, str]] = {
        "enable_http2": "accepted, but requests use HTTP/1.1",
        "proxy_connect_header": "accepted, but not sent to the proxy",
    }

    basic_auth: BasicAuth | None = None
    authorization: Authorization | None = None
    bearer_token: Secret = Secret()
    bearer_token_file: str = ""
    oauth2: OAuth2 | None = None
    tls_config: TlsConfig | None = None
    proxy_url: Secret = Secret()
    no_proxy: str = ""
    proxy_from_environment: bool = False
    follow_redirects: bool = True
    http_headers: dict[str, HttpHeader] = msgspec.field(default_factory=dict)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield each problem with the option that has it."""
        for name in ("basic_auth", "authorization", "oauth2", "tls_config"):
            part = getattr(self, name)
            for option, message in () if part is None else part.problems():
                yield f"{name}.{option}" if option else name, message
        kinds = ("basic_auth", "authorization", "bearer_token", "bearer_token_file", "oauth2")
        given = [name for name in kinds if getattr(self, name)]
        if len(given) > 1:
            yield given[1], f"{given[0]} and {given[1]} are both given; keep one kind of authentication"
        if self.proxy_from_environment and (self.proxy_url or self.no_proxy):
            yield "proxy_from_environment", "remove proxy_url and no_proxy, or this"
        if self.no_proxy and not self.proxy_url:
            yield "no_proxy", "needs a proxy_url"


def _both(options: msgspec.Struct, *names: str) -> Iterator[tuple[str, str]]:
    for name in names:
        if getattr(options, name) and getattr(options, f"{name}_file"):
            yield f"{name}_file", f"{name} and {name}_file are both given; remove one"
