"""What an alert sink does on its own thread: the engine, its state file, and the wording."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.notification.alerts.alert import Alert
from codomyrmex.integrations.notification.alerts.config import AlertConfig, ChannelConfig
from codomyrmex.integrations.notification.alerts.desk import Suppressed
from codomyrmex.integrations.notification.alerts.engine import DROPPED, AlertEngine
from codomyrmex.integrations.notification.alerts.intake import Taken
from codomyrmex.integrations.notification.alerts.messages import Wording, notify_type
from codomyrmex.integrations.notification.alerts.notification import Notification, Status
from codomyrmex.integrations.notification.alerts.outbox import Outcome
from codomyrmex.integrations.notification.alerts.state import StateError, StateFile
from codomyrmex.integrations.notification.templates import TemplateError
from codomyrmex.integrations.notification.wording import Message
from codomyrmex.streaming import Event, EventType, create_event
from codomyrmex.streaming.diagnostics import Diagnostics

T = TypeVar("T")

_log = Diagnostics(__name__)


@dataclass(slots=True)
class Work:
    """What comes of a step.

    Args:
        sendings: what is to be sent, with the event for its channel.
        suppressed: what was kept back.
        deadline: when there is something to do next, in seconds since 1970.
    """

    sendings: list[tuple[Notification, Event]] = field(default_factory=list)
    suppressed: list[Suppressed] = field(default_factory=list)
    deadline: float | None = None


class Keeper:
    """Owns the engine and its state file. All of it runs on one thread, one call after another.

    Args:
        config: the configuration.
        name: the name of the sink.
    """

    def __init__(self, config: AlertConfig, name: str) -> None:
        self._name = name
        self._unsaved: dict[tuple[str, str], Any] = {}
        self._file: StateFile | None = None
        self._use(config)

    def open(self, now: float) -> None:
        """Go on with what is in the state file.

        Args:
            now: the moment, in seconds since 1970.

        Raises:
            StateError: the state file cannot be used.
        """
        path = self._config.state
        if path is None:
            self.engine = AlertEngine(self._config)
            return
        file = StateFile(path)
        try:
            file.claim()
            file.changed_by_others()  # from here on
            self.engine = self._engine(path, file.load())
        except BaseException:
            file.close()
            raise
        self.engine.resume(now)
        self._file = file

    def _engine(self, path: Path, state: Mapping[tuple[str, str], Any]) -> AlertEngine:
        try:
            return AlertEngine(self._config, state)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            message = f"the state file {path} is damaged, {said}; move it away to begin anew"
            raise StateError(message) from error

    def _use(self, config: AlertConfig) -> None:
        self._config = config
        self._wording = Wording(config)
        receivers = config.receivers.values()
        self._channels = {channel.name: channel for each in receivers for channel in each.channels}

    def step(self, taken: Taken, outcomes: Iterable[Outcome], now: float) -> Work:
        """Take in what happened, and give what is to be done.

        Args:
            taken: the events.
            outcomes: what became of notifications.
            now: the moment, in seconds since 1970.
        """
        engine = self.engine
        alerts = list(self._alerts(taken.events))
        if taken.dropped:
            alerts.append(self._dropped(taken.dropped, now))
        engine.observe(alerts, now)
        for notification, error in outcomes:
            (engine.delivered if error is None else engine.failed)(notification, now)
        due = engine.due(now)
        # Saved before it is sent: what fires is known to the next process even if this one ends here.
        self._save()
        sendings = [sending for each in due if (sending := self._sending(each, now)) is not None]
        return Work(sendings, engine.take_suppressed(), engine.next_deadline())

    def _alerts(self, events: Iterable[Event]) -> Iterator[Alert]:
        for event in events:
            try:
                alert = self._config.label_rules.alert_of(event)
            except Exception as error:  # noqa: BLE001 - payloads can be anything; the others go on
                _log.warning("event", "event %s makes no alert: %s", event.id, describe(error))
            else:
                if alert is not None:
                    yield alert

    def _dropped(self, count: int, now: float) -> Alert:
        summary = f"the sink {self._name} had no place for {count} events with labels of their own"
        return Alert({**DROPPED, "sink": self._name}, {"summary": summary}, now)

    def _save(self) -> None:
        if self._file is None:
            self.engine.forget_changes()
            return
        self._unsaved.update(self.engine.take_changes())
        if not self._unsaved:
            return
        try:
            self._file.save(self._unsaved)
            self._unsaved = {}
        except StateError as error:  # kept for the next time
            _log.warning("save", "sink %s goes on without saving its state: %s", self._name, error)

    def _sending(self, notification: Notification, now: float) -> tuple[Notification, Event] | None:
        try:
            return notification, self._event(notification)
        except Exception as error:  # noqa: BLE001 - one that cannot be worded must not hold up the others
            _log.warning("wording", "sink %s cannot word a notification", self._name, error=error)
            self.engine.failed(notification, now)
            return None

    def _event(self, notification: Notification) -> Event:
        message = self._message(notification, self._channels[notification.channel])
        return create_event(
            notification.to_dict(),
            EventType.ERROR if notification.status is Status.FIRING else EventType.MESSAGE,
            title=message.title,
            body=message.body,
            format=message.format,
            notify_type=message.type,
            status=notification.status.value,
            receiver=notification.receiver,
            channel=notification.channel,
        )

    def _message(self, notification: Notification, channel: ChannelConfig) -> Message:
        """Word a notification; by default where a template fails, as no message would be worse."""
        try:
            return self._wording.message(notification, channel)
        except TemplateError as error:
            _log.warning(channel.name, "a template of channel %s failed: %s", channel.name, error)
            plain = ChannelConfig(channel.name, channel.url)
            message = self._wording.message(notification, plain)
            body = f"{message.body}\n\n(a template of this channel failed: {error})"
            return Message(message.title, body, notify_type(notification), "text")

    def reload(self, config: AlertConfig, now: float) -> None:
        """Go on with another configuration."""
        self.engine.reload(config, now)
        self._use(config)
        self._save()

    def look_for_silences(self) -> bool:
        """Take over the silences that another process has set; tell whether there was anything."""
        try:
            if self._file is None or not self._file.changed_by_others():
                return False
            there = self._file.silences()
        except StateError as error:
            _log.warning("silences", "sink %s sees no silences of others: %s", self._name, error)
            return False
        for silence in there:
            if self.engine.silences.get(silence.id) != silence:
                self.engine.add_silence(silence)
        return True

    def ask(self, question: Callable[[AlertEngine], T]) -> T:
        """Ask the engine something, and save what changed."""
        answer = question(self.engine)
        self._save()
        return answer

    def hurry(self, now: float) -> None:
        """At the end of a sink that keeps no state: what waits to be told of is told now."""
        if self._file is None:
            self.engine.hurry(now)

    def close(self) -> None:
        """Save what is not saved yet, and close the state file."""
        if self._file is not None:
            self._save()
            self._file.close()
