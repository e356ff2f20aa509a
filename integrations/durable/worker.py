"""`GroupWorker`: sends a sink the events of its group, from the position up to which they were delivered."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from time import time

from codomyrmex.integrations.delivery.health import REMOVED, SinkReport, SinkState
from codomyrmex.integrations.delivery.observers import Observers
from codomyrmex.integrations.delivery.policy import DeliveryPolicy, Failure, Outcome, backoff
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.delivery.sending import SendingWorker
from codomyrmex.integrations.delivery.sink import Binding, Sink
from codomyrmex.integrations.delivery.worker import GRACE, done_within
from codomyrmex.integrations.durable.entries import encode_event
from codomyrmex.integrations.durable.group import Group
from codomyrmex.integrations.durable.letters import Letters
from codomyrmex.integrations.durable.places import PlaceSaver
from codomyrmex.integrations.durable.shard import (
    GroupSource,
    Selection,
    ShardReader,
    define_group,
    join_group,
)
from codomyrmex.integrations.durable.store import StoreError, StoreUnavailableError
from codomyrmex.streaming import Clock, Event, FilterFunction
from codomyrmex.streaming.provenance import origin_of, stems_from_logs

_SAVE_INTERVAL = 1.0  # seconds between saves while only events of others pass by
_RETRY = 0.5  # seconds until the log is read again after an error


class GroupWorker(SendingWorker):
    """Sends a sink the events of a group, one batch at a time, while this process holds the group's lease.

    What is not delivered when it stops stays in the store, for the next process that acquires the lease.
    """

    def __init__(
        self,
        stream: GroupSource,
        binding: Binding,
        topic: str,
        filter_fn: FilterFunction | None,
        policy: DeliveryPolicy,
        clock: Clock,
        observers: Observers,
    ) -> None:
        assert isinstance(binding.sink, Sink)  # noqa: S101 - `attach` has checked it
        self._stream = stream
        self.group, self._definition = define_group(binding, topic)
        self._selection = Selection(self.group, binding.sink.name, self._definition, filter_fn)
        self._after = binding.after
        self._group: Group | None = None
        super().__init__(binding.sink, policy, clock, observers)

    def reset(self) -> None:
        super().reset()
        self._shards: dict[int, ShardReader] = {}
        self._current: ShardReader | None = None
        self._lease_lost = False
        self._letters = Letters(self.group)
        self._places = PlaceSaver(
            self._stream, self._now, lambda message, error: self.warn(message, error=error)
        )
        self._generation = 0
        self._since = math.inf  # the end of the log when it was started, if it could not be opened then
        self._end = math.inf  # the position at which the drain ends
        self._flush_to = self._left = 0

    def handle(self, event: Event) -> object:
        """Do nothing: the worker reads the events from the stream."""

    async def resend(self, event: Event) -> None:
        await self._stream.publish_to_group(event, self.group)

    # Health

    def waiting(self) -> tuple[int, int, float]:
        last = self._stream.tail.last or 0
        lag, oldest = 0, None
        for shard in tuple(self._shards.values()):
            lag += max(0, last - shard.delivered)
            items = self._stream.tail.get(shard.delivered, 1)
            if items:
                oldest = min(oldest or math.inf, items[0].time)
        in_flight = len(self._in_flight)
        return max(0, lag - in_flight), in_flight, 0.0 if oldest is None else max(0.0, time() - oldest)

    def report(self) -> SinkReport:
        left = self._left if self._task is None else sum(self.waiting()[:2])
        return SinkReport(self._delivered, self._dead, self.drops(), 0, self._retried, left)

    def visible_state(self) -> SinkState:
        state = super().visible_state()
        if state is not SinkState.OK or self._task is None:
            return state
        if self._group is None:
            return SinkState.NOT_OPEN
        return SinkState.OK if self._group.held else SinkState.STANDBY

    # From start to stop

    async def start(self, *, retry: bool = False) -> None:
        try:
            await self._open_group()
        except StoreUnavailableError as error:
            if not (retry or self._policy.open == "retry"):
                raise
            self._since = self._stream.tail.last or 0
            self.warn("sink %s: its store is not available, and will be opened later", error=error)
        try:
            await super().start(retry=retry)
        except BaseException:
            await self._close_group()
            raise

    async def _open_group(self) -> None:
        stream = self._stream
        await stream.open()
        self._group = await join_group(stream, self.group, self._definition, self._after, self._since)
        self._generation = stream.tail.generation

    async def _close_group(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            await asyncio.shield(self._stream.call(group.close()))

    def _accept(self) -> None:
        """Do nothing: events are in the store."""

    def _set_sending(self, task: asyncio.Task[None] | None) -> None:
        self._sending = task

    def flush(self) -> asyncio.Future[None] | None:
        return asyncio.ensure_future(self._flush())

    async def _flush(self) -> None:
        await self._stream.flush()
        target = self._flush_to = self._stream.tail.last or 0
        while self._task is not None and not self._task.done():
            ringing = self._stream.tail.bell.future()
            if self._has_delivered(target):
                self._stream.tail.bell.forget(ringing)
                return
            self._stream.tail.bell.ring()
            await asyncio.wait({ringing}, timeout=GRACE)

    def _has_delivered(self, position: int) -> bool:
        held = () if self._group is None else tuple(self._group.held)
        return all(number in self._shards and self._shards[number].delivered >= position for number in held)

    async def stop(self, timeout: float | None) -> None:  # noqa: ASYNC109 - counted by the clock
        if self.loop() is asyncio.get_running_loop():
            flushing = asyncio.create_task(self._stream.flush())
            await done_within(flushing, self.drain_timeout if timeout is None else timeout, self._clock)
            flushing.cancel()
        await super().stop(timeout)

    def _begin_drain(self) -> None:
        self._end = self._stream.tail.last or 0
        self._stream.tail.bell.ring()

    def abort(self) -> None:
        super().abort()
        self._places.end()
        self._stream.tail.bell.ring()

    async def _close(self) -> None:
        if self._task is not None:
            if self._group is not None:
                await self._places.finish(self._group, tuple(self._shards.values()))
            self._left = self.report().left
        self._task = None
        self._in_flight = []
        await self._close_group()
        await self.close_sink(GRACE if self._deadline is None else self._deadline - self._now())
        self._set_state(SinkState.CLOSED)

    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the event loop that it runs on, None if it does not run."""
        return None if self._task is None else self._task.get_loop()

    def after_fork(self) -> None:
        self._leave_to_parent()
        self.state = SinkState.CLOSED

    def restart_after_fork(self, start: Callable[[], None]) -> None:
        attached = self.state not in {SinkState.NOT_STARTED, SinkState.CLOSED}
        self._leave_to_parent()
        if attached:
            self.state = SinkState.STANDBY  # the parent delivers
            self._stream.runtime.call_when_used(start)

    def _leave_to_parent(self) -> None:
        self.opened = False
        self._group = None
        self.reset()

    # The task

    async def _run(self) -> None:
        try:
            await self._deliver_all()
        except asyncio.CancelledError:
            if not self._aborted:
                self.warn("sink %s: its task was cancelled; other processes can take over")
                self._set_state(SinkState.CLOSED)
                self._stream.runtime.call_soon(self._close_group())
            raise
        finally:
            if self._sending is not None:
                self._sending.cancel()

    async def _deliver_all(self) -> None:
        failures = 0
        while self._group is None:
            failures += 1
            wait = backoff(self._policy.backoff_initial, self._policy.backoff_max, failures)
            if not await self._pause(wait, requested=False):
                return
            try:
                await self._open_group()
            except StoreError as error:
                self.warn("sink %s: its group could not be opened", error=error)
        if not self.opened and not await self._keep_opening():
            return
        bell = self._stream.tail.bell
        while not self._aborted:
            ringing = bell.future()
            try:
                due_in = await self._send_due()
                if due_in is None or self._is_drained():
                    return
                if due_in > 0:
                    await done_within(ringing, None if due_in == math.inf else due_in, self._clock)
            finally:
                bell.forget(ringing)

    async def _send_due(self) -> float | None:
        """Send the batches that are due; return the seconds until the next one may be, None at the end."""
        self._update_shards()
        due_in = math.inf
        for shard in tuple(self._shards.values()):
            if self._group is not None and shard.number in self._group.leaving:
                await self._leave(self._group, shard)
                continue
            if not self._is_held(shard):
                continue
            await self._collect(shard)
            seconds = self._due_in(shard)
            if shard.batch and seconds <= 0 and not await self._send_batch(shard):
                return None
            due_in = min(due_in, seconds)
        return due_in

    async def _leave(self, group: Group, shard: ShardReader) -> None:
        """Let another process read a shard, from the place that is saved first."""
        del self._shards[shard.number]
        await self._places.save(group, shard, wait=True)
        with suppress(StoreError):  # then it expires
            await self._stream.call(group.release(shard.number))

    def _is_held(self, shard: ShardReader) -> bool:
        return self._group is not None and self._group.is_held(shard.number, shard.token)

    def _update_shards(self) -> None:
        """Begin with the shards that were acquired, and forget those that were lost."""
        tail, group, shards = self._stream.tail, self._group, self._shards
        if group is None:
            return
        if tail.generation != self._generation:
            self._generation = tail.generation
            for shard in shards.values():
                shard.restart(min(shard.delivered, tail.restart))
        for number, held in tuple(group.held.items()):
            known = shards.get(number)
            if known is None or known.token != held.lease.token:
                shards[number] = ShardReader(number, held, self._stream, self._selection)
            if number in group.seeks:
                shards[number].restart(group.seeks.pop(number))
        for number in tuple(shards):
            if number not in group.held:
                del shards[number]
        if self._reported is not self.visible_state():
            self._set_state(self.state)

    def _is_drained(self) -> bool:
        shards = self._shards.values()
        return self._deadline is not None and all(not s.batch and s.scanned >= self._end for s in shards)

    async def _collect(self, shard: ShardReader) -> None:
        """Read entries of a shard until there is a full batch, or no more."""
        try:
            await shard.collect(self._policy.batch_size, self._now)
        except StoreError as error:
            self.warn("sink %s: its events could not be read", error=error)
            shard.retry_at = self._now() + _RETRY
            return
        shard.retry_at = math.inf
        removed, shard.removed = shard.removed, 0
        for _ in range(removed):
            self.drop(REMOVED)
        if removed:
            self.warn("sink %s: %d events were removed by the retention before they were delivered", removed)
        if shard.refused:
            self._count_dead(len(shard.refused))
            for entry, reason in shard.refused:
                self._letters.put(reason, 0, entry)
            shard.refused = []
        if not shard.batch:
            await self._skip(shard)

    def _due_in(self, shard: ShardReader) -> float:
        """Return the seconds until a batch has to be sent, or a place to be saved."""
        now = self._now()
        if not shard.batch:
            save_at = math.inf if shard.saved == shard.delivered else shard.saved_at + _SAVE_INTERVAL
            return min(save_at, shard.retry_at) - now
        full = len(shard.batch) >= self._policy.batch_size
        if full or self._deadline is not None or shard.delivered < self._flush_to:
            return 0.0
        return shard.batch[0][1] + self._policy.batch_age - now

    async def _skip(self, shard: ShardReader) -> None:
        """Note that the entries up to here are not for this shard, and save that now and then."""
        if self._letters and not await self._append_letters():
            return
        shard.delivered = shard.scanned
        if shard.saved != shard.delivered and self._now() - shard.saved_at >= _SAVE_INTERVAL:
            await self._save(shard)

    async def _send_batch(self, shard: ShardReader) -> bool:
        """Deliver a batch, and save the position after it; return False when the time is over."""
        now = self._now()
        requested = self._not_before - now
        pause = max(requested, self._breaker.wait(now))
        if pause > 0 and not await self._pause(pause, requested=requested > 0):
            return False
        self._in_flight, shard.batch, self._current, self._lease_lost = shard.batch, [], shard, False
        from_logs = any(stems_from_logs(origin_of(event)) for event, _ in self._in_flight)
        await self._deliver_batch(from_logs=from_logs)
        if self._lease_lost:  # another process delivers the events
            self._in_flight = []
            self._letters.clear()
            shard.restart(shard.delivered)
            return True
        if self._in_flight:
            return False
        if self._letters and not await self._append_letters():
            return False
        shard.delivered = shard.scanned
        await self._save(shard)
        return True

    async def _attempt(self) -> Outcome:
        if self._current is None or not self._is_held(self._current):
            self._lease_lost = True
            return Outcome([], [], None)
        return await super()._attempt()

    def _give_up(self, failures: list[Failure], attempts: int, first_attempt: datetime) -> None:
        super()._give_up(failures, attempts, first_attempt)
        for failure in failures:
            self._letters.put(describe(failure.error), attempts, encode_event(failure.item[0]))

    async def _append_letters(self) -> bool:
        """Append the dead letters to their log, before the position after them is saved."""
        group, letters = self._group, self._letters
        while group is not None and letters and not self._aborted:
            try:
                await self._stream.call(group.append_letters(self._stream.dead_log, letters.batch()))
            except StoreError as error:
                self.warn("sink %s: dead letters could not be stored", error=error)
                failures = letters.failed(error)
                wait = backoff(self._policy.backoff_initial, self._policy.backoff_max, failures)
                await self._pause(wait, requested=False)
            else:
                letters.appended()
        return not letters

    async def _save(self, shard: ShardReader) -> None:
        if self._group is not None:
            await self._places.save(self._group, shard)
