"""`Subscription`: one subscriber's place on a stream, and the handle to end it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any

from codomyrmex.streaming.counters import Counter
from codomyrmex.streaming.errors import shorten
from codomyrmex.streaming.events import Event
from codomyrmex.streaming.topics import EVERYTHING, check_pattern, matches

_making = threading.RLock()

# A handler gives nothing, or something to await; any other result is ignored.
Handler = Callable[[Event], Awaitable[Any] | Any]
FilterFunction = Callable[[Event], bool]


class Subscription:
    """One subscriber's place on a stream.

    Args:
        id: what `unsubscribe` takes.
        topic: the pattern of the topics that it gets; `"*"` is everything.
        handler: called with each event.
        filter_fn: called with each event of these topics; only those it is true for are delivered.
        active: whether it gets events.

    Raises:
        TopicError: the topic pattern is malformed; a `ValueError`.
        TypeError: the handler or the filter is not callable, or the filter is an async function.
    """

    __slots__ = (
        "__weakref__",
        "_active",
        "_drops",
        "_on_cancel",
        "_on_end",
        "filter_fn",
        "handler",
        "id",
        "topic",
    )

    def __init__(
        self,
        id: str,
        topic: str = EVERYTHING,
        handler: Handler | None = None,
        filter_fn: FilterFunction | None = None,
        active: bool = True,  # noqa: FBT001, FBT002 - a field like the others
    ) -> None:
        if handler is not None and not callable(handler):
            raise TypeError(f"a handler is a function of one event, not {shorten(handler)}")
        if isgeneratorfunction(handler) or isasyncgenfunction(handler):
            raise TypeError(f"a handler must not yield, as nobody would run it: {shorten(handler)}")
        if filter_fn is not None and not is_plain_function(filter_fn):
            raise TypeError(f"a filter is a plain function of one event, not {shorten(filter_fn)}")
        self.id = id
        self.topic = check_pattern(topic)
        self.handler = handler
        self.filter_fn = filter_fn
        self._active = active
        self._on_cancel: Callable[[Subscription], None] | None = None
        self._on_end: Callable[[], None] | None = None
        self._drops: Counter | None = None

    def __repr__(self) -> str:
        state = "" if self._active else " cancelled"
        return f"<Subscription {self.id} to {self.topic!r}{state}>"

    @property
    def active(self) -> bool:
        """Whether it gets events; False from `cancel` on."""
        return self._active

    @property
    def dropped(self) -> int:
        """How many of its events were discarded because its queue was full."""
        return 0 if self._drops is None else self._drops.value()

    def cancel(self) -> None:
        """End it at once, in its stream too. From any thread, from a handler, and more than once."""
        self._active = False
        if self._on_cancel is not None:
            self._on_cancel(self)
        if self._on_end is not None:
            self._on_end()

    def should_receive(self, event: Event) -> bool:
        """Tell whether this event is for it: active, of its topics, and passed by its filter."""
        if not self._active or not matches(self.topic, event.topic):
            return False
        return self.filter_fn is None or bool(self.filter_fn(event))


def bind(subscription: Subscription, on_cancel: Callable[[Subscription], None]) -> None:
    """Tie a subscription to its stream, which is told when it ends."""
    subscription._on_cancel = on_cancel


def when_ended(subscription: Subscription, on_end: Callable[[], None]) -> None:
    """Have something called when a subscription ends, whoever ends it."""
    subscription._on_end = on_end


def is_plain_function(function: object) -> bool:
    """Tell whether something can be called and is no async function, as a function or as an object."""
    return callable(function) and not (
        iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__)
    )


def deactivate(subscription: Subscription) -> None:
    """Mark a subscription as ended without telling its stream, which is the one that asks."""
    subscription._active = False
    if subscription._on_end is not None:
        subscription._on_end()


def count_drop(subscription: Subscription) -> None:
    """Count an event that this subscription lost."""
    if subscription._drops is None:
        with _making:  # two threads that drop the first ones at the same time must not make two
            if subscription._drops is None:
                subscription._drops = Counter()
    subscription._drops.tick()


def name_of(function: object) -> str:
    """Name a handler or stage for a person: its module and qualified name."""
    target = getattr(function, "func", function)  # functools.partial
    name = getattr(target, "__qualname__", None) or type(target).__qualname__
    module = getattr(target, "__module__", None) or type(target).__module__
    return f"{module}.{name}"


def close_awaitable(awaitable: object) -> None:
    """Dispose of something that nobody will await, without a warning that it never was."""
    close = getattr(awaitable, "close", None)
    if callable(close):
        with contextlib.suppress(Exception):
            close()
