"""`Subscription`: one subscriber of a stream, and the handle to end it."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from inspect import (
    isasyncgen,
    isasyncgenfunction,
    isawaitable,
    iscoroutinefunction,
    isgenerator,
    isgeneratorfunction,
)
from typing import Any

from codomyrmex.streaming.counters import Counter
from codomyrmex.streaming.errors import shorten
from codomyrmex.streaming.events import Event, new_id
from codomyrmex.streaming.topics import EVERYTHING, check_pattern, matches

# A handler returns nothing, or something to await; any other result is ignored.
Handler = Callable[[Event], Awaitable[Any] | Any]
"""A plain or an async function of one event."""
FilterFunction = Callable[[Event], bool]
"""A plain function of one event; it returns whether the event is delivered."""


class Subscription:
    """One subscriber of a stream.

    Args:
        id: the argument of `unsubscribe`; generated if left out.
        topic: a topic or a pattern; `"*"` matches everything.
        handler: called with each event.
        filter_fn: a plain function; only the events that it returns true for are delivered.
        active: whether it receives events; False once it has been cancelled.

    Raises:
        TopicError: the topic pattern is malformed; a `ValueError`.
        TypeError: the handler or the filter is not callable, or the filter is an async function.
    """

    __slots__ = (
        "__weakref__",
        "_drops",
        "_on_end",
        "active",
        "filter_fn",
        "handler",
        "id",
        "on_drop",
        "topic",
    )

    def __init__(
        self,
        id: str | None = None,
        topic: str = EVERYTHING,
        handler: Handler | None = None,
        filter_fn: FilterFunction | None = None,
        active: bool = True,  # noqa: FBT001, FBT002 - a field like the others
    ) -> None:
        if handler is not None and not callable(handler):
            raise TypeError(f"handler: must be a function of one event, got {shorten(handler)}")
        if isgeneratorfunction(handler) or isasyncgenfunction(handler):
            raise TypeError(f"handler: must not be a generator, as nothing would run it: {shorten(handler)}")
        if filter_fn is not None and not is_plain_function(filter_fn):
            raise TypeError(f"filter_fn: must be a plain function of one event, got {shorten(filter_fn)}")
        self.id = new_id() if id is None else id
        self.topic = check_pattern(topic)
        self.handler = handler
        self.filter_fn = filter_fn
        self.on_drop: Callable[[Subscription, Event, str | None], object] | None = None  # set by the stream
        self._drops = Counter()
        self.active = active
        self._on_end: tuple[Callable[[Subscription], object], ...] = ()

    def __repr__(self) -> str:
        state = "" if self.active else " cancelled"
        return f"<Subscription {self.id} to {self.topic!r}{state}>"

    @property
    def dropped(self) -> int:
        """The number of its events that were dropped because a queue was full."""
        return self._drops.value()

    def cancel(self) -> None:
        """End it at once; from any thread, from a handler, and more than once."""
        self.active = False
        for callback in self._on_end:
            callback(self)

    def on_end(self, callback: Callable[[Subscription], object]) -> None:
        """Call `callback` with the subscription when it ends, whoever ends it; now, if it has ended."""
        self._on_end = (*self._on_end, callback)
        if not self.active:  # checked last, as `cancel` first sets it and then calls
            callback(self)

    def drop(self, event: Event, reason: str | None = None) -> None:
        """Count an event as dropped; a reason other than the overflow policy is logged."""
        self._drops.tick()
        if self.on_drop is not None:
            self.on_drop(self, event, reason)

    def should_receive(self, event: Event) -> bool:
        """Return whether this event is for it: it is active, and the topic and the filter match."""
        return self.active and matches(self.topic, event.topic) and self.passes(event)

    def passes(self, event: Event) -> bool:
        """Return whether the filter accepts an event; errors are those of the filter."""
        if self.filter_fn is None:
            return True
        try:
            result = self.filter_fn(event)
        except Exception as error:
            error.add_note(f"raised by the filter {name_of(self.filter_fn)}")
            raise
        if result is not True and isawaitable(result):  # which would always be true
            close_awaitable(result)
            raise TypeError(
                f"filter {name_of(self.filter_fn)}: must be a plain function, returned an awaitable"
            )
        return bool(result)


def is_plain_function(function: object) -> bool:
    """Return whether an object is callable and neither an async function nor has an async `__call__`."""
    return callable(function) and not (
        iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__)
    )


def refuse_generator(result: object) -> None:
    """Raise a `TypeError` if a handler has returned a generator, whose code would never run."""
    if isgenerator(result) or isasyncgen(result):
        raise TypeError("handler: must not be a generator, as nothing would run it")


def name_of(function: object) -> str:
    """Return the module and qualified name of a handler or step."""
    target = getattr(function, "func", function)  # functools.partial
    named = target if hasattr(target, "__qualname__") else type(target)
    return f"{named.__module__}.{named.__qualname__}"


def close_awaitable(awaitable: object) -> None:
    """Close an awaitable that will not be awaited, so that Python does not warn about it."""
    with contextlib.suppress(Exception):  # it may have no `close`
        awaitable.close()  # type: ignore[attr-defined]
