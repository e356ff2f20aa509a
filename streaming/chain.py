"""`Chain`: applies steps to an event, one after another; shared by processors and pipelines."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from inspect import isawaitable
from typing import Any

from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.errors import StepResultError, shorten
from codomyrmex.streaming.events import Event
from codomyrmex.streaming.subscriptions import close_awaitable, name_of

MapFunction = Callable[[Event], Event | Awaitable[Event | None] | None]
FilterStep = Callable[[Event], bool | Awaitable[bool]]
FlatMapFunction = Callable[[Event], Iterable[Event] | AsyncIterable[Event] | Awaitable[Iterable[Event]]]
FailureHandler = Callable[[Exception, Event, str], Coroutine[Any, Any, None] | None]

# The kinds of steps: MAP returns the event to continue with, or None to drop it; FILTER whether to keep it;
# FLAT_MAP an iterable of events; BATCH an event that stands for several, or None; an event that went to a
# SINK continues with the next step. Plain strings, as the members of an Enum are slow to look up.
MAP, FILTER, FLAT_MAP, BATCH, SINK = "map", "filter", "flat_map", "batch", "sink"

_Step = tuple[str, Callable[[Event], Any], str, int]  # kind, function, name, index

_log = Diagnostics(__name__)


class Chain:
    """Applies steps to events. A step that raises loses only that event.

    Args:
        on_failure: called with the exception, the event that entered the chain, and the name of the step.

    Attributes:
        emitted: the number of events that reached the end.
        filtered: the number of events that each step dropped, by its name.
        errors: the number of exceptions of each step.
    """

    def __init__(self, on_failure: FailureHandler | None = None) -> None:
        self.on_failure = on_failure
        self.emitted = 0
        self.filtered: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._steps: tuple[_Step, ...] = ()

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, kind: str, call: Callable[[Event], Any], name: str | None = None) -> None:
        """Add a step: a function of one event, plain or async; a `TypeError` is raised for anything else."""
        if not callable(call):
            raise TypeError(f"{kind}: a step must be a function of one event, got {shorten(call)}")
        self._steps = (*self._steps, (kind, call, name or f"{kind} {name_of(call)}", len(self._steps)))

    def apply(
        self, event: Event, start: int = 0, origin: Event | None = None
    ) -> Coroutine[Any, Any, None] | None:
        """Apply the steps from `start` to an event; return what to await if one of them has to wait.

        `origin` is the event that entered the chain, if that is a different one.
        """
        origin = origin or event
        for kind, call, name, index in self._steps[start:] if start else self._steps:
            try:
                result = call(event)
            except Exception as error:  # noqa: BLE001 - a failing step loses only this event
                result = self._fail(error, origin, name)
                if kind is not SINK:
                    return result
            if kind is MAP and result.__class__ is Event:
                event = result
            elif (kind is FILTER and result and (result is True or not isawaitable(result))) or (
                kind is SINK and result is None
            ):
                continue
            elif kind is BATCH:
                if result is None:
                    return None
                event = origin = result
            elif (result is not None and result is not False) or kind is FLAT_MAP:
                return self._continue(result, kind, name, index + 1, event, origin)
            else:
                self.filtered[name] += 1
                return None
        self.emitted += 1
        return None

    async def _continue(
        self, result: Any, kind: str, name: str, following: int, event: Event, origin: Event
    ) -> None:
        """Continue after a step whose result has to be awaited, checked or iterated over."""
        passes = True
        try:
            if isawaitable(result):
                result = await result
            if kind is FLAT_MAP:
                async for one in result if isinstance(result, AsyncIterable) else _iterate(result):
                    await self._run(_require_event(one, name), following, origin)
                return
            if kind is not SINK:
                passes = bool(result) if kind is FILTER else result is not None
            if kind is MAP and passes:
                event = _require_event(result, name)
        except Exception as error:  # noqa: BLE001 - as above; what a flat_map returned before has gone on
            pending = self._fail(error, origin, name)
            if pending is not None:
                await pending
            if kind is not SINK:
                return
        if passes:
            await self._run(event, following, origin)
        else:
            self.filtered[name] += 1

    async def _run(self, event: Event, start: int, origin: Event) -> None:
        pending = self.apply(event, start, origin)
        if pending is not None:
            await pending

    def _fail(self, error: Exception, origin: Event, name: str) -> Coroutine[Any, Any, None] | None:
        self.errors[name] += 1
        _log.warning(name, "%s failed on event %s", name, origin.id, error=error)
        return None if self.on_failure is None else self.on_failure(error, origin, name)


async def _iterate(events: Iterable[Any]) -> AsyncIterator[Any]:
    for event in events:
        yield event


def _require_event(result: Any, name: str) -> Event:
    if not isinstance(result, Event):
        close_awaitable(result)
        raise StepResultError(f"{name}: must return events, got {shorten(result)}")
    return result
