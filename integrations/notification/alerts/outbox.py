"""The channels of a sink: each with a worker of its own, and what became of each notification."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from codomyrmex.integrations.delivery.attachment import Attachment, attach
from codomyrmex.integrations.delivery.dead_letters import letter_of
from codomyrmex.integrations.delivery.errors import PartialDeliveryError
from codomyrmex.integrations.delivery.health import SinkHealth
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.delivery.sink import Binding, Sink
from codomyrmex.integrations.notification.alerts.config import AlertConfig, ChannelConfig
from codomyrmex.integrations.notification.alerts.notification import Notification
from codomyrmex.integrations.notification.apprise_channel import AppriseChannel
from codomyrmex.streaming import Clock, Event, InMemoryStream
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.provenance import LOGS, cause

_log = Diagnostics(__name__)

_QUEUE = 10_000  # notifications that may wait for one channel
_SLACK = 5.0  # seconds that a channel has beyond its own timeout
_LET_GO = 5.0  # seconds that a channel has to deliver what is queued, once the configuration is without it
_POLICY = DeliveryPolicy(
    queue_size=_QUEUE,
    batch_size=1,
    batch_age=0,
    max_attempts=4,
    backoff_initial=1,
    backoff_max=15,
    max_elapsed=120,
)


class Outcome(NamedTuple):
    """What became of a notification; `error` is None if it was delivered."""

    notification: Notification
    error: str | None


class Outbox:
    """Sends notifications through channels, and tells what became of each.

    Args:
        tell: gets each outcome, on the loop.
        saved: what a channel waits for before it goes on, once it has delivered something.
        clock: what counts the time.
    """

    def __init__(
        self, tell: Callable[[Outcome], None], saved: Callable[[], Awaitable[None]], clock: Clock
    ) -> None:
        self._tell = tell
        self._saved = saved
        self._channels: dict[str, _Channel] = {}
        self._changing: set[str] = set()  # channels that are being opened or replaced
        self._gone = "the channel was taken out of the configuration"
        self._under_way: dict[str, tuple[Notification, Event]] = {}  # by the id of the event
        self._stream = InMemoryStream(buffer_size=1)
        self._dead = InMemoryStream(buffer_size=1)
        self._attachment: Attachment = attach(self._stream, dead_letters=self._dead, clock=clock)

    async def open(self, config: AlertConfig, own: Mapping[str, Sink]) -> None:
        """Open the channels.

        Args:
            config: the configuration.
            own: sinks of the application, by the name of the channel.

        Raises:
            Exception: what a channel has raised that cannot be opened.
        """
        await self._dead.subscribe(self._died)
        await self._attachment.start()
        try:
            for channel in _channels(config, own).values():
                await self._add(channel)
        except BaseException:
            await self.close(0)
            raise

    async def change(self, config: AlertConfig, own: Mapping[str, Sink]) -> None:
        """Go on with the channels of another configuration; if one cannot be opened, nothing changes.

        What a channel does not deliver in time goes through the one that takes its place.

        Args:
            config: the configuration.
            own: sinks of the application, by the name of the channel.

        Raises:
            Exception: what the channel has raised.
        """
        wanted, before = _channels(config, own), dict(self._channels)
        for name, channel in wanted.items():
            if channel.own is None and channel != before.get(name):  # tried before anything is changed
                probe = _apprise(channel.config)
                try:
                    await probe.open()
                finally:
                    await probe.close()
        self._changing = {name for name, channel in wanted.items() if channel != before.get(name)}
        try:
            await self._remove_others(wanted)
            for name in self._changing:
                await self._add(wanted[name])
        except BaseException:
            await self._remove_others(before)
            for name in before.keys() - self._channels.keys():
                try:
                    await self._add(before[name])
                except Exception as error:  # noqa: BLE001 - the others are to work at least
                    _log.warning("back", "channel %s cannot be opened again: %s", name, describe(error))
            raise
        finally:
            changed, self._changing = self._changing, set()
            for notification, event in list(self._under_way.values()):
                if notification.channel in changed or notification.channel not in self._channels:
                    self.send(notification, event)

    async def _remove_others(self, wanted: Mapping[str, _Channel]) -> None:
        gone = [name for name, channel in self._channels.items() if channel != wanted.get(name)]
        for name in gone:
            del self._channels[name]
        await asyncio.gather(*(self._attachment.remove(name, _LET_GO) for name in gone))

    async def _add(self, channel: _Channel) -> None:
        name = channel.config.name
        policy = replace(_POLICY, timeout=channel.config.timeout + _SLACK)
        sink = _Reporting(channel.own or _apprise(channel.config), name, self._delivered)
        await self._attachment.add(Binding(sink, topic=_topic(name), policy=policy))
        self._channels[name] = channel

    def send(self, notification: Notification, event: Event) -> None:
        """Queue a notification for its channel.

        Args:
            notification: what it is about.
            event: what the channel gets.
        """
        self._under_way[event.id] = notification, event
        name = notification.channel
        if name in self._changing:
            return  # it waits for the channel that is to come
        if name not in self._channels:
            self._conclude(event.id, self._gone)
            return
        if self._attachment.health()[name].queued >= _QUEUE:
            self._conclude(event.id, f"{_QUEUE} notifications wait for it")
            return
        event.metadata["topic"] = _topic(name)
        # What is logged while somebody is told of an alert must not become the next alert.
        token = cause.set(LOGS)
        try:
            self._stream.publish_nowait(event)
        finally:
            cause.reset(token)

    @property
    def is_busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._under_way)

    async def flush(self, timeout: float) -> None:  # noqa: ASYNC109 - a deadline
        """Wait until what was sent is delivered or given up, at most so many seconds."""
        await self._attachment.flush(timeout)

    def health(self) -> Mapping[str, SinkHealth]:
        """Tell how each channel is."""
        return self._attachment.health()

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - a deadline
        """Deliver what is queued within so many seconds, and close the channels."""
        self._channels, self._gone = {}, "the sink was closed before it was delivered"
        await self._attachment.aclose(timeout)
        for key in list(self._under_way):
            self._conclude(key, self._gone)

    async def _delivered(self, events: Sequence[Event]) -> None:
        if not events:
            return
        for event in events:
            self._conclude(event.id, None)
        await self._saved()

    def _died(self, event: Event) -> None:
        letter = letter_of(event)
        if letter is not None:
            self._conclude(letter.event.id, letter.reason)

    def _conclude(self, key: str, error: str | None) -> None:
        found = self._under_way.pop(key, None)
        if found is not None:
            self._tell(Outcome(found[0], error))


class _Channel(NamedTuple):
    """A channel as it is configured, and the sink of the application that it is, if it is one."""

    config: ChannelConfig
    own: Sink | None


def _channels(config: AlertConfig, own: Mapping[str, Sink]) -> dict[str, _Channel]:
    every = [channel for receiver in config.receivers.values() for channel in receiver.channels]
    return {channel.name: _Channel(channel, own.get(channel.name)) for channel in every}


class _Reporting(Sink):
    """A channel that says what it has delivered."""

    def __init__(
        self, inner: Sink, name: str, delivered: Callable[[Sequence[Event]], Awaitable[None]]
    ) -> None:
        self.name = name
        self._inner = inner
        self._delivered = delivered

    async def open(self) -> None:
        await self._inner.open()

    async def send(self, events: Sequence[Event]) -> None:
        try:
            await self._inner.send(events)
        except PartialDeliveryError as error:
            await self._delivered([event for event in events if event.id not in error.failed])
            raise
        await self._delivered(events)

    async def close(self) -> None:
        await self._inner.close()


def _apprise(channel: ChannelConfig) -> AppriseChannel:
    url = channel.url.replace("${", "$${")  # it is filled in already
    return AppriseChannel(channel.name, url, tags=channel.tags, timeout=channel.timeout)


def _topic(name: str) -> str:
    """Give a topic for a channel: a token, as names may have anything in them."""
    return f"channel.{name.encode().hex()}"
