"""`StreamProcessor`: a chain of steps between a stream and others."""

from __future__ import annotations

import asyncio
from asyncio.events import _get_running_loop  # it returns None where there is none
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar, copy_context
from functools import partial
from inspect import isawaitable, signature
from threading import get_ident
from typing import Any, NamedTuple, Self

from codomyrmex.streaming import chain, diagnostics
from codomyrmex.streaming.buffers import PublishWait
from codomyrmex.streaming.clock import SYSTEM_CLOCK, Clock, Timer
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.errors import shorten
from codomyrmex.streaming.events import Event, EventType
from codomyrmex.streaming.provenance import ORIGIN, cause, origin_of
from codomyrmex.streaming.stream import Stream
from codomyrmex.streaming.subscriptions import Subscription, name_of

StepErrorHandler = Callable[[Exception, Event], Awaitable[None] | None]

_MAX_BACKLOG = 10_000
_MAX_TURNS = 100  # without letting the event loop run other things

# The processors whose work has led here, in tasks: they must not wait for themselves.
_within: ContextVar[frozenset[StreamProcessor]] = ContextVar("codomyrmex.processors", default=frozenset())

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


class StreamProcessor:
    """A chain of steps from a source stream to sink streams.

    Events pass through one at a time and in the order of publishing. A step that raises loses only that
    event. Steps are plain or async functions and run on the event loop that `start` was called on.

    In a cycle of processors, an event that comes back is not waited for.

    Args:
        source: the stream to subscribe to.
        group: on a durable stream, the name of a group: then each event is processed in one process only. It
            is done when the steps are, except for a batch, whose events are done when they are in it.
        clock: measures the age of batches.

    Raises:
        TypeError: `source` is not a stream, or has no groups although one was named.
    """

    def __init__(self, source: Stream, *, group: str | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        if not isinstance(source, Stream):
            raise TypeError(f"source: must be a Stream, got {shorten(source)}")
        if group is not None and "group" not in signature(source.subscribe).parameters:
            raise TypeError(f"group: needs a durable stream, got {shorten(source)}")
        self._source = source
        self._group = group
        self._clock = clock
        self._chain = chain.Chain()
        self._flushes: list[Callable[[], Coroutine[Any, Any, None] | None]] = []
        self._on_error: StepErrorHandler | None = None
        self._dead_letters: Stream | None = None
        self._subscription: Subscription | None = None
        self._loop: asyncio.AbstractEventLoop
        self._thread = 0  # the thread of the loop; asking for it costs less than asking for the running loop
        self._busy = False
        self._task: asyncio.Task[None] | None = None  # finishes the event in progress, if it has to wait
        self._backlog: deque[_Turn] = deque()
        self._received = self._dropped = 0

    def map(self, fn: chain.MapFunction) -> Self:
        """Replace each event by the result of `fn`; None drops it."""
        return self._add(chain.MAP, fn)

    def filter(self, fn: chain.FilterStep) -> Self:
        """Keep the events that `fn` returns true for."""
        return self._add(chain.FILTER, fn)

    def flat_map(self, fn: chain.FlatMapFunction) -> Self:
        """Replace each event by those that `fn` returns: an iterable, plain or async."""
        return self._add(chain.FLAT_MAP, fn)

    def batch(self, size: int, age: float) -> Self:
        """Collect events into one whose data is the list of them.

        Its metadata has their number as `count`, and their topic if they share one.

        Args:
            size: the number of events that complete a batch.
            age: seconds after which a batch is sent on, counted from its first event.

        Raises:
            ValueError: the size is below 1 or the age not above 0.
        """
        if size < 1:
            raise ValueError(f"size: must be at least 1, got {size}")
        if not age > 0:
            raise ValueError(f"age: must be greater than 0, got {age}")
        send = partial(self._send_batch, len(self._chain) + 1)

        def send_in_turn(event: Event | None) -> None:
            if event is not None:
                self._submit(partial(send, event), events=len(event.data))

        batch = _Batch(size, age, self._clock, send_in_turn)
        self._flushes.append(lambda: send(batch.complete()))
        return self._add(chain.BATCH, batch.add)

    def sink(self, stream: Stream) -> Self:
        """Publish each event to a stream, which must not be the source, and pass it to the next step."""
        return self._add(chain.SINK, self._checked(stream).start_publish, f"sink {type(stream).__name__}")

    def on_error(self, fn: StepErrorHandler) -> Self:
        """Call `fn` with each exception of a step and the event from the source."""
        self._require_stopped()
        if not callable(fn):
            raise TypeError(f"on_error: must be a function of the error and the event, got {shorten(fn)}")
        self._on_error = fn
        self._chain.on_failure = self._report_failure
        return self

    def dead_letters(self, stream: Stream) -> Self:
        """Publish failures as ERROR events to `dead_letter`; their data has `event`, `reason` and `step`."""
        self._require_stopped()
        self._dead_letters = self._checked(stream)
        self._chain.on_failure = self._report_failure
        return self

    async def start(self) -> Subscription:
        """Subscribe to the source and return the subscription.

        After its `cancel`, unfinished batches are sent once their age is reached; `stop` sends them at once.

        Raises:
            RuntimeError: the processor is running.
            StreamClosedError: the source is closed.
            Exception: raised by a durable stream, such as that its store is not available.
        """
        self._require_stopped()
        self._loop = asyncio.get_running_loop()
        self._thread = get_ident()
        if self._group is None:
            self._subscription = self._source.subscribe_nowait(self._handle)
        else:
            subscribe: Any = self._source.subscribe
            self._subscription = await subscribe(self._handle, group=self._group)
        return self._subscription

    async def stop(self) -> None:
        """Accept no more events, finish those that have arrived, and send unfinished batches on."""
        if self._subscription is None:
            return
        subscription, self._subscription = self._subscription, None
        subscription.cancel()
        for work in (lambda: None, *self._flushes):
            await self._submit(work, events=0)

    def statistics(self) -> ProcessorStatistics:
        """Return the current counters."""
        steps = self._chain
        filtered, errors = steps.filtered.total(), steps.errors.total()
        return ProcessorStatistics(self._received, steps.emitted, filtered, errors, self._dropped)

    def _add(self, kind: str, call: Callable[[Event], Any], name: str | None = None) -> Self:
        self._require_stopped()
        self._chain.add(kind, call, name)
        return self

    def _require_stopped(self) -> None:
        if self._subscription is not None and self._subscription.active:
            raise RuntimeError("the processor is running; stop it first")

    def _checked(self, stream: Stream) -> Stream:
        if not isinstance(stream, Stream):
            raise TypeError(f"stream: must be a Stream, got {shorten(stream)}")
        if stream is self._source:
            raise ValueError("stream: the source of a processor cannot be its sink")
        return stream

    # One event at a time: what arrives while another one is in progress waits in the backlog.

    def _handle(self, event: Event) -> PublishWait | None:
        """Process an event from the source; return what an awaited publish waits for."""
        if self._busy or self._backlog or get_ident() != self._thread or self._loop.is_closed():
            if len(self._backlog) < _MAX_BACKLOG:
                caused = self._causes_this()
                turn = self._submit(partial(self._process, event), events=1)
                return None if caused else turn
            self._dropped += 1
            _log.warning("backlog", "an event was dropped: %d others are waiting", _MAX_BACKLOG)
            return None
        self._busy = True
        pending = None
        try:
            self._received += 1
            pending = self._chain.apply(event)
        finally:  # something like KeyboardInterrupt may propagate
            if pending is None:
                self._busy = False
                if self._backlog:
                    self._begin_turns()
        return None if pending is None else self._finish(pending, _Turn(self._may_wait))

    def _causes_this(self) -> bool:
        """Return whether the work in progress is what publishes now, perhaps through other processors."""
        at_work_here = self._busy and self._task is None and get_ident() == self._thread
        return at_work_here or self in _within.get()

    def _process(self, event: Event) -> Coroutine[Any, Any, None] | None:
        self._received += 1
        return self._chain.apply(event)

    def _send_batch(self, start: int, event: Event | None) -> Coroutine[Any, Any, None] | None:
        if event is None:
            return None
        cause.set(origin_of(event))
        return self._chain.apply(event, start)

    def _submit(self, work: Callable[[], Coroutine[Any, Any, None] | None], events: int) -> _Turn:
        """Run some work in its turn, from any thread; it stands for a number of events."""
        turn = _Turn(self._may_wait, work, events)
        self._backlog.append(turn)
        if _get_running_loop() is self._loop:
            self._begin_turns()
        else:
            try:
                self._loop.call_soon_threadsafe(self._begin_turns)
            except RuntimeError:  # the loop is closed
                self._discard_backlog()
        return turn

    def _begin_turns(self) -> None:
        turns = 0
        while self._backlog and not self._busy:
            turns += 1
            if turns > _MAX_TURNS:  # each may publish another event
                self._loop.call_soon(self._begin_turns)
                return
            self._busy = True
            turn = self._backlog.popleft()
            pending = None
            try:
                pending = turn.context.run(turn.work)
            finally:
                if pending is None:
                    self._busy = False
                    turn.complete()
            if pending is not None:
                self._finish(pending, turn)

    def _finish(self, pending: Coroutine[Any, Any, None], turn: _Turn) -> _Turn:
        """Finish the work in progress in a separate task."""

        def finished(task: asyncio.Task[None]) -> None:
            self._task = None
            self._busy = False
            turn.complete()
            if task.cancelled():  # the loop ends
                self._discard_backlog()
            self._begin_turns()

        turn.context.run(_within.set, _within.get() | {self})
        self._task = self._loop.create_task(pending, context=turn.context)
        self._task.add_done_callback(finished)
        return turn

    def _discard_backlog(self) -> None:
        while self._backlog:
            turn = self._backlog.popleft()
            turn.complete()
            self._dropped += turn.events

    def _may_wait(self) -> bool:
        """Return whether the current task may wait for events: it is on this loop, and not part of it."""
        return _get_running_loop() is self._loop and asyncio.current_task() is not self._task

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
                data = {"event": origin, "reason": diagnostics.describe_error(error), "step": step}
                letter = Event(type=EventType.ERROR, data=data, metadata={"topic": "dead_letter"})
                await self._dead_letters.publish(letter)
        except Exception as second:  # noqa: BLE001 - as above
            _log.warning("dead letter", "the dead letter of event %s was lost", origin.id, error=second)


class _Turn(PublishWait):
    """Work to run in the caller's context, for which an awaited publish waits if it may."""

    __slots__ = ("_done", "_may_wait", "context", "events", "work")

    def __init__(
        self, may_wait: Callable[[], bool], work: Callable[[], Any] = lambda: None, events: int = 0
    ) -> None:
        self.work = work
        self.events = events
        self.context = copy_context()
        self._may_wait = may_wait
        self._done: asyncio.Future[None] | bool = False

    def __await__(self) -> Generator[Any, None, None]:
        if self._done is False and self._may_wait():
            self._done = asyncio.get_running_loop().create_future()
            yield from self._done

    def complete(self) -> None:
        """Wake the publisher."""
        if isinstance(self._done, asyncio.Future) and not self._done.done():
            self._done.set_result(None)
        self._done = True


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
