"""The two kinds of destination: one that takes microseconds, and one that may be slow or absent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from inspect import iscoroutinefunction, isfunction, ismethod

from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.streaming import Event, FilterFunction


class InlineSink(ABC):
    """A destination that takes microseconds and needs the publisher's context, such as a logger.

    Attributes:
        name: what it is called in reports and logs; one name for each sink of an attachment.
        drain_timeout: seconds that `close` may take, where the attachment is not closed with others.
    """

    name: str
    drain_timeout: float = 0.0

    async def open(self) -> None:  # noqa: B027 - most have nothing to open
        """Get ready; called once before the first `emit`, and once more in a process forked since."""

    async def flush(self) -> None:  # noqa: B027 - most have nothing that waits
        """Wait until what was emitted before is dealt with."""

    async def close(self) -> None:  # noqa: B027 - as above
        """End what goes on behind the sink; called once, also after failures."""

    @abstractmethod
    def emit(self, event: Event) -> None:
        """Take an event, during publish and in the publisher's own context.

        What it raises is counted and logged, and never reaches the publisher.

        Raises:
            DroppedError: it leaves this event out; counted by reason, and not logged.
        """


class Sink(ABC):
    """A destination that may be slow or absent, such as a network. It runs behind a bounded queue.

    Attributes:
        name: what it is called in reports and logs; one name for each sink of an attachment.
    """

    name: str

    async def open(self) -> None:  # noqa: B027 - most sinks have nothing to open
        """Get ready; called once before the first `send`, and once more in a process forked since."""

    @abstractmethod
    async def send(self, events: Sequence[Event]) -> None:
        """Deliver events, in order; one call at a time.

        Returning says that all of them are delivered. A call that takes longer than the timeout of the
        policy is cancelled and counts as failed.

        Raises:
            RetryableError: none was; they are sent again later.
            PermanentError: none was, and none will be; they are given up.
            PartialDeliveryError: those that it names were not; each is sent again or given up.
            Exception: as `RetryableError`.
        """

    async def close(self) -> None:  # noqa: B027 - as above
        """Give back what `open` took; called once, also after failures."""

    @staticmethod
    def from_function(send: Callable[[Sequence[Event]], Awaitable[None]], *, name: str) -> Sink:
        """Make a sink of an async function of a sequence of events.

        Args:
            send: does what `Sink.send` does, and raises what it raises.
            name: what the sink is called in reports and logs.

        Raises:
            TypeError: it is not an async function.
        """
        if not is_async(send):
            raise TypeError(
                f"a sink is made of `async def send(events)`, not of {send!r}; "
                "one that blocks can be called with `await asyncio.to_thread(...)`"
            )
        return _FunctionSink(send, name)


class _FunctionSink(Sink):
    def __init__(self, send: Callable[[Sequence[Event]], Awaitable[None]], name: str) -> None:
        self.name = name
        self._send = send

    async def send(self, events: Sequence[Event]) -> None:
        await self._send(events)


@dataclass(frozen=True, slots=True)
class Binding:
    """A sink with a topic, a filter or a policy of its own; what is left out is the attachment's.

    Args:
        sink: where the events go.
        topic: a topic or a pattern.
        filter_fn: only the events it is true for are delivered.
        policy: how they are queued and sent; an inline sink has none.
    """

    sink: InlineSink | Sink
    topic: str | None = None
    filter_fn: FilterFunction | None = None
    policy: DeliveryPolicy | None = None


def is_async(function: object) -> bool:
    """Tell whether calling something gives a coroutine: a function, a partial, or an object."""
    target = getattr(function, "func", function)  # functools.partial
    if isfunction(target) or ismethod(target) or not callable(target):
        return iscoroutinefunction(target)
    return iscoroutinefunction(target) or iscoroutinefunction(type(target).__call__)
