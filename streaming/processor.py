"""`StreamProcessor`: a chain of steps between a stream and others."""

from __future__ import annotations

import asyncio
from asyncio.events import _get_running_loop  # it returns None where there is none
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context, copy_context
from functools import partial
from inspect import isawaitable
from typing import Any, NamedTuple, Self

from codomyrmex.streaming.buffers import PublishWait
from codomyrmex.streaming.chain import (
    BATCH,
    FILTER,
    FLAT_MAP,
    MAP,
    SINK,
    Chain,
    FilterStep,
    FlatMapFunction,
    MapFunction,
)
from codomyrmex.streaming.clock import SYSTEM_CLOCK, Clock, Timer
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.errors import shorten
from codomyrmex.streaming.events import Event, EventType
from codomyrmex.streaming.provenance import ORIGIN, cause, origin_of
from codomyrmex.streaming.stream import Stream
from codomyrmex.streaming.subscriptions import Subscription, name_of

StepErrorHandler = Callable[[Exception, Event], Awaitable[None] | None]
_Work = Callable[[], Awaitable[None] | None]

_MAX_BACKLOG = 10_000

_log = Diagnostics(__name__)


class ProcessorStatistics(NamedTuple):
    """The counters of a processor.

    Attributes:
        received: events from the source.
        emitted: events that reached the end of the chain.
        filtered: events that a filter or a map dropped.
        errors: exceptions of steps and sinks.
        dropped: events that arrived while too many others were waiting.
    """

    received: int
    emitted: int
    filtered: int
    errors: int
    dropped: int


class _Processed(PublishWait):
    """Makes a publisher wait for its event, unless it is on another loop or part of the processor."""

    __slots__ = ("_processor", "_result")

    def __init__(self, processor: StreamProcessor) -> None:
        self._processor = processor
        self._result: asyncio.Future[None] | bool = False

    def __await__(self) -> Generator[Any, None, None]:
        if self._result is False and self._processor.can_be_awaited():
            self._result = asyncio.get_running_loop().create_future()
            yield from self._result

    def complete(self) -> None:
        """Wake the publisher."""
        if isinstance(self._result, asyncio.Future) and not self._result.done():
            self._result.set_result(None)
        self._result = True


class StreamProcessor:
    """A chain of steps from a source stream to sink streams.

    Events pass through one at a time and in the order of publishing. A step that raises loses only that
    event. Steps are plain or async functions and run on the event loop that `start` was called on.

    If processors form a cycle, their author must see to it that no event waits for itself, for example with
    `publish_nowait` or with bounded queues that have a `block_timeout`.

    Args:
        source: the stream to subscribe to.
        clock: measures the age of batches.
    """

    def __init__(self, source: Stream, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._source = _require_stream(source)
        self._clock = clock
        self._chain = Chain()
        self._flushes: list[_Work] = []
        self._on_error: StepErrorHandler | None = None
        self._dead_letters: Stream | None = None
        self._subscription: Subscription | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._busy = False
        self._task: asyncio.Task[None] | None = None  # finishes the event in progress, if it has to wait
        self._backlog: deque[tuple[_Work, Context, _Processed]] = deque()
        self._received = self._dropped = 0

    def map(self, fn: MapFunction) -> Self:
        """Replace each event by the result of `fn`; None drops it."""
        return self._add(MAP, fn)

    def filter(self, fn: FilterStep) -> Self:
        """Keep the events that `fn` returns true for."""
        return self._add(FILTER, fn)

    def flat_map(self, fn: FlatMapFunction) -> Self:
        """Replace each event by those that `fn` returns: an iterable, plain or async."""
        return self._add(FLAT_MAP, fn)

    def batch(self, size: int, age: float) -> Self:
        """Collect events into one whose data is the list of them.

        Its metadata has their number as `count`, and their topic if they share one.

        Args:
            size: the number of events that complete a batch.
            age: seconds after which a batch goes on, counted from its first event.

        Raises:
            ValueError: the size is below 1 or the age not above 0.
        """
        if size < 1:
            raise ValueError(f"size: must be at least 1, got {size}")
        if not age > 0:
            raise ValueError(f"age: must be greater than 0, got {age}")
        send = partial(self._send_batch, len(self._chain))
        batch = _Batch(size, age, self._clock, lambda event: self._submit(partial(send, event)))
        self._flushes.append(lambda: send(batch.complete()))
        return self._add(BATCH, batch.add)

    def sink(self, stream: Stream) -> Self:
        """Publish each event to a stream, which must not be the source; it also goes on to the next step."""
        return self._add(SINK, self._require_sink(stream).start_publish, type(stream).__name__)

    def on_error(self, fn: StepErrorHandler) -> Self:
        """Call `fn` with each exception of a step and the event from the source."""
        self._require_stopped()
        if not callable(fn):
            raise TypeError(f"on_error: must be a function of the error and the event, got {shorten(fn)}")
        self._on_error = fn
        return self

    def dead_letters(self, stream: Stream) -> Self:
        """Publish each failure to a stream as an ERROR event with the topic `dead_letter`.

        Its data has `event` (the one from the source), `reason` and `step`.
        """
        self._require_stopped()
        self._dead_letters = self._require_sink(stream)
        return self

    async def start(self) -> Subscription:
        """Subscribe to the source.

        Returns:
            The subscription. After its `cancel`, unfinished batches go on when their age is over; `stop`
            flushes them.

        Raises:
            RuntimeError: it is running.
            StreamClosedError: the source is closed.
        """
        self._require_stopped()
        self._loop = asyncio.get_running_loop()
        if self._on_error is not None or self._dead_letters is not None:
            self._chain.on_failure = self._report_failure
        self._subscription = self._source.subscribe_nowait(self._handle)
        return self._subscription

    async def stop(self) -> None:
        """Accept no more events, finish those that have arrived, and send unfinished batches on."""
        if self._subscription is None:
            return
        subscription, self._subscription = self._subscription, None
        subscription.cancel()
        for work in (lambda: None, *self._flushes):
            processed = self._submit(work)
            if processed is not None:
                await processed

    def statistics(self) -> ProcessorStatistics:
        """Return the current counters."""
        chain = self._chain
        return ProcessorStatistics(self._received, chain.emitted, chain.filtered, chain.errors, self._dropped)

    def can_be_awaited(self) -> bool:
        """Return whether the current task may wait for events: it is on this loop, and not part of it."""
        return _get_running_loop() is self._loop and asyncio.current_task() is not self._task

    def _add(self, kind: str, call: Callable[[Event], Any], name: str | None = None) -> Self:
        self._require_stopped()
        self._chain.add(kind, call, name)
        return self

    def _require_stopped(self) -> None:
        if self._subscription is not None and self._subscription.active:
            raise RuntimeError("the processor is running; stop it first")

    def _require_sink(self, stream: Stream) -> Stream:
        if _require_stream(stream) is self._source:
            raise ValueError("stream: the source of a processor cannot be its sink")
        return stream

    # One event at a time: what arrives while another one is in progress waits in the backlog.

    def _handle(self, event: Event) -> PublishWait | None:
        """Process an event from the source; return what an awaited publish waits for."""
        if self._busy or _get_running_loop() is not self._loop:
            return self._submit(partial(self._process, event))
        self._busy = True
        rest = None
        try:
            rest = self._process(event)
        finally:  # something like KeyboardInterrupt may pass
            if rest is None:
                self._end_turn()
        return None if rest is None else self._wait_for(rest, copy_context(), _Processed(self))

    def _process(self, event: Event) -> Awaitable[None] | None:
        self._received += 1
        return self._chain.apply(event)

    def _submit(self, work: _Work) -> PublishWait | None:
        """Do something in its turn, from any thread."""
        if len(self._backlog) >= _MAX_BACKLOG:
            self._dropped += 1
            _log.warning("backlog", "an event was dropped: %d others are waiting", _MAX_BACKLOG)
            return None
        processed = _Processed(self)
        self._backlog.append((work, copy_context(), processed))
        try:
            if _get_running_loop() is self._loop:
                self._begin_turn()
            elif self._loop is not None:
                self._loop.call_soon_threadsafe(self._begin_turn)
        except RuntimeError:  # the loop is closed
            self._discard_backlog()
        return processed

    def _begin_turn(self) -> None:
        while self._backlog and not self._busy:
            self._busy = True
            work, context, processed = self._backlog.popleft()
            rest = None
            try:
                rest = context.run(work)
            finally:
                if rest is None:
                    self._busy = False
                    processed.complete()
            if rest is not None:
                self._wait_for(rest, context, processed)

    def _end_turn(self) -> None:
        self._busy = False
        if self._backlog:
            self._begin_turn()

    def _wait_for(self, rest: Awaitable[None], context: Context, processed: _Processed) -> _Processed:
        """Finish what is in progress in a task of its own."""

        def finished(task: asyncio.Task[None]) -> None:
            self._task = None
            processed.complete()
            if task.cancelled():  # the loop ends
                self._discard_backlog()
            self._end_turn()

        self._task = asyncio.get_running_loop().create_task(_finish(rest), context=context)
        self._task.add_done_callback(finished)
        return processed

    def _discard_backlog(self) -> None:
        while self._backlog:
            self._backlog.popleft()[2].complete()
            self._dropped += 1

    def _send_batch(self, place: int, event: Event | None) -> Awaitable[None] | None:
        if event is None:
            return None
        cause.set(origin_of(event))
        return self._chain.apply(event, place + 1)

    async def _report_failure(self, error: Exception, origin: Event, step: str) -> None:
        try:
            if self._on_error is not None:
                result = self._on_error(error, origin)
                if isawaitable(result):
                    await result
        except Exception as second:  # noqa: BLE001 - the last resort must not stop the chain
            _log.warning("on_error", "on_error %s failed", name_of(self._on_error), error=second)
        try:
            if self._dead_letters is not None:
                data = {"event": origin, "reason": f"{type(error).__name__}: {error}", "step": step}
                letter = Event(type=EventType.ERROR, data=data, metadata={"topic": "dead_letter"})
                await self._dead_letters.publish(letter)
        except Exception as second:  # noqa: BLE001 - as above
            _log.warning("dead letter", "the dead letter of event %s was lost", origin.id, error=second)


class _Batch:
    """A batch in progress, and the timer that ends it."""

    def __init__(self, size: int, age: float, clock: Clock, on_age: Callable[[Event | None], object]) -> None:
        self._size = size
        self._age = age
        self._clock = clock
        self._on_age = on_age
        self._events: list[Event] = []
        self._timer: Timer | None = None

    def add(self, event: Event) -> Event | None:
        """Add an event; return the batch if that completes it."""
        self._events.append(event)
        if len(self._events) >= self._size:
            return self.complete()
        if self._timer is None:
            self._timer = self._clock.call_later(self._age, lambda: self._on_age(self.complete()))
        return None

    def complete(self) -> Event | None:
        """End the batch and return it, if it has events."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        events, self._events = self._events, []
        if not events:
            return None
        metadata: dict[str, Any] = {"count": len(events)}
        topics = {event.topic for event in events}
        if len(topics) == 1 and None not in topics:
            metadata["topic"] = topics.pop()
        origin = next((event.metadata[ORIGIN] for event in events if ORIGIN in event.metadata), None)
        if origin is not None:  # what the batch causes is caused by that event too
            metadata[ORIGIN] = origin
        return Event(data=events, metadata=metadata)


async def _finish(rest: Awaitable[None]) -> None:
    await rest


def _require_stream(stream: Stream) -> Stream:
    if not isinstance(stream, Stream):
        raise TypeError(f"stream: must be a Stream, got {shorten(stream)}")
    return stream
