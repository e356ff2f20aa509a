"""`HttpClient`: requests with the options of `http_config`; the adapter of httpx."""

from __future__ import annotations

import asyncio
import json
import ssl
import tempfile
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from time import monotonic
from typing import Any, NamedTuple

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.delivery.request_logs import without_request_logs
from codomyrmex.integrations.notification.channels import parse_retry_after
from codomyrmex.integrations.notification.receivers.http_config import (
    TLS_VERSIONS,
    HttpConfig,
    OAuth2,
    TlsConfig,
)

_MAX_ANSWER = 65_536  # bytes of a body that are read
_MAX_REDIRECTS = 10
_TOKEN_LIFETIME = 3_600.0  # seconds, if the server does not say
_TOKEN_MARGIN = 30.0  # seconds before its end that a token is replaced
_UNAUTHORIZED = 401


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request; its `repr` shows nothing of it.

    Args:
        url: where it goes.
        body: plain data, which is encoded as JSON at once, as that may take a while.
        headers: headers besides those of `http_config`.
        method: POST or PUT.
    """

    url: Secret
    body: InitVar[Any]
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    method: str = "POST"
    content: bytes = field(init=False, repr=False)

    def __post_init__(self, body: Any) -> None:
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        object.__setattr__(self, "content", content)


class Answer(NamedTuple):
    """The outcome of a request.

    Attributes:
        status: the status; 0 if there is none.
        retry_after: the seconds that the server asks to wait.
        type: the media type of the body.
        text: the beginning of the body.
        error: the class of the exception if there is no answer.
        redirected: whether the answer is a redirection that was not followed.
    """

    status: int = 0
    retry_after: float | None = None
    type: str = ""
    text: str = ""
    error: str = ""
    redirected: bool = False


class HttpClient:
    """Sends requests, each once.

    Args:
        config: the options.
        read_secret: returns the content of a file; it may block.
    """

    def __init__(self, config: HttpConfig, read_secret: Callable[[str], Secret]) -> None:
        self._config = config
        self._read = read_secret
        self._client: Any = None
        self._token: Secret | None = None
        self._token_ends = 0.0

    def open(self) -> None:
        """Import httpx, and read the certificates; this blocks.

        Raises:
            MissingExtraError: httpx is not installed.
            OSError: a certificate cannot be read, or is not valid.
            ValueError: the proxy is not a URL.
        """
        try:
            httpx: Any = import_module("httpx")
        except ImportError as error:
            raise MissingExtraError("a channel over HTTP", "httpx", "alerts") from error
        config = self._config
        options: dict[str, Any] = {
            "verify": ssl_context(config.tls_config or TlsConfig(), self._read),
            "trust_env": config.proxy_from_environment,
            "timeout": None,  # the caller has one for all of it
        }
        if config.proxy_url:
            options["proxy"] = str(config.proxy_url)
            options["mounts"] = dict.fromkeys(_patterns(config.no_proxy))
        self._client = httpx.AsyncClient(**options)

    def headers(self) -> dict[str, str]:
        """Return the headers of the options, with the secrets in files; this blocks.

        Raises:
            ChannelError: a file cannot be read.
        """
        config = self._config
        headers: dict[str, str] = {}
        for name, header in config.http_headers.items():
            values = [*header.values, *header.secrets, *(self._read(file) for file in header.files)]
            headers[name] = ", ".join(values)
        if config.basic_auth is not None:
            auth = config.basic_auth
            user = self._read(auth.username_file) if auth.username_file else auth.username
            password = self._read(auth.password_file) if auth.password_file else auth.password
            headers["Authorization"] = f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"
        elif config.authorization is not None:
            given = config.authorization
            secret = self._read(given.credentials_file) if given.credentials_file else given.credentials
            headers["Authorization"] = f"{given.type.strip()} {secret}"
        elif config.bearer_token or config.bearer_token_file:
            file = config.bearer_token_file
            headers["Authorization"] = f"Bearer {self._read(file) if file else config.bearer_token}"
        return headers

    async def send(self, request: HttpRequest, headers: Mapping[str, str], timeout: float) -> Answer:  # noqa: ASYNC109
        """Send a request, and return the outcome, which never shows the request; nothing is raised.

        Args:
            request: the request.
            headers: what `headers` has returned.
            timeout: seconds for all of it.
        """
        try:
            with without_request_logs():
                async with asyncio.timeout(timeout):
                    return await self._post(request, headers)
        except TimeoutError:
            return Answer(error=f"no answer within {timeout:g} s")
        except Exception as error:  # noqa: BLE001 - its message may contain the URL
            return Answer(error=type(error).__name__)

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _post(self, request: HttpRequest, headers: Mapping[str, str]) -> Answer:
        sent = {"Content-Type": "application/json", "Accept-Encoding": "identity"} | {
            **headers,
            **request.headers,
        }
        oauth2 = self._config.oauth2
        if oauth2 is None:
            return await self._send(request, sent)
        had_token = self._token is not None
        for _ in range(2):
            failure = await self._renew_token(oauth2)
            if failure is not None:
                return failure
            answer = await self._send(request, {**sent, "Authorization": f"Bearer {self._token}"})
            if answer.status != _UNAUTHORIZED:
                return answer
            self._token = None  # it may have been revoked; a new one is tried once
            if not had_token:
                return answer
        return answer

    async def _send(self, given: HttpRequest, headers: Mapping[str, str]) -> Answer:
        server_name = "" if self._config.tls_config is None else self._config.tls_config.server_name
        extensions = {"sni_hostname": server_name} if server_name else {}
        request = self._client.build_request(
            given.method, str(given.url), content=given.content, headers=headers, extensions=extensions
        )
        for _ in range(_MAX_REDIRECTS):
            response = await self._client.send(request, stream=True)
            try:
                following = response.next_request if self._config.follow_redirects else None
                if following is None or following.method != given.method:
                    return await _answer(response)
                request = following
            finally:
                await response.aclose()
        return Answer(error="TooManyRedirects")

    async def _renew_token(self, options: OAuth2) -> Answer | None:
        """Get a token unless there is one; return the outcome if that fails."""
        if self._token is not None and monotonic() < self._token_ends:
            return None
        secret = options.client_secret
        if options.client_secret_file:
            secret = await asyncio.to_thread(self._read, options.client_secret_file)
        form = {"grant_type": "client_credentials", **options.endpoint_params}
        if options.scopes:
            form["scope"] = " ".join(options.scopes)
        request = self._client.build_request("POST", options.token_url, data=form)
        response = await self._client.send(request, stream=True, auth=(options.client_id, str(secret)))
        try:
            answer = await _answer(response)
        finally:
            await response.aclose()
        try:
            given = json.loads(answer.text)
            token = given["access_token"]
            lifetime = float(given.get("expires_in") or _TOKEN_LIFETIME)
        except (ValueError, TypeError, KeyError, AttributeError):
            token = None
        if not response.is_success or not isinstance(token, str):
            reason = f"the token endpoint: status {answer.status}"
            return Answer(answer.status if answer.status >= 400 else 0, answer.retry_after, error=reason)  # noqa: PLR2004
        self._token, self._token_ends = Secret(token), monotonic() + lifetime - _TOKEN_MARGIN
        return None


async def _answer(response: Any) -> Answer:
    content = bytearray()
    async for part in response.aiter_raw():
        content += part
        if len(content) >= _MAX_ANSWER:
            break
    headers = response.headers
    return Answer(
        response.status_code,
        parse_retry_after(headers.get("Retry-After"), datetime.now(UTC)),
        headers.get("Content-Type", "").partition(";")[0].strip().lower(),
        bytes(content[:_MAX_ANSWER]).decode("utf-8", "replace"),
        redirected=response.is_redirect,
    )


def ssl_context(config: TlsConfig, read_secret: Callable[[str], Secret]) -> ssl.SSLContext:
    """Return the TLS options as Python has them; raises as `HttpClient.open`."""
    if config == TlsConfig():
        return _default_context()
    authorities = read_secret(config.ca_file) if config.ca_file else config.ca
    context = ssl.create_default_context(cadata=authorities or None)
    if config.insecure_skip_verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name in ("minimum_version", "maximum_version"):
        version = TLS_VERSIONS.get(getattr(config, f"{name[:3]}_version"))
        if version is not None:
            setattr(context, name, ssl.TLSVersion[version])
    certificate = read_secret(config.cert_file) if config.cert_file else config.cert
    if certificate:
        key = read_secret(config.key_file) if config.key_file else config.key
        with tempfile.NamedTemporaryFile() as file:  # Python reads it from files only; it is ours alone
            file.write(f"{certificate}\n{key}\n".encode())
            file.flush()
            context.load_cert_chain(file.name)
    return context


@cache
def _default_context() -> ssl.SSLContext:
    """Return the context of all clients without options of their own, as it takes long to make one."""
    return ssl.create_default_context()


def _patterns(no_proxy: str) -> list[str]:
    """Return the URLs that need no proxy, as httpx writes them; a domain includes those below it."""
    names = [name.strip() for name in no_proxy.split(",") if name.strip()]
    return [f"all://*{name}" if name.startswith(".") else f"all://{name}" for name in names] + [
        f"all://*.{name}" for name in names if not name.startswith(".")
    ]
