"""`Notifier`: runs the engine of this process and sends its notifications."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple, TypeVar

from codomyrmex.integrations.configuration.process import process_name
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.health import SinkHealth
from codomyrmex.integrations.delivery.secrets import LazyTraceback, describe
from codomyrmex.integrations.delivery.sink import Sink
from codomyrmex.integrations.delivery.worker import done_within
from codomyrmex.integrations.notification.alerts.alert import Alert
from codomyrmex.integrations.notification.alerts.alert_buffer import AlertBuffer
from codomyrmex.integrations.notification.alerts.audit import Audit
from codomyrmex.integrations.notification.alerts.channel_dispatcher import ChannelDispatcher, Outcome
from codomyrmex.integrations.notification.alerts.config import AlertConfig
from codomyrmex.integrations.notification.alerts.engine import AlertEngine
from codomyrmex.integrations.notification.alerts.engine_runner import (
    EngineRunner,
    Step,
    retrieve_error,
    shielded,
)
from codomyrmex.integrations.notification.alerts.notification import Notification
from codomyrmex.integrations.notification.alerts.silences import Silence
from codomyrmex.integrations.notification.channels import ChannelConfig
from codomyrmex.streaming import Clock, Event

T = TypeVar("T")

_POLL_INTERVAL = 1.0  # seconds between checks of the file
_GRACE = 0.5  # seconds at the end for what should take no time

_log = Diagnostics(__name__)


class NotifierRole(StrEnum):
    """What a process does about alerts.

    `ALONE`: it does not share them with other processes. `HOLDER`: it notifies about those of all processes.
    `STANDBY`: another process does. `AWAY`: the store is not available, and it notifies about its own.
    """

    ALONE = "alone"
    HOLDER = "holder"
    STANDBY = "standby"
    AWAY = "away"


class AlertStatistics(NamedTuple):
    """What an alert sink refused, failed to do, or may have repeated.

    Attributes:
        refused: new alerts that were refused because `max_alerts` were active.
        unrendered: notifications that were sent with only what could be rendered of them.
        failed: alerts, outcomes and groups with which the engine has failed, each of which is a bug and
            logged, and entries of the log that are not events.
        missed: events that the retention of the log removed before they were read.
        sent_away: notifications that were sent while the store was not available; other processes may have
            sent the same.
    """

    refused: int
    unrendered: int
    failed: int
    missed: int = 0
    sent_away: int = 0


class Parts(NamedTuple):
    """What a notifier works with, for `AlertSink`.

    Attributes:
        name: the name of the sink.
        config: the configuration.
        config_id: identifies the configuration.
        buffer: the events of this process.
        audit: receives the decisions.
        create: creates the sink of a channel.
        clock: the source of time.
        poll: called every second.
    """

    name: str
    config: AlertConfig
    config_id: str
    buffer: AlertBuffer
    audit: Audit
    create: Callable[[ChannelConfig], Sink]
    clock: Clock
    poll: Callable[[], Awaitable[None]]


class Notifier:
    """Runs the engine of one process, whose alerts and silences end with it.

    Attributes:
        role: what this process does about alerts.
        runner: the engine.
    """

    role = NotifierRole.ALONE
    poll_interval = _POLL_INTERVAL

    def __init__(self, parts: Parts) -> None:
        self._name, self._clock, self._audit = parts.name, parts.clock, parts.audit
        self._config, self._config_id = parts.config, parts.config_id
        self._buffer = parts.buffer
        self._poll = parts.poll
        self.runner = self._make_runner()
        self.dispatcher = ChannelDispatcher(
            self._handle_outcome,
            self._may_send,
            self._render,
            self._wait_until_saved,
            parts.create,
            self._clock,
        )
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._woken.set()  # for events that were published before, and for the state
        self._outcomes: list[Outcome] = []
        self._deadline: float | None = None
        self._next_poll = self._clock.monotonic() + self.poll_interval
        self._ending = False
        self._task: asyncio.Task[None] | None = None

    def _make_runner(self) -> EngineRunner:
        return EngineRunner(self._config, self._name, self._clock)

    # Opening and closing

    async def open(self) -> None:
        """Open the channels, and start.

        Raises:
            ChannelError: a channel cannot be set up.
            MissingExtraError: Apprise is not installed.
        """
        try:
            await self._open_state()
            await self.dispatcher.open(self._config)
        except BaseException:
            await shielded(self._close_state())
            self.runner.close()
            raise
        self._task = asyncio.create_task(self._run(), name=f"alerts {self._name}")

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - a deadline
        """Send the due notifications within some seconds, and stop."""
        self._ending = True
        task, self._task = self._task, None
        if task is None:
            return
        draining = asyncio.create_task(self._drain(task, timeout))
        draining.add_done_callback(retrieve_error)
        try:
            self.wake()
            await done_within(draining, timeout + _GRACE, self._clock)
        finally:
            task.cancel()
            draining.cancel()
            await shielded(self._end())

    async def _drain(self, task: asyncio.Task[None], timeout: float) -> None:  # noqa: ASYNC109 - a deadline
        now = self._clock.monotonic
        end = now() + timeout
        await asyncio.wait({task})
        await self.step()
        await self._finish()
        # Half of the time is for retries, and for the fallbacks of receivers that fail; then each channel
        # makes its last attempt.
        retry_end = end - timeout / 2
        while self.dispatcher.is_busy and (remaining := retry_end - now()) > 0:
            await self.dispatcher.flush(remaining)
            await self.step()
        await self.dispatcher.close(max(end - now(), 0.0))

    async def _end(self) -> None:
        try:
            await self.dispatcher.close(0)
            step = asyncio.create_task(self.step())  # the last outcomes
            step.add_done_callback(retrieve_error)
            await done_within(step, _GRACE, self._clock)
            step.cancel()
        finally:
            await self._close_state()
            self.runner.close()

    # What `SharedNotifier` does in another way

    async def _open_state(self) -> None:
        """Open the state, if there is one."""

    async def _close_state(self) -> None:
        """Close the state, if there is one."""

    async def _finish(self) -> None:
        """Make pending notifications due now, as no process would send them later."""
        await self.runner.skip_waits()
        await self.step()

    async def _wait_until_saved(self) -> None:
        """Wait until a delivery is saved, so that a process that is killed repeats at most one."""

    def _may_send(self, notification: Notification) -> bool:
        """Return whether this process may send a notification now."""
        return notification.id.startswith(self.runner.id_prefix)

    async def _render(self, notification: Notification, event: Event) -> Event:
        return await self.runner.render(notification, event)

    # The task

    def wake(self) -> None:
        """Make a step now; from any thread."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._woken.set)

    async def _run(self) -> None:
        while not self._ending:
            await self._wait()
            try:
                if self._clock.monotonic() >= self._next_poll:
                    self._next_poll = self._clock.monotonic() + self.poll_interval
                    await self._poll()
                await self.step()
            except Exception as error:  # noqa: BLE001 - a bug must not end the notifications
                self._deadline = None  # retry after a pause
                text = "sink %s failed: %s\n%s"
                _log.warning("step", text, self._name, describe(error), LazyTraceback(error))

    async def _wait(self) -> None:
        """Wait until there is something to do, a notification is due, or it is time to poll."""
        seconds = self._next_poll - self._clock.monotonic()
        if self._deadline is not None:
            seconds = min(seconds, self._deadline - self._clock.time())
        if seconds > 0 and not self._woken.is_set():
            timer = self._clock.call_later(seconds, self._woken.set)
            try:
                await self._woken.wait()
            finally:
                timer.cancel()
        self._woken.clear()

    async def step(self) -> None:
        """Pass events and outcomes to the engine, and dispatch the notifications that are due."""
        self._dispatch(await self.runner.step(self._buffer.get_all(), self._pop_outcomes()))

    def _pop_outcomes(self) -> list[Outcome]:
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _dispatch(self, step: Step) -> None:
        self._deadline = step.deadline
        for notification in step.notifications:
            self.dispatcher.send(notification)
        for suppressed in step.suppressed:
            self._audit.suppressed(suppressed)

    def _handle_outcome(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._audit.concluded(outcome)
        self._woken.set()

    # For the sink

    def accepts(self) -> bool:
        """Return whether events of this process go into the buffer; from any thread."""
        return True

    async def flush(self) -> None:
        """Wait until the engine has all events published so far, and the channels all due notifications."""
        await shielded(self.step())

    async def query(self, function: Callable[[AlertEngine], T]) -> T:
        """Call a function with the engine."""
        return await self.runner.query(function)

    async def post(self, alerts: Sequence[Alert]) -> None:
        """Update alerts."""
        await self.runner.observe(alerts)
        self.wake()

    async def members(self) -> list[str]:
        """Return the names of the processes that share their alerts, including this one."""
        return [process_name()]

    async def put_silence(self, silence: Silence) -> None:
        """Add a silence, or replace the one with its id."""
        await self.query(lambda engine: engine.add_silence(silence))

    async def reload(self, config: AlertConfig, config_id: str) -> None:
        """Continue with another configuration, or raise the error of a channel that cannot be opened.

        Args:
            config: the configuration.
            config_id: identifies it.
        """
        await self.dispatcher.reload(config)
        await self.runner.reload(config)
        self._config, self._config_id = config, config_id

    def now(self) -> float:
        """Return the time of the engine, in seconds since 1970."""
        return self.runner.now()

    def health(self) -> Mapping[str, SinkHealth]:
        """Return the health of each channel, and of everything else that does not work."""
        return {**self.dispatcher.health(), **self.runner.health()}

    def statistics(self) -> AlertStatistics:
        """Return the counts since the sink was opened."""
        return AlertStatistics(self.runner.refused, self.runner.unrendered, self.runner.failed)
