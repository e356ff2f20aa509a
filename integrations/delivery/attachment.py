"""`attach`: ties sinks to a stream for the life of an application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

from codomyrmex.integrations.delivery.dead_letters import DeadLetter, DeadLetters, letter_event, letter_of
from codomyrmex.integrations.delivery.health import SinkHealth, SinkState, state_event
from codomyrmex.integrations.delivery.inline import InlineWorker
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.delivery.report import DrainReport, SinkReport
from codomyrmex.integrations.delivery.roles import QueuedSink, Worker
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.delivery.sink import Binding, InlineSink, Sink, is_async
from codomyrmex.integrations.delivery.waiting import GRACE, done_within
from codomyrmex.integrations.delivery.worker import QueueWorker
from codomyrmex.streaming import (
    Clock,
    Event,
    FilterFunction,
    InMemoryStream,
    Stream,
    Subscription,
    TopicStream,
)
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.forks import renew_in_children
from codomyrmex.streaming.subscriptions import is_plain_function
from codomyrmex.streaming.topics import check_pattern

AttemptObserver = Callable[[str, float, str | None], None]

_WORSE = [SinkState.OK, SinkState.RETRYING, SinkState.OPEN]  # each worse than the one before
_DEFAULT_POLICY = DeliveryPolicy()
_EVERYTHING = 1_000_000

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
    clock: Clock | None = None,
) -> Attachment:
    """Deliver a stream's events to sinks for as long as a context lasts.

    `async with attach(stream, StructlogSink(), AppriseChannel("ops", url)):`; on the way out what is
    queued is still delivered, within the drain timeout, and what was lost is logged.

    Args:
        stream: where the events come from.
        *sinks: where they go. A failing or slow one disturbs neither the publisher nor another sink.
            `Binding(sink, ...)` where one needs a topic, filter or policy of its own.
        topic: a topic or a pattern.
        filter_fn: only the events it is true for are delivered.
        policy: how events are queued, sent, tried again and given up.
        dead_letters: keeps the events that were given up, or a stream that gets an ERROR event of the
            topic `dead_letter` for each.
        health_stream: gets an event for each change of a queued sink's state, with the topic
            `sink.<name>.<state>`; of type ERROR where it gets worse. It may be `stream` itself: no sink
            is sent what is about itself.
        clock: where the delivery takes its time from; for tests.

    Raises:
        ValueError: two sinks have the same name.
        TopicError: the topic pattern is malformed; a `ValueError`.
        TypeError: something is not a stream, a sink, a policy, or what else it should be; `emit` is
            async, or `send`, `open` or `close` is not.
    """
    attachment = Attachment(
        stream,
        sinks,
        topic=topic,
        filter_fn=filter_fn,
        policy=policy,
        dead_letters=dead_letters,
        health_stream=health_stream,
        clock=clock,
    )
    renew_in_children(attachment, last=True)
    return attachment


class _Attached:
    """One sink of an attachment: its worker, and its place on the stream while it runs."""

    def __init__(self, worker: Worker, topic: str, filter_fn: FilterFunction | None) -> None:
        self.worker = worker
        self.topic = topic
        self.filter_fn = filter_fn
        self.subscription: Subscription | None = None


class Attachment:
    """Sinks tied to a stream; made by `attach`."""

    def __init__(
        self,
        stream: Stream,
        sinks: Iterable[InlineSink | Sink | Binding],
        *,
        topic: str,
        filter_fn: FilterFunction | None,
        policy: DeliveryPolicy | None,
        dead_letters: DeadLetters | Stream | None,
        health_stream: Stream | None,
        clock: Clock | None,
    ) -> None:
        _check(stream, Stream, "attach takes a stream and then sinks")
        _check(policy, DeliveryPolicy | None, "policy is a DeliveryPolicy")
        _check(dead_letters, DeadLetters | Stream | None, "dead_letters is a DeadLetters or a stream")
        _check(health_stream, Stream | None, "health_stream is a stream")
        if clock is not None and not (hasattr(clock, "monotonic") and hasattr(clock, "call_later")):
            raise TypeError(f"a clock has monotonic() and call_later(), {clock!r} has not")
        self._stream = stream
        self._topic = topic
        self._filter_fn = filter_fn
        self._policy = _DEFAULT_POLICY if policy is None else policy
        self._dead_letters = dead_letters
        self._health_stream = health_stream
        self._clock = SYSTEM_CLOCK if clock is None else clock
        self._attached: dict[str, _Attached] = {}
        self._removed: dict[str, SinkReport] = {}
        self._observers: tuple[AttemptObserver, ...] = ()
        self._started = False
        self._closed = False
        self._forked = False
        self._drain_task: asyncio.Task[None] | None = None
        self._resuming: asyncio.Task[None] | None = None
        for sink in sinks:
            self._enter(sink)

    async def start(self) -> Self:
        """Open the sinks and begin. If one cannot be opened, the others are closed again.

        Raises:
            RuntimeError: it was started before.
            DeliveryError: a sink did not open within the timeout of its policy.
            Exception: what the sink that cannot be opened has raised.
        """
        if self._started:
            raise RuntimeError("an attachment is started once; attach again for another one")
        self._started = True
        try:
            for attached in tuple(self._attached.values()):
                await self._begin(attached)
        except BaseException:
            await self.aclose(0)
            raise
        return self

    async def add(self, sink: InlineSink | Sink | Binding) -> None:
        """Attach another sink, while it runs or before.

        Raises:
            ValueError: a sink of that name is attached.
            RuntimeError: the attachment is closed.
            Exception: what the sink has raised that cannot be opened; nothing has changed then.
        """
        if self._closed:
            raise RuntimeError("the attachment is closed; attach again for another one")
        attached = self._enter(sink)
        if not self._started:
            return
        try:
            await self._begin(attached)
        except BaseException:
            self._forget(attached)
            raise

    async def remove(self, sink: InlineSink | Sink | str, timeout: float | None = None) -> SinkReport:  # noqa: ASYNC109 - a deadline
        """Take a sink out: it gets no more events, what is queued is delivered, and it is closed.

        Args:
            sink: the sink, or its name.
            timeout: seconds to deliver what is queued; those of its policy if left out.

        Returns:
            What became of its events; the report of the attachment keeps that too.

        Raises:
            KeyError: no such sink is attached.
        """
        _check_seconds(timeout)
        name = sink if isinstance(sink, str) else sink.name
        attached = self._attached.get(name)
        if attached is None or not (isinstance(sink, str) or attached.worker.sink is sink):
            raise KeyError(f"no sink named {name!r} is attached, or it is another one of that name")
        if attached.subscription is not None:
            attached.subscription.cancel()
        await attached.worker.stop(timeout)
        report = attached.worker.report()
        if self._forget(attached):  # else somebody was faster
            earlier = self._removed.get(name)
            self._removed[name] = report if earlier is None else earlier.plus(report)
        return report

    async def flush(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - a deadline for all
        """Wait until all that was published before is delivered or given up; batches go at once.

        Args:
            timeout: seconds to wait; for ever if left out.

        Returns:
            Whether it is so.
        """
        _check_seconds(timeout)
        waiting = asyncio.create_task(self._flush_all())
        try:
            return await done_within(waiting, timeout, self._clock)
        finally:
            waiting.cancel()

    async def replay(self, dead_letters: DeadLetters | Stream | Iterable[DeadLetter]) -> int:
        """Queue dead letters for their sinks again. What `DeadLetters` gives is taken out of it.

        Letters of sinks that are not attached stay where they are. A queue that is full is waited for.

        Args:
            dead_letters: where they are: a `DeadLetters`, a stream that keeps its newest events (an
                `InMemoryStream` or a `TopicStream`), or the letters themselves.

        Returns:
            How many letters were queued.

        Raises:
            TypeError: it is a stream that keeps no events.
            RuntimeError: the attachment is closed.
        """
        if self._closed:
            raise RuntimeError("the attachment is closed; the letters stay where they are")
        workers = {n: a.worker for n, a in self._attached.items() if isinstance(a.worker, QueueWorker)}
        if isinstance(dead_letters, DeadLetters):
            letters = [letter for name in workers for letter in dead_letters.take(name)]
        elif isinstance(dead_letters, Stream):
            letters = _letters_in(dead_letters)
        else:
            letters = list(dead_letters)
        known = [letter for letter in letters if letter.sink in workers]
        done = 0
        try:
            for letter in known:
                await workers[letter.sink].resend(letter.event)
                done += 1
        except BaseException:
            if isinstance(dead_letters, DeadLetters):
                for letter in known[done:]:  # cancelled in the midst of it: none gets lost
                    dead_letters.put(letter)
            raise
        return done

    async def aclose(self, timeout: float | None = None) -> DrainReport:  # noqa: ASYNC109 - a deadline for all
        """Take no more events, deliver what is queued, and close the sinks. May be called twice.

        Args:
            timeout: seconds for all sinks together; those of their policies if left out.

        Returns:
            What became of the events of each sink. If any was lost, that is also logged once.
        """
        _check_seconds(timeout)
        self.take_no_more()
        if self._forked:  # what there is to drain is the parent's
            return self.report()
        first = self._drain_task is None
        if self._drain_task is None:
            self._drain_task = asyncio.create_task(self._drain(timeout))
        try:
            # Not awaited itself: a second caller must not be cancelled with the first one.
            await asyncio.wait({self._drain_task})
        except asyncio.CancelledError:
            if first:
                for attached in tuple(self._attached.values()):
                    attached.worker.cut()  # deliver no more, but still close the sinks
                await asyncio.wait({self._drain_task}, timeout=10 * GRACE)
            raise
        return self.report()

    def _forget(self, attached: _Attached) -> bool:
        """Take a sink out of the table; False if it is not the one that is in it."""
        name = attached.worker.name
        if self._attached.get(name) is not attached:
            return False
        del self._attached[name]
        return True

    async def _flush_all(self) -> None:
        if self._resuming is not None:
            await asyncio.wait({self._resuming})
        futures = [attached.worker.flush() for attached in tuple(self._attached.values())]
        for future in futures:
            if future is not None:
                await future

    def take_no_more(self) -> None:
        """Take no more events."""
        self._closed = True
        for attached in tuple(self._attached.values()):
            if attached.subscription is not None:
                attached.subscription.cancel()

    async def _drain(self, limit: float | None) -> None:
        try:
            if self._resuming is not None:  # in a child process, that may just be opening its sinks
                await asyncio.wait({self._resuming}, timeout=self.drain_limit(limit))
            stopping = (attached.worker.stop(limit) for attached in tuple(self._attached.values()))
            for error in await asyncio.gather(*stopping, return_exceptions=True):
                if isinstance(error, BaseException):  # none should, and none may keep the others from closing
                    _log.warning("drain", "the end of a sink failed", error=error)
        finally:
            report = self.report()
            if self._started and not report.complete:
                lines = [f"{name}: {sink}" for name, sink in report.sinks.items() if not sink.complete]
                _logger.warning("events were not delivered: %s", "; ".join(lines))

    def drain_limit(self, timeout: float | None) -> float:
        """Give the seconds that `aclose(timeout)` delivers at most."""
        if timeout is not None:
            return timeout
        return max((each.worker.drain_timeout for each in tuple(self._attached.values())), default=0.0)

    def report(self) -> DrainReport:
        """Give the numbers up to now; what is still queued counts as lost until it is delivered."""
        reports = dict(self._removed)
        for name, attached in tuple(self._attached.items()):
            report = attached.worker.report()
            reports[name] = report if name not in reports else reports[name].plus(report)
        return DrainReport(reports)

    def health(self) -> Mapping[str, SinkHealth]:
        """Tell, for each sink by its name, how it is now. From any thread."""
        return {name: attached.worker.health() for name, attached in tuple(self._attached.items())}

    def on_attempt(self, observer: AttemptObserver) -> None:
        """Have a function called after each attempt to send a batch: for metrics.

        Args:
            observer: gets the name of the sink, the seconds that the attempt took, and the class of what
                went wrong, or None. It runs on the loop of the delivery and must not wait.
        """
        self._observers = (*self._observers, observer)

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
        """Take nothing in a child process: the loop that delivers is the parent's."""
        self._forked = True
        self._removed = {}
        for attached in self._attached.values():
            attached.worker.after_fork()

    def renew_after_fork(self, start: Callable[[], None]) -> int:
        """Begin anew in a child process; `start` is called when there is something to deliver.

        Returns:
            How many events wait in the parent process, which delivers them.
        """
        waiting = sum(attached.worker.report().lost for attached in self._attached.values())
        self._removed = {}
        self._drain_task = None
        for attached in self._attached.values():
            attached.worker.renew_after_fork(start)
        return waiting

    async def resume(self) -> None:
        """Open the sinks again, in a child process. One that does not open gets nothing."""
        self._resuming = asyncio.current_task()
        for attached in tuple(self._attached.values()):
            try:
                await attached.worker.start()
            except Exception as error:  # noqa: BLE001 - as there is nobody to tell but the log
                name = attached.worker.name
                _log.warning(name, "sink %s did not open in this process: %s", name, describe(error))

    # What workers tell

    def died(self, worker: QueuedSink, letters: list[DeadLetter]) -> None:
        """Keep dead letters, or publish them."""
        box = self._dead_letters
        for letter in letters:
            if isinstance(box, DeadLetters):
                try:
                    box.put(letter)
                except Exception as error:  # noqa: BLE001 - a subclass of somebody's
                    _log.warning("letters", "a dead letter could not be kept", error=error)
            elif box is not None and not is_about_a_sink(letter.event):
                self._publish(box, letter_event(worker.sink, letter))

    def changed(self, worker: QueuedSink, old: SinkState) -> None:
        """Publish a change of state."""
        if self._health_stream is None:
            return
        state = worker.health().state
        if state is SinkState.CLOSED:
            worse = not worker.report().complete
        else:
            worse = _WORSE.index(state) > _WORSE.index(old)
        event = state_event(worker.sink, worker.name, old, worker.health(), worse=worse)
        self._publish(self._health_stream, event)

    def attempted(self, worker: QueuedSink, seconds: float, error: str | None) -> None:
        """Tell the observers."""
        for observer in self._observers:
            try:
                observer(worker.name, seconds, error)
            except Exception as mistake:  # noqa: BLE001 - who only watches must not disturb
                _log.warning("observer", "an observer of attempts raised", error=mistake)

    def _publish(self, stream: Stream, event: Event) -> None:
        try:
            stream.publish_nowait(event)
        except Exception as error:  # noqa: BLE001 - what is told must not disturb the telling
            _log.warning(f"{event.topic}", "event %s could not be published", event.topic, error=error)

    # The sinks

    def _enter(self, sink: InlineSink | Sink | Binding) -> _Attached:
        binding = sink if isinstance(sink, Binding) else Binding(sink)
        topic = check_pattern(self._topic if binding.topic is None else binding.topic)
        filter_fn = self._filter_fn if binding.filter_fn is None else binding.filter_fn
        if filter_fn is not None and not is_plain_function(filter_fn):
            raise TypeError(f"filter_fn is a plain function of one event, not {filter_fn!r}")
        attached = _Attached(self._worker(binding), topic, filter_fn)
        name = attached.worker.name
        if name in self._attached:
            raise ValueError(f"two sinks are named {name!r}; give one of them another name")
        self._attached[name] = attached
        return attached

    def _worker(self, binding: Binding) -> Worker:
        sink = binding.sink
        if isinstance(sink, (InlineSink, Sink)):
            _check_name(sink)
        if isinstance(sink, InlineSink):
            if is_async(sink.emit):
                raise TypeError(f"emit of {type(sink).__name__} is async; a Sink is what may wait")
            _check_async(sink.open, sink.flush, sink.close)
            if binding.policy is not None:
                raise TypeError(f"{type(sink).__name__} is an inline sink: nothing is queued, so no policy")
            return InlineWorker(sink)
        if isinstance(sink, Sink):
            if not is_async(sink.send):
                raise TypeError(f"send of {type(sink).__name__} is not async: `async def send(self, events)`")
            _check_async(sink.open, sink.close)
            policy = self._policy if binding.policy is None else binding.policy
            _check(policy, DeliveryPolicy, "policy is a DeliveryPolicy")
            return QueueWorker(sink, policy, self._clock, self)
        raise TypeError(f"a sink is an InlineSink or a Sink, not {_what(sink)}")

    async def _begin(self, attached: _Attached) -> None:
        worker = attached.worker
        await worker.start()
        try:
            if self._closed:
                raise RuntimeError("the attachment was closed while it was started")  # noqa: TRY301
            if self._attached.get(worker.name) is not attached:
                raise RuntimeError(f"sink {worker.name} was removed while it was opened")  # noqa: TRY301
            attached.subscription = await self._stream._subscribe_listener(  # noqa: SLF001 - a worker has its own queue
                worker.take, attached.topic, attached.filter_fn
            )
        except BaseException:
            await worker.stop(0)
            raise
        if self._closed:
            attached.subscription.cancel()


def _what(sink: object) -> str:
    """Say what somebody took for a sink, and what to do about it."""
    if isinstance(sink, type):
        return f"the class {sink.__name__}: make one of it, {sink.__name__}(...)"
    if is_async(sink):
        return "an async function: Sink.from_function(function, name=...) makes one of it"
    if isinstance(sink, (list, tuple)):
        return f"a {type(sink).__name__}: give its items, *sinks"
    return type(sink).__name__


def _check_async(*methods: Callable[[], object]) -> None:
    for method in methods:
        if not is_async(method):
            owner = type(getattr(method, "__self__", method)).__name__
            raise TypeError(f"{method.__name__} of {owner} is not async")


def _check_seconds(timeout: object) -> None:
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float))):
        raise TypeError(f"timeout is a number of seconds or None, not {timeout!r}")


def _check_name(sink: InlineSink | Sink) -> None:
    name = getattr(sink, "name", None)
    if not isinstance(name, str) or not name:
        raise TypeError(f"{type(sink).__name__} needs a name, a text that is not empty: it has {name!r}")


def is_about_a_sink(event: Event) -> bool:
    """Tell whether an event is itself about a delivery, so that it does not become a dead letter's."""
    return "sink" in event.metadata and event.metadata.get("topic") == "dead_letter"


def _letters_in(stream: Stream) -> list[DeadLetter]:
    if isinstance(stream, InMemoryStream):
        events = stream.get_recent_events(_EVERYTHING)
    elif isinstance(stream, TopicStream):
        events = stream.get_recent_events("dead_letter", _EVERYTHING)
    else:
        raise TypeError(f"{type(stream).__name__} keeps no events to replay; give the letters themselves")
    return [letter for event in events if (letter := letter_of(event)) is not None]


def _check(value: object, kind: object, message: str) -> None:
    if not isinstance(value, kind):  # type: ignore[arg-type] # a union of classes will do
        raise TypeError(f"{message}, not {type(value).__name__}")
