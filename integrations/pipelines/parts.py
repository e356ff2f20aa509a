"""What the parts of a pipeline have in common: their base classes, value types and shared context."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, Self, TypeVar

import msgspec
from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.environment import Secret, is_header_text
from codomyrmex.integrations.configuration.problems import Problem
from codomyrmex.integrations.delivery.attachment import Attachment, attach
from codomyrmex.integrations.delivery.health import SinkHealth
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.delivery.sink import Binding, InlineSink, Sink
from codomyrmex.integrations.pipelines.fields import ConditionLine, condition
from codomyrmex.integrations.pipelines.stdin import StandardInput
from codomyrmex.integrations.service_mesh.board import CircuitBoard
from codomyrmex.streaming import Event, InMemoryStream, Overflow, Stream
from codomyrmex.streaming.topics import check_pattern

if TYPE_CHECKING:
    from codomyrmex.integrations.pipelines.spool import Spool

T = TypeVar("T")
Push = Callable[[list[Event]], Awaitable[bool]]  # returns False if the spool has refused an event
Step = Callable[[Event], Any]  # returns an event, a list of events, or None; plain or async

_BLOCK = DeliveryPolicy(overflow=Overflow.BLOCK, batch_size=1_000, queue_size=10_000, batch_age=0.2)


class FieldError(ValueError):
    """A part cannot be built because of one of its fields.

    Args:
        field: the name of the field.
        problem: what is wrong with its value.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


# Values


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port."""

    expects: ClassVar[str] = "an address like 127.0.0.1:8000"
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        host, colon, port = text.rpartition(":")
        if not colon:
            host, port = "127.0.0.1", text
        if re.fullmatch("[0-9]{1,5}", port) is None or int(port) > 65535:  # noqa: PLR2004 - 16 bits
            raise ValueError(f"expected {cls.expects}, got {text!r}")
        return cls(host.strip("[]") or "0.0.0.0", int(port))  # noqa: S104 - as it is written

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Size(int):
    """A number of bytes, written like `10MB` or `64KiB`."""

    expects: ClassVar[str] = "a size like 10MB"

    @classmethod
    def parse(cls, text: str) -> Self:
        match = re.fullmatch(r"([0-9]{1,12})\s*(?:([kKMG])(i?)B|B?)", text)
        if match is None:
            raise ValueError(f"expected {cls.expects}, got {text!r}; the units are kB, MB, GB, KiB, MiB, GiB")
        base = 1024 if match[3] else 1000
        return cls(int(match[1]) * base ** " KMG".index((match[2] or " ").upper()))


class Topic(str):
    """A topic or a pattern of topics."""

    __slots__ = ()
    expects: ClassVar[str] = "a topic"

    @classmethod
    def parse(cls, text: str) -> Self:
        check_pattern(text)
        return cls(text)


class Token(Secret):
    """A bearer token."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        if not (is_header_text(text) and text.strip()):
            raise ValueError("must be printable ASCII and not empty")
        return cls(text)


# What the parts of one pipeline share


class Context:
    """What the parts of one pipeline share.

    Args:
        folder: where relative paths begin.
        stdin: the standard input; `sys.stdin` by default.
        spool: keeps the events until they are delivered.

    Attributes:
        stream: the events on their way to the sinks.
        attachment: delivers `stream` to the sinks.
        sinks: the sinks that are attached, by name.
        audit: receives the decisions of alert sinks.
        failing: the sinks whose last attempt failed.
        stdin: the lines of the standard input.
        stdout_closed: set when the reader of the standard output has gone away.
        notes: settings that are accepted but not used, found while building the parts.
    """

    def __init__(self, folder: Path, stdin: BinaryIO | None = None, spool: Spool | None = None) -> None:
        self.folder = folder
        self.spool = spool
        self.stream: Stream = InMemoryStream(buffer_size=1) if spool is None else spool.stream
        self.attachment: Attachment = attach(self.stream)
        self.sinks: dict[str, InlineSink | Sink] = {}
        self.failing: set[str] = set()
        self.attachment.on_attempt(self._attempted)
        self.audit = InMemoryStream(buffer_size=1_000)
        self.stdin = StandardInput(stdin)
        self.stdout_closed = asyncio.Event()
        self.notes: list[Problem] = []

    def _attempted(self, sink: str, _: float, error: str | None) -> None:
        if error in {None, "PermanentError", "PartialDeliveryError"}:  # it has refused or accepted some
            self.failing.discard(sink)
        else:
            self.failing.add(sink)

    async def settle(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - passed on
        """Wait until what was pushed cannot be lost any more, and return whether that is so.

        It is in the spool, or was delivered and no sink fails.
        """
        if self.spool is not None:
            return True
        return await self.attachment.flush(timeout) and not self.failing

    def health(self) -> Mapping[str, SinkHealth]:
        """Return the health of each sink by name, and that of the spool."""
        spool = {} if self.spool is None else {"spool": self.spool.health()}
        return {**spool, **self.attachment.health()}

    @cached_property
    def board(self) -> CircuitBoard:
        """The circuit breakers that events are about."""
        return CircuitBoard(self.stream)


class PartConfig(msgspec.Struct, frozen=True):
    """The settings of a part: the base class of each type of source, step and sink.

    Attributes:
        templates: whether braces have a meaning in its texts, so that those of `${NAME}` are escaped.
    """

    templates: ClassVar[bool] = False

    def reads(self, _context: Context) -> Iterable[tuple[str, Path]]:
        """Return the files that the part reads, each with the name of the field."""
        return ()

    def writes(self, _context: Context) -> Iterable[tuple[str, Path]]:
        """Return the files that the part writes, each with the name of the field."""
        return ()

    def build(self, name: str, context: Context) -> Any:
        """Return the part: a `Source`, a `Step`, or a sink. Nothing is opened yet.

        Args:
            name: the name in reports and logs.
            context: what the part shares with the others.

        Raises:
            ValueError: a setting is wrong; a `FieldError` names it.
            ConfigError: a file that the part reads is invalid.
            MissingExtraError: a package is not installed.
        """
        raise NotImplementedError


class Source(ABC):
    """An input of a pipeline, which pushes events in a separate task.

    Args:
        name: the name in reports and logs.

    Attributes:
        unfinished: how many lines were read but not pushed.
        finishing: set when `run` should end.
        keeps: whether input that is not in the spool yet is not lost at the end: the source reads it again at
            the next start, or whoever sent it has been told.
    """

    unfinished = 0
    keeps = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.finishing = asyncio.Event()

    async def open(self) -> None:  # noqa: B027 - most have nothing to open
        """Open the input.

        Raises:
            OSError: it cannot be opened.
        """

    @abstractmethod
    async def run(self, push: Push) -> None:
        """Push events until the input ends, or until `finishing` is set and all events read are pushed."""

    async def aclose(self) -> None:  # noqa: B027 - as with `open`
        """Release what `open` acquired. Called once, after `run` if that was called."""

    async def delivered(self) -> None:  # noqa: B027 - as with `open`
        """Save that everything pushed was delivered. Called after `aclose`, unless something was lost."""

    def skipped(self) -> dict[str, int]:
        """Return how much of the input did not become events, by reason."""
        return {}

    async def unless_finishing(self, awaitable: Awaitable[T]) -> T | None:
        """Return the result of an awaitable; or cancel it and return None when `run` should end."""
        task = asyncio.ensure_future(awaitable)
        finishing = asyncio.create_task(self.finishing.wait())
        try:
            await asyncio.wait({task, finishing}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            finishing.cancel()
            task.cancel()
            await asyncio.wait({task})


class StepConfig(PartConfig, frozen=True):
    """The settings of a step: the base class of each type of step."""


class Delivery(msgspec.Struct, frozen=True):
    """The `delivery` of a queued sink: what differs from the policy of pipelines."""

    queue_size: int | None = None
    overflow: Literal["block", "drop_oldest", "drop_newest"] | None = None
    batch_size: int | None = None
    batch_age: Duration | None = None
    timeout: Duration | None = None
    max_attempts: int | None = None
    drain_timeout: Duration | None = None

    def policy(self) -> DeliveryPolicy:
        """Return the policy."""
        settings = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        if self.overflow is not None:
            settings["overflow"] = Overflow(self.overflow)
        return replace(_BLOCK, **settings)


class SinkConfig(PartConfig, frozen=True):
    """The settings of a sink: the base class of each type of sink.

    Attributes:
        shows_alerts: whether the sink needs the alert sinks, which are opened before it then.
    """

    shows_alerts: ClassVar[bool] = False
    name: str | None = None
    topic: Topic = Topic("*")
    where: list[ConditionLine] = []
    delivery: Delivery | None = None

    def bind(self, name: str, context: Context) -> Binding:
        """Return the sink with its topic, its conditions and its policy; errors are those of `build`."""
        sink: InlineSink | Sink = self.build(name, context)
        policy: DeliveryPolicy | None = None
        if not isinstance(sink, InlineSink):
            policy = (self.delivery or Delivery()).policy()
        elif self.delivery is not None:
            raise FieldError("delivery", "this sink has no queue, so it has no delivery settings")
        conditions = [each for line in self.where for each in line.conditions]
        return Binding(sink, self.topic, condition("*", conditions), policy)


class Server:
    """An ASGI application that is served over HTTP, from `open` to `aclose`.

    Args:
        app: the application; its `aclose` is called first at the end.
        address: where to listen.
        token: required from each client; None only on a loopback address.
        context: provides what `/livez`, `/readyz` and `/metrics` say, which are served beside it.

    Raises:
        FieldError: the address is public and there is no token.
    """

    def __init__(self, app: Callable[[], Any], address: Address, token: str | None, context: Context) -> None:
        from codomyrmex.integrations.web.serve import check_address

        try:
            check_address(address.host, token)
        except ValueError as error:
            raise FieldError("listen", str(error)) from None
        self._app = app
        self._address = address
        self._token = token
        self._context = context
        self._stack = AsyncExitStack()
        self.url = ""

    async def open(self) -> None:
        """Listen.

        Raises:
            OSError: the address is in use, or is not one of this host.
        """
        from codomyrmex.integrations.web.monitoring import Monitored
        from codomyrmex.integrations.web.serve import serving

        app = Monitored(self._app(), self._context.attachment, self._context.stream)
        server = serving(app, self._address.host, self._address.port, self._token)
        try:
            self.url = await self._stack.enter_async_context(server)
        except OSError as error:
            reason = (error.strerror or str(error)).partition(" (while")[0]
            raise OSError(f"cannot listen on {self._address}: {reason}") from None

    async def aclose(self) -> None:
        """End the connections and stop listening."""
        await self._stack.aclose()
