"""What the live page shows besides events: topics, sinks, breakers, alerts, silences, notifications."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.health import SinkHealth
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.durable import DurableStream, ProcessInfo
from codomyrmex.integrations.durable.entries import LogEntry
from codomyrmex.integrations.web import paging
from codomyrmex.integrations.web.alert_sections import find_groups, find_silences, show_alerts
from codomyrmex.integrations.web.breaker_history import BreakerHistory
from codomyrmex.integrations.web.health import HasHealth
from codomyrmex.integrations.web.processes import (
    ProcessReports,
    pending,
    show_problems,
    show_processes,
    show_sinks,
)
from codomyrmex.integrations.web.recent import RecentEvents
from codomyrmex.streaming import Clock, Event, InMemoryStream, Stream, Subscription
from codomyrmex.streaming.encoding import to_json

if TYPE_CHECKING:
    from codomyrmex.integrations.notification import AlertSink, Matcher, Silence
    from codomyrmex.integrations.notification.alerts.views import GroupView
    from codomyrmex.integrations.service_mesh import BreakerStatus

    _Alerts = tuple[list[GroupView], list[Silence]]

T = TypeVar("T")

ALERTS_TIMEOUT = 2.0  # seconds
_MAX_AGE = 0.5  # seconds for which pages share a snapshot
_IDLE_FACTOR = 10.0  # the pause after a snapshot, relative to the time it took
_MAX_EXPLANATIONS = 200  # kept
_MAX_WAITING = 20  # requests for explanations
_MAX_BREAKERS = 200
_MAX_NOTIFICATIONS = 100
_AUDIT_WINDOW = 10_000  # entries of a durable audit stream among which notifications are found

_log = Diagnostics(__name__)


class Board(Protocol):
    """An object that knows the state of circuit breakers: a `CircuitBoard`."""

    def snapshot(self) -> Sequence[BreakerStatus]:
        """Return the status of all breakers."""


class BusyError(Exception):
    """Too many requests are waiting."""


class Snapshots:
    """Snapshots of everything but events, shared by all pages that ask at about the same time.

    Args:
        stream: provides its health if it is durable.
        attachment: provides the health of sinks.
        alerts: provides alerts, silences and the health of channels.
        board: provides the status of circuit breakers.
        clock: the clock.

    Attributes:
        history: the recent changes of circuit breakers.
        recent: the newest events, if the stream is durable.
    """

    def __init__(
        self,
        stream: Stream,
        attachment: HasHealth | None,
        alerts: AlertSink | None,
        board: Board | None,
        clock: Clock,
    ) -> None:
        self._stream = stream
        self._attachment = attachment
        self._alerts = alerts
        self._board = board
        self._clock = clock
        self._lock = asyncio.Lock()
        self._latest = b""
        self._due = float("-inf")  # when the next snapshot is taken
        self._taken = float("-inf")  # when the latest was
        self._labels: dict[str, Mapping[str, str]] = {}  # of the alerts in the latest snapshot
        self._problems: dict[str, str] = {}
        self._explaining = asyncio.Lock()
        self._waiting = 0
        self._explanations: OrderedDict[frozenset[tuple[str, str]], tuple[float, dict[str, Any]]]
        self._explanations = OrderedDict()
        self._fetching = asyncio.Lock()
        # Until when the alerts are shared by requests, and the alerts, or why they are not available.
        self._fetched: tuple[float, _Alerts | str] = float("-inf"), ""
        self._changes = 0
        self.history = BreakerHistory()
        self.recent: RecentEvents | None = None
        self._reports: ProcessReports | None = None
        if isinstance(stream, DurableStream):
            self._reports = ProcessReports(stream, attachment, clock)
        self._audit: Stream | None = None
        self._notifications: deque[LogEntry] = deque(maxlen=_MAX_NOTIFICATIONS)

    def watch(self, audit: Stream) -> Subscription:
        """Show the notifications on an audit stream; return the subscription to it."""
        self._audit, shown = audit, self._notifications
        shown.clear()
        if isinstance(audit, DurableStream):
            return audit.subscribe_newest(self._notify, "alerts.*", _AUDIT_WINDOW, records=True)
        recent = [e for e in recent_events(audit, 1_000) if (e.topic or "").startswith("alerts.")]
        shown.extend(LogEntry(0, 0.0, event) for event in recent)
        return audit.subscribe_nowait(lambda event: shown.append(LogEntry(0, 0.0, event)), "alerts.*")

    def _notify(self, entry: LogEntry) -> None:
        shown = self._notifications
        while shown and shown[-1].position >= entry.position:  # the log is read again, as in a child process
            shown.pop()
        shown.append(entry)

    def report(self, title: str, clients: Callable[[], int]) -> None:
        """Report this page to the other processes of a durable stream."""
        if self._reports is not None:
            self._reports.begin(title, clients)

    async def aclose(self) -> None:
        """Report nothing any more."""
        if self._reports is not None:
            await self._reports.aclose()

    async def get(self) -> bytes:
        """Return a recent snapshot as a JSON object; sections without a source are null."""
        async with self._lock:
            started = self._clock.monotonic()
            if started >= self._due:
                self._latest = to_json(await self._create()).encode()
                now = self._taken = self._clock.monotonic()
                # However many pages ask, the sources spend most of their time on other work.
                self._due = now + max(_MAX_AGE, _IDLE_FACTOR * (now - started))
        return self._latest

    def invalidate(self) -> None:
        """Discard the snapshot, so that the next request makes a new one."""
        self._due = float("-inf")
        self._fetched = float("-inf"), ""
        self._changes += 1

    # Alerts, for programs

    @property
    def has_alerts(self) -> bool:
        """Whether there is an alert sink; without one, the methods below must not be called."""
        return self._alerts is not None

    async def find_groups(self, matchers: Iterable[Matcher], state: str, limit: int) -> dict[str, Any]:
        """Return the first groups with alerts that match, as `alert_sections.find_groups` does."""
        groups, silences = await self._recent_alerts()
        now = self._clock.time()
        # On a thread, as there may be many alerts.
        return await asyncio.to_thread(find_groups, groups, silences, now, tuple(matchers), state, limit)

    async def find_silences(self, state: str, limit: int) -> dict[str, Any]:
        """Return the first silences in a state; an empty state means any."""
        _, silences = await self._recent_alerts()
        return find_silences(silences, self._clock.time(), state, limit)

    async def explain(self, fingerprint: str) -> dict[str, Any] | None:
        """Return where an alert is sent and why, or None if it does not exist.

        Raises:
            BusyError: too many explanations have been asked for.
            RuntimeError: the alert sink is not available.
        """
        async with self._explanation():
            if fingerprint not in self._labels and self._clock.monotonic() - self._taken >= _MAX_AGE:
                self.invalidate()  # the alert may be new, and shown by another process
            await self.get()
            if "alerts" in self._problems:
                raise RuntimeError(self._problems["alerts"])
            labels = self._labels.get(fingerprint)
            return None if labels is None else await self._explain(labels)

    async def explain_labels(self, labels: Mapping[str, str]) -> dict[str, Any]:
        """Return where an alert with these labels would be sent and why; errors as for `explain`."""
        async with self._explanation():
            return await self._explain(labels)

    @asynccontextmanager
    async def _explanation(self) -> AsyncIterator[None]:
        if self._waiting >= _MAX_WAITING:
            raise BusyError("too many requests for explanations; try again soon")
        self._waiting += 1
        try:
            async with self._explaining:  # one at a time
                yield
        finally:
            self._waiting -= 1

    async def why_not_notified(
        self, labels: Mapping[str, str], group: str | None, limit: int
    ) -> dict[str, Any]:
        """Return why receivers were not notified about alerts, as `AlertSink.why_not_notified` does.

        Raises:
            BusyError: too many explanations have been asked for.
            RuntimeError: the alert sink is not available.
            ValueError: neither labels nor a group are passed.
        """
        assert self._alerts is not None  # noqa: S101 - checked by the caller
        async with self._explanation():
            found = await run_on_sink_loop(
                self._alerts, lambda alerts: alerts.why_not_notified(labels, group, limit)
            )
            return dict(paging.shown(found.to_dict()))

    async def _explain(self, labels: Mapping[str, str]) -> dict[str, Any]:
        assert self._alerts is not None  # noqa: S101 - checked by the caller
        key = frozenset(labels.items())
        made_at, explanation = self._explanations.get(key, (float("-inf"), {}))
        if self._clock.monotonic() - made_at < _MAX_AGE:
            return explanation
        found = await run_on_sink_loop(self._alerts, lambda alerts: alerts.explain(labels))
        explanation = dict(paging.shown(found.to_dict()))
        self._explanations[key] = (self._clock.monotonic(), explanation)
        if len(self._explanations) > _MAX_EXPLANATIONS:
            self._explanations.popitem(last=False)
        return explanation

    async def _create(self) -> dict[str, Any]:
        problems: dict[str, str] = {}
        sources: dict[str, Callable[[], Awaitable[Any]]] = {
            "store": self._store,
            "processes": self._processes,
            "sinks": self.sinks,
            "breakers": self.breakers,
            "alerts": self._groups,
            "notifications": self._notified,
        }
        sections: dict[str, Any] = {}
        for name, source in sources.items():
            try:
                sections[name] = await source()
            except Exception as error:  # noqa: BLE001 - a failing source must not hide the others
                _log.warning(name, "the state of %s is not available: %s", name, describe(error), error=error)
                sections[name], problems[name] = [], describe(error)
        self._problems = problems
        return {**sections, "problems": problems}

    async def _store(self) -> dict[str, Any] | None:
        if not isinstance(self._stream, DurableStream):
            return None
        health = self._stream.health()
        infos = await self._infos()
        reported = any(info.id == self._stream.owner("process") for info in infos)
        together = health.available and reported
        return {
            "name": self._stream.name,
            "store": health.store,
            "available": health.available,
            "unavailable_for": health.unavailable_for,
            "warnings": health.warnings,
            "pending": pending(infos) if together else health.pending,
            "problems": show_problems(infos) if together else health.problems,
        }

    async def _infos(self) -> list[ProcessInfo]:
        return [] if self._reports is None else await self._reports.get()

    async def _processes(self) -> list[dict[str, Any]] | None:
        return None if self._reports is None else paging.page(show_processes(await self._infos()))

    async def sinks(self) -> list[dict[str, Any]] | None:
        """Return the health of sinks and channels; None if there is no source."""
        if self._reports is not None:
            sinks = show_sinks(await self._infos())
            if not sinks and self._attachment is None and self._alerts is None:
                return None
        elif self._attachment is None and self._alerts is None:
            return None
        else:
            sinks = [] if self._attachment is None else _healths(self._attachment.health(), None)
        if self._alerts is not None:
            sinks += _healths(self._alerts.health(), self._alerts.name)
        return paging.page(sinks)

    async def breakers(self) -> list[dict[str, Any]] | None:
        """Return the status of circuit breakers; None if there is no source."""
        if self._board is None:
            return None
        oldest = float("-inf") if self.recent is None else self.recent.oldest_change()
        return paging.page(
            {
                **status._asdict(),
                "summary": status.summary,
                "history": self.history.get(status.source, status.service, status.breaker, oldest),
            }
            for status in self._board.snapshot()[:_MAX_BREAKERS]
        )

    async def _notified(self) -> list[dict[str, Any]] | None:
        if self._audit is None:
            return None
        shown = tuple(self._notifications)
        if isinstance(self._audit, DurableStream):
            oldest = (self._audit.tail.last or 0) - _AUDIT_WINDOW
            shown = tuple(entry for entry in shown if entry.position > oldest)
        return paging.page(entry.event.to_dict() for entry in reversed(shown))

    async def _groups(self) -> dict[str, Any] | None:
        if self._alerts is None:
            return None
        groups, silences = await self._fetch_alerts(self._alerts)
        self._labels = {alert.fingerprint: alert.labels for view in groups for alert in view.alerts}
        return show_alerts(groups, silences, self._clock.time())

    async def _fetch_alerts(self, sink: AlertSink) -> _Alerts:
        started, changes = self._clock.monotonic(), self._changes
        fetched: _Alerts | str = ""
        pause = _MAX_AGE
        try:
            groups = await run_on_sink_loop(sink, lambda alerts: alerts.groups())
            silences = await run_on_sink_loop(sink, lambda alerts: alerts.silences())
            fetched = groups, silences
            pause = max(_MAX_AGE, _IDLE_FACTOR * (self._clock.monotonic() - started))
        except Exception as error:
            fetched = describe(error)
            raise
        finally:
            if changes == self._changes and fetched:  # otherwise they are out of date already
                self._fetched = self._clock.monotonic() + pause, fetched
        return groups, silences

    async def _recent_alerts(self) -> _Alerts:
        """Return the groups and silences; requests at about the same time share the result or the error."""
        assert self._alerts is not None  # noqa: S101 - checked by the caller
        async with self._fetching:
            due, fetched = self._fetched
            if self._clock.monotonic() >= due:
                return await self._fetch_alerts(self._alerts)
            if not isinstance(fetched, str):
                return fetched
            raise RuntimeError(fetched)


def recent_events(stream: Stream, count: int) -> list[Event]:
    """Return the newest events of a stream, if it keeps those of all topics together."""
    return stream.get_recent_events(count) if isinstance(stream, InMemoryStream) else []


async def run_on_sink_loop(
    alerts: AlertSink,
    call: Callable[[AlertSink], Coroutine[Any, Any, T]],
    timeout: float | None = None,  # noqa: ASYNC109 - of another loop
) -> T:
    """Run a coroutine function with an alert sink on the sink's loop, which may not be the server's.

    Raises:
        RuntimeError: the sink is not open, or does not answer in time.
    """
    seconds = ALERTS_TIMEOUT if timeout is None else timeout
    loop = alerts.loop
    if loop is None or loop.is_closed():
        raise RuntimeError(f"sink {alerts.name}: it is not open; attach it first")
    result: Awaitable[T]
    if loop is asyncio.get_running_loop():
        result = call(alerts)
    else:
        result = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call(alerts), loop))
    try:
        return await asyncio.wait_for(result, seconds)
    except TimeoutError:
        raise RuntimeError(f"sink {alerts.name}: no response within {seconds:g} s") from None


def _healths(healths: Mapping[str, SinkHealth], parent: str | None) -> list[dict[str, Any]]:
    return [{"name": name, "of": parent, **health._asdict()} for name, health in healths.items()]
