"""What the parts of delivery know of each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from codomyrmex.integrations.delivery.dead_letters import DeadLetter
from codomyrmex.integrations.delivery.health import SinkHealth, SinkState
from codomyrmex.integrations.delivery.report import SinkReport
from codomyrmex.integrations.delivery.sink import InlineSink, Sink
from codomyrmex.streaming import Event


class Worker(Protocol):
    """What an attachment knows of each sink."""

    @property
    def name(self) -> str:
        """The name of the sink."""

    @property
    def sink(self) -> InlineSink | Sink:
        """The sink."""

    @property
    def drain_timeout(self) -> float:
        """Seconds that its end takes at most, unless told otherwise."""

    def take(self, event: Event) -> object:
        """Take an event from the stream; never raises. With BLOCK it may give what to await."""

    async def start(self) -> None:
        """Open the sink."""

    def flush(self) -> asyncio.Future[None] | None:
        """Send at once, and give what is done when all taken before is delivered or given up."""

    async def stop(self, timeout: float | None) -> None:  # noqa: ASYNC109 - part of one overall deadline
        """Deliver what is queued within `timeout` seconds, or those of its policy; close the sink."""

    def cut(self) -> None:
        """Deliver no more: a `stop` that goes on, or is to come, ends at once."""

    def after_fork(self) -> None:
        """Forget, in a child process, what is the parent's."""

    def renew_after_fork(self, start: Callable[[], None]) -> None:
        """Begin anew in a child process, and call `start` once there is something to deliver."""

    def report(self) -> SinkReport:
        """Give the numbers up to now."""

    def health(self) -> SinkHealth:
        """Tell how the sink is."""


class QueuedSink(Protocol):
    """What is known of a sink whose worker tells something."""

    @property
    def name(self) -> str:
        """The name of the sink."""

    @property
    def sink(self) -> Sink:
        """The sink."""

    def report(self) -> SinkReport:
        """Give the numbers up to now."""

    def health(self) -> SinkHealth:
        """Tell how the sink is."""


class Watcher(Protocol):
    """What a worker tells as it happens. None of these raises or waits."""

    def died(self, worker: QueuedSink, letters: list[DeadLetter]) -> None:
        """Events were given up."""

    def changed(self, worker: QueuedSink, old: SinkState) -> None:
        """The state of the sink is another one."""

    def attempted(self, worker: QueuedSink, seconds: float, error: str | None) -> None:
        """An attempt has ended; `error` is the class of what went wrong."""
