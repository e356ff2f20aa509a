"""`AppriseChannel`: each event becomes a notification through one Apprise URL."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence

from codomyrmex.integrations.delivery.errors import PartialDeliveryError
from codomyrmex.integrations.delivery.seconds import check_seconds
from codomyrmex.integrations.delivery.sink import Sink
from codomyrmex.integrations.notification.apprise_target import AppriseTarget
from codomyrmex.integrations.notification.channel_errors import (
    ChannelError,
    ChannelPermanentError,
    ChannelRetryableError,
)
from codomyrmex.integrations.notification.daemon_calls import DaemonCalls, NoThreadError
from codomyrmex.integrations.notification.templates import TemplateError
from codomyrmex.integrations.notification.wording import Message, Wording
from codomyrmex.streaming import Event

__all__ = ["AppriseChannel", "ChannelError", "ChannelPermanentError", "ChannelRetryableError"]

_MAX_CALLS = 4
_TAG = re.compile(r"[^\s,;|/]+")  # Apprise takes the others for what stands between two tags


class AppriseChannel(Sink):
    """Sends events as notifications to the target of an Apprise URL.

    Apprise is imported when the channel opens, and called on daemon threads of the channel's own, at most
    4: neither the event loop, nor another channel, nor the end of the program ever waits for it. The URL
    holds secrets and is never shown. Where a URL holds several targets there is one outcome for all.

    A notification is delivered when the plugin says so; a function under `@notify` does that by returning
    nothing, too. It is tried again after connection errors, timeouts and the statuses 408, 425, 429
    and 5xx, not before the server's `Retry-After`, and given up after any other 4xx. Apprise's own retries
    are off.

    The metadata of an event may hold its `title`, `body`, `format` and `notify_type`.

    Args:
        name: what the channel is called in reports, logs and errors.
        url: an Apprise URL, such as `json://127.0.0.1:8080/`. `${NAME}` and `${NAME:-default}` come from
            the environment when the channel opens.
        title: a Jinja template of the title, with the `event`; its fields are as in `Event.to_dict`, and
            `topic`, and the timestamp as a `datetime`. The title is plain text in one line.
        body: a Jinja template of the body, the same way. Values in it are escaped for the format.
        format: of the body: `text`, `markdown` or `html`. Without a template the body is always text.
            A service for plain text shows Markdown as it is written.
        tags: what functions under `@notify` find in `meta["tag"]`.
        timeout: seconds for each notification; one that takes longer is left alone and tried again.
        environ: the variables; those of the process if left out.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument has a wrong value.
        TemplateError: the title or the body is no template.
        MissingExtraError: there is a template, and Jinja is not installed.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        title: str | None = None,
        body: str | None = None,
        format: str = "text",  # noqa: A002 - as Apprise calls it
        tags: Iterable[str] = (),
        timeout: float = 10.0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(f"the name of a channel is a text, not {type(name).__name__}")
        if not name:
            raise ValueError("the name of a channel is not empty")
        if not isinstance(url, str):  # which is not shown whatever it is
            raise TypeError(f"the URL of a channel is a text, not {type(url).__name__}")
        check_seconds("timeout", timeout)
        self.name = name
        self._wording = Wording(title, body, format)
        self._target = AppriseTarget(name, url, _check_tags(tags), environ)
        self._timeout = timeout
        self._calls: DaemonCalls | None = None

    def __repr__(self) -> str:
        return f"<AppriseChannel {self.name} ({self._target.scheme})>"

    async def open(self) -> None:
        """Load Apprise and set up the target.

        Raises:
            MissingExtraError: Apprise is not installed.
            ChannelError: Apprise does not take the URL, or nothing sent to it would arrive anywhere.
        """
        self._calls = DaemonCalls(f"apprise {self.name}", _MAX_CALLS)
        try:
            await self._calls.run(self._target.load)
        except BaseException:
            await self.close()
            raise

    async def send(self, events: Sequence[Event]) -> None:
        failed: dict[str, Exception] = {}
        done = 0
        try:
            for event in events:
                try:
                    await self._deliver(event)
                except ChannelError as error:
                    failed[event.id] = error
                    if getattr(error, "retry_after", None):  # it asked for a pause, so the others wait too
                        failed.update((other.id, error) for other in events[done:])
                        break
                done += 1
        except asyncio.CancelledError:
            # Cut off by the timeout: say what got through, so that only the rest is sent again.
            cut_off = ChannelRetryableError(f"{self._target} was cut off before it was done")
            failed.update((event.id, cut_off) for event in events[done:])
        if failed:
            raise PartialDeliveryError(failed)

    async def close(self) -> None:
        calls, self._calls = self._calls, None
        if calls is not None:
            calls.close()

    async def _deliver(self, event: Event) -> None:
        if self._calls is None:
            raise ChannelError(f"{self._target} is not open")
        try:
            await self._calls.run(self._notify, event, timeout=self._timeout)
        except TimeoutError:
            raise ChannelRetryableError(f"{self._target}: no answer within {self._timeout:g} s") from None
        except NoThreadError as error:
            raise ChannelRetryableError(f"{self._target} makes no further call: {error}") from None

    def _notify(self, event: Event) -> None:
        self._target.notify(self._message(event))

    def _message(self, event: Event) -> Message:
        try:
            return self._wording.message(event)
        except TemplateError as error:
            raise ChannelPermanentError(f"{self._target}: a template failed, {error}") from None
        except Exception as error:
            why = f"the event cannot be shown, {type(error).__name__}"
            raise ChannelPermanentError(f"{self._target}: {why}") from error


def _check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    if isinstance(tags, str):
        raise TypeError("tags are a list of texts; put the one into a list")
    checked = tuple(tags)
    for tag in checked:
        if not isinstance(tag, str):
            raise TypeError(f"a tag is a text, not {type(tag).__name__}")
        if _TAG.fullmatch(tag) is None:
            raise ValueError(f"a tag is not empty, and has no spaces and none of , ; | /: {tag!r} is none")
    return checked
