"""`attach`: binds sinks to a stream for the lifetime of an application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from codomyrmex.integrations.delivery.dead_letters import DeadLetter, DeadLetters, letters_in
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.forks import keep_in_children
from codomyrmex.integrations.delivery.groups import GroupStream, HealthReport
from codomyrmex.integrations.delivery.health import DrainReport, SinkHealth, SinkReport
from codomyrmex.integrations.delivery.members import Member, make_member
from codomyrmex.integrations.delivery.observers import AttemptObserver, Observers, SendHook
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.delivery.sending import SendingWorker
from codomyrmex.integrations.delivery.sink import (
    AttachOptions,
    Binding,
    InlineSink,
    Sink,
    check_type,
)
from codomyrmex.integrations.delivery.worker import GRACE, done_within
from codomyrmex.streaming import Clock, FilterFunction, Stream
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from codomyrmex.streaming.forks import renew_in_children

_logger = logging.getLogger(__name__)
_log = Diagnostics(__name__)


def attach(
    stream: Stream,
    *sinks: InlineSink | Sink | Binding,
    topic: str = "*",
    filter_fn: FilterFunction | None = None,
    policy: DeliveryPolicy | None = None,
    dead_letters: DeadLetters | Stream | None = None,
    health_stream: Stream | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Attachment:
    """Deliver a stream's events to sinks for as long as a context lasts.

    `async with attach(stream, StructlogSink(), AppriseChannel("ops", url)):`. On exit, queued events are
    still delivered within the drain timeout, and losses are logged. Events that are published before it is
    entered are dropped. Events are queued by reference: publish a copy of data that will be changed.

    Args:
        stream: where the events come from.
        *sinks: where they go; a slow or failing one affects neither the publisher nor other sinks. Use
            `Binding(sink, ...)` for a sink with its own topic, filter or policy.
        topic: a topic or a pattern.
        filter_fn: a plain function; only events for which it returns true are delivered.
        policy: how events are queued, sent and retried.
        dead_letters: where events that were given up go: kept by a `DeadLetters`, or published to a stream as
            ERROR events with the topic `dead_letter`.
        health_stream: receives an event for each state change of a queued sink, with the topic
            `sink.<name>.<state>` and the type ERROR if the state is worse. It may be `stream` itself: events
            about a sink are not delivered to that sink.
        clock: the source of time; for tests.

    Raises:
        ValueError: two sinks have the same name.
        TopicError: the topic pattern is malformed; a `ValueError`.
        TypeError: an argument or a method of a sink has the wrong type.
    """
    options = AttachOptions(
        topic=topic,
        filter_fn=filter_fn,
        policy=policy,
        dead_letters=dead_letters,
        health_stream=health_stream,
        clock=clock,
    )
    attachment = Attachment(stream, sinks, options)
    renew_in_children(attachment, last=True)
    return attachment


class Attachment:
    """Sinks that are attached to a stream; returned by `attach`."""

    def __init__(
        self, stream: Stream, sinks: Iterable[InlineSink | Sink | Binding], options: AttachOptions
    ) -> None:
        check_type("stream", stream, Stream)
        self._stream = stream
        self._options = options
        self._members: dict[str, Member] = {}
        self._removed: dict[str, SinkReport] = {}
        self._observers = Observers(options.dead_letters, options.health_stream)
        self._started = False
        self._closed = False
        self._forked = False
        self._drain_task: asyncio.Task[None] | None = None
        self._resuming: asyncio.Task[None] | None = None
        self._reports_health = False  # to the other processes
        self._health_report: HealthReport | None = None
        for member in [self._enter(sink) for sink in sinks]:
            member.subscribe(self._stream)

    def report(self) -> DrainReport:
        """Return the balance of each sink up to now; queued events count as lost until they are delivered."""
        reports = dict(self._removed)
        for name, member in tuple(self._members.items()):
            report = member.worker.report()
            reports[name] = report if name not in reports else reports[name].plus(report)
        return DrainReport(reports)

    def health(self) -> Mapping[str, SinkHealth]:
        """Return the current health of each sink by name. May be called from any thread."""
        return {name: member.worker.health() for name, member in tuple(self._members.items())}

    def reports_to(self, stream: Stream) -> bool:
        """Return whether the health of the sinks is reported to the other processes of a durable stream."""
        return self._reports_health and stream is self._stream

    def on_attempt(self, observer: AttemptObserver) -> None:
        """Call a function after each attempt to send a batch, for metrics.

        Args:
            observer: a function of the sink's name, the seconds that the attempt took, and the class name of
                the error or None. It runs on the event loop that sends and must not block.
        """
        self._observers.attempts += (observer,)

    def on_send(self, hook: SendHook) -> None:
        """Enter a context manager around each `sink.send(events)`, in the task that sends, for tracing.

        It sees the error of a failed attempt but cannot suppress it. Its own errors are logged. Hooks are
        nested in the order they were added.

        Args:
            hook: a function of the sink and the events that returns the context manager. It runs on the event
                loop that sends and must not block.
        """
        self._observers.sends += (hook,)

    @property
    def drain_timeout(self) -> float:
        """Seconds that closing takes at most by default: the longest drain timeout of all sinks."""
        return max((member.worker.drain_timeout for member in tuple(self._members.values())), default=0.0)

    async def start(self) -> Self:
        """Open the sinks and begin to deliver. If one cannot be opened, the others are closed again.

        Raises:
            RuntimeError: it was started before.
            DeliveryError: a sink did not open within the timeout of its policy.
            Exception: raised by the `open` of a sink, with a note that names the sink.
        """
        if self._started:
            raise RuntimeError("attachment: it can be started only once; attach again")
        self._started = True
        keep_in_children(asyncio.get_running_loop())
        try:
            for member in tuple(self._members.values()):
                await self._begin(member)
        except BaseException:
            await self.aclose(0)
            raise
        if isinstance(self._stream, GroupStream) and not self._closed:
            self._reports_health = True
            self._health_report = self._stream.report_health(self.health)
        return self

    async def add(self, sink: InlineSink | Sink | Binding) -> None:
        """Attach another sink, before or while the others run.

        Raises:
            ValueError: a sink with this name is attached.
            RuntimeError: the attachment is closed.
            Exception: raised by the `open` of the sink, which is not attached then.
        """
        if self._closed:
            raise RuntimeError("attachment: it is closed; attach again")
        member = self._enter(sink)
        try:
            member.subscribe(self._stream)
            if self._started:
                await self._begin(member)
        except BaseException:
            member.unsubscribe()
            self._forget(member)
            raise

    async def remove(self, sink: InlineSink | Sink | str, timeout: float | None = None) -> SinkReport:  # noqa: ASYNC109 - counted by the clock
        """Detach a sink: it receives no more events, delivers what is queued, and is closed.

        Args:
            sink: the sink, or its name.
            timeout: seconds to deliver what is queued; by default the drain timeout of its policy.

        Returns:
            The balance of its events, which the report of the attachment includes as well.

        Raises:
            KeyError: no such sink is attached.
        """
        check_type("timeout", timeout, int, float, None)
        name = sink if isinstance(sink, str) else sink.name
        member = self._members.get(name)
        if member is None or not (isinstance(sink, str) or member.worker.sink is sink):
            raise KeyError(f"sink {name!r}: not attached; another sink may have this name")
        member.unsubscribe()
        await member.worker.stop(timeout)
        report = member.worker.report()
        if self._forget(member):  # false if a concurrent call has removed it
            earlier = self._removed.get(name)
            self._removed[name] = report if earlier is None else earlier.plus(report)
        return report

    async def flush(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - counted by the clock
        """Wait until all events published so far are delivered or given up; batches are sent at once.

        Args:
            timeout: seconds to wait; None waits forever.

        Returns:
            Whether they are.
        """
        check_type("timeout", timeout, int, float, None)
        flushing = asyncio.create_task(self._flush_workers())
        try:
            return await done_within(flushing, timeout, self._options.clock)
        finally:
            flushing.cancel()

    async def replay(self, dead_letters: DeadLetters | Stream | Iterable[DeadLetter] | None = None) -> int:
        """Queue dead letters again for their sinks, waiting for room in the queues.

        They are removed from a `DeadLetters` and from a durable stream; those of sinks that are not attached
        remain.

        Args:
            dead_letters: a `DeadLetters`, the durable stream itself, a stream that keeps its recent events,
                or the dead letters. By default the durable stream, or what was passed to `attach`.

        Returns:
            How many events were queued.

        Raises:
            TypeError: it is a stream that keeps no events.
            ValueError: nothing was passed, and the attachment keeps no dead letters.
            RuntimeError: the attachment is closed.
        """
        if self._closed:
            raise RuntimeError("attachment: it is closed; the dead letters were not removed")
        dead_letters = self._kept_letters() if dead_letters is None else dead_letters
        workers = {n: m.worker for n, m in self._members.items() if isinstance(m.worker, SendingWorker)}
        if isinstance(dead_letters, GroupStream):
            return sum([await dead_letters.replay_for(worker) for worker in workers.values()])
        if isinstance(dead_letters, DeadLetters):
            letters = [letter for name in workers for letter in dead_letters.get_all(name)]
        elif isinstance(dead_letters, Stream):
            letters = letters_in(dead_letters)
        else:
            letters = list(dead_letters)
        letters = [letter for letter in letters if letter.sink in workers]
        queued = 0
        try:
            for letter in letters:
                await workers[letter.sink].resend(letter.event)
                queued += 1
        except BaseException:
            if isinstance(dead_letters, DeadLetters):
                for letter in letters[queued:]:
                    dead_letters.put(letter)
            raise
        return queued

    def _kept_letters(self) -> DeadLetters | Stream:
        kept = self._stream if isinstance(self._stream, GroupStream) else self._options.dead_letters
        if kept is None:
            raise ValueError("dead_letters: the attachment keeps none; pass dead_letters= to attach")
        return kept

    async def aclose(self, timeout: float | None = None) -> DrainReport:  # noqa: ASYNC109 - counted by the clock
        """Accept no more events, deliver what is queued, and close the sinks. May be called repeatedly.

        Args:
            timeout: seconds for all sinks together; by default the drain timeout of each policy.

        Returns:
            The balance of each sink. Losses are also logged, once.
        """
        check_type("timeout", timeout, int, float, None)
        self._unsubscribe()
        if self._forked:  # the events to drain are the parent's
            return self.report()
        first = self._drain_task is None
        if self._drain_task is None:
            self._drain_task = asyncio.create_task(self._drain(timeout))
        try:
            # Not awaited directly, as cancelling one caller must not cancel it for others.
            await asyncio.wait({self._drain_task})
        except asyncio.CancelledError:
            if first:
                for member in tuple(self._members.values()):
                    member.worker.abort()
                await asyncio.wait({self._drain_task}, timeout=10 * GRACE)
            raise
        return self.report()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def after_fork(self) -> None:
        """Deliver nothing in a child process: the event loop that delivers is the parent's."""
        if not self._started:
            return
        self._forked = True
        self._removed = {}
        self._end_report()
        for member in self._members.values():
            member.worker.after_fork()

    def _end_report(self) -> None:
        self._reports_health = False
        if self._health_report is not None:
            self._health_report.close()

    def _unsubscribe(self) -> None:
        self._closed = True
        for member in tuple(self._members.values()):
            member.unsubscribe()

    def _enter(self, sink: InlineSink | Sink | Binding) -> Member:
        member = make_member(self._stream, sink, self._options, self._observers)
        name = member.worker.name
        if name in self._members:
            raise ValueError(f"sink {name!r}: the name is taken by another sink; rename one of them")
        group = member.worker.group
        if group and group in {other.worker.group for other in self._members.values()}:
            raise ValueError(f"sink {name!r}: the group {group!r} is that of another sink; use another name")
        self._members[name] = member
        return member

    async def _begin(self, member: Member) -> None:
        worker = member.worker
        await worker.start()
        try:
            if self._closed:
                raise RuntimeError("attachment: it was closed while it was being started")  # noqa: TRY301
            if self._members.get(worker.name) is not member:
                raise RuntimeError(f"sink {worker.name}: it was removed while it was being opened")  # noqa: TRY301
        except BaseException:
            await worker.stop(0)
            raise

    def _forget(self, member: Member) -> bool:
        """Remove a member; False if it was removed before."""
        name = member.worker.name
        if self._members.get(name) is not member:
            return False
        del self._members[name]
        return True

    async def _flush_workers(self) -> None:
        if self._resuming is not None:
            await asyncio.wait({self._resuming})
        for future in [member.worker.flush() for member in tuple(self._members.values())]:
            if future is not None:
                await future

    async def _drain(self, timeout: float | None) -> None:  # noqa: ASYNC109 - counted by the clock
        try:
            if self._resuming is not None:
                limit = self.drain_timeout if timeout is None else timeout
                await asyncio.wait({self._resuming}, timeout=limit)
            stops = [member.worker.stop(timeout) for member in tuple(self._members.values())]
            for error in await asyncio.gather(*stops, return_exceptions=True):
                if isinstance(error, BaseException):
                    _log.warning("drain", "a sink could not be drained", error=error)
        finally:
            self._end_report()
            report = self.report()
            if self._started and not report.complete:
                lines = [f"{name}: {sink}" for name, sink in report.sinks.items() if not sink.complete]
                _logger.warning("events were not delivered: %s", "; ".join(lines))
