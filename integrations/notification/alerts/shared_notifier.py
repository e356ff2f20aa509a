"""`SharedNotifier`: one process notifies about the alerts of all, and the others stand by."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from codomyrmex.integrations.configuration.process import process_name
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.health import SinkHealth
from codomyrmex.integrations.durable.entries import Place
from codomyrmex.integrations.durable.reports import ProcessState, Registration
from codomyrmex.integrations.durable.store import StoreError, StoreUnavailableError
from codomyrmex.integrations.notification.alerts.alert import Alert
from codomyrmex.integrations.notification.alerts.alert_buffer import Batch
from codomyrmex.integrations.notification.alerts.away import Away
from codomyrmex.integrations.notification.alerts.config import AlertConfig
from codomyrmex.integrations.notification.alerts.control import reload_event, silence_event
from codomyrmex.integrations.notification.alerts.engine import AlertEngine
from codomyrmex.integrations.notification.alerts.engine_runner import (
    EngineRunner,
    Step,
    degraded,
    retrieve_error,
    shielded,
)
from codomyrmex.integrations.notification.alerts.notification import Notification
from codomyrmex.integrations.notification.alerts.notifier import (
    AlertStatistics,
    Notifier,
    NotifierRole,
    Parts,
)
from codomyrmex.integrations.notification.alerts.outbox import Outbox
from codomyrmex.integrations.notification.alerts.replica import Replica
from codomyrmex.integrations.notification.alerts.shared_state import Input, Sharing
from codomyrmex.integrations.notification.alerts.silences import Silence
from codomyrmex.integrations.notification.alerts.state_records import Head

T = TypeVar("T")

_SECTION = "alerts"  # of the report of each process to the others
_SAVE_TIMEOUT = 1.0  # the maximum seconds that a channel waits until its delivery is saved
_SAVE_INTERVAL = 1.0  # seconds between saves while no event is an alert
_POLL = 0.05  # seconds between checks while a caller waits
_RETRY = 0.2  # seconds before the store is tried again after an error
_SUSPECT = 2.5  # seconds without the store after which events are kept here as well
_SILENCE_TIMEOUT = 2.0  # seconds until the process that notifies knows a silence

_log = Diagnostics(__name__)


class SharedNotifier(Notifier):
    """Notifies about the alerts of all processes while this one holds the lease, and otherwise stands by.

    Due notifications are saved before they are sent, and their outcomes afterwards, with the position up to
    which the log is in the state. So a process that takes over repeats at most those that were in flight.
    """

    def __init__(self, parts: Parts, sharing: Sharing) -> None:
        self._state, self._sharing = sharing.state, sharing
        self.poll_interval = min(super().poll_interval, sharing.lease / 4)
        super().__init__(parts)
        self.role = NotifierRole.STANDBY
        self._suspects = False  # the store may not be available, so events are kept here as well
        self._token = 0
        self._takeovers = 0
        self._outbox = Outbox(parts, self.runner, sharing.state)
        self._back_at = math.inf  # when the store was available again, in seconds of the clock
        self._replica = Replica(parts.name, sharing.state, self.runner, self._poll_soon)
        self._saved_at = 0.0
        self._missed = self._unreadable = 0
        self._error: str | None = None  # why the state cannot be saved
        self._turn = asyncio.Lock()  # a step, or reading what another process has changed
        self._away = Away(parts, self.runner, sharing.state, self._outbox)
        self._tasks: set[asyncio.Task[None]] = set()
        self._membership: Registration | None = None

    def _make_runner(self) -> EngineRunner:
        return EngineRunner(self._config, self._name, self._clock, keeps_changes=True)

    # Opening and closing

    async def _open_state(self) -> None:
        self._membership = self._state.stream.report_section(
            _SECTION, lambda: {self._name: {"role": self.role.value}}
        )
        try:
            await self._open_shared()
            await self._update_role()
        except StoreUnavailableError as error:
            _log.warning("open", "sink %s: its store is not available: %s", self._name, error)
        for run in (self._listen(), self._replica.follow(self._turn, self._stands_by)):
            self._tasks.add(asyncio.create_task(run, name=f"alerts {self._name}"))

    async def _open_shared(self) -> None:
        await self._state.open()
        await self._replica.load()

    async def _close_state(self) -> None:
        if self._membership is not None:
            self._membership.close()
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        head = self._replica.head if self.role is NotifierRole.HOLDER else None
        self.role = NotifierRole.STANDBY
        with suppress(StoreError):
            await self._state.close(head)
        self._away.close()
        if not self._sharing.reads_stream:
            await self._state.stream.aclose()

    async def _finish(self) -> None:
        """Append all published events to the log, and apply the log to the state."""
        if self._suspects and self._sharing.sends_away:
            async with self._turn:
                await self._go_away()
                await self._away.skip_waits()
            await self.step()
            return
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(self._sharing.lease):
                if self.role is NotifierRole.HOLDER:
                    await self.flush()
                else:
                    await self._state.stream.flush()
        if left := len(self._outbox):
            _log.warning("left", "sink %s: %d alerts could not be stored", self._name, left)

    # Steps

    async def step(self) -> None:
        async with self._turn:
            self._deadline = None
            await self._update_role()
            if self.role is NotifierRole.AWAY:
                self._dispatch(await self._away.step(self._buffer, self._pop_outcomes()))
                return
            if self._sharing.reads_stream and not self._suspects:
                self._buffer.get_all()  # it is in the stream
            elif not self._suspects and not await self._outbox.publish():
                self._deadline = self._clock.time() + _RETRY  # there will be room in the log
            if self.role is NotifierRole.HOLDER:
                await self._step_as_holder()
            else:
                self._outcomes.clear()

    async def _step_as_holder(self) -> None:
        try:
            found = await self._state.read()
        except StoreError as error:
            self._note(error)
            self._deadline = self._clock.time() + _RETRY
            return
        self._count(found)
        outcomes = self._pop_outcomes()
        step = await self.runner.step(Batch(found.events, 0), outcomes, found.controls)
        if not await self._save(step, found):
            self._lose()
            return
        if any("reload" in data for data in found.controls):
            self._poll_soon()
        self._dispatch(step)
        if found.events or found.controls:
            self._woken.set()  # there may be more

    def _count(self, found: Input) -> None:
        self._missed += found.missed
        self._unreadable += found.unreadable
        if found.missed:
            message = "sink %s: %d events were removed by the retention before they were read"
            _log.warning("missed", message, self._name, found.missed)

    async def _save(self, step: Step, found: Input) -> bool:
        """Save the changes of a step while the lease is held; return False if it was lost."""
        head, changes = self._replica.head, step.changes
        assert head is not None  # noqa: S101 - it holds the lease
        assert changes is not None  # noqa: S101 - the runner keeps them
        now = self._clock.monotonic()
        moved = Place(head.epoch, head.position) != found.place and now - self._saved_at >= _SAVE_INTERVAL
        if not (changes.values or moved):
            return self._state.is_held(self._token)
        epoch, position = found.place.epoch, found.place.position
        new = Head(head.number + 1, self._token, epoch, position, step.now, process_name(), self._config_id)
        while self._state.is_held(self._token):
            try:
                saved = await self._state.save(self._token, new, changes)
            except StoreUnavailableError as error:
                self._note(error)
                await asyncio.sleep(_RETRY)
            except StoreError as error:  # such as a value that is too large; it is tried again
                self._note(error)
                await self.runner.mark_all()
                return True
            else:
                self._error = None
                if saved:
                    self._replica.head, self._saved_at = new, now
                    if head == Head() and self._sharing.old_state is not None:
                        self._sharing.old_state.finish()
                return saved
        return False

    def _note(self, error: StoreError) -> None:
        self._error = str(error)
        _log.warning("state", "sink %s cannot use its state: %s", self._name, self._error)

    async def _wait_until_saved(self) -> None:
        if self.role is NotifierRole.HOLDER:
            task = asyncio.create_task(self.step())
            task.add_done_callback(retrieve_error)
            await asyncio.wait({task}, timeout=_SAVE_TIMEOUT)

    def _may_send(self, notification: Notification) -> bool:
        if self.role is NotifierRole.AWAY:
            return self._away.owns(notification)
        return (
            self.role is NotifierRole.HOLDER
            and super()._may_send(notification)
            and self._state.is_held(self._token)
        )

    def _poll_soon(self) -> None:
        self._next_poll = self._clock.monotonic()
        self._woken.set()

    # Roles

    async def _update_role(self) -> None:
        """Find out whether this process holds the lease, and whether the store is available."""
        if not self._state.is_open and not self._ending:
            try:
                await self._open_shared()
            except StoreError as error:
                self._note(error)
        unseen = self._state.unseen_for()
        token = self._state.token()
        if self.role is NotifierRole.HOLDER and token != self._token:
            self._lose()
        self._suspects = unseen > min(_SUSPECT, self._sharing.lease / 2)
        if unseen > self._sharing.lease and self._sharing.sends_away:
            await self._go_away()
        elif self.role is NotifierRole.AWAY and not self._suspects:
            await self._come_back()
        if token is not None and self.role is NotifierRole.STANDBY and not self._ending:
            await self._take_over(token)

    def _lose(self) -> None:
        _log.warning("lease", "sink %s: this process does not notify any more; another can", self._name)
        self.role = NotifierRole.STANDBY
        self._replica.head = None
        self._outcomes.clear()

    async def _take_over(self, token: int) -> None:
        try:
            await self._replica.catch_up()
            head = self._replica.head or Head()
            if self._sharing.old_state is not None:
                await self._replica.migrate(self._sharing.old_state)
            offset = await self._state.measure_offset(head)
        except StoreError as error:
            self._note(error)
            return
        since = head.at if head.number else float("-inf")
        self._takeovers += 1  # the token is the same if no other process held the lease meanwhile
        await self.runner.take_over(f"{token}.{self._takeovers}.", since, offset)
        if self._state.begin(token):
            self.role, self._token, self._replica.head = NotifierRole.HOLDER, token, head
            self._error = None

    async def _go_away(self) -> None:
        if self.role is not NotifierRole.AWAY:
            await self._away.begin(self._buffer)
            self.role = NotifierRole.AWAY

    async def _come_back(self) -> None:
        """Share what happened without the store, once the outcomes of all notifications are known."""
        now = self._clock.monotonic()
        self._back_at = min(self._back_at, now)
        if self.dispatcher.is_busy and now < self._back_at + self._sharing.lease:
            return
        try:
            await self._away.step(self._buffer, self._pop_outcomes())
            await self._away.end(self._buffer)
        except StoreError as error:
            self._note(error)
            return
        self._back_at = math.inf
        self.role = NotifierRole.STANDBY
        self._replica.head = None

    # Standing by

    def _stands_by(self) -> bool:
        return self.role is NotifierRole.STANDBY

    async def _listen(self) -> None:
        """Make a step when the log has new entries for the engine, or the lease was acquired."""
        bell = self._state.stream.tail.bell
        while True:
            ringing = bell.future(patient=self._stands_by())
            try:
                if self._state.token() not in {None, self._token} or self._state.has_more():
                    self._woken.set()
                await asyncio.wait({ringing}, timeout=_RETRY)
            finally:
                bell.forget(ringing)

    # For the sink

    def accepts(self) -> bool:
        return not self._sharing.reads_stream or self._suspects

    async def flush(self) -> None:
        await shielded(self.step())
        await self._state.stream.flush()
        target = self._state.stream.tail.end
        while not self._has(target) and self.role is not NotifierRole.AWAY:
            await shielded(self.step())
            await asyncio.sleep(0 if self.role is NotifierRole.HOLDER else _POLL)
        async with self._turn:  # once a running step has applied what it has read
            return

    def _has(self, position: int) -> bool:
        """Return whether the state has the log up to a position, or no process reads the log."""
        head = self._replica.head
        if not self._state.is_open or (head is None and self._ending):
            return True
        if self.role is NotifierRole.HOLDER:  # what follows from it was saved in the same step
            return self._state.has_read(position)
        return head is not None and head.epoch == self._state.stream.tail.epoch and head.position >= position

    async def query(self, function: Callable[[AlertEngine], T]) -> T:
        if self.role is NotifierRole.AWAY:
            return await self._away.query(function)
        return await super().query(function)

    async def members(self) -> list[str]:
        names: list[str] = []
        with suppress(StoreError):
            found = await self._state.stream.processes()
            running = (each for each in found if each.state is ProcessState.RUNNING)
            names = [each.name for each in running if self._name in each.sections.get(_SECTION, ())]
        return sorted(names if process_name() in names else [*names, process_name()])

    async def post(self, alerts: Sequence[Alert]) -> None:
        if self.role is NotifierRole.AWAY:
            await self._away.post(alerts)
            return
        await self._outbox.post(alerts)
        if self.role is NotifierRole.HOLDER:
            await shielded(self.step())

    async def put_silence(self, silence: Silence) -> None:
        if self.role is NotifierRole.AWAY:
            await self._away.add_silence(silence)
            return
        await self._state.stream.publish_to_group(silence_event(silence), self._name)

        async def wait_for_it() -> None:
            while await self.query(lambda engine: engine.silences.get(silence.id)) != silence:
                await self.step()
                await asyncio.sleep(0 if self.role is NotifierRole.HOLDER else _POLL)

        with suppress(TimeoutError):  # it is in the log
            await asyncio.wait_for(wait_for_it(), _SILENCE_TIMEOUT)

    async def reload(self, config: AlertConfig, config_id: str) -> None:
        async with self._turn:
            await super().reload(config, config_id)
            await self._away.reload(config)
            if self.role is not NotifierRole.HOLDER:
                self._replica.head = None  # it is loaded again, with the new routes
        with suppress(StoreError):
            await self._state.stream.publish_to_group(reload_event(), self._name)

    def health(self) -> Mapping[str, SinkHealth]:
        away = self._away.problem(
            self._state.unseen_for(), self._sharing.lease, sends=self._sharing.sends_away
        )
        missed = f"{self._missed} events were removed by the retention before they were read"
        lost = f"{self._unreadable} entries could not be passed to the engine"
        problems = {
            "state": away or self._error,
            "configuration": self._replica.difference(self._config_id),
            "log": missed if self._missed else lost if self._unreadable else None,
        }
        parts = {part: degraded(problem) for part, problem in problems.items() if problem is not None}
        return {**super().health(), **parts}

    def statistics(self) -> AlertStatistics:
        base = super().statistics()
        failed = base.failed + self._unreadable
        return base._replace(failed=failed, missed=self._missed, sent_away=self._away.sent)
