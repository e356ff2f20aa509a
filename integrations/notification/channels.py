"""What all channels have in common: their options in a configuration, their errors, and how they send."""

from __future__ import annotations

import asyncio
import hashlib
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, ClassVar, Literal

import msgspec
from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.rates import RateLimit
from codomyrmex.integrations.delivery.errors import (
    DeliveryError,
    PartialDeliveryError,
    PermanentError,
    RetryableError,
)
from codomyrmex.integrations.delivery.sink import Sink
from codomyrmex.integrations.notification.templates import TemplateError, compile_template
from codomyrmex.streaming import Event

_RETRYABLE = frozenset({408, 425, 429})
_MAX_RETRY_AFTER = 86_400.0  # seconds


class ChannelError(DeliveryError):
    """A channel could not be set up, or a delivery failed for an unknown reason and is retried.

    The message has the name and the scheme of the channel, never its URL.
    """


class ChannelRetryableError(ChannelError, RetryableError):
    """A delivery failed and may succeed later."""


class ChannelPermanentError(ChannelError, PermanentError):
    """A delivery failed, and a retry would fail too."""


def is_retryable(status: int) -> bool:
    """Return whether the same request may succeed later (RFC 9110, 8470 and 6585)."""
    return status in _RETRYABLE or status >= 500  # noqa: PLR2004


def parse_retry_after(header: str | None, now: datetime) -> float | None:
    """Return the seconds of a `Retry-After` (RFC 9110, section 10.2.3), at most a day; None if invalid."""
    if header is None:
        return None
    if re.fullmatch(r"\s*[0-9]+\s*", header, re.ASCII):
        seconds = float(header)
    else:
        try:
            date = parsedate_to_datetime(header)
        except (TypeError, ValueError):
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)


def deduplication_key(notification: object) -> str:
    """Return what identifies the group of a notification in a service: the hex SHA-256 of its group key."""
    key = notification.get("groupKey") if isinstance(notification, Mapping) else None
    return hashlib.sha256(str(key or "").encode()).hexdigest() if key else ""


class ChannelConfig(msgspec.Struct, kw_only=True, frozen=True):
    """The options of a channel of a receiver. A channel type adds its own, and `create`.

    The loader expands `${NAME}` in values of the type `Secret`.

    Args:
        name: the receiver and the number of the channel, such as `oncall[0]`; set by the loader.
        send_resolved: whether to notify about resolved alerts.
        title: a template; the default title if None.
        body: a template; the default body if None.
        format: the format of the body.
        timeout: seconds per attempt.
        rate_limit: the limit beyond which notifications are combined into a summary.
    """

    __internal__: ClassVar[frozenset[str]] = frozenset({"name"})

    name: str = ""
    send_resolved: bool = True
    title: str | None = None
    body: str | None = None
    format: Literal["text", "markdown", "html"] = "text"
    timeout: Duration = Duration(10)
    rate_limit: Annotated[RateLimit, RateLimit] | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield each problem with the option that has it, or an empty text for the whole channel."""
        for name, source in (("title", self.title), ("body", self.body)):
            if source is not None:
                try:
                    compile_template(source, self.format)
                except TemplateError as error:
                    yield name, str(error)
        if self.timeout <= 0:
            yield "timeout", f"must be greater than 0, got {self.timeout}"

    def findings(self) -> Iterator[tuple[str, str]]:
        """Yield what `lint` should say about the channel, as `problems` does."""
        yield from ()

    def notes(self) -> Iterator[tuple[str, str]]:
        """Yield what the file asks for and the channel does not do, as `problems` does."""
        yield from ()

    def sends_groups_separately(self) -> bool:
        """Return whether each group needs its own notification, as it has its own incident in the service."""
        return False

    def create(self) -> Sink:
        """Create the channel."""
        raise NotImplementedError


class ChannelSink(Sink):
    """A sink that delivers one event after another."""

    @abstractmethod
    async def deliver(self, event: Event) -> None:
        """Deliver an event.

        Raises:
            ChannelError: it was not delivered.
        """

    async def send(self, events: Sequence[Event]) -> None:
        failed: dict[str, Exception] = {}
        finished = 0
        try:
            for event in events:
                try:
                    await self.deliver(event)
                except ChannelError as error:
                    failed[event.id] = error
                    if getattr(error, "retry_after", None):  # the server asked for a pause
                        failed.update((other.id, error) for other in events[finished:])
                        break
                finished += 1
        except asyncio.CancelledError:
            # Report what was delivered before the timeout, so that only the others are retried.
            interrupted = ChannelRetryableError(f"{self} was interrupted before it finished")
            failed.update((event.id, interrupted) for event in events[finished:])
        if failed:
            raise PartialDeliveryError(failed)


class UndeliverableChannel(ChannelConfig, kw_only=True, frozen=True):
    """A channel of a type that delivers nothing here: each notification fails.

    Args:
        reason: why it fails.
    """

    reason: str

    def create(self) -> Sink:
        """Create a sink that refuses everything."""
        return _Refusing(self.name, self.reason)


class _Refusing(Sink):
    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self._reason = reason

    async def send(self, events: Sequence[Event]) -> None:  # noqa: ARG002 - all fail
        raise ChannelPermanentError(self._reason)


class ApplicationChannel(ChannelConfig, kw_only=True, frozen=True):
    """A sink of the application as a channel of a receiver."""

    sink: Sink

    def create(self) -> Sink:
        """Return the sink of the application."""
        return self.sink
