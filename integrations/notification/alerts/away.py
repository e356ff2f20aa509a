"""`Away`: notifies about the alerts of this process while the store is not available."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.durable.store import StoreUnavailableError
from codomyrmex.integrations.durable.tail import Item
from codomyrmex.integrations.notification.alerts.alert import Alert
from codomyrmex.integrations.notification.alerts.alert_buffer import AlertBuffer, Batch
from codomyrmex.integrations.notification.alerts.channel_dispatcher import Outcome
from codomyrmex.integrations.notification.alerts.config import AlertConfig
from codomyrmex.integrations.notification.alerts.control import (
    ControlSelection,
    alert_event,
    silence_event,
)
from codomyrmex.integrations.notification.alerts.engine import AlertEngine
from codomyrmex.integrations.notification.alerts.engine_runner import EngineRunner, Step
from codomyrmex.integrations.notification.alerts.notification import LogEntry, Notification
from codomyrmex.integrations.notification.alerts.notifier import Parts
from codomyrmex.integrations.notification.alerts.outbox import Outbox
from codomyrmex.integrations.notification.alerts.shared_state import SharedState
from codomyrmex.integrations.notification.alerts.silences import Silence
from codomyrmex.streaming import Event

T = TypeVar("T")

_log = Diagnostics(__name__)


class Away:
    """Runs an engine of its own while the store is not available.

    The engine starts with the last known silences and notification log, and with the alerts that this process
    has published meanwhile. Once the store is available again, these alerts, new silences, and what was sent
    are appended to the log of events.

    Args:
        parts: the parts of the notifier.
        shared: the engine that follows the shared state.
        state: the shared state.
        outbox: appends to the log of events.

    Attributes:
        sent: how many notifications were delivered meanwhile.
    """

    def __init__(self, parts: Parts, shared: EngineRunner, state: SharedState, outbox: Outbox) -> None:
        self.sent = 0
        self._name, self._config, self._clock = parts.name, parts.config, parts.clock
        self._shared = shared
        self._state, self._outbox = state, outbox
        self._times = 0
        self._runner: EngineRunner | None = None
        self._kept = AlertBuffer(parts.config.label_rules, parts.buffer.size, _do_nothing)
        self._controls: list[Mapping[str, Any]] = []  # for the next step
        # What is to be appended once the store is available again.
        self._silences: dict[str, Silence] = {}
        self._alerts: deque[Alert] = deque()  # of events
        self._posted: dict[frozenset[tuple[str, str]], Alert] = {}
        self._log_before: dict[str, LogEntry] = {}

    async def begin(self, buffer: AlertBuffer) -> None:
        """Start with the events of this process that are not in the store."""
        self._times += 1
        runner = EngineRunner(self._config, self._name, self._clock)
        runner.id_prefix, runner.offset = f"away{self._times}.", self._shared.offset
        await runner.restore(await self._shared.state_of({"silence", "log"}))
        self._log_before = await runner.query(lambda engine: engine.log_entries())
        self._runner = runner
        self._controls = self._pending(buffer)
        _log.warning(
            "away", "sink %s: without its store, it notifies about the alerts of this process", self._name
        )

    def _pending(self, buffer: AlertBuffer) -> list[Mapping[str, Any]]:
        """Move the events that wait to be stored to the buffer, and return the data of control events."""
        appender = self._state.stream.runtime.appender
        selection = ControlSelection(self._name, "*", None)
        for entry in () if appender is None else appender.pending():
            try:
                event = selection.event_for(0, Item(0, 0.0, entry))
            except ValueError:
                continue
            if event is not None:
                buffer.put(event)
        return selection.pop()

    async def step(self, buffer: AlertBuffer, outcomes: list[Outcome]) -> Step:
        """Pass the events of this process to the engine, and return what is due."""
        assert self._runner is not None  # noqa: S101 - `begin` was called
        batch = buffer.get_all()
        for event in batch.events:
            self._kept.put(event)
        self.sent += sum(error is None and self.owns(notification) for notification, error in outcomes)
        controls, self._controls = self._controls, []
        return await self._runner.step(batch, outcomes, controls)

    async def end(self, buffer: AlertBuffer) -> None:
        """Append alerts, silences and what was sent to the log, for the process that notifies from now on.

        Raises:
            StoreError: the store is not available again.
        """
        runner = self._runner
        assert runner is not None  # noqa: S101 - `begin` was called
        # The notification log comes first, so that no notification is repeated.
        log = await runner.query(lambda engine: engine.log_entries())
        await self._outbox.add_to_log(
            {key: each for key, each in log.items() if self._log_before.get(key) != each}
        )
        await self._share_alerts()  # those left by a failed attempt
        kept, new = self._kept.get_all(), buffer.get_all()
        self._alerts += await runner.alerts_of(Batch([*kept.events, *new.events], kept.dropped + new.dropped))
        # Items are removed only after they have been appended; others may be added meanwhile.
        while self._silences or self._alerts or self._posted:
            for key, silence in [*self._silences.items()]:
                await self._publish(silence_event(silence))
                if self._silences[key] is silence:
                    del self._silences[key]
            await self._share_alerts()
            posted = dict(self._posted)
            await self._outbox.post([*posted.values()])
            self._posted = {key: each for key, each in self._posted.items() if posted.get(key) is not each}
        self.close()

    async def _share_alerts(self) -> None:
        while self._alerts:
            await self._publish(alert_event(self._alerts[0]))
            self._alerts.popleft()

    async def _publish(self, event: Event) -> None:
        await self._state.stream.publish_to_group(event, self._name)

    async def skip_waits(self) -> None:
        """Make pending notifications due now, as no process would send them later."""
        if self._runner is not None:
            await self._runner.skip_waits()

    def close(self) -> None:
        """End the engine, and log what could not be shared."""
        alerts, silences = len(self._kept) + len(self._alerts) + len(self._posted), len(self._silences)
        if alerts or silences:
            text = "sink %s: the store is not available; not shared with others: alerts: %d, silences: %d"
            _log.warning("unshared", text, self._name, alerts, silences)
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def owns(self, notification: Notification) -> bool:
        """Return whether a notification was made while the store was not available."""
        return self._runner is not None and notification.id.startswith(self._runner.id_prefix)

    async def query(self, function: Callable[[AlertEngine], T]) -> T:
        """Call a function with the engine."""
        return await (self._shared if self._runner is None else self._runner).query(function)

    async def post(self, alerts: Sequence[Alert]) -> None:
        """Update alerts, here at once and in the other processes later.

        Raises:
            StoreUnavailableError: there is no room for more until the store is available again.
        """
        new = {frozenset(alert.labels.items()): alert for alert in alerts}
        if len(self._posted.keys() | new.keys()) > self._kept.size:
            raise StoreUnavailableError(
                f"at most {self._kept.size} posted alerts can wait for the store, which is not available"
            )
        self._posted |= new
        if self._runner is not None:
            await self._runner.observe(alerts)

    async def add_silence(self, silence: Silence) -> None:
        """Add a silence, here at once and in the other processes later."""
        self._silences[silence.id] = silence
        await self.query(lambda engine: engine.add_silence(silence))

    async def reload(self, config: AlertConfig) -> None:
        """Continue with another configuration."""
        self._config = config
        self._kept.rules = config.label_rules
        if self._runner is not None:
            await self._runner.reload(config)

    def problem(self, seconds: float, lease: float, *, sends: bool) -> str | None:
        """Return what does not work while the store is not available; None if it is available.

        Args:
            seconds: for how long the store has not been available.
            lease: seconds after which this process notifies on its own.
            sends: whether this process then notifies on its own.
        """
        if seconds <= lease / 2:
            return None
        error = self._state.stream.runtime.last_error or "it does not answer in time"
        for_how_long = f"the store has not been available for {Duration(round(seconds))}: {error}"
        if not sends:
            return f"{for_how_long}; nothing is sent until it is (when_away: hold)"
        if self._runner is None:
            return f"{for_how_long}; nothing is sent for now"
        return f"{for_how_long}; only alerts of this process are sent, perhaps twice (when_away: send)"


def _do_nothing() -> None:
    """Do nothing: no task waits for the kept events."""
