"""`HttpChannel`: sends each notification as a request with JSON, and judges the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.delivery.secrets import clean
from codomyrmex.integrations.notification.channels import (
    ChannelError,
    ChannelPermanentError,
    ChannelRetryableError,
    ChannelSink,
    is_retryable,
)
from codomyrmex.integrations.notification.daemon_calls import DaemonCalls, NoThreadError
from codomyrmex.integrations.notification.receivers.http_client import Answer, HttpClient, HttpRequest
from codomyrmex.integrations.notification.receivers.http_config import HttpConfig
from codomyrmex.integrations.notification.receivers.receiver_config import ReceiverConfig
from codomyrmex.integrations.notification.templates import TemplateError
from codomyrmex.streaming import Event

_MAX_CALLS = 2
_MAX_REASON = 200  # characters of an answer in an error


class HttpReceiver(ReceiverConfig, kw_only=True, frozen=True):
    """The options of a receiver over HTTP."""

    http_config: HttpConfig | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        for name, message in () if self.http_config is None else self.http_config.problems():
            yield f"http_config.{name}", message

    def target(self, option: str, url: Secret) -> Secret:
        """Return the URL of a request, or raise a `ChannelPermanentError` if it is none."""
        problem = checked_url(url)
        if problem is not None:
            raise ChannelPermanentError(f"channel {self.name}: its {option} {problem}")
        return url

    def requests(self, event: Event) -> list[HttpRequest]:
        """Return the requests for an event, which are sent in this order; raises as `request`."""
        return [self.request(event)]

    def request(self, event: Event) -> HttpRequest:
        """Return the only request for an event; this may block.

        Raises:
            ChannelError: there is none.
            TemplateError: a secret is a template, which fails.
        """
        raise NotImplementedError

    def refusal(self, answer: Answer) -> str | None:  # noqa: ARG002
        """Return why an answer with a status of success means a failure; None if it does not."""
        return None

    def retries(self, answer: Answer) -> bool:
        """Return whether the same request may succeed later."""
        return is_retryable(answer.status)

    def reason(self, answer: Answer) -> str:  # noqa: ARG002
        """Return what an answer says about its failure, for people; it must not show the request."""
        return ""

    def create(self) -> HttpChannel:
        return HttpChannel(self)


class HttpChannel(ChannelSink):
    """Sends events to a service over HTTP.

    A status of 2xx is a success. It is retried after connection errors, timeouts and the statuses 408, 425,
    429 and 5xx, after the server's `Retry-After`, and given up after any other.

    Args:
        config: the options.
    """

    def __init__(self, config: HttpReceiver) -> None:
        self.name = config.name
        self._config = config
        self._kind = type(config).__name__.removesuffix("Config").lower()
        options = config.http_config or config.context.defaults.http_config or HttpConfig()
        self._client = HttpClient(options, config.read_secret)
        self._calls: DaemonCalls | None = None

    def __repr__(self) -> str:
        return f"<HttpChannel {self.name} ({self._kind})>"

    def __str__(self) -> str:
        return f"channel {self.name} ({self._kind})"

    async def open(self) -> None:
        """Read the certificates.

        Raises:
            MissingExtraError: httpx is not installed.
            ChannelError: the TLS options or the proxy cannot be used.
        """
        self._calls = DaemonCalls(f"http {self.name}", _MAX_CALLS)
        try:
            problem = await self._calls.run(self._open_client)
        except BaseException:
            await self.close()
            raise
        if problem is not None:
            await self.close()
            raise ChannelError(f"{self} cannot be set up: {problem}")

    def _open_client(self) -> str | None:
        try:
            self._client.open()
        except (OSError, ValueError) as error:
            return f"its http_config cannot be used, {type(error).__name__}"
        except ChannelError as error:
            return str(error)
        return None

    async def deliver(self, event: Event) -> None:
        if self._calls is None:
            raise ChannelError(f"{self} is not open")
        timeout = self._config.timeout
        try:
            requests, headers = await self._calls.run(self._prepared, event, timeout=timeout)
        except TimeoutError:
            raise ChannelRetryableError(f"{self}: its files could not be read within {timeout}") from None
        except NoThreadError as error:
            raise ChannelRetryableError(f"{self}: no thread to read its files: {error}") from None
        for request in requests:
            failure = self._error(await self._client.send(request, headers, timeout))
            if failure is not None:
                raise failure

    async def close(self) -> None:
        calls, self._calls = self._calls, None
        if calls is not None:
            calls.close()
        await self._client.close()

    def _prepared(self, event: Event) -> tuple[list[HttpRequest], _Headers]:
        try:
            return self._config.requests(event), _Headers(self._client.headers())
        except TemplateError as error:
            raise ChannelPermanentError(f"{self}: a template failed, {error}") from None

    def _error(self, answer: Answer) -> ChannelError | None:
        failed = f"{self} did not deliver"
        if answer.error and not answer.status:
            return ChannelRetryableError(f"{failed}: {answer.error}")
        if 200 <= answer.status < 300:  # noqa: PLR2004
            refusal = self._config.refusal(answer)
            if refusal is None:
                return None
            problem = f"{failed}: {refusal}"
        elif answer.redirected:
            return ChannelPermanentError(
                f"{failed}: status {answer.status}, a redirection that does not send the notification; "
                "use the final URL"
            )
        else:
            reason = " ".join(clean(self._config.reason(answer)).split())[:_MAX_REASON]
            problem = ": ".join(filter(None, (failed, answer.error or f"status {answer.status}", reason)))
        if self._config.retries(answer):
            return ChannelRetryableError(problem, retry_after=answer.retry_after)
        return ChannelPermanentError(problem)


class _Headers(dict[str, str]):
    """Headers whose `repr` does not show them."""

    def __repr__(self) -> str:
        return "Headers(...)"


def checked_url(url: str) -> str | None:
    """Return what is wrong with the URL of a request; None if nothing is."""
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in {"http", "https"}:
        return "must begin with http:// or https://"
    return None if host else "must have a host"


def payload_of(event: Event) -> Mapping[str, Any] | list[Any] | None:
    """Return what was rendered for an event; None if that failed."""
    payload = event.metadata.get("payload")
    return payload if isinstance(payload, (Mapping, list)) else None


def url_problems(config: HttpReceiver, *names: str) -> Iterator[tuple[str, str]]:
    """Yield the problems of options that are URLs; a template is not checked."""
    for name in names:
        url = getattr(config, name)
        problem = checked_url(url) if url and "{{" not in url else None
        if problem is not None:
            yield name, problem


def rendered_secret(config: ReceiverConfig, secret: Secret, event: Event) -> Secret:
    """Return a secret that may be a template."""
    if "{{" not in secret:
        return secret
    data = config.data(event.data if isinstance(event.data, Mapping) else {})
    return Secret(config.context.compile(str(secret)).render(data).strip())
