"""`EngineRunner`: runs the engine and the rendering of notifications on one thread."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Container, Coroutine, Iterable, Mapping
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.health import SinkHealth, SinkState
from codomyrmex.integrations.delivery.secrets import LazyTraceback, describe
from codomyrmex.integrations.notification.alerts.alert import Alert, not_in_the_future
from codomyrmex.integrations.notification.alerts.alert_buffer import Batch
from codomyrmex.integrations.notification.alerts.channel_dispatcher import Outcome
from codomyrmex.integrations.notification.alerts.config import AlertConfig
from codomyrmex.integrations.notification.alerts.control import apply_control
from codomyrmex.integrations.notification.alerts.engine import ALERTS_DROPPED, AlertEngine
from codomyrmex.integrations.notification.alerts.engine_state import SavedState
from codomyrmex.integrations.notification.alerts.messages import (
    NotificationRenderer,
    outline,
)
from codomyrmex.integrations.notification.alerts.notification import Notification, Status
from codomyrmex.integrations.notification.alerts.planner import Suppressed
from codomyrmex.integrations.notification.alerts.state_records import Change, Encoded, encode_changes
from codomyrmex.integrations.notification.channels import ChannelConfig
from codomyrmex.integrations.notification.daemon_calls import DaemonCalls
from codomyrmex.integrations.notification.event_renderer import Message
from codomyrmex.integrations.notification.templates import TemplateError
from codomyrmex.streaming import Clock, Event, EventType

P = ParamSpec("P")
T = TypeVar("T")

_log = Diagnostics(__name__)

_MIN_JUMP = 1.0  # seconds by which the clock differs from the time elapsed, once it was set
_HANGS = 10.0  # seconds of a call after which the health shows it
_MAX_ERRORS = 100  # groups that may fail in a step
_MAX_SKEW = 5.0  # seconds by which the clock may differ from that of the store


class Step(NamedTuple):
    """The result of a step of the engine.

    Attributes:
        notifications: what to send.
        suppressed: the alerts that were suppressed.
        deadline: when the next step is due, in seconds since 1970; None if nothing is pending.
        changes: the changes of the state; None unless `keeps_changes` is true.
        now: the time of the step, by the clock of the store.
    """

    notifications: list[Notification]
    suppressed: list[Suppressed]
    deadline: float | None
    changes: Encoded | None
    now: float


def _on_thread(
    method: Callable[Concatenate[EngineRunner, P], T],
) -> Callable[Concatenate[EngineRunner, P], Coroutine[Any, Any, T]]:
    """Make a method awaitable: it runs on the thread of the engine."""

    @wraps(method)
    async def call(runner: EngineRunner, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await runner.call(lambda: method(runner, *args, **kwargs))

    return call


class EngineRunner:
    """Runs the engine on a thread, one call after another.

    A call is not interrupted when its caller is cancelled.

    Args:
        config: the configuration.
        name: the name of the sink.
        clock: the source of time.
        keeps_changes: whether `step` returns the changes of the state.

    Attributes:
        failed: the number of alerts, outcomes and groups for which the engine raised an error.
        unrendered: the number of notifications that were sent with only a part of their content.
        offset: by how many seconds the clock of the store is ahead.
        id_prefix: the prefix of the ids of notifications.
    """

    def __init__(self, config: AlertConfig, name: str, clock: Clock, *, keeps_changes: bool = False) -> None:
        self._name = name
        self._clock = clock
        self._keeps_changes = keeps_changes
        self._calls = DaemonCalls(f"alerts {name}", 1)
        self._lock = asyncio.Lock()
        self._query_lock = asyncio.Lock()
        self.failed = 0
        self.unrendered = 0
        self.offset = 0.0
        self.id_prefix = "n"
        self._busy_since = math.inf  # monotonic
        self._started = clock.time() - clock.monotonic()
        self._engine = AlertEngine(config)
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
    def restore(self, state: SavedState) -> None:
        """Start with a saved state, without its damaged values."""
        self._engine = AlertEngine(self._config, state, id_prefix=self.id_prefix)

    @_on_thread
    def apply(self, changes: Iterable[Change]) -> None:
        """Apply the changes of the engine of another process."""
        self._engine.apply(changes)

    @_on_thread
    def take_over(self, id_prefix: str, since: float, offset: float) -> None:
        """Continue where the engine of another process stopped.

        Args:
            id_prefix: the prefix of the ids of notifications from now on.
            since: when it stopped, by the clock of the store.
            offset: by how many seconds the clock of the store is ahead.
        """
        self.id_prefix, self.offset = id_prefix, offset
        self._started = self._clock.time() - self._clock.monotonic()
        self._engine.number_from(id_prefix)
        self._engine.resume(self._now(), since)
        if abs(offset) > _MAX_SKEW:
            text = "sink %s: the clock of this host differs by %.1f s from the store's"
            _log.warning("skew", text, self._name, offset)

    @_on_thread
    def state_of(self, kinds: Container[str]) -> dict[tuple[str, str], Any]:
        """Return a part of the state."""
        self._engine.mark_all()
        changes = self._engine.pop_changes()
        return {key: value for key, value in changes.items() if key[0] in kinds}

    @_on_thread
    def mark_all(self) -> None:
        """Have the next step return the whole state as its changes."""
        self._engine.mark_all()

    @_on_thread
    def observe(self, alerts: Iterable[Alert]) -> None:
        """Pass alerts to the engine."""
        now = self._now()
        for alert in alerts:
            self._attempt(self._engine.observe, [alert], now)

    @_on_thread
    def alerts_of(self, batch: Batch) -> list[Alert]:
        """Return the alerts of events, without passing them to the engine."""
        return self._alerts_of(batch, self._now())

    @property
    def refused(self) -> int:
        """The number of alerts refused because `max_alerts` were active."""
        return self._engine.refused

    def health(self) -> dict[str, SinkHealth]:
        """Return the health of the engine, the clock and the limit of alerts if something is wrong."""
        busy = self._clock.monotonic() - self._busy_since
        hangs = (
            f"busy for {Duration(busy)}, perhaps with a template; no alert is sent" if busy > _HANGS else None
        )
        refused = f"{self.refused} new alerts were refused" if self.refused else None
        skew = f"differs by {self.offset:.1f} s from the store's" if abs(self.offset) > _MAX_SKEW else None
        damaged = self._engine.damaged
        skipped = f"{damaged} damaged values of the state were skipped" if damaged else None
        problems = {"engine": hangs, "max_alerts": refused, "clock": skew, "state": skipped}
        return {part: degraded(problem) for part, problem in problems.items() if problem is not None}

    def close(self) -> None:
        """End the thread."""
        self._calls.close()

    @_on_thread
    def step(
        self, batch: Batch, outcomes: Iterable[Outcome], controls: Iterable[Mapping[str, Any]] = ()
    ) -> Step:
        """Pass events and outcomes of notifications to the engine, and return the due notifications.

        Args:
            batch: events, and how many did not fit.
            outcomes: the outcomes of notifications that earlier steps have returned.
            controls: the data of the events of `control.py`.
        """
        engine, now = self._engine, self._now()
        for data in controls:
            self._attempt(apply_control, engine, data, now)
        for alert in self._alerts_of(batch, now):
            self._attempt(engine.observe, [alert], now)
        for notification, error in outcomes:
            if notification.id.startswith(self.id_prefix):
                self._attempt(engine.delivered if error is None else engine.failed, notification, now)
        due: list[Notification] = []
        for _ in range(_MAX_ERRORS):
            if self._attempt(lambda: due.extend(engine.due(now))):
                break
        deadline = engine.next_deadline()
        changes = None
        if self._keeps_changes:
            changes = encode_changes(engine.pop_changes())
        else:
            engine.discard_changes()
        local = None if deadline is None else deadline - self.offset
        return Step(due, engine.pop_suppressed(), local, changes, now)

    async def query(self, function: Callable[[AlertEngine], T]) -> T:
        """Call a function with the engine."""

        async def in_turn() -> T:
            async with self._query_lock:  # so that a step waits for one query at most
                return await self.call(lambda: function(self._engine))

        return await shielded(in_turn())

    @_on_thread
    def reload(self, config: AlertConfig) -> None:
        """Continue with another configuration."""
        self._engine.reload(config, self._now())
        self._use(config)

    @_on_thread
    def skip_waits(self) -> None:
        """Make pending notifications due now, as no other process continues with the state."""
        self._engine.skip_waits(self._now())

    def now(self) -> float:
        """Return the time by the clock of the store, in seconds since 1970."""
        return self._clock.time() + self.offset

    def _now(self) -> float:
        """Return the time. If the clock was set since the last call, the engine's timers move with it."""
        now, started = self.now(), self._clock.time() - self._clock.monotonic()
        jump, self._started = started - self._started, started
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

    def _alerts_of(self, batch: Batch, now: float) -> list[Alert]:
        alerts = []
        for event in batch.events:
            try:
                alert = self._config.label_rules.alert_of(event)
            except Exception as error:  # noqa: BLE001 - data can be anything, and must not affect other events
                _log.warning("event", "event %s cannot become an alert: %s", event.id, describe(error))
            else:
                if alert is not None:
                    alerts.append(not_in_the_future(alert, now))
        if batch.dropped:
            summary = f"sink {self._name} dropped {batch.dropped} events: its buffer was full"
            alerts.append(Alert({**ALERTS_DROPPED, "sink": self._name}, {"summary": summary}, now))
        return alerts

    @_on_thread
    def render(self, notification: Notification, event: Event) -> Event:
        """Return an event with what can be rendered of a notification, for its channel."""
        try:
            message = self._message(notification, self._channels[notification.channel])
            data = notification.to_dict()
        except Exception as error:  # noqa: BLE001 - the alerts have to be sent anyway
            self.unrendered += 1
            text = "sink %s cannot render a notification and sends what it can: %s\n%s"
            _log.warning("render", text, self._name, describe(error), LazyTraceback(error))
            message, data = outline(notification)
        return event.replace(
            data=data,
            type=EventType.ERROR if notification.status is Status.FIRING else EventType.MESSAGE,
            metadata={
                **event.metadata,
                "title": message.title,
                "body": message.body,
                "format": message.format,
                "body_cuts": message.cuts,
                "notify_type": message.type,
                **({} if message.payload is None else {"payload": message.payload}),
                "status": notification.status.value,
                "receiver": notification.receiver,
                "channel": notification.channel,
            },
        )

    def _message(self, notification: Notification, channel: ChannelConfig) -> Message:
        """Render a notification, with the default templates if those of the channel fail."""
        try:
            return self._renderer.message(notification, channel)
        except TemplateError as error:
            self.unrendered += 1
            _log.warning(channel.name, "a template of channel %s failed: %s", channel.name, error)
            message = self._renderer.default(notification, channel)
            body = f"{message.body}\n\n(a template of this channel failed: {error})"
            return Message(message.title, body, message.type, "text", payload=message.payload)


def shielded(work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    """Start a task that is not cancelled together with its caller."""
    task = asyncio.create_task(work)
    task.add_done_callback(retrieve_error)
    return asyncio.shield(task)


def retrieve_error(task: asyncio.Task[Any]) -> None:
    """Mark the error of a task as retrieved, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()


def degraded(problem: str, state: SinkState = SinkState.DEGRADED) -> SinkHealth:
    """Return the health of a part of a sink that does not work."""
    return SinkHealth(state, 0, 0, 0, 0, {}, 0, problem, None, 0.0, 0)
