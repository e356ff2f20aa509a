"""`AppriseChannel`: each event becomes a notification through one Apprise URL."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec
from codomyrmex.integrations.configuration.durations import check_seconds
from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.notification.apprise_target import AppriseTarget, UrlSource, key_parameter
from codomyrmex.integrations.notification.channels import (
    ChannelConfig,
    ChannelError,
    ChannelPermanentError,
    ChannelRetryableError,
    ChannelSink,
    deduplication_key,
)
from codomyrmex.integrations.notification.daemon_calls import DaemonCalls, NoThreadError
from codomyrmex.integrations.notification.event_renderer import EventRenderer
from codomyrmex.integrations.notification.templates import TemplateError
from codomyrmex.streaming import Event

_MAX_CALLS = 4
_TAG = re.compile(r"[^\s,;|/]+")  # Apprise treats the others as separators of tags


class AppriseConfig(ChannelConfig, kw_only=True, frozen=True):
    """An item of `apprise_configs`.

    Args:
        url: an Apprise URL.
        tags: the tags for functions under `@notify`.
    """

    url: Secret = Secret()
    tags: list[str] = msgspec.field(default_factory=list)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield the problems of the URL too."""
        if not self.url:
            yield "", "a url is required, such as json://127.0.0.1:8080/"
        elif "://" not in self.url:
            yield "url", "this is not an Apprise URL; it starts with a scheme, as in slack://"
        yield from super().problems()

    def findings(self) -> Iterator[tuple[str, str]]:
        """Yield why Apprise does not accept the URL; nothing if Apprise is not installed."""
        target = AppriseTarget(self.name, self.url, (), None, expand_url=False)
        reason = target.check()
        if reason is not None:
            hint = "; a scheme that the application adds with @notify is known only there"
            yield "url", f"{reason}: {target.scheme}://...{hint}"

    def sends_groups_separately(self) -> bool:
        return key_parameter(self.url) is not None

    def create(self) -> AppriseChannel:
        """Create the channel; the configuration has expanded its URL."""
        return AppriseChannel(self.name, self.url, tags=self.tags, timeout=self.timeout, expand_url=False)


class AppriseChannel(ChannelSink):
    """Sends events as notifications to the target of an Apprise URL.

    Apprise is imported when the channel opens, and called on at most four daemon threads of the channel.
    So no call delays the event loop, other channels or the end of the program. The URL holds secrets and
    is never shown. If it has several targets, they succeed or fail together.

    A notification is delivered if the plugin reports that; a function under `@notify` also does by
    returning None. It is retried after connection errors, timeouts and the statuses 408, 425, 429 and
    5xx, after the server's `Retry-After`, and given up after any other 4xx. Apprise's own retries are off.

    The metadata of an event may contain its `title`, `body`, `format` and `notify_type`.

    Args:
        name: the name of the channel in reports, logs and errors.
        url: an Apprise URL, such as `json://127.0.0.1:8080/`. `${NAME}` and `${NAME:-default}` are
            expanded when the channel opens. Or a function that returns a URL from the `payload` in the
            metadata of an event, or from None; it may block. Then the URL is checked for each event.
        title: a Jinja template of the title with the variable `event`, whose attributes are those of
            `Event.to_dict`, with `topic`, and with the timestamp as a `datetime`. The title is one line
            of plain text.
        body: a Jinja template of the body, with the same variable. Values are escaped for the format.
        format: the format of the body template: `text`, `markdown` or `html`. Without a template the
            body is text. A service for plain text shows the Markdown source.
        tags: the tags that functions under `@notify` find in `meta["tag"]`.
        timeout: seconds for each notification; a call that takes longer is abandoned and retried.
        environ: the environment variables; `os.environ` if None.
        expand_url: whether to expand `${NAME}` in the URL.
        scheme: what errors show of a URL that a function returns.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has an invalid value.
        TemplateError: the title or the body is not a valid template.
        MissingExtraError: there is a template, and Jinja is not installed.
    """

    def __init__(
        self,
        name: str,
        url: str | UrlSource,
        *,
        title: str | None = None,
        body: str | None = None,
        format: str = "text",  # noqa: A002 - Apprise's term
        tags: Iterable[str] = (),
        timeout: float = 10.0,
        environ: Mapping[str, str] | None = None,
        expand_url: bool = True,
        scheme: str | None = None,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(f"name: must be a string, got {type(name).__name__}")
        if not name:
            raise ValueError("name: must not be empty")
        if not (isinstance(url, str) or callable(url)):  # the value is not shown, whatever it is
            raise TypeError(f"url: must be a string, got {type(url).__name__}")
        check_seconds("timeout", timeout)
        self.name = name
        self._renderer = EventRenderer(title, body, format)
        self._target = AppriseTarget(
            name, url, _check_tags(tags), environ, expand_url=expand_url, scheme=scheme
        )
        self._timeout = timeout
        self._calls: DaemonCalls | None = None

    def __repr__(self) -> str:
        return f"<AppriseChannel {self.name} ({self._target.scheme})>"

    def __str__(self) -> str:
        return str(self._target)

    async def open(self) -> None:
        """Import Apprise and set up the target.

        Raises:
            MissingExtraError: Apprise is not installed.
            ChannelError: Apprise does not accept the URL, or nothing sent to it would arrive.
        """
        self._calls = DaemonCalls(f"apprise {self.name}", _MAX_CALLS)
        try:
            await self._calls.run(self._target.load)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        calls, self._calls = self._calls, None
        if calls is not None:
            calls.close()

    async def deliver(self, event: Event) -> None:
        if self._calls is None:
            raise ChannelError(f"{self._target} is not open")
        try:
            await self._calls.run(self._notify, event, timeout=self._timeout)
        except TimeoutError:
            raise ChannelRetryableError(f"{self._target}: no answer within {self._timeout:g} s") from None
        except NoThreadError as error:
            raise ChannelRetryableError(f"{self._target}: no thread for another call: {error}") from None

    def _notify(self, event: Event) -> None:
        try:
            message = self._renderer.message(event)
        except TemplateError as error:
            raise ChannelPermanentError(f"{self._target}: a template failed, {error}") from None
        except Exception as error:
            reason = f"the event cannot be rendered, {type(error).__name__}"
            raise ChannelPermanentError(f"{self._target}: {reason}") from error
        self._target.notify(message, event.metadata.get("payload"), deduplication_key(event.data))


def _check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    if isinstance(tags, str):
        raise TypeError("tags: must be a list of strings, got a string")
    checked = tuple(tags)
    for tag in checked:
        if not isinstance(tag, str):
            raise TypeError(f"tags: must be a list of strings, got a {type(tag).__name__} in it")
        if _TAG.fullmatch(tag) is None:
            raise ValueError(f"tags: must not be empty or contain white space or any of , ; | /, got {tag!r}")
    return checked
