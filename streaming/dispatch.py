"""`LocalStream`: publishing and subscribing inside one process, shared by all local streams."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from inspect import isawaitable
from types import CoroutineType
from typing import Any

from codomyrmex.streaming.buffers import PublishWait
from codomyrmex.streaming.counters import Counter
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.errors import MUST_PASS, StreamClosedError, shorten
from codomyrmex.streaming.events import Event
from codomyrmex.streaming.forks import renew_in_children
from codomyrmex.streaming.mailbox import Mailbox
from codomyrmex.streaming.routes import Route, RouteEntry, TopicIndex
from codomyrmex.streaming.stream import Interceptor, Stream, StreamStatistics
from codomyrmex.streaming.subscriptions import (
    FilterFunction,
    Handler,
    Subscription,
    close_awaitable,
    is_plain_function,
    name_of,
    refuse_generator,
)
from codomyrmex.streaming.topics import EVERYTHING

ErrorHandler = Callable[[Exception, Event, Subscription], None]


# A dispatch that has reached an async handler: the event, the subscriptions that have not received it yet,
# the handler's, and what it has returned.
_Pending = tuple[Event, Iterator[RouteEntry], RouteEntry, Awaitable[Any]]


class LocalStream(Stream):
    """Base of the streams inside one process.

    A lock guards the tables, never user code, and publishing does not take it. It is reentrant, because
    allocations may run the garbage collector, and so a finalizer that uses the stream.
    """

    def __init__(
        self,
        remember: Callable[[Event], object],
        buffered: Callable[[], int],
        on_error: ErrorHandler | None = None,
    ) -> None:
        if on_error is not None and not is_plain_function(on_error):
            raise TypeError(f"on_error: must be a plain function, got {shorten(on_error)}")
        self._remember = remember  # puts an event into the buffer
        self._buffered = buffered  # returns the number of events in it
        self._on_error = on_error
        self._log = Diagnostics(__name__)  # per stream, so that no other stream uses up its lines
        self._reset_counters()
        self._index = TopicIndex()
        self._entries: dict[str, RouteEntry] = {}
        self._interceptors: tuple[Interceptor, ...] = ()
        self._closed = False
        # A route found here means that the stream is open and has no interceptors: one lookup for all.
        self._routes: Mapping[str | None, Route] = self._index.routes
        self._lock = threading.RLock()
        renew_in_children(self)

    def _reset_counters(self) -> None:
        self._published, self._dropped, self._errors = Counter(), Counter(), Counter()
        self._count_published = self._published.steps.__next__  # one call fewer than `tick`

    def after_fork(self) -> None:
        """Replace the lock, which a thread of the parent process may have held."""
        self._lock = threading.RLock()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        owner = next(kind for kind in cls.__mro__ if {"publish", "start_publish"} & vars(kind).keys())
        if "start_publish" not in vars(owner):  # it has to go through the subclass's own `publish`
            cls.start_publish = Stream.start_publish  # type: ignore[method-assign]

    async def publish(self, event: Event) -> None:
        pending = self._dispatch(event)
        if pending is not None:
            await self._finish(pending)

    def start_publish(self, event: Event) -> Awaitable[None] | None:
        pending = self._dispatch(event)
        return None if pending is None else self._finish(pending)

    def publish_nowait(self, event: Event) -> None:
        self._go_on(event)

    def _go_on(self, event: Event, entries: Iterator[RouteEntry] | None = None) -> None:
        """Call handlers without waiting for any; `entries` as for `_dispatch`."""
        pending = self._dispatch(event, entries)
        while pending is not None:
            self._defer(pending)
            pending = self._dispatch(*pending[:2])

    def _dispatch(self, event: Event, entries: Iterator[RouteEntry] | None = None) -> _Pending | None:
        """Call handlers up to the first one that returns an awaitable; `entries` is None for a new event."""
        if entries is None:
            try:
                route = self._routes.get(event.metadata.get("topic"))
            except (AttributeError, TypeError):  # not an event, or a topic that cannot be a key
                route = None
            if route is None or event.__class__ is not Event:
                event, entries = self._admit(event)
            else:
                self._remember(event)
                self._count_published()
                entries = iter(route)
        for entry in entries:
            try:
                call = entry.call  # as a method call, CPython 3.11 would look it up each time
                result = call(event)
                if result is not None:
                    if result.__class__ is CoroutineType or isawaitable(result):
                        return event, entries, entry, result
                    refuse_generator(result)
            except BaseException as error:  # noqa: BLE001 - a failing handler must not affect the others
                self._survive(error, event, entries, entry)
        return None

    def _admit(self, event: Event) -> tuple[Event, Iterator[RouteEntry]]:
        """Check, buffer and count an event, and return it with the subscriptions that are to receive it."""
        checked = self._intercept(event)
        if checked is None:
            return event, iter(())
        with self._lock:
            route = self._index.route(checked.topic)
        self._remember(checked)
        self._count_published()
        return checked, iter(route)

    async def _finish(self, pending: _Pending | None) -> None:
        """Wait for the handlers of this loop, one after another, and call the remaining ones."""
        here = (asyncio.get_running_loop(), None)
        while pending is not None:
            event, entries, entry, awaitable = pending
            if entry.loop in here or isinstance(awaitable, PublishWait):
                try:
                    await awaitable
                except BaseException as error:  # noqa: BLE001 - as above
                    self._survive(error, event, entries, entry)
            else:
                self._defer(pending)
            pending = self._dispatch(event, entries)

    def _defer(self, pending: _Pending) -> None:
        """Leave an awaitable to the event loop of its handler."""
        event, _, entry, awaitable = pending
        subscription = entry.subscription
        if isinstance(awaitable, PublishWait):
            awaitable.skip()
        elif entry.loop is None or entry.context is None:
            close_awaitable(awaitable)
            error = RuntimeError("handler: an async handler needs a running event loop when it subscribes")
            self._failed(error, event, subscription)
        else:
            with self._lock:
                if entry.mailbox is None:
                    on_error = partial(self._failed, subscription=subscription)
                    entry.mailbox = Mailbox(entry.loop, entry.context, on_error, subscription.drop)
            entry.mailbox.put(awaitable, event)

    def _intercept(self, event: Event) -> Event | None:
        """Check an event and return the result of the interceptors, or None if one drops it."""
        if self._closed:
            raise StreamClosedError(f"{type(self).__name__} is closed")
        if not isinstance(event, Event):
            raise TypeError(f"event: must be an Event, got {shorten(event)}")
        for interceptor in self._interceptors:
            try:
                result = interceptor(event)
                if result is None:
                    self._dropped.tick()
                    return None
                if not isinstance(result, Event):
                    close_awaitable(result)
                    raise TypeError(f"an interceptor must return an Event or None, got {shorten(result)}")  # noqa: TRY301
                event = result
            except MUST_PASS:
                raise
            except BaseException as error:  # noqa: BLE001 - a failing interceptor must not lose the event
                self._errors.tick()
                name = name_of(interceptor)
                self._log.warning(
                    name, "interceptor %s failed; the event passes unchanged", name, error=error
                )
        return event

    def _survive(
        self, error: BaseException, event: Event, entries: Iterator[RouteEntry], entry: RouteEntry
    ) -> None:
        """Report an exception; if it passes through to the publisher, the others get the event before."""
        try:
            self._failed(error, event, entry.subscription)
        except BaseException:
            self._go_on(event, entries)
            raise

    def _failed(self, error: BaseException, event: Event, subscription: Subscription) -> None:
        """Count, log and report an exception of a handler or filter, unless it has to propagate."""
        if isinstance(error, MUST_PASS):
            raise error
        self._errors.tick()
        with suppress(Exception):  # the stack may be exhausted
            name = name_of(subscription.handler or subscription.filter_fn)
            self._log.warning(name, "handler %s failed on event %s", name, event.id, error=error)
        try:
            if self._on_error is not None and isinstance(error, Exception):
                self._on_error(error, event, subscription)
        except Exception as second:  # noqa: BLE001 - the last resort must not fail the publisher
            self._log.warning("on_error", "on_error %s failed", name_of(self._on_error), error=second)

    def _count_drop(self, subscription: Subscription, event: Event, reason: str | None) -> None:
        self._dropped.tick()
        if reason is not None:
            self._log.warning(reason, "event %s was dropped for %r: %s", event.id, subscription, reason)

    def subscribe_nowait(
        self, handler: Handler, topic: str = EVERYTHING, filter_fn: FilterFunction | None = None
    ) -> Subscription:
        if handler is None:
            raise TypeError("handler: must be a function of one event, got None")
        subscription = Subscription(None, topic, handler, filter_fn)
        self._add(subscription, partial(_call_filtered, subscription, handler) if filter_fn else handler)
        return subscription

    def _add(self, subscription: Subscription, call: Handler | None) -> None:
        """Add a subscription to the tables; `call` is its handler, behind its filter."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None  # a plain handler needs none
        with self._lock:
            if self._closed:
                raise StreamClosedError(f"{type(self).__name__} is closed")
            subscription.on_drop = self._count_drop
            subscription.on_end(self._leave)
            if call is not None:
                entry = RouteEntry(subscription, call, loop, copy_context())
                self._entries[subscription.id] = entry
                self._index.add(entry)

    async def unsubscribe(self, subscription_id: str) -> bool:
        entry = self._entries.get(subscription_id)
        if entry is not None:
            entry.subscription.cancel()
        return entry is not None

    def _leave(self, subscription: Subscription) -> None:
        """Remove a subscription that has ended from the tables."""
        with self._lock:
            entry = self._entries.pop(subscription.id, None)
            if entry is not None:
                self._index.remove(entry)
        if entry is not None and entry.mailbox is not None and not self._closed:
            entry.mailbox.clear()

    def add_interceptor(self, fn: Interceptor) -> None:
        if getattr(fn, "makes_an_interceptor", False):
            raise TypeError(
                f"fn: {name_of(fn)} returns an interceptor; call it: add_interceptor({fn.__name__}())"
            )
        if not is_plain_function(fn):
            raise TypeError(f"fn: an interceptor must be a plain function of one event, got {shorten(fn)}")
        with self._lock:
            self._interceptors = (*self._interceptors, fn)
            self._update_routes()

    def remove_interceptor(self, fn: Interceptor) -> bool:
        with self._lock:
            if fn not in self._interceptors:
                return False
            index = self._interceptors.index(fn)
            self._interceptors = self._interceptors[:index] + self._interceptors[index + 1 :]
            self._update_routes()
        return True

    def _update_routes(self) -> None:
        self._routes = {} if self._closed or self._interceptors else self._index.routes

    def statistics(self) -> StreamStatistics:
        counters = (self._published.value(), self._dropped.value(), self._errors.value())
        return StreamStatistics(*counters, len(self._entries), self._buffered())

    async def aclose(self) -> None:
        with self._lock:
            self._closed = True
            self._update_routes()
            entries = list(self._entries.values())
        mailboxes = [entry.mailbox for entry in entries if entry.mailbox is not None]
        try:
            if not any(mailbox.runs_current_task() for mailbox in mailboxes):
                for mailbox in mailboxes:
                    await mailbox.join()
        finally:
            for entry in entries:
                entry.subscription.cancel()


def _call_filtered(subscription: Subscription, handler: Handler, event: Event) -> Any:
    return handler(event) if subscription.passes(event) else None
