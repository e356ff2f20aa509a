"""What all channels have in common: their options in a configuration, and the errors that they raise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.rates import RateLimit
from codomyrmex.integrations.delivery.errors import DeliveryError, PermanentError, RetryableError
from codomyrmex.integrations.delivery.sink import Sink
from codomyrmex.integrations.notification.templates import TemplateError, compile_template
from codomyrmex.streaming import Event


class ChannelError(DeliveryError):
    """A channel could not be set up, or a delivery failed for an unknown reason and is retried.

    The message has the name and the scheme of the channel, never its URL.
    """


class ChannelRetryableError(ChannelError, RetryableError):
    """A delivery failed and may succeed later."""


class ChannelPermanentError(ChannelError, PermanentError):
    """A delivery failed, and a retry would fail too."""


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

    def create(self) -> Sink:
        """Create the channel."""
        raise NotImplementedError


class UndeliverableChannel(ChannelConfig, kw_only=True, frozen=True):
    """The channel of a receiver whose blocks are all for other programs: each notification fails.

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
