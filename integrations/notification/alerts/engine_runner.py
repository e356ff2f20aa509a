"""`EngineRunner`: runs the engine, its state file and the rendering of notifications on one thread."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.health import SinkHealth, SinkState
from codomyrmex.integrations.delivery.secrets import LazyTraceback, describe
from codomyrmex.integrations.notification.alerts.alert import Alert
from codomyrmex.integrations.notification.alerts.alert_buffer import Batch
from codomyrmex.integrations.notification.alerts.channel_dispatcher import Outcome
from codomyrmex.integrations.notification.alerts.config import AlertConfig
from codomyrmex.integrations.notification.alerts.engine import ALERTS_DROPPED, AlertEngine
from codomyrmex.integrations.notification.alerts.messages import (
    NotificationRenderer,
    notify_type,
    outline,
)
from codomyrmex.integrations.notification.alerts.notification import Notification, Status
from codomyrmex.integrations.notification.alerts.planner import Suppressed
from codomyrmex.integrations.notification.alerts.state import StateError, StateFile
from codomyrmex.integrations.notification.channels import ChannelConfig
from codomyrmex.integrations.notification.daemon_calls import DaemonCalls, NoThreadError
from codomyrmex.integrations.notification.event_renderer import Message
from codomyrmex.integrations.notification.templates import TemplateError
from codomyrmex.streaming import Clock, Event, EventType, create_event

P = ParamSpec("P")
T = TypeVar("T")

_log = Diagnostics(__name__)

_MIN_JUMP = 1.0  # seconds by which the clock differs from the time elapsed, once it was set
_HANGS = 10.0  # seconds of a call after which the health shows it
_MAX_ERRORS = 100  # groups that may fail in a step
_FIRST_SAVE_RETRY, _LAST_SAVE_RETRY = 1.0, 60.0  # seconds


class Step(NamedTuple):
    """The result of a step of the engine.

    Attributes:
        notifications: what to send, with the event for its channel.
        suppressed: the alerts that were suppressed.
        deadline: when the next step is due, in seconds since 1970; None if nothing is pending.
    """

    notifications: list[tuple[Notification, Event]]
    suppressed: list[Suppressed]
    deadline: float | None


def _on_thread(
    method: Callable[Concatenate[EngineRunner, P], T],
) -> Callable[Concatenate[EngineRunner, P], Coroutine[Any, Any, T]]:
    """Make a method awaitable: it runs on the thread of the engine."""

    @wraps(method)
    async def call(runner: EngineRunner, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await runner.call(lambda: method(runner, *args, **kwargs))

    return call


class EngineRunner:
    """Runs the engine and its state file on a thread, one call after another.

    A call is not interrupted when its caller is cancelled. While the state cannot be saved, nothing is kept
    for later: the first time that it can be saved again, all of it is.

    Attributes:
        failed: the alerts, outcomes and groups with which the engine has failed.
        unrendered: the notifications that were sent with only a part of their content.
        state_error: why the state cannot be saved; None if it can.
    """

    def __init__(self, config: AlertConfig, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._calls = DaemonCalls(f"alerts {name}", 1)
        self._lock = asyncio.Lock()
        self._query_lock = asyncio.Lock()
        self.failed = 0
        self.unrendered = 0
        self.state_error: str | None = None
        self._save_retry = _FIRST_SAVE_RETRY
        self._save_at = 0.0  # monotonic
        self._busy_since = math.inf  # monotonic
        self._offset = clock.time() - clock.monotonic()
        self._file: StateFile | None = None
        self._engine: AlertEngine
        self._use(config)

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function on the thread."""

        async def run() -> T:
            async with self._lock:
                self._busy_since = self._clock.monotonic()
                try:
                    return await self._calls.run(function, *args)
                finally:
                    self._busy_since = math.inf

        return await shielded(run())

    @_on_thread
    def open(self) -> None:
        """Create the engine from the state file.

        Raises:
            StateError: the state file cannot be used.
        """
        path = self._config.state
        if path is None:
            self._engine = AlertEngine(self._config)
            return
        file = StateFile(path)
        try:
            file.claim()
            file.changed_by_others()  # from now on
            state = file.load()
            try:
                self._engine = AlertEngine(self._config, state)
            except Exception as error:
                message = (
                    f"the state file {path} is damaged, {describe(error)}; move it away to start without it"
                )
                raise StateError(message) from error
        except BaseException:
            file.close()
            raise
        self._engine.resume(self._now())
        self._file = file

    @property
    def refused(self) -> int:
        """The number of alerts refused because `max_alerts` were active."""
        return self._engine.refused

    def health(self) -> dict[str, SinkHealth]:
        """Return the health of the engine, the state file and the limit of alerts if something is wrong."""
        busy = self._clock.monotonic() - self._busy_since
        hangs = (
            f"busy for {Duration(busy)}, perhaps with a template; no alert is sent" if busy > _HANGS else None
        )
        refused = f"{self.refused} new alerts were refused" if self.refused else None
        problems = {"engine": hangs, "state file": self.state_error, "max_alerts": refused}
        return {
            part: SinkHealth(SinkState.DEGRADED, 0, 0, 0, 0, {}, 0, problem, None, 0.0, 0)
            for part, problem in problems.items()
            if problem is not None
        }

    async def close(self) -> None:
        """Save the state, close the state file, and end the thread."""
        try:
            await self._close_file()
        except NoThreadError as error:
            _log.warning("close", "sink %s could not save its state at the end: %s", self._name, error)
        finally:
            self._calls.close()

    @_on_thread
    def _close_file(self) -> None:
        if self._file is not None:
            self._save_at = 0.0
            self._save()
            self._file.close()

    @_on_thread
    def step(self, batch: Batch, outcomes: Iterable[Outcome]) -> Step:
        """Pass events and outcomes of notifications to the engine, save its state, and return what is due."""
        engine, now = self._engine, self._now()
        alerts = list(self._alerts(batch.events))
        if batch.dropped:
            summary = f"sink {self._name} dropped {batch.dropped} events: its buffer was full"
            alerts.append(Alert({**ALERTS_DROPPED, "sink": self._name}, {"summary": summary}, now))
        for alert in alerts:
            self._attempt(engine.observe, [alert], now)
        for notification, error in outcomes:
            self._attempt(engine.delivered if error is None else engine.failed, notification, now)
        due: list[Notification] = []
        for _ in range(_MAX_ERRORS):
            if self._attempt(lambda: due.extend(engine.due(now))):
                break
        # Saved before they are sent: the next process knows about them even if this one ends here.
        self._save()
        notifications = [(each, self._event(each)) for each in due]
        return Step(notifications, engine.pop_suppressed(), engine.next_deadline())

    async def query(self, function: Callable[[AlertEngine], T]) -> T:
        """Call a function with the engine, and save what it changed."""

        def run() -> T:
            result = function(self._engine)
            self._save()
            return result

        async def in_turn() -> T:
            async with self._query_lock:  # so that a step waits for one query at most
                return await self.call(run)

        return await shielded(in_turn())

    @_on_thread
    def reload(self, config: AlertConfig) -> None:
        """Continue with another configuration."""
        self._engine.reload(config, self._now())
        self._use(config)
        self._save()

    @_on_thread
    def sync_silences(self) -> bool:
        """Add the silences of other processes; return whether the state file has changed."""
        try:
            if self._file is None or not self._file.changed_by_others():
                return False
            silences = self._file.silences()
        except StateError as error:
            self.state_error = describe(error)  # cleared by the next save
            _log.warning(
                "silences", "sink %s cannot read the silences of other processes: %s", self._name, error
            )
            return False
        for silence in silences:
            if self._engine.silences.get(silence.id) != silence:
                self._engine.add_silence(silence)
        return True

    @_on_thread
    def flush_pending(self) -> None:
        """Make pending notifications due now, unless a state file keeps them for the next process."""
        if self._file is None:
            self._engine.skip_waits(self._now())

    def _now(self) -> float:
        """Return the time. If the clock was set since the last call, the engine's timers move with it."""
        now, elapsed = self._clock.time(), self._clock.monotonic()
        jump, self._offset = now - elapsed - self._offset, now - elapsed
        if abs(jump) >= _MIN_JUMP:
            direction = "forward" if jump > 0 else "back"
            message = "sink %s: the clock was set %s by %s; timers continue as if it had not been"
            _log.warning(f"clock {jump:.0f}", message, self._name, direction, Duration(abs(jump)))
            self._engine.move_timers(jump, now)
        return now

    def _attempt(self, call: Callable[..., object], *args: Any) -> bool:
        """Make a call to the engine; what fails must not affect other alerts. Return whether it succeeded."""
        try:
            call(*args)
        except Exception as error:  # noqa: BLE001 - it is a bug, which is logged and counted
            self.failed += 1
            text = "sink %s: the engine failed with one alert or group, and continues: %s\n%s"
            _log.warning("engine", text, self._name, describe(error), LazyTraceback(error))
            return False
        return True

    def _use(self, config: AlertConfig) -> None:
        self._config = config
        self._renderer = NotificationRenderer(config)
        receivers = config.receivers.values()
        self._channels = {channel.name: channel for each in receivers for channel in each.channels}

    def _alerts(self, events: Iterable[Event]) -> Iterator[Alert]:
        for event in events:
            try:
                alert = self._config.label_rules.alert_of(event)
            except Exception as error:  # noqa: BLE001 - data can be anything, and must not affect other events
                _log.warning("event", "event %s cannot become an alert: %s", event.id, describe(error))
            else:
                if alert is not None:
                    yield alert

    def _save(self) -> None:
        if self._file is None or self._clock.monotonic() < self._save_at:
            self._engine.discard_changes()
            return
        failed_before = self.state_error is not None
        if failed_before:
            self._engine.mark_all()
        changes = self._engine.pop_changes()
        if not changes:
            return
        try:
            self._file.save(changes, replace=failed_before)
        except Exception as error:  # noqa: BLE001 - not only a `StateError`: nothing about saving stops anything
            self.state_error = describe(error)
            self._save_at = self._clock.monotonic() + self._save_retry
            self._save_retry = min(2 * self._save_retry, _LAST_SAVE_RETRY)
            _log.warning(
                "save", "sink %s continues without saving its state: %s", self._name, self.state_error
            )
        else:
            self.state_error, self._save_retry = None, _FIRST_SAVE_RETRY

    def _event(self, notification: Notification) -> Event:
        """Return the event for the channel, with what can be rendered of the notification."""
        try:
            message = self._message(notification, self._channels[notification.channel])
            data = notification.to_dict()
        except Exception as error:  # noqa: BLE001 - the alerts have to be sent anyway
            self.unrendered += 1
            text = "sink %s cannot render a notification and sends what it can: %s\n%s"
            _log.warning("render", text, self._name, describe(error), LazyTraceback(error))
            message, data = outline(notification)
        return create_event(
            data,
            EventType.ERROR if notification.status is Status.FIRING else EventType.MESSAGE,
            title=message.title,
            body=message.body,
            format=message.format,
            body_cuts=message.cuts,
            notify_type=message.type,
            status=notification.status.value,
            receiver=notification.receiver,
            channel=notification.channel,
        )

    def _message(self, notification: Notification, channel: ChannelConfig) -> Message:
        """Render a notification, with the default templates if those of the channel fail."""
        try:
            return self._renderer.message(notification, channel)
        except TemplateError as error:
            self.unrendered += 1
            _log.warning(channel.name, "a template of channel %s failed: %s", channel.name, error)
            message = self._renderer.message(notification, ChannelConfig(name=channel.name))
            body = f"{message.body}\n\n(a template of this channel failed: {error})"
            return Message(message.title, body, notify_type(notification), "text")


def shielded(work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    """Start a task that is not cancelled together with its caller."""
    task = asyncio.create_task(work)
    task.add_done_callback(retrieve_error)
    return asyncio.shield(task)


def retrieve_error(task: asyncio.Task[Any]) -> None:
    """Mark the error of a task as retrieved; otherwise asyncio logs it if the caller is gone."""
    if not task.cancelled():
        task.exception()
