"""`AlertSink`: a stream's events become alerts, are routed, and are sent to who is to know."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from codomyrmex.integrations.configuration.files import Stamp, stamp_of
from codomyrmex.integrations.configuration.problems import Problem, did_you_mean
from codomyrmex.integrations.configuration.secret import Secret
from codomyrmex.integrations.delivery.errors import DroppedError
from codomyrmex.integrations.delivery.health import SinkHealth
from codomyrmex.integrations.delivery.report import CLOSED, QUEUE_FULL
from codomyrmex.integrations.delivery.seconds import check_seconds
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.delivery.sink import InlineSink, Sink
from codomyrmex.integrations.notification.alerts.audit import Audit
from codomyrmex.integrations.notification.alerts.config import AlertConfig, AlertConfigError, ChannelConfig
from codomyrmex.integrations.notification.alerts.engine import AlertEngine
from codomyrmex.integrations.notification.alerts.explain import Explanation, explain
from codomyrmex.integrations.notification.alerts.intake import Intake
from codomyrmex.integrations.notification.alerts.keeper import Keeper
from codomyrmex.integrations.notification.alerts.loading import load_alert_config
from codomyrmex.integrations.notification.alerts.outbox import Outbox, Outcome
from codomyrmex.integrations.notification.alerts.silences import Silence
from codomyrmex.integrations.notification.alerts.views import GroupView, views_of
from codomyrmex.integrations.notification.daemon_calls import DaemonCalls
from codomyrmex.streaming import Clock, Event, Stream
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.forks import renew_in_children

T = TypeVar("T")
Source = str | os.PathLike[str] | Mapping[str, Any] | AlertConfig

_LOOK_EVERY = 1.0  # seconds between looks at the file and at the silences of others
_TO_SAVE = 1.0  # seconds that a channel waits at most until what it has delivered is saved
_TO_END = 2.0  # seconds to close channels and the state, after the time to deliver

_logger = logging.getLogger(__name__)
_log = Diagnostics(__name__)


class AlertSink(InlineSink):
    """Routes alerts by a configuration, with Alertmanager's semantics, and notifies through channels.

    `async with attach(stream, AlertSink("alerts.yaml")):`. Publishing costs the labels of the event; all
    else happens on a thread of the sink and on the workers of its channels. A storm of one alert takes one
    place. What has no place is dropped, counted, and is itself an alert.

    On the way out what is due is still sent. With `state:` in the configuration, groups that wait are left
    to the next process; without it they are told of at once.

    Args:
        config: a path, YAML text, a mapping, or what `load_alert_config` gave.
        channels: sinks of your own for receivers, by the receiver's name: each gets, beside the channels of
            the file, events whose data are those of Alertmanager's web hook; `title`, `body` and
            `notify_type` are in the metadata.
        clock: where it takes its time from; for tests.
        watch: whether a changed file is loaded anew. One with mistakes changes nothing.
        audit: a stream that gets what the sink decides, as events of the topics `alerts.notified`,
            `alerts.suppressed`, `alerts.failed`, `alerts.reloaded` and `alerts.reload_failed`.
        name: what it is called in reports and logs.
        max_waiting: how many label sets may wait for the engine.
        drain_timeout: seconds to deliver what is due at the end.

    Raises:
        AlertConfigError: the configuration has mistakes; it has all of them, with their places.
        TypeError: a channel is no sink.
    """

    def __init__(
        self,
        config: Source,
        channels: Mapping[str, Sink | Iterable[Sink]] | None = None,
        clock: Clock | None = None,
        watch: bool = True,  # noqa: FBT001, FBT002 - as the issue has it
        *,
        audit: Stream | None = None,
        name: str = "alerts",
        max_waiting: int = 10_000,
        drain_timeout: float = 10.0,
    ) -> None:
        check_seconds("drain_timeout", drain_timeout, zero=True)
        if isinstance(max_waiting, bool) or not isinstance(max_waiting, int) or max_waiting < 1:
            raise ValueError(f"max_waiting is a number from 1 on, not {max_waiting!r}")
        if audit is not None and not isinstance(audit, Stream):
            raise TypeError(f"audit is a stream, not {type(audit).__name__}")
        self.name = name
        self.drain_timeout = drain_timeout + _TO_END
        self._deliver_for = drain_timeout
        self._given = _sinks_by_receiver(channels)
        self._source = config
        self._config, self._own = self._load()
        self._clock = SYSTEM_CLOCK if clock is None else clock
        file = self._config.places.file
        self._file = None if file is None else Path(file)
        self._watch = watch and self._file is not None
        self._stamp = self._file_stamp()
        self._audit = Audit(self, audit)
        self._max_waiting = max_waiting
        self._reset()
        renew_in_children(self)

    def _reset(self) -> None:
        self._intake = Intake(self._config.label_rules, self._max_waiting, self._wake)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._outcomes: list[Outcome] = []
        self._refusing: str | None = None  # why no event is taken any more

    def after_fork(self) -> None:
        """Take nothing in a child process before it is opened there: the thread is the parent's."""
        self._reset()

    def __repr__(self) -> str:
        return f"<AlertSink {self.name}: {len(self._config.receivers)} receivers>"

    @property
    def config(self) -> AlertConfig:
        """The configuration that is in force."""
        return self._config

    # The publisher's way

    def emit(self, event: Event) -> None:
        if self._refusing is not None:
            raise DroppedError(self._refusing)
        if not self._intake.put(event):
            raise DroppedError(QUEUE_FULL)

    def _wake(self) -> None:
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it is closed: nobody waits any more
                loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        if self._news is not None:
            self._news.set()

    # Its life

    async def open(self) -> None:
        """Open the state and the channels, and begin.

        Raises:
            StateError: the state file cannot be used.
            ChannelError: a channel cannot be set up.
            MissingExtraError: Apprise is not installed.
        """
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._news.set()  # for what was taken before, and what the state has
        self._turn, self._change = asyncio.Lock(), asyncio.Lock()
        self._calls = DaemonCalls(f"alerts {self.name}", 1)
        self._outbox = Outbox(self._concluded, self._saved, self._clock)
        self._keeper = Keeper(self._config, self.name)
        self._deadline: float | None = None
        self._refusing = None
        try:
            await self._in_thread(self._keeper.open, self._clock.time())
            await self._outbox.open(self._config, self._own)
        except BaseException:
            self._refusing = "not_open"
            await _go_on(self._leave())
            raise
        self._look_at = self._clock.monotonic() + _LOOK_EVERY
        self._task = asyncio.create_task(self._run(), name=f"alerts {self.name}")

    async def close(self) -> None:
        self._refusing = CLOSED
        task, self._task = self._task, None
        if task is None:
            return
        try:
            self._look()
            await asyncio.wait({task})
            async with self._change:  # a reload that is under way
                await self._drain()
        finally:
            task.cancel()
            await _go_on(self._end())

    async def _drain(self) -> None:
        now = self._clock.monotonic
        end = now() + self._deliver_for
        await self._step()  # what was taken since the last one waits for nothing either
        await self._step()  # what was taken since the last one waits for nothing either
        await self._in_thread(self._keeper.hurry, self._clock.time())
        await self._step()
        # Half of the time is for further attempts, and for who takes over from receivers that were not
        # reached; then each channel makes its last attempt.
        while self._outbox.is_busy and (left := end - self._deliver_for / 2 - now()) > 0:
            await self._outbox.flush(left)
            await self._step()
        await self._outbox.close(max(end - now(), 0.0))

    async def _end(self) -> None:
        """Note what became of the last notifications, and leave."""
        try:
            await self._outbox.close(0)
            await self._step()
        finally:
            await self._leave()

    async def _leave(self) -> None:
        try:
            await self._in_thread(self._keeper.close)
        finally:
            self._calls.close()

    async def _run(self) -> None:
        while self._refusing is None:
            await self._wait()
            try:
                if self._clock.monotonic() >= self._look_at:
                    self._look_at = self._clock.monotonic() + _LOOK_EVERY
                    await self._look_around()
                await self._step()
            except Exception as error:  # noqa: BLE001 - a mistake of ours must not end the alerts for good
                self._deadline = None  # after a pause
                _log.warning("step", "sink %s made a mistake: %s", self.name, describe(error), error=error)

    async def _wait(self) -> None:
        """Wait for news, a deadline, or the next look at the file."""
        assert self._news is not None  # noqa: S101 - it runs
        wait = self._look_at - self._clock.monotonic()
        if self._deadline is not None:
            wait = min(wait, self._deadline - self._clock.time())
        if wait > 0 and not self._news.is_set():
            timer = self._clock.call_later(wait, self._look)
            try:
                await self._news.wait()
            finally:
                timer.cancel()
        self._news.clear()

    async def _step(self) -> None:
        """Let the engine take in what came, send what is due, and tell what was decided."""
        outcomes, self._outcomes = self._outcomes, []
        taken = self._intake.take()
        work = await self._in_thread(self._keeper.step, taken, outcomes, self._clock.time())
        self._deadline = work.deadline
        for notification, event in work.sendings:
            self._outbox.send(notification, event)
        for suppressed in work.suppressed:
            self._audit.suppressed(suppressed)

    def _concluded(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._audit.concluded(outcome)
        self._look()

    async def _saved(self) -> None:
        """Wait until what was delivered is saved: so a process that is killed repeats one at most."""
        if self._config.state is not None:
            task = asyncio.create_task(self._step())
            task.add_done_callback(_look_at_error)
            await asyncio.wait({task}, timeout=_TO_SAVE)

    async def _in_thread(self, call: Callable[..., T], *args: Any) -> T:
        """Make a call on the sink's thread, one after another; it is not cut off with its caller."""

        async def run() -> T:
            async with self._turn:
                return await self._calls.run(call, *args)

        return await _go_on(run())

    # The configuration

    def _load(self) -> tuple[AlertConfig, dict[str, Sink]]:
        source = self._source
        config = source if isinstance(source, AlertConfig) else load_alert_config(source)
        return _with_channels(config, self._given)

    def _load_again(self) -> tuple[AlertConfig, dict[str, Sink]]:
        config, own = self._load()
        if config.state != self._config.state:
            message = "the state file cannot be changed while it is in use; start anew for that"
            raise AlertConfigError([Problem(message, "state", config.places.file, config.line("state"))])
        return config, own

    def _file_stamp(self) -> Stamp | None:
        if not self._watch or self._file is None:
            return None
        return stamp_of(self._file)  # None while it is being replaced: the old configuration stays

    async def _look_around(self) -> None:
        if await self._in_thread(self._keeper.look_for_silences):
            self._look()
        if self._file_stamp() not in {None, self._stamp} and not self._change.locked():
            # Not waited for: a channel that goes may take its time.
            self._reloading = asyncio.create_task(self._reload())
            self._reloading.add_done_callback(_look_at_error)  # told where it happened

    async def reload(self) -> None:
        """Load the configuration anew: groups that it still has keep their timers.

        Raises:
            AlertConfigError: it has mistakes; the old one stays in force.
            Exception: what a channel has raised that cannot be opened; as above.
            RuntimeError: the sink is not open.
        """
        self._check_open()
        await _go_on(self._reload())

    async def _reload(self) -> None:
        async with self._change:
            self._check_open()
            await self._load_and_change()

    async def _load_and_change(self) -> None:
        self._stamp = self._file_stamp()
        try:
            config, own = await self._in_thread(self._load_again)
            await self._outbox.change(config, own)
            await self._in_thread(self._keeper.reload, config, self._clock.time())
        except Exception as error:
            said = describe(error)
            _logger.warning("sink %s keeps its configuration, the new one has mistakes: %s", self.name, said)
            self._audit.reload_failed(error)
            raise
        self._config, self._own = config, own
        self._intake.rules = config.label_rules
        self._audit.reloaded(config)
        self._look()

    # What it knows

    async def flush(self) -> None:
        """Wait until all that was published before is with the engine, and what is due with the channels."""
        self._check_open()
        await _go_on(self._step())

    async def explain(self, labels: Mapping[str, str]) -> Explanation:
        """Explain where an alert with these labels goes now, and why.

        Args:
            labels: the labels.
        """
        now = self._clock.time()
        return await self._ask(lambda engine: explain(engine.config, labels, now, engine))

    async def groups(self) -> list[GroupView]:
        """Give the groups as they are now."""
        now = self._clock.time()
        return await self._ask(lambda engine: views_of(engine, now))

    async def silences(self) -> list[Silence]:
        """Give the silences, those that have expired too, for five days."""
        return await self._ask(lambda engine: list(engine.silences.values()))

    async def add_silence(self, silence: Silence) -> None:
        """Add a silence, or put it in the place of the one with its id."""
        await self._ask(lambda engine: engine.add_silence(silence))

    async def expire_silence(self, silence_id: str) -> None:
        """End a silence now.

        Raises:
            KeyError: there is none with this id.
        """
        now = self._clock.time()
        await self._ask(lambda engine: engine.expire_silence(silence_id, now))

    def health(self) -> Mapping[str, SinkHealth]:
        """Tell how each channel is."""
        return {} if self._task is None else self._outbox.health()

    async def _ask(self, question: Callable[[AlertEngine], T]) -> T:
        self._check_open()
        return await self._in_thread(self._keeper.ask, question)

    def _check_open(self) -> None:
        if self._task is None:
            raise RuntimeError(f"the sink {self.name} is not open; attach it first")


def _go_on(work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    """Do something that is not cut off with who waits for it."""
    task = asyncio.create_task(work)
    task.add_done_callback(_look_at_error)
    return asyncio.shield(task)


def _look_at_error(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # else asyncio complains where nobody waits any more


def _sinks_by_receiver(channels: Mapping[str, Sink | Iterable[Sink]] | None) -> dict[str, list[Sink]]:
    given: dict[str, list[Sink]] = {}
    for receiver, sinks in (channels or {}).items():
        given[receiver] = [sinks] if isinstance(sinks, Sink) else list(sinks)
        for sink in given[receiver]:
            if not isinstance(sink, Sink):
                raise TypeError(f"a channel of {receiver} is a Sink, not {type(sink).__name__}")
    return given


def _with_channels(
    config: AlertConfig, given: Mapping[str, list[Sink]]
) -> tuple[AlertConfig, dict[str, Sink]]:
    """Add the application's sinks to the channels of their receivers."""
    receivers = dict(config.receivers)
    own: dict[str, Sink] = {}
    for name, sinks in given.items():
        receiver = receivers.get(name)
        if receiver is None:
            near = did_you_mean(name, receivers)
            message = f"channels are given for a receiver {name!r}, which there is not{near}"
            raise AlertConfigError([Problem(message, "receivers", config.places.file)])
        first = len(receiver.channels)
        added = [
            ChannelConfig(f"{name}[{first + number}]", Secret(), rate_limit=receiver.rate_limit)
            for number in range(len(sinks))
        ]
        own |= {channel.name: sink for channel, sink in zip(added, sinks, strict=True)}
        receivers[name] = replace(receiver, channels=(*receiver.channels, *added))
    return replace(config, receivers=receivers), own
