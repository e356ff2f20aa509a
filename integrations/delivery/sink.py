"""The two kinds of sink, inline and queued, and the options to attach them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from inspect import iscoroutinefunction, isfunction, ismethod

from codomyrmex.integrations.delivery.dead_letters import DeadLetters
from codomyrmex.integrations.delivery.health import SinkProblem
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.streaming import Clock, Event, FilterFunction, Stream
from codomyrmex.streaming.clock import SYSTEM_CLOCK


class InlineSink(ABC):
    """A destination that takes microseconds and needs the publisher's context, such as a logger.

    Attributes:
        name: identifies it in reports and logs; unique in an attachment.
        drain_timeout: seconds that `close` may take if `aclose()` is called without a timeout.
    """

    name: str
    drain_timeout: float = 0.0

    async def open(self) -> None:  # noqa: B027 - optional
        """Prepare; called once before the first `emit`, and again in a forked process."""

    async def flush(self) -> None:  # noqa: B027 - optional
        """Wait until everything emitted before is processed."""

    async def close(self) -> None:  # noqa: B027 - optional
        """Release what `open` acquired; called once, also after failures."""

    def problem(self) -> SinkProblem | None:
        """Return what works only in part behind the sink, such as one of its channels; None if all works.

        The health of the sink shows it. May be called from any thread.
        """
        return None

    def bind(self, stream: Stream, topic: str, filter_fn: FilterFunction | None) -> None:  # noqa: B027 - optional
        """Note what the sink is attached to; called once, before `open`.

        Args:
            stream: the stream.
            topic: the topic or pattern of the events that are emitted.
            filter_fn: a function that returns true for these events, or None.
        """

    @abstractmethod
    def emit(self, event: Event) -> None:
        """Deliver an event, during publish and in the publisher's context.

        Exceptions are counted and logged, and never reach the publisher.

        Raises:
            DroppedError: the event is left out on purpose; counted by reason, and not logged.
        """


class Sink(ABC):
    """A destination that may be slow or unavailable, such as a network service. It has a bounded queue.

    Attributes:
        name: identifies it in reports and logs; unique in an attachment.
    """

    name: str

    async def open(self) -> None:  # noqa: B027 - optional
        """Prepare; called once before the first `send`, and again in a forked process."""

    @abstractmethod
    async def send(self, events: Sequence[Event]) -> None:
        """Deliver a batch of events in order. There is only one call at a time.

        Returning means that all events are delivered. A call that takes longer than the timeout of the policy
        is cancelled and has failed.

        Raises:
            RetryableError: no event was delivered; they are retried later.
            PermanentError: no event was delivered, and none will be; they are given up.
            PartialDeliveryError: the events it names were not delivered; each is retried or given up.
            Exception: like `RetryableError`.
        """

    async def close(self) -> None:  # noqa: B027 - optional
        """Release what `open` acquired; called once, also after failures."""

    @staticmethod
    def from_function(send: Callable[[Sequence[Event]], Awaitable[None]], *, name: str) -> Sink:
        """Return a sink that sends with an async function.

        Args:
            send: an async function of a sequence of events, as `Sink.send`.
            name: identifies the sink in reports and logs.

        Raises:
            TypeError: `send` is not an async function.
        """
        if not is_async(send):
            raise TypeError(
                f"send: must be declared as `async def send(events)`, got {send!r}; call a blocking function "
                "with `await asyncio.to_thread(...)`"
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
    """A sink with its own topic, filter or policy; omitted options are those of the attachment.

    Args:
        sink: where the events go.
        topic: a topic or a pattern.
        filter_fn: a plain function; only events for which it returns true are delivered.
        policy: how events are queued and sent; not for inline sinks.
        group: on a durable stream, the name of the group that reads the events for this sink, of which one
            process at a time delivers; by default the name of the sink.
        shards: on a durable stream, the number of parts of the group, each of which one process delivers.
        shard_by: what the events of a shard have in common: `topic`, or a key of the metadata.
        after: on a durable stream, where a new group begins: a cursor, `"earliest"`, or None for the end.
    """

    sink: InlineSink | Sink
    topic: str | None = None
    filter_fn: FilterFunction | None = None
    policy: DeliveryPolicy | None = None
    group: str | None = None
    shards: int = 1
    shard_by: str = "topic"
    after: str | None = None

    @property
    def needs_groups(self) -> bool:
        """Whether an option is set that only a durable stream has."""
        return (self.group, self.shards, self.shard_by, self.after) != (None, 1, "topic", None)


@dataclass(frozen=True, kw_only=True)
class AttachOptions:
    """The options that `attach` and `attach_blocking` share; `attach` documents them."""

    topic: str = "*"
    filter_fn: FilterFunction | None = None
    policy: DeliveryPolicy | None = None
    dead_letters: DeadLetters | Stream | None = None
    health_stream: Stream | None = None
    clock: Clock = SYSTEM_CLOCK

    def __post_init__(self) -> None:
        check_type("policy", self.policy, DeliveryPolicy, None)
        check_type("dead_letters", self.dead_letters, DeadLetters, Stream, None)
        check_type("health_stream", self.health_stream, Stream, None)
        if not (hasattr(self.clock, "monotonic") and hasattr(self.clock, "call_later")):
            raise TypeError(f"clock: must have monotonic() and call_later(), got {self.clock!r}")


def is_async(function: object) -> bool:
    """Return whether calling an object returns a coroutine; understands partials and callable objects."""
    target = getattr(function, "func", function)  # functools.partial
    if isfunction(target) or ismethod(target) or not callable(target):
        return iscoroutinefunction(target)
    return iscoroutinefunction(target) or iscoroutinefunction(type(target).__call__)


def check_sink(sink: InlineSink | Sink) -> None:
    """Raise an error unless an object is a usable sink.

    Raises:
        TypeError: it is not a sink, has no name, or has methods of the wrong kind.
    """
    if not isinstance(sink, (InlineSink, Sink)):
        raise TypeError(f"sink: must be a Sink or an InlineSink, got {_describe(sink)}")
    kind, name = type(sink).__name__, getattr(sink, "name", None)
    if not isinstance(name, str) or not name:
        raise TypeError(f"{kind}.name: must be a non-empty string, got {name!r}")
    if isinstance(sink, InlineSink) and is_async(sink.emit):
        raise TypeError(f"{kind}.emit: must not be async; derive from Sink if it has to wait")
    for method in ("open", "flush" if isinstance(sink, InlineSink) else "send", "close"):
        if not is_async(getattr(sink, method)):
            raise TypeError(f"{kind}.{method}: must be async; declare it with `async def`")


def _describe(value: object) -> str:
    """Describe what was passed instead of a sink, and the remedy."""
    if isinstance(value, type):
        return f"the class {value.__name__}; create an instance, {value.__name__}(...)"
    if is_async(value):
        return "an async function; wrap it with Sink.from_function(function, name=...)"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__}; unpack it with *"
    return type(value).__name__


def check_type(name: str, value: object, *kinds: type | None) -> None:
    """Raise a `TypeError` unless a value is an instance of one of some types, or None."""
    if not any(value is None if kind is None else isinstance(value, kind) for kind in kinds):
        allowed = " or ".join("None" if kind is None else kind.__name__ for kind in kinds)
        raise TypeError(f"{name}: must be {allowed}, got {type(value).__name__}")
