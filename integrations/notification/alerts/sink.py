"""`AlertSink`: the events of a stream become alerts, which are routed and sent to channels.

An alert passes through these objects, in this order:

1. `AlertSink.emit`, in the publisher's thread: `AlertBuffer.put` keeps it by its labels and wakes the sink.
2. `AlertSink._step`, on the event loop, hands the buffer to `EngineRunner.step`, on the thread of the sink:
   the engine groups the alerts and returns the notifications that are due, the state is saved, and the
   notifications are rendered.
3. `ChannelDispatcher.send`, on the event loop, queues each notification for the worker of its channel.
4. The worker calls the channel's `send`. The outcome goes back to the engine with the next step.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple, TypeVar

from codomyrmex.integrations.configuration.durations import check_seconds
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.errors import DroppedError
from codomyrmex.integrations.delivery.health import CLOSED, QUEUE_FULL, SinkHealth, SinkProblem, worst_problem
from codomyrmex.integrations.delivery.secrets import LazyTraceback, describe
from codomyrmex.integrations.delivery.sink import InlineSink, Sink
from codomyrmex.integrations.notification.alerts.alert_buffer import AlertBuffer
from codomyrmex.integrations.notification.alerts.audit import Audit
from codomyrmex.integrations.notification.alerts.channel_dispatcher import (
    ChannelDispatcher,
    Outcome,
    channels_of,
)
from codomyrmex.integrations.notification.alerts.config import AlertConfig, removed_by
from codomyrmex.integrations.notification.alerts.config_source import ConfigSource, Source
from codomyrmex.integrations.notification.alerts.engine import AlertEngine
from codomyrmex.integrations.notification.alerts.engine_runner import EngineRunner, retrieve_error, shielded
from codomyrmex.integrations.notification.alerts.explain import Explanation, explain
from codomyrmex.integrations.notification.alerts.silences import Silence
from codomyrmex.integrations.notification.alerts.views import GroupView, views_of
from codomyrmex.integrations.notification.channels import UndeliverableChannel
from codomyrmex.streaming import Clock, Event, Stream
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from codomyrmex.streaming.forks import renew_in_children

T = TypeVar("T")

_POLL_INTERVAL = 1.0  # seconds between checks of the file and of the silences of other processes
_SAVE_TIMEOUT = 1.0  # seconds that a channel waits at most until its delivery is saved
_CLOSE_TIMEOUT = 2.0  # seconds to close the channels and the state, after the drain timeout

NOT_OPEN = "not_open"  # the reason of drops after `open` has failed

_logger = logging.getLogger(__name__)
_log = Diagnostics(__name__)


class AlertStatistics(NamedTuple):
    """What an alert sink refused or failed to do.

    Attributes:
        refused: new alerts that were refused because `max_alerts` were active.
        unrendered: notifications that were sent with only what could be rendered of them.
        failed: alerts, outcomes and groups with which the engine has failed; each is a bug, and logged.
    """

    refused: int
    unrendered: int
    failed: int


class AlertSink(InlineSink):
    """Routes alerts by a configuration, with Alertmanager's semantics, and notifies through channels.

    `async with attach(stream, AlertSink("alerts.yaml")):`. A publisher only computes the labels of its
    event; everything else happens on a thread of the sink and on the workers of its channels. A storm of
    one alert occupies one entry of the buffer. An event that does not fit is dropped and counted, and is
    itself an alert.

    When the sink closes, it sends what is due. With `state:` in the configuration, pending groups are left
    to the next process; without it they are notified at once.

    Args:
        config: a path, YAML text, a mapping, or the result of `load_alert_config`.
        channels: sinks of the application, by the name of their receiver, instead of the channels that it has
            in the file. Their events have the data of Alertmanager's webhook, and `title`, `body` and
            `notify_type` in the metadata.
        clock: the source of time; for tests.
        watch: whether to reload a changed file. An invalid one changes nothing.
        audit: a stream for the decisions of the sink, as events with the topics `alerts.notified`,
            `alerts.suppressed`, `alerts.failed`, `alerts.reloaded` and `alerts.reload_failed`.
        name: the name of the sink in reports and logs.
        buffer_size: the number of label sets that may wait for the engine.
        drain_timeout: seconds to deliver what is due when the sink closes.

    Raises:
        AlertConfigError: the configuration is invalid; it holds every problem with its position.
        TypeError: a channel is not a sink.
    """

    def __init__(
        self,
        config: Source,
        channels: Mapping[str, Sink | Iterable[Sink]] | None = None,
        clock: Clock = SYSTEM_CLOCK,
        watch: bool = True,  # noqa: FBT001, FBT002 - part of the specified signature
        *,
        audit: Stream | None = None,
        name: str = "alerts",
        buffer_size: int = 10_000,
        drain_timeout: float = 10.0,
    ) -> None:
        check_seconds("drain_timeout", drain_timeout, zero=True)
        if isinstance(buffer_size, bool) or not isinstance(buffer_size, int) or buffer_size < 1:
            raise ValueError(f"buffer_size: must be an integer of at least 1, got {buffer_size!r}")
        if audit is not None and not isinstance(audit, Stream):
            raise TypeError(f"audit: must be a Stream, got {type(audit).__name__}")
        self.name = name
        self.drain_timeout = drain_timeout + _CLOSE_TIMEOUT
        self._delivery_timeout = drain_timeout
        self._source = ConfigSource(config, channels, watch=watch)
        self._config = self._source.load()
        self._clock = clock
        self._audit = Audit(self, audit)
        self._buffer_size = buffer_size
        self._reset()
        renew_in_children(self)

    def _reset(self) -> None:
        self._buffer = AlertBuffer(self._config.label_rules, self._buffer_size, self._wake)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self._reload_task: asyncio.Task[None] | None = None
        self._outcomes: list[Outcome] = []
        self._refusal: str | None = None  # why events are dropped

    def after_fork(self) -> None:
        """Start empty in a child process: the thread and the tasks are the parent's."""
        self._reset()

    def __repr__(self) -> str:
        return f"<AlertSink {self.name}: {len(self._config.receivers)} receivers>"

    @property
    def config(self) -> AlertConfig:
        """The configuration that is in force."""
        return self._config

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that the sink runs on; None while it is not open."""
        return self._loop

    # The publisher's thread

    def emit(self, event: Event) -> None:
        if self._refusal is not None:
            raise DroppedError(self._refusal)
        if not self._buffer.put(event):
            raise DroppedError(QUEUE_FULL)

    def _wake(self) -> None:
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._wake_task)

    def _wake_task(self) -> None:
        if self._woken is not None:
            self._woken.set()

    # Opening and closing

    async def open(self) -> None:
        """Open the state and the channels, and start.

        Raises:
            StateError: the state file cannot be used.
            ChannelError: a channel cannot be set up.
            MissingExtraError: Apprise is not installed.
        """
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._woken.set()  # for events that were published before, and for the state
        self._reload_lock = asyncio.Lock()
        self._runner = EngineRunner(self._config, self.name, self._clock)
        self._dispatcher = ChannelDispatcher(self._handle_outcome, self._wait_until_saved, self._clock)
        self._deadline: float | None = None
        self._refusal = None
        for channel in channels_of(self._config).values():
            if isinstance(channel, UndeliverableChannel):
                _logger.warning("sink %s: %s", self.name, channel.reason)
        try:
            await self._runner.open()
            await self._dispatcher.open(self._config)
        except BaseException as error:
            self._refusal = NOT_OPEN
            waiting = self._buffer.get_all()
            lost = len(waiting.events) + waiting.dropped
            message = "sink %s could not be opened and sends no notifications (%d events so far): %s"
            _logger.warning(message, self.name, lost, describe(error))
            await shielded(self._runner.close())
            raise
        self._next_poll = self._clock.monotonic() + _POLL_INTERVAL
        self._task = asyncio.create_task(self._run(), name=f"alerts {self.name}")

    async def close(self) -> None:
        self._refusal = CLOSED
        task, self._task = self._task, None
        if task is None:
            return
        try:
            self._wake_task()
            await asyncio.wait({task})
            async with self._reload_lock:  # a reload that is in progress
                await self._drain()
        finally:
            task.cancel()
            await shielded(self._close_channels_and_state())

    async def _drain(self) -> None:
        now = self._clock.monotonic
        end = now() + self._delivery_timeout
        await self._step()
        await self._runner.flush_pending()
        await self._step()
        # Half of the time is for retries, and for the fallbacks of receivers that fail; then each channel
        # makes its last attempt.
        retry_end = end - self._delivery_timeout / 2
        while self._dispatcher.is_busy and (remaining := retry_end - now()) > 0:
            await self._dispatcher.flush(remaining)
            await self._step()
        await self._dispatcher.close(max(end - now(), 0.0))

    async def _close_channels_and_state(self) -> None:
        try:
            await self._dispatcher.close(0)
            await self._step()  # the last outcomes
        finally:
            await self._runner.close()

    # The task

    async def _run(self) -> None:
        while self._refusal is None:
            await self._wait()
            try:
                if self._clock.monotonic() >= self._next_poll:
                    self._next_poll = self._clock.monotonic() + _POLL_INTERVAL
                    await self._poll()
                await self._step()
            except Exception as error:  # noqa: BLE001 - a bug must not end the notifications
                self._deadline = None  # retry after a pause
                text = "sink %s failed: %s\n%s"
                _log.warning("step", text, self.name, describe(error), LazyTraceback(error))

    async def _wait(self) -> None:
        """Wait until the sink is woken, a notification is due, or it is time to poll."""
        assert self._woken is not None  # noqa: S101 - the sink is open
        seconds = self._next_poll - self._clock.monotonic()
        if self._deadline is not None:
            seconds = min(seconds, self._deadline - self._clock.time())
        if seconds > 0 and not self._woken.is_set():
            timer = self._clock.call_later(seconds, self._wake_task)
            try:
                await self._woken.wait()
            finally:
                timer.cancel()
        self._woken.clear()

    async def _step(self) -> None:
        """Pass events and outcomes to the engine, and dispatch the notifications that are due."""
        outcomes, self._outcomes = self._outcomes, []
        step = await self._runner.step(self._buffer.get_all(), outcomes)
        self._deadline = step.deadline
        for notification, event in step.notifications:
            self._dispatcher.send(notification, event)
        for suppressed in step.suppressed:
            self._audit.suppressed(suppressed)

    def _handle_outcome(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._audit.concluded(outcome)
        self._wake_task()

    async def _wait_until_saved(self) -> None:
        """Wait until a delivery is saved, so that a process that is killed repeats at most one."""
        if self._config.state is not None:
            task = asyncio.create_task(self._step())
            task.add_done_callback(retrieve_error)
            await asyncio.wait({task}, timeout=_SAVE_TIMEOUT)

    # Reloading

    async def _poll(self) -> None:
        if await self._runner.sync_silences():
            self._wake_task()
        if self._source.has_changed() and not self._reload_lock.locked():
            # Not awaited: a channel that is removed may take a while.
            self._reload_task = asyncio.create_task(self._reload())
            self._reload_task.add_done_callback(retrieve_error)  # it is logged where it happens

    async def reload(self) -> None:
        """Reload the configuration; groups that it still has keep their timers.

        Raises:
            AlertConfigError: the new configuration is invalid; the old one stays in force.
            Exception: the error of a channel that cannot be opened; the old configuration stays in force.
            RuntimeError: the sink is not open.
        """
        self._check_open()
        await shielded(self._reload())

    async def _reload(self) -> None:
        async with self._reload_lock:
            self._check_open()
            try:
                config = await self._runner.call(self._source.load, self._config)
                await self._dispatcher.reload(config)
                await self._runner.reload(config)
            except Exception as error:
                message = "sink %s keeps its configuration, as the new one cannot be used: %s"
                _logger.warning(message, self.name, describe(error))
                self._audit.reload_failed(error)
                raise
            removed = removed_by(self._config, config)
            if removed:
                text = "sink %s no longer has these parts of its configuration: %s"
                _logger.warning(text, self.name, ", ".join(removed))
            self._config = config
            self._buffer.rules = config.label_rules
            self._audit.reloaded(config, removed)
            self._wake_task()

    # Queries of the engine

    async def flush(self) -> None:
        """Wait until the engine has the events published so far, and the channels what is due."""
        self._check_open()
        await shielded(self._step())

    async def explain(self, labels: Mapping[str, str]) -> Explanation:
        """Explain where an alert with these labels is sent now, and why."""
        now = self._clock.time()
        return await self._query(lambda engine: explain(engine.config, labels, now, engine))

    async def groups(self) -> list[GroupView]:
        """Return the current groups."""
        now = self._clock.time()
        return await self._query(lambda engine: views_of(engine, now))

    async def silences(self) -> list[Silence]:
        """Return the silences, including those that expired within five days."""
        return await self._query(lambda engine: list(engine.silences.values()))

    async def add_silence(self, silence: Silence) -> None:
        """Add a silence, or replace the one with its id."""
        await self._query(lambda engine: engine.add_silence(silence))

    async def expire_silence(self, silence_id: str) -> None:
        """Expire a silence now.

        Raises:
            KeyError: no silence has this id.
        """
        now = self._clock.time()
        await self._query(lambda engine: engine.expire_silence(silence_id, now))

    def health(self) -> Mapping[str, SinkHealth]:
        """Return the health of each channel; empty while the sink is not open.

        `state file` is there too while the state cannot be saved, `max_alerts` after alerts were refused, and
        `engine` while a call takes long.
        """
        if self._task is None:
            return {}
        return {**self._dispatcher.health(), **self._runner.health()}

    def problem(self) -> SinkProblem | None:
        """Return what is worst in `health`."""
        return worst_problem(self.health())

    def statistics(self) -> AlertStatistics:
        """Return the counts since the sink was opened; it must be open."""
        self._check_open()
        return AlertStatistics(self._runner.refused, self._runner.unrendered, self._runner.failed)

    async def _query(self, function: Callable[[AlertEngine], T]) -> T:
        self._check_open()
        return await self._runner.query(function)

    def _check_open(self) -> None:
        if self._task is None:
            raise RuntimeError(f"sink {self.name}: it is not open; attach it first")
