"""`DurableStream`: a stream whose events are kept in a store, for all processes that use it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self, TypeVar
from uuid import uuid4

from codomyrmex.integrations.configuration.durations import check_seconds
from codomyrmex.integrations.delivery.groups import GroupStream
from codomyrmex.integrations.delivery.observers import Observers
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.delivery.sink import Binding, check_type
from codomyrmex.integrations.delivery.worker import Worker
from codomyrmex.integrations.durable.admin import StreamAdmin
from codomyrmex.integrations.durable.entries import (
    EventTooLargeError,
    address_entry,
    encode_event,
)
from codomyrmex.integrations.durable.group import Group
from codomyrmex.integrations.durable.handler import (
    HANDLER_POLICY,
    GroupHandlers,
    HandlerSink,
    make_subscription,
)
from codomyrmex.integrations.durable.health import StreamHealth
from codomyrmex.integrations.durable.reading import LogReader
from codomyrmex.integrations.durable.reports import Registration, Sections
from codomyrmex.integrations.durable.retention import UNREAD_LIMIT
from codomyrmex.integrations.durable.runtime import Runtime
from codomyrmex.integrations.durable.saved_groups import Definition
from codomyrmex.integrations.durable.store import Retention, Store
from codomyrmex.integrations.durable.subscribers import Subscribers
from codomyrmex.integrations.durable.worker import GroupWorker
from codomyrmex.streaming import Clock, Event, FilterFunction, Handler, Listener, Overflow, Subscription
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.dispatch import ErrorHandler, LocalStream
from codomyrmex.streaming.errors import StreamClosedError
from codomyrmex.streaming.stream import StreamStatistics
from codomyrmex.streaming.topics import EVERYTHING

T = TypeVar("T")

_log = Diagnostics(__name__)


class DurableStream(LocalStream, LogReader, GroupStream):
    """A stream whose events are kept in a store, for all processes that use the same store and name.

    `await publish()` returns when the event is in the store. Handlers run in each process, in the order of
    the log, on the event loop of their `subscribe`, and with what JSON keeps of the payload; those subscribed
    without a running loop run on a thread for such handlers. A slow handler falls behind and loses nothing. A
    queued sink reads as a group of consumers, of which one process at a time delivers. The stream opens when
    it is first used.

    Args:
        store: where the events are kept.
        name: the name of the log in the store.
        retention: how much of the log is kept.
        unread_limit: how much more is kept while a group has not read it.
        linger: seconds that an event of `publish_nowait` waits for others to be stored with it.
        lease: seconds after which another process takes over from one that was killed.
        publish_timeout: seconds after which `publish` raises a `StoreUnavailableError`.
        on_error: a plain function called with the exception, the event and the subscription of a handler.
        clock: the source of time; for tests.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        store: Store,
        name: str = "events",
        *,
        retention: Retention | None = None,
        unread_limit: Retention = UNREAD_LIMIT,
        linger: float = 0.002,
        lease: float = 10.0,
        publish_timeout: float = 5.0,
        on_error: ErrorHandler | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        check_seconds("linger", linger, zero=True, finite=True)
        check_seconds("lease", lease, finite=True)
        check_seconds("publish_timeout", publish_timeout, finite=True)
        check_type("retention", retention, Retention, None)
        check_type("unread_limit", unread_limit, Retention)
        self.admin = StreamAdmin(store, name)
        self.store, self.name, self.dead_log = store, name, self.admin.dead_log
        self.lease = lease
        self._publish_timeout = publish_timeout
        self.clock = clock
        sections = Sections({"stream": lambda: {name: self.health().reported()}})
        self.runtime = Runtime(
            self.admin,
            retention or Retention(),
            unread_limit,
            linger,
            lease,
            publish_timeout,
            sections,
            clock,
        )
        self._reset()
        super().__init__(lambda _: None, lambda: len(self.tail), on_error)
        self._subscribers = Subscribers(self.runtime, self.read_entries, self._failed)
        self._update_routes()

    def _reset(self) -> None:
        self._group_handlers = GroupHandlers()
        self._group_report: Registration | None = None
        self._too_large = 0

    # Opening and closing

    async def open(self) -> None:
        """Connect to the store; publishing and subscribing do this too.

        Raises:
            StoreConfigError: the store cannot be used as it is.
            StoreUnavailableError: the store did not answer within `publish_timeout`.
            StreamClosedError: the stream is closed.
        """
        self._check_open()
        await self.runtime.open()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    def _check_open(self) -> None:
        if self._closed:
            raise StreamClosedError("DurableStream is closed")

    async def aclose(self) -> None:
        """Store what was published, deliver it to the handlers of this process, and close the store.

        It takes at most about four times the publish timeout. May be called repeatedly.
        """
        try:
            if not self._closed:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._publish_timeout):
                        await self.flush()
                await self._group_handlers.stop_all(self._publish_timeout)
                await self._subscribers.drain(self._publish_timeout)
        finally:  # the first is for a caller that was cancelled
            await asyncio.gather(self._group_handlers.stop_all(0), self._subscribers.drain(0))
            await super().aclose()
            await self.runtime.aclose()

    def after_fork(self) -> None:
        """Make new connections in a child process when it first uses the stream."""
        super().after_fork()
        if hasattr(self, "_subscribers"):  # it is not just being created
            self.runtime.after_fork()
            self._subscribers.after_fork()
            self._reset()
            self._reset_counters()

    # Publishing

    async def publish(self, event: Event) -> None:
        """Publish an event, and wait until it is in the store.

        Raises:
            StoreUnavailableError: the store did not answer within `publish_timeout`; the message says
                whether the event may be stored later.
            EventTooLargeError: the encoded event is larger than 1 MiB.
            StreamClosedError: the stream is closed.
        """
        entry = self._prepare(event)
        if entry is not None:
            await self.runtime.start().put(entry)
            self._count_published()

    def publish_nowait(self, event: Event) -> None:
        """Publish from code that cannot await, in any thread; it is stored after `linger` seconds.

        It is dropped, and counted in `health()`, if 10,000 events wait because the store is not available, or
        if it is too large.
        """
        try:
            entry = self._prepare(event)
        except EventTooLargeError as error:
            self._too_large += 1
            self._dropped.tick()
            _log.warning("too large", "%s: an event was dropped: %s", self.name, error)
            return
        if entry is None:
            return
        if self.runtime.start().put_nowait(entry):
            self._count_published()
        else:
            self._dropped.tick()
            _log.warning("full", "%s: events are dropped: too many are waiting to be stored", self.store.url)

    def _prepare(self, event: Event) -> bytes | None:
        """Return the entry of an event, after interceptors and inline sinks; None if it is dropped."""
        if self._interceptors or self._entries or self._closed or event.__class__ is not Event:
            checked = self._intercept(event)
            if checked is None:
                return None
            event = checked
            with self._lock:
                route = self._index.route(event.topic)
            self._go_on(event, iter(route))
        return encode_event(event)

    async def flush(self) -> None:
        """Wait until everything that was published in this process is in the store."""
        await self.runtime.flush()

    def _update_routes(self) -> None:
        self._routes = {}

    # Subscribing

    def subscribe_inline(self, handler: Handler, topic: str = EVERYTHING) -> Subscription:
        """Call a plain handler with each event that is published in this process, before it is stored.

        It runs in the publisher's context, as a logger needs it.
        """
        return super().subscribe_nowait(handler, topic)

    async def subscribe(
        self,
        handler: Handler,
        topic: str = EVERYTHING,
        filter_fn: FilterFunction | None = None,
        *,
        after: str | None = None,
        group: str | None = None,
        shards: int = 1,
        shard_by: str = "topic",
        policy: DeliveryPolicy | None = None,
    ) -> Subscription:
        """Call a handler with each event after a position.

        Args:
            handler: a plain or an async function of one event.
            topic: a topic or a pattern, as for `Stream.subscribe`.
            filter_fn: a plain function; only the events that it returns true for are delivered.
            after: a cursor, `"earliest"` for everything that is kept, or None for the end of the log.
            group: the name of a group of consumers. Each of its events is delivered in one process only, from
                the position up to which the group's events were delivered; `after` says where a new group
                begins. A handler that raises is called again by the policy, and then the event becomes a dead
                letter.
            shards: the number of parts of the group, each of which one process at a time delivers.
            shard_by: what the events of a shard have in common: `topic`, or a key of the metadata.
            policy: how a group's handler is called again; by default with one event at a time.

        Raises:
            CursorError: `after` is malformed, of another log, or no longer kept.
            GroupError: the group exists with another topic, number of shards or key.
            StoreUnavailableError: the store is not available.
            TopicError: the topic pattern is malformed.
        """
        if group is None:
            if (shards, shard_by, policy) != (1, "topic", None):
                raise TypeError("group: shards, shard_by and policy need the name of a group")
            make_subscription(handler, topic, filter_fn)  # checks the arguments
            await self.open()
            position = await self.resolve(after)
            return self._subscribe(handler, topic, filter_fn, position)
        subscription = make_subscription(handler, topic, filter_fn)
        check_type("policy", policy, DeliveryPolicy, None)
        binding = Binding(
            HandlerSink(group, handler), topic, filter_fn, policy, group, shards, shard_by, after
        )
        worker = self.group_worker(
            binding, topic, filter_fn, policy or HANDLER_POLICY, self.clock, Observers(None, None)
        )
        await worker.start()
        self._group_handlers.add(subscription, worker)
        if self._group_report is None:
            self._group_report = self.report_health(self._group_handlers.health)
        return subscription

    def subscribe_nowait(
        self, handler: Handler, topic: str = EVERYTHING, filter_fn: FilterFunction | None = None
    ) -> Subscription:
        """Subscribe from code that cannot await; the handler is called with the events from now on."""
        return self._subscribe(handler, topic, filter_fn, self.tail.last)

    def subscribe_newest(
        self,
        handler: Callable[[Any], object],
        topic: str = EVERYTHING,
        count: int = 10_000,
        *,
        records: bool = False,
    ) -> Subscription:
        """Call a handler with the events among the newest `count` entries, and with all that follow.

        Args:
            handler: a plain or an async function of one event.
            topic: a topic or a pattern.
            count: how far back it begins.
            records: whether the handler is called with a `LogEntry` instead of an event.
        """
        return self._subscribe(handler, topic, None, None, newest=count, records=records)

    def _subscribe(
        self,
        handler: Callable[[Any], object],
        topic: str,
        filter_fn: FilterFunction | None,
        position: int | None,
        *,
        newest: int = 0,
        records: bool = False,
    ) -> Subscription:
        self._check_open()
        subscription = make_subscription(handler, topic, filter_fn)
        subscription.on_drop = self._count_drop
        self._subscribers.add(subscription, handler, position, newest=newest, records=records)
        return subscription

    async def unsubscribe(self, subscription_id: str) -> bool:
        subscription = self._subscribers.get(subscription_id)
        if subscription is not None:
            subscription.cancel()
            return True
        if await self._group_handlers.stop(subscription_id, None):
            return True
        return await super().unsubscribe(subscription_id)

    def listen(
        self,
        topic: str = EVERYTHING,
        filter_fn: FilterFunction | None = None,
        queue_size: int = 1_000,
        overflow: Overflow = Overflow.BLOCK,
        block_timeout: float | None = None,
    ) -> Listener:
        """Return an async context manager whose value is an async iterator of events, as `Stream.listen`.

        With `BLOCK`, a slow reader falls behind in the log; publishers never wait for it.
        """
        return super().listen(topic, filter_fn, queue_size, overflow, block_timeout)

    # Delivery and health

    def group_worker(
        self,
        binding: Binding,
        topic: str,
        filter_fn: FilterFunction | None,
        policy: DeliveryPolicy,
        clock: Clock,
        observers: Observers,
    ) -> GroupWorker:
        return GroupWorker(self, binding, topic, filter_fn, policy, clock, observers)

    async def replay_for(self, worker: Worker) -> int:
        return await self.replay_dead_letters(worker.group) if isinstance(worker, GroupWorker) else 0

    async def publish_to_group(self, event: Event, group: str) -> None:
        """Append an event for one group only, such as one that it gave up before."""
        await self.runtime.start().put(address_entry(encode_event(event), group))

    def publish_to_group_nowait(self, event: Event, group: str) -> bool:
        """Append an event for one group only, from any thread; return False if there is no room for it."""
        return self.runtime.start().put_nowait(address_entry(encode_event(event), group))

    def make_group(self, name: str, definition: Definition, on_change: Callable[[], None]) -> Group:
        """Return this process's part of a group."""
        owner = self.owner(uuid4().hex[:6])
        clock, restart = self.clock, self.tail.restart_place
        return Group(self.store, self.name, name, definition, owner, self.lease, clock, on_change, restart)

    def statistics(self) -> StreamStatistics:
        base = super().statistics()
        return base._replace(
            subscribers=base.subscribers + len(self._subscribers) + len(self._group_handlers)
        )

    def health(self) -> StreamHealth:
        """Return the health of the stream in this process; from any thread."""
        missed, undecodable = self._subscribers.losses()
        groups = self._group_handlers.health()
        return self.runtime.health(self._too_large, missed, undecodable, groups)
