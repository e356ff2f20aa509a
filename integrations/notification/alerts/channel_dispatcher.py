"""`ChannelDispatcher`: sends notifications through channels, each with its own queue and worker."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from codomyrmex.integrations.delivery.attachment import attach
from codomyrmex.integrations.delivery.dead_letters import letter_of
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.errors import PartialDeliveryError
from codomyrmex.integrations.delivery.health import SinkHealth
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.delivery.sink import Binding, Sink
from codomyrmex.integrations.notification.alerts.config import AlertConfig
from codomyrmex.integrations.notification.alerts.integration_counts import IntegrationCounts
from codomyrmex.integrations.notification.alerts.notification import Notification
from codomyrmex.integrations.notification.channels import ApplicationChannel, ChannelConfig
from codomyrmex.streaming import Clock, Event, InMemoryStream, create_event
from codomyrmex.streaming.provenance import LOGS, cause

_log = Diagnostics(__name__)

_QUEUE_SIZE = 10_000  # notifications per channel
_TIMEOUT_MARGIN = 5.0  # seconds beyond the timeout of the channel itself
_REMOVAL_TIMEOUT = 5.0  # seconds to deliver the queue of a channel that the configuration no longer has
_POLICY = DeliveryPolicy(
    queue_size=_QUEUE_SIZE,
    batch_size=1,
    batch_age=0,
    max_attempts=4,
    backoff_initial=1,
    backoff_max=15,
    max_elapsed=120,
)


class Outcome(NamedTuple):
    """The outcome of a notification; `error` is None if it was delivered."""

    notification: Notification
    error: str | None


class ChannelDispatcher:
    """Sends notifications through channels, and calls `on_outcome` with the outcome of each.

    `create` creates the sink of a channel. A channel calls `may_send` before each attempt, and drops a
    notification that another process is to send. It awaits `render` for the event to send and, after each
    delivery, `wait_until_saved`.

    Attributes:
        counts: how many notifications each type of channel has sent.
    """

    def __init__(
        self,
        on_outcome: Callable[[Outcome], None],
        may_send: Callable[[Notification], bool],
        render: Callable[[Notification, Event], Awaitable[Event]],
        wait_until_saved: Callable[[], Awaitable[None]],
        create: Callable[[ChannelConfig], Sink],
        clock: Clock,
    ) -> None:
        self._on_outcome = on_outcome
        self._may_send = may_send
        self._render = render
        self._wait_until_saved = wait_until_saved
        self._create = create
        self._channels: dict[str, ChannelConfig] = {}
        self._changing: set[str] = set()  # channels that are being opened or replaced
        self._missing_reason = "the channel was removed from the configuration"
        self._in_flight: dict[str, tuple[Notification, Event]] = {}  # by the id of the event
        self._in_flight_of: Counter[str] = Counter()  # by the name of the channel
        self.counts = IntegrationCounts()
        self._stream = InMemoryStream(buffer_size=1)
        self._dead_letters = InMemoryStream(buffer_size=1)
        self._attachment = attach(self._stream, dead_letters=self._dead_letters, clock=clock)

    async def open(self, config: AlertConfig) -> None:
        """Open the channels of a configuration, or raise the error of one that cannot be opened."""
        self.counts.use(channels_of(config).values())
        self._attachment.on_attempt(self.counts.attempted)
        await self._dead_letters.subscribe(self._handle_dead_letter)
        await self._attachment.start()
        try:
            for channel in channels_of(config).values():
                await self._add(channel)
        except BaseException:
            await self.close(0)
            raise

    async def reload(self, config: AlertConfig) -> None:
        """Continue with the channels of another configuration; if one cannot be opened, nothing changes.

        A notification that a channel does not deliver in time is sent through its replacement.
        """
        channels, previous = channels_of(config), dict(self._channels)
        changed = {name for name, channel in channels.items() if channel != previous.get(name)}
        for name in changed:
            await self._check_opens(channels[name])
        self._changing = changed
        self.counts.use(channels.values())
        try:
            await self._remove_all_but(channels)
            for name in changed:
                await self._add(channels[name])
        except BaseException:
            await self._remove_all_but(previous)
            for name in previous.keys() - self._channels.keys():
                try:
                    await self._add(previous[name])
                except Exception as error:  # noqa: BLE001 - it must not affect other channels
                    _log.warning("reopen", "channel %s cannot be reopened: %s", name, describe(error))
            raise
        finally:
            self._changing = set()
            for notification, event in list(self._in_flight.values()):
                if notification.channel in changed or notification.channel not in self._channels:
                    self._send(notification, event)

    async def _remove_all_but(self, channels: Mapping[str, ChannelConfig]) -> None:
        names = [name for name, channel in self._channels.items() if channel != channels.get(name)]
        for name in names:
            del self._channels[name]
        await asyncio.gather(*(self._attachment.remove(name, _REMOVAL_TIMEOUT) for name in names))

    async def _check_opens(self, channel: ChannelConfig) -> None:
        """Open and close a channel of the file, so that an error is raised before anything changes."""
        if isinstance(channel, ApplicationChannel):
            return  # its sink may be open already
        sink = self._create(channel)
        try:
            await sink.open()
        finally:
            await sink.close()

    async def _add(self, channel: ChannelConfig) -> None:
        sink = _ReportingSink(
            self._create(channel),
            channel.name,
            self._prepare,
            self._handle_delivered,
            self.counts.failed_with,
        )
        policy = replace(_POLICY, timeout=channel.timeout + _TIMEOUT_MARGIN)
        await self._attachment.add(Binding(sink, topic=_topic(channel.name), policy=policy))
        self._channels[channel.name] = channel

    def send(self, notification: Notification) -> None:
        """Queue a notification for its channel."""
        self._send(notification, create_event(None, topic=_topic(notification.channel)))

    def _send(self, notification: Notification, event: Event) -> None:
        name = notification.channel
        if event.id not in self._in_flight:
            self._in_flight[event.id] = notification, event
            self._in_flight_of[name] += 1
        if name in self._changing:
            return  # `reload` sends it through the new channel
        if name not in self._channels:
            self._conclude(event.id, self._missing_reason)
            return
        if self._in_flight_of[name] > _QUEUE_SIZE:
            self._conclude(event.id, f"the queue of the channel is full: {_QUEUE_SIZE} notifications")
            return
        # Log lines about a notification must not become alerts.
        token = cause.set(LOGS)
        try:
            self._stream.publish_nowait(event)
        finally:
            cause.reset(token)

    @property
    def is_busy(self) -> bool:
        """Whether any notification is in flight."""
        return bool(self._in_flight)

    async def flush(self, timeout: float) -> None:  # noqa: ASYNC109 - a deadline
        """Wait for the outcome of notifications in flight, at most `timeout` seconds."""
        await self._attachment.flush(timeout)

    def health(self) -> Mapping[str, SinkHealth]:
        """Return the health of each channel."""
        return self._attachment.health()

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - a deadline
        """Deliver what is queued within `timeout` seconds, and close the channels."""
        self._channels, self._missing_reason = {}, "the sink was closed before the delivery"
        await self._attachment.aclose(timeout)
        for event_id in list(self._in_flight):
            self._conclude(event_id, self._missing_reason)

    async def _prepare(self, events: Sequence[Event]) -> list[Event]:
        """Return the rendered events that may be sent, and drop the others."""
        prepared = []
        for event in events:
            notification, _ = self._in_flight.get(event.id, (None, None))
            if notification is None:
                continue
            rendered = await self._render(notification, event)
            if self._may_send(notification):
                prepared.append(rendered)
            else:
                self._forget(event.id)
        return prepared

    def _forget(self, event_id: str) -> Notification:
        notification, _ = self._in_flight.pop(event_id)
        self._in_flight_of[notification.channel] -= 1
        return notification

    async def _handle_delivered(self, events: Sequence[Event]) -> None:
        for event in events:
            self._conclude(event.id, None)
        if events:
            await self._wait_until_saved()

    def _handle_dead_letter(self, event: Event) -> None:
        letter = letter_of(event)
        if letter is not None:
            self._conclude(letter.event.id, letter.reason)

    def _conclude(self, event_id: str, error: str | None) -> None:
        if event_id in self._in_flight:
            notification = self._forget(event_id)
            self.counts.concluded(notification.channel, failed=error is not None)
            self._on_outcome(Outcome(notification, error))


class _ReportingSink(Sink):
    """Prepares the events that a channel sends, and reports those that it has delivered."""

    def __init__(
        self,
        channel: Sink,
        name: str,
        prepare: Callable[[Sequence[Event]], Awaitable[list[Event]]],
        on_delivered: Callable[[Sequence[Event]], Awaitable[None]],
        on_failed: Callable[[str, str], None],
    ) -> None:
        self.name = name
        self._channel = channel
        self._prepare = prepare
        self._on_delivered = on_delivered
        self._on_failed = on_failed

    async def open(self) -> None:
        await self._channel.open()

    async def send(self, events: Sequence[Event]) -> None:
        events = await self._prepare(events)
        if not events:
            return
        try:
            await self._channel.send(events)
        except PartialDeliveryError as error:
            for reason in error.failed.values():
                self._on_failed(self.name, type(reason).__name__)
            await self._on_delivered([event for event in events if event.id not in error.failed])
            raise
        await self._on_delivered(events)

    async def close(self) -> None:
        await self._channel.close()


def channels_of(config: AlertConfig) -> dict[str, ChannelConfig]:
    """Return all channels of a configuration by their names."""
    return {channel.name: channel for each in config.receivers.values() for channel in each.channels}


def _topic(name: str) -> str:
    """Return a topic for a channel, whose name may contain any characters."""
    return f"channel.{name.encode().hex()}"
