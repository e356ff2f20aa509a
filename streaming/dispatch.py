"""`LocalStream`: tables, interceptors and dispatch, which all streams inside a process share."""

from __future__ import annotations

import asyncio
import threading
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import suppress
from contextvars import copy_context
from inspect import isawaitable
from operator import length_hint
from types import CoroutineType
from typing import Any

from codomyrmex.streaming.buffers import PutLater
from codomyrmex.streaming.counters import Counter, DeliveryCounters
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.errors import HandlerLoopError, StreamClosedError, shorten
from codomyrmex.streaming.events import Event, new_id
from codomyrmex.streaming.forks import renew_in_children
from codomyrmex.streaming.instrument import Instrumentation, within
from codomyrmex.streaming.mailbox import InLine, Mailbox, run_on
from codomyrmex.streaming.stream import Interceptor, Stream, StreamStatistics
from codomyrmex.streaming.subscriptions import (
    FilterFunction,
    Handler,
    Subscription,
    bind,
    close_awaitable,
    count_drop,
    deactivate,
    is_plain_function,
    name_of,
)
from codomyrmex.streaming.topics import EVERYTHING, Audience, Recipient, TopicIndex


class _Rest:
    """What is left of a publish from an async handler on: to be awaited, or else closed."""

    __slots__ = ("_audience", "_calls", "_event", "_result", "_stream")

    def __init__(
        self,
        stream: LocalStream,
        result: Any,
        event: Event,
        audience: Audience,
        calls: Iterator[Callable[[Event], Any]],
    ) -> None:
        self._stream = stream
        self._result = result
        self._event = event
        self._audience = audience
        self._calls = calls

    def __await__(self) -> Generator[Any, None, None]:
        rest = self._stream._finish_publish(self._result, self._event, self._audience, self._calls)
        return rest.__await__()

    def close(self) -> None:
        """Give it up; those who do not get the event are counted."""
        close_awaitable(self._result)
        self._stream._abandoned(self._calls)


ErrorHandler = Callable[[Exception, Event, Subscription], None]

_MAILBOX_SIZE = 10_000


class LocalStream(Stream):
    """Base of the streams inside one process.

    `threading.RLock` guards the tables and no user code; publishing takes no lock at all. (Reentrant,
    because any allocation may run the garbage collector, and so a finalizer that uses the stream.)
    """

    def __init__(self, remember: Callable[[Event], object], on_error: ErrorHandler | None = None) -> None:
        super().__init__()
        if on_error is not None and not is_plain_function(on_error):
            raise TypeError(f"on_error is a plain function, not {shorten(on_error)}")
        self._remember = remember  # puts an event into the buffer
        self._on_error = on_error
        self._log = Diagnostics(__name__)  # of its own, so that no other stream uses up its lines
        self._counters = DeliveryCounters()
        self._index = TopicIndex(self._counters)
        self._recipients: dict[str, Recipient] = {}
        self._interceptors: tuple[Interceptor, ...] = ()
        self._closed = False
        self._instruments: tuple[Instrumentation, ...] = ()
        # What `publish` looks into first. Found there: the stream is open, has no interceptors, and
        # the audience of the topic is known, all with one lookup.
        self._direct: Mapping[str | None, Audience] = self._index.audiences
        self._lock = threading.RLock()
        renew_in_children(self)

    def after_fork(self) -> None:
        """Take locks that no thread of the parent process holds."""
        self._lock = threading.RLock()
        self._listeners_lock = threading.RLock()

    @abstractmethod
    def _buffered(self) -> int:
        """Count the events in the buffer."""

    # Publishing, the hot path: no lock, one lookup, one count, one append, and then a bare loop over the
    # handlers. After a handler that raises, the same iterator goes on with the next one, and it also
    # tells whose turn it was. The loop stands three times, for those who wait, those who cannot, and
    # for what comes behind an async handler, as one call more for each handler would double the cost.

    async def publish(self, event: Event) -> None:
        rest = self._start_publish(event)
        if rest is not None:
            await rest

    _known_publish = publish  # the one that is nothing but `_start_publish` and the await

    def _starter(self) -> Callable[[Event], Awaitable[None] | None]:
        if type(self).publish is type(self)._known_publish:
            return self._start_publish
        return self.publish  # a subclass has one of its own

    def _start_publish(self, event: Event) -> Awaitable[None] | None:
        try:
            audience = self._direct.get(event.metadata.get("topic"))
        except (AttributeError, TypeError):  # no event, or a topic that cannot be a key
            audience = None
        if audience is None or event.__class__ is not Event:
            admitted = self._admit(event)
            if admitted is None:
                return None
            event, audience = admitted
        self._remember(event)
        next(audience.published)
        calls = iter(audience.calls)
        try:
            while True:
                try:
                    for call in calls:
                        result = call(event)
                        if result is not None and (result.__class__ is CoroutineType or isawaitable(result)):
                            return _Rest(self, result, event, audience, calls)
                except Exception as error:  # noqa: BLE001 - a handler's failure is its own
                    self._failed(error, event, audience.recipient_at(calls).subscription)
                else:
                    return None
        except BaseException:
            self._abandoned(calls)
            raise

    async def _finish_publish(
        self,
        result: Any,
        event: Event,
        audience: Audience,
        calls: Iterator[Callable[[Event], Any]],
    ) -> None:
        """Await an async handler and go on behind it."""
        try:
            while True:
                try:
                    if result is not None and isawaitable(result):
                        await self._await_handler(result, audience.recipient_at(calls), event)
                    for call in calls:
                        result = call(event)
                        if result is not None:
                            break
                    else:
                        return
                except Exception as error:  # noqa: BLE001 - as above
                    result = None
                    self._failed(error, event, audience.recipient_at(calls).subscription)
        except BaseException:
            self._abandoned(calls)
            raise

    async def _await_handler(self, result: Awaitable[Any], recipient: Recipient, event: Event) -> None:
        if not recipient.subscription.active:
            close_awaitable(result)
            self._counters.skipped.tick()
            return
        waiting = self._at_home(result, recipient, event)
        try:
            await waiting
        except Exception:
            raise
        except BaseException:
            if isinstance(waiting, (PutLater, InLine)):  # these count what becomes of the event
                self._counters.settled.tick()
            raise

    def publish_nowait(self, event: Event) -> None:
        try:
            audience = self._direct.get(event.metadata.get("topic"))
        except (AttributeError, TypeError):
            audience = None
        if audience is None or event.__class__ is not Event:
            admitted = self._admit(event)
            if admitted is None:
                return
            event, audience = admitted
        self._remember(event)
        next(audience.published)
        calls = iter(audience.calls)
        try:
            while True:
                try:
                    for call in calls:
                        result = call(event)
                        if result is not None and (result.__class__ is CoroutineType or isawaitable(result)):
                            self._defer(result, audience.recipient_at(calls), event)
                except Exception as error:  # noqa: BLE001 - as above
                    self._failed(error, event, audience.recipient_at(calls).subscription)
                else:
                    return
        except BaseException:
            self._abandoned(calls)
            raise

    def _admit(self, event: Event) -> tuple[Event, Audience] | None:
        """Take an event the thorough way: checked, intercepted, its audience looked up."""
        checked = self._check(event)
        if checked is None:
            return None
        with self._lock:
            return checked, self._index.audience(checked.topic)

    def _check(self, event: Event) -> Event | None:
        """Give the event that the interceptors make of it, or None if one drops it."""
        if self._closed:
            raise StreamClosedError(f"{type(self).__name__} is closed")
        if not isinstance(event, Event):
            raise TypeError(f"only an Event can be published, not {shorten(event)}")
        for interceptor in self._interceptors:
            try:
                result = interceptor(event)
                if result is None:
                    self._counters.other_drops.tick()
                    return None
                if not isinstance(result, Event):
                    close_awaitable(result)
                    raise TypeError(f"an interceptor gives an Event or None, not {shorten(result)}")  # noqa: TRY301
                event = result
            except Exception as error:  # noqa: BLE001 - an interceptor must not lose an event
                self._counters.other_errors.tick()
                name = name_of(interceptor)
                self._log.warning(name, "interceptor %s raised; the event goes on", name, error=error)
        return event

    # What an async handler returned

    def _at_home(self, awaitable: Awaitable[Any], recipient: Recipient, event: Event) -> Awaitable[Any]:
        """Give what to await so that an async handler runs on its own loop and in its turn."""
        if awaitable.__class__ is PutLater:
            return awaitable
        mailbox, loop = recipient.mailbox, recipient.loop
        if mailbox is not None and mailbox.must_wait_in_line():
            return InLine(mailbox, awaitable, event)
        if loop is None or loop is asyncio.get_running_loop():
            return awaitable
        return run_on(loop, awaitable)

    def _defer(self, awaitable: Awaitable[Any], recipient: Recipient, event: Event) -> None:
        if isinstance(awaitable, PutLater):
            awaitable.give_up()
            return
        if recipient.loop is None:
            close_awaitable(awaitable)
            raise HandlerLoopError("the async handler was subscribed without an event loop")
        if recipient.mailbox is None:
            with self._lock:
                if recipient.mailbox is None:
                    recipient.mailbox = self._mailbox(recipient, recipient.loop)
        recipient.mailbox.put(awaitable, event)

    def _mailbox(self, recipient: Recipient, loop: asyncio.AbstractEventLoop) -> Mailbox:
        subscription = recipient.subscription
        errors = self._counters.other_errors if recipient.queued else None
        drops = self._counters.other_drops if recipient.queued else None
        return Mailbox(
            loop,
            recipient.context,
            _MAILBOX_SIZE,
            lambda error, event: self._failed(error, event, subscription, errors),
            lambda event, reason: self._count_drop(subscription, event, reason, drops),
        )

    # What goes wrong

    def _failed(
        self,
        error: Exception,
        event: Event,
        subscription: Subscription,
        counter: Counter | None = None,
    ) -> None:
        (counter or self._counters.handler_errors).tick()
        with suppress(Exception):  # at the end of the stack there may be no way left to say it
            name = name_of(subscription.handler)
            self._log.warning(
                name, "handler %s failed on event %s; the others go on", name, event.id, error=error
            )
        if self._on_error is None:
            return
        try:
            self._on_error(error, event, subscription)
        except Exception as second:  # noqa: BLE001 - the last resort must not fail the publisher
            name = name_of(self._on_error)
            self._log.warning(name, "on_error %s raised", name, error=second)
        except BaseException:
            self._counters.settled.tick()  # the publish that this ends counts it once more
            raise

    def _abandoned(self, calls: Iterator[object]) -> None:
        """Count those who did not get the event because the publisher was interrupted."""
        for _ in range(length_hint(calls) + 1):
            self._counters.skipped.tick()

    def _count_drop(
        self,
        subscription: Subscription,
        event: Event,
        reason: str | None,
        counter: Counter | None = None,
    ) -> None:
        (counter or self._counters.dropped_at_queue).tick()
        count_drop(subscription)
        if reason is not None:
            self._log.warning(reason, "event %s dropped for %r: %s", event.id, subscription, reason)

    # Tables

    async def unsubscribe(self, subscription_id: str) -> bool:
        with self._lock:
            recipient = self._recipients.get(subscription_id)
        if recipient is None:
            return False
        recipient.subscription.cancel()
        return True

    def add_interceptor(self, fn: Interceptor) -> None:
        if getattr(fn, "makes_an_interceptor", False):
            raise TypeError(f"{name_of(fn)} makes an interceptor: call it, add_interceptor({fn.__name__}())")
        if not is_plain_function(fn):
            raise TypeError(f"an interceptor is a plain function of one event, not {shorten(fn)}")
        with self._lock:
            self._interceptors = (*self._interceptors, fn)
            self._redirect()

    def remove_interceptor(self, fn: Interceptor) -> bool:
        with self._lock:
            left = list(self._interceptors)
            if fn not in left:
                return False
            left.remove(fn)
            self._interceptors = tuple(left)
            self._redirect()
            return True

    def statistics(self) -> StreamStatistics:
        counters = self._counters
        return StreamStatistics(
            published=counters.published,
            delivered=counters.delivered,
            dropped=counters.dropped,
            handler_errors=counters.errors,
            subscribers=len(self._index),
            buffered=self._buffered(),
        )

    async def aclose(self) -> None:
        with self._lock:
            self._closed = True
            self._redirect()
            recipients = list(self._recipients.values())
        await super().aclose()
        try:
            for recipient in recipients:  # what was published is still handled
                if recipient.mailbox is not None:
                    await recipient.mailbox.join()
        finally:
            for recipient in recipients:
                self._retire(recipient.subscription)

    def subscribe_nowait(
        self,
        handler: Handler,
        topic: str = EVERYTHING,
        filter_fn: FilterFunction | None = None,
    ) -> Subscription:
        """Subscribe from code that cannot await; arguments and errors as for `subscribe`.

        An async handler runs on the event loop that runs now; without one, only plain handlers work.
        """
        if handler is None:
            raise TypeError("subscribe needs a handler, a function of one event")
        subscription = Subscription(new_id(), topic, handler, filter_fn)
        call = within(self, handler) if self._instruments else handler
        with self._lock:
            self._enter(subscription, self._entry(subscription, call))
            self._recipients[subscription.id].handler = handler
        return subscription

    async def _subscribe_listener(
        self, handler: Handler, topic: str, filter_fn: FilterFunction | None
    ) -> Subscription:
        subscription = Subscription(new_id(), topic, handler, filter_fn)
        with self._lock:
            self._enter(subscription, self._entry(subscription, handler))
        return subscription

    def _entry(self, subscription: Subscription, call: Handler) -> Callable[[Any], object]:
        """Give what a dispatch calls so that `call` is called for a subscription."""
        return _filtered(call, subscription.filter_fn, self._counters.skipped.tick)

    def _wrap_handlers(self) -> None:
        """Let the handlers that are there run within what is put around the stream: see `instrument`."""
        with self._lock:
            for recipient in self._recipients.values():
                if recipient.handler is not None:
                    call = within(self, recipient.handler)
                    recipient.entry = self._entry(recipient.subscription, call)
            self._index.rebuild()

    def _enter(
        self, subscription: Subscription, entry: Callable[[Any], object], *, queued: bool = False
    ) -> None:
        """Put a subscription into the tables; the caller holds the lock."""
        if self._closed:
            raise StreamClosedError(f"{type(self).__name__} is closed")
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None  # a plain handler needs none
        recipient = Recipient(subscription, entry, loop, copy_context(), queued)
        bind(subscription, self._leave)
        self._recipients[subscription.id] = recipient
        self._index.add(recipient)

    async def _let_finish(self, subscription: Subscription) -> None:
        with self._lock:
            recipient = self._recipients.get(subscription.id)
            if recipient is not None:
                self._index.remove(recipient)
        if recipient is not None and recipient.mailbox is not None:
            await recipient.mailbox.join()
        subscription.cancel()

    def _retire(self, subscription: Subscription) -> None:
        """End a subscription from the side of the stream."""
        deactivate(subscription)
        LocalStream._leave(self, subscription)

    def _leave(self, subscription: Subscription) -> None:
        """Take a subscription out of the tables: what its `cancel` calls."""
        with self._lock:
            recipient = self._recipients.pop(subscription.id, None)
            if recipient is None:
                return
            self._index.remove(recipient)
        if recipient.mailbox is not None:
            for _ in range(recipient.mailbox.clear()):
                if not recipient.queued:
                    self._counters.skipped.tick()

    def _redirect(self) -> None:
        self._direct = {} if self._closed or self._interceptors else self._index.audiences


def wants(filter_fn: FilterFunction, event: Event) -> bool:
    """Ask a filter.

    Raises:
        TypeError: it gave an awaitable, which would be true whatever it comes to.
    """
    wanted = filter_fn(event)
    if wanted is not True and isawaitable(wanted):
        close_awaitable(wanted)
        raise TypeError(f"a filter is a plain function, but {name_of(filter_fn)} gave an awaitable")
    return bool(wanted)


def _filtered(
    call: Callable[[Event], object],
    filter_fn: FilterFunction | None,
    skipped: Callable[[], None],
) -> Callable[[Event], object]:
    if filter_fn is None:
        return call

    def call_if_wanted(event: Event) -> object:
        if wants(filter_fn, event):
            return call(event)
        skipped()
        return None

    return call_if_wanted
