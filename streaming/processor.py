"""`StreamProcessor`: a chain of stages between a stream and others."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Generator, Iterable
from contextvars import copy_context
from inspect import isawaitable
from threading import get_ident
from typing import Any, NamedTuple, Self

from codomyrmex.streaming.clock import SYSTEM_CLOCK, Clock, Timer
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.errors import StageResultError, shorten
from codomyrmex.streaming.events import Event, EventType
from codomyrmex.streaming.provenance import ORIGIN, cause, origin_of
from codomyrmex.streaming.stream import Stream
from codomyrmex.streaming.subscriptions import Subscription, close_awaitable, name_of
from codomyrmex.streaming.topics import EVERYTHING
from codomyrmex.streaming.turns import Turnstile

MapFunction = Callable[[Event], Event | Awaitable[Event | None] | None]
FilterStage = Callable[[Event], bool | Awaitable[bool]]
FlatMapFunction = Callable[[Event], Iterable[Event] | AsyncIterable[Event] | Awaitable[Iterable[Event]]]
StageErrorHandler = Callable[[Exception, Event], Awaitable[None] | None]

_MAX_FED_BACK = 10_000

_log = Diagnostics(__name__)


class ProcessorStatistics(NamedTuple):
    """What a processor has done.

    Attributes:
        received: events from the source.
        emitted: events that all stages up to the end have taken.
        filtered: events that a filter or a map has dropped.
        errors: failures of stages and sinks.
        dropped: events fed back to the source that were too many to wait.
    """

    received: int
    emitted: int
    filtered: int
    errors: int
    dropped: int


# The kinds of stages. Plain strings, as the members of an Enum are slow to look up.
_MAP, _FILTER, _FLAT_MAP, _BATCH, _SINK = "map", "filter", "flat_map", "batch", "sink"


class _Stage(NamedTuple):
    kind: str
    call: Callable[[Event], Any]
    name: str
    place: int


class _Tail:
    """What is left of an event's way when the stages that need not wait are done.

    Awaiting it is one turn of the processor; it may also be closed without ever having begun.
    """

    __slots__ = ("_processor", "_rest")

    def __init__(self, processor: StreamProcessor, rest: Awaitable[None]) -> None:
        self._processor = processor
        self._rest = rest

    def __await__(self) -> Generator[Any, None, None]:
        return self._processor._in_turn(self._rest).__await__()

    def close(self) -> None:
        """Give it up."""
        close_awaitable(self._rest)
        self._processor._unbegun -= 1
        self._processor._dropped += 1


class _Rest:
    """What comes behind a stage that has given something to await; it too may be closed unbegun."""

    __slots__ = ("_awaitable", "_go_on", "_where")

    def __init__(
        self,
        go_on: Callable[[Any, _Stage, Event, Event], Coroutine[Any, Any, None]],
        awaitable: Any,
        stage: _Stage,
        event: Event,
        origin: Event,
    ) -> None:
        self._go_on = go_on
        self._awaitable = awaitable
        self._where = (stage, event, origin)

    def __await__(self) -> Generator[Any, None, None]:
        return self._go_on(self._awaitable, *self._where).__await__()

    def close(self) -> None:
        """Give it up."""
        close_awaitable(self._awaitable)


class StreamProcessor:
    """A chain of stages, compiled into one loop when it starts.

    Events go through one at a time and in order. A stage that raises loses only that event. Stages are
    plain or async functions, and run on the event loop that `start` was called on.

    Args:
        source: where the events come from.
        clock: where the time comes from.
    """

    def __init__(self, source: Stream, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._source = _require_stream(source)
        self._clock = clock
        self._stages: list[_Stage] = []
        self._batches: list[_Batch] = []
        self._on_error: StageErrorHandler | None = None
        self._dead_letters: Stream | None = None
        self._subscription: Subscription | None = None
        self._compiled: tuple[_Stage, ...] = ()
        self._thread = 0  # where the event loop runs that the stages run on
        self._turns = Turnstile()
        self._starting = False
        self._flush_when_through = False
        self._task: asyncio.Task[None] | None = None
        self._unbegun = 0  # events whose tail nobody has begun to await
        self._fed_back: deque[Event] = deque()
        self._received = self._emitted = self._filtered = self._errors = self._dropped = 0

    def map(self, fn: MapFunction) -> Self:
        """Let `fn` replace each event; None drops it."""
        return self._add(_MAP, fn)

    def filter(self, fn: FilterStage) -> Self:
        """Keep the events that `fn` is true for."""
        return self._add(_FILTER, fn)

    def flat_map(self, fn: FlatMapFunction) -> Self:
        """Let `fn` make any number of events of each: an iterable, plain or async."""
        return self._add(_FLAT_MAP, fn)

    def batch(self, size: int, age: float) -> Self:
        """Gather events into one, whose data is the list of them.

        It has the topic of its events if they share one, and their number as `count` in its metadata.

        Args:
            size: how many make it complete.
            age: seconds after the first of them when it goes on, complete or not.

        Raises:
            ValueError: the size is below 1 or the age not above 0.
        """
        if size < 1 or not age > 0:
            raise ValueError(f"a batch has a size of 1 or more and an age above 0: {size}, {age}")
        batch = _Batch(self, size, age, len(self._stages))
        self._batches.append(batch)
        return self._add(_BATCH, batch.add)

    def sink(self, stream: Stream) -> Self:
        """Publish each event to a stream; it also goes on to the next stage.

        Raises:
            ValueError: the stream is the source, which would be an endless circle.
        """
        if _require_stream(stream) is self._source:
            raise ValueError("the source of a processor cannot be its sink as well")
        return self._add(_SINK, stream._starter(), type(stream).__name__)

    def on_error(self, fn: StageErrorHandler) -> Self:
        """Call `fn` with each exception of a stage and the event that came from the source."""
        self._refuse_changes()
        if not callable(fn):
            raise TypeError(f"on_error takes a function of the error and the event, not {shorten(fn)}")
        self._on_error = fn
        return self

    def dead_letters(self, stream: Stream) -> Self:
        """Publish an ERROR event for each failure.

        Its data has `event` (the one that came from the source), `reason` and `stage`; its topic is
        `dead_letter`.
        """
        self._refuse_changes()
        if _require_stream(stream) is self._source:
            raise ValueError("the source of a processor cannot be where its dead letters go")
        self._dead_letters = stream
        return self

    async def start(self) -> Subscription:
        """Compile the chain and begin.

        Returns:
            The subscription to the source. Its `cancel` ends the processor at once for new events;
            what is in a batch still goes on when its age is over. `stop` is the orderly end.

        Raises:
            RuntimeError: it runs already.
            StreamClosedError: the source is closed.
        """
        self._refuse_changes()
        self._thread = get_ident()
        self._compiled = tuple(self._stages)
        self._starting = True
        try:
            self._subscription = await self._source._subscribe_listener(self._handle, EVERYTHING, None)
        finally:
            self._starting = False
        return self._subscription

    async def stop(self) -> None:
        """End it: nothing more is taken, and what is in batches goes through the rest of the chain."""
        if self._subscription is None:
            return
        subscription, self._subscription = self._subscription, None
        if self._turns.is_inside():  # a stage or a sink has stopped it: when its event is through
            subscription.cancel()
            self._flush_when_through = True
            return
        await self._source._let_finish(subscription)
        for batch in self._batches:
            await batch.flush()

    def statistics(self) -> ProcessorStatistics:
        """Give the counts up to now."""
        return ProcessorStatistics(self._received, self._emitted, self._filtered, self._errors, self._dropped)

    def _add(self, kind: str, call: Callable[[Event], Any], name: str = "") -> Self:
        self._refuse_changes()
        if not callable(call):
            raise TypeError(f"a stage is a function of one event, not {shorten(call)}")
        place = len(self._stages)
        self._stages.append(_Stage(kind, call, f"{kind} {name or name_of(call)}", place))
        return self

    def _refuse_changes(self) -> None:
        if self._starting or (self._subscription is not None and self._subscription.active):
            raise RuntimeError("the processor runs already; stop it first")

    # One event at a time, in order

    def _handle(self, event: Event) -> Awaitable[None] | None:
        """Take an event from the source: at once as far as nothing has to wait, else as a tail."""
        turns = self._turns
        if turns.busy or self._unbegun or get_ident() != self._thread:
            if get_ident() == self._thread and turns.leads_back():
                self._feed_back(event)
                return None
            return self._handle_later(event)
        self._received += 1
        turns.busy = True
        try:
            rest = self._step(event, 0, event)
        finally:
            turns.busy = False  # nobody can have lined up: nothing else ran on this loop
        if rest is None:
            return None
        self._unbegun += 1
        return _Tail(self, rest)

    async def _handle_later(self, event: Event) -> None:
        if self._turns.leads_back():
            self._feed_back(event)
            return
        self._received += 1
        self._unbegun += 1
        await self._in_turn(self._run(event, 0, event))

    def _feed_back(self, event: Event) -> None:
        self._received += 1
        if len(self._fed_back) < _MAX_FED_BACK:
            self._fed_back.append(event)
        else:
            self._dropped += 1
            _log.warning("fed back", "event %s, fed back to the source, dropped", event.id)

    async def _in_turn(self, rest: Awaitable[None], place: asyncio.Future[None] | None = None) -> None:
        """Await the rest of an event's way after those that came before it."""
        self._unbegun -= 1
        try:
            await self._turns.enter(place)
        except BaseException:
            close_awaitable(rest)
            raise
        try:
            await rest
            await self._run_fed_back()
        finally:
            if self._fed_back:  # interrupted; but their publishers believe them to be on their way
                self._unbegun += 1
                self._task = asyncio.get_running_loop().create_task(self._in_turn(self._run_fed_back()))
            self._turns.leave()

    async def _run_fed_back(self) -> None:
        while self._fed_back:
            event = self._fed_back.popleft()
            await self._run(event, 0, event)
        while self._flush_when_through:
            self._flush_when_through = False
            for batch in self._batches:
                await batch.send_on()

    async def _run(self, event: Event, start: int, origin: Event) -> None:
        rest = self._step(event, start, origin)
        if rest is not None:
            await rest

    def _step(  # noqa: C901, PLR0911, PLR0912 - the one loop that all stages are compiled into
        self, event: Event, start: int, origin: Event
    ) -> Awaitable[None] | None:
        """Run an event through the stages from `start` on; give what to await where one has to wait.

        The usual results are told by identity, before anything is asked of the others.
        """
        stage: _Stage | None = None
        try:
            for stage in self._compiled[start:] if start else self._compiled:
                kind, call, _, _ = stage
                result = call(event)
                if kind is _SINK:
                    if result is not None:
                        return _Rest(self._after_sink, result, stage, event, origin)
                elif kind is _MAP:
                    if result.__class__ is Event:
                        event = result
                    elif result is None:
                        self._filtered += 1
                        return None
                    else:
                        return _Rest(self._after, result, stage, event, origin)
                elif kind is _FILTER:
                    if result is not True:
                        if not result:
                            self._filtered += 1
                            return None
                        if isawaitable(result):
                            return _Rest(self._after, result, stage, event, origin)
                elif kind is _BATCH:
                    if result is None:
                        return None
                    event = origin = result
                else:
                    return _Rest(self._flat_map, result, stage, event, origin)
        except Exception as error:
            if stage is None:
                raise
            if stage.kind is _SINK:
                return _Rest(self._after_sink, _raising(error), stage, event, origin)
            return self._failed(error, origin, stage)
        self._emitted += 1
        return None

    async def _after(self, result: Any, stage: _Stage, event: Event, origin: Event) -> None:
        """Go on behind a map or filter that gave something unusual, most likely to be awaited."""
        try:
            if isawaitable(result):
                result = await result
            if stage.kind is _FILTER:
                wanted = bool(result)
            else:
                wanted = result is not None
                if wanted:
                    _require_event(result, stage)
                    event = result
        except Exception as error:  # noqa: BLE001 - a stage that raises loses only this event
            await self._failed(error, origin, stage)
            return
        if wanted:
            await self._run(event, stage.place + 1, origin)
        else:
            self._filtered += 1

    async def _after_sink(self, rest: Awaitable[None], stage: _Stage, event: Event, origin: Event) -> None:
        """Go on behind a sink that has to be waited for, also when it fails."""
        try:
            await rest
        except Exception as error:  # noqa: BLE001 - the other sinks go on
            await self._failed(error, origin, stage)
        await self._run(event, stage.place + 1, origin)

    async def _flat_map(self, made: Any, stage: _Stage, _: Event, origin: Event) -> None:
        try:
            if isawaitable(made):
                made = await made
            if isinstance(made, AsyncIterable):
                async for event in made:
                    _require_event(event, stage)
                    await self._run(event, stage.place + 1, origin)
                return
            for event in made:
                _require_event(event, stage)
                await self._run(event, stage.place + 1, origin)
        except Exception as error:  # noqa: BLE001 - what it made before the error has gone on
            await self._failed(error, origin, stage)

    async def _failed(self, error: Exception, origin: Event, stage: _Stage) -> None:
        self._errors += 1
        _log.warning(stage.name, "%s failed on event %s", stage.name, origin.id, error=error)
        try:
            if self._on_error is not None:
                result = self._on_error(error, origin)
                if isawaitable(result):
                    await result
        except Exception as second:  # noqa: BLE001 - the last resort must not stop the chain
            _log.warning("on_error", "on_error %s raised", name_of(self._on_error), error=second)
        try:
            if self._dead_letters is not None:
                await self._dead_letters.publish(_dead_letter(error, origin, stage))
        except Exception as second:  # noqa: BLE001 - as above
            _log.warning("dead letter", "the dead letter of event %s is lost", origin.id, error=second)


class _Batch:
    """A batch that fills up, and the timer that ends it early."""

    def __init__(self, processor: StreamProcessor, size: int, age: float, place: int) -> None:
        self._processor = processor
        self._size = size
        self._age = age
        self._place = place
        self._events: list[Event] = []
        self._timer: Timer | None = None
        self._task: asyncio.Task[None] | None = None

    def add(self, event: Event) -> Event | None:
        """Take an event; gives the batch if that completes it."""
        self._events.append(event)
        if len(self._events) >= self._size:
            return self._complete()
        if self._timer is None:
            clock = self._processor._clock
            self._timer = clock.call_later(self._age, self._come_of_age)
        return None

    async def flush(self) -> None:
        """Send on what there is, in its turn."""
        processor = self._processor
        processor._unbegun += 1
        await processor._in_turn(self.send_on())

    async def send_on(self) -> None:
        """Send on what there is; the caller has the turn."""
        event = self._complete()
        if event is not None:
            token = cause.set(origin_of(event))
            try:
                await self._processor._run(event, self._place + 1, event)
            finally:
                cause.reset(token)

    def _come_of_age(self) -> None:
        self._timer = None
        event = self._complete()
        if event is not None:
            processor = self._processor
            processor._unbegun += 1
            rest = processor._run(event, self._place + 1, event)
            # The reference keeps the task from being collected while it runs.
            turn = processor._in_turn(rest, processor._turns.line_up())
            context = copy_context()
            context.run(cause.set, origin_of(event))
            self._task = asyncio.get_running_loop().create_task(turn, context=context)

    def _complete(self) -> Event | None:
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
        if origin is not None:  # what comes of the batch comes of that event too
            metadata[ORIGIN] = origin
        return Event(data=events, metadata=metadata)


async def _raising(error: Exception) -> None:
    raise error


def _require_stream(stream: Stream) -> Stream:
    if not isinstance(stream, Stream):
        raise TypeError(f"a stream is needed here, not {shorten(stream)}")
    return stream


def _require_event(result: object, stage: _Stage) -> None:
    if not isinstance(result, Event):
        close_awaitable(result)
        raise StageResultError(f"{stage.name} must give events, not {shorten(result)}")


def _dead_letter(error: Exception, origin: Event, stage: _Stage) -> Event:
    reason = f"{type(error).__name__}: {error}"
    return Event(
        type=EventType.ERROR,
        data={"event": origin, "reason": reason, "stage": stage.name},
        metadata={"topic": "dead_letter"},
    )
