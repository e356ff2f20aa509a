"""`AlertSink`: the events of a stream become alerts, which are routed and sent to channels.

An alert passes through these objects, in this order:

1. `AlertSink.emit`, in the publisher's thread: `AlertBuffer.put` keeps it by its labels and wakes the
   notifier. On a durable stream it does nothing, as the event is in the log.
2. `Notifier.step`, on the event loop, passes the buffer to `EngineRunner.step`, on the thread of the sink:
   the engine groups the alerts and returns the notifications that are due, rendered. With a shared state,
   `SharedNotifier.step` appends the buffer to a log instead; the process that holds the lease reads the log,
   and saves the state before it sends what is due.
3. `ChannelDispatcher.send`, on the event loop, queues each notification for the worker of its channel.
4. The worker calls the channel's `send`. The outcome goes back to the engine with the next step.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from codomyrmex.integrations.configuration.durations import check_seconds
from codomyrmex.integrations.delivery.errors import DroppedError
from codomyrmex.integrations.delivery.health import (
    CLOSED,
    NOT_OPEN,
    QUEUE_FULL,
    SinkHealth,
    SinkProblem,
    SinkState,
    worst_problem,
)
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.delivery.sink import InlineSink, Sink
from codomyrmex.integrations.durable.stream import DurableStream
from codomyrmex.integrations.notification.alerts.alert import Alert, posted
from codomyrmex.integrations.notification.alerts.alert_buffer import AlertBuffer
from codomyrmex.integrations.notification.alerts.audit import Audit
from codomyrmex.integrations.notification.alerts.channel_dispatcher import channels_of
from codomyrmex.integrations.notification.alerts.config import AlertConfig, removed_by
from codomyrmex.integrations.notification.alerts.config_source import ConfigSource, ConfigState, Source
from codomyrmex.integrations.notification.alerts.dry_run import DryRunChannel
from codomyrmex.integrations.notification.alerts.engine_runner import retrieve_error, shielded
from codomyrmex.integrations.notification.alerts.notifier import (
    AlertStatistics,
    Notifier,
    NotifierRole,
    Parts,
)
from codomyrmex.integrations.notification.alerts.shared_notifier import SharedNotifier
from codomyrmex.integrations.notification.alerts.shared_state import SharedState, Sharing
from codomyrmex.integrations.notification.alerts.sink_queries import SinkQueries
from codomyrmex.integrations.notification.alerts.state_config import old_state_at, open_log, state_of
from codomyrmex.integrations.notification.channels import ChannelConfig, UndeliverableChannel
from codomyrmex.streaming import Clock, Event, FilterFunction, Stream
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from codomyrmex.streaming.forks import renew_in_children

_CLOSE_TIMEOUT = 2.0  # seconds to close the channels and the state, after the drain timeout

_logger = logging.getLogger(__name__)


class AlertSink(SinkQueries, InlineSink):
    """Routes alerts by a configuration, with Alertmanager's semantics, and notifies through channels.

    `async with attach(stream, AlertSink("alerts.yaml")):`. A publisher only computes the labels of its
    event; everything else happens on a thread of the sink and on the workers of its channels. A storm of
    one alert occupies one entry of the buffer. An event that does not fit is dropped and counted, and is
    itself an alert.

    Attached to a durable stream, or with `state:` in the configuration, all processes share their alerts: one
    of them notifies, and the others stand by. When a sink closes, another process continues; without a shared
    state, what is pending is notified at once.

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
        dry_run: whether to log notifications at the level INFO instead of sending them. They are also
            published to `audit`, as `alerts.would_notify`. A shared state is neither read nor changed.

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
        dry_run: bool = False,
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
        self._config_state = ConfigState(self._source.id, clock.time())
        self._dry_run = dry_run
        self._audit = Audit(self, audit)
        self._attached: tuple[Stream | None, str, FilterFunction | None] = None, "*", None
        self._buffer_size = buffer_size
        self._reset()
        renew_in_children(self)

    def _reset(self) -> None:
        self._buffer = AlertBuffer(self._config.label_rules, self._buffer_size, self._wake)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._notifier: Notifier | None = None
        self._reload_task: asyncio.Task[None] | None = None
        self._refusal: str | None = None  # why events are dropped

    def after_fork(self) -> None:
        """Start empty in a child process: the thread and the tasks are the parent's."""
        self._reset()

    def __repr__(self) -> str:
        dry_run = ", dry run" if self._dry_run else ""
        return f"<AlertSink {self.name}: {len(self._config.receivers)} receivers{dry_run}>"

    @property
    def config(self) -> AlertConfig:
        """The configuration that is in force."""
        return self._config

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that the sink runs on; None while it is not open."""
        return self._loop

    @property
    def role(self) -> NotifierRole | None:
        """What this process does about alerts; None while the sink is not open."""
        return None if self._notifier is None else self._notifier.role

    @property
    def config_state(self) -> ConfigState:
        """Which configuration is in force, and whether the last reload failed."""
        return self._config_state

    def bind(self, stream: Stream, topic: str, filter_fn: FilterFunction | None) -> None:
        self._attached = stream, topic, filter_fn

    # The publisher's thread

    def emit(self, event: Event) -> None:
        if self._refusal is not None:
            raise DroppedError(self._refusal)
        notifier = self._notifier
        if notifier is not None and not notifier.accepts():
            return  # it is in the log
        if not self._buffer.put(event):
            raise DroppedError(QUEUE_FULL)

    def _wake(self) -> None:
        notifier = self._notifier
        if notifier is not None:
            notifier.wake()

    # Opening and closing

    async def open(self) -> None:
        """Open the state and the channels, and start.

        Raises:
            StoreConfigError: the store of the state cannot be used.
            ChannelError: a channel cannot be set up.
            MissingExtraError: Apprise, or the package of the store, is not installed.
        """
        self._loop = asyncio.get_running_loop()
        self._reload_lock = asyncio.Lock()
        self._refusal = None
        for channel in channels_of(self._config).values():
            if isinstance(channel, UndeliverableChannel):
                _logger.warning("sink %s: %s", self.name, channel.reason)
        try:
            notifier = self._make_notifier()
            await notifier.open()
        except BaseException as error:
            self._refusal = NOT_OPEN
            waiting = self._buffer.get_all()
            lost = len(waiting.events) + waiting.dropped
            message = "sink %s could not be opened and sends no notifications (%d events so far): %s"
            _logger.warning(message, self.name, lost, describe(error))
            raise
        self._notifier = notifier

    def _make_notifier(self) -> Notifier:
        parts = Parts(
            self.name,
            self._config,
            self._source.id,
            self._buffer,
            self._audit,
            self._create_channel,
            self._clock,
            self._poll,
        )
        if self._dry_run:
            _logger.info("sink %s: this is a dry run, nothing is sent", self.name)
            return Notifier(parts)
        stream, topic, filter_fn = self._attached
        where = state_of(self._config, shares_stream=isinstance(stream, DurableStream))
        if where is not None:
            log, old_state, topic, filter_fn = open_log(where), old_state_at(where), "*", None
        elif isinstance(stream, DurableStream):
            log, old_state = stream, None
        else:
            return Notifier(parts)
        state = SharedState(log, self.name, topic, filter_fn, self._clock)
        sends_away = self._config.when_away == "send"
        return SharedNotifier(parts, Sharing(state, where is None, log.lease, sends_away, old_state))

    def _create_channel(self, channel: ChannelConfig) -> Sink:
        if self._dry_run and not isinstance(channel, UndeliverableChannel):
            return DryRunChannel(self.name, channel.name, self._audit.would_notify)
        return channel.create()

    async def close(self) -> None:
        self._refusal = CLOSED
        notifier, self._notifier = self._notifier, None
        if notifier is None:
            return
        async with self._reload_lock:  # a reload that is in progress
            await notifier.close(self._delivery_timeout)

    # Reloading

    async def _poll(self) -> None:
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
        self._open_notifier()
        await shielded(self._reload())

    async def _reload(self) -> None:
        async with self._reload_lock:
            notifier = self._open_notifier()
            try:
                config = await notifier.runner.call(self._source.load, self._config)
                await notifier.reload(config, self._source.id)
            except Exception as error:
                message = "sink %s keeps its configuration, as the new one cannot be used: %s"
                _logger.warning(message, self.name, describe(error))
                self._audit.reload_failed(error)
                self._config_state = self._config_state._replace(last_reload_failed=True)
                raise
            removed = removed_by(self._config, config)
            if removed:
                text = "sink %s no longer has these parts of its configuration: %s"
                _logger.warning(text, self.name, ", ".join(removed))
            self._config, self._config_state = config, ConfigState(self._source.id, self._clock.time())
            self._buffer.rules = config.label_rules
            self._audit.reloaded(config, removed)
            notifier.wake()

    async def post(self, alerts: Iterable[Alert]) -> None:
        """Update alerts whose state another program tracks, such as Prometheus.

        The rules are those of Alertmanager's API. An alert without `starts_at` starts now, or at its
        `ends_at` if that is in the past. An alert without `ends_at` is resolved if it is not posted again
        within the `resolve_timeout` of the configuration; with an end in the future, it fires until then.
        While it fires, the earliest start is kept. Labels and annotations with an empty value are removed.

        With a shared state, the same alerts may be posted to any of the processes, or to several of them.

        Args:
            alerts: the alerts. If one of them is invalid, none is updated.

        Raises:
            TypeError: an item is not an alert, or one of its texts is not text.
            ValueError: an alert has no labels, has an impossible time, ends before it starts, or has more
                than 131,072 characters.
            StoreUnavailableError: the store of the shared state is not available, and the configuration says
                `when_away: hold`, or no more alerts can be kept until it is.
            RuntimeError: the sink is not open.
        """
        notifier = self._open_notifier()
        now = notifier.now()
        complete = [posted(alert, now) for alert in alerts]
        if complete:
            await notifier.post(complete)

    def health(self) -> Mapping[str, SinkHealth]:
        """Return the health of each channel; empty while the sink is not open.

        Other parts are there while they do not work: `state` while the shared state is not available,
        `configuration` while the file differs from that of the process that notifies, `clock` if it differs
        from that of the store, `log` after entries were lost, `max_alerts` after alerts were refused, and
        `engine` while a call takes long.
        """
        return {} if self._notifier is None else self._notifier.health()

    def problem(self) -> SinkProblem | None:
        """Return what is worst in `health`."""
        problem = worst_problem(self.health())
        if problem is None and self.role is NotifierRole.STANDBY:
            return SinkProblem(SinkState.STANDBY, None)
        return problem

    def statistics(self) -> AlertStatistics:
        """Return the counts since the sink was opened; it must be open."""
        return self._open_notifier().statistics()

    def _open_notifier(self) -> Notifier:
        if self._notifier is None:
            raise RuntimeError(f"sink {self.name}: it is not open; attach it first")
        return self._notifier
